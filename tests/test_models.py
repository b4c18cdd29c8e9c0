"""One contract for every model, and ZegCLIP's parts against slow versions of themselves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.clip import Clip, ImageTower, TowerShape
from zegment.clip_loading import load_clip
from zegment.config import DenseClipConfig, ModelConfig, StudentConfig, WindowConfig, ZegClipConfig
from zegment.errors import ConfigError
from zegment.inference.fields import image_scores
from zegment.models.base import SegmentationModel, penalize_seen
from zegment.models.build import build_model
from zegment.models.dense_clip import (
    ATTENTIONS,
    ClearAttention,
    CorrelativeSelfAttention,
    NeighbourAwareAttention,
    ValuePath,
)
from zegment.models.relations import RELATIONS
from zegment.models.zegclip import DeepPrompts, MaskDecoder, RelationshipDescriptor, ZegCLIP

ZEGCLIP = ZegClipConfig(prompt_tokens=3, decoder_heads=2)


class ModelContract:
    """What every model promises; a subclass names its configuration."""

    config: ModelConfig
    stride = 8
    """Pixels per side of a cell of the logits."""

    @pytest.fixture
    def model(self, tiny_clip: Clip) -> SegmentationModel:
        torch.manual_seed(0)
        return build_model(self.config, tiny_clip).eval()

    def texts(self, n: int) -> Tensor:
        return F.normalize(torch.randn(n, 16, generator=torch.Generator().manual_seed(1)), dim=-1)

    @pytest.mark.parametrize("classes", [1, 2, 7])
    def test_any_number_of_classes(self, model: SegmentationModel, classes: int) -> None:
        logits = model(torch.randn(2, 3, 32, 32), self.texts(classes))
        assert logits.shape == (2, classes, 32 // self.stride, 32 // self.stride)

    @pytest.mark.parametrize("multiples", [(1, 1), (2, 5), (8, 3)])
    def test_any_size(self, model: SegmentationModel, multiples: tuple[int, int]) -> None:
        size = [n * model.patch_size for n in multiples]
        logits = model(torch.randn(1, 3, *size), self.texts(3))
        assert logits.shape == (1, 3, *(side // self.stride for side in size))
        assert logits.isfinite().all()

    def test_batch_equals_singles(self, model: SegmentationModel) -> None:
        side = model.patch_size
        images, texts = torch.randn(3, 3, 3 * side, 4 * side), self.texts(4)
        together = model(images, texts)
        for i in range(3):
            # Convolutions may be computed in another order for another batch size.
            alone = model(images[i : i + 1], texts)[0]
            torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)

    def test_permuting_classes_permutes_logits(self, model: SegmentationModel) -> None:
        image, texts, order = torch.randn(1, 3, 32, 32), self.texts(5), torch.randperm(5)
        torch.testing.assert_close(model(image, texts)[:, order], model(image, texts[order]))

    def test_losses_are_of_the_prediction_and_maybe_more(self, model: SegmentationModel) -> None:
        image, texts = torch.randn(2, 3, 64, 32), self.texts(3)
        with torch.no_grad():
            expected, (first, *further) = model(image, texts), model.training_logits(image, texts)
        assert torch.equal(first, expected)
        assert all(logits.shape == first.shape for logits in further)

    def test_scores_are_probabilities(self, model: SegmentationModel) -> None:
        scores = model.scores(model(torch.randn(1, 3, 32, 32), self.texts(4)))
        assert scores.min() >= 0
        assert scores.max() <= 1

    def test_scores_are_as_separate_as_the_model_says(self, model: SegmentationModel) -> None:
        image, texts = torch.randn(1, 3, 32, 32), self.texts(4)
        together = model.scores(model(image, texts))[:, :1]
        alone = model.scores(model(image, texts[:1]))
        assert torch.allclose(together, alone, atol=1e-4) == model.separate_scores

    def test_odd_sides_are_refused(self, model: SegmentationModel) -> None:
        with pytest.raises(ValueError, match="multiples of"):
            model(torch.randn(1, 3, 30, 32), self.texts(2))

    def test_any_image_gets_scores_at_every_pixel(self, model: SegmentationModel) -> None:
        for size in [(1, 1), (7, 53), (33, 32)]:
            scores = image_scores(
                model.eval(), torch.randn(1, 3, *size), self.texts(2), WindowConfig()
            )
            assert scores.shape == (1, 2, *size)
            assert scores.isfinite().all()

    def test_trained_state_restores_the_model(
        self, model: SegmentationModel, tiny_clip_folder: Path
    ) -> None:
        model.train()(torch.randn(2, 3, 64, 64), self.texts(3))  # moves statistics of norm layers
        with torch.no_grad():
            for parameter in model.trained_parameters().values():
                parameter.mul_(1.1)
        torch.manual_seed(1)
        other = build_model(self.config, load_clip(str(tiny_clip_folder)))
        with torch.no_grad():
            for key, value in other.trained_state().items():
                value.copy_(model.trained_state()[key])
        image = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            ours, theirs = model.eval()(image, self.texts(3)), other.eval()(image, self.texts(3))
        assert torch.equal(ours, theirs)

    def test_gradients_reach_trained_parameters_only(self, model: SegmentationModel) -> None:
        trained = model.trained_parameters()
        if not trained:
            pytest.skip("nothing to train")
        frozen = {k: p.clone() for k, p in model.named_parameters() if k not in trained}
        model.train()
        optimizer = torch.optim.SGD(trained.values(), lr=0.1)
        model(torch.randn(2, 3, 32, 32), self.texts(3)).square().mean().backward()
        optimizer.step()
        assert any(p.grad is not None and p.grad.any() for p in trained.values())
        for key, parameter in model.named_parameters():
            if key in frozen:
                assert parameter.grad is None
                assert torch.equal(parameter, frozen[key])


class TestZegCLIP(ModelContract):
    config = ModelConfig(kind="zegclip", zegclip=ZEGCLIP)


class TestShallowPrompts(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, prompt_layers=1))


class TestNoPrompts(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, prompt_layers=0))


class TestFineTunedTower(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, tower="fine_tuned"))


class TestFineTunedTowerWithoutPrompts(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, tower="fine_tuned", prompt_layers=0))


class TestDeeplySupervisedZegCLIP(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, auxiliary_losses=True))


class TestTextQueries(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, relation="text"))


class TestClassTextQueries(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, relation="class_text"))


class TestProductQueries(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, relation="product"))


class TestDifferenceTextQueries(ModelContract):
    config = ModelConfig(zegclip=replace(ZEGCLIP, relation="difference_text"))


class TestOneStageBaseline(ModelContract):
    config = ModelConfig(kind="one_stage")


class TestValuePath(ModelContract):
    config = ModelConfig(kind="dense_clip", dense_clip=DenseClipConfig(attention="value"))


class TestCorrelativeSelfAttention(ModelContract):
    config = ModelConfig(kind="dense_clip", dense_clip=DenseClipConfig(attention="sclip"))


class TestClearAttention(ModelContract):
    config = ModelConfig(kind="dense_clip", dense_clip=DenseClipConfig(attention="clearclip"))


class TestNeighbourAwareAttention(ModelContract):
    config = ModelConfig(kind="dense_clip", dense_clip=DenseClipConfig(attention="naclip"))


class TestSegNeXtStudent(ModelContract):
    config = ModelConfig(kind="student", student=StudentConfig(architecture="segnext", encoder="t"))


class TestSegFormerStudent(ModelContract):
    config = ModelConfig(
        kind="student", student=StudentConfig(architecture="segformer", encoder="tu-test_resnet")
    )
    stride = 4


class TestResidualPyramidStudent(ModelContract):
    config = ModelConfig(kind="student")
    stride = 4

    def test_odd_sides_are_refused(self, model: SegmentationModel) -> None:
        with pytest.raises(ValueError, match="multiples of 4"):
            model(torch.randn(1, 3, 30, 32), self.texts(2))


# --- ZegCLIP -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompts", "millions"), [(10, 10.67), (100, 11.50)], ids=["VOC", "COCO"])
def test_published_number_of_trained_parameters(prompts: int, millions: float) -> None:
    with torch.device("meta"):
        shape = TowerShape(
            width=768, layers=12, heads=12, patch_size=16, grid=(14, 14), embed_dim=512, hidden=3072
        )
        model = ZegCLIP(
            ImageTower(shape),
            DeepPrompts(layers=12, tokens=prompts, width=768, patch_size=16),
            MaskDecoder(512),
            mean=(0, 0, 0),
            std=(1, 1, 1),
        )
    count = sum(p.numel() for p in model.trained_parameters().values())
    assert round(count / 1e6, 2) == millions


def test_prompts_start_within_the_released_range() -> None:
    prompts = DeepPrompts(layers=12, tokens=50, width=768, patch_size=16)
    assert prompts.embeddings.abs().max() <= 0.0625
    assert prompts.embeddings.abs().max() > 0.06


def test_prompt_dropout_differs_between_images_of_a_batch() -> None:
    prompts = DeepPrompts(layers=2, tokens=3, width=8, patch_size=8, dropout=0.5).train()
    first, second = prompts(2)[0]
    assert not torch.equal(first == 0, second == 0)


def test_without_prompts_and_the_quirks_of_the_released_code_the_tower_is_as_it_is(
    tiny_clip: Clip,
) -> None:
    own = replace(ZEGCLIP, prompt_layers=0, prompt_norm=False, double_class_embedding=False)
    model = build_model(ModelConfig(zegclip=own), tiny_clip)
    assert not any("prompt" in key for key in model.state_dict())
    image = torch.randn(2, 3, 24, 40)
    for ours, theirs in zip(model.encode(image), tiny_clip.image_tower(image), strict=True):
        assert torch.equal(ours, theirs)


def test_only_prompted_layers_have_weights_for_prompts(tiny_clip: Clip) -> None:
    own = replace(ZEGCLIP, prompt_layers=1)
    model = build_model(ModelConfig(zegclip=own), tiny_clip)
    assert model.trained_state()["prompts.embeddings"].shape == (1, 3, 32)
    assert all(parameter.grad is None for parameter in model.parameters())
    model(torch.randn(2, 3, 16, 16), torch.eye(3, 16)).square().mean().backward()
    assert model.prompts.embeddings.grad.any()


def test_prompts_for_more_layers_than_the_clip_has_are_refused(tiny_clip: Clip) -> None:
    own = replace(ZEGCLIP, prompt_layers=3)
    message = r"model\.zegclip\.prompt_layers: must be at most the 2 layers of '.*tiny', got 3"
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(zegclip=own), tiny_clip)


@pytest.mark.parametrize("layers", [None, 0])
def test_a_fine_tuned_tower_is_trained_and_saved_and_came_pretrained(
    tiny_clip: Clip, layers: int | None
) -> None:
    own = replace(ZEGCLIP, tower="fine_tuned", prompt_layers=layers)
    model = build_model(ModelConfig(zegclip=own), tiny_clip)
    tower = {f"tower.{key}" for key in tiny_clip.image_tower.state_dict()}
    assert tower <= model.trained_state().keys() == model.state_dict().keys()
    encoder = {id(parameter) for parameter in model.encoder_parameters()}
    assert encoder == {id(parameter) for parameter in model.tower.parameters()}
    model.train()(torch.randn(2, 3, 24, 24), torch.eye(3, 16)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.tower.parameters())


def test_a_frozen_tower_came_pretrained_too_but_does_not_learn(tiny_clip: Clip) -> None:
    model = build_model(ModelConfig(zegclip=ZEGCLIP), tiny_clip)
    assert not list(model.encoder_parameters())
    assert not any(key.startswith("tower.") for key in model.trained_state())


QUERIES = {
    "product_text": lambda g, t: torch.cat([g * t, t]),
    "text": lambda g, t: t,
    "class_text": lambda g, t: torch.cat([g, t]),
    "product": lambda g, t: g * t,
    "difference_text": lambda g, t: torch.cat([(t - g).abs(), t]),
}


@pytest.mark.parametrize("name", list(RELATIONS))
def test_relationship_descriptor_is_its_equation(name: str) -> None:
    descriptor, g = RelationshipDescriptor(4, RELATIONS[name]()), torch.randn(2, 4)
    for t in (torch.randn(3, 4), torch.randn(2, 3, 4)):  # the same for all images, or each its own
        queries = descriptor(g, t)
        assert queries.shape == (2, 3, 4)
        for b in range(2):
            for k in range(3):
                own = t[k] if t.dim() == 2 else t[b, k]
                expected = descriptor.proj(QUERIES[name](g[b], own))
                torch.testing.assert_close(queries[b, k], expected)


def test_queries_of_the_text_alone_are_the_text_and_have_no_weights() -> None:
    descriptor, t = RelationshipDescriptor(4, RELATIONS["text"]()), torch.randn(3, 4)
    assert torch.equal(descriptor(torch.randn(2, 4), t), t.expand(2, 3, 4))
    assert not list(descriptor.parameters())


def test_released_queries_are_the_default() -> None:
    torch.manual_seed(0)
    default = RelationshipDescriptor(4)
    torch.manual_seed(0)
    named = RelationshipDescriptor(4, RELATIONS[ZegClipConfig().relation]())
    g, t = torch.randn(2, 4), torch.randn(3, 4)
    assert torch.equal(default(g, t), named(g, t))


def maps_written_out(decoder: MaskDecoder, queries: Tensor, patches: Tensor) -> list[Tensor]:
    """Return the mask logits of each layer, of two heads with four dimensions each."""
    found = []
    for layer in decoder.layers:
        reads, maps = [], []
        for head in (slice(0, 4), slice(4, 8)):
            q = layer.q(queries)[..., head]
            k, v = layer.k(patches)[..., head], layer.v(patches)[..., head]
            maps.append(q @ k.transpose(1, 2) / 2)
            reads.append(maps[-1].softmax(dim=-1) @ v)
        queries = layer.attention_norm(queries + layer.proj(torch.cat(reads, dim=-1)))
        hidden = layer.linear2(layer.linear1(queries).relu())
        queries = layer.feed_forward_norm(queries + hidden)
        found.append(torch.stack(maps).mean(0))
    return found


def test_mask_decoder_equals_attention_written_out_per_head() -> None:
    decoder = MaskDecoder(8, layers=3, heads=2).eval()
    queries, patches = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    expected = maps_written_out(decoder, queries, patches)
    torch.testing.assert_close(decoder(queries, patches), expected[-1])
    for ours, theirs in zip(decoder.every_layer(queries, patches), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_deep_supervision_looks_at_every_layer_of_the_same_model(tiny_clip: Clip) -> None:
    models = []
    for auxiliary in (False, True):
        torch.manual_seed(0)
        own = replace(ZEGCLIP, auxiliary_losses=auxiliary)
        models.append(build_model(ModelConfig(zegclip=own), tiny_clip))
    plain, deep = models
    for (key, ours), (name, theirs) in zip(
        plain.state_dict().items(), deep.state_dict().items(), strict=True
    ):
        assert key == name
        assert torch.equal(ours, theirs)
    image, texts = torch.randn(2, 3, 24, 40), torch.eye(4, 16)
    assert len(plain.training_logits(image, texts)) == 1
    last, first, second = deep.eval().training_logits(image, texts)
    g, patches = deep.encode(image)
    maps = deep.decoder.every_layer(deep.descriptor(g, texts), patches)
    for ours, theirs in zip((first, second, last), maps, strict=True):
        assert torch.equal(ours, theirs.unflatten(2, (3, 5)))


def test_decoder_layers_start_identical() -> None:
    first, *rest = MaskDecoder(8, heads=2).layers
    for layer in rest:
        for a, b in zip(first.parameters(), layer.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a is not b


def test_double_class_embedding_changes_the_function(tiny_clip_folder: Path) -> None:
    def logits(double: bool) -> Tensor:
        torch.manual_seed(0)
        own = ZegClipConfig(prompt_tokens=3, decoder_heads=2, double_class_embedding=double)
        model = build_model(ModelConfig(zegclip=own), load_clip(str(tiny_clip_folder))).eval()
        return model(torch.ones(1, 3, 32, 32), torch.eye(3, 16))

    assert torch.equal(logits(double=True), logits(double=True))
    assert not torch.allclose(logits(double=True), logits(double=False), atol=1e-4)


def test_prompt_norm_is_trained_and_can_be_left_out(tiny_clip: Clip) -> None:
    model = build_model(ModelConfig(zegclip=ZEGCLIP), tiny_clip).eval()
    assert {"prompt_norm.weight", "prompt_norm.bias"} <= model.trained_parameters().keys()
    image, texts = torch.ones(1, 3, 32, 32), torch.eye(3, 16)
    fresh = model(image, texts)
    with torch.no_grad():
        model.prompt_norm.weight.normal_()
    assert not torch.allclose(model(image, texts), fresh, atol=1e-4)
    without = ZegClipConfig(prompt_tokens=3, decoder_heads=2, prompt_norm=False)
    plain = build_model(ModelConfig(zegclip=without), tiny_clip)
    assert not any("prompt_norm" in key for key in plain.trained_parameters())


def test_normalization_is_a_choice(tiny_clip: Clip) -> None:
    own = build_model(ModelConfig(kind="dense_clip"), tiny_clip)
    imagenet = build_model(ModelConfig(kind="dense_clip", normalization="imagenet"), tiny_clip)
    assert own.mean.tolist() == [0.5, 0.5, 0.5]
    assert imagenet.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


# --- Calibration ---------------------------------------------------------------------------------


def test_penalty_is_taken_from_seen_classes_only() -> None:
    scores = torch.full((1, 3, 2, 2), 0.5)
    calibrated = penalize_seen(scores, torch.tensor([True, False, True]), margin=0.1)
    assert calibrated[0, :, 0, 0].tolist() == pytest.approx([0.4, 0.5, 0.4])
    assert scores.eq(0.5).all()


def test_penalty_needs_one_flag_per_class() -> None:
    with pytest.raises(ValueError, match="2"):
        penalize_seen(torch.zeros(1, 3, 1, 1), torch.tensor([True, False]))


# --- Training-free attention, token by token ------------------------------------------------------


def slow_read(
    tower: ImageTower, tokens: Tensor, weights: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return what one image's tokens read, head by head, with given attention weights."""
    attn = tower.transformer.resblocks[-1].attn
    x = tower.transformer.resblocks[-1].ln_1(tokens[0])
    q, k, v = (x @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, dim=-1)
    heads = []
    for start in range(0, x.shape[1], 16):
        part = slice(start, start + 16)
        scale = 16**-0.5
        heads.append(weights(q[:, part] * scale**0.5, k[:, part] * scale**0.5, v) @ v[:, part])
    return attn.out_proj(torch.cat(heads, dim=-1))


def gaussian(grid: tuple[int, int], spread: float) -> Tensor:
    n = grid[0] * grid[1]
    added = torch.zeros(n + 1, n + 1)
    for i in range(n):
        for j in range(n):
            rows = i // grid[1] - j // grid[1]
            columns = i % grid[1] - j % grid[1]
            added[i + 1, j + 1] = torch.tensor(-(rows**2 + columns**2) / (2 * spread**2)).exp()
    return added


SLOW = {
    "value": (lambda q, k, v: torch.eye(len(q)), True),
    "sclip": (lambda q, k, v: (q @ q.T).softmax(-1) + (k @ k.T).softmax(-1), True),
    "clearclip": (lambda q, k, v: (q @ q.T).softmax(-1), False),
    "naclip": (lambda q, k, v: (k @ k.T + gaussian((2, 3), 5.0)).softmax(-1), False),
}


@pytest.mark.parametrize("name", list(SLOW))
def test_last_layers_equal_their_equations(tiny_clip: Clip, name: str) -> None:
    tower, tokens = tiny_clip.image_tower, torch.randn(1, 7, 32)
    block = tower.transformer.resblocks[-1]
    weights, keeps_residual = SLOW[name]
    expected = slow_read(tower, tokens, weights)
    if keeps_residual:
        expected = tokens[0] + expected
        expected = expected + block.mlp(block.ln_2(expected))
    got = ATTENTIONS[name]()(block, tokens, (2, 3))
    torch.testing.assert_close(got[0], expected)


def test_neighbourhood_narrows_with_its_spread() -> None:
    wide = NeighbourAwareAttention(5.0).neighbourhood((3, 3))
    narrow = NeighbourAwareAttention(1.0).neighbourhood((3, 3))
    assert wide.diagonal().eq(1).all()
    assert (narrow[0, 1:] < wide[0, 1:]).all()


def test_every_attention_differs_from_the_trained_one(tiny_clip: Clip) -> None:
    tower, image = tiny_clip.image_tower, torch.randn(1, 3, 32, 32)
    trained = tower(image)[1]
    objects = (
        ValuePath(),
        CorrelativeSelfAttention(),
        ClearAttention(),
        NeighbourAwareAttention(),
    )
    for attention in objects:
        assert not torch.allclose(tower(image, last_layer=attention)[1], trained, atol=1e-3)


def test_models_are_modules_without_hidden_state(tiny_clip: Clip) -> None:
    model = build_model(ModelConfig(zegclip=ZEGCLIP), tiny_clip)
    assert isinstance(model, nn.Module)
    assert not {"mean", "std"} & model.state_dict().keys()
