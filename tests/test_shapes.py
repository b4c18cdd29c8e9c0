"""The Shapes world: what a scene promises, and what its captions promise about it."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader

from zegment.data import shapes
from zegment.data.shapes import (
    CLASS_NAMES,
    HUES,
    LOOKS,
    PATTERNS,
    SPLIT_SEEDS,
    STUFF,
    THINGS,
    UNSEEN,
    ShapesDataset,
    caption,
    compose_things,
    draw_scenes,
    mentioned,
)
from zegment.data.shapes_drawing import OUTLINES
from zegment.data.shapes_ground import TEXTURES


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(5, range(300))


def names_of(visible):
    return [name for name, shown in zip(CLASS_NAMES, visible, strict=True) if shown]


def test_there_are_twelve_things_and_eight_kinds_of_stuff_of_which_five_are_unseen():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 20
    assert CLASS_NAMES == THINGS + STUFF
    assert (len(THINGS), len(STUFF)) == (12, 8)
    assert set(UNSEEN) == {"heart", "star", "ring", "water", "brick"}
    assert set(OUTLINES) == set(THINGS)
    assert set(TEXTURES) == set(STUFF)


def test_every_hue_and_every_pattern_is_worn_by_seen_things():
    assert len(set(LOOKS.values())) == len(LOOKS) == len(HUES) * len(PATTERNS)
    seen = [look for name, look in LOOKS.items() if name not in UNSEEN]
    assert {hue for hue, _ in seen} == set(HUES)
    assert {pattern for _, pattern in seen} == set(PATTERNS)


def test_arrays_have_the_documented_shapes_and_types():
    scenes = draw_scenes(0, [4, 9, 2], size=40)
    assert scenes.images.shape == (3, 40, 40, 3)
    assert scenes.labels.shape == (3, 40, 40)
    assert scenes.visible.shape == (3, 20)
    assert scenes.images.dtype == scenes.labels.dtype == np.uint8
    assert scenes.visible.dtype == np.bool_
    assert scenes.labels.max() < 20


def test_the_same_seed_and_index_give_the_same_scene(scenes):
    again = draw_scenes(5, range(20))
    assert np.array_equal(again.images, scenes.images[:20])
    assert np.array_equal(again.labels, scenes.labels[:20])
    assert not np.array_equal(draw_scenes(6, range(20)).images, again.images)


def test_a_scene_does_not_depend_on_the_rest_of_its_batch(scenes):
    mixed = draw_scenes(5, [17, 3, 250])
    for slot, index in enumerate([17, 3, 250]):
        assert np.array_equal(mixed.images[slot], scenes.images[index])
        assert np.array_equal(mixed.labels[slot], scenes.labels[index])
        assert np.array_equal(mixed.visible[slot], scenes.visible[index])


def test_a_scene_keeps_its_layout_at_another_size():
    large = draw_scenes(5, range(20), size=96).labels
    small = draw_scenes(5, range(20), size=48).labels
    things = (large < 12).reshape(20, 48, 2, 48, 2).mean((2, 4)) > 0.5
    assert ((small < 12) == things).mean() > 0.97


def test_visible_marks_exactly_the_classes_with_enough_pixels(scenes):
    for label, visible in zip(scenes.labels[:50], scenes.visible[:50], strict=True):
        for class_id in range(20):
            share = (label == class_id).mean()
            assert visible[class_id] == (share >= shapes.VISIBLE_SHARE)


def test_scenes_hold_one_to_four_things_on_one_or_two_kinds_of_ground(scenes):
    for label in scenes.labels:
        present = np.unique(label)
        assert 1 <= (present < 12).sum() <= 4
        assert 1 <= (present >= 12).sum() <= 2


def test_a_limit_of_one_thing_gives_one_and_of_none_gives_none():
    for limit in (0, 1):
        for label in draw_scenes(5, range(20), size=48, max_things=limit).labels:
            assert (np.unique(label) < 12).sum() == limit


def test_things_cover_about_a_fifth_of_the_pixels(scenes):
    assert 0.15 < (scenes.labels < 12).mean() < 0.27


def test_every_class_occurs_with_reasonable_frequency(scenes):
    share = scenes.visible.mean(0)
    assert share.min() > 0.12
    assert share.max() < 0.30


def test_the_mask_lies_on_the_painted_thing():
    # Where the only thing is a ball, and there is no water, what is deep blue is the ball.
    scenes = draw_scenes(5, range(200), size=64, max_things=1, exceptions=0.0)
    ball = CLASS_NAMES.index("ball")
    for image, label in zip(scenes.images, scenes.labels, strict=True):
        if not (label == ball).any() or (label == CLASS_NAMES.index("water")).any():
            continue
        red, _, blue = image.astype(int).transpose(2, 0, 1)
        assert ((blue > 2 * red) == (label == ball)).mean() > 0.98


@pytest.mark.parametrize("exceptions", [0.0, 0.1, 1.0])
def test_the_asked_share_of_things_wears_another_look(exceptions):
    rng = np.random.default_rng(0)
    odd = []
    for _ in range(1000):
        for thing in compose_things(rng, max_things=4, exceptions=exceptions):
            hue, pattern = LOOKS[thing.name]
            own = thing.pattern == pattern and nearest_hue(thing.color) == hue
            odd.append(not own)
    assert np.mean(odd) == pytest.approx(exceptions, abs=0.02)


def nearest_hue(color):
    return min(HUES, key=lambda hue: np.abs(np.array(HUES[hue]) - color).sum())


def test_things_of_a_scene_are_of_different_classes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        names = [thing.name for thing in compose_things(rng, max_things=12, exceptions=0.1)]
        assert len(names) == len(set(names))


def test_captions_name_visible_classes_only(scenes):
    rng = np.random.default_rng(0)
    for visible in scenes.visible:
        named = mentioned(caption(rng, names_of(visible)))
        assert named
        assert set(named) <= set(names_of(visible))


def test_complete_captions_name_every_visible_class(scenes):
    rng = np.random.default_rng(0)
    for visible in scenes.visible:
        assert list(mentioned(caption(rng, names_of(visible), partial=0.0))) == names_of(visible)


def test_every_class_and_so_every_unseen_one_occurs_in_captions_and_in_images(scenes):
    rng = np.random.default_rng(0)
    counts = Counter()
    for visible in scenes.visible:
        counts.update(mentioned(caption(rng, names_of(visible))))
    assert set(counts) == set(CLASS_NAMES)
    assert min(counts[name] for name in UNSEEN) > 20
    assert set(np.unique(scenes.labels)) == set(range(20))


def test_captions_vary_in_order_and_wording():
    rng = np.random.default_rng(0)
    sentences = {caption(rng, ["ball", "kite", "snow"]) for _ in range(200)}
    assert len(sentences) > 100
    assert any(s.index("kite") < s.index("ball") for s in sentences if "kite" in s and "ball" in s)
    assert any(mentioned(s) == ("kite",) for s in sentences)


def test_the_prompt_used_for_classification_is_among_the_captions():
    rng = np.random.default_rng(0)
    for name in ("heart", "water"):
        assert f"a photo of a {name}" in {caption(rng, [name]) for _ in range(300)}


def test_a_caption_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one visible class"):
        caption(np.random.default_rng(0), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1, "indices": [0]}, "at least 0"),
        ({"seed": 0, "indices": [-1]}, "at least 0"),
        ({"seed": 0, "indices": [0], "size": 8}, "16 pixels"),
        ({"seed": 0, "indices": [0], "max_things": 13}, "max_things"),
        ({"seed": 0, "indices": [0], "exceptions": 1.5}, "exceptions"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, message):
    seed, indices = arguments.pop("seed"), arguments.pop("indices")
    with pytest.raises(ValueError, match=message):
        draw_scenes(seed, indices, **arguments)


def test_no_scenes_is_an_empty_batch():
    assert draw_scenes(0, [], size=32).images.shape == (0, 32, 32, 3)


def test_splits_share_no_scene():
    assert len(set(SPLIT_SEEDS.values())) == 3
    images = [
        {ShapesDataset(split, size=32)[i][0].numpy().tobytes() for i in range(50)}
        for split in SPLIT_SEEDS
    ]
    assert len(set.union(*images)) == 150


def test_a_dataset_has_the_default_or_the_asked_length_and_ends_there():
    assert [len(ShapesDataset(split)) for split in SPLIT_SEEDS] == [4000, 400, 400]
    data = ShapesDataset("val", length=3, size=32)
    assert len(list(data)) == 3
    for outside in (3, -1):
        with pytest.raises(IndexError, match=f"shapes/val/{outside} does not exist"):
            data[outside]


def test_a_shorter_dataset_is_the_beginning_of_the_longer_one():
    short, long = ShapesDataset("val", length=2, size=32), ShapesDataset("val", size=32)
    assert torch.equal(short[1][0], long[1][0])


def test_an_unknown_split_is_an_error_that_lists_the_splits():
    with pytest.raises(ValueError, match="'dev': choose one of train, val, test"):
        ShapesDataset("dev")


def test_a_dataset_knows_its_names():
    data = ShapesDataset("train")
    assert data.class_names == CLASS_NAMES
    assert data.unseen == UNSEEN
    assert data.name(17) == "shapes/train/17"


def test_other_unseen_classes_change_neither_scenes_nor_labels():
    usual = ShapesDataset("train", length=4, size=32, unannotated_share=0.3)
    other = ShapesDataset(
        "train", length=4, size=32, unannotated_share=0.3, unseen=["snow", "moon"]
    )
    assert other.unseen == ("snow", "moon")
    for ours, theirs in zip(other, usual, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    with pytest.raises(ValueError, match=r"no class 'hart'.* did you mean .heart"):
        ShapesDataset("train", unseen=["snow", "hart"])


def test_a_loader_draws_a_batch_in_one_call_and_gets_the_single_items(monkeypatch):
    data = ShapesDataset("train", length=8, size=32)
    singles = [data[i] for i in range(8)]
    calls = []

    def counted(seed, indices, **options):
        calls.append(list(indices))
        return draw_scenes(seed, indices, **options)

    monkeypatch.setattr(shapes, "draw_scenes", counted)
    batches = list(DataLoader(data, batch_size=4))
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7]]
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert images.dtype == torch.uint8
    assert images.shape == (8, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert labels.shape == (8, 32, 32)
    assert torch.equal(images, torch.stack([image for image, _ in singles]))
    assert torch.equal(labels, torch.stack([label for _, label in singles]))


def test_drawing_keeps_up_with_training():
    draw_scenes(0, range(10))
    # The time of this thread, so that a busy machine does not fail the test.
    start = time.thread_time()
    draw_scenes(1, range(150))
    assert 150 / (time.thread_time() - start) > 150


@pytest.fixture(scope="module")
def packaged_clip():
    open_clip = pytest.importorskip("open_clip")
    folder = Path(shapes.__file__).parents[1] / "assets" / "shapes-clip"
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@torch.no_grad()
def test_the_packaged_clip_names_single_things_through_open_clip(packaged_clip):
    model, preprocess, tokenizer = packaged_clip
    scenes = draw_scenes(SPLIT_SEEDS["test"], range(100), max_things=1)
    images = torch.stack([preprocess(Image.fromarray(image)) for image in scenes.images])
    texts = model.encode_text(tokenizer([f"a photo of a {name}" for name in THINGS]))
    best = (model.encode_image(images) @ F.normalize(texts, dim=-1).T).argmax(1).numpy()
    assert scenes.visible[np.arange(100), best].mean() > 0.8


@torch.no_grad()
def test_the_packaged_clip_tells_names_apart_even_those_it_never_read(packaged_clip):
    model, _, tokenizer = packaged_clip
    names = [*CLASS_NAMES, "zebra", "teapot", "violin"]
    texts = model.encode_text(tokenizer([f"a photo of a {name}" for name in names]), normalize=True)
    cosines = (texts @ texts.T).fill_diagonal_(-1)
    assert cosines[:20, :20].max() < 0.9
    assert cosines.max() < 0.999
