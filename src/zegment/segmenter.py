"""Image and words to a label map: joins vocabulary, text tower and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.calibration import RELEASED, Calibration
from zegment.checkpoint import load_trained
from zegment.config import WindowConfig
from zegment.data.classes import BACKGROUND, natural_name
from zegment.data.transforms import normalize
from zegment.errors import VocabularyError
from zegment.images import ImageSource, read_image
from zegment.inference import best_class, image_scores, working_size
from zegment.models.base import SegmentationModel
from zegment.results import Segmentation
from zegment.text_tower import TextTower
from zegment.trained import Trained
from zegment.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A vocabulary made ready for one segmenter.

    Attributes:
        vocabulary: The names, in the user's order.
        text_embeddings: Unit rows, float (K, D).
        seen: Which names had masks in the model's training, bool (K,).
    """

    vocabulary: Vocabulary
    text_embeddings: Tensor
    seen: Tensor


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

    def query(
        self,
        classes: Vocabulary | Sequence[str] | str | None = None,
        *,
        calibrated: bool = True,
    ) -> Query:
        """Return a vocabulary with its text embeddings and seen flags.

        Args:
            classes: Names in the order in which labels will count them; a string is split at
                commas; None means the classes of the model's training.
            calibrated: Whether classes that had masks are told from the others.

        Raises:
            VocabularyError: If names are missing, empty, repeated or too long.
        """
        if classes is None and self.vocabulary is None:
            raise VocabularyError(
                f"'{self.name}' was not trained for classes of its own: name some, for example "
                '["cat", "sofa"]'
            )
        vocabulary = self.vocabulary if classes is None else self._like_training(classes)
        assert vocabulary is not None  # noqa: S101 - excluded above
        seen = self.had_masks(vocabulary.class_names)
        # What would be taken from every class decides nothing.
        return Query(
            vocabulary=vocabulary,
            text_embeddings=vocabulary.embed(self.text_tower).to(self.device),
            seen=torch.tensor(seen if calibrated and not all(seen) else [False] * len(seen)).to(
                self.device
            ),
        )

    def described(self, query: Query, sentence: str) -> Query:
        """Return a query in which a sentence, as it is, stands for what is not the background.

        Raises:
            VocabularyError: If there is not exactly one such class, or the sentence is too long.
        """
        names = query.vocabulary.class_names
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

    def _like_training(self, classes: Vocabulary | Sequence[str] | str) -> Vocabulary:
        """Return the named classes, in the sentences that the model was trained with."""
        vocabulary = Vocabulary.of(classes)
        if isinstance(classes, Vocabulary) or self.vocabulary is None:
            return vocabulary
        return Vocabulary(class_names=vocabulary.class_names, templates=self.vocabulary.templates)

    def __call__(
        self, image: ImageSource, classes: Vocabulary | Sequence[str] | str | None = None
    ) -> Segmentation:
        """Return the label map of one image.

        Args:
            image: Path, PIL image, array or tensor; see `zegment.images.read_image`.
            classes: See `query`.

        Raises:
            ImageError: If the image cannot be read.
            VocabularyError: If names are missing, empty, repeated or too long.
        """
        return self.segment(image, self.query(classes))

    def segment(self, image: ImageSource, query: Query) -> Segmentation:
        """Return the label map of one image for a vocabulary that was made ready before.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = read_image(image)
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        labels, scores = self.label(batch, query)
        return Segmentation(
            labels=labels[0].cpu().numpy().astype(np.int32),
            class_names=query.vocabulary.class_names,
            image=pixels,
            confidence=scores[0].float().cpu().numpy(),
        )

    @torch.inference_mode()
    def label(self, images: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Return class indices and their calibrated scores for images of one size.

        Args:
            images: RGB, uint8 (B, 3, H, W).
            query: From `query`.

        Returns:
            Indices into the query's names, int64 (B, H, W), and scores, float (B, H, W).

        Note:
            A large image is made smaller with antialiasing; the released pipeline has none.
            Images that are not made smaller are not affected.
        """
        height, width = images.shape[-2:]
        scores = self.scores(images, query)
        margin = self.calibration.seen_penalty
        return best_class(scores, query.seen, margin=margin, size=(height, width))

    @torch.inference_mode()
    def scores(self, images: Tensor, query: Query) -> Tensor:
        """Return scores of every class, not calibrated, at the size that windows are cut from.

        Args:
            images: RGB, uint8 (B, 3, H, W).
            query: From `query`.

        Returns:
            Averaged over windows, float (B, K, h, w).
        """
        height, width = images.shape[-2:]
        batch = normalize(images.to(self.device), self.model.mean, self.model.std)
        size = working_size(height, width, self.windows)
        if size != (height, width):
            batch = F.interpolate(
                batch, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        return image_scores(self.model, batch, query.text_embeddings, self.windows)


def load(name: str | Path, *, device: str | torch.device | None = None) -> Segmenter:
    """Return a segmenter by name.

    Args:
        name: A run folder or packaged checkpoint (``"shapes-zegclip"``), or a CLIP for
            training-free prediction (``"shapes-clip"``, ``"ViT-B-16/openai"``,
            ``"hf-hub:org/repo"``, a folder in open_clip's local format).
        device: Where to compute; None takes a GPU if there is one.

    Raises:
        ModelNotFoundError: If nothing answers to the name, or it needs a download and there is
            no network.
        CheckpointError: If the run folder is damaged or belongs to another model.
        UnsupportedModelError: If the CLIP's image tower cannot be used.
    """
    return Segmenter.of(load_trained(str(name), device=device), name=str(name))
