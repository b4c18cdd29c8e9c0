"""SegNeXt against published numbers and names, slow oracles, and files as they are published."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from zegment.errors import CheckpointError, ModelNotFoundError
from zegment.models.segnext import (
    NMF2D,
    VARIANTS,
    Block,
    MultiScaleAttention,
    SegNeXt,
    SegNeXtVariant,
    multiplicative_update,
)
from zegment.models.segnext_import import PROJECTION, load_segnext_weights

TINY = SegNeXtVariant(dims=(4, 6, 8, 10), depths=(1, 2, 1, 1), ham_channels=32, drop_path=0.2)


def tiny(seed: int = 0) -> SegNeXt:
    torch.manual_seed(seed)
    return SegNeXt(TINY, embed_dim=12)


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# --- the published architecture ---


@pytest.mark.parametrize(("size", "millions"), [("t", 4.3), ("s", 13.9), ("b", 27.6), ("l", 48.9)])
def test_variants_have_the_published_numbers_of_parameters(size, millions):
    with torch.device("meta"):
        model = SegNeXt(VARIANTS[size], embed_dim=150)
    biases = 150  # of the classifier of ADE20K's classes, in place of our projection
    count = sum(p.numel() for p in model.parameters()) + biases
    assert round(count / 1e6, 1) == millions


def norm_keys(name: str) -> list[str]:
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{name}.{part}" for part in parts]


def conv_keys(*names: str) -> list[str]:
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def test_a_block_has_the_published_names_and_shapes():
    state = Block(4, mlp_ratio=8, drop_path=0.1).state_dict()
    gate = "attn.spatial_gating_unit."
    strips = [f"{gate}conv{i}_{j}" for i in range(3) for j in (1, 2)]
    expected = [
        *("layer_scale_1", "layer_scale_2", *norm_keys("norm1"), *norm_keys("norm2")),
        *conv_keys("attn.proj_1", f"{gate}conv0", *strips, f"{gate}conv3", "attn.proj_2"),
        *conv_keys("mlp.fc1", "mlp.dwconv", "mlp.fc2"),
    ]
    assert sorted(state) == sorted(expected)
    sides = [tuple(state[f"{name}.weight"].shape) for name in strips]
    assert sides == [shape for n in (7, 11, 21) for shape in ((4, 1, 1, n), (4, 1, n, 1))]
    assert state["mlp.dwconv.weight"].shape == (32, 1, 3, 3)


def test_head_and_embeddings_have_the_published_names():
    state = tiny().state_dict()
    head = [
        "squeeze.conv.weight",
        *conv_keys("squeeze.gn", "hamburger.ham_in.conv"),
        "hamburger.ham_out.conv.weight",
        *conv_keys("hamburger.ham_out.gn"),
        "align.conv.weight",
        *conv_keys("align.gn"),
        "projection.weight",
    ]
    assert sorted(k for k in state if k.startswith("decode_head.")) == sorted(
        f"decode_head.{k}" for k in head
    )
    outside_blocks = [
        *conv_keys("patch_embed1.proj.0", "patch_embed1.proj.3"),
        *norm_keys("patch_embed1.proj.1"),
        *norm_keys("patch_embed1.proj.4"),
        *(k for i in (2, 3, 4) for k in conv_keys(f"patch_embed{i}.proj")),
        *(k for i in (2, 3, 4) for k in norm_keys(f"patch_embed{i}.norm")),
        *conv_keys(*(f"norm{i}" for i in (1, 2, 3, 4))),
    ]
    found = [k for k in state if k.startswith("backbone.") and ".block" not in k]
    assert sorted(found) == sorted(f"backbone.{k}" for k in outside_blocks)
    blocks = {tuple(k.split(".")[1:3]) for k in state if ".block" in k}
    assert blocks == {("block1", "0"), ("block2", "0"), ("block2", "1")} | {
        ("block3", "0"),
        ("block4", "0"),
    }


def test_drop_path_grows_linearly_from_zero():
    rates = [m.drop_path.p for m in tiny().modules() if isinstance(m, Block)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


# --- equations against slow oracles ---


def test_attention_equals_a_sum_over_explicit_kernels():
    torch.manual_seed(0)
    module = MultiScaleAttention(2).double()
    x = images(1, 2, 9, 8).double()

    def slow(name: str, x: np.ndarray) -> np.ndarray:
        conv = module.get_submodule(name)
        kernel, bias = conv.weight.detach().numpy()[:, 0], conv.bias.detach().numpy()
        (channels, height, width), out = x.shape, np.empty_like(x)
        rows, columns = kernel.shape[1:]
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    out[c, i, j] = bias[c] + sum(
                        kernel[c, r, s] * x[c, i + r - rows // 2, j + s - columns // 2]
                        for r in range(rows)
                        for s in range(columns)
                        if 0 <= i + r - rows // 2 < height and 0 <= j + s - columns // 2 < width
                    )
        return out

    near = slow("conv0", x[0].numpy())
    total = near + sum(slow(f"conv{i}_2", slow(f"conv{i}_1", near)) for i in range(3))
    mix, bias = module.conv3.weight.detach().numpy()[:, :, 0, 0], module.conv3.bias.detach()
    weights = np.einsum("oc,chw->ohw", mix, total) + bias.numpy()[:, None, None]
    np.testing.assert_allclose(module(x)[0].detach().numpy(), weights * x[0].numpy(), atol=1e-12)


def test_encoder_equals_its_equations_written_with_functions():
    model = tiny().backbone.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that no scale or bias is trivial
    w = model.state_dict()

    def conv(x, name, **how):
        weight = w[f"{name}.weight"]
        same = tuple(side // 2 for side in weight.shape[2:])
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=same, groups=groups, **how)

    def batch_norm(x, name):
        parts = (w[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False)

    def block(x, name):
        y = F.gelu(conv(batch_norm(x, f"{name}.norm1"), f"{name}.attn.proj_1"))
        gate = f"{name}.attn.spatial_gating_unit.conv"
        near = conv(y, f"{gate}0")
        far = [conv(conv(near, f"{gate}{i}_1"), f"{gate}{i}_2") for i in range(3)]
        y = conv(conv(near + sum(far), f"{gate}3") * y, f"{name}.attn.proj_2")
        y = y + batch_norm(x, f"{name}.norm1")  # the shortcut starts after the normalisation
        x = x + w[f"{name}.layer_scale_1"][:, None, None] * y
        y = conv(batch_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        y = conv(F.gelu(conv(y, f"{name}.mlp.dwconv")), f"{name}.mlp.fc2")
        return x + w[f"{name}.layer_scale_2"][:, None, None] * y

    image = images(2, 3, 64, 40)
    x = F.gelu(batch_norm(conv(image, "patch_embed1.proj.0", stride=2), "patch_embed1.proj.1"))
    x = batch_norm(conv(x, "patch_embed1.proj.3", stride=2), "patch_embed1.proj.4")
    for stage, features in enumerate(model(image), 1):
        if stage > 1:
            name = f"patch_embed{stage}"
            x = batch_norm(conv(x, f"{name}.proj", stride=2), f"{name}.norm")
        for i in range(TINY.depths[stage - 1]):
            x = block(x, f"block{stage}.{i}")
        norm = w[f"norm{stage}.weight"], w[f"norm{stage}.bias"]
        x = F.layer_norm(x.movedim(1, -1), x.shape[1:2], *norm).movedim(-1, 1)
        torch.testing.assert_close(features, x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("training", "steps"), [(True, 6), (False, 7)])
def test_factorisation_follows_the_multiplicative_updates(training, steps):
    module = NMF2D(5, bases=3).double().train(training)
    features = images(2, 5, 4, 3).double().relu()
    torch.manual_seed(7)
    rebuilt = module(features).numpy()
    torch.manual_seed(7)
    drawn = torch.rand(2, 5, 3, dtype=torch.float64) if training else module.fixed_bases
    for b in range(2):
        x = features[b].flatten(1).numpy()  # C, N
        bases = drawn[b if training else 0].numpy()
        bases = bases / np.sqrt((bases**2).sum(axis=0))
        scores = np.exp(x.T @ bases)
        coefficients = scores / scores.sum(axis=1, keepdims=True)
        for step in range(steps + 1):
            approximation = bases @ coefficients.T
            coefficients = coefficients * (x.T @ bases) / (approximation.T @ bases + 1e-6)
            if step < steps:
                approximation = bases @ coefficients.T
                bases = bases * (x @ coefficients) / (approximation @ coefficients + 1e-6)
        expected = (bases @ coefficients.T).reshape(5, 4, 3)
        np.testing.assert_allclose(rebuilt[b], expected, atol=1e-10)


def test_updates_never_raise_the_squared_error():
    x, left, right = (images(1, *s).double().abs() for s in ((6, 9), (6, 2), (9, 2)))
    errors = []
    for _ in range(20):
        errors.append((x - left @ right.mT).square().sum().item())
        left = multiplicative_update(left, right, x)
        right = multiplicative_update(right, left, x.mT)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_factorisation_survives_half_precision():
    module = NMF2D(32).eval()
    x = 40 * images(1, 32, 64, 64).relu()  # its products sum to more than 65504
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), expected)
    half = module(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, rtol=1e-2, atol=0.05)


# --- the contract of a backbone ---


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (40, 72), (37, 51), (33, 1)])
def test_every_image_size_works_for_a_batch_of_one(size, training):
    model = tiny().train(training)
    features = model(images(1, 3, *size))
    assert features.shape == (1, 12, *(-(-side // 8) for side in size))
    assert features.isfinite().all()


def test_grid_is_exact_for_multiples():
    side = 5 * SegNeXt.multiple
    assert tiny().eval()(images(1, 3, side, side)).shape[2:] == (5, 5)


def test_evaluation_repeats_itself_and_training_draws_new_bases():
    model, other, image = tiny().eval(), tiny().eval(), images(2, 3, 64, 64)
    with torch.no_grad():
        first = model(image)
        torch.manual_seed(99)
        assert torch.equal(model(image), first)
        assert torch.equal(other(image), first)
        ham = NMF2D(32).train()
        x = images(1, 32, 4, 4).relu()
        assert not torch.equal(ham(x), ham(x))


def test_an_image_in_a_batch_is_treated_as_if_alone():
    model, batch = tiny().eval(), images(3, 3, 64, 40)
    with torch.no_grad():
        singles = torch.cat([model(image[None]) for image in batch])
        torch.testing.assert_close(model(batch), singles, rtol=1e-4, atol=1e-6)


def test_gradients_reach_every_parameter():
    model = tiny()
    for module in model.modules():
        if isinstance(module, Block):
            module.drop_path.p = 0.0  # a dropped branch rightly has none
    model(images(2, 3, 64, 64)).square().sum().backward()
    without = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_encoder_parameters_are_the_backbone():
    model = tiny()
    ours = {id(p) for p in model.encoder_parameters()}
    names = {k for k, p in model.named_parameters() if id(p) in ours}
    assert names == {k for k, _ in model.named_parameters() if k.startswith("backbone.")}


def test_the_head_reads_the_last_three_stages_at_an_eighth():
    model = tiny().eval()
    stages = model.backbone(images(1, 3, 64, 96))
    shapes = [tuple(x.shape[1:]) for x in stages]
    assert shapes == [(4, 16, 24), (6, 8, 12), (8, 4, 6), (10, 2, 3)]
    changed = [stages[0] + 1, *stages[1:]]
    assert torch.equal(model.decode_head(changed), model.decode_head(stages))
    head = model.decode_head
    levels = [F.interpolate(x, (8, 12), mode="bilinear") for x in stages[1:]]
    x, ham = head.squeeze(torch.cat(levels, 1)).relu(), head.hamburger
    x = (x + ham.ham_out(ham.ham(ham.ham_in(x).relu()))).relu()
    expected = head.projection(head.align(x).relu())
    torch.testing.assert_close(head(stages), expected)


# --- files ---


def encoder_state(seed: int = 5) -> dict[str, torch.Tensor]:
    state = tiny(seed).backbone.state_dict()
    return {**state, "head.weight": torch.zeros(7, 10), "head.bias": torch.zeros(7)}


def segmentor_state(seed: int = 5) -> dict[str, torch.Tensor]:
    state = {k: v for k, v in tiny(seed).state_dict().items() if k != PROJECTION}
    return {
        **state,
        "decode_head.conv_seg.weight": torch.zeros(7, 32, 1, 1),
        "decode_head.conv_seg.bias": torch.zeros(7),
        "auxiliary_head.conv_seg.bias": torch.zeros(7),
    }


def assert_equal(model: SegNeXt, seed: int, part: str) -> None:
    expected = tiny(seed).state_dict()
    for key, value in model.state_dict().items():
        if key.startswith(part) and key != PROJECTION:
            assert torch.equal(value, expected[key]), key


def test_an_encoder_loads_and_leaves_the_head(tmp_path: Path):
    bare, nested = tmp_path / "bare.pth", tmp_path / "nested.pth"
    torch.save(encoder_state(), bare)
    torch.save({"state_dict": encoder_state(), "meta": {"epoch": 300}}, nested)
    save_file(encoder_state(), tmp_path / "safe.safetensors")
    for path in (bare, nested, tmp_path / "safe.safetensors", str(bare)):
        model = tiny()
        load_segnext_weights(model, path)
        assert_equal(model, 5, "backbone.")
        assert_equal(model, 0, "decode_head.")


def test_a_segmentor_loads_but_for_the_projection(tmp_path: Path):
    path = tmp_path / "segmentor.pth"
    meta = {"CLASSES": ("wall", "sky"), "PALETTE": [[0, 0, 0]], "config": "model = dict()"}
    torch.save({"state_dict": segmentor_state(), "meta": meta}, path)
    model = tiny()
    load_segnext_weights(model, path)
    assert_equal(model, 5, "")
    assert torch.equal(model.state_dict()[PROJECTION], tiny().state_dict()[PROJECTION])


def test_our_own_weights_load_with_the_projection(tmp_path: Path):
    torch.save(tiny(5).state_dict(), tmp_path / "own.pth")
    model = tiny()
    load_segnext_weights(model, tmp_path / "own.pth")
    assert torch.equal(model.state_dict()[PROJECTION], tiny(5).state_dict()[PROJECTION])


def test_names_of_the_authors_own_files_load(tmp_path: Path):
    state = {k.replace(".dwconv.", ".dwconv.dwconv."): v for k, v in encoder_state().items()}
    assert "block1.0.mlp.dwconv.dwconv.weight" in state
    torch.save(state, tmp_path / "authors.pth")
    model = tiny()
    load_segnext_weights(model, tmp_path / "authors.pth")
    assert_equal(model, 5, "backbone.")


def without(key: str) -> Callable[[dict], dict]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def having(key: str, value: torch.Tensor) -> Callable[[dict], dict]:
    return lambda state: {**state, key: value}


@pytest.mark.parametrize(
    ("state", "change", "message"),
    [
        (encoder_state, without("norm2.bias"), r"it has no tensor 'norm2\.bias'"),
        (encoder_state, having("norm5.bias", torch.zeros(1)), r"unknown tensor 'norm5\.bias'"),
        (
            encoder_state,
            having("norm2.bias", torch.zeros(7)),
            r"'norm2\.bias' has shape \(7,\), expected \(6,\).*variant",
        ),
        (encoder_state, having("norm2.bias", torch.full((6,), torch.nan)), "NaN"),
        (encoder_state, having("decode_head.align.gn.bias", torch.zeros(32)), "unknown tensor"),
        (segmentor_state, without("backbone.norm2.bias"), r"no tensor 'backbone\.norm2\.bias'"),
        (segmentor_state, without("decode_head.align.gn.bias"), r"no tensor 'decode_head\.align"),
        (segmentor_state, having("head.weight", torch.zeros(1)), r"unknown tensor 'head\.weight'"),
        (segmentor_state, having(PROJECTION, torch.zeros(5, 32, 1, 1)), "projection"),
        (encoder_state, lambda _: {}, "it has no tensor"),
        (encoder_state, lambda state: [*state.values()], "no state dict"),
        (encoder_state, lambda state: {**state, "epoch": 3}, "no state dict"),
    ],
)
def test_weights_of_another_model_are_named_and_change_nothing(tmp_path, state, change, message):
    path = tmp_path / "other.pth"
    torch.save(change(state()), path)
    model = tiny()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_segnext_weights(model, path)
    assert str(path) in str(caught.value)
    assert_equal(model, 0, "")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, keep: float):
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(encoder_state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"cut.*download it again"):
        load_segnext_weights(tiny(), path)


class Code:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path):
    path, trace = tmp_path / "code.pth", tmp_path / "trace"
    torch.save({"state_dict": encoder_state(), "meta": Code(trace)}, path)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(Code(trace), protocol=2))
    for file in (path, plain):
        with pytest.raises(CheckpointError, match=r"could run code.*save its tensors alone"):
            load_segnext_weights(tiny(), file)
    assert not trace.exists()


def test_numbers_of_numpy_beside_the_weights_are_refused_with_a_remedy(tmp_path: Path):
    path = tmp_path / "numpy.pth"
    torch.save({"state_dict": encoder_state(), "meta": {"mIoU": np.float64(0.415)}}, path)
    with pytest.raises(CheckpointError, match="save its tensors alone"):
        load_segnext_weights(tiny(), path)


def test_a_missing_file_says_what_to_give(tmp_path: Path):
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(ModelNotFoundError, match=r"none.*give a \.pth or \.safetensors file"):
            load_segnext_weights(tiny(), tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make, suffix: str):
    make(tmp_path / f"weights{suffix}")
    with pytest.raises(ModelNotFoundError, match=r"weights.*it is a pipe or a device, not a file"):
        load_segnext_weights(tiny(), tmp_path / f"weights{suffix}")


def test_what_is_no_file_in_the_cache_of_downloads_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "mscan_t_20230227-119e8c9f.pth")
    model = tiny()
    model.variant = VARIANTS["t"]
    with pytest.raises(ModelNotFoundError, match=r"mscan_t_.*a pipe or a device, not a file"):
        load_segnext_weights(model, "imagenet")


def test_a_file_that_grows_when_it_is_read_is_refused(tmp_path: Path):
    path = tmp_path / "large.pth"
    torch.save({"state_dict": {"a": torch.ones(1).expand(10**6, 10**6)}}, path)
    with pytest.raises(CheckpointError, match=r"large.*its tensors would take"):
        load_segnext_weights(tiny(), path)


def test_imagenet_weights_come_from_the_published_address(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def download(url: str, **settings: object) -> dict[str, object]:
        asked.append((url, settings))
        return {"state_dict": encoder_state()}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    model = tiny()
    model.variant = VARIANTS["t"]
    load_segnext_weights(model, "imagenet")
    assert_equal(model, 5, "backbone.")
    [(url, settings)] = asked
    assert url == (
        "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segnext/"
        "mscan_t_20230227-119e8c9f.pth"
    )
    assert settings == {"map_location": "cpu", "check_hash": True, "weights_only": True}


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (URLError("no network"), ModelNotFoundError, r"mscan_b_.*no network.*give its path"),
        (RuntimeError("invalid hash value"), CheckpointError, r"mscan_b_.*invalid hash value"),
    ],
)
def test_a_failed_download_says_what_was_tried(monkeypatch, raised, error, message):
    def download(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    model = tiny()
    model.variant = VARIANTS["b"]
    with pytest.raises(error, match=message):
        load_segnext_weights(model, "imagenet")


def test_a_variant_of_ones_own_has_no_imagenet_weights():
    with pytest.raises(ModelNotFoundError, match="use one of t, s, b, l"):
        load_segnext_weights(tiny(), "imagenet")
