"""The medical data sets as MedCLIPSeg released them: its splits, and a sentence for each image.

A set is a folder with ``Train_Folder``, ``Val_Folder`` and ``Test_Folder``, each with ``img`` and
``label``, and ``Prompts_Folder`` with Excel files of the columns Image, Ground Truth and
Description.

Source:
    Koleilat et al., MedCLIPSeg (CVPR 2026), assets/DATASETS.md of the released code. The variant
    of LViT is read as well: ``labelcol`` for ``label``, texts inside the folders.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zegment.data import Split
from zegment.data.preparing import SPLITS
from zegment.data.preparing.medical import descriptions_csv
from zegment.data.preparing.medical_layouts import Layout, Plan, Sample, folders_below, pictures
from zegment.errors import DatasetError
from zegment.images import IMAGE_SUFFIXES
from zegment.optional import optional

#: What an archive of the release has inside, wherever in it, or one of what was made of it here.
ANCHORS = ("train/images", "Train_Folder", "Val_Folder", "Test_Folder", "Prompts_Folder")

#: Folders of the release, one for each set.
_SETS = (
    *("BUSI", "BTMRI", "ISIC", "Kvasir", "Covid19", "EUS", "BUSUC", "BUSBRA", "BUID", "UDIAT"),
    *("BRISC", "UWaterlooSkinCancer", "ColonDB", "ClinicDB", "CVC300", "BKAI"),
)

#: What to say of a split that the release gives.
PUBLISHED = "split as MedCLIPSeg publishes it"

_FOLDERS: Mapping[Split, str] = {
    "train": "Train_Folder",
    "val": "Val_Folder",
    "test": "Test_Folder",
}

#: Texts of the full splits, the released name first.
_TEXTS: Mapping[Split, tuple[str, ...]] = {
    "train": ("Train_text.xlsx",),
    "val": ("Val_text.xlsx",),
    "test": ("Test_text_original.xlsx", "Test_text.xlsx"),
}

#: What the name of a mask adds to that of its image, in the order they are tried.
_MASK_NAMES = ("{}", "{}_mask", "mask_{}", "{}_segmentation", "{}_Segmentation", "{}_seg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a text file.

    Attributes:
        image: Name of the image, without ending.
        mask: Name of its mask, without ending; empty if the file has no column for it.
        description: The sentence.
    """

    image: str
    mask: str
    description: str


def release(name: str) -> Layout:
    """Return how MedCLIPSeg lays out one data set.

    Args:
        name: Its folder there, such as ``BUSI`` or ``Covid19``.
    """
    return Layout(
        expected=f"MedCLIPSeg's release of {name} (Train_Folder/img, Train_Folder/label, and so on "
        "for Val_Folder and Test_Folder)",
        read=lambda root: _read(root, name),
    )


def _read(root: Path, name: str) -> Plan | None:
    base = _base(root, name)
    if base is None:
        return None
    samples = {split: _samples(base, split) for split in SPLITS}
    return Plan(
        origin=f"MedCLIPSeg's release in {base}",
        split=PUBLISHED,
        samples=samples,
        texts=variants(base),
    )


def _base(root: Path, name: str) -> Path | None:
    """Return the folder of a set, None if there is no folder of the release.

    Raises:
        DatasetError: If it is another set, or one of several.
    """
    found = [
        folder
        for folder in folders_below(root)
        if any((folder / split).is_dir() for split in _FOLDERS.values())
    ]
    named = [folder for folder in found if folder.resolve().name.casefold() == name.casefold()]
    others = {other.casefold() for other in _SETS if other != name}
    anonymous = [folder for folder in found if folder.resolve().name.casefold() not in others]
    for candidates in (named, anonymous):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            listed = ", ".join(str(folder) for folder in candidates)
            raise DatasetError(f"{name} could be any of {listed}; set data.root to the right one")
    if found:
        raise DatasetError(
            f"{found[0].absolute()} is MedCLIPSeg's release of another data set than {name}; "
            "correct data.root"
        )
    return None


def _samples(base: Path, split: Split) -> list[Sample]:
    """Return the samples that the text of a split lists, or without a text all of its folder.

    Raises:
        DatasetNotFoundError: If a folder is missing.
        DatasetError: If the text lists no image, or a file that does not exist.
    """
    folder = base / _FOLDERS[split]
    images = pictures(folder / "img")
    labels = pictures(folder / ("labelcol" if (folder / "labelcol").is_dir() else "label"))
    text = text_file(base, split)
    if text is None:
        return [
            Sample(name=name, image=image, masks=(_mask(name, image, labels, folder),))
            for name, image in images.items()
        ]
    samples: dict[str, Sample] = {}
    for row in read_rows(text):
        # LViT lists masks.
        name = row.image if row.image in images else row.image.removeprefix("mask_")
        if name not in images:
            raise DatasetError(
                f'{text} lists "{row.image}", but there is no such picture in {folder / "img"}; '
                "unpack the archive again, all of it"
            )
        mask = labels.get(row.mask)
        if row.mask and mask is None:
            raise DatasetError(
                f'{text} lists the mask "{row.mask}", but there is no such picture in '
                f"{next(iter(labels.values())).parent}; unpack the archive again, all of it"
            )
        # An image listed twice is one image; its first sentence counts.
        samples.setdefault(
            name,
            Sample(
                name=name,
                image=images[name],
                masks=(mask or _mask(name, images[name], labels, folder),),
                description=row.description,
            ),
        )
    return [samples[name] for name in sorted(samples)]


def _mask(name: str, image: Path, labels: Mapping[str, Path], folder: Path) -> Path:
    """Return the mask named after an image."""
    for pattern in _MASK_NAMES:
        if pattern.format(name) in labels:
            return labels[pattern.format(name)]
    raise DatasetError(
        f'{image} has no mask: looked for "{name}" in the labels of {folder}; unpack the archive '
        "again, all of it"
    )


def text_file(base: Path, split: Split) -> Path | None:
    """Return the Excel file about a split, if there is one."""
    candidates = [
        folder / file
        for folder in (base / "Prompts_Folder", base / _FOLDERS[split])
        for file in _TEXTS[split]
    ]
    return next((path for path in candidates if path.is_file()), None)


def variants(base: Path) -> dict[str, str]:
    """Return the lists of parts of the training, and the other sentences about the test images."""
    texts = {}
    for split in ("train", "val"):
        for share in ("10", "25", "50"):
            path = base / "Prompts_Folder" / f"{split.capitalize()}_text_{share}.xlsx"
            if path.is_file():
                names = dict.fromkeys(row.image for row in read_rows(path))
                texts[f"{split}/{share}_percent.txt"] = "".join(f"{name}\n" for name in names)
    for path in sorted((base / "Prompts_Folder").glob("Test_text_*.xlsx")):
        variant = path.stem.removeprefix("Test_text_")
        if variant != "original":
            sentences = {row.image: row.description for row in reversed(read_rows(path))}
            texts[f"test/descriptions_{variant}.csv"] = descriptions_csv(sorted(sentences.items()))
    return texts


def read_rows(path: Path) -> list[Row]:
    """Return the lines of an Excel file of sentences; its columns are found by their names.

    Raises:
        ConfigError: If openpyxl is not installed.
        DatasetError: If the file is damaged, lacks a column or a sentence, or lists nothing.
    """
    openpyxl = optional("openpyxl", extra="data", purpose=f"{path}, an Excel file,")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            lines = [tuple(line) for line in book.worksheets[0].iter_rows(values_only=True)]
        finally:
            book.close()
    except (OSError, ValueError, KeyError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} cannot be read as an Excel file ({error}); download it again"
        ) from error
    header = [_cell(value).casefold() for value in lines[0]] if lines else []
    missing = [column for column in ("image", "description") if column not in header]
    if missing:
        raise DatasetError(
            f'{path} has no column "{missing[0]}", only {", ".join(header) or "nothing"}; '
            "download it again"
        )
    rows = list(_rows(header, lines[1:]))
    if not rows:
        raise DatasetError(f"{path} lists no image; download it again")
    mute = next((row.image for row in rows if not row.description), None)
    if mute is not None:
        raise DatasetError(f'{path} has no description of "{mute}"; download it again')
    return rows


def _rows(header: list[str], lines: Iterable[tuple[object, ...]]) -> Iterable[Row]:
    for line in lines:
        cells = dict(zip(header, map(_cell, line), strict=False))
        if cells.get("image"):
            yield Row(
                image=_stem(cells["image"]),
                mask=_stem(cells.get("ground truth", "")),
                description=cells.get("description", ""),
            )


def _cell(value: object) -> str:
    """Return a cell as one line of text; a number that stands for a name has no fraction."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else " ".join(str(value).split())


def _stem(name: str) -> str:
    """Return the name of a file without folders and without the ending of a picture."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
