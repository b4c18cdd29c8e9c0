"""A data set of the Hugging Face Hub, or in a folder of its form, as a dataset.

Images and label maps are two columns of pictures. H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zegment.config import DataConfig
from zegment.data import Split
from zegment.data.checked import CheckedDataset
from zegment.data.masks import MaskLabels, mask_values, refuse_other_size
from zegment.errors import (
    ConfigError,
    DatasetError,
    DatasetNotFoundError,
    ImageError,
    did_you_mean,
)
from zegment.image_bytes import read_file
from zegment.images import open_image, read_image
from zegment.optional import optional
from zegment.wording import first_line

#: What the Hub calls a data set: a name, mostly after that of a user.
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


class HubDataset(CheckedDataset):
    """Images and label maps of one split of a data set that ``datasets.load_dataset`` reads.

    ``data.root`` is its name, ``user/name``, or a folder of Parquet or picture files;
    ``data.<split>.images`` and ``.masks`` are the names of its columns, and
    ``data.<split>.list`` that of its split, or a part of it such as ``train[:80%]``; without it,
    that is the one called like the split here. Label values mean what they mean in masks of files.

    Args:
        config: Name of the data set, columns, class names and the meaning of label values.
        split: Which of the configured splits.

    Raises:
        ConfigError: If the split is not configured, or `datasets` is not installed.
        ConfigError: If the data set has no such split or column.
        DatasetNotFoundError: If there is no such data set, or it cannot be downloaded.
        DatasetError: If it cannot be read, or a split of it has no rows.

    Note:
        Nothing is decoded before it is asked for. The rows stay in the files of the cache, which
        worker processes map into memory instead of copying them.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config, split)
        files = self._files
        if files.descriptions is not None:
            raise ConfigError(
                f"data.{split}.descriptions is for image files, and rows of a table have no names; "
                "leave it out"
            )
        self._labels = MaskLabels(config)
        self._columns = (files.images, files.masks)
        self._hub_split = files.list or split
        rows = _load(config, f"data.{split}.list", self._hub_split)
        for key, column in (("images", files.images), ("masks", files.masks)):
            _check_column(rows, f"data.{split}.{key}", column, root=config.root)
        self._rows = _undecoded(rows, self._columns)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """Return the number of a row, its split and its data set."""
        return f"row {range(len(self))[index]} of {self._hub_split} of {self._config.root}"

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return one image, uint8 (H, W, 3), and its label map, int64 (H, W)."""
        index = range(len(self))[index]  # before the rows are asked, whose errors are others
        row = self._rows[index]
        image_name, mask_name = (f'"{column}" in {self.name(index)}' for column in self._columns)
        with open_image(_content(row[self._columns[0]], image_name), image_name) as picture:
            image = read_image(picture)
        with open_image(_content(row[self._columns[1]], mask_name), mask_name) as picture:
            values = mask_values(picture, mask_name)
        refuse_other_size(values, image, mask=mask_name, image="its image")
        return image, self._labels.translate(values, mask_name)


def _datasets() -> Any:  # noqa: ANN401 - an untyped package
    return optional("datasets", extra="data", purpose='data.source = "huggingface"')


def _load(config: DataConfig, option: str, split: str) -> Any:  # noqa: ANN401 - an untyped package
    """Return the rows of one split.

    Raises:
        ConfigError: If `datasets` is not installed, or there is no such split.
        DatasetNotFoundError: If there is no such data set, or it cannot be downloaded.
        DatasetError: If it cannot be read.
    """
    datasets, root = _datasets(), config.root
    # Asked here, because ``datasets`` would look for a mistyped folder on the Hub.
    if not Path(root).exists() and not _HUB_NAME.fullmatch(root):
        raise DatasetNotFoundError(
            f'no data set for data.root = "{root}": looked for {Path(root).absolute()}; give the '
            "folder of a data set, or its name on the Hub, such as user/name"
        )
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(root)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f'no data set for data.root = "{root}": {first_line(error)}; looked for '
            f"{Path(root).absolute()} and on the Hub: correct the name, and log in with "
            "`hf auth login` if the data set is private or has terms to accept"
        ) from error
    except ConnectionError as error:
        raise DatasetNotFoundError(
            f'cannot download data.root = "{root}", and there is no folder {Path(root).absolute()} '
            f"({first_line(error)}); connect to the internet and unset HF_HUB_OFFLINE, or give "
            "the folder of a copy"
        ) from error
    # Its builders pass on what Arrow, Pillow and archives raise, as classes of many packages.
    except Exception as error:
        raise DatasetError(
            f'`datasets` cannot read data.root = "{root}" ({first_line(error)}); if its files are '
            "damaged, copy them again, and if it is of another form, write it with to_parquet"
        ) from error
    if split in splits:
        return splits[split]
    try:
        return datasets.load_dataset(root, split=split)  # a part or a union of splits
    except ValueError as error:
        names = [str(name) for name in splits]
        # What is wrong with "train[:x]" only its reader knows; of a name there is more to say.
        part = f" ({first_line(error)});" if "[" in split else did_you_mean(split, names) or ";"
        raise ConfigError(
            f'{option}: "{root}" has no split "{split}"{part} it has {", ".join(names)}; '
            f"name one of them in {option}"
        ) from error


def _check_column(rows: Any, option: str, column: str, *, root: str) -> None:  # noqa: ANN401
    """Refuse a column that does not exist or cannot hold pictures."""
    datasets, names = _datasets(), list(rows.column_names)
    if column not in names:
        raise ConfigError(
            f'{option}: "{root}" has no column "{column}"'
            f"{did_you_mean(column, names) or ';'} it has {', '.join(names)}"
        )
    feature = rows.features[column]
    kind = getattr(feature, "dtype", None)
    holds_bytes = kind in ("binary", "large_binary") or (
        isinstance(feature, dict) and {"bytes"} <= feature.keys() <= {"bytes", "path"}
    )
    if not (isinstance(feature, datasets.Image) or holds_bytes):
        pictures = [n for n, f in rows.features.items() if isinstance(f, datasets.Image)]
        raise ConfigError(
            f'{option}: column "{column}" of "{root}" holds {kind or feature} and no pictures; '
            f"columns of pictures are: {', '.join(pictures) or 'none'}"
        )


def _undecoded(rows: Any, columns: tuple[str, str]) -> Any:  # noqa: ANN401 - an untyped package
    """Return only these columns, with pictures as the bytes of their files."""
    datasets = _datasets()
    rows = rows.select_columns(list(dict.fromkeys(columns)))
    for column in columns:
        if isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _content(cell: bytes | Mapping[str, Any] | None, name: str) -> bytes:
    """Return the bytes of the picture that a row holds, or whose file it names.

    Raises:
        DatasetError: If the row has no picture there, or its file is gone.
    """
    content: bytes | None
    if isinstance(cell, Mapping):
        path, content = cell.get("path"), cell.get("bytes")
        if content is None and path:
            try:
                content = read_file(Path(path))
            except ImageError as error:
                raise DatasetError(
                    f"{name} cannot be read: {error}; put it back, or make the data set again"
                ) from error
    else:
        content = cell
    if not content:
        raise DatasetError(f"{name} is empty; remove the row, or give it a picture")
    return content
