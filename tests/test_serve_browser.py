"""The page in a real browser, served by the command as users start it."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from zegment.data.shapes import draw_scenes
from zegment.segmenter import load

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

COMMAND = """
import time, typer
from zegment.segmenter import Segmenter
plain = Segmenter.segment
def segment(self, image, query, **options):
    time.sleep(0.6 * ("wood" in query.vocabulary.class_names))  # a model that takes its time
    return plain(self, image, query, **options)
Segmenter.segment = segment
from zegment.commands.serve import serve
typer.run(serve)
"""
NASTY = "<img src=x onerror=window.broken=1>"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def process(storage: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-u", "-c", COMMAND, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(storage)},
    ) as started:
        yield started
        started.kill()


@pytest.fixture(scope="module")
def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found is not None, (line, process.stderr and process.stderr.read())
    assert "only this machine" in process.stdout.readline()
    return found[0]


@pytest.fixture(scope="module")
def page(address: str) -> Iterator["playwright.Page"]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on the path")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(15_000)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        page.wait_for_selector("#zegment-segment")
        yield page
        browser.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "my scene.png"
    Image.fromarray(draw_scenes(7, [1]).images[0]).save(path)
    return path


def shown(page: "playwright.Page") -> bytes:
    """Return the pixels of the result that the browser has decoded."""
    script = """async image => {
        await image.decode();
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL();
    }"""
    return page.eval_on_selector("#zegment-result img", script).encode()


def after(page: "playwright.Page", earlier: bytes) -> bytes:
    """Return the pixels of the result once they are others than ``earlier``."""
    for _ in range(100):
        with contextlib.suppress(playwright.Error):  # replaced while it was being decoded
            if (now := shown(page)) != earlier:
                return now
        page.wait_for_timeout(100)
    raise AssertionError("the picture did not change")


def segment(page: "playwright.Page", words: str) -> None:
    page.fill("#zegment-words textarea", words)
    page.click("#zegment-segment")


def test_an_example_is_segmented_with_one_click(page: "playwright.Page") -> None:
    page.locator("#zegment-examples .gallery-item").first.click()
    page.wait_for_selector("#zegment-result img")
    assert page.locator("#zegment-classes label").count() >= 3
    assert page.input_value("#zegment-words textarea")


def test_upload_words_toggles_opacity_click_and_download(
    page: "playwright.Page", scene: Path
) -> None:
    earlier = shown(page)
    page.click("#zegment-picture button[aria-label='Remove Image']")
    page.set_input_files("#zegment-picture input[type=file]", scene)
    page.wait_for_selector("#zegment-picture img")
    names = ["grass", "water", "heart", "wood"]
    expected = load("shapes-clip-zss", device="cpu")(scene, names)
    found = [name for name, share in expected.share().items() if share]
    segment(page, ", ".join(names))
    painted = after(page, earlier)
    boxes = page.locator("#zegment-classes label")
    assert [text.split(" · ")[0] for text in boxes.all_inner_texts()] == found

    boxes.first.click()
    hidden = after(page, painted)
    boxes.first.click()
    assert after(page, hidden) == painted

    page.fill("#zegment-opacity input[type=number]", "1")
    page.keyboard.press("Enter")
    opaque = after(page, painted)
    pixels = np.array(Image.open(io.BytesIO(page.request.get(
        page.get_attribute("#zegment-result img", "src")).body())).convert("RGB"))  # fmt: skip
    centre = expected.labels[48, 48]
    side = len(pixels) // 96
    inside = pixels[48 * side : 49 * side, 48 * side : 49 * side]
    assert (inside == expected.colours[centre]).all(-1).any()
    assert opaque != painted

    box = page.locator("#zegment-result img").bounding_box()
    side = min(box["width"], box["height"])  # the picture is square, in the middle of its box
    place = {"x": box["width"] / 2 + side * 0.002, "y": box["height"] / 2 + side * 0.002}
    page.locator("#zegment-result img").click(position=place)
    page.wait_for_selector("#zegment-pixel b")
    text = page.inner_text("#zegment-pixel")
    row, column = (int(re.search(rf"\b{axis} (\d+)", text)[1]) for axis in "yx")
    assert (row, column) == (48, 48)
    assert text.startswith(names[expected.labels[row, column]])
    assert f"confidence {expected.confidence[row, column]:.3f}" in text

    for kind, name in (("labels", "my-scene.labels.png"), ("coco", "my-scene.coco.json")):
        with page.expect_download() as download:
            page.click(f"#zegment-get-{kind}")
        assert download.value.suggested_filename == name
        content = Path(download.value.path()).read_bytes()
        if kind == "labels":
            np.testing.assert_array_equal(
                np.array(Image.open(io.BytesIO(content))), expected.labels
            )
        else:
            table = json.loads(content)
            assert sum(one["area"] for one in table["annotations"]) == 96 * 96


def test_markup_in_words_is_shown_as_text(page: "playwright.Page") -> None:
    segment(page, f"{NASTY}, {NASTY}")
    page.wait_for_selector("[data-testid=toast-body]")
    assert "onerror" in page.inner_text("[data-testid=toast-body]")
    page.click("[data-testid=toast-close]")
    # What is no longer asked for is no longer shown.
    page.wait_for_selector("#zegment-result img", state="detached")
    page.wait_for_selector("#zegment-get-labels[disabled]")
    assert page.locator("#zegment-classes label").count() == 0
    assert not page.inner_text("#zegment-notes").strip()
    segment(page, f"{NASTY}, <b>bold</b>, grass")
    page.wait_for_selector("#zegment-classes label")
    legend = (
        "['classes', 'notes'].map(n => document.getElementById('zegment-' + n).innerText).join()"
    )
    page.wait_for_function(f"{legend}.includes('<b>bold</b>')")
    assert NASTY in page.evaluate(legend)
    page.locator("#zegment-result img").click()
    page.wait_for_function("document.querySelector('#zegment-pixel b') !== null")
    page.wait_for_timeout(300)
    assert page.evaluate("window.broken") is None
    assert page.locator("img[src=x]").count() == 0


def test_a_hidden_class_is_not_in_the_overlay_to_take_home(page: "playwright.Page") -> None:
    page.fill("#zegment-opacity input[type=number]", "1")
    page.keyboard.press("Enter")

    def overlay() -> bytes:
        page.wait_for_timeout(1500)
        with page.expect_download() as download:
            page.click("#zegment-get-overlay")
        return Path(download.value.path()).read_bytes()

    before = overlay()
    page.locator("#zegment-classes label").first.click()
    assert overlay() != before
    page.locator("#zegment-classes label").first.click()
    assert overlay() == before


def test_the_last_of_several_quick_clicks_wins(page: "playwright.Page") -> None:
    for words in ("sand, wood", "grass, wood", "heart, wood", "water, heart"):
        segment(page, words)
        page.wait_for_timeout(30)
    page.wait_for_function(
        "['classes', 'notes'].map(n => document.getElementById('zegment-' + n).innerText)"
        ".join().match(/water/) !== null"
    )
    page.wait_for_timeout(500)
    legend = page.inner_text("#zegment-classes") + page.inner_text("#zegment-notes")
    assert "water" in legend
    assert "heart" in legend
    assert "wood" not in legend


def test_examples_have_names_for_those_who_cannot_see_them(page: "playwright.Page") -> None:
    buttons = page.locator("#zegment-examples .gallery-item").all()
    names = [button.get_attribute("aria-label") for button in buttons]
    assert len(set(names)) == len(buttons) > 1
    assert all(re.fullmatch(r"Example: \w+(, \w+)+", name) for name in names), names


def test_removing_the_picture_clears_the_result(page: "playwright.Page") -> None:
    assert page.locator("#zegment-result img").count() == 1
    page.click("#zegment-picture button[aria-label='Remove Image']")
    page.wait_for_selector("#zegment-result img", state="detached")
    assert page.locator("#zegment-classes label").count() == 0


def test_a_file_that_is_no_picture_is_answered_with_one_line(
    page: "playwright.Page", tmp_path: Path, scene: Path, storage: Path
) -> None:
    fake = tmp_path / "fake.png"
    fake.write_text("no picture")
    page.set_input_files("#zegment-picture input[type=file]", fake)
    page.wait_for_selector("[data-testid=toast-body]")
    message = page.inner_text("[data-testid=toast-body]")
    assert "the file is not a picture of a known kind; give PNG" in message
    assert "{" not in message
    assert "zegment-files" not in message
    assert str(storage) not in page.content()
    page.click("[data-testid=toast-close]")
    page.set_input_files("#zegment-picture input[type=file]", scene)
    page.wait_for_selector("#zegment-picture img")


def test_a_closed_page_leaves_no_files(page: "playwright.Page", storage: Path) -> None:
    (folder,) = storage.glob("zegment-serve-*")
    second = page.context.browser.new_page()
    second.goto(page.url)
    second.locator("#zegment-examples .gallery-item").first.click()
    second.wait_for_selector("#zegment-get-overlay:not([disabled])")
    during = set(folder.rglob("*.overlay.png"))
    second.close()
    for _ in range(100):
        if set(folder.rglob("*.overlay.png")) < during:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"still there: {during}")


def test_no_request_leaves_the_machine(page: "playwright.Page") -> None:
    hosts = {urlsplit(url).hostname for url in page.requested if url.startswith("http")}
    assert hosts == {"127.0.0.1"}


def test_the_page_fits_a_narrow_screen(page: "playwright.Page") -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_on_a_narrow_screen_the_result_comes_into_view(page: "playwright.Page") -> None:
    page.locator("#zegment-segment").scroll_into_view_if_needed()
    segment(page, "grass, water, wood")
    page.wait_for_selector("#zegment-result img")
    page.wait_for_function(
        """() => {
            const box = document.querySelector("#zegment-result").getBoundingClientRect();
            return box.top > -50 && box.top < 0.5 * innerHeight;
        }"""
    )


def test_sigterm_stops_it_and_clears_its_files(
    page: "playwright.Page", process: subprocess.Popen[str], storage: Path
) -> None:
    (folder,) = storage.glob("zegment-serve-*")
    process.send_signal(signal.SIGTERM)  # while the page is open
    output, problems = process.communicate(timeout=15)
    assert process.returncode == 0, problems
    assert output.strip().endswith("stopped")
    assert "Traceback" not in problems, problems[:300] + problems[-3000:]
    assert not folder.exists()
