"""The training of the tiny CLIP, on a budget of three steps."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import train_shapes_clip as script
from torch.nn import functional as F

from zegment.clip_loading import load_clip
from zegment.errors import ConfigError, OutputError
from zegment.shapes_clip import Step, gates, learning, train_shapes_clip
from zegment.shapes_clip.batches import CaptionedBatches
from zegment.shapes_clip.gates import Gates, area_under_curve
from zegment.shapes_clip.learning import Schedule, build_optimizer, contrastive_loss
from zegment.shapes_clip.recipe import PHASES, Phase, shared_phases, warmup_steps
from zegment.shapes_clip.towers import build_model, resize_positions

TINY = tuple(
    Phase(size=size, batch_size=4, images=images, max_things=things)
    for size, images, things in ((16, 8, 1), (16, 4, 4), (24, 4, 4))
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the budget four steps, and measure on a few scenes."""
    monkeypatch.setattr("zegment.shapes_clip.recipe.PHASES", TINY)
    monkeypatch.setattr("zegment.shapes_clip.saving.PHASES", TINY)
    for name in ("SCENES", "SINGLES", "CAPTIONED"):
        monkeypatch.setattr(gates, name, 40)


def weights(folder: Path) -> bytes:
    return (folder / "open_clip_model.safetensors").read_bytes()


def test_the_folder_is_a_clip_that_loads(tiny, tmp_path: Path) -> None:
    steps: list[Step] = []
    before = torch.get_rng_state()
    found = train_shapes_clip(tmp_path / "clip", on_step=steps.append)
    assert torch.equal(torch.get_rng_state(), before), "the caller's chance is left alone"
    assert [(s.size, s.step, s.steps, s.images) for s in steps] == [
        (16, 1, 2, 4), (16, 2, 2, 8), (16, 1, 1, 12), (24, 1, 1, 16),
    ]  # fmt: skip
    assert steps[0].total == 16
    clip = load_clip(str(tmp_path / "clip"))
    assert clip.image_tower.shape.grid == (3, 3)
    assert clip.text_tower(["a photo of a moon"]).shape == (1, 128)
    log = json.loads((tmp_path / "clip" / "training.json").read_text())
    assert log["gates"]["text_cosine"] == found.text_cosine
    assert log["curve"][-1]["images"] == 16
    assert log["curve"][0]["loss"] == pytest.approx((steps[0].loss + steps[1].loss) / 2, abs=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_others(tiny, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        train_shapes_clip(tmp_path / name, seed=seed)
    assert weights(tmp_path / "one") == weights(tmp_path / "again")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")


def test_an_interrupted_training_leaves_nothing(tiny, tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if step.images == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_shapes_clip(tmp_path / "clip", on_step=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_before_the_training(tiny, tmp_path: Path) -> None:
    def never(step: Step) -> None:
        raise AssertionError(step)

    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(OutputError, match="give a new folder"):
            train_shapes_clip(out, on_step=never)
    for share in (0.0, -1.0, 1e-5, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"share of the images is .*; expected"):
            train_shapes_clip(tmp_path / "clip", share=share, on_step=never)
    with pytest.raises(ConfigError, match="seed is -1"):
        train_shapes_clip(tmp_path / "clip", seed=-1, on_step=never)


def test_a_share_scales_every_phase() -> None:
    assert shared_phases(1.0) == PHASES
    assert [phase.images for phase in shared_phases(0.25)] == [13_500, 16_500, 6_250]
    assert [phase.images for phase in shared_phases(10)] == [540_000, 660_000, 250_000]


@pytest.mark.parametrize("passes", [True, False])
def test_the_script_keeps_good_weights_in_place(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, passes: bool
) -> None:
    monkeypatch.setattr(Gates, "passed", lambda self: passes)
    out = tmp_path / "clip"
    for seed in ("1", "2"):
        before = weights(out) if out.exists() else b""
        arguments = ["x", "--out", str(out), "--scale", "1", "--device", "cpu", "--seed", seed]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == (0 if passes else 1)
        assert (weights(out) != before) if passes else not out.exists()
    assert "24 px  step 1/1  loss" in capsys.readouterr().out
    assert (tmp_path / "clip-failed").exists() != passes


# The parts


def test_a_caption_is_true_of_an_image_that_shows_all_it_names() -> None:
    phase = Phase(size=32, batch_size=12, images=13, max_things=4)
    batches = list(CaptionedBatches(phase, seed=5))
    assert len(batches) == 2
    images, tokens, true_of = batches[1]
    assert (images.shape, tokens.shape, true_of.shape) == ((12, 3, 32, 32), (12, 32), (12, 12))
    assert true_of.diagonal().all()
    from zegment.data import shapes

    scenes = shapes.draw_scenes(5, range(12, 24), size=32, max_things=4)
    words = CaptionedBatches(phase, seed=5).tokenizer
    for j in range(12):
        named = shapes.mentioned(words.decode(tokens[j].tolist()))
        for i in range(12):
            shown = {n for n, v in zip(shapes.CLASS_NAMES, scenes.visible[i], strict=True) if v}
            assert bool(true_of[i, j]) == (set(named) <= shown)


def test_the_loss_equals_a_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(5, 7, generator=generator), dim=1) for _ in range(2))
    true_of = torch.rand(5, 5, generator=generator) < 0.3
    true_of.fill_diagonal_(True)
    total = 0.0
    for i in range(5):
        own = math.exp(9 * float(images[i] @ texts[i]))
        for pairs in ([(i, j) for j in range(5)], [(j, i) for j in range(5)]):
            rivals = [(a, b) for a, b in pairs if a == b or not true_of[a, b]]
            total -= math.log(
                own / sum(math.exp(9 * float(images[a] @ texts[b])) for a, b in rivals)
            )
    loss = contrastive_loss(images, texts, torch.tensor(9.0), true_of)
    assert float(loss) == pytest.approx(total / 10, rel=1e-5)


def test_words_that_no_caption_holds_are_not_decayed() -> None:
    model = build_model(16)
    decayed, kept = build_optimizer(model).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    assert any(p is model.token_embedding.weight for p in kept["params"])
    assert all(p.ndim >= 2 for p in decayed["params"])


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    schedule = Schedule(before=0, total=1000, warmup=40)
    assert schedule.learning_rate(0, 0) == pytest.approx(1e-3 / 40)
    assert schedule.learning_rate(40, 0) == pytest.approx(1e-3)
    assert schedule.learning_rate(400, 500) == pytest.approx(1e-3 * 0.51)
    assert schedule.learning_rate(400, 1200) == pytest.approx(1e-3 * 0.02)


def test_a_smaller_budget_warms_up_as_much_more_quickly() -> None:
    assert [warmup_steps(share) for share in (1.0, 0.25, 0.05, 1e-4, 10)] == [40, 10, 2, 1, 40]


def test_positions_of_another_grid_are_interpolated() -> None:
    positions = torch.randn(1 + 9, 4)
    assert resize_positions(positions, 3) is positions
    larger = resize_positions(positions, 6)
    assert larger.shape == (37, 4)
    assert torch.equal(larger[0], positions[0])
    expected = F.interpolate(
        positions[1:].view(3, 3, 4).permute(2, 0, 1)[None], (6, 6), mode="bicubic"
    )[0].permute(1, 2, 0)
    torch.testing.assert_close(larger[1:].view(6, 6, 4), expected)


def test_area_under_the_curve_by_hand() -> None:
    import numpy as np

    scores, present = np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])
    assert area_under_curve(scores, present) == 3 / 4


def test_gates_ask_for_names_apart_things_and_stuff() -> None:
    from dataclasses import replace

    good = Gates(
        text_cosine=0.5, thing_top1=0.9, thing_auc=0.95, stuff_auc=0.999, unseen_auc=0.0,
        odd_look_top1=0.0, recall_at_1=0.0, recall_at_5=0.0,
    )  # fmt: skip
    assert good.passed()
    for change in ({"text_cosine": 0.91}, {"thing_top1": 0.8}, {"thing_auc": 0.9},
                   {"stuff_auc": 0.99}):  # fmt: skip
        assert not replace(good, **change).passed()


def test_numbers_are_short_only_where_the_processor_has_them(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, native in (("short", True), ("long", False)):
        monkeypatch.setattr(learning, "is_native", lambda *_, native=native: native)
        train_shapes_clip(tmp_path / name)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    train_shapes_clip(tmp_path / "none")
    assert weights(tmp_path / "long") == weights(tmp_path / "none")
    assert weights(tmp_path / "long") != weights(tmp_path / "short")
