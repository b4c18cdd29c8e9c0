"""What CLIP teaches about one image, and what the student makes of it, as panels side by side.

H W pixels; h w a grid of tokens or features; S seen classes; C colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zegment.checkpoint import load_trained
from zegment.clip import Clip
from zegment.clip_loading import load_clip
from zegment.clip_zss import ClipZss
from zegment.colours import class_colours
from zegment.config import Config
from zegment.data import IGNORE_INDEX, PADDING_INDEX, Split, build_dataset
from zegment.data.masks import label_table, read_mask, refuse_other_size
from zegment.data.transforms import normalize, pad_to
from zegment.drawing import PAPER
from zegment.errors import CheckpointError, ConfigError, DatasetError, ImageError
from zegment.figures import comparison_figure
from zegment.files import atomic_write_bytes
from zegment.formats.streams import png_bytes
from zegment.images import read_image
from zegment.inference.running import pad_to_multiple
from zegment.inference.windows import working_size
from zegment.models.student import Student
from zegment.segmenter import Segmenter
from zegment.teaching.global_learning import attention_pool
from zegment.teaching.pixel_learning import NOWHERE, mostly
from zegment.trained import Trained
from zegment.training.settings import build_objective

Picture: TypeAlias = NDArray[np.uint8]

MOST_PATCHES = 4096
"""That CLIP and K-Means look at in one go: a square of 1024 pixels for patches of 16."""

HEAT = ((20, 20, 90), (150, 30, 130), (240, 110, 40), (255, 240, 120))
"""RGB of the weakest to the strongest attention, in equal steps."""


class Panel(NamedTuple):
    """A picture, RGB uint8 (H, W, 3), what it shows, and the numbers that were painted."""

    title: str
    values: NDArray[Any]
    picture: Picture


class TeachingFigure(NamedTuple):
    """The panels of one image, in reading order, and what their colours mean.

    Attributes:
        panels: Image, RGB; annotation, ranks of seen classes (H, W); clusters of each window size
            (H, W); fused labels F (H, W); attention W (h, w), over what the student saw, padding
            included; predicted classes (H, W). Those of modules that the run lacks are missing.
        legend: RGB of each class that is annotated or predicted.
        unseen: Classes that never had a mask.
    """

    panels: list[Panel]
    legend: dict[str, NDArray[np.uint8]]
    unseen: list[str]

    def page(self, *, cell: int = 240) -> Image.Image:
        """Return the panels, each ``cell`` pixels wide, in up to two rows over one legend."""
        count = len(self.panels)
        columns = min(count, max(4, -(-count // 2)))
        blank = Panel(" ", np.empty(0), np.full((1, 1, 3), 255, np.uint8))
        page = Image.new("RGB", (1, 0), PAPER)
        for start in range(0, count, columns):
            row = [*self.panels[start:], *[blank] * columns][:columns]
            pictures, titles = [p.picture for p in row], [p.title for p in row]
            legend = self.legend if start + columns >= count else None
            strip = comparison_figure(
                [pictures], titles, legend=legend, unseen=self.unseen, cell=cell
            )
            top, page = page.height, page.crop((0, 0, strip.width, page.height + strip.height))
            page.paste(strip, (0, top))
        return page

    def save(self, path: Path) -> None:
        """Write the page as PNG, whole or not at all; OutputError if it cannot be written."""
        atomic_write_bytes(path, png_bytes(self.page()))


def load_student(run: str, *, device: str | None = None) -> tuple[Trained, Clip]:
    """Return the student of a run and the CLIP that taught it.

    Raises:
        ConfigError: If the run trained no student, or the device cannot be used.
        CheckpointError: If the run is damaged, or its CLIP is not the one found here.
        ModelNotFoundError: If run or CLIP cannot be found.
    """
    trained = load_trained(run, device=device)
    config = trained.config.model
    if config.kind != "student":
        raise ConfigError(
            f"'{run}' is a {config.kind} model, and a figure shows how a student was taught; give "
            "the run folder of one, such as `zegment train --preset shapes-clip-zss` makes"
        )
    clip = load_clip(config.clip, device=trained.model.mean.device)
    if clip.fingerprint != trained.fingerprint:
        raise CheckpointError(
            f"'{run}' was taught by another '{config.clip}' than the one found here (weights "
            f"{trained.fingerprint}, found {clip.fingerprint}); use the CLIP that taught it"
        )
    return trained, clip


def read_pair(config: Config, split: Split, index: int | None = None) -> tuple[Tensor, Tensor]:
    """Return an image of a run's data, RGB uint8 (3, H, W), and its label, int64 (H, W).

    Without an index, counted from 0, it is the first one that is annotated in part, or else 0.

    Raises:
        ConfigError: If there is no such split or image.
    """
    data = build_dataset(config.data, split)
    if index is None:
        free = torch.tensor([*map(data.class_names.index, data.unseen), IGNORE_INDEX])
        places = (torch.isin(data[i][1], free) for i in range(len(data)))
        index = next((i for i, place in enumerate(places) if 0 < place.sum() < place.numel()), 0)
    if not 0 <= index < len(data):
        raise ConfigError(
            f"--index {index}: the {split} split has {len(data)} images; give 0 to {len(data) - 1}"
        )
    return data[index]


def read_own(trained: Trained, image: Path, mask: Path | None = None) -> tuple[Tensor, Tensor]:
    """Return any image and its mask in the label values of the run's data; see `read_pair`.

    Where the data has no masks but Shapes or outlines, the values are class ids from 0, and 255 is
    for what is not annotated.

    Raises:
        ImageError: If a file cannot be read.
        DatasetError: If the mask has another size than the image, or a value that is no class.
    """
    pixels, data = read_image(image), trained.config.data
    if mask is None:
        return _as_pair(pixels, np.full(pixels.shape[:2], IGNORE_INDEX))
    values = read_mask(mask)
    refuse_other_size(values, pixels, mask=mask, image=f"its image {image}")
    if data.source == "shapes":
        label = np.where(values == 255, IGNORE_INDEX, values.astype(np.int64))
    else:
        label = label_table(data)[values]
    classes = len(trained.vocabulary.class_names) if trained.vocabulary else 0
    wrong = (label < 0) | (label >= classes) & (label != IGNORE_INDEX)
    if wrong.any():
        raise DatasetError(
            f"mask {mask}: value {values[wrong][0]} is none of the run's {classes} classes; use "
            "the label values of its data, and 255 for what is not annotated"
        )
    return _as_pair(pixels, label)


def _as_pair(pixels: Picture, label: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(label)


@torch.no_grad()
def teaching_figure(trained: Trained, clip: Clip, image: Tensor, label: Tensor) -> TeachingFigure:
    """Return the panels of one image, by what trained the student, at the size it segments at.

    Args:
        trained: A student.
        clip: Its teacher.
        image: RGB, uint8 (3, H, W).
        label: Ids as in the run's data, int64 (H, W), `IGNORE_INDEX` where nothing is annotated.

    Raises:
        ImageError: If the picture is too long for one look.

    Note:
        Labels are fused at every pixel, where training takes one per ``loss_stride``, and CLIP's
        tokens do not come from a cache, which would round them.
    """
    segmenter, config, model = Segmenter.of(trained), trained.config, trained.model
    query = segmenter.query()
    names, seen = query.vocabulary.class_names, query.seen.nonzero().flatten().tolist()
    own = replace(config.teaching, loss_stride=1, cache=None, local_weight=0.0)
    config, embeddings = replace(config, teaching=own), query.text_embeddings[query.seen]
    objective = build_objective(config, clip, model, embeddings, seen).to(segmenter.device)
    assert isinstance(objective, ClipZss)  # noqa: S101 - for the type checker
    assert isinstance(model, Student)  # noqa: S101 - likewise

    height, width = size = working_size(label.shape[0], label.shape[1], config.windows)
    patches = height * width // clip.image_tower.shape.patch_size**2
    if patches > MOST_PATCHES:
        raise ImageError(
            f"a figure shows one look of CLIP, and this picture, {width}×{height} pixels as the "
            f"student sees it, has {patches} patches, more than {MOST_PATCHES}; cut it"
        )
    answer = _nearest(segmenter.label(image[None], query)[0][0], size)
    label = _nearest(label.to(segmenter.device), size)
    rgb = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
    photo: Picture = rgb[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    rgb = normalize(rgb.to(segmenter.device), model.mean, model.std)
    rgb = pad_to_multiple(rgb, model.patch_size)
    target = pad_to(label, (rgb.shape[2], rgb.shape[3]), value=PADDING_INDEX)[None]
    annotated, lesson = objective.seen_labels(label), objective.prepare(rgb, target)

    colours = class_colours(len(names))
    ranks = annotated[annotated != IGNORE_INDEX].unique().tolist()
    shown = sorted({*answer.unique().tolist(), *(seen[rank] for rank in ranks)})
    groups = lesson.centres.shape[1]
    table = np.concatenate([colours[seen], other_colours(groups, colours[shown])])
    found = _tally(groups, "group", free=annotated == IGNORE_INDEX)
    title = "annotated: seen classes" if ranks else "nothing annotated"
    panels = [
        Panel("image", photo, photo),
        _map(title, annotated, colours[seen], photo),
        *_clusters(objective, rgb, target, photo, colours[shown]),
        _map(f"fused: {found}", lesson.target[0, :height, :width], table, photo),
    ]
    if objective.global_learning is not None:
        _, weight = attention_pool(model.features(rgb).float(), lesson.class_token)
        panels.append(_attention(weight, target.shape[1:], photo))
    panels.append(_map("student's prediction", answer, colours, photo))
    unseen = [name for i, name in enumerate(names) if i not in seen]
    return TeachingFigure(panels, {names[i]: colours[i] for i in shown}, unseen)


def _clusters(
    objective: ClipZss, rgb: Tensor, target: Tensor, photo: Picture, taken: Picture
) -> Iterator[Panel]:
    """Yield the clusters that windows of each size alone lead to."""
    learning = objective.pixel_learning
    if learning is None:
        return
    tokens = objective.teacher(rgb).patch_tokens
    unannotated = (objective.seen_labels(target) == IGNORE_INDEX) & (target != PADDING_INDEX)
    grid = (tokens.shape[1], tokens.shape[2])
    for side in learning.window_sizes(grid):
        flat, _ = learning.cluster(tokens, mostly(unannotated, grid), [side])
        used = flat[flat != NOWHERE].unique()
        numbers = torch.searchsorted(used, flat).where(flat != NOWHERE, NOWHERE)
        values = _nearest(numbers.unflatten(1, grid)[0], target.shape[1:])
        title = f"K-Means from {side}×{side} windows: {_tally(len(used), 'cluster', unannotated)}"
        values = values[: photo.shape[0], : photo.shape[1]]
        yield _map(title, values, other_colours(len(used), taken), photo)


def _attention(weight: Tensor, padded: tuple[int, ...], photo: Picture) -> Panel:
    """Return attention (1, h, w), computed on a padded picture, as colours over the picture."""
    full = F.interpolate(weight[None], padded, mode="bilinear")[0, 0] * weight.numel()
    heat = full[: photo.shape[0], : photo.shape[1]].cpu().numpy()
    low, high = heat.min(), heat.max()
    steps = (heat - low) / max(high - low, 1e-12) * (len(HEAT) - 1)
    colour = np.stack([np.interp(steps, range(len(HEAT)), c) for c in zip(*HEAT, strict=True)], -1)
    picture = (0.65 * colour + 0.35 * photo.mean(axis=2, keepdims=True)).astype(np.uint8)
    title = f"GLM attention: {low:.2g} to {high:.2g} times its mean"
    return Panel(title, weight[0].cpu().numpy(), picture)


def _map(title: str, numbers: Tensor, table: Picture, photo: Picture) -> Panel:
    """Return numbers (H, W) in the colours of a table (C, 3), over a pale picture where none is."""
    values = numbers.cpu().numpy()
    pale = np.empty_like(photo)
    pale[:] = 0.4 * photo.mean(axis=2, keepdims=True) + 140
    known = (values >= 0) & (values < len(table))
    pale[known] = table[values[known]]
    return Panel(title, values, pale)


def other_colours(count: int, taken: Picture) -> Picture:
    """Return RGB (count, 3), each as far as can be from those taken (C, 3) and those before it."""
    pool, chosen = class_colours(count + 200), taken
    for _ in range(count):
        distance = np.linalg.norm(pool[:, None].astype(float) - chosen, axis=2).min(axis=1)
        chosen = np.concatenate([chosen, pool[distance.argmax()][None]])
    return chosen[len(taken) :]


def _nearest(values: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(values[None, None].float(), size, mode="nearest-exact")[0, 0].long()


def _tally(count: int, noun: str, free: Tensor) -> str:
    return f"{count} {noun}{'s' * (count != 1)}" if free.any() else "nothing unannotated"
