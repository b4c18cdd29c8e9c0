"""Image and words to a label map: joins vocabulary, text tower and model.

Letters: B images, K classes of the user, A classes asked for, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zegment.background import Background, NoBackground, parse_background
from zegment.calibration import RELEASED, Calibration
from zegment.checkpoint import load_trained
from zegment.config import WindowConfig
from zegment.data.classes import BACKGROUND, natural_name
from zegment.data.transforms import normalize
from zegment.errors import ConfigError, VocabularyError
from zegment.images import ImageSource, read_image
from zegment.inference import best_class, entropy, image_scores, working_size
from zegment.models.base import SegmentationModel, penalize_seen
from zegment.query import Query
from zegment.results import Segmentation
from zegment.text_tower import TextTower
from zegment.trained import Trained
from zegment.vocabulary import TEMPLATES, Vocabulary

Classes: TypeAlias = Vocabulary | Sequence[str] | str | Path
"""Whatever `zegment.vocabulary.Vocabulary.of` takes."""

Extra: TypeAlias = Literal["entropy", "scores"]


class Segmenter:
    """Segments images into the classes that the caller names.

    Args:
        model: Any model of the one interface; put in evaluation mode.
        text_tower: The text side of the CLIP whose space the model works in.
        windows: How images are resized and cut before the model sees them.
        vocabulary: The classes that the model was trained for, used when the caller names none.
        seen: Those of them that had masks in training.
        calibration: What is taken from the scores of seen classes.
        name: What the model was loaded as, for messages.
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
        self.windows = windows
        self.vocabulary = vocabulary
        self.seen = tuple(seen)
        self.calibration = calibration or Calibration()
        self.name = name

    @classmethod
    def of(cls, trained: Trained, *, name: str = "") -> Segmenter:
        """Return the segmenter of a trained model, with its own preprocessing and windows."""
        return cls(
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
        asked, labels = policy.asked(vocabulary)
        met = [any(self.had_masks(names)) for names in asked.names]
        rows = asked.embed(self.text_tower).to(self.device)
        _refuse_twins(asked, rows)
        self.model.check_text_embeddings(rows)
        # What would be taken from every class decides nothing.
        told = calibrated and not all(met)
        return Query(
            vocabulary=vocabulary,
            asked=asked,
            labels=torch.tensor(labels, device=self.device),
            text_embeddings=rows,
            seen=torch.tensor([told and one for one in met], device=self.device),
            background=policy,
        )

    def described(self, query: Query, sentence: str) -> Query:
        """Return a query in which a sentence, as it is, stands for what is not the background.

        Raises:
            VocabularyError: If there is not exactly one such class, or the sentence is too long.
        """
        names = query.asked.class_names
        places = [i for i, name in enumerate(names) if natural_name(name) != BACKGROUND]
        if len(places) != 1:
            raise VocabularyError(
                f"a sentence describes one class beside the background, but the classes are "
                f"{', '.join(names)}"
            )
        embeddings = query.text_embeddings.clone()
        embeddings[places[0]] = self.text_tower([sentence])[0].to(embeddings)
        return replace(query, text_embeddings=embeddings)

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
            extras: What else to keep: ``"entropy"``, ``"scores"`` of every class and pixel.
            smoothing: Changes the scores, float (1, A, h, w), before anything is decided; see
                `zegment.prediction.video.Smoothing`.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = read_image(image)
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        scores = self.scores(batch, query)
        scores = scores if smoothing is None else smoothing(scores)
        size = (pixels.shape[0], pixels.shape[1])
        labels, confidence = self._decide(scores, query, size)
        return Segmentation(
            labels=labels[0].cpu().numpy().astype(np.int32),
            class_names=query.vocabulary.class_names,
            image=pixels,
            confidence=confidence[0].float().cpu().numpy(),
            entropy=entropy(scores, size=size)[0].float().cpu().numpy()
            if "entropy" in extras
            else None,
            scores=self._all_scores(scores, query, size) if "scores" in extras else None,
            colours=query.vocabulary.palette(),
            background=query.background.describe(),
        )

    @torch.inference_mode()
    def label(self, images: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Return labels and their calibrated scores for images of one size.

        Args:
            images: RGB, uint8 (B, 3, H, W).
            query: From `query`.

        Returns:
            Indices into the query's names or -1, int64 (B, H, W), and the winners' scores, float
            (B, H, W).

        Note:
            A large image is made smaller with antialiasing; the released pipeline has none.
            Images that are not made smaller are not affected.
        """
        height, width = images.shape[-2:]
        return self._decide(self.scores(images, query), query, (height, width))

    def _decide(self, scores: Tensor, query: Query, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        margin = self.calibration.seen_penalty
        winners, best = best_class(scores, query.seen, margin=margin, size=size)
        return query.decide(winners, best), best

    def _all_scores(
        self, scores: Tensor, query: Query, size: tuple[int, int]
    ) -> NDArray[np.float16]:
        """Return the calibrated scores of the user's classes at every pixel, (K, H, W)."""
        calibrated = penalize_seen(scores, query.seen, margin=self.calibration.seen_penalty)
        full = F.interpolate(calibrated, size=size, mode="bilinear", align_corners=False)
        return query.of_classes(full[0]).cpu().numpy().astype(np.float16)

    @torch.inference_mode()
    def scores(self, images: Tensor, query: Query) -> Tensor:
        """Return scores of every class, not calibrated, at the size that windows are cut from.

        Args:
            images: RGB, uint8 (B, 3, H, W).
            query: From `query`.

        Returns:
            Of the classes that the query asks for, averaged over windows, float (B, A, h, w).
        """
        height, width = images.shape[-2:]
        batch = normalize(images.to(self.device), self.model.mean, self.model.std)
        size = working_size(height, width, self.windows)
        if size != (height, width):
            batch = F.interpolate(
                batch, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        return image_scores(self.model, batch, query.text_embeddings, self.windows, query.owners)


def _refuse_twins(asked: Vocabulary, rows: Tensor) -> None:
    """Refuse classes that are one to the text tower, of which the second could never win."""
    first: dict[bytes, int] = {}
    for owner, row in zip(asked.owners(), rows.cpu().numpy(), strict=True):
        other = first.setdefault(row.tobytes(), owner)
        if other != owner:
            names = asked.class_names
            raise VocabularyError(
                f"{names[other]!r} and {names[owner]!r} are the same to this CLIP's text tower; "
                "keep one, or make the second a synonym of the first"
            )


def load(name: str | Path, *, device: str | torch.device | None = None) -> Segmenter:
    """Return a segmenter by name.

    Args:
        name: A run folder or packaged checkpoint (``"shapes-zegclip"``), or a CLIP for
            training-free prediction (``"shapes-clip"``, ``"ViT-B-16/openai"``,
            ``"hf-hub:org/repo"``, a folder in open_clip's local format), or what was shared on the
            Hugging Face Hub (``"user/repo"``, ``"user/repo@revision"``).
        device: Where to compute; None takes a GPU if there is one.

    Raises:
        ModelNotFoundError: If nothing answers to the name, or it needs a download and there is
            no network.
        CheckpointError: If the run folder is damaged or belongs to another model.
        UnsupportedModelError: If the CLIP's image tower cannot be used.
    """
    return Segmenter.of(load_trained(str(name), device=device), name=str(name))
