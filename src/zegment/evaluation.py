"""A segmenter against a data set: one confusion matrix over the joint label space.

Letters: K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zegment.background import Background, NoBackground
from zegment.calibration import Calibration
from zegment.checkpoint import load_trained
from zegment.config import Config, WindowConfig
from zegment.data import IGNORE_INDEX, SegmentationDataset, Split, checked_dataset, describe
from zegment.data.batching import same_size_batches
from zegment.data.classes import natural_name
from zegment.distributed import sum_over_processes
from zegment.errors import ConfigError
from zegment.metrics import ConfusionMatrix, DiceScores, Scores, report
from zegment.query import Query
from zegment.segmenter import Segmenter
from zegment.trained import training_vocabulary

BATCH_SIZE = 16

OWN_DATA_ONLY = (
    "calibration is about classes that the model was trained for, and {data} has others: nothing "
    "is taken from any of them; leave the calibration out"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and the circumstances they were obtained in.

    Attributes:
        scores: Metrics over the joint label space.
        dice: Mean over images of the Dice coefficient (DSC), by class.
        images: How many images were segmented.
        seconds: Time spent on prediction, reading excluded.
        calibration: What was taken from the scores of seen classes.
        overlap: Classes of other data than the model's own that had masks in its training; None
            for its own data. There mIoU(S) is over these, and mIoU(U) over the rest.
        background: The policy for pixels that show none of the classes, in words.
        circumstances: What else a reader of the numbers must know.
    """

    scores: Scores
    dice: DiceScores
    images: int
    seconds: float
    calibration: Calibration
    overlap: tuple[str, ...] | None = None
    background: str = "none"
    circumstances: dict[str, Any] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Return the speed of prediction on this machine."""
        return self.images / max(self.seconds, 1e-9)

    def to_dict(self, *, speed: bool = True) -> dict[str, Any]:
        """Return everything as JSON can hold it; metrics are fractions.

        Args:
            speed: Whether to include images per second, which differ from run to run.
        """
        return {
            **self.scores.to_dict(),
            **self.dice.to_dict(),
            "images": self.images,
            **({"images_per_second": self.images_per_second} if speed else {}),
            "seen_penalty": self.calibration.seen_penalty,
            "calibration": self.calibration.to_dict(),
            "background": self.background,
            **({} if self.overlap is None else {"overlap_with_training": list(self.overlap)}),
            **self.circumstances,
        }


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    batch_size: int = BATCH_SIZE,
    templates: str | None = None,
    background: Background | None = None,
    on_image: Callable[[int], object] | None = None,
) -> Evaluation:
    """Return the scores of a segmenter that chooses among all classes of a data set.

    On data whose classes are not those of its training, nothing is taken from seen classes: the
    released configurations, too, treat all classes of another data set alike. Where the data
    describes each image in a sentence, the sentence is what is asked for.

    Several processes share the images; each returns the scores of all.

    Args:
        segmenter: Any; its own preprocessing, windows and calibration are used.
        dataset: Images, labels, class names, and which of them are unseen.
        batch_size: Most images of one size that are segmented together; changes no label.
        templates: Name of the sentences that class names are put into; None takes those of the
            model's training.
        background: What becomes of pixels that show none of the classes; a label of none is wrong
            for every class, and the class "background", if there is one, is decided by it.
        on_image: Called with the number of images done so far, by this process.

    Raises:
        VocabularyError: If the class names cannot be encoded.
    """
    names = dataset.class_names
    judge = Judge(segmenter, dataset, templates=templates, background=background)
    matrix, dice = ConfusionMatrix(len(names), ignore_index=IGNORE_INDEX), DiceScores(names)
    seconds = 0.0
    batches = same_size_batches(dataset, batch_size, apart=judge.apart, on_image=on_image)
    for items, images, labels in batches:
        start = time.perf_counter()
        prediction, _ = segmenter.label(images, judge.query(items[0]))
        prediction = prediction.cpu()
        seconds += time.perf_counter() - start
        matrix.update(prediction, labels)
        dice.update(prediction, labels, ignore_index=IGNORE_INDEX)
    sum_over_processes(matrix.state)
    sum_over_processes(dice.state)
    return Evaluation(
        scores=report(matrix, names, seen=judge.seen),
        dice=dice,
        images=len(dataset),
        seconds=seconds,
        calibration=judge.calibration,
        overlap=judge.overlap,
        background=(background or NoBackground()).describe(),
    )


class Judge:
    """What a segmenter is asked about a data set, and how its answers are divided.

    Args:
        segmenter: Whose training decides what is new to it.
        dataset: Whose classes are asked for.
        templates: See `evaluate`.
        background: See `evaluate`.

    Attributes:
        seen: For each class, whether it counts for mIoU(S).
        overlap: Classes that had masks in training, if this is not the training's data.
        calibration: What is taken from seen classes here.
        apart: Whether each image is asked about by itself.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dataset: SegmentationDataset,
        *,
        templates: str | None = None,
        background: Background | None = None,
    ) -> None:
        names = dataset.class_names
        self.segmenter, self.dataset = segmenter, dataset
        self.apart = len(dataset) > 0 and describe(dataset, 0) is not None
        known = segmenter.vocabulary
        own = known is None or _alike(known.class_names, names)
        self.seen = [name not in dataset.unseen for name in names]
        self.overlap: tuple[str, ...] | None = None
        if not own:
            self.seen = segmenter.had_masks(names)
            self.overlap = tuple(n for n, met in zip(names, self.seen, strict=True) if met)
        asked = names if templates is None else training_vocabulary(names, templates)
        self._query = segmenter.query(asked, background=background, calibrated=own)
        # Nothing is taken where all classes had masks, or none is known to have had any.
        taken = bool(self._query.seen.any())
        self.calibration = segmenter.calibration if taken else Calibration()

    def query(self, item: int) -> Query:
        """Return what is asked about an image of the data set."""
        sentence = describe(self.dataset, item)
        if sentence is None:
            return self._query
        return self._query.described(sentence, self.segmenter.text_tower)


def _alike(first: Sequence[str], second: Sequence[str]) -> bool:
    return [*map(natural_name, first)] == [*map(natural_name, second)]


def evaluate_named(  # noqa: PLR0913 - one parameter per question
    name: str,
    *,
    split: Split = "test",
    other: Config | None = None,
    calibration: Calibration | None = None,
    templates: str | None = None,
    background: Background | None = None,
    device: str | None = None,
    batch_size: int = BATCH_SIZE,
    adjust: Callable[[Segmenter], object] | None = None,
    on_image: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Return the scores of a model, given by name, on a split of its own or another data set.

    Args:
        name: See `zegment.segmenter.load`.
        split: Of that data set.
        other: Describes other data; for an untrained CLIP also its model and windows.
        calibration: Instead of the model's own.
        templates: See `evaluate`.
        background: See `evaluate`.
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Most images of one size that are segmented together.
        adjust: Called with the segmenter before it is used, to change how it is run.
        on_image: Called with the number of images done, by this process, and of all.

    Raises:
        ConfigError: If the split is not configured, or a calibration is given for other data.
        ModelNotFoundError: If nothing answers to the name.
        DatasetError: If images, masks and class names do not fit together.
    """
    segmenter, dataset, circumstances = prepare_evaluation(
        name, split=split, other=other, calibration=calibration, device=device
    )
    if adjust is not None:
        usual = segmenter.windows
        adjust(segmenter)
        circumstances.update(_unusual(segmenter, usual))
    total = len(dataset)
    evaluation = evaluate(
        segmenter,
        dataset,
        batch_size=batch_size,
        templates=templates,
        background=background,
        on_image=None if on_image is None else (lambda done: on_image(done, total)),
    )
    evaluation.circumstances.update(circumstances)
    if templates is not None:
        evaluation.circumstances["templates"] = templates
    return evaluation


def _unusual(segmenter: Segmenter, usual: WindowConfig) -> dict[str, Any]:
    """Return how a segmenter is run, where that is not as its training says."""
    unusual: dict[str, Any] = {}
    if segmenter.execution.precision != "float32":
        unusual["precision"] = segmenter.execution.precision
    if segmenter.windows != usual:
        unusual["windows"] = asdict(segmenter.windows)
    return unusual


def prepare_evaluation(
    name: str,
    *,
    split: Split,
    other: Config | None = None,
    calibration: Calibration | None = None,
    device: str | None = None,
) -> tuple[Segmenter, SegmentationDataset, dict[str, Any]]:
    """Return a model, checked data, and what to record about both; see `evaluate_named`."""
    if other is not None:  # files that do not fit are named before a model is loaded
        data, dataset = other.data, checked_dataset(other.data, split)
        trained = load_trained(name, device=device, config=other)
    else:
        trained = load_trained(name, device=device)
        data = trained.config.data
        dataset = checked_dataset(data, split)
    segmenter = Segmenter.of(trained, name=name)
    if calibration is not None:
        if Judge(segmenter, dataset).overlap is not None:
            raise ConfigError(f"--calibration: {OWN_DATA_ONLY.format(data=data.title)}")
        segmenter.calibration = calibration
    circumstances: dict[str, Any] = {
        "data": f"{data.title}/{split}",
        "class_names": data.spelling,
    }
    if trained.vocabulary is not None:
        circumstances["setting"] = trained.config.setting
        if trained.config.setting == "transductive":
            circumstances["pseudo_label_region"] = trained.config.self_training.region
    return segmenter, dataset, circumstances
