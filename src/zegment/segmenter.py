"""Image and words to a label map: joins vocabulary, text tower and model.

Letters: B images, K classes of the user, A classes asked for, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from zegment.background import Background, NoBackground, parse_background
from zegment.calibration import RELEASED, Calibration
from zegment.checkpoint import load_trained
from zegment.config import WindowConfig
from zegment.data.classes import natural_name
from zegment.errors import ConfigError, VocabularyError
from zegment.images import ImageSource, read_image
from zegment.inference.fields import HeldScores, ScoreField, WindowedScores
from zegment.inference.image import WorkingImage
from zegment.inference.running import Execution, Runner
from zegment.labelling import Extra, draw_maps
from zegment.models.base import SegmentationModel
from zegment.query import Query
from zegment.results import Segmentation
from zegment.text_tower import TextTower
from zegment.trained import Trained
from zegment.vocabulary import TEMPLATES, Vocabulary

Classes: TypeAlias = Vocabulary | Sequence[str] | str | Path
"""Whatever `zegment.vocabulary.Vocabulary.of` takes."""


class Segmenter:
    """Segments images into the classes that the caller names.

    Args:
        model: Any model of the one interface; put in evaluation mode.
        text_tower: The text side of the CLIP whose space the model works in.
        windows: How images are resized and cut; ``execution`` may say otherwise.
        vocabulary: The classes that the model was trained for, used when the caller names none.
        seen: Those of them that had masks in training.
        calibration: What is taken from the scores of seen classes.
        name: What the model was loaded as, for messages.

    Attributes:
        execution: How the model is run; see `run_as`.
    """

    def __init__(
        self,
        model: SegmentationModel,
        text_tower: TextTower,
        *,
        windows: WindowConfig,
        vocabulary: Vocabulary | None = None,
        seen: Sequence[str] = (),
        calibration: Calibration | None = None,
        name: str = "",
    ) -> None:
        self.model = model.eval()
        self.text_tower = text_tower
        self._windows = windows
        self.vocabulary = vocabulary
        self.seen = tuple(seen)
        self.calibration = calibration or Calibration()
        self.name = name
        self.run_as(Execution())

    @property
    def windows(self) -> WindowConfig:
        """How images are resized and cut before the model sees them."""
        return self.execution.windows or self._windows

    def run_as(self, execution: Execution) -> None:
        """From now on, run the model as ``execution`` says."""
        self.execution = execution
        self._runner = Runner(self.model, execution, name=self.name)

    @classmethod
    def of(
        cls, trained: Trained, *, name: str = "", execution: Execution | None = None
    ) -> Segmenter:
        """Return the segmenter of a trained model, with its own preprocessing and windows."""
        segmenter = cls(
            trained.model,
            trained.text_tower,
            windows=trained.config.windows,
            vocabulary=trained.vocabulary,
            seen=trained.seen,
            calibration=Calibration(
                seen_penalty=trained.config.seen_penalty,
                chosen_on=trained.config.calibration.chosen_on or RELEASED,
            ),
            name=name,
        )
        segmenter.run_as(execution or Execution())
        return segmenter

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.mean.device

    @property
    def templates(self) -> tuple[str, ...]:
        """The sentences that class names are put into, unless others are asked for."""
        return TEMPLATES["single"] if self.vocabulary is None else self.vocabulary.templates

    def query(
        self,
        classes: Classes | None = None,
        *,
        background: Background | str | None = None,
        calibrated: bool = True,
    ) -> Query:
        """Return a vocabulary with its text embeddings and seen flags.

        Args:
            classes: Names in the order in which labels will count them, or where to find them, see
                `zegment.vocabulary.Vocabulary.of`; None means the classes of the model's training.
            background: What becomes of pixels that show none of the classes; None: every pixel
                gets a class. Text is read by `zegment.background.parse_background`.
            calibrated: Whether classes that had masks are told from the others.

        Raises:
            VocabularyError: If names are missing, empty, repeated or too long.
            ConfigError: If the text is no background policy.
        """
        if classes is None and self.vocabulary is None:
            raise VocabularyError(
                f"'{self.name}' was not trained for classes of its own: name some, for example "
                '["cat", "sofa"]'
            )
        policy = parse_background(background) if isinstance(background, str) else background
        policy = NoBackground() if policy is None else policy
        if not isinstance(policy, Background):
            raise ConfigError(
                f"background is {background!r}; give a policy such as Threshold(score=0.4), or its "
                'words, "threshold:0.4"'
            )
        vocabulary = (
            self.vocabulary if classes is None else Vocabulary.of(classes, templates=self.templates)
        )
        assert vocabulary is not None  # noqa: S101 - excluded above
        if self.vocabulary is not None:
            vocabulary = vocabulary.with_names_of(self.vocabulary)
        query = Query.of(vocabulary, policy, self.text_tower, device=self.device)
        self.model.check_text_embeddings(query.text_embeddings)
        met = [any(self.had_masks(names)) for names in query.asked.names]
        # What would be taken from every class decides nothing.
        told = calibrated and not all(met)
        seen = torch.tensor([told and one for one in met], device=self.device)
        return replace(query, seen=seen)

    def had_masks(self, names: Sequence[str]) -> list[bool]:
        """Return of each name whether its class had masks in training, in whichever spelling."""
        seen = {natural_name(name) for name in self.seen}
        return [natural_name(name) in seen for name in names]

    def __call__(
        self,
        image: ImageSource,
        classes: Classes | None = None,
        *,
        background: Background | str | None = None,
        extras: Collection[Extra] = (),
    ) -> Segmentation:
        """Return the label map of one image.

        Args:
            image: Path, PIL image, array or tensor; see `zegment.images.read_image`.
            classes: See `query`.
            background: See `query`.
            extras: See `segment`.

        Raises:
            ImageError: If the image cannot be read.
            VocabularyError: If names are missing, empty, repeated or too long.
            ConfigError: If the text is no background policy.
        """
        return self.segment(image, self.query(classes, background=background), extras=extras)

    @torch.inference_mode()
    def segment(
        self,
        image: ImageSource,
        query: Query,
        *,
        extras: Collection[Extra] = (),
        smoothing: Callable[[Tensor], Tensor] | None = None,
    ) -> Segmentation:
        """Return the label map of one image for a vocabulary that was made ready before.

        Args:
            image: Path, PIL image, array or tensor; see `zegment.images.read_image`.
            query: From `query`.
            extras: What else to keep: ``"entropy"``, ``"margin"``, ``"scores"`` of every class and
                pixel.
            smoothing: Changes the scores, float (1, A, h, w), before anything is decided; see
                `zegment.prediction.video.Smoothing`.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = read_image(image)
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        field = self.field(batch, query)
        maps = draw_maps(
            field if smoothing is None else HeldScores(smoothing(field.all())),
            query,
            seen_penalty=self.calibration.seen_penalty,
            size=(pixels.shape[0], pixels.shape[1]),
            extras=extras,
        )
        return maps.segmentation(pixels, query)

    @torch.inference_mode()
    def label(self, images: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Return labels and their calibrated scores for images of one size.

        Args:
            images: RGB, uint8 (B, 3, H, W).
            query: From `query`.

        Returns:
            Indices into the query's names or -1, int32 (B, H, W), and the winners' scores, float
            (B, H, W).
        """
        maps = draw_maps(
            self.field(images, query),
            query,
            seen_penalty=self.calibration.seen_penalty,
            size=(images.shape[-2], images.shape[-1]),
        )
        return maps.labels, maps.confidence

    def agreement(self, image: ImageSource, query: Query) -> float:
        """Return the share of an image's pixels whose labels are those of float32, in [0, 1].

        Args:
            image: See `segment`.
            query: From `query`.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = read_image(image)
        exact = copy(self)
        exact.run_as(replace(self.execution, precision="float32"))
        labels = (one.segment(pixels, query).labels for one in (self, exact))
        return float(np.equal(*labels).mean())

    @torch.inference_mode()
    def field(self, images: Tensor, query: Query) -> ScoreField:
        """Return scores of every class, not calibrated, where and when they are needed.

        Args:
            images: RGB, uint8 (B, 3, H, W).
            query: From `query`.

        Returns:
            Of the A classes that the query asks for, at the size that windows are cut from.
        """
        image = WorkingImage(images, self.model.mean, self.model.std, self.windows)
        return WindowedScores(
            self._runner, image, query.text_embeddings, self.windows, query.owners
        )

    def scores(self, images: Tensor, query: Query) -> Tensor:
        """Return all that `field` can give, float (B, A, h, w); see there."""
        return self.field(images, query).all()


def load(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    execution: Execution | None = None,
) -> Segmenter:
    """Return a segmenter by name.

    Args:
        name: A run folder or packaged checkpoint (``"shapes-zegclip"``), or a CLIP for
            training-free prediction (``"shapes-clip"``, ``"ViT-B-16/openai"``,
            ``"hf-hub:org/repo"``, a folder in open_clip's local format), or what was shared on the
            Hugging Face Hub (``"user/repo"``, ``"user/repo@revision"``).
        device: Where to compute; None takes a GPU if there is one.
        execution: In which precision, and how many windows at a time.

    Raises:
        ModelNotFoundError: If nothing answers to the name, or it needs a download and there is
            no network.
        CheckpointError: If the run folder is damaged or belongs to another model.
        UnsupportedModelError: If the CLIP's image tower cannot be used.
    """
    trained = load_trained(str(name), device=device)
    return Segmenter.of(trained, name=str(name), execution=execution)
