"""A segmenter whose graph runs in onnxruntime; torch only carries its inputs and outputs.

No image tower of a CLIP is built. The text tower of its CLIP is loaded only for words whose
embeddings the folder does not hold.

Letters: B images, K classes, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zegment.checkpoint_files import (
    GRAPH,
    ONNX,
    PREPROCESSING,
    TEXT,
    VOCABULARY,
    read_header,
    read_json,
)
from zegment.checkpoint_parts import read_embeddings, read_words
from zegment.config import Config
from zegment.config.model import TRAINING_FREE
from zegment.errors import CheckpointError, ConfigError, VocabularyError
from zegment.export.graph import (
    IMAGE,
    LOGITS,
    SCORES,
    TEXT_EMBEDDINGS,
    GraphFacts,
    open_session,
)
from zegment.files import sha256_of
from zegment.models.base import SegmentationModel
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText, TextTower
from zegment.trained import Trained
from zegment.vocabulary import Vocabulary
from zegment.wording import brief

SAME_ROW = 0.9999
"""Cosine from which on a text embedding is one of those that a graph holds."""


class ExportedModel(SegmentationModel):
    """An exported graph behind the interface of the model that it was made from.

    Where the vocabulary is a part of the graph, any of its classes can be asked for, in any order.

    Args:
        session: From `open_session`.
        facts: From the same file.
        frozen: Text embeddings of the graph's channels, unit rows, float (K, D), if the vocabulary
            is a part of it.
    """

    frozen: Tensor | None

    runs_clip = False

    def __init__(self, session: Any, facts: GraphFacts, *, frozen: Tensor | None = None) -> None:  # noqa: ANN401 - onnxruntime has no types
        super().__init__(mean=facts.mean, std=facts.std, patch_size=facts.patch_size)
        self.session = session
        self.facts = facts
        # Not persistent: whatever belongs to the graph is in its file.
        self.register_buffer("frozen", frozen, persistent=False)

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return class logits on the feature grid, float (B, K, h, w); see the base class.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``, or embeddings are of another
                dimension.
            VocabularyError: If the vocabulary is a part of the graph and lacks one of the classes.
        """
        self._check(image, text_embeddings)
        if text_embeddings.dim() == 3:  # each image has its own
            pairs = zip(image, text_embeddings, strict=True)
            return torch.cat([self(one[None], texts) for one, texts in pairs])
        feeds = {IMAGE: _array(image)}
        if not self.facts.frozen:
            feeds[TEXT_EMBEDDINGS] = _array(text_embeddings)
        logits = torch.from_numpy(self.session.run([LOGITS], feeds)[0]).to(image.device)
        if self.facts.frozen:
            logits = logits[:, self._channels(text_embeddings)]
        return logits

    def scores(self, logits: Tensor) -> Tensor:
        """Return what the model that was exported makes of its logits, same shape."""
        return SCORES[self.facts.scores](logits)

    @property
    def separate_scores(self) -> bool:
        """Return what held for the model that was exported."""
        return self.facts.scores == "sigmoid"

    def check_text_embeddings(self, text_embeddings: Tensor) -> None:
        """Check that the graph knows the classes of text embeddings (K, D).

        Raises:
            VocabularyError: If the vocabulary is a part of the graph and lacks one of them.
        """
        if self.facts.frozen:
            self._channels(text_embeddings)

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Check that batches of this shape can be processed; an exported model is not trained."""
        if training:
            raise ConfigError(
                "an exported model cannot be trained; train the model it was made from, and export "
                "it again"
            )
        super().check_batch(size, batch=batch, training=training)

    def _check(self, image: Tensor, text_embeddings: Tensor) -> None:
        """Raise ValueError for shapes that the graph would take and answer wrongly."""
        self.check_sides(image)
        if text_embeddings.shape[-1] != self.facts.embed_dim:
            raise ValueError(
                f"text embeddings of {text_embeddings.shape[-1]} dimensions for a model of "
                f"{self.facts.embed_dim}; take them from the text tower of its CLIP"
            )

    def _channels(self, text_embeddings: Tensor) -> Tensor:
        """Return which of the graph's channels answer to text embeddings (K, D), int64 (K,)."""
        assert self.frozen is not None  # noqa: S101 - set wherever the facts say so
        cosines = text_embeddings.float() @ self.frozen.to(text_embeddings.device).float().T
        best, channels = cosines.max(dim=1)
        if (best < SAME_ROW).any():
            raise VocabularyError(_refusal(self.facts.class_names))
        return channels


def load_exported(folder: Path, device: torch.device) -> Trained:
    """Return the model of an exported folder.

    Args:
        folder: What `zegment.export.folder.export` wrote.
        device: Where to compute; see `zegment.export.graph.open_session`.

    Raises:
        ConfigError: If onnxruntime is not installed.
        CheckpointError: If the folder is damaged, or its graph is not one that Zegment exported.
    """
    header, config = read_header(folder)
    session, facts = open_session(folder / ONNX, device)
    _check_whole(folder, header, facts, needs_words=config.model.kind not in TRAINING_FREE)
    vocabulary, seen = _vocabulary(folder, facts)
    text_tower = _text_tower(folder, config, device, facts, vocabulary)
    frozen = vocabulary.embed(text_tower) if vocabulary is not None and facts.frozen else None
    return Trained(
        config=config,
        model=ExportedModel(session, facts, frozen=frozen).to(device).eval(),
        text_tower=text_tower,
        fingerprint=header.get("clip_fingerprint", ""),
        vocabulary=vocabulary,
        seen=seen,
    )


def _check_whole(
    folder: Path, header: Mapping[str, Any], facts: GraphFacts, *, needs_words: bool
) -> None:
    """Check that the files of a folder belong together.

    Raises:
        CheckpointError: If the graph is another one, preprocessing speaks of another, or the words
            of a trained model are missing.
    """
    again = "copy the whole folder again, or export the model again"
    if header.get(GRAPH) != sha256_of(folder / ONNX):
        raise CheckpointError(f"{folder / ONNX} is not the graph of this folder; {again}")
    preprocessing = read_json(folder / PREPROCESSING)
    for name in ("mean", "std", "patch_size"):
        ours = getattr(facts, name)
        if preprocessing.get(name) != (list(ours) if isinstance(ours, tuple) else ours):
            raise CheckpointError(
                f"{folder / PREPROCESSING}: {name} is {brief(preprocessing.get(name))}, and the "
                f"graph was made for {ours}; {again}"
            )
    if needs_words and not (folder / VOCABULARY).is_file():
        raise CheckpointError(f"{folder} lacks {VOCABULARY}; {again}")


def _vocabulary(folder: Path, facts: GraphFacts) -> tuple[Vocabulary | None, tuple[str, ...]]:
    """Return the classes that a folder brings along, and those that had masks.

    Raises:
        CheckpointError: If they are damaged, or not those of the graph.
    """
    if not (folder / VOCABULARY).is_file() and not facts.frozen:
        return None, ()
    vocabulary, seen = read_words(folder)
    owners = tuple(vocabulary.class_names[owner] for owner in vocabulary.owners())
    if facts.frozen and owners != facts.class_names:
        raise CheckpointError(
            f"{folder / VOCABULARY} is of another model: the graph was made for "
            f"{', '.join(facts.class_names)}; copy or export the whole folder again"
        )
    return vocabulary, seen


def _text_tower(
    folder: Path,
    config: Config,
    device: torch.device,
    facts: GraphFacts,
    vocabulary: Vocabulary | None,
) -> TextTower:
    """Return what embeds the words that the model is asked about."""
    load = partial(load_text_tower, config.model.clip, device=device)
    if vocabulary is None:
        return load()
    embeddings = read_embeddings(folder / TEXT, vocabulary)

    def refuse() -> NoReturn:
        raise VocabularyError(_refusal(facts.class_names))

    return RememberedText(
        embeddings, refuse if facts.frozen else load, vocabulary=vocabulary, device=device
    )


def _refusal(class_names: tuple[str, ...]) -> str:
    """Return why a model with a frozen vocabulary takes no other words, and what to do."""
    shown = ", ".join(dict.fromkeys(class_names))
    return (
        f"this model was exported for its own classes alone ({shown}); ask for some of these, in "
        "the same words, or export it again: with the classes you need, or without --classes for "
        "any"
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor as onnxruntime takes it."""
    array: NDArray[np.float32] = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array
