"""The text tower loaded alone, against the one that comes with a whole CLIP."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zegment import text_loading
from zegment.clip import TextTower
from zegment.clip_loading import load_clip
from zegment.clip_weights import PREFERRED_FILES
from zegment.errors import ModelNotFoundError, UnsupportedModelError, VocabularyError
from zegment.text_loading import load_text_tower

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SENTENCES = ["a photo of a cat", "sofa", "Ein Bär", ""]
HUB_FILE = "open_clip_model.safetensors"

State = dict[str, Tensor]


def random_state(config: dict, *, seed: int = 0) -> State:
    """Return the weights of a CLIP, far enough from its initialisation to tell seeds apart."""
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**{k: v for k, v in config.items() if k != "custom_text"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return {k: v.contiguous() for k, v in model.state_dict().items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a random CLIP and returns its folder."""

    def write(
        text: dict | None = None, *, state: State | None = None, file: str = HUB_FILE, **top: object
    ) -> Path:
        config = {**CONFIG, **top, "text_cfg": {**CONFIG["text_cfg"], **(text or {})}}
        state = random_state(config) if state is None else state
        if file.endswith(".safetensors"):
            save_file(state, tmp_path / file)
        else:
            torch.save(state, tmp_path / file)
        preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        (tmp_path / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
        )
        return tmp_path

    return write


def assert_equal(alone: TextTower, whole: TextTower) -> None:
    assert alone.context_length == whole.context_length
    embeddings = alone(SENTENCES)
    assert not embeddings[0].allclose(embeddings[1])
    assert torch.equal(embeddings, whole(SENTENCES))


def test_packaged_clip_gives_the_same_embeddings() -> None:
    assert_equal(load_text_tower("shapes-clip"), load_clip("shapes-clip").text_tower)


def test_folder_gives_the_same_embeddings(tiny_clip_folder: Path) -> None:
    name = str(tiny_clip_folder)
    assert_equal(load_text_tower(name), load_clip(name).text_tower)
    assert_equal(load_text_tower(f"local-dir:{name}"), load_clip(name).text_tower)


@pytest.mark.parametrize("custom_text", [False, True], ids=["OpenAI layout", "text. layout"])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_activations_and_layouts(
    save: Callable[..., Path], quick_gelu: bool, custom_text: bool
) -> None:
    name = str(save(quick_gelu=quick_gelu, custom_text=custom_text))
    assert_equal(load_text_tower(name), load_clip(name).text_tower)


@pytest.mark.parametrize(
    "text",
    [
        {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        {"norm_kwargs": {"eps": 0.1}, "act_kwargs": {"approximate": "tanh"}, "mlp_ratio": 2},
        {"qk_norm": True, "scale_fc": True, "ls_init_value": 0.5},
        {"proj_type": "none", "pool_type": "last"},
        {"output_tokens": True},
    ],
    ids=["no mask", "SigLIP's numbers", "layer scale", "no projection", "tokens"],
)
def test_variants_of_the_transformer(save: Callable[..., Path], text: dict) -> None:
    name = str(save(text))
    assert_equal(load_text_tower(name), load_clip(name).text_tower)


@pytest.mark.parametrize(
    ("change", "file", "custom_text"),
    [
        (lambda state: {k: v.half() for k, v in state.items()}, HUB_FILE, False),
        (lambda state: {**state, "positional_embedding": torch.randn(20, 16)}, HUB_FILE, False),
        (dict, HUB_FILE, True),
        (dict, "open_clip_pytorch_model.bin", False),
        (lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}, "last.pth", False),
    ],
    ids=["half precision", "other context length", "old layout", "torch file", "training"],
)
def test_files_that_open_clip_reads(
    save: Callable[..., Path], change: Callable[[State], dict], file: str, custom_text: bool
) -> None:
    name = str(save(state=change(random_state(CONFIG)), file=file, custom_text=custom_text))
    assert_equal(load_text_tower(name), load_clip(name).text_tower)


def test_file_of_old_torch_loads(save: Callable[..., Path]) -> None:
    folder = save(file="pytorch_model.bin")
    path = folder / "pytorch_model.bin"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert_equal(load_text_tower(str(folder)), load_clip(str(folder)).text_tower)


def test_same_file_is_chosen_among_many(save: Callable[..., Path], tmp_path: Path) -> None:
    """From the least preferred name to the most, so that each new file must win."""
    files = ["b.pth", "a.pth", "z.safetensors", "y.safetensors", *reversed(PREFERRED_FILES)]
    for seed, file in enumerate(files):
        name = str(save(state=random_state(CONFIG, seed=seed), file=file))
        assert_equal(load_text_tower(name), load_clip(name).text_tower)
    assert len(list(tmp_path.iterdir())) == len(files) + 1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a folder's files into an empty Hugging Face cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder: Path, repository: str) -> None:
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(
            folder, place / "snapshots" / ("0" * 40), ignore=shutil.ignore_patterns("hub")
        )

    return put


@pytest.mark.parametrize("file", [HUB_FILE, "open_clip_pytorch_model.bin"])
def test_hub_model_gives_the_same_embeddings(
    save: Callable[..., Path], hub: Callable[..., None], file: str
) -> None:
    hub(save(file=file), "some/clip")
    assert_equal(load_text_tower("hf-hub:some/clip"), load_clip("hf-hub:some/clip").text_tower)


def test_openai_weights_are_read_from_the_hub_in_their_layout(
    save: Callable[..., Path], hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tag asks for QuickGELU, which the built-in configuration does not."""
    folder = save(quick_gelu=True)
    expected = load_clip(str(folder)).text_tower
    hub(folder, "timm/vit_base_patch16_clip_224.openai")
    for module in (open_clip, open_clip.factory):
        monkeypatch.setattr(module, "get_model_config", lambda name: deepcopy(CONFIG))
    alone = load_text_tower("ViT-B-16/openai")
    assert_equal(alone, load_clip("ViT-B-16/openai").text_tower)
    assert_equal(alone, expected)


def test_no_image_tower_is_built(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    kinds: list[type[nn.Module]] = [
        open_clip.transformer.VisionTransformer,
        open_clip.modified_resnet.ModifiedResNet,
        open_clip.timm_model.TimmModel,
        open_clip.CLIP,
        open_clip.CustomTextCLIP,
        nn.Conv2d,
    ]
    for kind in kinds:

        def init(self: nn.Module, *args: object, kind=kind, own=kind.__init__, **kwargs: object):
            built.append(kind.__name__)
            own(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", init)
    name = str(save())
    load_clip(name)
    assert {"CLIP", "VisionTransformer", "Conv2d"} <= set(built)  # the count works
    built.clear()
    load_text_tower(name)
    load_text_tower("shapes-clip")
    assert built == []


def test_only_text_weights_are_read(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    @contextmanager
    def spy(*args: object, **kwargs: object) -> Iterator[SimpleNamespace]:
        with safe_open(*args, **kwargs) as file:

            def get_tensor(key: str) -> Tensor:
                read.append(key)
                return file.get_tensor(key)

            yield SimpleNamespace(keys=file.keys, get_tensor=get_tensor)

    monkeypatch.setattr(text_loading, "safe_open", spy)
    state = random_state(CONFIG)
    load_text_tower(str(save(state=state)))
    others = {key for key in state if key.startswith("visual.")} | {"logit_scale"}
    assert sorted(read) == sorted(state.keys() - others)


def test_tower_is_frozen_and_refuses_long_names(tiny_clip_folder: Path) -> None:
    tower = load_text_tower(str(tiny_clip_folder))
    assert not tower(["cat"]).requires_grad
    with pytest.raises(VocabularyError, match="longer than the 16 tokens"):
        tower(["very " * 15 + "long"])


@pytest.mark.parametrize(
    "name",
    ["ViT-B-17/openai", "ViT-B-16/nobody", "no-such-model", "local-dir:none", "hf-hub:zegment/no"],
)
def test_unknown_names_get_the_same_remedy(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as whole:
        load_clip(name)
    with pytest.raises(ModelNotFoundError) as alone:
        load_text_tower(name)
    assert str(alone.value) == str(whole.value)


def test_without_network_a_tag_says_so(hub: Callable[..., None]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no network.*shapes-clip, which always works"):
        load_text_tower("ViT-B-16/openai")


@pytest.mark.parametrize(
    ("text", "top", "kind"),
    [
        ({"hf_model_name": "roberta-base"}, {}, "roberta-base"),
        ({"embed_cls": True}, {}, "CoCa"),
        ({}, {"multimodal_cfg": {}}, "CoCa"),
    ],
)
def test_other_text_towers_are_refused(
    save: Callable[..., Path], text: dict, top: dict, kind: str
) -> None:
    name = str(save(text, state=random_state(CONFIG), **top))
    with pytest.raises(UnsupportedModelError, match=f"{kind}.*ViT-B-16/openai"):
        load_text_tower(name)


def test_weights_of_something_else_are_refused(save: Callable[..., Path]) -> None:
    name = str(save(state={"text_encoder.embedding_layer.weight": torch.zeros(1)}))
    with pytest.raises(UnsupportedModelError, match=r"token_embedding.weight.*ViT-B-16"):
        load_text_tower(name)


def test_tokenizer_of_a_missing_package_is_named(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, **_: object) -> None:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    with pytest.raises(UnsupportedModelError, match="pip install transformers"):
        load_text_tower(str(save()))


def test_folder_without_weights_is_not_random(save: Callable[..., Path]) -> None:
    folder = save()
    (folder / HUB_FILE).unlink()
    with pytest.raises(ModelNotFoundError, match=r"no weights.*expected open_clip_model"):
        load_text_tower(str(folder))
