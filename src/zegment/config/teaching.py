"""Options of CLIP-ZSS: what CLIP teaches a student, and how."""

from dataclasses import dataclass
from typing import Annotated, Literal

from zegment.config.fields import (
    FieldError,
    Name,
    Positive,
    PositiveOrZero,
    Range,
    Section,
    Share,
    Side,
)
from zegment.config.model import Attention, Heads, Layers

MOST_REMEMBERED = 1_000_000
"""Class tokens of a bank: two gigabytes at 512 dimensions."""

MOST_ITERATIONS = 1000
"""Of K-Means, which has come to rest long before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeachingConfig(Section):
    """CLIP-ZSS: global learning, pixel learning, and the synthesizer.

    The papers publish the size of the bank and nothing else of this; the rest are this project's
    choices.

    Attributes:
        global_weight: Weight of the Global Learning Module's loss; 0 leaves the module out.
        global_temperature: τ of that loss.
        bank_size: Class tokens that are kept as negatives.
        pseudo_classes: What unannotated pixels are trained on: ``none`` ignores them,
            ``centroids`` takes groups of the Pixel Learning Module with their mean CLIP tokens as
            classifiers, ``synthesizer`` with synthesised prototypes, which is the whole method.
        attention: How CLIP's last layer runs for dense tokens.
        window_sizes: Sides of the windows that K-Means starts from, as shares of the token grid's
            shorter side.
        iterations: Of K-Means.
        fusion_threshold: λ; clusters with a larger cosine are fused.
        smallest_group: Share of an image's tokens below which a group is dissolved.
        synthesizer_layers: Decoder layers of the synthesizer.
        synthesizer_heads: Attention heads of each.
        pseudo_temperature: 1/β, divides the cosines with prototypes.
        local_weight: Weight of local distillation; 0 leaves it out.
        local_temperature: τ of local distillation.
        loss_stride: Pixels per side of a cell in which mask losses are computed.
        cache: Folder in which CLIP's tokens are remembered from epoch to epoch; for data that are
            not cropped or coloured at random.
    """

    global_weight: PositiveOrZero = 1.0
    global_temperature: Positive = 0.07
    bank_size: Annotated[int, Range(at_least=0, at_most=MOST_REMEMBERED)] = 24
    pseudo_classes: Literal["none", "centroids", "synthesizer"] = "synthesizer"
    attention: Attention = "value"
    window_sizes: tuple[Share, ...] = (0.125, 0.25, 0.5)
    iterations: Annotated[int, Range(at_least=1, at_most=MOST_ITERATIONS)] = 10
    fusion_threshold: Annotated[float, Range(at_least=-1, at_most=1)] = 0.8
    smallest_group: Share = 0.01
    synthesizer_layers: Layers = 1
    synthesizer_heads: Heads = 8
    pseudo_temperature: Positive = 0.07
    local_weight: PositiveOrZero = 0.0
    local_temperature: Positive = 0.07
    loss_stride: Side = 4
    cache: Name | None = None

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If there is no window to start from.
        """
        if not self.window_sizes:
            raise FieldError("window_sizes", "is empty; give at least one, such as [0.25]")
