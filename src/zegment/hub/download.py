"""Finds a model of the Hugging Face Hub by name, in the cache or on the net.

Only the files of a checkpoint are ever fetched, by their exact names; none of them can hold code.
Where they are kept is for the environment to say (``HF_HOME``), as is whether the network may be
used (``HF_HUB_OFFLINE``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined,unused-ignore]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from zegment.checkpoint_files import CONFIG, FILES, missing_files, read_json
from zegment.clip_loading import is_offline, quiet
from zegment.errors import CheckpointError, ModelNotFoundError, ZegmentError
from zegment.hub.connection import cache_if_unreachable
from zegment.hub.verification import arrivals_verified
from zegment.wording import first_line

LOGIN = "run `hf auth login` with an account that may"

_NAME = re.compile(r"(?P<schema>hf-hub:)?(?P<repo>[^@:]+)(?:@(?P<revision>[\w./-]+))?")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_PART}/{_PART}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A repository of the Hub, as the name of a model gives it.

    Attributes:
        name: As it was given, for messages.
        repo_id: ``USER/NAME``.
        revision: A branch, tag or commit; None is the newest.
        may_be_clip: Whether the name also stands for a CLIP of open_clip's (``hf-hub:``).
    """

    name: str
    repo_id: str
    revision: str | None = None
    may_be_clip: bool = False


def hub_model(name: str) -> HubModel | None:
    """Return the repository that a name may mean, or None if it cannot mean any; asks nobody.

    Args:
        name: ``USER/NAME``, ``USER/NAME@REVISION``, or either after ``hf-hub:``. What exists here,
            and what begins like a CLIP of open_clip's (``ViT-B-16/…``), is no repository.

    Raises:
        ModelNotFoundError: If the name is that of a place in a folder here where nothing is. A
            stranger may have a repository of that name, so only ``hf-hub:`` takes it to the Hub.
    """
    found = _NAME.fullmatch(name)
    if found is None or Path(name).exists():
        return None
    explicit, repo_id = bool(found["schema"]), found["repo"]
    if not explicit and repo_id.partition("/")[0] in open_clip.list_models():
        return None
    revision = found["revision"]
    # Both become paths in the cache.
    if not is_repo_id(repo_id) or ".." in (revision or ""):
        return None
    if not explicit and Path(repo_id).parent.is_dir():
        raise ModelNotFoundError(
            f"no model '{name}': the folder '{Path(repo_id).parent}' is here and has none of that "
            f"name{near(name)}; correct the path, or if you mean a model of the Hub call it "
            f"hf-hub:{name}"
        )
    return HubModel(name=name, repo_id=repo_id, revision=revision, may_be_clip=explicit)


def is_repo_id(text: str) -> bool:
    """Return whether the Hub could have a repository of that name, with its owner."""
    return (
        _REPO_ID.fullmatch(text) is not None
        and len(text) <= 96
        and not any(mark in text for mark in ("--", ".."))
        and not text.endswith(".git")
    )


def download(model: HubModel) -> Path | None:
    """Return the folder of the cache that holds a repository's checkpoint, fetched if need be.

    Its small header is fetched first, so that nothing large of another kind ever is.

    Returns:
        None if the repository holds no checkpoint, or cannot be had, but may be a CLIP.

    Raises:
        ModelNotFoundError: If there is no such repository or revision, it is not a checkpoint of
            Zegment, or it is not in the cache and there is no network.
        CheckpointError: If what arrived is not what its source says it is.
    """
    try:
        with _downloading(model):
            with no_progress():
                header = snapshot(model.repo_id, model.revision, [CONFIG])
            if not is_checkpoint(header):
                raise ModelNotFoundError(
                    f"'{model.repo_id}' on the Hub is no Zegment checkpoint: its {CONFIG} is "
                    "missing or of another program; a CLIP there is called "
                    f"hf-hub:{model.repo_id}"
                )
            # By its commit: nothing can change in between, and a second time asks for nothing.
            with nullcontext() if missing_files(header) else no_progress():
                folder = snapshot(model.repo_id, header.name, FILES)
    except ModelNotFoundError:
        if model.may_be_clip:
            return None
        raise
    if missing := missing_files(folder):
        raise ModelNotFoundError(
            f"'{model.repo_id}' has no {', '.join(missing)} on the Hub or only a part of it is in "
            "the cache; load it again where there is a network, or ask its owner"
        )
    return folder


def snapshot(
    repo_id: str, revision: str | None, files: Sequence[str], *, token: str | None = None
) -> Path:
    """Return the cached folder of a commit with those files that it has."""
    with quiet():
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=list(files), token=token)
        )


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder has the header of a Zegment checkpoint."""
    try:
        header: dict[str, Any] = read_json(folder / CONFIG)
    except CheckpointError:
        return False
    config = header.get("config")
    return "format" in header and isinstance(config, dict) and "model" in config


@contextmanager
def no_progress() -> Iterator[None]:
    """Keep bars off the screen where there is little or nothing to wait for."""
    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


@contextmanager
def _downloading(model: HubModel) -> Iterator[None]:
    """Tell errors of a download in our words.

    Raises:
        ModelNotFoundError: If anything goes wrong.
        CheckpointError: If what arrived is not what its source says it is.
    """
    try:
        with cache_if_unreachable(), arrivals_verified():
            yield
    except ZegmentError:  # already in our words, and built-in errors too
        raise
    # Which library carries the bytes, and with it what it raises, is the Hub client's affair.
    except Exception as error:
        raise ModelNotFoundError(_failure(model, error)) from error


def _failure(model: HubModel, error: Exception) -> str:
    """Return what went wrong with a download, and the remedy."""
    name, repo_id = model.name, model.repo_id
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return f"'{repo_id}' on the Hub is gated: ask for access on its page, then {LOGIN} read it"
    if isinstance(error, RevisionNotFoundError):
        return (
            f"'{repo_id}' on the Hub has no revision '{model.revision}'; give one of its branches, "
            f"tags or commits, or '{repo_id}' alone for the newest"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no model '{name}': no folder here has that name{near(name)}, and the Hub has no "
            f"repository '{repo_id}' that you may read; check the spelling, and if it is private "
            f"or gated {LOGIN} read it"
        )
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return f"the Hub refuses '{repo_id}' to you (status {status}); {LOGIN} read it"
    if is_offline(error):
        return (
            f"no model '{name}': no folder here has that name{near(name)}, and of a repository "
            f"'{repo_id}' there is no whole copy in the Hugging Face cache and no network to get "
            "it from the Hub; check the path, or load it once where there is a network and copy "
            "the cache (HF_HOME)"
        )
    return (
        f"cannot get '{repo_id}' from the Hub: {first_line(error)}; check the name, and try again"
    )


def near(name: str) -> str:
    """Return ``" (did you mean …?)"`` with folders beside a name's, and CLIPs, that are like it."""
    folder, _, last = name.rpartition("/")
    here = Path(folder)
    beside = sorted(p.name for p in here.iterdir() if p.is_dir()) if here.is_dir() else []
    matches = [f"{folder}/{m}" for m in difflib.get_close_matches(last, beside, n=2)]
    clips = [f"{clip}/{weights}" for clip, weights in open_clip.list_pretrained()]
    matches += difflib.get_close_matches(name, clips, n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
