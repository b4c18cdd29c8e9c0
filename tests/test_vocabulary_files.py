"""Vocabularies from files and data sets; synonyms, plurals, colours."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zegment.calibration import Calibration
from zegment.colours import class_colours
from zegment.data.classes import class_set, class_set_names
from zegment.errors import VocabularyError
from zegment.inference.fields import best_name
from zegment.results import legend
from zegment.segmenter import load
from zegment.vocabulary import Vocabulary, checks, files
from zegment.vocabulary.templates import TEMPLATES

CLASSES = Vocabulary(
    class_names=("sky", "sofa", "cat"),
    synonyms=((), ("couch", "settee"), ("kitten",)),
    colours=(None, (176, 196, 222), None),
    combine="max",
)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "words.toml",
            'combine = "max"\nclasses = ["sky", {name = "sofa", synonyms = ["couch", "settee"], '
            'colour = "#b0c4de"}, {name = " cat ", synonyms = ["kitten"]}]',
        ),
        (
            "words.json",
            json.dumps(
                {
                    "combine": "max",
                    "classes": [
                        {"id": 0, "name": "sky"},
                        {
                            "id": 1,
                            "name": "sofa",
                            "synonyms": ["couch", "settee"],
                            "colour": [176, 196, 222],
                        },
                        {"name": "cat", "synonyms": ["kitten"]},
                    ],
                }
            ),
        ),
    ],
)
def test_a_table_describes_classes(tmp_path, name, text):
    path = write(tmp_path, name, text)
    assert Vocabulary.of(path) == Vocabulary.of(str(path)) == CLASSES


def test_a_text_file_has_a_class_a_line(tmp_path):
    text = "\ufeff# what we look for\nsky\n\nsofa, couch , settee # furniture\r\nC#\n猫\n"
    vocabulary = Vocabulary.of(write(tmp_path, "words.txt", text))
    assert vocabulary.class_names == ("sky", "sofa", "C#", "猫")
    assert vocabulary.synonyms == ((), ("couch", "settee"), (), ())


def test_bars_separate_the_names_of_a_class():
    assert Vocabulary.parse("sky, sofa|couch | settee, cat|kitten") == Vocabulary(
        class_names=CLASSES.class_names, synonyms=CLASSES.synonyms
    )


@given(
    st.lists(
        st.lists(
            st.text(st.characters(categories=("L", "N", "S")), min_size=1, max_size=6),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_names_survive_json_in_order(tmp_path_factory, classes):
    flat = [name for names in classes for name in names]
    entries = [{"name": name, "synonyms": others} for name, *others in classes]
    path = write(tmp_path_factory.mktemp("json"), "v.json", json.dumps(entries))
    try:
        vocabulary = Vocabulary.of(path)
    except VocabularyError as error:
        assert "twice" in str(error)  # noqa: PT017 - only what occurs twice may fail
        return
    assert vocabulary.names == tuple(tuple(names) for names in classes)
    assert len(set(flat)) == len(flat)


def test_a_legend_that_was_written_is_a_vocabulary(tmp_path):
    colours = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    entries = legend(["cat", "sofa"], colours, [[], ["couch"]])
    vocabulary = Vocabulary.of(write(tmp_path, "legend.json", json.dumps(entries)))
    assert vocabulary.names == (("cat",), ("sofa", "couch"))
    np.testing.assert_array_equal(vocabulary.palette(), colours)


def test_the_record_of_a_run_is_its_whole_vocabulary(tmp_path):
    record = {"background": "none", "vocabulary": asdict(CLASSES)}
    assert Vocabulary.of(write(tmp_path, "run.json", json.dumps(record))) == CLASSES


def test_what_looks_like_a_file_is_never_taken_for_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "WORDS.TXT", "cat")
    assert Vocabulary.of("WORDS.TXT").class_names == ("cat",)
    write(tmp_path, "words.csv", "cat")
    with pytest.raises(VocabularyError, match=r"words\.csv' is no list"):
        Vocabulary.of("words.csv")
    assert Vocabulary.of("VOC") == Vocabulary.of("voc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some/dir/words", r"'some/dir/words' is no list of classes; give one file that ends in"),
        ("/etc/", "'/etc' is no list"),
        ("wrods.csv", r"'wrods\.csv' is no list of classes; give one file that ends in"),
        (" classes.YAML", r"'classes\.YAML' is no list of classes; give one file that ends in"),
        ("some/dir/wrods.txt", r"no list of classes 'some/dir/wrods\.txt'; check the path"),
        (" wrods.TXT ", r"no list of classes 'wrods\.TXT'"),
        ("cat, words.txt", r"no list of classes 'cat, words\.txt'"),
        ("words.json, cat", r"'words\.json, cat' is no list of classes; give one file"),
        ("sofa|words.toml, cat", "is no list of classes; give one file"),
    ],
)
def test_a_misspelt_file_is_never_taken_for_a_word(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "words.txt", "cat")
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.of(text)


def test_a_slash_is_a_part_of_a_name_among_others_and_a_comma_of_the_name_of_a_file(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert Vocabulary.of("sky/cloud, road").class_names == ("sky/cloud", "road")
    assert Vocabulary.of("sky/cloud|sky").names == (("sky/cloud", "sky"),)
    assert Vocabulary.of(["sky/cloud"]).class_names == ("sky/cloud",)
    assert Vocabulary.of("st. bernard, e.json-like").class_names[1] == "e.json-like"
    write(tmp_path, "sky, road.txt", "sky/cloud")
    assert Vocabulary.of("sky, road.txt").class_names == ("sky/cloud",)


@pytest.mark.parametrize("name", class_set_names())
def test_the_name_of_a_data_set_stands_for_its_classes(name):
    vocabulary = Vocabulary.of(name)
    assert vocabulary.class_names == class_set(name).spelled("cleaned").names
    assert len(vocabulary.palette()) == len(vocabulary.class_names)


def test_templates_of_the_file_outrank_the_usual_ones(tmp_path):
    path = write(tmp_path, "a.toml", 'classes = ["cat"]\ntemplates = "zegclip15"')
    assert Vocabulary.of(path, templates=("the {}",)).templates == TEMPLATES["zegclip15"]
    path = write(tmp_path, "b.toml", 'classes = ["cat"]\ntemplates = ["one {}", "two {}"]')
    assert Vocabulary.of(path).templates == ("one {}", "two {}")
    assert Vocabulary.of(write(tmp_path, "c.txt", "cat"), templates=("the {}",)).templates == (
        "the {}",
    )


def test_there_are_one_fifteen_and_eighty_templates():
    assert {name: len(TEMPLATES[name]) for name in TEMPLATES} == {
        "single": 1,
        "zegclip15": 15,
        "imagenet80": 80,
    }
    assert len(set(TEMPLATES["imagenet80"])) == 80
    assert "itap of my {}." in TEMPLATES["imagenet80"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "classes = [", "cannot read .*; correct it"),
        ("a.toml", "names = ['cat']", '"names" means nothing here'),
        ("a.toml", "clases = ['cat']", 'did you mean "classes"'),
        ("a.toml", "templates = 'single'", "no list of classes"),
        ("a.toml", "classes = []", "no class name"),
        ("a.toml", "classes = [3]", "class 0 .* is 3"),
        ("a.toml", "classes = [{synonyms = ['x']}]", "class 0"),
        ("a.toml", "classes = [{name = 'cat', synonyms = 'x'}]", "synonyms of 'cat'"),
        ("a.toml", "classes = [{name = 'cat', colour = 'red'}]", "colour of 'cat'"),
        ("a.toml", "classes = [{name = 'cat', colour = [1, 2, 300]}]", "from 0 to 255"),
        ("a.toml", "classes = [{name = 'cat', id = 1}]", "has id 1 and stands at place 0"),
        ("a.toml", "classes = ['cat']\ntemplates = 'sixteen'", "no set of templates"),
        ("a.toml", "classes = ['cat']\ntemplates = ['x']", "places for the class name"),
        ("a.toml", "classes = ['cat']\ncombine = 'sum'", '"mean" or "max"'),
        ("a.toml", "classes = ['cat']\nplurals = 'yes'", "true or false"),
        ("a.json", '["cat", "dog", "cat"]', "'cat' occurs twice"),
        ("a.json", '["sofa", {"name": "couch", "synonyms": ["sofa"]}]', "'sofa' occurs twice"),
        ("a.json", "[" * 100_000, "cannot read"),
        ("a.txt", "caf\u00e9\ncafe\u0301", "occurs twice"),
        ("a.txt", "cat,,kitten", "is empty"),
        ("a.txt", "# nothing", "no class name"),
    ],
)
def test_what_a_file_cannot_say_is_refused_and_the_file_named(tmp_path, name, text, message):
    path = write(tmp_path, name, text)
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


MANY = [f"c{n}" for n in range(70_000)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "# many\n\n" + "\n".join(MANY)),
        ("a.toml", f"classes = {MANY}"),
        ("a.json", json.dumps(MANY)),
        ("a.json", json.dumps({"classes": [{"name": name} for name in MANY]})),
        ("a.json", json.dumps({"vocabulary": {"class_names": MANY}})),
    ],
    ids=["txt", "toml", "json", "legend", "record"],
)
def test_too_many_classes_are_refused_before_any_is_looked_at(tmp_path, monkeypatch, name, text):
    path = write(tmp_path, name, text)
    for function in ("_names", "_entry"):
        monkeypatch.setattr(files, function, None)
    with pytest.raises(
        VocabularyError, match=r"a\.\w+: 70000 class names do not fit into an index"
    ):
        Vocabulary.of(path)


def test_too_many_words_are_refused_before_any_is_looked_at():
    class Text(str):
        def split(self, *_: object) -> list[str]:
            raise AssertionError

    class Names(Sequence):
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, place: object) -> str:
            raise AssertionError

    with pytest.raises(VocabularyError, match="70000 class names do not fit"):
        Vocabulary.parse(Text(",".join(MANY)))
    with pytest.raises(VocabularyError, match="1000000000 class names do not fit"):
        Vocabulary.of(Names())


def test_too_many_synonyms_are_refused(monkeypatch):
    monkeypatch.setattr(checks, "MOST_NAMES", 4)
    assert Vocabulary.parse("cat|kitten, sofa|couch").names[1] == ("sofa", "couch")
    with pytest.raises(VocabularyError, match="the classes have 5 names with their synonyms"):
        Vocabulary.parse("cat|kitten, sofa|couch|settee")


def test_the_most_classes_that_an_index_map_holds_are_read_with_their_legend(tmp_path):
    entries = [{"id": n, "name": f"c{n}"} for n in range(65535)]
    path = write(tmp_path, "legend.json", json.dumps([*entries, {"id": 65535, "name": "unknown"}]))
    assert len(Vocabulary.of(path).class_names) == 65535


def test_what_is_printable_needs_no_look_at_each_character():
    refused = [
        c
        for c in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(c) in checks._REFUSED_CATEGORIES or c in checks._INVISIBLE
    ]
    assert len(refused) > 2000
    assert not any(c.isprintable() for c in refused)


def test_files_that_are_not_there_or_no_text_are_refused(tmp_path):
    with pytest.raises(VocabularyError, match=r"no list of classes .*words\.txt"):
        Vocabulary.of(str(tmp_path / "words.txt"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00cat")
    with pytest.raises(VocabularyError, match="UTF-8"):
        Vocabulary.of(tmp_path / "a.txt")
    with pytest.raises(VocabularyError, match=r"\.csv' is no list"):
        Vocabulary.of(tmp_path / "a.csv")


def test_the_rules_of_plurals_are_imported_without_being_rewritten():
    typeguard = pytest.importorskip("typeguard")
    code = """
import typeguard
from zegment.vocabulary.plurals import plural
checked = typeguard.typechecked
def rewriting(*_):
    raise AssertionError
typeguard._decorators.instrument = rewriting
assert plural("bus") == "buses"
assert typeguard.typechecked is checked
"""
    assert typeguard._decorators.instrument
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plurals_are_synonyms():
    names = "cat, potted plant|bush, sheep, scissors, bus, sofa|sofas, person, people, 猫, C++"
    vocabulary = Vocabulary.parse(names).with_plurals()
    assert dict(zip(vocabulary.class_names, vocabulary.synonyms, strict=True)) == {
        "cat": ("cats",),
        "potted plant": ("bush", "potted plants", "bushes"),
        "sheep": (),
        "scissors": (),
        "bus": ("buses",),
        "sofa": ("sofas",),
        "person": (),  # "people" is a class
        "people": (),
        "猫": (),
        "C++": (),
    }


def test_ten_thousand_names_are_read_and_kept_in_order(tmp_path):
    names = [f"thing {i}" for i in range(10_000)]
    vocabulary = Vocabulary.of(write(tmp_path, "many.txt", "\n".join(names)))
    assert list(vocabulary.class_names) == names
    assert vocabulary.palette().shape == (10_000, 3)
    with pytest.raises(VocabularyError, match="65535 do"):
        Vocabulary.of([str(i) for i in range(65_536)])


def test_own_colours_are_kept_and_no_other_class_gets_them():
    first, second = (tuple(c) for c in class_colours(2).tolist())
    vocabulary = Vocabulary(class_names=("a", "b", "c"), colours=(second, None, None))
    colours = [tuple(c) for c in vocabulary.palette().tolist()]
    assert colours[0] == second
    assert len(set(colours)) == 3
    assert first not in colours[:1]


# What several names of a class come to


def test_each_name_has_an_embedding_of_its_own_only_under_max():
    assert CLASSES.queries() == tuple(
        (f"a photo of a {name}",) for name in ("sky", "sofa", "couch", "settee", "cat", "kitten")
    )
    assert CLASSES.owners() == (0, 1, 1, 1, 2, 2)
    mean = Vocabulary(class_names=CLASSES.class_names, synonyms=CLASSES.synonyms)
    assert mean.queries() == mean.sentences()
    assert mean.queries()[2] == ("a photo of a cat", "a photo of a kitten")
    assert mean.owners() == (0, 1, 2)


def test_the_best_name_speaks_for_its_class():
    logits = torch.randn(2, 6, 3, 4)
    best = best_name(logits, CLASSES.owners())
    expected = [logits[:, :1], logits[:, 1:4].amax(1, True), logits[:, 4:].amax(1, True)]
    assert torch.equal(best, torch.cat(expected, dim=1))
    assert best_name(logits, None) is logits


@pytest.mark.parametrize("model", ["shapes-zegclip", "shapes-clip", "shapes-clip-zss"])
def test_under_max_a_class_wins_where_one_of_its_names_would(model, rng_image):
    segmenter = load(model)
    segmenter.calibration = Calibration()  # which would tell "moon" from "ball"
    apart = segmenter(rng_image, ["ball", "moon", "sand", "water"]).labels
    joined = segmenter(
        rng_image,
        Vocabulary(class_names=("ball", "sand"), synonyms=(("moon",), ("water",)), combine="max"),
    ).labels
    # Averages over windows may differ where two names of one class share a place.
    assert (joined == np.array([0, 0, 1, 1])[apart]).mean() > 0.97


def test_under_mean_the_embedding_is_that_of_all_sentences():
    segmenter = load("shapes-clip-zss")
    vocabulary = Vocabulary(class_names=("ball", "sand"), synonyms=(("moon",), ()))
    rows = segmenter.query(vocabulary).text_embeddings
    single = segmenter.query(["ball", "moon"]).text_embeddings
    torch.testing.assert_close(rows[0], torch.nn.functional.normalize(single.mean(0), dim=0))


@pytest.fixture
def rng_image():
    from zegment.data.shapes import ShapesDataset

    return ShapesDataset("val", length=1, size=64)[0][0]
