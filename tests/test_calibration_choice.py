"""A penalty chosen without a label of an unseen class: by hand, and deaf to those labels."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zegment import cli
from zegment.calibration import Calibration, read_calibration
from zegment.calibration_choice import Blind, BlindScores, ByMasks
from zegment.calibration_sweep import sweep_calibration
from zegment.data import IGNORE_INDEX
from zegment.data.shapes import CLASS_NAMES, UNSEEN, ShapesDataset
from zegment.errors import ConfigError
from zegment.segmenter import Segmenter, load

UNSEEN_IDS = [CLASS_NAMES.index(name) for name in UNSEEN]


@pytest.fixture(scope="module")
def zegclip() -> Segmenter:
    return load("shapes-zegclip")


class Relabelled:
    """Scenes of Shapes whose labels of unseen classes are something else."""

    class_names, unseen = CLASS_NAMES, UNSEEN

    def __init__(self, scenes: ShapesDataset, table: dict[int, int]) -> None:
        self.scenes, self.table = scenes, table

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.scenes[index]
        changed = label.clone()
        for before, after in self.table.items():
            changed[label == before] = after
        return image, changed

    def name(self, index: int) -> str:
        return self.scenes.name(index)

    def check(self) -> None:
        pass


SEEN = (True, True, False, False)
LABEL = torch.tensor([[0, 0, 1, 1, 1, 1], [2, 3, IGNORE_INDEX, 2, 3, 3]])
PREDICTION = torch.tensor([[0, 2, 1, 0, 0, 3], [2, 2, 0, 3, 1, 3]])


def test_the_guard_leaves_seen_classes_and_hides_all_else() -> None:
    assert Blind().guard(SEEN)(LABEL).tolist() == [[0, 0, 1, 1, 1, 1], [4] * 6]
    scattered = (False, True, False, True)
    assert Blind().guard(scattered)(LABEL).tolist() == [
        [4, 4, 1, 1, 1, 1], [4, 3, 4, 4, 3, 3],
    ]  # fmt: skip
    assert ByMasks().guard(SEEN)(LABEL) is LABEL


def test_blind_scores_by_hand() -> None:
    chooser = Blind()
    matrix = chooser.matrix(4)
    matrix.update(PREDICTION, chooser.guard(SEEN)(LABEL))
    found = chooser.scores(matrix, "abcd", SEEN)
    # Of two annotated pixels of a, one is right and one gets an unseen name; of four of b, one is.
    assert found.mAcc_seen == (1 / 2 + 1 / 4) / 2
    assert found.named_unseen == 4 / 6
    assert (found.unannotated, found.expected) == (1 / 2, 1 / 2)
    a, b = found.mAcc_seen, found.named_unseen
    assert found.balance == chooser.value(found) == pytest.approx(2 * a * b / (a + b))


def test_what_one_kind_of_pixels_lacks_is_an_error() -> None:
    chooser = Blind()
    for label, kind in ((0, "unannotated"), (3, "annotated")):
        matrix = chooser.matrix(4)
        matrix.update(PREDICTION, chooser.guard(SEEN)(torch.full_like(PREDICTION, label)))
        with pytest.raises(ConfigError, match=f"no pixel is {kind}"):
            chooser.scores(matrix, "abcd", SEEN)


@pytest.mark.parametrize(
    "table",
    [
        dict(zip(UNSEEN_IDS, [*UNSEEN_IDS[2:], *UNSEEN_IDS[:2]], strict=True)),
        dict.fromkeys(UNSEEN_IDS, IGNORE_INDEX),
        dict.fromkeys(UNSEEN_IDS, UNSEEN_IDS[0]),
    ],
    ids=["permuted", "removed", "joined"],
)
def test_a_blind_choice_is_the_same_whatever_unseen_labels_say(zegclip, table) -> None:
    scenes, penalties = ShapesDataset("val", length=6), (0.0, 0.1, 0.3)
    options = {"data": "shapes/val", "penalties": penalties}
    plain = sweep_calibration(zegclip, scenes, chooser=Blind(), **options)
    other = sweep_calibration(zegclip, Relabelled(scenes, table), chooser=Blind(), **options)
    assert json.dumps(other.to_dict()) == json.dumps(plain.to_dict())
    assert other.picture() == plain.picture()
    by_masks = sweep_calibration(zegclip, Relabelled(scenes, table), **options)
    assert by_masks.to_dict() != sweep_calibration(zegclip, scenes, **options).to_dict()


def test_a_larger_penalty_names_more_pixels_unseen(zegclip) -> None:
    scenes = ShapesDataset("val", length=6)
    swept = sweep_calibration(zegclip, scenes, data="shapes/val", chooser=Blind())
    shares = [score.named_unseen for score in swept.scores]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    values = [score.balance for score in swept.scores]
    assert swept.best.balance == max(values)
    assert swept.chosen.seen_penalty == swept.penalties[values.index(max(values))]


def test_mostly_unannotated_pixels_are_warned_of_unless_most_classes_are_unseen() -> None:
    def scores(unannotated: float, expected: float) -> BlindScores:
        return BlindScores(
            mAcc_seen=0.5, named_unseen=0.5, unannotated=unannotated, expected=expected
        )

    assert Blind().warning(scores(0.25, 0.25)) is None
    assert Blind().warning(scores(0.6, 0.4)) is None
    assert "80.0 % of the pixels are unannotated" in str(Blind().warning(scores(0.8, 0.25)))


def test_the_command_records_who_chose_and_evaluates_with_it(tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli.app, ["evaluate", "shapes-zegclip", *map(str, arguments)])
        if isinstance(result.exception, ConfigError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    other = tmp_path / "short.toml"
    other.write_text("[data]\nval_length = 4\ntest_length = 2\n")
    out = tmp_path / "sweep"
    told = run("--config", other, "--sweep-calibration", out, "--blind")
    assert "chosen on shapes/val, blind:" in told
    record = json.loads((out / "calibration.json").read_text())
    assert record["chosen"]["chosen_by"] == "blind"
    assert set(record["curve"][0]) == {"seen_penalty", "mAcc_seen", "named_unseen", "balance"}
    assert (out / "calibration.png").read_bytes()[:4] == b"\x89PNG"
    chosen = read_calibration(out / "calibration.json")
    assert (chosen.chosen_on, chosen.chosen_by) == ("shapes/val", "blind")
    scores = tmp_path / "scores.json"
    run("--config", other, "--calibration", out / "calibration.json", "--json", scores)
    assert json.loads(scores.read_text())["calibration"] == chosen.to_dict()
    with pytest.raises(ConfigError, match="--blind is a way to choose"):
        run("--blind")


def test_a_choice_by_masks_is_recorded_as_ever() -> None:
    record = Calibration(seen_penalty=0.2, chosen_on="x/val").to_dict()
    assert record == {"seen_penalty": 0.2, "chosen_on": "x/val"}
