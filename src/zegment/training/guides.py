"""Who looks at training images beside the model: CLIP as a teacher, and who guesses for a model."""

from __future__ import annotations

from torch import Tensor

from zegment.checkpoint import load_trained
from zegment.checkpoint_files import ONNX, WEIGHTS, checkpoint_folder
from zegment.clip import Clip
from zegment.config import Config
from zegment.errors import (
    CheckpointError,
    ModelNotFoundError,
    UnsupportedModelError,
    VocabularyError,
)
from zegment.files import sha256_of
from zegment.models.base import SegmentationModel
from zegment.models.dense_clip import ATTENTIONS
from zegment.self_training import ClipGuide, Guide, SegmenterGuide
from zegment.teaching.teacher import Renormalization, Teacher
from zegment.text_tower import same_words
from zegment.trained import Trained

KEY = "self_training.guide_checkpoint"
MISTAKES = (ModelNotFoundError, CheckpointError, UnsupportedModelError, VocabularyError)
"""What can be wrong with a checkpoint that is named there."""


def build_teacher(attention: str, clip: Clip, model: SegmentationModel) -> Teacher:
    """Return a CLIP that takes the images of a model.

    Args:
        attention: How its last block runs, see `ATTENTIONS`.
        clip: Whose image tower it is; it is frozen.
        model: For its normalisation.
    """
    return Teacher(
        clip.image_tower,
        ATTENTIONS[attention](),
        mean=clip.mean,
        std=clip.std,
        student_mean=model.mean.tolist(),
        student_std=model.std.tolist(),
        name=clip.fingerprint,
    )


def build_guide(
    config: Config, clip: Clip, model: SegmentationModel, text_embeddings: Tensor
) -> Guide | None:
    """Return who guesses in place of a model in the first steps of self-training, if anybody.

    Args:
        config: Of the run.
        clip: Whose text tower made the embeddings, and whose image tower may guess.
        model: For its normalisation and its device.
        text_embeddings: Unit embeddings of all classes, float (S, D).

    Raises:
        ModelNotFoundError: If there is no checkpoint of that name.
        CheckpointError: If it is damaged, or was trained with the words of another CLIP.
        UnsupportedModelError: If the CLIP under it cannot be used.
        VocabularyError: If it is an exported one that does not know the classes.
        ConfigError: If it is an exported one, and onnxruntime is not installed.
    """
    own = config.self_training
    if own.guide == "clip":
        return ClipGuide(build_teacher(config.model.dense_clip.attention, clip, model))
    if own.guide_checkpoint is None:
        return None
    try:
        return _segmenter_guide(own.guide_checkpoint, clip, model, text_embeddings)
    except MISTAKES as error:
        raise type(error)(f"{KEY}: {error}") from error


def _segmenter_guide(
    name: str, clip: Clip, model: SegmentationModel, text_embeddings: Tensor
) -> SegmenterGuide:
    folder = checkpoint_folder(name)
    if folder is None:
        raise ModelNotFoundError(
            f"no checkpoint at '{name}'; give a folder that `zegment train` made, or a packaged "
            "checkpoint such as shapes-zegclip"
        )
    trained = load_trained(str(folder), device=model.mean.device)
    _check_words(name, trained, clip)
    trained.model.check_text_embeddings(text_embeddings)
    weights = folder / ONNX if (folder / ONNX).is_file() else folder / WEIGHTS
    return SegmenterGuide(
        trained.model,
        Renormalization(
            given_mean=model.mean.tolist(),
            given_std=model.std.tolist(),
            mean=trained.model.mean.tolist(),
            std=trained.model.std.tolist(),
        ).to(model.mean.device),
        fingerprint=sha256_of(weights)[:16],
    )


def _check_words(name: str, trained: Trained, clip: Clip) -> None:
    """Refuse a model that is used to other text embeddings than those of a CLIP.

    The fingerprint is that of the image tower; one that was trained further, as that of an
    imported checkpoint is, has another one and may have the same words.
    """
    if trained.fingerprint == clip.fingerprint:
        return
    vocabulary = trained.vocabulary
    if vocabulary is None or not same_words(vocabulary, trained.text_tower, clip.text_tower):
        raise CheckpointError(
            f"'{name}' was trained with the text embeddings of another CLIP "
            f"('{trained.config.model.clip}', {trained.fingerprint}) than '{clip.name}' "
            f"({clip.fingerprint}); give one of the CLIP in model.clip"
        )
