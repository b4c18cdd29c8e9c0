"""Frames of videos, as they were put in, and scores smoothed over them."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zegment.errors import ConfigError, ImageError
from zegment.prediction.video import Smoothing, encode_mp4, frame_rate, read_frames

av = pytest.importorskip("av")

Frames = list[NDArray[np.uint8]]


@pytest.fixture
def frames() -> Frames:
    numbers = np.random.default_rng(0)
    return [numbers.integers(0, 256, (20, 34, 3), dtype=np.uint8) for _ in range(7)]


@pytest.fixture
def film(tmp_path: Path, frames: Frames) -> Callable[..., Path]:
    """Return a function that writes the frames without loss."""

    def write(name: str = "film.mkv", codec: str = "ffv1", turned: int = 0) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(30000, 1001))
            stream.width, stream.height = 34, 20
            stream.pix_fmt = {"ffv1": "bgr0", "png": "rgb24"}[codec]
            if turned:
                stream.set_display_rotation(turned)
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "codec"), [("film.mkv", "ffv1"), ("film.mov", "png"), ("film.avi", "ffv1")]
)
def test_frames_come_out_as_they_went_in(
    film: Callable[..., Path], frames: Frames, name: str, codec: str
) -> None:
    found = list(read_frames(film(name, codec)))
    assert len(found) == 7
    for pixels, expected in zip(found, frames, strict=True):
        assert np.array_equal(pixels, expected)
        assert pixels.flags.c_contiguous
        pixels[0] = 0  # the caller's own


def test_one_frame_in_so_many_is_taken(film: Callable[..., Path], frames: Frames) -> None:
    found = list(read_frames(film(), every=3))
    assert len(found) == 3
    for pixels, expected in zip(found, frames[::3], strict=True):
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("turned", [90, 180, -90])
def test_rotation_that_the_camera_noted_is_applied(
    film: Callable[..., Path], frames: Frames, turned: int
) -> None:
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot note a rotation")
    found = list(read_frames(film("film.mov", "png", turned)))
    # The matrix says by how much a player turns the stored frame against the clock.
    assert np.array_equal(found[0], np.rot90(frames[0], turned // 90))


def test_rate_is_exact(film: Callable[..., Path]) -> None:
    assert frame_rate(film()) == Fraction(30000, 1001)


def test_missing_file_is_named() -> None:
    with pytest.raises(ImageError, match=r"no video at none\.mp4"):
        next(read_frames("none.mp4"))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"not a video" * 99, "cannot be read as a video")]
)
def test_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        list(read_frames(tmp_path / "x.mp4"))


def test_video_that_was_cut_off_is_refused(film: Callable[..., Path]) -> None:
    path = film("film.mov", "png")  # its table of contents comes last
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ImageError, match="cut off"):
        list(read_frames(path))


def test_damage_in_the_middle_is_refused(film: Callable[..., Path]) -> None:
    path = film("film.mov", "png")
    data = bytearray(path.read_bytes())
    data[6000:9000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"film\.mov"):
        list(read_frames(path))


def test_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(ImageError, match="holds no pictures"):
        list(read_frames(path))


def test_frames_are_counted_from_one() -> None:
    with pytest.raises(ConfigError, match="every is 0"):
        next(read_frames("any.mp4", every=0))


def test_overlays_become_a_video_of_the_same_length(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 47, dtype=np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (33, 47, 3))
    data = encode_mp4([pixels, pixels // 2, pixels], rate=Fraction(12))
    assert data == encode_mp4([pixels, pixels // 2, pixels], rate=Fraction(12))
    (tmp_path / "x.mp4").write_bytes(data)
    found = list(read_frames(tmp_path / "x.mp4"))
    assert [frame.shape for frame in found] == [(34, 48, 3)] * 3
    assert frame_rate(tmp_path / "x.mp4") == 12
    assert np.abs(found[0][:33, :47].astype(int) - pixels).mean() < 4  # lossy


def test_frames_of_another_size_fit_into_the_video(tmp_path: Path) -> None:
    sizes = [(20, 30, 3), (41, 30, 3)]
    data = encode_mp4([np.full(size, 99, np.uint8) for size in sizes], rate=Fraction(5))
    (tmp_path / "x.mp4").write_bytes(data)
    assert [frame.shape for frame in read_frames(tmp_path / "x.mp4")] == [(20, 30, 3)] * 2


def test_smoothing_is_the_running_mean_of_its_formula() -> None:
    scores = torch.rand(5, 1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    smoothing = Smoothing(0.7)
    found = [smoothing(frame) for frame in scores]
    for last, smoothed in enumerate(found):
        weights = [0.3 * 0.7 ** (last - t) for t in range(last + 1)]
        weights[0] = 0.7**last  # the first frame stands for all before it
        assert sum(weights) == pytest.approx(1)
        expected = sum(w * s for w, s in zip(weights, scores[: last + 1], strict=True))
        torch.testing.assert_close(smoothed, expected)


def test_smoothing_begins_anew_with_another_size() -> None:
    smoothing = Smoothing(0.9)
    smoothing(torch.ones(1, 3, 4, 6))
    other = torch.zeros(1, 3, 4, 7)
    assert torch.equal(smoothing(other), other)


def test_no_smoothing_leaves_scores_as_they_are() -> None:
    smoothing = Smoothing(0)
    smoothing(torch.ones(1, 2, 2, 2))
    assert torch.equal(smoothing(torch.zeros(1, 2, 2, 2)), torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize("weight", [-0.1, 1.0, float("nan")])
def test_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="smoothing weight"):
        Smoothing(weight)


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, film: Callable[..., Path]
) -> None:
    path = film()
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r"zegment\[video\]"):
        next(read_frames(path))
