"""Text embeddings in memory and on disk: nothing is encoded twice, and nothing stale is given."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import save_tiny_clip
from torch.nn import functional as F

from zegment import text_tower
from zegment.clip_loading import load_clip
from zegment.text_cache import TextCache, cache_folder, tower_identity
from zegment.text_loading import load_text_tower
from zegment.text_tower import TextTower
from zegment.vocabulary import Vocabulary


class Counting:
    """A text encoder that counts; its weights are one number."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight, self.sentences = weight, 0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.sentences += len(tokens.unique(dim=0))  # a batch is filled up with repetitions
        return F.one_hot(tokens[:, 0], 300).float() + self.weight * F.one_hot(tokens[:, 1], 300)


def tokenize(sentences: list[str], length: int) -> torch.Tensor:
    rows = [[*s.encode()[:length], *[0] * max(length - len(s.encode()), 0)] for s in sentences]
    return torch.tensor(rows)


def tower(encoder: Counting, folder: Path | None) -> TextTower:
    cache = TextCache(lambda: f"tower {encoder.weight}", folder)
    return TextTower(encode=encoder, tokenize=tokenize, context_length=32, cache=cache)


NAMES = Vocabulary(class_names=("cat", "dog", "猫"), templates=("{}", "the {}"))


def test_another_process_encodes_nothing_again(tmp_path):
    first, second = Counting(), Counting()
    expected = NAMES.embed(tower(first, tmp_path))
    assert first.sentences == 6
    again = NAMES.embed(tower(second, tmp_path))
    assert second.sentences == 0
    assert torch.equal(again, expected)


def test_a_permuted_vocabulary_gets_its_rows_in_its_order_and_only_new_words_are_encoded(tmp_path):
    first, second = Counting(), Counting()
    expected = NAMES.embed(tower(first, tmp_path))
    other = Vocabulary(class_names=("dog", "cow", "cat"), templates=NAMES.templates)
    rows = other.embed(tower(second, tmp_path))
    assert second.sentences == 2
    assert torch.equal(rows[[2, 0]], expected[:2])


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary(class_names=("cat",), templates=("the {}", "{}")),
        Vocabulary(class_names=("cat",), templates=("{}",)),
        Vocabulary(class_names=("Cat",), templates=NAMES.templates),
        Vocabulary(class_names=("cat",), templates=NAMES.templates, synonyms=(("dog",),)),
    ],
)
def test_other_sentences_are_never_answered_by_these(tmp_path, other):
    NAMES.embed(tower(Counting(), tmp_path))
    encoder = Counting()
    rows = other.embed(tower(encoder, tmp_path))
    assert encoder.sentences > 0
    torch.testing.assert_close(rows, other.embed(tower(Counting(), None)))


def test_another_tower_never_gets_these_rows(tmp_path):
    NAMES.embed(tower(Counting(1), tmp_path))
    encoder = Counting(2)
    NAMES.embed(tower(encoder, tmp_path))
    assert encoder.sentences == 6


def test_identity_changes_with_any_weight_and_not_with_the_way_of_loading(tmp_path, monkeypatch):
    folder = save_tiny_clip(tmp_path / "clip")
    other = save_tiny_clip(tmp_path / "other", seed=1)
    monkeypatch.setenv("ZEGMENT_CACHE", str(tmp_path / "cache"))
    whole = load_clip(str(folder)).text_tower(["cat"])
    encoded = []
    monkeypatch.setattr(
        TextTower, "_embed", lambda self, s, old=TextTower._embed: encoded.extend(s) or old(self, s)
    )
    assert torch.equal(load_text_tower(str(folder))(["cat"]), whole)
    assert encoded == []
    different = load_text_tower(str(other))(["cat"])
    assert encoded == ["cat"]
    assert not torch.allclose(different, whole)
    linear = torch.nn.Linear(2, 2)
    before = tower_identity(linear)
    with torch.no_grad():
        linear.bias[1] += 1e-6
    assert tower_identity(linear) != before


def test_a_row_does_not_depend_on_what_was_encoded_with_it(tmp_path):
    folder = save_tiny_clip(tmp_path / "clip")
    words = [f"thing {i}" for i in range(21)]
    together = load_text_tower(str(folder))(words)
    apart = load_text_tower(str(folder))
    assert torch.equal(torch.cat([apart([word]) for word in reversed(words)]).flip(0), together)


def test_a_damaged_cache_is_made_anew(tmp_path):
    NAMES.embed(tower(Counting(), tmp_path))
    (file,) = tmp_path.glob("*.sqlite")
    file.write_bytes(b"no database" * 500)
    NAMES.embed(tower(Counting(), tmp_path))
    encoder = Counting()
    NAMES.embed(tower(encoder, tmp_path))
    assert encoder.sentences == 0


@pytest.mark.parametrize("damage", ["text", "truncated", "folder", "rows", "read-only name"])
def test_a_cache_that_cannot_be_used_changes_nothing(tmp_path, damage):
    expected = NAMES.embed(tower(Counting(), tmp_path))
    (file,) = tmp_path.glob("*.sqlite")
    if damage == "text":
        file.write_text("no database")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "rows":
        with sqlite3.connect(file) as database:
            database.execute("UPDATE rows SET row = x'00000000'")
    folder = file if damage == "read-only name" else tmp_path
    torch.testing.assert_close(NAMES.embed(tower(Counting(), folder)), expected)


def test_the_oldest_rows_go(tmp_path, monkeypatch):
    monkeypatch.setattr("zegment.text_cache.MOST_ROWS", 3)
    words = [chr(97 + i) * 2 for i in range(5)]
    for word in words:
        tower(Counting(), tmp_path)([word])
    encoder = Counting()
    tower(encoder, tmp_path)(words[2:])
    assert encoder.sentences == 0
    tower(encoder, tmp_path)(words[:2])
    assert encoder.sentences == 2


def test_memory_is_bounded_and_every_row_is_still_right(monkeypatch):
    monkeypatch.setattr(text_tower, "MOST_REMEMBERED", 4)
    encoder = Counting()
    small, words = tower(encoder, None), [chr(97 + i) * 2 for i in range(9)]
    torch.testing.assert_close(small(words), tower(Counting(), None)(words))
    assert len(small._memory) == 4


def test_ten_thousand_names_are_encoded_in_batches(tmp_path):
    encoder = Counting()
    names = tuple(f"{chr(65 + i % 26)}{chr(65 + i // 26 % 26)} {i}" for i in range(10_000))
    many = Vocabulary(class_names=names, templates=("{}",))
    rows = many.embed(tower(encoder, tmp_path))
    assert rows.shape == (10_000, 300)
    assert encoder.sentences == 10_000
    assert torch.equal(many.embed(tower(encoder, tmp_path)), rows)
    assert encoder.sentences == 10_000


def test_two_processes_may_write_at_once(tmp_path):
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from zegment.text_cache import TextCache\n"
        "cache = TextCache(lambda: 'one', Path(sys.argv[1]))\n"
        "for i in range(60):\n"
        "    cache.write({(f'{sys.argv[2]} {i}',): torch.ones(1)})\n"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name])
        for name in ("left", "right")
    ]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    groups = [(f"{name} {i}",) for name in ("left", "right") for i in range(60)]
    assert len(TextCache(lambda: "one", tmp_path).read(groups)) == 120


def test_where_the_cache_lies_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("ZEGMENT_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.setenv("ZEGMENT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ZEGMENT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "zegment"
