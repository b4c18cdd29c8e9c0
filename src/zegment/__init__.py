"""Zero-shot semantic segmentation: masks for the classes you labelled, and for those you name."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zegment.hub.upload import push_to_hub
    from zegment.results import Segmentation
    from zegment.segmenter import Segmenter, load
    from zegment.vocabulary import Vocabulary

__version__ = version("zegment")
__all__ = [
    "Segmentation", "Segmenter", "Vocabulary", "__version__", "load", "push_to_hub",
]  # fmt: skip

_HOMES = {
    "Segmentation": "zegment.results",
    "Segmenter": "zegment.segmenter",
    "Vocabulary": "zegment.vocabulary",
    "load": "zegment.segmenter",
    "push_to_hub": "zegment.hub.upload",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the public name stands for
    # Public names are imported at first use: importing zegment must not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'zegment' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
