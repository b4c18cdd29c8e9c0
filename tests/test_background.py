"""Policies for pixels that show none of the classes, and the threshold that a few masks choose."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zegment import cli
from zegment.background import (
    HELPERS,
    HelperClasses,
    NoBackground,
    Threshold,
    parse_background,
)
from zegment.data.shapes import ShapesDataset
from zegment.errors import ConfigError, DatasetError, VocabularyError
from zegment.metrics import UNKNOWN, ConfusionMatrix, report
from zegment.segmenter import Segmenter, load
from zegment.threshold_fitting import THRESHOLDS, fit_threshold
from zegment.vocabulary import Vocabulary

NAMES = ("ball", "sand", "water", "kite")


@pytest.fixture(scope="module", params=["shapes-zegclip", "shapes-clip", "shapes-clip-zss"])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return load(request.param)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = ShapesDataset("val", length=6, size=64)
    items = [dataset[i] for i in range(len(dataset))]
    return [(image.permute(1, 2, 0).numpy(), label.numpy()) for image, label in items]


def test_without_a_policy_every_pixel_has_a_class(segmenter, scenes) -> None:
    result = segmenter(scenes[0][0], NAMES)
    assert result.background == "none"
    assert result.labels.min() >= 0


def test_a_threshold_rejects_exactly_what_scores_lower(segmenter, scenes) -> None:
    plain = segmenter(scenes[0][0], NAMES)
    cut = float(np.median(plain.confidence))
    result = segmenter(scenes[0][0], NAMES, background=Threshold(score=cut))
    expected = np.where(plain.confidence < np.float32(cut), UNKNOWN, plain.labels)
    np.testing.assert_array_equal(result.labels, expected)
    assert (result.labels == UNKNOWN).any()
    np.testing.assert_array_equal(result.confidence, plain.confidence)
    assert result.background == f"threshold:{cut}"


def test_helpers_take_what_they_win_and_nothing_else(segmenter, scenes) -> None:
    helpers = ("moon", "grass")
    together = segmenter(scenes[1][0], [*NAMES, *helpers])
    result = segmenter(scenes[1][0], NAMES, background=HelperClasses(names=helpers))
    expected = np.where(together.labels >= len(NAMES), UNKNOWN, together.labels)
    assert (result.labels == expected).mean() > 0.999  # ties between rounding errors
    assert result.class_names == NAMES
    assert result.background == "helpers:moon,grass"


@pytest.mark.parametrize(
    "policy", [Threshold(score=0.999), HelperClasses(names=("moon", "grass", "water"))]
)
def test_a_class_called_background_gets_what_is_rejected(segmenter, scenes, policy) -> None:
    names = ("ball", "background", "sand")
    with_class = segmenter(scenes[0][0], names, background=policy)
    without = segmenter(scenes[0][0], ("ball", "sand"), background=policy)
    ids = np.array([0, 2, 1])  # ball, sand and, last, what is rejected
    np.testing.assert_array_equal(with_class.labels, ids[without.labels])
    assert (with_class.labels == 1).any()


def test_the_word_background_is_never_asked_for_under_a_policy() -> None:
    vocabulary = Vocabulary.of("ball, background, sand")
    for policy in (Threshold(), HelperClasses()):
        asked, labels = policy.asked(vocabulary)
        assert "background" not in asked.class_names
        assert labels[:2] == (0, 2)
    assert NoBackground().asked(vocabulary) == (vocabulary, (0, 1, 2))


def test_a_helper_that_the_user_asks_for_is_the_users() -> None:
    asked, labels = HelperClasses(names=("sky", "couch", "wall")).asked(
        Vocabulary.parse("Sky, sofa|couch")
    )
    assert asked.class_names == ("Sky", "sofa", "wall")
    assert labels == (0, 1, UNKNOWN)


def test_helpers_of_which_none_is_left_are_refused() -> None:
    with pytest.raises(ConfigError, match="every helper"):
        HelperClasses(names=("sky",)).asked(Vocabulary.of("sky, ball"))


@pytest.mark.parametrize("policy", [0.4, ("threshold", 0.4)])
def test_what_is_no_policy_object_is_told_in_one_line(segmenter, policy) -> None:
    with pytest.raises(ConfigError, match=r"give a policy such as Threshold\(score=0\.4\)"):
        segmenter.query(NAMES, background=policy)


def test_names_that_are_one_to_the_text_tower_are_refused(segmenter) -> None:
    with pytest.raises(VocabularyError, match=r"'ball' and 'Ball' are the same"):
        segmenter.query("ball, sand, Ball")
    assert segmenter.query("ball|Ball, sand").vocabulary.synonyms[0] == ("Ball",)


def test_only_background_is_refused() -> None:
    with pytest.raises(VocabularyError, match="the only class"):
        Threshold().asked(Vocabulary.of("background"))


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("none", NoBackground()),
        ("threshold:0.25", Threshold(score=0.25)),
        ("threshold", Threshold()),
        ("helpers", HelperClasses(names=HELPERS)),
        ("helpers:wall, sky", HelperClasses(names=("wall", "sky"))),
        ("helpers:wall|sky", HelperClasses(names=("wall", "sky"))),
        ("threshold:0.25, chosen on mine", Threshold(score=0.25, chosen_on="mine")),
    ],
)
def test_a_policy_is_read_from_its_words(text, policy) -> None:
    assert parse_background(text) == policy
    assert parse_background(policy.describe()) == policy


@pytest.mark.parametrize(
    "text", ["", "nothing", "threshold:high", "threshold:2", "threshold:nan", "none:1", "x.json"]
)
def test_what_is_no_policy_is_refused(text) -> None:
    with pytest.raises(ConfigError, match=r"no policy|no background policy|score from 0 to 1"):
        parse_background(text)


def test_scores_of_the_classes_decide_as_the_labels_do(segmenter, scenes) -> None:
    for policy in (NoBackground(), HelperClasses(names=("moon",)), Threshold(score=0.6)):
        names = ("ball", "background", "sand", "water")
        result = segmenter(scenes[2][0], names, background=policy, extras=("scores",))
        assert result.scores.shape == (4, *result.labels.shape)
        winners = result.scores.argmax(0)
        best = np.sort(result.scores.astype(np.float32), axis=0)
        clear = best[-1] - best[-2] > 2e-3  # beyond the rounding of half precision
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(winners[clear], result.labels[clear])


def test_entropy_is_that_of_the_scores(segmenter, scenes) -> None:
    result = segmenter(scenes[0][0], NAMES, extras=("entropy",))
    query = segmenter.query(NAMES)
    image = torch.from_numpy(scenes[0][0].transpose(2, 0, 1).copy())[None]
    scores = torch.nn.functional.interpolate(
        segmenter.scores(image, query), size=(64, 64), mode="bilinear", align_corners=False
    )[0].double()
    shares = scores / scores.sum(0)
    expected = -(shares * shares.clamp_min(1e-300).log()).sum(0) / np.log(4)
    np.testing.assert_allclose(result.entropy, expected.numpy(), atol=1e-5)
    assert segmenter(scenes[0][0], ["ball"], extras=("entropy",)).entropy.max() == 0


# The threshold that masks choose


def save_pairs(folder: Path, scenes, names, *, rejected: int) -> tuple[Path, Path]:
    """Write scenes whose masks know only some classes of Shapes."""
    all_names = ShapesDataset("val", length=1, size=64).class_names
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
    for i, (image, label) in enumerate(scenes):
        table = np.full(len(all_names), rejected, np.uint8)
        for id_, name in enumerate(names):
            if name in all_names:
                table[all_names.index(name)] = id_
        Image.fromarray(image).save(images / f"{i}.png")
        Image.fromarray(table[label]).save(masks / f"{i}.png")
    return images, masks


def test_the_fitted_curve_is_what_prediction_with_each_threshold_scores(
    tmp_path, scenes, segmenter
) -> None:
    images, masks = save_pairs(tmp_path, scenes, NAMES, rejected=255)
    pairs = [(images / f"{i}.png", masks / f"{i}.png") for i in range(len(scenes))]
    fit = fit_threshold(segmenter, NAMES, pairs, data="mine")
    for place in (0, 250, 431, 700, 1000):
        matrix = ConfusionMatrix(len(NAMES) + 1, ignore_index=65535)
        policy = Threshold(score=float(THRESHOLDS[place]))
        for image, mask in pairs:
            labels = segmenter(image, NAMES, background=policy).labels
            truth = np.asarray(Image.open(mask)).astype(np.int64)
            matrix.update(
                torch.from_numpy(np.where(labels == UNKNOWN, len(NAMES), labels)),
                torch.from_numpy(np.where(truth == 255, len(NAMES), truth)),
            )
        scores = report(matrix, [*NAMES, "none of them"])
        assert fit.miou[place] == pytest.approx(scores.mIoU, abs=1e-9)
    assert fit.miou[round(fit.chosen.score * 1000)] == fit.miou.max()


def test_the_command_fits_and_predict_uses_the_file(tmp_path, scenes, monkeypatch) -> None:
    save_pairs(tmp_path, scenes, ("background", *NAMES), rejected=0)
    monkeypatch.chdir(tmp_path)
    words = f"--classes=background,{','.join(NAMES)}"
    fitted = CliRunner().invoke(
        cli.app,
        ["fit-threshold", "images", "masks", words, "--model=shapes-zegclip", "--out=t.json"],
    )
    assert fitted.exit_code == 0, fitted.output
    record = json.loads(Path("t.json").read_text())
    score = record["background"]["score"]
    assert record["mIoU"] >= record["mIoU_without"]
    assert "images (6 images) with shapes-zegclip" in record["background"]["chosen_on"]
    run = ["predict", "images", words, "--model=shapes-zegclip"]
    by_file = CliRunner().invoke(cli.app, [*run, "--background=t.json", "--out=a"])
    other = CliRunner().invoke(
        cli.app,
        ["predict", "images", "--classes=moon", "--model=shapes-zegclip", "--background=t.json",
         "--out=c"],
    )  # fmt: skip
    assert "chosen for the classes background, ball" in str(other.exception)
    by_hand = CliRunner().invoke(cli.app, [*run, f"--background=threshold:{score}", "--out=b"])
    assert by_file.exit_code == by_hand.exit_code == 0, by_file.output
    assert f"threshold:{score}" in by_file.output
    for i in range(6):
        name = f"{i}.labels.png"
        assert np.array_equal(Image.open(tmp_path / "a" / name), Image.open(tmp_path / "b" / name))
    assert "t.json" in CliRunner().invoke(
        cli.app, ["fit-threshold", "images", "masks", words, "--model=shapes-zegclip",
                  "--out=t.json"],
        standalone_mode=False,
    ).exception.args[0]  # fmt: skip


def test_masks_without_background_choose_no_threshold(tmp_path, scenes) -> None:
    images, masks = save_pairs(tmp_path, scenes, (), rejected=1)
    pairs = [(images / "0.png", masks / "0.png")]
    with pytest.raises(DatasetError, match=r"every pixel .* has a class"):
        fit_threshold(load("shapes-clip-zss"), NAMES, pairs, data="mine")


def test_a_strange_mask_value_is_named(tmp_path, scenes) -> None:
    images, masks = save_pairs(tmp_path, scenes, (), rejected=7)
    pairs = [(images / "0.png", masks / "0.png")]
    with pytest.raises(DatasetError, match=r"0\.png: value 7 found, but there are 4 classes"):
        fit_threshold(load("shapes-clip-zss"), NAMES, pairs, data="mine")
    with pytest.raises(DatasetError, match="every pixel"):
        fit_threshold(load("shapes-clip-zss"), NAMES, pairs, data="mine", ignore_value=7)
