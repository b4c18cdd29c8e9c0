"""Patterns fit what the shell's would, also where links lead in circles."""

import glob
import io
from pathlib import Path

import hostile_builders as build
import numpy as np
import pytest
from hostile_scenes import scene

from zegment.prediction.inputs import expand
from zegment.prediction.patterns import fitting


@pytest.mark.parametrize("seed", range(4))
def test_patterns_fit_what_glob_finds(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    folders = [tmp_path]
    for number in range(14):
        parent = folders[int(rng.integers(len(folders)))]
        folders.append(parent / ["a", "b", ".hidden", "c[1]", "d.png"][number % 5])
        folders[-1].mkdir(parents=True, exist_ok=True)
        (folders[-1] / ["1.png", "2.jpg", ".3.png", "4*.png"][number % 4]).touch()
    (tmp_path / "other").symlink_to(folders[3])
    monkeypatch.chdir(tmp_path)
    for pattern in (
        "**",
        "**/*.png",
        "a/**/*.*",
        "*/**",
        "**/b/**/*.png",
        "**/**/*.png",
        "./**/?.png",
        "b/../**/*.jpg",
        "**/c[[]1]/*",
        ".hidden/**",
        "none/**",
    ):
        for start in ("", f"{glob.escape(str(tmp_path))}/"):
            whole = start + pattern
            expected = glob.glob(whole, recursive=True)  # noqa: PTH207 - the one to equal
            assert files(fitting(whole)) == files(expected), whole


def files(paths):
    return {path for path in map(Path, paths) if path.is_file()}


def test_links_back_to_a_folder_around_them_are_not_followed_for_ever(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (tmp_path / "deep" / name).symlink_to(tmp_path)
        (tmp_path / "deep" / "er" / name).symlink_to("..")
    picture = tmp_path / "deep" / "er" / "1.png"
    picture.write_bytes(build.saved(scene(np.random.default_rng(0)), "PNG"))
    sources = expand([f"{tmp_path}/**/*"], stdin=io.BytesIO())
    assert [source.content for source in sources] == [picture]
