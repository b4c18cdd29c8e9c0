"""Video files: frames in, overlays out, and class scores that are smoothed over time.

H W pixels, K classes, h w grid. Needs the extra ``video``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from torch import Tensor

#: Used where a file does not say how fast it is to be shown.
_USUAL_RATE = Fraction(25)


class Smoothing:
    """A running mean of class scores over the frames of one video.

    With ``weight`` w and the scores s of frame t, the smoothed scores m are
    m(1) = s(1) and m(t) = w m(t - 1) + (1 - w) s(t), for every class and place. Half of what a
    frame contributes is gone after log(0.5) / log(w) frames: 1 at w = 0.5, 7 at w = 0.9.

    Args:
        weight: Of the past, in [0, 1); 0 leaves every frame as it is.

    Raises:
        ConfigError: If ``weight`` is outside [0, 1).
    """

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < 1:
            raise ConfigError(
                f"the smoothing weight is {weight:g}; give a number from 0 (none) to below 1, "
                "such as 0.5"
            )
        self.weight = weight
        self._mean: Tensor | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the mean after one more frame; it begins anew when the size changes.

        Args:
            scores: Of the next frame, float (1, K, h, w).

        Returns:
            Smoothed scores, float (1, K, h, w), in the unit of ``scores``.
        """
        if self._mean is None or self._mean.shape != scores.shape:
            self._mean = scores
        else:
            self._mean = self.weight * self._mean + (1 - self.weight) * scores
        return self._mean


def read_frames(path: str | Path, *, every: int = 1) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video in the order in which they are shown.

    A rotation by quarter turns that the camera noted is applied; a mirrored one is not.

    Args:
        path: The file; of several video streams, the first is read.
        every: Take one frame in so many, beginning with the first.

    Yields:
        RGB, uint8 (H, W, 3), contiguous, the caller's own.

    Raises:
        ConfigError: If ``every`` is below 1, or PyAV is not installed.
        ImageError: If the file is missing, is no video, holds no frame, or is damaged.
    """
    if every < 1:
        raise ConfigError(f"every is {every}; give 1 for all frames, 2 for every second, ...")
    number = -1
    with _opened(Path(path)) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise ImageError(f"{path}: frame {number + 1} is damaged; copy the file again")
            if number % every == 0:
                pixels = frame.to_ndarray(format="rgb24")
                turns = round(frame.rotation / 90)
                yield np.ascontiguousarray(np.rot90(pixels, turns))
    if number < 0:
        raise ImageError(f"{path} holds no frame; if it was cut off, copy it again")


def frame_rate(path: str | Path) -> Fraction:
    """Return how many frames are shown per second, on average.

    Raises:
        ConfigError: If PyAV is not installed.
        ImageError: If the file is missing or is no video.
    """
    with _opened(Path(path)) as (_, stream):
        rate = stream.average_rate
        return Fraction(rate.numerator, rate.denominator) if rate else _USUAL_RATE


def encode_mp4(frames: Iterable[NDArray[np.uint8]], *, rate: Fraction) -> bytes:
    """Return pictures as an H.264 video; the same pictures give the same bytes.

    Args:
        frames: RGB, uint8 (H, W, 3). An odd size gets one more row or column, for the format
            wants even ones; pictures of another size than the first are scaled to it.
        rate: Frames per second.

    Returns:
        An mp4 file with colours at half resolution, as players expect.

    Raises:
        ConfigError: If PyAV is not installed or has no H.264 encoder.
    """
    av = pyav()
    file = BytesIO()
    # The name of the encoding library's version would change the bytes.
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        try:
            stream = container.add_stream("libx264", rate=rate)
        except av.codec.codec.UnknownCodecError as error:
            raise ConfigError("this PyAV cannot write H.264; install the one of PyPI") from error
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        stream.codec_context.thread_count = 1  # x264 divides its work by the number of cores
        for pixels in frames:
            height, width = (side + side % 2 for side in pixels.shape[:2])
            if not stream.codec_context.is_open:
                stream.width, stream.height = width, height
            rows, columns = height - pixels.shape[0], width - pixels.shape[1]
            even = np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="edge")
            if (stream.height, stream.width) != (height, width):
                size = (stream.width, stream.height)
                even = np.asarray(Image.fromarray(even).resize(size))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield a container and its first video stream; what FFmpeg refuses becomes `ImageError`."""
    av = pyav()
    try:
        if not path.is_file():
            raise ImageError(f"no video at {path}; check the path")
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path} holds no pictures, only sound or text; give a video")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "the file is empty" if empty else error.strerror
        raise ImageError(
            f"{path} cannot be read as a video ({reason}); if it is damaged or cut off, copy it "
            "again, or convert it to mp4"
        ) from error


def pyav() -> Any:  # noqa: ANN401 - the module
    """Return PyAV, which reads and writes videos.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import av  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ConfigError(
            'reading and writing videos needs PyAV; install it with pip install "zegment[video]"'
        ) from error
    return av
