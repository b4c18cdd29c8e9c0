"""Properties on a few generated examples each, from a fixed seed; `soaks.properties` has more."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from soaks import properties, properties_learning
from soaks.properties_flip import check_mirror
from soaks.properties_labels import DENSE, running
from soaks.property_running import Property, holds

from zegment import clip_zss, results
from zegment.background import HelperClasses, Threshold, parse_background, read_background
from zegment.calibration import read_calibration
from zegment.config import WindowConfig
from zegment.data.shapes import CLASS_NAMES, ShapesDataset
from zegment.errors import ConfigError
from zegment.formats import brush, fiftyone
from zegment.inference import decisions, windows
from zegment.metrics import ConfusionMatrix
from zegment.objectives import SoftmaxCrossEntropy
from zegment.query import Query

BY_NAME = {one.check.__name__: one for one in properties.PROPERTIES}


def installed(name: str) -> Property:
    for module in BY_NAME[name].needs:
        pytest.importorskip(module)
    return BY_NAME[name]


@pytest.mark.parametrize("name", BY_NAME)
def test_property(name: str) -> None:
    one = installed(name)
    assert one.hold() >= one.short // 2


# What is broken is found


def next_class(query: Query, winners: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return query.labels[(winners + 1) % len(query.labels)]


def with_gaps(length: int, size: int, stride: int) -> list[int]:
    return list(range(0, max(length - size, 0) + 1, stride))


def smallest(scores: torch.Tensor) -> Any:
    return scores.min(dim=1)


def only_the_first(place: object, judgement: object) -> torch.Tensor:
    return torch.tensor([0])


def one_more(matrix: ConfusionMatrix, prediction: torch.Tensor, label: torch.Tensor) -> None:
    matrix.state[0, 0] += 1


def over_annotations(target: torch.Tensor, groups: torch.Tensor, *, num_seen: int) -> torch.Tensor:
    return torch.where(groups >= 0, groups + num_seen, target)


def mean(loss: SoftmaxCrossEntropy, logits: torch.Tensor, target: Any, count: Any) -> Any:
    return {"loss_ce": logits.square().mean()}


def of_eight_bits(labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    return (labels + 1).astype(np.uint8)


BROKEN = {
    "a_class_that_wins_nowhere_can_be_left_out": (Query, "decide", next_class),
    "windows_cover_every_pixel_and_stretches_name_each_that_does": (
        windows, "window_starts", with_gaps,
    ),
    "winners_are_those_of_all_scores_at_all_pixels": (decisions, "_candidates", only_the_first),
    "of_given_scores_the_first_largest_wins_and_what_never_wins_changes_nothing": (
        decisions, "_first_largest", smallest,
    ),
    "metrics_are_the_sum_over_batches_in_any_order_and_over_processes": (
        ConfusionMatrix, "update", one_more,
    ),
    "index_pictures_give_back_the_label_map": (results, "unknown_id", lambda classes: 0),
    "archives_of_cvat_and_folders_of_fiftyone_give_back_the_label_maps": (
        fiftyone, "shifted", of_eight_bits,
    ),
    "brushes_of_label_studio_give_back_the_label_map": (brush, "_LONGEST_RUN", 1 << 17),
    "any_groups_at_all_leave_annotated_pixels_as_they_are": (
        properties_learning, "fuse_labels", over_annotations,
    ),
    "fused_labels_keep_annotated_pixels_and_know_of_no_unseen_class": (
        clip_zss, "fuse_labels", lambda target, groups, num_seen: target.roll(1, 2),
    ),
    "losses_of_parts_add_up_and_the_order_of_images_and_classes_does_not_matter": (
        SoftmaxCrossEntropy, "__call__", mean,
    ),
    "a_background_policy_and_a_calibration_are_read_back": (
        Threshold, "describe", lambda policy: f"threshold:{policy.score:.2f}",
    ),
}  # fmt: skip
"""By property: where, which name, and what stands there instead."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_property_fails_when_what_it_is_about_is_broken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = installed(name)
    place, attribute, instead = BROKEN[name]
    monkeypatch.setattr(place, attribute, instead)
    with pytest.raises((AssertionError, ValueError, IndexError, ConfigError)):
        one.hold(shrink=False)


def test_a_model_that_is_not_its_own_mirror_image_is_found_out() -> None:
    scene = np.ascontiguousarray(ShapesDataset("val", length=1)[0][0].permute(1, 2, 0).numpy())
    with pytest.raises(AssertionError):
        check_mirror(running(DENSE, WindowConfig()), scene, list(CLASS_NAMES), -1)


# The running itself


def test_a_seed_decides_about_the_examples_and_a_failure_names_the_smallest() -> None:
    met: list[int] = []

    @holds(short=20, published=20, number=st.integers(0, 10**6))
    def numbers_are_small(number: int) -> None:
        met.append(number)
        assert number < 1000

    def first(seed: int) -> list[int]:
        met.clear()
        with pytest.raises(AssertionError) as found:
            numbers_are_small.hold(examples=200, seed=seed)
        assert "number=1000" in " ".join(found.value.__notes__)
        return list(met)

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_a_soak_reports_examples_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    @holds(short=1, published=50, number=st.integers())
    def numbers_are_whole(number: int) -> None:
        assert number == int(number)

    @holds(short=1, published=50, number=st.integers())
    def numbers_are_positive(number: int) -> None:
        assert number > 0, "no"

    @holds(short=1, published=50, needs=("no_such_module",), number=st.integers())
    def numbers_are_known(number: int) -> None:
        raise NotImplementedError

    chosen = (numbers_are_whole, numbers_are_positive, numbers_are_known)
    monkeypatch.setattr(properties, "PROPERTIES", chosen)
    figures = properties.soak(amount=0.5, seed=3)
    assert [row["examples"] for row in figures["by_property"]] == [25, 0, 0]
    assert figures["examples"] == 25
    positive, known = figures["failures"]
    assert positive.startswith("numbers are positive (seed 3): AssertionError: no")
    assert "number=0" in positive
    assert (
        known == "numbers are known (seed 3): not checked, because no_such_module is not installed"
    )


# Faults that were found


@pytest.mark.parametrize(
    "policy", [HelperClasses(names=("wall.json",)), Threshold(score=0.5, chosen_on="a.json")]
)
def test_words_of_a_policy_that_end_like_a_file_are_no_file(policy: Threshold) -> None:
    assert parse_background(policy.describe()) == policy


@pytest.mark.parametrize("value", ["[" * 100_000, "1" + "0" * 400, "1" + "0" * 5000, '"1e400"'])
def test_numbers_and_depths_that_no_fit_writes_are_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_text(f'{{"chosen": {{"seen_penalty": {value}, "chosen_on": ""}}}}')
    with pytest.raises(ConfigError, match=r"no calibration|seen_penalty must be"):
        read_calibration(path)
    path.write_text(
        f'{{"background": {{"policy": "threshold", "score": {value}, "chosen_on": "", '
        '"classes": []}}'
    )
    with pytest.raises(ConfigError, match="no background policy"):
        read_background(path)
