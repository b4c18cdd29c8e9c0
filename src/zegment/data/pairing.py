"""Which image belongs to which mask: file names, list files, and what is wrong with them."""

import csv
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zegment.config import DataConfig, SplitFiles
from zegment.data import Split
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.images import IMAGE_SUFFIXES


def pair_files(config: DataConfig, split: Split, files: SplitFiles) -> list[tuple[Path, Path]]:
    """Return (image, mask) of every image of a split, in the order of the names or of the list.

    Raises:
        DatasetNotFoundError: If a folder or the list file does not exist.
        DatasetError: If there are no images.
        DatasetError: If two images have one name, or an image or a mask has no partner.
    """
    image_folder = existing_folder(config, f"data.{split}.images", files.images)
    mask_folder = existing_folder(config, f"data.{split}.masks", files.masks)
    images = _images_by_name(image_folder, not_masks=image_folder == mask_folder, config=config)
    masks = {
        _name(path, mask_folder, config.mask_suffix): path
        for path in _files(mask_folder, config)
        if path.name.endswith(config.mask_suffix)
    }
    if not images:
        expected = (config.image_suffix,) if config.image_suffix else IMAGE_SUFFIXES
        raise DatasetError(
            f"no image in {image_folder}; expected files that end in {', '.join(expected)}"
        )
    names = list(images)
    if files.list is not None:
        names = read_list(config, f"data.{split}.list", files.list, images)
    orphans = [name for name in names if name not in masks]
    if orphans:
        raise DatasetError(
            f"{len(orphans)} of {len(names)} images have no mask, first {images[orphans[0]]}: "
            f"expected {mask_folder / (orphans[0] + config.mask_suffix)}; add the mask, remove the "
            "image, or correct data.mask_suffix"
        )
    strays = [path for name, path in masks.items() if name not in images]
    # Known data sets lie beside files that others derived from them.
    if strays and files.list is None and config.benchmark is None:
        raise DatasetError(
            f"{len(strays)} of {len(masks)} masks have no image of their name in {image_folder}, "
            f"first {strays[0]}; add it, remove the mask, or name the images to use in "
            f"data.{split}.list"
        )
    return [(images[name], masks[name]) for name in names]


def existing_folder(config: DataConfig, key: str, folder: str) -> Path:
    """Return a folder of the data, which ``key`` names.

    Raises:
        DatasetNotFoundError: If there is none.
    """
    path = Path(config.root) / folder
    if not path.is_dir():
        raise DatasetNotFoundError(
            f'no folder for {key} = "{folder}": looked for {path.absolute()}; put the files there, '
            f"or correct {key} or data.root{_where(config)}"
        )
    return path


def read_list(config: DataConfig, key: str, file: str, images: dict[str, Path]) -> list[str]:
    """Return the image names in a list file, each of which has an image.

    Raises:
        DatasetNotFoundError: If the file does not exist.
        DatasetError: If it cannot be read, or lists no image, an unknown one, or one twice.
    """
    path, lines = Path(config.root) / file, _read_text(config, key, file).splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DatasetError(f"{path} lists no image; write one image name per line")
    missing = [name for name in names if name not in images]
    if missing:
        like = next(iter(images))
        raise DatasetError(
            f'{len(missing)} of {len(names)} lines of {path} name no image, first "{missing[0]}"; '
            f'add the image, remove the line, or write names as "{like}" stands for {images[like]}'
        )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DatasetError(f'{path} lists "{name}" {times} times; list each image once')
    return names


def read_descriptions(
    config: DataConfig, split: Split, files: SplitFiles, pairs: Sequence[tuple[Path, Path]]
) -> list[str] | None:
    """Return the sentence about each image, in the order of ``pairs``; None if there are none.

    Raises:
        DatasetNotFoundError: If the file does not exist.
        DatasetError: If it cannot be read, or an image has no sentence or two.
    """
    if files.descriptions is None:
        return None
    key, path = f"data.{split}.descriptions", Path(config.root) / files.descriptions
    rows = list(csv.DictReader(_read_text(config, key, files.descriptions).splitlines()))
    if not rows or not {"image", "description"} <= rows[0].keys():
        raise DatasetError(f'{path} needs the columns "image" and "description"')
    sentences: dict[str, str] = {}
    for row in rows:
        name, sentence = (row["image"] or "").strip(), (row["description"] or "").strip()
        if not name or not sentence:
            raise DatasetError(f"{path}: a row lacks its image or its description: {row}")
        if sentences.setdefault(name, sentence) != sentence:
            raise DatasetError(f'{path} describes "{name}" twice; keep one row')
    names = [image.stem for image, _ in pairs]
    missing = [name for name in names if name not in sentences]
    if missing:
        raise DatasetError(
            f"{path} has no description of {len(missing)} of {len(names)} images, first "
            f'"{missing[0]}"; add a row for each, with the name of the image without its ending'
        )
    return [sentences[name] for name in names]


def _files(folder: Path, config: DataConfig) -> list[Path]:
    """Return the visible files of a folder, in the order of their paths."""
    found = folder.rglob("*") if config.nested else folder.iterdir()
    return sorted(path for path in found if not path.name.startswith("."))


def _name(path: Path, folder: Path, suffix: str) -> str:
    """Return what an image and its mask have in common: the path without the ending."""
    return path.relative_to(folder).as_posix().removesuffix(suffix)


def _images_by_name(folder: Path, *, not_masks: bool, config: DataConfig) -> dict[str, Path]:
    """Return the images of a folder by their names without extension, sorted."""
    images: dict[str, Path] = {}
    for path in _files(folder, config):
        suffix = config.image_suffix or path.suffix
        known = config.image_suffix is not None or suffix.lower() in IMAGE_SUFFIXES
        if not known or not path.name.endswith(suffix):
            continue
        if not_masks and path.name.endswith(config.mask_suffix):
            continue
        twin = images.setdefault(_name(path, folder, suffix), path)
        if twin is not path:
            raise DatasetError(f"{twin} and {path} have one name; rename or remove one of them")
    return images


def _read_text(config: DataConfig, key: str, file: str) -> str:
    path = Path(config.root) / file
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f'no file for {key} = "{file}": looked for {path.absolute()}; write it, with one line '
            f"for each image, or correct {key} or data.root{_where(config)}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read {path} ({error}); write it as text, with one line for each image"
        ) from error


def _where(config: DataConfig) -> str:
    """Return where to read more about the files of a known data set."""
    if config.benchmark is None:
        return ""
    root = shlex.quote(config.root)
    return f" (--root); zegment data check {config.benchmark} --root {root} says what is there"
