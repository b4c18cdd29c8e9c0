"""One training step: against the released code's way of computing it, and in less memory."""

from collections.abc import Callable

import pytest
import torch
from comparisons.plain_loss import plain_mask_losses
from comparisons.plain_zegclip import plain_logits, plain_step, without_dropout
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.clip import Clip
from zegment.clip_layers import QuickGELU
from zegment.clip_loading import load_clip
from zegment.config import ModelConfig, StudentConfig, ZegClipConfig
from zegment.data import IGNORE_INDEX
from zegment.errors import ConfigError
from zegment.models.base import SegmentationModel
from zegment.models.build import build_model
from zegment.models.zegclip import ZegCLIP
from zegment.objectives import InductiveObjective, NonMutuallyExclusive

SHIFT = "k.bias"
"""Moves all logits of a query alike, so that its gradient is nothing but rounding."""


def zegclip(clip: Clip, *, prompts: int = 3) -> ZegCLIP:
    torch.manual_seed(0)
    own = ZegClipConfig(prompt_tokens=prompts, decoder_heads=2)
    model = build_model(ModelConfig(kind="zegclip", zegclip=own), clip)
    assert isinstance(model, ZegCLIP)
    with torch.no_grad():  # released layers start identical, and would not tell one from another
        for parameter in model.decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.prompt_norm.weight.add_(0.3 * torch.randn(32))
    return model


def batch(seed: int, *, size: tuple[int, int], images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return noise and labels of blocks, some of them ignored."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes + 1, (images, size[0] // 4, size[1] // 4), generator=rng)
    label[label == classes] = IGNORE_INDEX
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return torch.randn(images, 3, *size, generator=rng), label


def unit_rows(n: int) -> Tensor:
    return F.normalize(torch.randn(n, 16, generator=torch.Generator().manual_seed(1)), dim=-1)


def gradients(model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("seed", "size", "images", "classes", "prompts"),
    [(0, (32, 32), 2, 4, 3), (1, (24, 56), 1, 1, 1), (2, (64, 8), 3, 17, 9)],
)
def test_loss_and_gradients_equal_the_released_way(
    tiny_clip: Clip, seed: int, size: tuple[int, int], images: int, classes: int, prompts: int
) -> None:
    model = without_dropout(zegclip(tiny_clip, prompts=prompts))
    text = unit_rows(classes)
    image, label = batch(seed, size=size, images=images, classes=classes)
    objective = InductiveObjective(text, seen=range(classes), loss=NonMutuallyExclusive())
    ours = objective(model, objective.prepare(image, label))
    found = gradients(model, ours)
    plain = plain_mask_losses(plain_logits(model, image, text), label)
    expected = gradients(model, plain)
    assert ours.keys() == plain.keys()
    for name, loss in plain.items():
        torch.testing.assert_close(ours[name], loss, rtol=1e-4, atol=0)
    assert found.keys() == expected.keys() >= {"prompts.embeddings", "decoder.layers.2.q.weight"}
    for key, gradient in expected.items():
        scale = float(gradient.abs().max())
        if key.endswith(SHIFT):
            scale = max(scale, 1e-3)
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=1e-4 * scale, msg=key)


def test_a_plain_step_learns(tiny_clip: Clip) -> None:
    model = without_dropout(zegclip(tiny_clip))
    frozen = {k: p.clone() for k, p in model.named_parameters() if not p.requires_grad}
    step = plain_step(model, unit_rows(3), seen=3, lr=1e-3)
    image, label = batch(0, size=(32, 32), images=2, classes=3)
    totals = [float(sum(step(image, label).values())) for _ in range(8)]
    assert totals[-1] < 0.9 * totals[0]
    for key, parameter in model.named_parameters():
        if key in frozen:
            assert torch.equal(parameter, frozen[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_activation_is_its_equation_forward_and_backward(dtype: torch.dtype) -> None:
    x = torch.randn(4, 7, dtype=dtype).mul(4).requires_grad_()
    weight = torch.randn(4, 7, dtype=dtype)
    expected = x * torch.sigmoid(1.702 * x)
    found = QuickGELU()(x)
    with torch.no_grad():
        assert torch.equal(QuickGELU()(x), found)
    rounding = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found, expected, **rounding)
    (slope,) = torch.autograd.grad((found * weight).sum(), x)
    (slow,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(slope, slow, **rounding)


def test_the_activation_leaves_its_input_alone() -> None:
    x = torch.randn(5)
    before = x.clone()
    QuickGELU()(x)
    assert torch.equal(x, before)


# Gradient checkpointing


MODELS = {
    "zegclip": ModelConfig(kind="zegclip", zegclip=ZegClipConfig(prompt_tokens=3, decoder_heads=2)),
    "one_stage": ModelConfig(kind="one_stage"),
    "convnext": ModelConfig(
        kind="student", student=StudentConfig(architecture="upernet", encoder="tu-test_convnext")
    ),
    "vit": ModelConfig(
        kind="student", student=StudentConfig(architecture="dpt", encoder="tu-test_vit")
    ),
}


def kept_bytes(work: Callable[[], object]) -> int:
    """Return how much is kept for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        work()
    return sum(kept.values())


@pytest.mark.parametrize("name", list(MODELS))
def test_checkpointing_keeps_gradients_and_dropout_and_holds_less(
    name: str, tiny_clip: Clip
) -> None:
    torch.manual_seed(0)
    model = build_model(MODELS[name], tiny_clip).train()
    side = 4 * model.patch_size
    image, texts = torch.randn(2, 3, side, side), unit_rows(3)

    def gradients_of_step() -> tuple[dict[str, Tensor], int]:
        torch.manual_seed(1)  # of dropout
        state = {k: v.clone() for k, v in model.state_dict().items()}
        losses: dict[str, Tensor] = {}
        held = kept_bytes(lambda: losses.update(a=model(image, texts).square().mean()))
        found = gradients(model, losses)
        model.load_state_dict(state)
        return found, held

    expected, all_kept = gradients_of_step()
    model.use_gradient_checkpointing()
    found, kept = gradients_of_step()
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, msg=key)
    assert kept < all_kept


def test_checkpointing_changes_no_prediction(tiny_clip: Clip) -> None:
    model = zegclip(tiny_clip).eval()
    image, texts = torch.randn(1, 3, 32, 32), unit_rows(2)
    with torch.no_grad():
        before = model(image, texts)
        model.use_gradient_checkpointing()
        assert torch.equal(model(image, texts), before)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ModelConfig(kind="dense_clip"), "DenseClip offers none"),
        (
            ModelConfig(
                kind="student",
                student=StudentConfig(architecture="segformer", encoder="tu-test_resnet"),
            ),
            "has batch normalisation, which would count every batch twice",
        ),
        (
            ModelConfig(kind="student", student=StudentConfig(architecture="segnext", encoder="t")),
            "student's encoder offers none.*tu-convnext_tiny",
        ),
    ],
    ids=["dense_clip", "batch norm", "segnext"],
)
def test_what_cannot_be_checkpointed_names_the_setting(
    config: ModelConfig, reason: str, tiny_clip_folder: object
) -> None:
    model: SegmentationModel = build_model(config, load_clip(str(tiny_clip_folder)))
    with pytest.raises(ConfigError, match=rf"optim\.gradient_checkpointing: .*{reason}"):
        model.use_gradient_checkpointing()
