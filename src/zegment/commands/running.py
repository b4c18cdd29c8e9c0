"""The options that say how a model is run: in which precision, and through which windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from zegment.errors import ConfigError

if TYPE_CHECKING:
    from zegment.config import WindowConfig
    from zegment.segmenter import Segmenter

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]

PrecisionOption = Annotated[
    Precision,
    typer.Option(help="Of matrix products; the shorter ones are faster and change a few labels."),
]
WindowsOption = Annotated[
    str | None,
    typer.Option(help="Instead of the model's own: whole, or SIZE/STRIDE in pixels, as 512/426."),
]
BlendOption = Annotated[
    Literal["average", "smooth"] | None,
    typer.Option(help="How windows share pixels; smooth: a window counts less near its edge."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What the options say.

    Raises:
        ConfigError: If ``windows`` cannot be read.
    """

    precision: Precision = "float32"
    windows: str | None = None
    blend: Literal["average", "smooth"] | None = None

    def __post_init__(self) -> None:
        self._sides()

    def apply(self, segmenter: Segmenter) -> None:
        """From now on, run a segmenter as the options say.

        Raises:
            ConfigError: If windows of this kind would leave gaps.
        """
        from zegment.inference.running import Execution

        windows = self._of(segmenter.windows)
        least = segmenter.model.patch_size
        if windows.size is not None and windows.size < least:
            raise ConfigError(
                f"--windows {self.windows}: this model looks at {least} pixels at least, so give a "
                f"size from {least}; it was made for {segmenter.windows.size or 'whole pictures'}"
            )
        segmenter.run_as(Execution(precision=self.precision, windows=windows))

    def _of(self, own: WindowConfig) -> WindowConfig:
        from zegment.config.fields import FieldError

        size, stride = (own.size, own.stride) if self.windows is None else self._sides()
        try:
            windows = replace(own, size=size, stride=stride, blend=self.blend or own.blend)
            windows.check()
        except FieldError as error:
            raise ConfigError(f"--windows {self.windows}: {error}") from error
        return windows

    def _sides(self) -> tuple[int | None, int | None]:
        if self.windows in {None, "whole"}:
            return None, None
        try:
            size, stride = (int(side) for side in str(self.windows).split("/"))
        except ValueError:
            size = stride = 0
        if size < 1 or stride < 1:
            raise ConfigError(
                f"--windows is '{self.windows}'; give whole, or SIZE/STRIDE in pixels, as 512/426"
            )
        return size, stride
