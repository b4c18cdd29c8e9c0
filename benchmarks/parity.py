"""Compares Zegment with numbers recorded from ZegCLIP's released modules.

    python benchmarks/parity.py FILE.safetensors…

prints one line per quantity and exits with 1 if any differs by more than 1e-4, relative to the
largest recorded value of that quantity (for gradients, of that layer). All sizes are read from
the files' metadata.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from zegment.clip import TextTower
from zegment.config import WindowConfig
from zegment.data import IGNORE_INDEX
from zegment.inference.decisions import best_class
from zegment.inference.fields import HeldScores, image_scores
from zegment.models.base import penalize_seen
from zegment.models.zegclip import ZegCLIP
from zegment.objectives import InductiveObjective, NonMutuallyExclusive
from zegment.self_training import Oracle, TransductiveObjective
from zegment.zegclip_layout import import_zegclip, rename_zegclip

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """One compared quantity."""

    name: str
    shape: tuple[int, ...]
    absolute: float
    relative: float

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE  # NaN does not pass


def compare(name: str, ours: Tensor, theirs: Tensor, *, floor: float = 1e-12) -> Row:
    """Return the largest difference, absolute and relative to the largest recorded value."""
    if ours.numel() != theirs.numel():
        return Row(name, tuple(ours.shape), float("inf"), float("inf"))
    ours, theirs = ours.detach().double().reshape(theirs.shape), theirs.double()
    absolute = (ours - theirs).abs().max().item()
    return Row(name, tuple(theirs.shape), absolute, absolute / max(theirs.abs().max(), floor))


class Recording:
    """A reference file: recorded tensors, and the sizes of the modules that made them."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            sizes = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.sizes = {key: ast.literal_eval(value) for key, value in sizes.items()}
        self.seen = torch.zeros(self.sizes["classes"], dtype=torch.bool)
        self.seen[self.sizes["seen"]] = True

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def model(self) -> ZegCLIP:
        model = import_zegclip(
            self.group("weight/"),
            heads=self.sizes["heads"],
            decoder_heads=self.sizes["decoder_heads"],
        )
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # recorded without dropout
        return model

    def text(self) -> Tensor:
        """Return text embeddings of the recorded tokens through open_clip's text tower."""
        weights = self.group("weight/text_encoder.")
        sizes = self.sizes
        clip = open_clip.CLIP(
            sizes["embed_dim"],
            vision_cfg={"layers": 1, "width": 32, "head_width": 32, "image_size": 32},
            text_cfg={
                "context_length": sizes["context_length"],
                "vocab_size": sizes["vocab"],
                "width": sizes["width"],
                "heads": sizes["heads"],
                "layers": sizes["text_layers"],
            },
            quick_gelu=True,
        )
        missing = clip.load_state_dict(weights, strict=False)
        if missing.unexpected_keys:
            raise KeyError(f"text weights that open_clip does not know: {missing.unexpected_keys}")
        tower = TextTower(
            encode=clip.eval().encode_text,
            tokenize=lambda sentences, length: _recorded_tokens(
                self.tensors["in/tokens"], sentences, length
            ),
            context_length=sizes["context_length"],
        )
        return tower([str(i) for i in range(sizes["classes"])])


def _recorded_tokens(tokens: Tensor, sentences: list[str], length: int) -> Tensor:
    """Stand in for a tokenizer: sentence "i" has the i-th recorded tokens."""
    padded = torch.zeros(len(sentences), length, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        if sentence:
            padded[row, : tokens.shape[1]] = tokens[int(sentence)]
    return padded


def compare_evaluation(recording: Recording, model: ZegCLIP, text: Tensor) -> Iterator[Row]:
    """Yield embeddings and test-time scores."""
    expected, sizes = recording.group("out/"), recording.sizes
    image, large = recording.tensors["in/image"], recording.tensors["in/image_large"]
    model.eval()
    with torch.no_grad():
        class_token, patch_tokens = model.encode(image)
    patches = patch_tokens.transpose(1, 2).reshape(expected["visual_patch"].shape)
    yield compare("text", text, expected["text"])
    yield compare("visual_patch", patches, expected["visual_patch"])
    yield compare("visual_cls", class_token, expected["visual_cls"])

    scores = image_scores(model, image, text, WindowConfig())
    margin = recording.sizes["seen_calibration"]
    yield compare(
        "eval_score", penalize_seen(scores, recording.seen, margin=margin), expected["eval_score"]
    )
    size = (image.shape[-2], image.shape[-1])
    label, _ = best_class(HeldScores(scores), recording.seen, margin=margin, size=size)
    yield compare("eval_label", label, expected["eval_label"])
    windows = WindowConfig(size=sizes["slide_crop"], stride=sizes["slide_stride"])
    scores = image_scores(model, large, text, windows)
    yield compare(
        "slide_score", penalize_seen(scores, recording.seen, margin=margin), expected["slide_score"]
    )


def ours_ignored(label: Tensor) -> Tensor:
    """Return recorded labels, in which 255 is ignored, in our numbers."""
    return label.masked_fill(label == 255, IGNORE_INDEX)


def compare_training(recording: Recording, model: ZegCLIP, text: Tensor) -> Iterator[Row]:
    """Yield training logits, targets, losses and every gradient."""
    expected, sizes = recording.group("out/"), recording.sizes
    image, label = recording.tensors["in/image"], ours_ignored(recording.tensors["in/label"])
    loss = NonMutuallyExclusive(focal_weight=sizes["mask_weight"], dice_weight=sizes["dice_weight"])
    model.train()
    if sizes["self_training"]:
        transductive = TransductiveObjective(text, seen=recording.seen, loss=loss, region=Oracle())
        logits = model(image, text)
        target = transductive.target(label, logits)
    else:
        inductive = InductiveObjective(text[recording.seen], seen=sizes["seen"], loss=loss)
        logits = model(image, inductive.text_embeddings)
        target = inductive.target(label)
    losses = loss(logits, target)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    resized = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)
    yield compare("train_mask_logits", resized, expected["train_mask_logits"])
    yield compare("train_target", target, ours_ignored(expected["train_target"]))
    yield compare("loss_mask", losses["loss_mask"], expected["loss_mask"])
    yield compare("loss_dice", losses["loss_dice"], expected["loss_dice"])
    yield compare("loss_total", total, expected["loss_total"])

    recorded = rename_zegclip(recording.group("grad/"))
    # The gradients of a layer's weight and bias are measured on the layer's scale: the key bias
    # of an attention cancels in the softmax, so what was recorded for it is rounding alone.
    scale: dict[str, float] = {}
    for name, gradient in recorded.items():
        layer = name.rpartition(".")[0]
        scale[layer] = max(scale.get(layer, 0.0), gradient.abs().max().item())
    ours = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    for name in sorted(recorded.keys() | ours.keys()):
        if name not in ours or name not in recorded:
            yield Row(f"grad/{name} (on one side only)", (), float("inf"), float("inf"))
        else:
            floor = scale[name.rpartition(".")[0]]
            yield compare(f"grad/{name}", ours[name], recorded[name], floor=floor)


def compare_file(path: Path) -> list[Row]:
    """Return every comparison for one reference file."""
    recording = Recording(path)
    model, text = recording.model(), recording.text()
    return [
        *compare_evaluation(recording, model, text),
        *compare_training(recording, model, text),
    ]


def main() -> int:
    """Print the table of each file and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    failed = 0
    for path in parser.parse_args().files:
        print(f"{path}\n{'quantity':58} {'shape':18} {'absolute':>10} {'relative':>10}")
        for row in compare_file(path):
            shape = "×".join(map(str, row.shape)) or "1"
            verdict = "" if row.passed else "  DIFFERS"
            print(f"{row.name:58} {shape:18} {row.absolute:10.2e} {row.relative:10.2e}{verdict}")
            failed += not row.passed
    print(f"{failed} quantities differ by more than {TOLERANCE:g}" if failed else "all equal")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
