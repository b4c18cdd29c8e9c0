"""What becomes of pixels that show none of the classes: policies, each an object.

What a policy rejects gets the id of the class called "background" if the vocabulary has one, and
`zegment.results.UNKNOWN` otherwise. A policy decides in place of that word, which says little to
CLIP: the class is then not asked for by its name.

Letters: B images, K classes of the user, A classes asked for, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zegment.data.classes import BACKGROUND, natural_name
from zegment.errors import ConfigError, VocabularyError
from zegment.results import UNKNOWN
from zegment.text_files import parse_json, read_text
from zegment.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

HELPERS = (
    "sky", "cloud", "ground", "soil", "sand", "grass", "tree", "bush", "mountain", "rock", "water",
    "sea", "river", "road", "pavement", "building", "wall", "fence", "floor", "ceiling", "window",
    "curtain", "carpet", "shadow",
)  # fmt: skip
"""What usually surrounds the things that people ask for; ours, tuned on nothing."""


class Background(ABC):
    """What becomes of pixels that show none of the classes."""

    kind: ClassVar[str]

    @property
    def floor(self) -> float:
        """Return the score of a background that no word speaks for."""
        return 0.0

    def asked(self, vocabulary: Vocabulary) -> tuple[Vocabulary, tuple[int, ...]]:
        """Return the classes to ask for, and the label that each of the A stands for."""
        return vocabulary, tuple(range(len(vocabulary.class_names)))

    def decide(self, labels: Tensor, scores: Tensor, *, rejected: int) -> Tensor:
        """Return the labels after the policy has looked at the winners' scores.

        Args:
            labels: Ids of the user's classes, int64 (B, H, W).
            scores: Of the winners, float (B, H, W).
            rejected: The label of what the policy rejects.
        """
        del scores, rejected
        return labels

    @abstractmethod
    def describe(self) -> str:
        """Return the policy in words, as `parse_background` reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBackground(Background):
    """Every pixel belongs to the class with the highest score."""

    kind: ClassVar[str] = "none"

    def describe(self) -> str:
        """Return the policy in words."""
        return self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(Background):
    """A pixel whose best score is too low belongs to no class.

    Args:
        score: The least score, in the unit of ``Segmentation.confidence``.
        chosen_on: The data that the value was chosen on; empty if it was simply given.
        classes: The classes that it was chosen for; empty if it was simply given.

    Raises:
        ConfigError: If the score is not in [0, 1].
    """

    score: float = 0.5
    chosen_on: str = ""
    classes: tuple[str, ...] = ()
    kind: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ConfigError(f"the threshold is {self.score}; give a score from 0 to 1")

    @property
    def floor(self) -> float:
        """Return the threshold: the background wins where all others are below it."""
        return self.score

    def asked(self, vocabulary: Vocabulary) -> tuple[Vocabulary, tuple[int, ...]]:
        """Return the classes less the background, which the threshold decides.

        Raises:
            ConfigError: If the threshold was chosen for other classes: scores depend on them.
        """
        if self.classes and set(self.classes) != set(vocabulary.class_names):
            raise ConfigError(
                f"this threshold was chosen for the classes {', '.join(self.classes)}; fit one for "
                f"these, or give threshold:{self.score} if you want it all the same"
            )
        return _less_background(vocabulary)

    def decide(self, labels: Tensor, scores: Tensor, *, rejected: int) -> Tensor:
        """Return the labels with those of low scores rejected; see the base class."""
        return labels.masked_fill(scores < self.score, rejected)

    def describe(self) -> str:
        """Return the policy in words."""
        origin = f", chosen on {self.chosen_on}" if self.chosen_on else ""
        return f"{self.kind}:{self.score}{origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperClasses(Background):
    """Further classes compete with the user's; where one of them wins, there is no class.

    Args:
        names: Of the helpers; one that the user asks for is left out.

    Raises:
        VocabularyError: If there is none, or one cannot be a name.
    """

    names: tuple[str, ...] = HELPERS
    kind: ClassVar[str] = "helpers"

    def __post_init__(self) -> None:
        Vocabulary(class_names=self.names)

    def asked(self, vocabulary: Vocabulary) -> tuple[Vocabulary, tuple[int, ...]]:
        """Return the classes less the background, then the helpers.

        Raises:
            ConfigError: If no helper is left.
        """
        things, ids = _less_background(vocabulary)
        taken = {natural_name(name) for names in things.names for name in names}
        helpers = tuple(name for name in self.names if natural_name(name) not in taken)
        count = len(helpers)
        if not count:
            raise ConfigError(
                f"every helper ({', '.join(self.names)}) is one of the classes; give others"
            )
        asked = replace(
            things,
            class_names=(*things.class_names, *helpers),
            synonyms=(*things.synonyms, *((),) * count) if things.synonyms else (),
            colours=(),
        )
        return asked, (*ids, *(rejected_label(vocabulary),) * count)

    def describe(self) -> str:
        """Return the policy in words."""
        return f"{self.kind}:{','.join(self.names)}"


def rejected_label(vocabulary: Vocabulary) -> int:
    """Return the label of what a policy rejects: the class "background", or unknown."""
    places = [k for k, n in enumerate(vocabulary.class_names) if natural_name(n) == BACKGROUND]
    return places[0] if places else UNKNOWN


def _less_background(vocabulary: Vocabulary) -> tuple[Vocabulary, tuple[int, ...]]:
    """Return the vocabulary without the class "background", and the ids of what is left.

    Raises:
        VocabularyError: If nothing is left.
    """
    dropped = rejected_label(vocabulary)
    ids = tuple(k for k in range(len(vocabulary.class_names)) if k != dropped)
    if not ids:
        raise VocabularyError("the background is the only class; name one that is not background")
    return vocabulary.without([dropped]), ids


def parse_background(text: str) -> Background:
    """Return the policy that a text stands for.

    Args:
        text: ``none``; ``threshold:0.4``, alone 0.5; ``helpers``, or ``helpers:wall,sky``; or a
            ``.json`` file that `zegment fit-threshold` wrote.

    Raises:
        ConfigError: If it is none of these.
        VocabularyError: If a helper cannot be a name.
    """
    text = text.strip()
    kind, _, rest = text.partition(":")
    if kind == "none" and not rest:
        return NoBackground()
    if kind == "threshold":
        score, _, origin = rest.partition(", chosen on ")
        try:
            return Threshold(score=float(score), chosen_on=origin) if rest else Threshold()
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
    if kind == "helpers":
        names = tuple(name.strip() for name in rest.replace("|", ",").split(","))
        return HelperClasses(names=names) if rest else HelperClasses()
    # Last, because a helper or the data that a threshold was chosen on may be called like a file.
    if text.endswith(".json"):
        return read_background(Path(text))
    raise ConfigError(
        f"background {text!r} is no policy; give none, threshold:0.5, helpers, helpers:wall,sky, "
        "or the .json file that zegment fit-threshold wrote"
    )


def background_to_dict(background: Background) -> dict[str, Any]:
    """Return a policy as JSON can hold it."""
    fields: Mapping[str, Sequence[str]] = {
        "threshold": ("score", "chosen_on", "classes"),
        "helpers": ("names",),
    }
    own = {key: getattr(background, key) for key in fields.get(background.kind, ())}
    return {"policy": background.kind, **own}


def read_background(path: Path) -> Background:
    """Return the policy that a fit wrote.

    Raises:
        ConfigError: If the file does not exist or holds none.
    """
    try:
        table = parse_json(read_text(path))["background"]
        if table["policy"] != Threshold.kind:
            raise ValueError(f'its policy is "{table["policy"]}"')
        return Threshold(
            score=float(table["score"]),
            chosen_on=str(table["chosen_on"]),
            classes=tuple(map(str, table["classes"])),
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"no background policy {path}; write one with zegment fit-threshold"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{path} holds no background policy ({error}); give the file that zegment "
            "fit-threshold wrote"
        ) from error
