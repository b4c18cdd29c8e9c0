"""Models of the Hub, with its own client, against a server that speaks the Hub's protocol."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from hub_stub import Stub, content_of, fabricate, forget_connections, go_online, packaged
from huggingface_hub import constants as hub_constants
from PIL import Image
from typer.testing import CliRunner

from zegment import load
from zegment.checkpoint import load_trained
from zegment.checkpoint_files import FILES, checkpoint_folder, missing_files
from zegment.commands import push as cli_hub
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError, OutputError
from zegment.hub.card import model_card
from zegment.hub.download import hub_model
from zegment.hub.upload import push_to_hub, upload_files

IMAGE = np.random.default_rng(0).integers(0, 255, (72, 88, 3), np.uint8)
PACKAGED = ["shapes-zegclip", "shapes-one-stage", "shapes-clip-zss"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of the Hub, without network, and an empty working directory."""
    place = tmp_path / "cache"
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    stub = Stub()
    go_online(monkeypatch, stub.url)
    yield stub
    forget_connections()
    stub.close()


@pytest.fixture
def go_offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        forget_connections()

    return switch


@pytest.mark.parametrize("name", PACKAGED)
def test_a_pushed_model_comes_back_with_the_same_labels(hub: Stub, name: str) -> None:
    assert push_to_hub(name, "me/mine", licence="mit") == f"{hub.url}/me/mine"
    ours, theirs = load(name)(IMAGE), load("me/mine")(IMAGE)
    assert np.array_equal(ours.labels, theirs.labels)
    assert np.array_equal(ours.confidence, theirs.confidence)
    assert ours.class_names == theirs.class_names
    assert hub.repositories["me/mine"].private


def test_a_push_is_one_commit_of_the_checkpoint_and_its_card(hub: Stub, tmp_path: Path) -> None:
    folder = shutil.copytree(packaged("shapes-zegclip"), tmp_path / "run" / "last")
    (folder / "notes.txt").write_text("private")
    push_to_hub(folder.parent, "me/mine", private=False)
    repository = hub.repositories["me/mine"]
    assert len(repository.commits) == 2  # the first is the empty repository
    sent = {*content_of("shapes-zegclip"), "README.md", ".gitattributes"}
    assert repository.files.keys() == sent
    assert not repository.private


def test_the_second_load_fetches_no_file_and_the_third_needs_no_network(
    hub: Stub, go_offline: Callable[[], None]
) -> None:
    hub.add("me/mine", content_of("shapes-zegclip"))
    first = load("me/mine")(IMAGE).labels
    assert len(hub.fetched()) == 5
    hub.requests.clear()
    assert np.array_equal(load("me/mine")(IMAGE).labels, first)
    assert hub.fetched() == []
    assert all("/revision/" in path for _, path in hub.requests)  # is there a newer commit?
    go_offline()
    hub.requests.clear()
    assert np.array_equal(load("me/mine")(IMAGE).labels, first)
    assert hub.requests == []


def test_a_hub_that_is_down_is_replaced_by_the_cache(
    hub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/mine", content_of("shapes-zegclip"))
    load_trained("me/mine")
    go_online(monkeypatch, "http://127.0.0.1:9")  # nobody listens
    load_trained("me/mine")
    with pytest.raises(ModelNotFoundError, match="no network"):
        load_trained("me/other")


def test_a_revision_is_loaded_and_an_unknown_one_is_named(hub: Stub) -> None:
    repository = hub.add("me/mine", content_of("shapes-one-stage"))
    old = repository.refs["v1"] = repository.refs["main"]
    repository.commit(content_of("shapes-zegclip"))
    assert load_trained("me/mine").config.model.kind == "zegclip"
    assert load_trained("me/mine@v1").config.model.kind == "one_stage"
    assert load_trained(f"me/mine@{old}").config.model.kind == "one_stage"
    with pytest.raises(ModelNotFoundError, match=r"no revision 'v2'.*branches"):
        load_trained("me/mine@v2")


def test_an_update_of_a_model_leaves_no_file_of_the_one_before(hub: Stub) -> None:
    """Embeddings of the student would make another model of what follows it."""
    push_to_hub("shapes-clip-zss", "me/mine")
    push_to_hub("shapes-zegclip", "me/mine")
    assert "text.safetensors" not in hub.repositories["me/mine"].files
    assert load_trained("me/mine").config.model.kind == "zegclip"


def test_a_model_is_found_under_the_name_of_a_clip_too(hub: Stub) -> None:
    hub.add("me/mine", content_of("shapes-zegclip"))
    assert load_trained("hf-hub:me/mine").config.model.kind == "zegclip"


def test_a_clip_of_the_hub_is_still_a_clip(cache: Path, tiny_clip_folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_clip_folder.iterdir()}
    fabricate(cache, "me/clip", {**files, "config.json": b'{"model_type": "clip"}'})
    assert load_trained("hf-hub:me/clip").config.model.kind == "dense_clip"
    with pytest.raises(ModelNotFoundError, match=r"no Zegment checkpoint.*hf-hub:me/clip"):
        load_trained("me/clip")


def test_a_missing_repository_tells_all_that_the_name_could_have_meant(hub: Stub) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        load_trained("runs/shpaes")
    message = str(error.value)
    assert "no folder here" in message
    assert "Hub has no repository 'runs/shpaes'" in message
    assert "hf auth login" in message
    assert "\n" not in message


def test_a_mistyped_path_never_reaches_the_hub_and_is_told_in_one_line(hub: Stub) -> None:
    Path("runs/shapes").mkdir(parents=True)
    hub.add("runs/shpaes", content_of("shapes-zegclip"))  # a stranger's
    with pytest.raises(ModelNotFoundError) as error:
        load_trained("runs/shpaes")
    message = str(error.value)
    assert "did you mean runs/shapes?" in message
    assert "call it hf-hub:runs/shpaes" in message
    assert "\n" not in message
    assert hub.requests == []
    load_trained("hf-hub:runs/shpaes")


def test_without_network_the_cache_is_named(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no folder here has that name.*HF_HOME"):
        load_trained("runs/shpaes")


def test_a_gated_repository_names_the_login(hub: Stub) -> None:
    hub.add("me/mine", {}, gated=True)
    with pytest.raises(ModelNotFoundError, match=r"gated.*hf auth login"):
        load_trained("me/mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-16/opena1", "no weights 'opena1' for ViT-B-16.*openai"),
        ("no-such-model", "no model is called 'no-such-model'"),
        ("a/b/c", "no model is called 'a/b/c'"),
        ("../mine", "no model is called"),
        ("me/mine@../../x", "no model is called"),
    ],
)
def test_names_that_cannot_be_repositories_never_reach_the_hub(
    hub: Stub, name: str, message: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        load_trained(name)
    assert hub.requests == []


def test_a_mistyped_clip_is_suggested(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"did you mean.*ViT-B-16/openai"):
        load_trained("ViT-B16/openai")


def test_what_exists_here_is_no_repository(cache: Path) -> None:
    assert hub_model("runs/file").repo_id == "runs/file"
    Path("runs").mkdir()
    Path("runs/file").write_text("")
    assert hub_model("runs/file") is None


@pytest.mark.parametrize(
    "header", [b'{"model_type": "vit"}', b"not json", b"[1]", b'{"format": 1, "config": "x"}', None]
)
def test_another_program_s_repository_is_told_before_its_weights_are_fetched(
    hub: Stub, header: bytes | None
) -> None:
    files = {
        "model.safetensors": b"0" * 1000,
        **({} if header is None else {"config.json": header}),
    }
    hub.add("them/vit", files)
    with pytest.raises(ModelNotFoundError, match="'them/vit' on the Hub is no Zegment checkpoint"):
        load_trained("them/vit")
    assert not [path for path in hub.fetched() if path.endswith("safetensors")]


def test_nothing_but_the_files_of_a_checkpoint_is_fetched(hub: Stub, tmp_path: Path) -> None:
    bad = {
        "model.pkl": b"!", "pytorch_model.bin": b"!", "setup.py": b"!", "sub/config.json": b"!",
        "../../evil.json": b"!", "../config.json": b"!", "/config.json": b"!",
    }  # fmt: skip
    hub.add("me/mine", {**bad, **content_of("shapes-zegclip")})
    load_trained("me/mine")
    assert {path.rpartition("/")[2] for path in hub.fetched()} <= set(FILES)
    assert len(hub.fetched()) == 5
    assert not list(tmp_path.rglob("evil.json"))


def test_an_incomplete_repository_is_told(hub: Stub) -> None:
    files = content_of("shapes-zegclip")
    del files["model.safetensors"], files["vocabulary.json"]
    hub.add("me/mine", files)
    message = "has no vocabulary.json, model.safetensors on the Hub"
    with pytest.raises(ModelNotFoundError, match=message):
        load_trained("me/mine")


def test_a_copied_cache_is_loaded_without_network(cache: Path) -> None:
    fabricate(cache, "me/mine", content_of("shapes-zegclip"))
    assert np.array_equal(load("me/mine")(IMAGE).labels, load("shapes-zegclip")(IMAGE).labels)
    load_trained(f"me/mine@{'a' * 40}")
    with pytest.raises(ModelNotFoundError, match="no whole copy"):
        load_trained("me/mine@v1")


def test_half_a_copied_cache_is_told_and_not_taken_for_damage(cache: Path) -> None:
    files = content_of("shapes-clip-zss")
    del files["text.safetensors"]
    fabricate(cache, "me/mine", files)
    with pytest.raises(ModelNotFoundError, match=r"text\.safetensors.*only a part of it"):
        load_trained("me/mine")


def test_a_half_finished_download_is_told_offline_and_finished_online(
    hub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch, go_offline: Callable[[], None]
) -> None:
    hub.add("me/mine", content_of("shapes-zegclip"))
    load_trained("me/mine")
    (weights,) = cache.rglob("snapshots/*/model.safetensors")
    weights.resolve().unlink()
    weights.unlink()
    go_offline()
    with pytest.raises(ModelNotFoundError, match=r"no whole copy|only a part of it"):
        load_trained("me/mine")
    go_online(monkeypatch, hub.url)
    load_trained("me/mine")


@pytest.mark.parametrize("files", [{"model.pt": b"1"}, {"config.json": b"{}"}, {"README.md": b"x"}])
def test_a_repository_of_something_else_is_not_overwritten_unasked(
    hub: Stub, files: dict[str, bytes]
) -> None:
    repository = hub.add("me/mine", files, private=True)
    with pytest.raises(OutputError, match=r"no Zegment checkpoint.*--overwrite"):
        push_to_hub("shapes-zegclip", "me/mine")
    assert repository.files == files
    push_to_hub("shapes-zegclip", "me/mine", overwrite=True)
    assert repository.files.keys() >= {*files, "model.safetensors"}


def test_a_card_that_was_edited_is_not_replaced_unasked(hub: Stub) -> None:
    push_to_hub("shapes-zegclip", "me/mine")
    repository = hub.repositories["me/mine"]
    mine = repository.files["README.md"].replace(b"# me/mine", b"# My own words")
    repository.commit({**repository.files, "README.md": mine})
    with pytest.raises(OutputError, match=r"README\.md.*edited by hand"):
        push_to_hub("shapes-zegclip", "me/mine")
    assert repository.files["README.md"] == mine
    push_to_hub("shapes-zegclip", "me/mine", overwrite=True)
    assert repository.files["README.md"] != mine


def test_a_private_upload_never_lands_in_a_public_repository(hub: Stub) -> None:
    repository = hub.add("me/mine", {})
    with pytest.raises(OutputError, match=r"is public.*--public"):
        push_to_hub("shapes-zegclip", "me/mine")
    assert repository.files == {}
    push_to_hub("shapes-zegclip", "me/mine", private=False)
    assert "model.safetensors" in repository.files


def test_pushing_the_same_twice_changes_nothing(hub: Stub) -> None:
    push_to_hub("shapes-zegclip", "me/mine")
    before = hub.repositories["me/mine"].files
    push_to_hub("shapes-zegclip", "me/mine")
    assert hub.repositories["me/mine"].files == before


def test_a_refused_upload_names_the_login(hub: Stub) -> None:
    hub.refuse_writing = True
    with pytest.raises(OutputError, match=r"403.*hf auth login"):
        push_to_hub("shapes-zegclip", "me/mine")


def test_pushing_without_network_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, go_offline: Callable[[], None]
) -> None:
    with pytest.raises(OutputError, match="no network"):
        push_to_hub("shapes-zegclip", "me/mine")
    go_online(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(OutputError, match="no network"):
        push_to_hub("shapes-zegclip", "me/mine")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "vocabulary.json"])
def test_an_incomplete_checkpoint_is_not_pushed(hub: Stub, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(packaged("shapes-zegclip"), tmp_path / "run")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"has no {file}"):
        push_to_hub(folder, "me/mine")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("source", "repo_id", "error", "message"),
    [
        ("shapes-clip", "me/mine", ModelNotFoundError, "no checkpoint at 'shapes-clip'"),
        ("runs/none", "me/mine", ModelNotFoundError, "zegment train"),
        ("shapes-zegclip", "mine", ConfigError, "USER/NAME"),
        ("shapes-zegclip", "me/../x", ConfigError, "USER/NAME"),
        ("shapes-zegclip", "ViT-B-16/mine", ConfigError, "taken for a CLIP"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_anything_is_sent(
    hub: Stub, source: str, repo_id: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        push_to_hub(source, repo_id)
    assert hub.requests == []


def test_the_program_on_the_card_runs(hub: Stub) -> None:
    push_to_hub("shapes-zegclip", "me/mine")
    card = hub.repositories["me/mine"].files["README.md"].decode()
    (program,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    Image.fromarray(IMAGE).save("photo.jpg")
    exec(compile(program, "card", "exec"), {})  # noqa: S102 - it is our own card
    assert Path("overlay.png").is_file()


def push_app() -> typer.Typer:
    """Return a command line of this one command."""
    app = typer.Typer()
    app.command()(cli_hub.push)
    return app


def test_a_dry_run_shows_card_and_files_and_asks_nobody(hub: Stub) -> None:
    arguments = ["shapes-zegclip", "me/mine", "--licence", "mit", "--dry-run"]
    result = CliRunner().invoke(push_app(), arguments)
    assert result.exit_code == 0, result.output
    card = model_card(packaged("shapes-zegclip"), repo_id="me/mine", licence="mit")
    assert card in result.output
    assert "would upload model.safetensors" in result.output
    assert hub.requests == []


def test_the_command_uploads_and_says_where(hub: Stub) -> None:
    result = CliRunner().invoke(push_app(), ["shapes-zegclip", "me/mine", "--public"])
    assert result.exit_code == 0, result.output
    assert f"uploaded 6 files to {hub.url}/me/mine" in result.output.replace("\n", "")
    assert "--licence" in result.output
    assert not hub.repositories["me/mine"].private


def test_the_environment_says_where_the_hub_and_the_cache_are(hub: Stub, tmp_path: Path) -> None:
    hub.add("me/mine", content_of("shapes-zegclip"))
    home = tmp_path / "home"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
    }
    environment.pop("HF_HUB_CACHE", None)
    program = "import zegment; print(zegment.load('me/mine').vocabulary.class_names[0])"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "heart\n", result.stderr
    assert list(home.glob("hub/models--me--mine/snapshots/*/model.safetensors"))


def test_an_exported_file_is_found_by_its_folder_or_its_own_name(tmp_path: Path) -> None:
    folder = shutil.copytree(packaged("shapes-clip-zss"), tmp_path / "exported")
    (folder / "model.safetensors").rename(folder / "model.onnx")
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | {"graph": "its digest"}))
    assert checkpoint_folder(str(folder)) == folder
    assert checkpoint_folder(str(folder / "model.onnx")) == folder
    assert missing_files(folder) == []
    files = upload_files(folder, "me/mine")
    assert "model.onnx" in files
    assert b"zegment[onnx]" in files["README.md"]
    (folder / "text.safetensors").unlink()
    assert missing_files(folder) == ["text.safetensors"]
    (folder / "model.onnx").unlink()
    assert missing_files(folder) == ["model.onnx", "text.safetensors"]


def test_a_lone_onnx_file_names_the_folder_that_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="zegment export"):
        checkpoint_folder(str(tmp_path / "other.onnx"))


def test_an_exported_model_of_the_hub_goes_to_its_own_reader(
    hub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zegment.models import exported

    files = content_of("shapes-clip-zss")
    files["model.onnx"] = files.pop("model.safetensors")
    header = json.loads(files["config.json"]) | {"graph": "its digest"}
    files["config.json"] = json.dumps(header).encode()
    hub.add("me/onnx", files)
    monkeypatch.setattr(exported, "load_exported", lambda folder, device: (folder, device.type))
    folder, device = load_trained("me/onnx", device="cpu")
    assert device == "cpu"
    assert {path.name for path in folder.iterdir()} == files.keys()
