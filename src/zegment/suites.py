"""One model on every data set of a published table."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from zegment.checkpoint_files import checkpoint_folder
from zegment.config import Config
from zegment.config.loading import load_config
from zegment.data import build_dataset
from zegment.data.benchmarks import benchmark
from zegment.distributed import is_main_process
from zegment.errors import ConfigError, did_you_mean
from zegment.evaluation import evaluate_named
from zegment.files import atomic_write_text
from zegment.progress import percent
from zegment.text_files import json_text

TABLE = "table"


def suite_names() -> tuple[str, ...]:
    """Return the names of the packaged suites."""
    return tuple(_suites())


def _suites() -> dict[str, Any]:
    return tomllib.loads(files("zegment.data").joinpath("suites.toml").read_text("utf-8"))


class SuiteRun:
    """The evaluation of one model on a suite; data sets that are done are not done again.

    Args:
        model: A run folder, a packaged checkpoint, or a CLIP for training-free prediction.
        suite: Name of the suite.
        root: Folder of data sets.
        out: Folder for ``<data set>.json``, ``table.json`` and ``table.md``.
        only: Names of some of the data sets; empty takes all.
        attention: Last layer of training-free CLIP.

    Raises:
        ConfigError: If the suite, or a data set in it, is unknown, or ``out`` is of another model.
        ModelNotFoundError: If a folder holds no model.
        DatasetNotFoundError: If files of any of the data sets are missing.
    """

    def __init__(
        self,
        model: str,
        suite: str,
        *,
        root: Path,
        out: Path,
        only: Sequence[str] = (),
        attention: str = "naclip",
    ) -> None:
        known = _suites()
        if suite not in known:
            raise ConfigError(
                f'no suite is called "{suite}"{did_you_mean(suite, list(known))}; '
                f"there are {', '.join(known)}"
            )
        self.model, self.suite, self.out = model, suite, out
        self._own = known[suite]
        members: dict[str, dict[str, Any]] = self._own["sets"]
        for name in only:
            if name not in members:
                raise ConfigError(f"--only {name}: the suite has {', '.join(members)}")
        self._trained = checkpoint_folder(model) is not None
        self.configs = {
            name: self._config(name, own, root, attention)
            for name, own in members.items()
            if not only or name in only
        }
        # All files are looked for before any work is done.
        for config in self.configs.values():
            build_dataset(config.data, "test")

    def _config(self, name: str, own: dict[str, Any], root: Path, attention: str) -> Config:
        place = json.dumps(str(root / benchmark(name).folder))
        overrides = [f"data.benchmark={name}", f"data.root={place}"]
        if not self._trained:
            windows = {**self._own["windows"], **own}
            overrides += ["model.kind=dense_clip", f"model.dense_clip.attention={attention}"]
            overrides += [f"windows.{key}={value}" for key, value in windows.items()]
        return load_config(overrides=overrides)

    def run(
        self,
        *,
        device: str | None = None,
        on_image: Callable[[str, int, int], object] | None = None,
    ) -> str:
        """Evaluate what is missing, write the table, and return it as Markdown.

        Raises:
            DatasetError: If images and masks of a data set do not fit together.
        """
        results = {}
        for name, config in self.configs.items():
            results[name] = self._finished(name, config) or self._measure(
                name, config, device, on_image
            )
        text = self._markdown(results)
        if is_main_process():
            summary = {"model": self.model, "suite": self.suite, "results": results}
            atomic_write_text(self.out / f"{TABLE}.json", json_text(summary))
            atomic_write_text(self.out / f"{TABLE}.md", text + "\n")
        return text

    def _circumstances(self, config: Config) -> dict[str, Any]:
        own: dict[str, Any] = {"model": self.model, "root": config.data.root}
        if not self._trained:
            own |= {
                "attention": config.model.dense_clip.attention,
                "windows": [config.windows.short_side, config.windows.size, config.windows.stride],
            }
        return own

    def _finished(self, name: str, config: Config) -> dict[str, Any] | None:
        path = self.out / f"{name}.json"
        if not path.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}); remove it") from error
        wanted = self._circumstances(config)
        if {key: result.get(key) for key in wanted} != wanted:
            raise ConfigError(
                f"{path} was measured under other circumstances than asked for now ({wanted}); "
                "give another --out or remove it"
            )
        return result

    def _measure(
        self,
        name: str,
        config: Config,
        device: str | None,
        on_image: Callable[[str, int, int], object] | None,
    ) -> dict[str, Any]:
        evaluation = evaluate_named(
            self.model,
            other=config,
            device=device,
            on_image=None
            if on_image is None
            else (lambda done, total: on_image(name, done, total)),
        )
        result = {**self._circumstances(config), **evaluation.to_dict()}
        if is_main_process():
            atomic_write_text(self.out / f"{name}.json", json_text(result))
        return result

    def _markdown(self, results: dict[str, dict[str, Any]]) -> str:
        """Return one line per data set; overlap is told for models that were trained."""
        lines = ["| data set | images | classes | mIoU | pAcc |", "|---|---|---|---|---|"]
        if self._trained:
            lines = [
                "| data set | images | classes | mIoU | pAcc | had masks in training "
                "| mIoU of these | mIoU of the others |",
                "|---" * 8 + "|",
            ]
        for name, result in results.items():
            cells = [
                benchmark(name).title,
                str(result["images"]),
                str(len(result["per_class"])),
                percent(result["mIoU"]),
                percent(result["pAcc"]),
            ]
            if self._trained:
                overlap = result.get("overlap_with_training")
                met = "its own data" if overlap is None else f"{len(overlap)} classes"
                cells += [met, percent(result["mIoU_seen"]), percent(result["mIoU_unseen"])]
            lines.append("| " + " | ".join(cells) + " |")
        mean = [r["mIoU"] for r in results.values() if r["mIoU"] is not None]
        lines.append("")
        lines.append(
            f"{self.suite}, {self.model}: mean mIoU of {len(mean)} data sets "
            f"{percent(sum(mean) / len(mean)) if mean else '–'}"
        )
        return "\n".join(lines)
