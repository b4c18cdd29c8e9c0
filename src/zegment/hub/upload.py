"""Shares a model on the Hugging Face Hub, together with its card.

Only the files of a checkpoint are sent, by their exact names, and no path of this machine with
them. `zegment.hub.download` is the way back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from zegment.checkpoint_files import (
    CONFIG,
    FILES,
    TEXT,
    VOCABULARY,
    checkpoint_folder,
    missing_files,
    read_json,
)
from zegment.clip_loading import asset, is_offline, quiet
from zegment.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    OutputError,
    ZegmentError,
)
from zegment.hub.card import is_unedited, model_card
from zegment.hub.card_text import without_places
from zegment.hub.download import LOGIN, is_checkpoint, is_repo_id, no_progress, snapshot
from zegment.wording import first_line

CARD = "README.md"


def push_to_hub(  # noqa: PLR0913 - one parameter per choice
    source: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    message: str = "Upload a Zegment checkpoint",
    overwrite: bool = False,
) -> str:
    """Upload a checkpoint with its model card in one commit, and return the repository's address.

    Args:
        source: A run or checkpoint folder, an exported model, or a packaged checkpoint.
        repo_id: ``USER/NAME``; made if missing.
        private: Whether a new repository is only for its owner; one that exists stays as it is.
        token: Of an account that may write there; None takes that of ``hf auth login``.
        licence: See `zegment.hub.card.model_card`.
        data_licence: See there.
        message: Of the commit.
        overwrite: Whether a repository that holds something else, or a card that was edited by
            hand, gives way; other files stay.

    Raises:
        ModelNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is incomplete or damaged.
        ConfigError: If the name cannot be one, or nobody else could load the model.
        OutputError: If the repository may not be written, is public although ``private``, or holds
            something that would be lost.
    """
    files = upload_files(source, repo_id, licence=licence, data_licence=data_licence)
    api = HfApi(token=token)
    with _uploading(repo_id):
        info = _repository(api, repo_id)
        if info is None:
            api.create_repo(repo_id, private=private, exist_ok=True)
            info = api.model_info(repo_id)
        else:
            _refuse_loss(info, repo_id, private=private, overwrite=overwrite, token=token)
        present = {sibling.rfilename for sibling in info.siblings or ()}
        # A file that an earlier model left would be taken for a part of this one.
        stale = sorted((present & set(FILES)) - files.keys())
        api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, content) for name, content in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            parent_commit=info.sha,
        )
    return f"{api.endpoint}/{repo_id}"


def upload_files(
    source: str | Path,
    repo_id: str,
    *,
    licence: str | None = None,
    data_licence: str | None = None,
) -> dict[str, Path | bytes]:
    """Return what `push_to_hub` sends: each file's name, and its content or where it lies.

    Paths of this machine are taken out of the configuration and of the metrics.

    Args:
        source: See `push_to_hub`.
        repo_id: ``USER/NAME``.
        licence: See `zegment.hub.card.model_card`.
        data_licence: See there.

    Raises:
        ModelNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is incomplete or damaged.
        ConfigError: If the name cannot be one, or nobody else could load the model.
    """
    _check_repo_id(repo_id)
    folder = checkpoint_folder(str(source))
    if folder is None:
        raise ModelNotFoundError(
            f"no checkpoint at '{source}'; give a folder that `zegment train`, `export` or "
            "`import-zegclip` made"
        )
    if missing := missing_files(folder):
        raise CheckpointError(
            f"{folder} is incomplete: it has no {', '.join(missing)}; make it new"
        )
    _check_clip(folder)
    card = model_card(folder, repo_id=repo_id, licence=licence, data_licence=data_licence)
    files: dict[str, Path | bytes] = {CARD: card.encode("utf-8")}
    for name in FILES:
        path = folder / name
        if path.is_file() and name.endswith(".json") and name != VOCABULARY:
            files[name] = _shareable(path)
        elif path.is_file():
            files[name] = path
    return files


def _shareable(path: Path) -> bytes:
    """Return a table of a checkpoint as JSON, without any place on this machine."""
    table = without_places(read_json(path))
    data = table.get("config", {}).get("data", {}) if path.name == CONFIG else {}
    if data.get("source") in ("folder", "coco_json"):
        # The last part is what the data are called in reports.
        data["root"] = Path(data.get("root", ".")).name or "."
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _check_repo_id(repo_id: str) -> None:
    if not is_repo_id(repo_id):
        raise ConfigError(
            f"'{repo_id}' cannot be a repository; give USER/NAME, in letters, digits and . _ - "
            "(no two of . or - in a row)"
        )
    if repo_id.partition("/")[0] in open_clip.list_models():
        raise ConfigError(f"'{repo_id}' would be taken for a CLIP; choose another name")


def _check_clip(folder: Path) -> None:
    """Refuse a checkpoint that needs a CLIP which only this machine has."""
    header = read_json(folder / CONFIG)
    try:
        clip = str(header["config"]["model"]["clip"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: it names no model") from error
    public = clip.startswith("hf-hub:") or clip.partition("/")[0] in open_clip.list_models()
    # What brings its words along can be used without the CLIP that it was made with.
    if not (folder / TEXT).is_file() and not public and asset(clip) is None:
        raise ConfigError(
            f"the model stands on the CLIP in folder '{clip}', which nobody else has; push that to "
            "the Hub in open_clip's format and train on hf-hub:USER/NAME"
        )


def _repository(api: HfApi, repo_id: str) -> ModelInfo | None:
    """Return what a repository holds, or None if there is none."""
    try:
        return api.model_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _refuse_loss(
    info: ModelInfo, repo_id: str, *, private: bool, overwrite: bool, token: str | None
) -> None:
    """Raise OutputError if an upload would show something, or replace something of others."""
    if private and info.private is False:
        raise OutputError(
            f"'{repo_id}' is public, and a private upload was asked for; give another name, or "
            "--public (private=False)"
        )
    present = {sibling.rfilename for sibling in info.siblings or ()} - {".gitattributes"}
    if overwrite or not present:
        return
    with no_progress():
        folder = snapshot(repo_id, info.sha, [CONFIG, CARD], token=token)
    if not is_checkpoint(folder):
        raise OutputError(
            f"'{repo_id}' holds something that is no Zegment checkpoint "
            f"({', '.join(sorted(present)[:3])}); give another name, or --overwrite"
        )
    card = folder / CARD
    if card.is_file() and not is_unedited(card.read_text(encoding="utf-8")):
        raise OutputError(
            f"the card {CARD} of '{repo_id}' was edited by hand, and would be replaced; keep a "
            "copy of it and give --overwrite"
        )


@contextmanager
def _uploading(repo_id: str) -> Iterator[None]:
    """Tell errors of an upload in our words.

    Raises:
        OutputError: If anything goes wrong.
    """
    try:
        with quiet():
            yield
    except ZegmentError:  # already in our words, and built-in errors too
        raise
    # Which library carries the bytes, and with it what it raises, is the Hub client's affair.
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            remedy = f"(status {status}); {LOGIN} write there"
        elif status in (409, 412):
            remedy = "(it changed meanwhile); look at what is there now, and push again"
        elif is_offline(error) or type(error).__name__.startswith("Connect"):
            remedy = "(no network); push where there is one, and without HF_HUB_OFFLINE"
        else:
            remedy = f"({first_line(error)}); nothing was changed there, try again"
        raise OutputError(f"cannot upload to '{repo_id}' on the Hub {remedy}") from error
