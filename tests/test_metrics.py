import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zegment.metrics import ConfusionMatrix, Scores, report

IGNORE = 255


def matrix_of(prediction, label, num_classes=2, **options) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes, **options)
    matrix.update(
        torch.tensor(prediction, dtype=torch.int64), torch.tensor(label, dtype=torch.int64)
    )
    return matrix


def scores_of(prediction, label, num_classes=2, seen=None) -> Scores:
    names = [f"class {k}" for k in range(num_classes)]
    return report(matrix_of(prediction, label, num_classes), names, seen=seen)


def mean(values):
    values = [value for value in values if value is not None]
    return math.fsum(values) / len(values) if values else None


@st.composite
def maps(draw, num_classes=4):
    size = draw(st.integers(0, 30))
    label = st.sampled_from([*range(num_classes), IGNORE])
    prediction = st.integers(-1, num_classes - 1)
    return (
        draw(st.lists(prediction, min_size=size, max_size=size)),
        draw(st.lists(label, min_size=size, max_size=size)),
    )


@settings(max_examples=60)
@given(maps(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_scores_equal_a_loop_over_pixels(pair, seen):
    pixels = [(p, t) for p, t in zip(*pair, strict=True) if t != IGNORE]
    iou, accuracy = {}, {}
    for k in range(4):
        both = sum(p == k and t == k for p, t in pixels)
        either = sum(k in (p, t) for p, t in pixels)
        truth = sum(t == k for _, t in pixels)
        iou[k] = both / either if either else None
        accuracy[k] = both / truth if truth else None
    s, u = mean(iou[k] for k in iou if seen[k]), mean(iou[k] for k in iou if not seen[k])

    scores = scores_of(*pair, num_classes=4, seen=seen)

    assert scores.pAcc == (mean([p == t for p, t in pixels]))
    assert list(scores.per_class.values()) == list(iou.values())
    assert scores.mAcc == pytest.approx(mean(accuracy.values()))
    assert scores.mIoU == pytest.approx(mean(iou.values()))
    assert scores.mIoU_seen == pytest.approx(s)
    assert scores.mIoU_unseen == pytest.approx(u)
    if s is None or u is None:
        assert scores.hIoU is None
    else:
        assert scores.hIoU == pytest.approx(2 * s * u / (s + u) if s + u else 0)


@given(st.lists(maps(), min_size=1, max_size=4), st.randoms())
@settings(max_examples=30)
def test_counts_are_the_same_whatever_the_batches_order_or_parts(batches, random):
    predictions = [p for prediction, _ in batches for p in prediction]
    labels = [t for _, label in batches for t in label]
    whole = matrix_of(predictions, labels, 4)
    random.shuffle(batches)
    one_by_one, merged = ConfusionMatrix(4), ConfusionMatrix(4)
    for prediction, label in batches:
        one_by_one.update(
            torch.tensor(prediction, dtype=torch.int64), torch.tensor(label, dtype=torch.int64)
        )
        merged.merge(matrix_of(prediction, label, 4))
    assert torch.equal(whole.state, one_by_one.state)
    assert torch.equal(whole.state, merged.state)
    assert whole.state.dtype == torch.int64


def test_two_by_two_by_hand():
    # truth 0 0 0 1, prediction 0 0 1 1: IoU 2/3 and 1/2
    scores = scores_of([[0, 0], [1, 1]], [[0, 0], [0, 1]], seen=[True, False])
    assert scores.pAcc == 3 / 4
    assert scores.mAcc == pytest.approx((2 / 3 + 1) / 2)
    assert scores.per_class == {"class 0": 2 / 3, "class 1": 1 / 2}
    assert scores.mIoU == pytest.approx(7 / 12)
    assert (scores.mIoU_seen, scores.mIoU_unseen) == (2 / 3, 1 / 2)
    assert scores.hIoU == pytest.approx(4 / 7)
    assert scores.absent == scores.no_truth == ()


def test_iou_is_of_the_data_set_not_the_mean_over_images():
    matrix = matrix_of([0, 0, 0, 0], [0, 0, 0, 0])
    matrix.update(torch.tensor([0]), torch.tensor([1]))
    assert report(matrix, ["a", "b"]).per_class == {"a": 4 / 5, "b": 0.0}


def test_rows_are_truth_columns_are_predictions_and_the_last_is_unknown():
    assert matrix_of([0, 1, 1, -1], [0, 0, 0, 1]).state.tolist() == [[1, 2, 0], [0, 0, 1]]


def test_unknown_is_wrong_for_its_class_and_enlarges_no_other():
    scores = scores_of([0, -1, 1, 1], [0, 0, 1, 1])
    assert scores.per_class == {"class 0": 1 / 2, "class 1": 1.0}
    assert scores.pAcc == 3 / 4


def test_ignored_pixels_change_nothing_whatever_was_predicted_there():
    plain = matrix_of([0, 1], [0, 0])
    assert torch.equal(matrix_of([0, 1, 1, 77], [0, 0, IGNORE, IGNORE]).state, plain.state)
    minus = matrix_of([0, 1, 1], [0, 0, -1], ignore_index=-1)
    assert torch.equal(minus.state, plain.state)


def test_an_absent_class_leaves_the_means_and_one_only_predicted_counts_as_zero():
    scores = scores_of([0, 0, 1], [0, 0, 0], num_classes=3)
    assert scores.per_class == {"class 0": 2 / 3, "class 1": 0.0, "class 2": None}
    assert scores.mIoU == pytest.approx(1 / 3)
    assert scores.mAcc == 2 / 3
    assert scores.absent == ("class 2",)
    assert scores.no_truth == ("class 1", "class 2")


def test_nothing_measured_is_none_and_json_ready():
    scores = scores_of([1], [IGNORE], seen=[True, False])
    text = json.dumps(scores.to_dict(), allow_nan=False)
    assert json.loads(text) == {
        **dict.fromkeys(("pAcc", "mAcc", "mIoU", "mIoU_seen", "mIoU_unseen", "hIoU")),
        "per_class": {"class 0": None, "class 1": None},
        "absent": ["class 0", "class 1"],
        "no_truth": ["class 0", "class 1"],
    }


def test_a_dictionary_holds_every_score():
    assert set(scores_of([0], [0]).to_dict()) == set(Scores.__slots__)


def test_the_harmonic_mean_is_zero_when_both_are_and_none_without_both_kinds():
    assert scores_of([1, 0], [0, 1], seen=[True, False]).hIoU == 0
    for seen in (None, [True, True], [False, False]):
        assert scores_of([1, 0], [0, 1], seen=seen).hIoU is None


def test_a_subset_of_classes_has_its_own_mean():
    scores = scores_of([0, 0, 1], [0, 0, 0], num_classes=3)
    assert scores.subset_miou(["class 1", "class 0"]) == pytest.approx(1 / 3)
    assert scores.subset_miou(["class 2", "class 0"]) == 2 / 3
    assert scores.subset_miou(["class 2"]) is None
    with pytest.raises(ValueError, match="no class is called 'sky'; the classes are class 0"):
        scores.subset_miou(["class 0", "sky"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_any_integer_dtype_counts_alike(dtype):
    pair = [0, 1, 1, 0], [0, 1, 0, IGNORE]
    prediction, label = (torch.tensor(ids).to(dtype).view(2, 2) for ids in pair)
    matrix = ConfusionMatrix(2)
    matrix.update(prediction, label)
    assert torch.equal(matrix.state, matrix_of(*pair).state)


def test_a_minus_one_to_ignore_is_not_mistaken_for_a_uint8_255():
    matrix = ConfusionMatrix(300, ignore_index=-1)
    matrix.update(torch.tensor([255]), torch.tensor([255], dtype=torch.uint8))
    assert matrix.state[255, 255] == 1


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        ([2], [0], r"prediction contains 2, but ids of 2 classes run from -1 to 1"),
        ([-2], [0], "prediction contains -2"),
        ([0], [2], r"label contains 2, .* from 0 to 1 \(ignore_index is 255\)"),
        ([0], [-1], "label contains -1"),
        ([0, 1], [0], r"prediction \(2,\) and label \(1,\) differ in shape"),
        ([0.5], [0], "prediction has dtype torch.float32; expected integer"),
        ([0], [True], "label has dtype torch.bool"),
    ],
)
def test_impossible_maps_are_refused_and_leave_the_counts_alone(prediction, label, message):
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=message):
        matrix.update(torch.tensor(prediction), torch.tensor(label))
    assert matrix.state.sum() == 0


def test_an_ignore_index_that_is_a_class_is_refused():
    with pytest.raises(ValueError, match="ignore_index 255 is also the id of one of the 847"):
        ConfusionMatrix(847)
    ConfusionMatrix(255)
    ConfusionMatrix(847, ignore_index=65535)
    with pytest.raises(ValueError, match="at least 1"):
        ConfusionMatrix(0)


def test_matrices_over_different_classes_are_not_added():
    for other in (ConfusionMatrix(3), ConfusionMatrix(2, ignore_index=-1)):
        with pytest.raises(ValueError, match="cannot add"):
            ConfusionMatrix(2).merge(other)


def test_a_copy_on_a_device_has_the_same_counts_of_its_own():
    matrix = matrix_of([0, 1], [0, 0])
    copy = matrix.to("cpu")
    copy.update(torch.tensor([0]), torch.tensor([0]))
    assert matrix.state.sum() == 2
    assert copy.state.sum() == 3
    if torch.cuda.is_available():
        on_gpu = matrix.to("cuda")
        on_gpu.merge(matrix)
        assert on_gpu.state.device.type == "cuda"
        assert torch.equal(on_gpu.state.cpu(), 2 * matrix.state)


def test_names_and_seen_flags_must_fit_the_matrix():
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="class_names has 1 entries"):
        report(matrix, ["a"])
    with pytest.raises(ValueError, match="2 entries, 1 of them different"):
        report(matrix, ["a", "a"])
    with pytest.raises(ValueError, match="seen has 3 entries; the matrix has 2"):
        report(matrix, ["a", "b"], seen=[True, False, True])
