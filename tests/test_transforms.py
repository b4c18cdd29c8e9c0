import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from comparisons.plain_loading import PlainTransform, to_hsv, to_rgb
from torch.nn import functional as F
from torch.utils.data import default_collate

from zegment.config import AugmentConfig
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.data.photometric import PhotometricDistortion, rotate_hue, scale_saturation
from zegment.data.transforms import (
    RandomCrop,
    RandomFlip,
    RandomResize,
    TrainTransform,
    normalize,
    pad_to,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPER = load_config(preset="voc-zegclip").augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(height, width, *, classes=3, seed=0):
    """Return a noise image and a label map of blocks."""
    rng = generator(seed)
    image = torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8)
    blocks = torch.randint(0, classes, (-(-height // 8), -(-width // 8)), generator=rng)
    label = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
    return image, label


def aligned(height, width):
    """Return an image whose every pixel says which label it must have."""
    label = torch.arange(height * width).view(height, width) % 250
    return label.to(torch.uint8).expand(3, height, width), label


# Normalisation


def test_normalising_is_the_formula_for_bytes_and_floats():
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1)
    expected = [(v - m) / s for v, m, s in zip((0.0, 1.0, 0.2), MEAN, STD, strict=True)]
    for given in (image, image.float()):
        found = normalize(given, MEAN, STD)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.flatten(), torch.tensor(expected))


def test_normalising_takes_batches_and_the_buffers_of_a_model():
    images = torch.stack([picture(4, 5, seed=i)[0] for i in range(2)])
    batch = normalize(images, torch.tensor(MEAN), torch.tensor(STD))
    for image, row in zip(images, batch, strict=True):
        torch.testing.assert_close(row, normalize(image, MEAN, STD))


# Scaling


@pytest.mark.parametrize(
    ("height", "width", "ratio", "expected"),
    [
        (375, 500, 1.0, (512, 683)),  # the shorter side decides
        (500, 375, 1.0, (683, 512)),
        (375, 500, 0.5, (256, 341)),
        (375, 500, 2.0, (1024, 1365)),
        (100, 1000, 1.0, (205, 2048)),  # the longer side decides
        (100, 1000, 0.5, (102, 1024)),
        (333, 500, 0.777, (397, 596)),
    ],
)
def test_scaling_gives_the_size_that_the_released_pipeline_gives(height, width, ratio, expected):
    found = RandomResize(512, 2048).size(height, width, ratio)
    # mmcv: the target is cut to whole pixels, the result rounded with half a pixel up.
    long, short = int(2048 * ratio), int(512 * ratio)
    scale = min(long / max(height, width), short / min(height, width))
    assert found == (int(height * scale + 0.5), int(width * scale + 0.5))
    assert found == pytest.approx(expected, abs=1)


def test_ratios_fill_their_range_and_keep_the_proportions():
    resize = RandomResize(64, scale_range=(0.5, 2.0))
    image, label = picture(60, 90)
    rng = generator()
    heights = [resize(image, label, rng)[0].shape[-2] for _ in range(60)]
    assert 32 <= min(heights) < 50
    assert 100 < max(heights) <= 128


def test_an_image_and_its_labels_are_scaled_alike():
    # Left half dark and class 3, right half bright and class 200, at any size.
    label = torch.full((20, 30), 3)
    label[:, 15:] = 200
    image = label.to(torch.uint8).expand(3, -1, -1)
    scaled, labels = RandomResize(31)(image, label, generator())
    assert scaled.shape == (3, 31, 47)
    assert labels.shape == (31, 47)
    assert set(labels.unique().tolist()) == {3, 200}  # no label is invented between two
    agree = (scaled[0] > 101) == (labels == 200)
    assert agree.float().mean() > 0.97
    assert float(scaled.min()) == pytest.approx(3)
    assert float(scaled.max()) == pytest.approx(200)


def test_without_a_side_the_ratio_applies_to_the_image_itself():
    image, label = picture(20, 30)
    assert RandomResize(None, scale_range=(1.5, 1.5))(image, label, generator())[0].shape == (
        3,
        30,
        45,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("height", "width"), [(48, 64), (37, 91), (1, 5)])
def test_bytes_are_scaled_as_floats_are_up_to_their_rounding(seed, height, width):
    image, label = picture(height, width, seed=seed)
    resize = RandomResize(50, scale_range=(0.5, 2.0))
    found, labels = resize(image, label, generator(seed))
    exact, again = resize(image.float(), label, generator(seed))
    assert found.dtype == torch.uint8
    assert torch.equal(labels, again)
    # Once per direction: the rows are rounded to bytes before the columns are.
    assert (found.float() - exact).abs().max() <= 1.01
    assert abs((found.float() - exact).mean()) < 0.1  # rounded, not cut off


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_those_of_the_nearest_pixel_whatever_their_number(seed):
    rng = generator(seed)
    ids = torch.tensor([0, 1, 254, 255, 846, IGNORE_INDEX, PADDING_INDEX])
    label = ids[torch.randint(0, len(ids), (23, 40), generator=rng)]
    image = torch.zeros(3, 23, 40, dtype=torch.uint8)
    _, labels = RandomResize(None, scale_range=(0.5, 2.0))(image, label, rng)
    height, width = labels.shape
    assert labels.dtype == torch.int64
    for row in range(height):
        for column in range(width):
            assert labels[row, column] == label[row * 23 // height, column * 40 // width]


# Cropping


def test_a_crop_takes_the_same_part_of_image_and_labels():
    image, label = aligned(40, 50)
    rng = generator()
    starts = set()
    for _ in range(200):
        part, labels = RandomCrop((16, 24))(image, label, rng)
        assert part.shape == (3, 16, 24)
        assert (part[0] == labels).all()
        starts.add(int(labels[0, 0]))
    assert len(starts) > 100


def test_every_place_of_a_crop_is_equally_likely_up_to_the_last():
    image, label = aligned(2, 5)
    rng = generator()
    firsts = [int(RandomCrop((2, 3))(image, label, rng)[1][0, 0]) for _ in range(600)]
    counts = np.bincount(firsts, minlength=3)
    assert (counts > 150).all()
    assert len(counts) == 3


def test_what_is_smaller_than_the_crop_is_left_whole():
    image, label = aligned(10, 50)
    part, labels = RandomCrop((16, 24))(image, label, generator())
    assert part.shape == (3, 10, 24)
    assert labels.shape == (10, 24)


def test_a_crop_dominated_by_one_class_is_drawn_again():
    label = torch.zeros(64, 64, dtype=torch.int64)
    label[:, 40:] = 1  # most crops of 16 see only class 0
    image = torch.zeros(3, 64, 64)

    def shares(max_class_share):
        rng = generator()
        crop = RandomCrop((16, 16), max_class_share=max_class_share)
        return np.array(
            [float((crop(image, label, rng)[1] == 1).float().mean()) for _ in range(200)]
        )

    def varied(shares):
        return ((shares > 0.25) & (shares < 0.75)).mean()

    assert varied(shares(1.0)) < 0.3
    assert varied(shares(0.75)) > 0.8


def test_ignored_pixels_do_not_count_as_a_class_that_varies_a_crop():
    label = torch.full((8, 8), IGNORE_INDEX)
    label[0, 0], label[0, 1] = 0, 1
    crop = RandomCrop((8, 8), max_class_share=0.75)
    assert crop._varied(label)  # half and half of what is labelled
    label[0, 1] = IGNORE_INDEX
    assert not crop._varied(label)  # one class
    label[0, :4] = torch.tensor([0, 0, 0, 1])
    assert not crop._varied(label)  # exactly the share is too much
    label[:] = IGNORE_INDEX
    assert not crop._varied(label)


def test_a_crop_that_can_never_vary_is_taken_after_ten_tries(monkeypatch):
    draws = []
    draw = RandomCrop._draw
    monkeypatch.setattr(RandomCrop, "_draw", lambda *a: draws.append(1) or draw(*a))
    image, label = torch.zeros(3, 32, 32), torch.zeros(32, 32, dtype=torch.int64)
    assert RandomCrop((8, 8), max_class_share=0.75)(image, label, generator())[1].shape == (8, 8)
    assert len(draws) == 11


# Flipping


def test_flipping_mirrors_image_and_labels_together_in_the_share_asked_for():
    image, label = aligned(4, 6)
    rng = generator()
    flips = 0
    for _ in range(400):
        flipped, labels = RandomFlip(0.25)(image, label, rng)
        assert (flipped[0] == labels).all()
        flips += int(labels[0, 0] == label[0, -1])
    assert 70 < flips < 130


# Colours


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5])
def test_saturation_is_that_of_hsv(factor):
    image = picture(6, 7)[0].float()
    image[:, 0, 0] = 0
    image[:, 0, 1] = 255
    image[:, 0, 2] = 90  # grey stays grey
    found = scale_saturation(image, factor)
    for rgb, changed in zip(image.flatten(1).T, found.flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255).tolist())
        expected = colorsys.hsv_to_rgb(hue, min(saturation * factor, 1), value)
        np.testing.assert_allclose(changed / 255, expected, atol=1e-5)


@pytest.mark.parametrize("degrees", [-36.0, 0.0, 10.0, 120.0])
def test_hue_is_that_of_hsv(degrees):
    image = picture(6, 7)[0].float()
    image[:, 0, 0] = 0
    image[:, 0, 1] = 255
    image[:, 0, 2] = 90
    image[:, 0, 3] = torch.tensor([200.0, 200.0, 10.0])  # two largest channels
    found = rotate_hue(image, degrees)
    for rgb, changed in zip(image.flatten(1).T, found.flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255).tolist())
        expected = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)
        np.testing.assert_allclose(changed / 255, expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_hue_and_saturation_equal_the_way_through_hsv(seed):
    rng = generator(seed)
    image = torch.rand(3, 17, 23, generator=rng) * 255
    image[:, :4] = image[:, :4].round()
    image[1, :2] = image[0, :2]  # two equal channels
    before = image.clone()
    hue, saturation, value = to_hsv(image)
    for degrees in (-180.0, -36.0, -0.1, 0.0, 7.0, 120.0, 400.0):
        expected = to_rgb(hue + degrees / 60, saturation, value)
        torch.testing.assert_close(rotate_hue(image, degrees), expected, rtol=0, atol=2e-3)
    for factor in (0.0, 0.6, 1.4, 9.0):
        expected = to_rgb(hue, (saturation * factor).clamp(max=1), value)
        torch.testing.assert_close(scale_saturation(image, factor), expected, rtol=0, atol=2e-3)
    assert torch.equal(image, before)


def test_distortion_changes_colours_in_range_and_never_labels():
    image, label = picture(16, 16)
    rng = generator()
    changed = 0
    for _ in range(100):
        found, labels = PhotometricDistortion()(image, label, rng)
        assert labels is label
        assert 0 <= found.min() <= found.max() <= 255
        changed += int(not torch.equal(found, image.float()))
    # All four are left out in one of sixteen.
    assert 85 <= changed <= 99


@pytest.mark.parametrize(
    ("only", "measure", "low", "high"),
    [
        ({"brightness": 32.0}, lambda image: float(image[0, 0, 0]) - 100, -32, 32),
        ({"contrast": (0.5, 1.5)}, lambda image: float(image[0, 0, 0]) / 100, 0.5, 1.5),
    ],
)
def test_brightness_and_contrast_fill_their_ranges_in_half_of_the_images(only, measure, low, high):
    still = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    distort = PhotometricDistortion(**{**still, **only})
    image, label = torch.full((3, 2, 2), 100, dtype=torch.uint8), torch.zeros(2, 2)
    rng = generator()
    found = np.array([measure(distort(image, label, rng)[0]) for _ in range(400)])
    neutral = (low + high) / 2
    moved = np.abs(found - neutral) > 1e-4
    assert 0.4 < moved.mean() < 0.6
    spread = (high - low) / 20
    assert low - 1e-4 <= found.min() < low + spread
    assert high - spread < found.max() <= high + 1e-4


def test_contrast_comes_before_or_after_the_other_two():
    # Clamping makes the order visible: contrast cuts red off at 255.
    distort = PhotometricDistortion(
        brightness=0.0, contrast=(3.0, 3.0), saturation=(0.5, 0.5), hue=0.0
    )
    image = torch.tensor([100.0, 10.0, 10.0]).view(3, 1, 1)
    rng = generator()
    found = {
        tuple(distort(image, torch.zeros(1, 1), rng)[0].flatten().round().int().tolist())
        for _ in range(100)
    }
    assert found == {
        (100, 10, 10),  # neither
        (255, 30, 30),  # contrast only
        (100, 55, 55),  # saturation only
        (255, 142, 142),  # contrast first: clamped to 255, 30, 30 and then washed out
        (255, 165, 165),  # contrast last
    }


# All together


@pytest.mark.parametrize(("height", "width"), [(60, 90), (225, 75), (10, 400)])
def test_the_pipeline_of_the_paper_gives_crops_of_one_size(height, width):
    eighth = replace(PAPER, short_side=64, long_side=256, crop_size=(64, 64))
    image, label = picture(height, width)
    for seed in range(5):
        found, labels = TrainTransform(eighth, mean=MEAN, std=STD)(image, label, generator(seed))
        assert (found.shape, found.dtype) == ((3, 64, 64), torch.float32)
        assert (labels.shape, labels.dtype) == ((64, 64), torch.int64)
        assert set(labels.unique().tolist()) <= {0, 1, 2, IGNORE_INDEX, PADDING_INDEX}


def test_padding_is_zero_after_normalising_on_the_right_and_below():
    image, label = picture(20, 30)
    transform = TrainTransform(AugmentConfig(crop_size=(32, 40), flip=0.0), mean=MEAN, std=STD)
    found, labels = transform(image, label, generator())
    torch.testing.assert_close(found[:, :20, :30], normalize(image, MEAN, STD))
    assert torch.equal(labels[:20, :30], label)
    assert not found[:, 20:].any()
    assert not found[:, :, 30:].any()
    assert (labels[20:] == PADDING_INDEX).all()
    assert (labels[:, 30:] == PADDING_INDEX).all()


def test_the_defaults_only_flip_and_normalise():
    image, label = aligned(5, 6)
    transform = TrainTransform(AugmentConfig(), mean=(0, 0, 0), std=(1, 1, 1))
    rng = generator()
    found = [transform(image, label, rng) for _ in range(20)]
    for changed, labels in found:
        torch.testing.assert_close((changed[0] * 255).round().long(), labels)
    assert len({int(labels[0, 0]) for _, labels in found}) == 2


def test_the_same_generator_gives_the_same_item_whatever_the_global_seed():
    image, label = picture(100, 100)
    transform = TrainTransform(replace(PAPER, crop_size=(48, 48)), mean=MEAN, std=STD)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        results.append(transform(image, label, generator(5)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], transform(image, label, generator(6))[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("height", "width"), [(60, 80), (41, 120), (150, 90)])
def test_an_item_equals_the_plain_way_of_making_it(seed, height, width):
    image, label = picture(height, width, classes=5, seed=seed)
    image = F.avg_pool2d(image.float(), 3, 1, 1).byte()
    label[:9, :9] = IGNORE_INDEX
    config = replace(PAPER, short_side=64, long_side=256, crop_size=(64, 64), photometric=False)
    found, labels = TrainTransform(config, mean=MEAN, std=STD)(image, label, generator(seed))
    plain = PlainTransform(
        (64, 64), mean=MEAN, std=STD, short_side=64, long_side=256, photometric=False
    )
    expected, expected_labels = plain(image, label, generator(seed))
    assert torch.equal(labels, expected_labels)
    assert (found - expected).abs().max() * min(STD) * 255 <= 1.02  # bytes, see above
    assert abs((found - expected).mean()) * min(STD) * 255 < 0.1


def test_nothing_is_padded_onto_what_is_large_enough():
    image = torch.ones(3, 8, 9)
    assert pad_to(image, (8, 9), value=0) is image
    padded = pad_to(image, (10, 9), value=7)
    assert padded.shape == (3, 10, 9)
    assert padded[:, 8:].eq(7).all()


def test_a_float_image_is_not_changed_either():
    image, label = torch.rand(3, 32, 32) * 255, torch.zeros(32, 32, dtype=torch.int64)
    before = image.clone()
    config = AugmentConfig(photometric=True, flip=0.0)
    for seed in range(8):
        TrainTransform(config, mean=MEAN, std=STD)(image, label, generator(seed))
    assert torch.equal(image, before)


def test_the_given_image_is_not_changed():
    image, label = picture(64, 64)
    before = image.clone(), label.clone()
    TrainTransform(PAPER, mean=MEAN, std=STD)(image, label, generator())
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_items_of_many_sizes_make_a_batch():
    config = AugmentConfig(
        short_side=32, long_side=128, scale_range=(0.5, 2.0), crop_size=(32, 48), photometric=True
    )
    transform = TrainTransform(config, mean=MEAN, std=STD)
    pictures = [picture(40 + 7 * i, 90 - 7 * i, seed=i) for i in range(6)]
    images, labels = default_collate([transform(*pair, generator()) for pair in pictures])
    assert images.shape == (6, 3, 32, 48)
    assert labels.shape == (6, 32, 48)
