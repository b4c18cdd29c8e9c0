"""Requests turned into results, and results kept for their visitors.

One service answers the page and the HTTP API: it prepares each vocabulary once, and remembers the
last result of each visitor, so that another opacity does not cost another run of the model.

H W pixels.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from zegment.errors import ZegmentError
from zegment.serving.limits import Limits, parse_policy, parse_words, read_upload

if TYPE_CHECKING:
    from zegment.background import Background
    from zegment.query import Query
    from zegment.results import Segmentation
    from zegment.segmenter import Segmenter
    from zegment.vocabulary import Vocabulary

_MAX_QUERIES: Final = 32


class ResultGoneError(ZegmentError, LookupError):
    """A visitor's result is no longer kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """One answer.

    Attributes:
        result: The label map at the size of the picture.
        stem: What its files are called: letters, digits, "-" and "_" only.
    """

    result: Segmentation
    stem: str

    @property
    def nbytes(self) -> int:
        """Memory that keeping this takes."""
        result = self.result
        confidence = 0 if result.confidence is None else result.confidence.nbytes
        return result.labels.nbytes + result.image.nbytes + confidence


class ResultStore:
    """The last result of each visitor, within a bound on the memory of all.

    Safe to use from several threads.

    Args:
        max_bytes: Beyond it the results that were not asked for the longest go; the newest stays.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Finished] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, visitor: str, finished: Finished) -> None:
        """Keep a result in place of the visitor's earlier one."""
        with self._lock:
            self._kept.pop(visitor, None)
            self._kept[visitor] = finished
            while len(self._kept) > 1 and self._nbytes() > self.max_bytes:
                self._kept.popitem(last=False)

    def get(self, visitor: str) -> Finished:
        """Return the visitor's result.

        Raises:
            ResultGoneError: If there is none, or it had to make room.
        """
        with self._lock:
            if visitor not in self._kept:
                raise ResultGoneError("this result is no longer kept; press Segment again")
            self._kept.move_to_end(visitor)
            return self._kept[visitor]

    def drop(self, visitor: str) -> None:
        """Forget the visitor's result, if there is one."""
        with self._lock:
            self._kept.pop(visitor, None)

    def __len__(self) -> int:
        """Return how many results are kept."""
        return len(self._kept)

    def _nbytes(self) -> int:
        return sum(finished.nbytes for finished in self._kept.values())


class Service:
    """Answers requests of strangers with one segmenter.

    Args:
        segmenter: Runs in as many threads as the queue lets in at a time.
        limits: What is accepted.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits) -> None:
        self.segmenter = segmenter
        self.limits = limits
        self.results = ResultStore(limits.max_kept_bytes)
        self._queries: OrderedDict[tuple[Vocabulary | None, Background], Query] = OrderedDict()
        self._lock = threading.Lock()

    def segment(self, path: Path, words: str, background: str) -> Finished:
        """Return the answer to one request.

        Args:
            path: The uploaded picture.
            words: Class names, separated by commas; empty for the model's own.
            background: ``none``, ``threshold:0.5`` or ``helpers:wall, sky``.

        Raises:
            ImageError: If the picture is too large, no picture, or damaged.
            VocabularyError: If words are missing, too many, too long or repeated.
            ConfigError: If the background is not one of the three forms.
        """
        # The cheap checks come first.
        vocabulary = parse_words(words, self.limits)
        policy = parse_policy(background, self.limits)
        image = read_upload(path, self.limits)
        query = self._query(vocabulary, policy)
        return Finished(result=self.segmenter.segment(image, query), stem=safe_stem(path.name))

    def _query(self, vocabulary: Vocabulary | None, policy: Background) -> Query:
        own = self.segmenter.vocabulary
        if vocabulary is not None and own is not None:
            # A model answers best to the sentences that it was trained with.
            vocabulary = replace(vocabulary, templates=own.templates)
        key = (vocabulary, policy)
        with self._lock:
            if key in self._queries:
                self._queries.move_to_end(key)
                return self._queries[key]
        query = self.segmenter.query(vocabulary, background=policy)
        with self._lock:
            self._queries[key] = query
            while len(self._queries) > _MAX_QUERIES:
                self._queries.popitem(last=False)
        return query


def safe_stem(name: str) -> str:
    """Return a stranger's file name as letters, digits, "-" and "_", without its suffix."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem).strip("-_")[:60]
    return stem or "picture"
