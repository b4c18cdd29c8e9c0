import numpy as np
import pytest
from PIL import ImageFont

from zegment.colours import class_colours, paint
from zegment.drawing import LegendEntry, draw_legend, font_for, shorten, text_width, wrap
from zegment.figures import comparison_figure


def grid(rows, columns, height=24, width=32):
    label = np.arange(height * width).reshape(height, width) % 3
    return [[paint(label, class_colours(3)) for _ in range(columns)] for _ in range(rows)]


def ink(picture):
    return np.asarray(picture).min(-1) < 250


def colours_in(picture):
    return {tuple(c) for c in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}


def test_every_picture_is_in_its_cell_at_its_own_aspect_ratio():
    red, blue = (np.full((24, 32, 3), rgb, np.uint8) for rgb in ((255, 0, 0), (0, 0, 255)))
    page = np.asarray(comparison_figure([[red, blue], [blue, red]], ["a", "b"], cell=96))
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (page == colour).all(-1).sum() == 2 * 96 * 72
    rows, columns = (page == (255, 0, 0)).all(-1).nonzero()
    first = rows < np.median(np.unique(rows))
    assert columns[first].max() < columns[~first].min()


def test_an_enlarged_label_map_keeps_its_colours_and_a_photo_is_smoothed():
    flat = grid(1, 1)[0][0]
    photo = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    assert len(colours_in(comparison_figure([[flat]], [" "], cell=96))) == 4
    smooth = comparison_figure([[photo]], [" "], cell=96)
    assert len(colours_in(smooth)) > 24 * 32 + 1


def test_pictures_of_different_shapes_share_a_row_without_overflow():
    tall, wide = np.zeros((400, 20, 3), np.uint8), np.zeros((20, 400, 3), np.uint8)
    page = comparison_figure([[tall, wide]], ["tall", "wide"], cell=100)
    assert page.width == 14 + 100 + 6 + 100 + 14
    assert page.height < 150 + 60


def test_titles_and_legend_only_add_room_and_leave_a_margin_all_round():
    plain = comparison_figure(grid(2, 3), ["a", "b", "c"])
    legend = dict(zip(["sky", "road", "kite"], class_colours(3), strict=True))
    full = comparison_figure(
        grid(2, 3),
        ["image", "truth", "a title so long that it must be broken into several lines"],
        row_titles=["one", "a row title that is much longer than its row is high"],
        legend=legend,
        unseen=["kite"],
    )
    assert full.width > plain.width
    assert full.height > plain.height
    for page in (plain, full):
        marks = ink(page)
        assert not marks[:10].any()
        assert not marks[-10:].any()
        assert not marks[:, :10].any()
        assert not marks[:, -10:].any()


def test_unseen_names_are_marked_and_explained():
    legend = dict(zip(["sky", "kite"], class_colours(2), strict=True))
    plain = comparison_figure(grid(1, 2), ["a", "b"], legend=legend)
    elsewhere = comparison_figure(grid(1, 2), ["a", "b"], legend=legend, unseen=["moon"])
    marked = comparison_figure(grid(1, 2), ["a", "b"], legend=legend, unseen=["kite"])
    assert elsewhere.tobytes() == plain.tobytes()
    assert marked.height > plain.height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], ["a"]), "nothing to compare"),
        ((grid(1, 2), ["a"]), "row 0 has 2 pictures for 1 column titles"),
    ],
)
def test_a_table_that_does_not_fit_its_titles_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        comparison_figure(*arguments)
    with pytest.raises(ValueError, match="2 row titles for 1 rows"):
        comparison_figure(grid(1, 1), ["a"], row_titles=["a", "b"])


def test_text_is_cut_only_where_it_does_not_fit():
    width = text_width("potted plant", 16)
    assert shorten("potted plant", 16, width) == "potted plant"
    cut = shorten("potted plants", 16, width)
    assert cut.endswith("…")
    assert text_width(cut, 16) <= width


def test_wrapped_lines_fit_and_keep_every_word_in_order():
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    lines = wrap(words, 16, 90, joint=", ")
    assert ", ".join(words) == " ".join(lines)
    assert all(text_width(line.rstrip(","), 16) <= 90 for line in lines)
    assert len(lines) > 1


@pytest.mark.parametrize("width", [200, 480, 1000])
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_a_legend_of_any_size_stays_inside_its_margins(width, count):
    colours = class_colours(count).tolist()
    entries = [
        LegendEntry(name=f"class {k}" * (1 + k % 3), colour=tuple(colour), note="12.3 %")
        for k, colour in enumerate(colours)
    ]
    panel = draw_legend(entries, width=width, margin=14, size=14, footer=["small print"])
    marks = ink(panel)
    assert panel.width == width
    assert not marks[:, :13].any()
    assert not marks[:, -13:].any()
    assert {tuple(colour) for colour in colours} <= colours_in(panel)


def test_an_entry_without_a_colour_is_an_empty_box():
    panel = draw_legend([LegendEntry(name="", colour=None)], width=99, margin=9, size=20)
    box = np.asarray(panel.crop((9, 0, 30, panel.height)))
    assert 20 < ink(box).sum() < 150


def test_ascii_text_always_uses_the_font_that_comes_with_pillow():
    for text in ("potted plant", "", "< 0.1 %"):
        assert font_for(text, 16).getname() == ImageFont.load_default(16).getname()
