import hashlib
import inspect
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zegment.errors import VocabularyError, ZegmentError
from zegment.vocabulary import TEMPLATES, Vocabulary


class Hashes:
    """A text encoder without weights."""

    @staticmethod
    def ensembles(groups):
        def unit(row):
            return torch.nn.functional.normalize(row.double(), dim=-1)

        def embed(sentence):
            digest = hashlib.sha256(sentence.encode()).digest()
            return unit(torch.tensor([byte - 127.5 for byte in digest]))

        return torch.stack([unit(sum(map(embed, group))) for group in groups])


encode = Hashes()


def plain_names() -> st.SearchStrategy[list[str]]:
    letters = st.characters(
        exclude_categories=("Cc", "Cf", "Zl", "Zp", "Cs"), exclude_characters=",|"
    )
    name = st.text(letters, min_size=1, max_size=12).map(str.strip).filter(bool)
    return st.lists(name, min_size=1, max_size=8, unique=True)


def test_a_comma_list_gives_stripped_names_in_the_order_written():
    assert Vocabulary.parse(" sofa,cat ,  potted plant").class_names == (
        "sofa",
        "cat",
        "potted plant",
    )


@given(plain_names())
def test_any_unicode_names_survive_a_comma_list_in_order(names):
    assert Vocabulary.parse(", ".join(names)).class_names == tuple(names)


def test_names_in_a_list_may_contain_commas_and_braces():
    vocabulary = Vocabulary.of(["wall, brick", "{}", "{0}"])
    assert vocabulary.sentences() == (
        ("a photo of a wall, brick",),
        ("a photo of a {}",),
        ("a photo of a {0}",),
    )


def test_of_takes_text_a_sequence_or_a_vocabulary():
    vocabulary = Vocabulary(class_names=("cat", "sofa"))
    assert Vocabulary.of("cat, sofa") == Vocabulary.of(["cat ", "sofa"]) == vocabulary
    assert Vocabulary.of(vocabulary) is vocabulary


def test_a_list_in_a_list_holds_the_names_of_one_class():
    vocabulary = Vocabulary.of([["cat", "kitten "], "dog|wolf"])
    assert vocabulary.names == (("cat", "kitten"), ("dog|wolf",))


def test_letter_case_distinguishes_names():
    assert Vocabulary.parse("apple, Apple").class_names == ("apple", "Apple")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "class name 0 .* is empty; remove"),
        ("cat,,dog", "class name 1 .* is empty; remove the extra comma"),
        ("cat, dog,", "class name 2 .* is empty"),
        ([], "no class name; give at least one"),
        ("cat, dog, cat", "'cat' occurs twice, at 0 and 2"),
        (["cat", "cat "], "'cat' occurs twice"),
        ("cat\ndog", r"'cat\\ndog' .* U\+000A; .*separate names with commas"),
        (["a\x00b"], r"U\+0000"),
        (["a\u2028b"], r"U\+2028"),
        (["a\udc80b"], r"U\+DC80"),
        (["cat", 7], "class name 1 is 7, not text"),
        ('["wall, brick"]', "a list in brackets"),
        (["cat", []], r"class name 1 is \[\]"),
        (["cat", ["dog", 3]], "class name 1"),
        (["\u200b"], r"U\+200B"),
        (["c\u200bat"], r"U\+200B"),
        ({"cat", "dog"}, "set, which has no fixed order; give a list"),
        ((name for name in ["cat"]), "generator, which has no fixed order"),
    ],
)
def test_unusable_names_are_refused_with_the_culprit_and_the_remedy(names, message):
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.of(names)
    assert isinstance(caught.value, ZegmentError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ((), r"give at least one, or a set: single"),
        (("a photo",), "has 0 places"),
        (("{} and {}",), "has 2 places .* write exactly one {}"),
        (("a {0}",), "has 0 places"),
        (("a\n{}",), r"template .* U\+000A"),
        ("a {}", r"templates is 'a \{\}', not a tuple"),
    ],
)
def test_unusable_templates_are_refused_with_the_culprit_and_the_remedy(templates, message):
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(class_names=("cat",), templates=templates)


def test_the_constructor_takes_neither_one_string_nor_untidy_names():
    with pytest.raises(VocabularyError, match=r"Vocabulary\.of"):
        Vocabulary(class_names="cat")
    with pytest.raises(VocabularyError, match="begins or ends with a space"):
        Vocabulary(class_names=("cat ",))


def test_a_vocabulary_is_a_value_that_nobody_can_change():
    vocabulary = Vocabulary.parse("cat, dog")
    with pytest.raises(FrozenInstanceError):
        vocabulary.class_names = ("dog", "cat")
    with pytest.raises(TypeError):
        TEMPLATES["single"] = ("{}",)
    assert len({vocabulary, Vocabulary.parse("cat,dog"), Vocabulary.parse("dog,cat")}) == 2


def test_the_template_sets_are_those_of_the_paper_and_all_are_usable():
    assert TEMPLATES["single"] == ("a photo of a {}",)
    assert len(set(TEMPLATES["zegclip15"])) == 15
    assert TEMPLATES["zegclip15"][0] == "a photo of a {}."
    assert TEMPLATES["zegclip15"][-1] == "This is one {} in the scene."
    for templates in TEMPLATES.values():
        Vocabulary(class_names=("cat",), templates=templates)


def test_each_class_has_its_sentences_in_the_order_of_the_templates():
    vocabulary = Vocabulary(class_names=("cat", "sofa"), templates=("a {}.", "the {}."))
    assert vocabulary.sentences() == (("a cat.", "the cat."), ("a sofa.", "the sofa."))


@pytest.mark.parametrize("shape", [(3, 8), (2,), (2, 2, 8)])
def test_an_encoder_that_loses_sentences_is_reported(shape):
    class Forgetful:
        def ensembles(self, groups):
            return torch.ones(shape)

    with pytest.raises(ValueError, match="one row per query"):
        Vocabulary.parse("cat, dog").embed(Forgetful())


@settings(deadline=None)
@given(st.data(), plain_names(), st.sampled_from(sorted(TEMPLATES)))
def test_permuting_the_names_permutes_the_embeddings_and_nothing_else(data, names, templates):
    order = data.draw(st.permutations(range(len(names))))
    vocabulary = replace(Vocabulary.of(names), templates=TEMPLATES[templates])
    permuted = replace(vocabulary, class_names=tuple(names[place] for place in order))
    assert torch.equal(permuted.embed(encode), vocabulary.embed(encode)[list(order)])


def test_order_and_embeddings_do_not_depend_on_the_hash_seed():
    script = (
        "import hashlib, torch\n" + inspect.getsource(Hashes) + "\n"
        "from zegment.vocabulary import TEMPLATES, Vocabulary\n"
        "names = Vocabulary.parse('cat, sofa, potted plant, dog, tv').class_names\n"
        "v = Vocabulary(class_names=names, templates=TEMPLATES['zegclip15'])\n"
        "print(v.class_names, v.embed(Hashes()).numpy().tobytes().hex())\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "42")
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith("('cat', 'sofa', 'potted plant', 'dog', 'tv') ")


def test_reading_a_vocabulary_does_not_import_torch():
    script = (
        "import sys; from zegment.vocabulary import Vocabulary; "
        "Vocabulary.parse('cat').sentences(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
