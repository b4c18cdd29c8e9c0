"""Train the tiny CLIP of the Shapes world from scenes and captions, without a single mask.

    python scripts/train_shapes_clip.py --out src/zegment/assets/shapes-clip

The result is a folder in open_clip's own format, which ``open_clip.create_model_and_transforms``
and ``open_clip.get_tokenizer`` read as ``local-dir:<folder>``. The packaged budget (145 thousand
images) takes about a quarter of an hour on two CPU cores; ``--scale 10`` suits a GPU.

B batch; T tokens; K classes; S the side of a square image.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from zegment.data import shapes
from zegment.data.shapes import CLASS_NAMES, SPLIT_SEEDS, THINGS, UNSEEN, Scenes

CONTEXT_LENGTH = 32
PATCH_SIZE = 8
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
PROMPT = "a photo of a {}"
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
# Well away from the seeds of the data set's splits.
FIRST_SEED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training on ``images`` scenes of one size, in pixels."""

    size: int
    batch_size: int
    images: int
    max_things: int


PHASES = (
    Phase(size=48, batch_size=192, images=54_000, max_things=1),
    Phase(size=64, batch_size=160, images=66_000, max_things=4),
    Phase(size=96, batch_size=128, images=25_000, max_things=4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What the weights can do on validation scenes, and whether that is enough; all in [-1, 1].

    Attributes:
        text_cosine: Largest cosine between the prompts of two classes.
        thing_top1: Single-thing scenes whose thing is ranked first among all things.
        thing_auc: Presence of a thing in a scene, area under the ROC curve, mean over classes.
        stuff_auc: The same for stuff.
        unseen_auc: The same for the unseen classes, which are no different here.
        odd_look_top1: As ``thing_top1``, but every thing wears another class's look. Not a gate:
            it says how much of a class is its outline rather than its look.
        recall_at_1: Scenes for which a caption of exactly their classes comes first of 200.
        recall_at_5: The same, among the first five.
    """

    text_cosine: float
    thing_top1: float
    thing_auc: float
    stuff_auc: float
    unseen_auc: float
    odd_look_top1: float
    recall_at_1: float
    recall_at_5: float

    def passed(self) -> bool:
        """Return whether the weights may be used."""
        return (
            self.text_cosine < 0.9
            and self.thing_top1 > 0.8
            and self.thing_auc > 0.9
            and self.stuff_auc > 0.99
        )


def model_config(size: int) -> dict[str, Any]:
    """Return the arguments of ``open_clip.CLIP``, as they also stand in the saved config."""
    return {
        "embed_dim": 128,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": size,
            "layers": 5,
            "width": 160,
            "head_width": 32,
            "patch_size": PATCH_SIZE,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 96,
            "heads": 3,
            "layers": 2,
        },
    }


def build_model(size: int, weights: dict[str, Tensor] | None = None) -> open_clip.CLIP:
    """Return a model for images of one size, with weights that may come from another size."""
    config = model_config(size)
    config["vision_cfg"] = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    config["text_cfg"] = open_clip.CLIPTextCfg(**config["text_cfg"])
    model = open_clip.CLIP(**config)
    if weights is not None:
        key = "visual.positional_embedding"
        resized = resize_positions(weights[key], size // PATCH_SIZE)
        model.load_state_dict({**weights, key: resized}, strict=True)
    return model


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings, (1 + side * side, D), interpolated from those of another grid."""
    head, grid = positions[:1], positions[1:]
    old = math.isqrt(len(grid))
    if old == side:
        return positions
    square = grid.T.reshape(1, -1, old, old)
    square = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([head, square.flatten(2)[0].T])


def visible_names(visible: NDArray[np.bool_]) -> list[str]:
    """Return the names of the classes marked in a bool (K,) array."""
    return [name for name, shown in zip(CLASS_NAMES, visible, strict=True) if shown]


class CaptionedBatches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of images, tokens and which captions are true of which images.

    Yields uint8 (B, 3, S, S), int64 (B, T) and bool (B, B), whose entry (i, j) says that
    caption j names only classes visible in image i.
    """

    def __init__(self, phase: Phase, seed: int) -> None:
        self.phase = phase
        self.seed = seed
        self.tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)

    def __len__(self) -> int:
        return math.ceil(self.phase.images / self.phase.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for step in range(len(self)):
            start = step * self.phase.batch_size
            indices = range(start, start + self.phase.batch_size)
            scenes = shapes.draw_scenes(
                self.seed, indices, size=self.phase.size, max_things=self.phase.max_things
            )
            sentences = [
                shapes.caption(np.random.default_rng((self.seed, index, 1)), visible_names(visible))
                for index, visible in zip(indices, scenes.visible, strict=True)
            ]
            named = np.array(
                [[name in shapes.mentioned(s) for name in CLASS_NAMES] for s in sentences]
            )
            # (B, 1, K) lacks (1, B, K): no class is named that is not visible.
            true_of = ~(named[None] & ~scenes.visible[:, None]).any(-1)
            images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous()
            yield images, self.tokenizer(sentences), torch.from_numpy(true_of)


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """Return uint8 (B, 3, S, S) images as the model wants them, float32."""
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    return (images.to(device).float() / 255 - mean) / std


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, true_of: Tensor) -> Tensor:
    """Return the symmetric contrastive loss without false negatives, a scalar.

    Args:
        images: Unit rows, float (B, D).
        texts: Unit rows of the images' captions, float (B, D).
        scale: What cosines are multiplied by, a scalar.
        true_of: Whether caption j is true of image i, bool (B, B).
    """
    others = true_of & ~torch.eye(len(images), dtype=torch.bool, device=true_of.device)
    logits = (scale * images @ texts.T).masked_fill(others, -torch.inf)
    target = torch.arange(len(images), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only, and never the token embedding.

    The rows of words that no caption contains get no gradient; decay would shrink them all to
    zero, and unknown words would then be the same word.
    """
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        (keep if parameter.ndim < 2 or "embedding" in name else decay).append(parameter)
    groups = [{"params": decay}, {"params": keep, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True
    )


def learning_rate(step: int, progress: float) -> float:
    """Return a cosine over the whole budget, warmed up over the first 40 steps of a phase."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
    return LEARNING_RATE * min(1.0, (step + 1) / 40) * (0.02 + 0.98 * cosine)


def train_phase(
    model: open_clip.CLIP, phase: Phase, *, seed: int, before: int, total: int, device: torch.device
) -> list[dict[str, float]]:
    """Train in place through one phase and return its log, one row every 20 steps.

    The learning rate follows ``before``, the images seen in earlier phases, out of ``total``.
    """
    batches = CaptionedBatches(phase, seed)
    # The one worker draws the next scenes while this process computes gradients.
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    optimizer = build_optimizer(model)
    model.train()
    rows: list[dict[str, float]] = []
    start = time.perf_counter()
    recent: list[float] = []
    for step, (images, tokens, true_of) in enumerate(loader):
        seen = before + step * phase.batch_size
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, seen / total)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            image_rows = model.encode_image(normalize(images, device))
            text_rows = model.encode_text(tokens.to(device))
        loss = contrastive_loss(
            F.normalize(image_rows.float(), dim=-1),
            F.normalize(text_rows.float(), dim=-1),
            model.logit_scale.exp(),
            true_of.to(device),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        recent.append(loss.item())
        if step % 20 == 19 or step + 1 == len(batches):
            speed = (step + 1) * phase.batch_size / (time.perf_counter() - start)
            rows.append(
                {"images": seen + phase.batch_size, "loss": round(float(np.mean(recent)), 4)}
            )
            recent.clear()
            print(
                f"{phase.size} px  step {step + 1}/{len(batches)}  loss {rows[-1]['loss']:.3f}  "
                f"scale {model.logit_scale.exp().item():.1f}  {speed:.0f} images/s",
                flush=True,
            )
    return rows


@torch.no_grad()
def encode_scenes(model: open_clip.CLIP, scenes: Scenes, device: torch.device) -> NDArray[Any]:
    """Return unit image embeddings, float32 (N, D)."""
    parts = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).split(100)
    rows = [model.encode_image(normalize(part, device), normalize=True) for part in parts]
    return torch.cat(rows).float().cpu().numpy()


@torch.no_grad()
def encode_sentences(
    model: open_clip.CLIP, sentences: Sequence[str], device: torch.device
) -> NDArray[Any]:
    """Return unit text embeddings, float32 (N, D)."""
    tokens = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)(list(sentences))
    return model.encode_text(tokens.to(device), normalize=True).float().cpu().numpy()


def area_under_curve(scores: NDArray[Any], present: NDArray[np.bool_]) -> float:
    """Return the probability that a scene with the class scores above one without it."""
    positive, negative = scores[present], scores[~present]
    return float((positive[:, None] > negative[None]).mean())


def thing_top1(
    model: open_clip.CLIP, prompts: NDArray[Any], device: torch.device, *, size: int, odd: bool
) -> float:
    """Return how often the only thing of a scene is ranked first among things, in [0, 1]."""
    scenes = shapes.draw_scenes(
        SPLIT_SEEDS["val"], range(600), size=size, max_things=1, exceptions=1.0 if odd else 0.1
    )
    shown = scenes.visible[:, : len(THINGS)]
    scores = encode_scenes(model, scenes, device) @ prompts[: len(THINGS)].T
    right = shown[np.arange(len(shown)), scores.argmax(1)]
    return float(right[shown.any(1)].mean())


def measure_gates(model: open_clip.CLIP, device: torch.device, *, size: int) -> Gates:
    """Measure what the weights can do on validation scenes of one size."""
    model.eval()
    prompts = encode_sentences(model, [PROMPT.format(name) for name in CLASS_NAMES], device)
    cosines = prompts @ prompts.T - 2 * np.eye(len(prompts))
    scenes = shapes.draw_scenes(SPLIT_SEEDS["val"], range(400), size=size)
    rows = encode_scenes(model, scenes, device)
    scores = rows @ prompts.T
    auc = np.array(
        [area_under_curve(scores[:, k], scenes.visible[:, k]) for k in range(len(CLASS_NAMES))]
    )
    shown = scenes.visible[:200]
    rng = np.random.default_rng(0)
    sentences = [shapes.caption(rng, visible_names(visible), partial=0.0) for visible in shown]
    ranks = (rows[:200] @ encode_sentences(model, sentences, device).T).argsort(1)[:, ::-1]
    same = (shown[:, None] == shown[None]).all(-1)
    hits = np.take_along_axis(same, ranks, axis=1)
    return Gates(
        text_cosine=float(cosines.max()),
        thing_top1=thing_top1(model, prompts, device, size=size, odd=False),
        thing_auc=float(auc[: len(THINGS)].mean()),
        stuff_auc=float(auc[len(THINGS) :].mean()),
        unseen_auc=float(auc[[CLASS_NAMES.index(name) for name in UNSEEN]].mean()),
        odd_look_top1=thing_top1(model, prompts, device, size=size, odd=True),
        recall_at_1=float(hits[:, 0].mean()),
        recall_at_5=float(hits[:, :5].any(1).mean()),
    )


def save(model: open_clip.CLIP, log: dict[str, Any], out: Path) -> None:
    """Write the folder so that a reader sees the old one or the new one, never half of it."""
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {key: value.half().cpu().contiguous() for key, value in model.state_dict().items()}
    path = fresh / "open_clip_model.safetensors"
    save_file(weights, path)
    path.chmod(0o644)  # safetensors makes private files; a packaged one is for everybody
    preprocess = {"mean": MEAN, "std": STD}
    config = {"model_cfg": model_config(PHASES[-1].size), "preprocess_cfg": preprocess}
    for name, content in (("open_clip_config.json", config), ("training.json", log)):
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the image budget")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_args()
    best = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(best if args.device == "auto" else args.device)
    torch.manual_seed(args.seed)
    phases = [replace(phase, images=round(phase.images * args.scale)) for phase in PHASES]
    total = sum(phase.images for phase in phases)
    start = time.perf_counter()
    log: dict[str, Any] = {"seed": args.seed, "scale": args.scale, "device": device.type}
    log |= {"phases": [asdict(phase) for phase in phases], "curve": []}
    model = build_model(phases[0].size).to(device)
    for number, phase in enumerate(phases):
        weights = {key: value.float() for key, value in model.state_dict().items()}
        model = build_model(phase.size, weights).to(device)
        seed = FIRST_SEED + len(PHASES) * args.seed + number
        before = sum(earlier.images for earlier in phases[:number])
        log["curve"] += train_phase(
            model, phase, seed=seed, before=before, total=total, device=device
        )
        gates = measure_gates(model, device, size=phase.size)
        print(f"gates at {phase.size} px: {asdict(gates)}", flush=True)
    log |= {"seconds": round(time.perf_counter() - start), "gates": asdict(gates)}
    if not gates.passed():
        args.out = args.out.with_name(f"{args.out.name}-failed")  # good weights stay in place
    save(model, log, args.out)
    print(f"{args.out}: {'passed' if gates.passed() else 'FAILED'} in {log['seconds']} s")
    raise SystemExit(not gates.passed())


if __name__ == "__main__":
    main()
