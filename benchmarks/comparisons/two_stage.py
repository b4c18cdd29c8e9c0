"""One pass against two stages: seconds per image, and on Shapes what they find.

At 512 × 512, with random weights and 20 classes: the two-stage yardstick on ViT-B/16 and a drawn
picture, ZegCLIP on the same tower, and students. Then the packaged models on scenes of Shapes'
test split, where hIoU stands beside the time.

The papers' ratios are against opponents of their own on a GPU: ZegCLIP's against ZegFormer,
9.0 and 1.7 images per second on VOC; CLIP-ZSS's against DeOP, which runs CLIP once for all its
trained proposals. A processor has no use for a batch of crops, so there the ratio is nearer to that
of operations, which ZegCLIP's paper has as 1829 to 110 billion.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import torch
from comparisons.measuring import Work, in_turn, target, times_faster
from comparisons.students import DIM, MODELS, VIT_B16
from torch import Tensor
from torch.nn import functional as F

from zegment.checkpoint import load_trained
from zegment.clip import ImageTower
from zegment.config.loading import load_config
from zegment.config.model import TwoStageConfig
from zegment.data.shapes import ShapesDataset, draw_scenes
from zegment.data.transforms import normalize
from zegment.evaluation import evaluate
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.two_stage import FelzenszwalbRegions, MaskedCrop, TwoStage
from zegment.segmenter import Segmenter

SIDE, CLASSES = 512, 20
STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}

TWO_STAGE = "two stages, ViT-B/16"
ZEGCLIP = "ZegCLIP, ViT-B/16"
PAPER = {
    TWO_STAGE: "1",
    ZEGCLIP: "about 5 (9.0 / 1.7, against ZegFormer, GTX 1080 Ti)",
    "student": "up to 7 (against DeOP)",
}
SCENES = 48
"""Of Shapes' test split, in this comparison; `zegment evaluate` takes all 400."""

SHAPES_TWO_STAGE = ("model.kind=two_stage", "model.two_stage.cell=2")


def two_stage() -> TwoStage:
    """Return two stages on ViT-B/16 with the configuration's defaults."""
    own = TwoStageConfig()
    return TwoStage(
        ImageTower(VIT_B16),
        FelzenszwalbRegions(
            scales=own.scales, smallest_share=own.smallest_share, most=own.proposals
        ),
        MaskedCrop(margin=own.margin, outside=own.outside),
        cell=own.cell,
        temperature=own.temperature,
        **STATISTICS,
    )


def picture() -> Tensor:
    """Return a drawn picture as a batch of one, normalised, float (1, 3, SIDE, SIDE)."""
    scene = torch.from_numpy(draw_scenes(0, [0], size=SIDE).images[0]).permute(2, 0, 1)
    return normalize(scene[None], IMAGENET_MEAN, IMAGENET_STD)


@torch.inference_mode()
def label(model: SegmentationModel, image: Tensor, texts: Tensor) -> Tensor:
    """Return a label map of the image's size, int64 (1, H, W)."""
    logits = F.interpolate(model(image, texts), size=image.shape[-2:], mode="bilinear")
    return model.scores(logits).argmax(dim=1)


def timed(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each model at 512 × 512.

    Two stages take as long as many images of any other, so they are done once and without a
    warm-up; the others in turn.
    """
    image, texts = picture(), F.normalize(torch.randn(CLASSES, DIM), dim=1)
    works: dict[str, Work] = {
        name: partial(label, build().eval(), image, texts) for name, build in MODELS.items()
    }
    slow = two_stage().eval()
    seconds = in_turn({TWO_STAGE: partial(label, slow, image, texts)}, rounds=1, warm_up=False)
    seconds |= in_turn(works, rounds=rounds)
    finding = in_turn({"regions": partial(slow.regions, image[0])}, rounds=3)["regions"]
    rows = [
        {
            "model": name,
            "seconds": median(taken),
            "times_faster_than_two_stage": times_faster(seconds, name, than=TWO_STAGE),
            "paper": PAPER.get(name, PAPER["student"]),
        }
        for name, taken in seconds.items()
    ]
    rows[0] |= {"proposals": len(slow.regions(image[0])), "seconds_for_proposals": median(finding)}
    return rows


def on_shapes(scenes: int) -> list[dict[str, Any]]:
    """Return a row for each packaged model, one scene at a time."""
    dense = load_config(preset="shapes-dense-clip")
    two_stages = load_config(preset="shapes-dense-clip", overrides=list(SHAPES_TWO_STAGE))
    models = {
        "Shapes: two stages": load_trained("shapes-clip", config=two_stages),
        "Shapes: training-free dense CLIP": load_trained("shapes-clip", config=dense),
        "Shapes: one-stage baseline": load_trained("shapes-one-stage"),
        "Shapes: ZegCLIP": load_trained("shapes-zegclip"),
        "Shapes: CLIP-ZSS": load_trained("shapes-clip-zss"),
    }
    rows: list[dict[str, Any]] = []
    for name, trained in models.items():
        data = ShapesDataset("test", length=scenes)
        found = evaluate(Segmenter.of(trained), data, batch_size=1)
        seconds = found.seconds / found.images
        slowest = rows[0]["seconds"] if rows else seconds
        rows.append(
            {
                "model": name,
                "seconds": seconds,
                "times_faster_than_two_stage": slowest / seconds,
                "paper": None,
                "scenes": scenes,
                **{key: getattr(found.scores, key) for key in ("mIoU_seen", "mIoU_unseen", "hIoU")},
            }
        )
    return rows


def compare(*, rounds: int, scenes: int = SCENES) -> dict[str, Any]:
    """Return rows and targets; takes about a minute on two cores with three rounds."""
    rows, shapes = timed(rounds), on_shapes(scenes)
    faster = {row["model"]: row["times_faster_than_two_stage"] for row in rows}
    harmonic = {row["model"]: row["hIoU"] for row in shapes}
    gain = harmonic["Shapes: ZegCLIP"] - harmonic["Shapes: two stages"]
    return {
        "rows": [*rows, *shapes],
        "targets": [
            target("ZegCLIP, times faster than two stages", faster[ZEGCLIP], at_least=5),
            target(
                "fastest student, times faster than two stages",
                max(faster[name] for name in faster if name not in (TWO_STAGE, ZEGCLIP)),
                at_least=7,
            ),
            target("Shapes: hIoU of ZegCLIP above that of two stages", gain, at_least=0),
        ],
    }
