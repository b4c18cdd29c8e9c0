"""Which image belongs to which mask: file names, list files, and what is wrong with them."""

from collections import Counter
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
    image_folder = _existing_folder(config, f"data.{split}.images", files.images)
    mask_folder = _existing_folder(config, f"data.{split}.masks", files.masks)
    images = _images_by_name(image_folder, not_masks=image_folder == mask_folder, config=config)
    masks = {
        path.name.removesuffix(config.mask_suffix): path
        for path in sorted(mask_folder.iterdir())
        if path.name.endswith(config.mask_suffix) and not path.name.startswith(".")
    }
    if not images:
        raise DatasetError(
            f"no image in {image_folder}; expected files that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    names = list(images)
    if files.list is not None:
        names = _read_list(config, f"data.{split}.list", files.list, images)
    orphans = [name for name in names if name not in masks]
    if orphans:
        raise DatasetError(
            f"{len(orphans)} of {len(names)} images have no mask, first {images[orphans[0]]}: "
            f"expected {mask_folder / (orphans[0] + config.mask_suffix)}; add the mask, remove the "
            "image, or correct data.mask_suffix"
        )
    strays = [path for name, path in masks.items() if name not in images]
    if strays and files.list is None:
        raise DatasetError(
            f"{len(strays)} of {len(masks)} masks have no image of their name in {image_folder}, "
            f"first {strays[0]}; add it, remove the mask, or name the images to use in "
            f"data.{split}.list"
        )
    return [(images[name], masks[name]) for name in names]


def _existing_folder(config: DataConfig, key: str, folder: str) -> Path:
    path = Path(config.root) / folder
    if not path.is_dir():
        raise DatasetNotFoundError(
            f'no folder for {key} = "{folder}": looked for {path.absolute()}; put the files there, '
            f"or correct {key} or data.root"
        )
    return path


def _images_by_name(folder: Path, *, not_masks: bool, config: DataConfig) -> dict[str, Path]:
    """Return the images of a folder by their names without extension, sorted."""
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if not_masks and path.name.endswith(config.mask_suffix):
            continue
        twin = images.setdefault(path.stem, path)
        if twin is not path:
            raise DatasetError(f"{twin} and {path} have one name; rename or remove one of them")
    return images


def _read_list(config: DataConfig, key: str, file: str, images: dict[str, Path]) -> list[str]:
    """Return the image names in a list file, each of which has an image."""
    path = Path(config.root) / file
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f'no list file for {key} = "{file}": looked for {path.absolute()}; write one image '
            f"name per line there, or correct {key} or data.root"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read {path} ({error}); write one image name per line"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DatasetError(f"{path} lists no image; write one image name per line")
    missing = [name for name in names if name not in images]
    if missing:
        raise DatasetError(
            f'{len(missing)} of {len(names)} lines of {path} name no image, first "{missing[0]}"; '
            "write one image name per line, without folder and extension"
        )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DatasetError(f'{path} lists "{name}" {times} times; list each image once')
    return names
