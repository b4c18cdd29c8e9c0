"""Training on images that each have a sentence of their own, as medical pictures do.

Letters: B images, S classes, D embedding, n items of the data set, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from zegment.objectives import (
    LabelledBatch,
    Objective,
    SeenLabels,
    SegmentationLoss,
    count_targets,
    named_losses,
    training_logits,
)


class DescribedObjective(Objective[nn.Module, LabelledBatch]):
    """Learns one class beside the background, which each image has a sentence of its own about.

    Args:
        text_embeddings: Unit embeddings of the classes, float (S, D); that of the described class
            is not used.
        place: Id of the described class.
        sentences: Unit embeddings of the sentences, by item of the data set, float (n, D).
        loss: What the logits and targets are turned into.

    Source:
        The medical benchmark of MedCLIPSeg, section "Text prompts"; how ZegCLIP was run there is
        not published.
    """

    text_embeddings: Tensor
    sentences: Tensor

    def __init__(
        self, text_embeddings: Tensor, *, place: int, sentences: Tensor, loss: SegmentationLoss
    ) -> None:
        super().__init__()
        self.target = SeenLabels(range(len(text_embeddings)))
        self.register_buffer("text_embeddings", text_embeddings.detach(), persistent=False)
        self.register_buffer("sentences", sentences.detach(), persistent=False)
        self.place, self.loss = place, loss

    def prepare(self, image: Tensor, label: Tensor, item: Tensor | None = None) -> LabelledBatch:
        """Return a batch with the embeddings of each image's sentence; see `Objective`."""
        if item is None:
            raise ValueError("which images these are is needed to find their sentences")
        target = self.target(label)
        text = self.text_embeddings.repeat(len(image), 1, 1)
        text[:, self.place] = self.sentences[item]
        count = count_targets(self.loss, target, text.shape[1])
        return LabelledBatch(image=image, label=target, count=count, text_embeddings=text)

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return named losses; see `Objective`."""
        assert batch.text_embeddings is not None  # noqa: S101 - made above
        logits = training_logits(model, batch.image, batch.text_embeddings)
        return named_losses(self.loss, logits, batch.label, count=batch.count)
