"""Train the tiny CLIP of the Shapes world from scenes and captions, without a single mask.

    python scripts/train_shapes_clip.py --out src/zegment/assets/shapes-clip

The result is a folder in open_clip's own format, which ``open_clip.create_model_and_transforms``
and ``open_clip.get_tokenizer`` read as ``local-dir:<folder>``. The packaged budget (145 thousand
images) takes about a quarter of an hour on two CPU cores; ``--scale 10`` suits a GPU. How it is
done stands in ``zegment.shapes_clip``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from zegment.errors import ZegmentError
from zegment.shapes_clip import Step, learn
from zegment.shapes_clip.saving import check_place


class Report:
    """Prints a line every 20 steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.start, self.images = time.perf_counter(), 0

    def __call__(self, step: Step) -> None:
        """Take note of a step."""
        self.losses.append(step.loss)
        if step.step % 20 and step.step < step.steps:
            return
        now = time.perf_counter()
        speed = (step.images - self.images) / (now - self.start)
        print(
            f"{step.size} px  step {step.step}/{step.steps}  loss {fmean(self.losses):.3f}  "
            f"scale {step.scale:.1f}  {speed:.0f} images/s",
            flush=True,
        )
        self.losses.clear()
        self.start, self.images = now, step.images


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the image budget")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_args()
    device = None if args.device == "auto" else args.device
    try:
        check_place(args.out, replace=True)
        learnt = learn(share=args.scale, seed=args.seed, device=device, on_step=Report())
        out, passed = args.out, learnt.gates.passed()
        if not passed:
            out = out.with_name(f"{out.name}-failed")  # good weights stay in place
        learnt.save(out, replace=True)
    except ZegmentError as error:
        parser.error(str(error))
    print(f"gates: {asdict(learnt.gates)}")
    print(f"{out}: {'passed' if passed else 'FAILED'} in {learnt.log['seconds']} s")
    raise SystemExit(not passed)


if __name__ == "__main__":
    main()
