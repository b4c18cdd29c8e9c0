"""How different the synthesizer's prototypes are, after a short training on Shapes.

    python benchmarks/prototypes.py --out runs/prototypes --steps 300

trains CLIP-ZSS with the synthesizer, then looks at 64 validation scenes: cosines between prototypes
of different groups in one scene, between the masked means they were made from, and between the
groups' mean CLIP tokens; and cosines of prototypes of seen classes with their own and with other
text embeddings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.clip_zss import ClipZss
from zegment.config.loading import load_config
from zegment.data.shapes import ShapesDataset
from zegment.data.transforms import normalize
from zegment.models.student import Student
from zegment.teaching.synthesizer import masked_means
from zegment.training import Trainer


def between(rows: Tensor, present: Tensor) -> Iterator[float]:
    """Yield the cosine of every pair of present rows (B, G, D) of one image."""
    for image, there in zip(F.normalize(rows, dim=-1), present, strict=True):
        own = image[there]
        yield from (own @ own.T)[tuple(torch.triu_indices(len(own), len(own), 1))].tolist()


@torch.no_grad()
def look(model: Student, objective: ClipZss, scenes: int) -> dict[str, float]:
    """Return mean cosines over the first validation scenes."""
    pairs = ShapesDataset("val").__getitems__(range(scenes))
    image = normalize(torch.stack([image for image, _ in pairs]), model.mean, model.std)
    lesson = objective.prepare(image, torch.stack([label for _, label in pairs]))
    features = model.train().features(image)
    masks = objective.masks(lesson, features)
    means, present = masked_means(features, masks), masks.flatten(2).any(dim=2)
    prototypes = objective.synthesizer(means, present, lesson.class_token)
    texts = objective.text_embeddings
    seen = len(texts)
    cosines = F.normalize(prototypes[:, :seen], dim=-1) @ texts.T  # B, S, S
    own = torch.eye(seen, dtype=torch.bool).expand_as(cosines) & present[:, :seen, None]
    other = ~torch.eye(seen, dtype=torch.bool).expand_as(cosines) & present[:, :seen, None]
    groups = present[:, seen:]

    def mean(rows: Tensor) -> float:
        return torch.tensor(list(between(rows, groups))).mean().item()

    return {
        "prototypes of two groups": mean(prototypes[:, seen:]),
        "their masked means": mean(means[:, seen:]),
        "their mean CLIP tokens": mean(lesson.centres),
        "prototype of a seen class and its own text": cosines[own].mean().item(),
        "prototype of a seen class and another text": cosines[other].mean().item(),
    }


def main() -> None:
    """Train, look and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    changes = [f"optim.steps={arguments.steps}", f"seed={arguments.seed}", "data.val_length=64"]
    changes.append("teaching.pseudo_classes=synthesizer")
    trainer = Trainer(load_config(preset="shapes-clip-zss", overrides=changes), arguments.out)
    trainer.run()
    for what, cosine in look(trainer.trained.model, trainer.current.objective, 64).items():
        print(f"{cosine:6.3f}  {what}")


if __name__ == "__main__":
    main()
