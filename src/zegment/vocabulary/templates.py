"""Named sets of sentences that class names are put into."""

from collections.abc import Iterator, Mapping

_SINGLE = ("a photo of a {}",)
_ZEGCLIP15 = (
    "a photo of a {}.",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "a {} in the scene.",
    "a photo of a {} in the scene.",
    "There is a {} in the scene.",
    "There is the {} in the scene.",
    "This is a {} in the scene.",
    "This is the {} in the scene.",
    "This is one {} in the scene.",
)


def _imagenet80() -> tuple[str, ...]:
    # Here, because open_clip imports torch.
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # noqa: PLC0415

    return tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES)


class _TemplateSets(Mapping[str, tuple[str, ...]]):
    """The sets by name; the long one is fetched from open_clip when it is asked for."""

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name == "imagenet80":
            return _imagenet80()
        return {"single": _SINGLE, "zegclip15": _ZEGCLIP15}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("single", "zegclip15", "imagenet80"))

    def __len__(self) -> int:
        return 3


TEMPLATES: Mapping[str, tuple[str, ...]] = _TemplateSets()
"""Named sets of sentences; ``{}`` stands for the class name.

Source:
    ZegCLIP released code: ``single`` for PASCAL VOC, ``zegclip15`` for COCO-Stuff. CLIP, prompts
    for ImageNet: ``imagenet80``, as open_clip publishes them.
"""
