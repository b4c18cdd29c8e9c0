"""Our image tower against open_clip's, and how a CLIP is found."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.clip import Clip, ImageTower, TextTower
from zegment.clip_loading import load_clip
from zegment.errors import ModelNotFoundError, UnsupportedModelError, VocabularyError
from zegment.text_loading import load_text_tower


@pytest.fixture(scope="module")
def theirs(tiny_clip_folder: Path) -> open_clip.CLIP:
    return open_clip.create_model(f"local-dir:{tiny_clip_folder}").eval()


def test_class_embedding_equals_open_clip(tiny_clip: Clip, theirs: open_clip.CLIP) -> None:
    image = torch.randn(3, 3, 32, 32)
    ours, _ = tiny_clip.image_tower(image)
    torch.testing.assert_close(ours, theirs.encode_image(image, normalize=True))


def test_patch_tokens_equal_open_clip(tiny_clip: Clip, theirs: open_clip.CLIP) -> None:
    image = torch.randn(2, 3, 32, 32)
    expected = theirs.forward_intermediates(
        image, image_indices=1, normalize_intermediates=False, image_output_fmt="NLC"
    )["image_intermediates"][-1]
    tokens = tiny_clip.image_tower.encode(image)
    torch.testing.assert_close(tokens[:, 1:], expected)


def test_text_embeddings_equal_open_clip(tiny_clip: Clip, theirs: open_clip.CLIP) -> None:
    sentences = ["a photo of a cat", "sofa", "Ein Bär"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(sentences)
    expected = theirs.encode_text(tokens, normalize=True)
    torch.testing.assert_close(tiny_clip.text_tower(sentences), expected)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (24, 56)])
def test_batch_equals_singles_at_any_grid(tiny_clip: Clip, size: tuple[int, int]) -> None:
    images = torch.randn(3, 3, *size)
    class_tokens, patch_tokens = tiny_clip.image_tower(images)
    assert patch_tokens.shape == (3, size[0] * size[1] // 64, 16)
    for i, image in enumerate(images):
        class_token, patches = tiny_clip.image_tower(image[None])
        torch.testing.assert_close(class_tokens[i], class_token[0])
        torch.testing.assert_close(patch_tokens[i], patches[0])


def slowly(tower: ImageTower, image: Tensor, prompts: list[Tensor], *, replaced: bool) -> Tensor:
    """Return tokens after the last block the slow way of visual prompt tuning.

    Prompts are inserted as full tokens, and cut out where the next take their place, or at the
    end. With ``replaced`` they are also cut out after the last layer that has its own.
    """
    tokens = tower.embed(image)
    inside = 0
    for i, block in enumerate(tower.transformer.resblocks):
        if i < len(prompts) or replaced:
            tokens = torch.cat([tokens[:, :1], tokens[:, 1 + inside :]], dim=1)
            inside = 0
        if i < len(prompts):
            inserted = prompts[i].expand(len(image), -1, -1)
            tokens = torch.cat([tokens[:, :1], inserted, tokens[:, 1:]], dim=1)
            inside = inserted.shape[1]
        tokens = block(tokens)
    return torch.cat([tokens[:, :1], tokens[:, 1 + inside :]], dim=1)


@pytest.fixture
def deep_tower(make_clip: Callable[..., str]) -> ImageTower:
    return load_clip(make_clip("deep", layers=4)).image_tower


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("images", "size"), [(1, (24, 56)), (3, (32, 32)), (2, (8, 8))])
def test_the_last_prompts_stay_as_tokens_to_the_end(
    deep_tower: ImageTower, layers: int, images: int, size: tuple[int, int]
) -> None:
    image = torch.randn(images, 3, *size)
    for batch in {1, images}:  # the same prompts for all, or each image its own
        prompts = [torch.randn(batch, 5, 32) for _ in range(layers)]
        found = deep_tower.encode(image, prompts=prompts)
        expected = slowly(deep_tower, image, prompts, replaced=False)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        dropped = slowly(deep_tower, image, prompts, replaced=True)
        assert torch.allclose(found, dropped, rtol=1e-3, atol=1e-3) == (layers in {0, 4})


def test_prompts_of_every_layer_are_read_and_no_more(tiny_clip: Clip) -> None:
    """What would be dropped is not computed: blocks see the tokens of the image alone."""
    seen: list[int] = []
    for block in tiny_clip.image_tower.transformer.resblocks:
        block.register_forward_hook(lambda _, given, made: seen.append(made.shape[1]))
    image = torch.randn(1, 3, 32, 32)
    tiny_clip.image_tower.encode(image, prompts=[torch.randn(1, 5, 32) for _ in range(2)])
    assert seen == [17, 17]
    tiny_clip.image_tower.encode(image, prompts=[torch.randn(1, 5, 32)])
    assert seen[2:] == [22, 22]


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_gradient_checkpointing_changes_no_gradient(deep_tower: ImageTower, layers: int) -> None:
    image = torch.randn(2, 3, 16, 24)
    prompts = [torch.randn(1, 5, 32, requires_grad=True) for _ in range(layers)]
    found = []
    for deep_tower.gradient_checkpointing in (False, True):
        total = deep_tower.encode(image, prompts=prompts).square().sum()
        found.append(torch.autograd.grad(total, prompts))
    for plain, again in zip(*found, strict=True):
        assert plain.any()
        torch.testing.assert_close(plain, again)


def test_sides_must_be_multiples_of_the_patch(tiny_clip: Clip) -> None:
    with pytest.raises(ValueError, match=r"33×32 pixels.*multiples of the patch size 8"):
        tiny_clip.image_tower(torch.randn(1, 3, 33, 32))


def test_prompts_for_more_layers_than_there_are_are_refused(tiny_clip: Clip) -> None:
    with pytest.raises(ValueError, match="3 layers of prompts for 2 layers"):
        tiny_clip.image_tower.encode(torch.randn(1, 3, 8, 8), prompts=[torch.zeros(1, 1, 32)] * 3)


def test_non_square_pretraining_grid_is_kept(make_clip: Callable[..., str]) -> None:
    clip = load_clip(make_clip(image_size=(16, 32)))
    assert clip.image_tower.shape.grid == (2, 4)


def test_preprocessing_comes_with_the_weights(tiny_clip: Clip) -> None:
    assert tiny_clip.mean == (0.5, 0.5, 0.5)
    assert tiny_clip.std == (0.25, 0.25, 0.25)


def test_fingerprint_tells_weights_apart(tiny_clip: Clip, make_clip: Callable[..., str]) -> None:
    other = load_clip(make_clip("other", seed=1))
    again = load_clip(make_clip("again", seed=0))
    assert tiny_clip.fingerprint != other.fingerprint
    assert tiny_clip.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    "vision",
    [{"pool_type": "avg"}, {"ls_init_value": 0.5}, {"no_ln_pre": True}, {"attentional_pool": True}],
    ids=["mean pooling", "layer scale", "no ln_pre", "attention pooling"],
)
def test_other_towers_are_refused(make_clip: Callable[..., str], vision: dict[str, object]) -> None:
    with pytest.raises(UnsupportedModelError, match="class token"):
        load_clip(make_clip(**vision))


def test_convolutional_tower_is_refused_by_layout() -> None:
    from zegment.clip import tower_from_state

    with pytest.raises(UnsupportedModelError, match="ViT-B-16"):
        tower_from_state({"stem.weight": torch.zeros(1)}, heads=1, activation="gelu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-17/openai", "did you mean.*ViT-B-16/openai"),
        ("ViT-B-16/nobody", "no weights 'nobody' for ViT-B-16.*openai"),
        ("no-such-model", "shapes-clip"),
    ],
)
def test_unknown_names_get_a_remedy(name: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        load_clip(name)


def test_folder_without_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"open_clip_config.json"):
        load_clip(str(tmp_path))


def test_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="cannot load CLIP"):
        load_clip(str(tmp_path))


def test_folder_without_weights_is_not_random(make_clip: Callable[..., str]) -> None:
    folder = make_clip()
    (Path(folder) / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="cannot load CLIP"):
        load_clip(folder)


@pytest.mark.parametrize("load", [load_clip, load_text_tower])
@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("open_clip_model.safetensors", lambda data: data[:-100], "deserializing"),
        ("open_clip_config.json", lambda data: data[:-100], "Expecting"),
        ("open_clip_config.json", lambda _: b'{"model_cfg": {"vision_cfg": {}}}', "no 'text_cfg'"),
        ("open_clip_config.json", lambda data: data.replace(b'"heads"', b'"hands"'), "hands"),
        ("open_clip_config.json", lambda data: data.replace(b'rs": 1', b'rs": 2'), "weights|_dict"),
    ],
    ids=["cut weights", "cut config", "no text", "unknown key", "another depth"],
)
def test_damage_is_named(
    make_clip: Callable[..., str],
    load: Callable[[str], object],
    file: str,
    damage: Callable[[bytes], bytes],
    reason: str,
) -> None:
    path = Path(make_clip()) / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelNotFoundError, match=f"cannot load CLIP.*{reason}.*check the name"):
        load(str(path.parent))


def test_hub_model_without_network_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match=r"no network.*shapes-clip, which always works"):
        load_clip("hf-hub:zegment/does-not-exist")


class CountingEncoder:
    """Counts the sentences it is given."""

    def __init__(self) -> None:
        self.sentences = 0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.sentences += len(tokens.unique(dim=0))  # a batch is filled up with repetitions
        return F.one_hot(tokens[:, 0], 300).float() * 3


def tokenize(sentences: list[str], length: int) -> torch.Tensor:
    rows = [[*s.encode()[:length], *[0] * max(length - len(s.encode()), 0)] for s in sentences]
    return torch.tensor(rows)


def test_each_sentence_is_encoded_once() -> None:
    encoder = CountingEncoder()
    tower = TextTower(encode=encoder, tokenize=tokenize, context_length=8)
    first = tower(["cat", "dog", "cat"])
    assert encoder.sentences == 2
    second = tower(["dog", "cat"])
    assert encoder.sentences == 2
    torch.testing.assert_close(second, first[[1, 0]])
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


def test_name_beyond_the_context_is_refused(tiny_clip: Clip) -> None:
    with pytest.raises(VocabularyError, match="longer than the 16 tokens"):
        tiny_clip.text_tower(["cat", "very " * 15 + "long"])


def test_name_that_just_fits_is_accepted(tiny_clip: Clip) -> None:
    # Start and end take two of the sixteen tokens.
    assert tiny_clip.text_tower(["cat " * 14]).shape == (1, 16)
    with pytest.raises(VocabularyError):
        tiny_clip.text_tower(["cat " * 15])


def test_packaged_clip_loads_through_the_same_call() -> None:
    clip = load_clip("shapes-clip")
    assert clip.image_tower.shape.patch_size == 8
