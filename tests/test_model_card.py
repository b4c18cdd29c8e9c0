import json
import shutil
from pathlib import Path

import pytest
import yaml
from hub_stub import edited, packaged
from huggingface_hub import ModelCard

from zegment.errors import CheckpointError, ConfigError
from zegment.hub.card import is_unedited, model_card
from zegment.hub.upload import upload_files

PACKAGED = ["shapes-zegclip", "shapes-one-stage", "shapes-clip-zss"]
NASTY = ["<img src=x onerror=alert(1)>", "a: b\n---\nlicense: mit", "*x* [y](http://z.z) `c`|d"]


@pytest.mark.parametrize("name", PACKAGED)
def test_the_card_tells_what_was_measured_and_the_hub_s_own_reader_reads_it(name: str) -> None:
    folder = packaged(name)
    card = ModelCard(
        model_card(folder, repo_id="me/mine", licence="Apache-2.0"), ignore_metadata_errors=False
    )
    scores = json.loads((folder / "metrics.json").read_text())["validation"]
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "zegment"
    assert card.data.pipeline_tag == "image-segmentation"
    told = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert told == {
        key: round(scores[key], 4) for key in ("pAcc", "mIoU", "mIoU_seen", "mIoU_unseen", "hIoU")
    }
    (results,) = {(r.dataset_name, r.dataset_split) for r in card.data.eval_results}
    assert results == ("shapes", "val")
    for words in (f"{scores['hIoU']:.1%}", "Unseen: heart, star, ring, water, brick", "400 images"):
        assert words in card.text
    assert str(Path.home()) not in card.content


def test_names_on_a_card_are_text_and_nothing_else(tmp_path: Path) -> None:
    folder = edited(
        tmp_path, "shapes-zegclip",
        data={"source": "folder", "root": f"/x/{NASTY[0]}{NASTY[1]}"},
        calibration={"chosen_on": NASTY[2]},
    )  # fmt: skip
    vocabulary = {"class_names": NASTY, "seen": NASTY[:1], "templates": ["<b>{}</b>"]}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    scores = {
        "mIoU": 0.25,
        "hIoU": None,
        "pAcc": float("nan"),
        "per_class": dict.fromkeys(NASTY, 1),
    }
    (folder / "metrics.json").write_text(json.dumps({"validation": scores}))
    text = model_card(
        folder, repo_id="me/mine", licence="<i>none: x\n---\nof yours", data_licence="*"
    )
    card = ModelCard(text)
    assert card.data.license == "other"
    assert len(card.data.eval_results) == 1
    assert "---\n" not in card.text
    for mark in ("<img", "<b>", "<i>", "*x*", "](", "http:", "`c`", "|d"):
        assert mark not in card.text
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license_name"] == "i-none-x-of-yours"
    assert "25.0%" in card.text
    assert "nan" not in card.text


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    folder = edited(tmp_path, "shapes-zegclip", data={"source": "folder", "root": "."})
    (folder / "metrics.json").unlink()
    card = ModelCard(model_card(folder, repo_id="me/mine", licence="  "))
    assert card.data.license == "unknown"
    assert card.data.eval_results is None
    for words in ("No licence was given", "No measurement", "Data: not named", "not stated"):
        assert words in card.text


def test_a_calibration_chosen_on_test_data_is_told(tmp_path: Path) -> None:
    folder = edited(tmp_path, "shapes-zegclip", calibration={"chosen_on": "pets/test"})
    assert "chosen on pets/test (chosen on test data: scores" in model_card(folder, repo_id="me/x")


def test_a_card_is_the_same_each_time_and_knows_when_it_was_edited() -> None:
    card = model_card(packaged("shapes-zegclip"), repo_id="me/mine")
    assert card == model_card(packaged("shapes-zegclip"), repo_id="me/mine")
    assert is_unedited(card)
    assert not is_unedited(card.replace("me/mine", "me/other"))
    assert not is_unedited(card + "more\n")
    assert not is_unedited("# By hand\n")


def test_a_damaged_table_is_an_error_and_not_half_a_card(tmp_path: Path) -> None:
    folder = shutil.copytree(packaged("shapes-zegclip"), tmp_path / "run")
    (folder / "vocabulary.json").write_text('{"class_names": 3}')
    with pytest.raises(CheckpointError, match="damaged"):
        model_card(folder, repo_id="me/mine")


def test_a_model_on_a_clip_of_this_machine_alone_is_not_pushed(tmp_path: Path) -> None:
    folder = edited(tmp_path, "shapes-zegclip", model={"clip": "/home/ann/clips/tiny"})
    with pytest.raises(ConfigError, match="nobody else has"):
        upload_files(folder, "me/mine")


def test_no_path_of_this_machine_is_uploaded(tmp_path: Path) -> None:
    folder = edited(
        tmp_path,
        "shapes-clip-zss",
        data={
            "source": "folder", "root": "/home/ann/secret/pets", "classes": ["cat", "/dog"],
            "unseen": ["cat"],
            "train": {"images": "/home/ann/secret/a", "masks": "../../ann/secret/b"},
        },
        teaching={"cache": "C:\\Users\\ann\\secret\\tokens"},
        self_training={"start": "~/secret/half"},
        model={"clip": "/home/ann/secret/teacher"},
        calibration={"chosen_on": "pets/val"},
    )  # fmt: skip
    (folder / "metrics.json").write_text(
        json.dumps(
            {"validation": {"mIoU": 0.5, "file": "/home/ann/secret/log", "absent": ["/dog"]}}
        )
    )
    files = upload_files(folder, "me/mine", licence="mit")
    sent = b"".join(c if isinstance(c, bytes) else c.read_bytes() for c in files.values())
    assert b"secret" not in sent
    assert b"/home" not in sent
    header = json.loads(files["config.json"])
    assert header["config"]["data"]["root"] == "pets"
    assert header["config"]["data"]["classes"] == ["cat", "/dog"]
    assert json.loads(files["metrics.json"])["validation"]["absent"] == ["/dog"]
    assert b"Data: pets." in files["README.md"]
