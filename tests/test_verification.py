"""Weights that were changed on their way are refused, and nothing of them stays in the cache."""

import hashlib
import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from hub_stub import Repository, Stub, content_of, forget_connections, go_online
from huggingface_hub import constants
from safetensors.torch import save

from zegment.checkpoint import load_trained
from zegment.clip_loading import load_clip
from zegment.errors import CheckpointError
from zegment.hub.verification import arrivals_verified
from zegment.models import segnext_import
from zegment.models.closed_set import ClosedSetNetwork
from zegment.models.segnext import VARIANTS, SegNeXt
from zegment.models.segnext_import import load_segnext_weights
from zegment.text_loading import load_text_tower

LARGE = (".safetensors", ".bin", ".onnx")


def changed(content: bytes, seed: int) -> bytes:
    """Return the content with one bit of it flipped, beyond the header of a weight file."""
    generator = torch.Generator().manual_seed(seed)
    place = int(torch.randint(len(content) // 2, len(content), (1,), generator=generator))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


class LargeFileStub(Stub):
    """A Hub that names large files by their SHA-256, and may be told to change them on the way."""

    change: int | None = None

    def _read(
        self, repository: Repository, repo_id: str, oid: str, verb: str | None, file: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        status, headers, content = super()._read(repository, repo_id, oid, verb, file)
        if verb == "resolve" and status == 200 and (file or "").endswith(LARGE):
            headers = {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            content = content if self.change is None else changed(content, self.change)
        return status, headers, content


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LargeFileStub]:
    stub = LargeFileStub()
    go_online(monkeypatch, stub.url)
    yield stub
    forget_connections()
    stub.close()


def large_in(cache: Path) -> list[Path]:
    """Return what a loader could find: large files, and links to them."""
    blobs = [path for path in cache.glob("models--*/blobs/*") if len(path.name) == 64]
    return blobs + [p for p in cache.glob("models--*/snapshots/*/*") if p.name.endswith(LARGE)]


def weights_of(model: torch.nn.Module) -> bytes:
    return save({key: value.contiguous() for key, value in model.state_dict().items()})


def trained(hub: Stub, _: Path) -> object:
    hub.add("me/mine", content_of("shapes-zegclip"))
    return lambda: load_trained("me/mine")


def trained_under_the_name_of_a_clip(hub: Stub, _: Path) -> object:
    hub.add("me/mine", content_of("shapes-clip-zss"))
    return lambda: load_trained("hf-hub:me/mine")


def clip(hub: Stub, folder: Path) -> object:
    hub.add("me/clip", {path.name: path.read_bytes() for path in folder.iterdir()})
    return lambda: load_clip("hf-hub:me/clip")


def text_side(hub: Stub, folder: Path) -> object:
    hub.add("me/clip", {path.name: path.read_bytes() for path in folder.iterdir()})
    return lambda: load_text_tower("hf-hub:me/clip")


def encoder_of_timm(hub: Stub, _: Path) -> object:
    files = {"model.safetensors": weights_of(timm.create_model("test_resnet"))}
    hub.add("timm/test_resnet.r160_in1k", files)
    return lambda: ClosedSetNetwork("unet", "tu-test_resnet", weights="imagenet", embed_dim=8)


def encoder_of_the_library(hub: Stub, _: Path) -> object:
    name = "mobilenet_v2"
    settings = smp.encoders.encoders[name]["pretrained_settings"]["imagenet"]
    files = {
        "model.safetensors": weights_of(smp.encoders.get_encoder(name)),
        "config.json": b"{}",
    }
    repository = hub.add(settings["repo_id"], files)
    repository.refs[settings["revision"]] = repository.refs["main"]
    return lambda: ClosedSetNetwork("fpn", name, weights="imagenet", embed_dim=8)


SOURCES = [
    trained,
    trained_under_the_name_of_a_clip,
    clip,
    text_side,
    encoder_of_timm,
    encoder_of_the_library,
]


@pytest.mark.parametrize("source", SOURCES)
def test_changed_weights_are_refused_and_removed_and_whole_ones_loaded(
    hub: LargeFileStub, cache: Path, tiny_clip_folder: Path, source
) -> None:
    load = source(hub, tiny_clip_folder)
    hub.change = 0
    with pytest.raises(CheckpointError, match=r"arrived with the SHA-256 .*nothing of it was kept"):
        load()
    assert large_in(cache) == []
    hub.change = None
    load()
    assert large_in(cache)


@pytest.mark.parametrize("seed", range(1, 6))
def test_any_bit_is_noticed(hub: LargeFileStub, cache: Path, seed: int) -> None:
    load = trained(hub, cache)
    hub.change = seed
    with pytest.raises(CheckpointError, match=r"model\.safetensors of 'me/mine'"):
        load()
    assert large_in(cache) == []


def test_weights_that_their_reader_refuses_are_removed_too(
    hub: LargeFileStub, cache: Path, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader fails before anything is compared; the copy must not stay for the next time."""
    load = clip(hub, tiny_clip_folder)
    hub.change = 0
    monkeypatch.setattr("test_verification.changed", lambda content, _: b"\xff" * len(content))
    with pytest.raises(CheckpointError, match="arrived with the SHA-256"):
        load()
    assert large_in(cache) == []


def test_what_lies_in_the_cache_is_not_read_again(
    hub: LargeFileStub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = trained(hub, cache)
    load()

    def never(_: Path) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr("zegment.hub.verification.sha256_of", never)
    load()


@pytest.mark.parametrize(("name", "kept"), [("{}", True), ("00000000", False), ("8x", True)])
def test_what_pytorch_keeps_is_compared_with_the_digits_that_end_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    place = tmp_path / "hub" / "checkpoints" / f"gcvit_tiny-{name.format(digest)}.pth"
    place.parent.mkdir(parents=True)
    refused = pytest.raises(CheckpointError, match=r"gcvit_tiny-00000000")
    with nullcontext() if kept else refused, arrivals_verified():
        place.write_bytes(b"weights")
    assert place.exists() == kept


class Publisher:
    """A web server with one file."""

    def __init__(self, content: bytes) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that publishes weights of SegNeXt, whole or changed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    servers = []

    def publish(*, change: int | None) -> tuple[SegNeXt, Path]:
        torch.manual_seed(0)
        stream = io.BytesIO()
        encoder = SegNeXt(VARIANTS["t"], embed_dim=8).backbone
        torch.save({"state_dict": encoder.state_dict()}, stream)
        content = stream.getvalue()
        digest = hashlib.sha256(content).hexdigest()[:8]
        server = Publisher(content if change is None else changed(content, change))
        servers.append(server.server)
        url = server.url + "/mscan_{}_20230227-{}.pth"
        monkeypatch.setattr(segnext_import, "IMAGENET_URL", url)
        variant = replace(VARIANTS["t"], imagenet=("t", digest))
        place = tmp_path / "hub" / "checkpoints" / f"mscan_t_20230227-{digest}.pth"
        return SegNeXt(variant, embed_dim=8), place

    yield publish
    for server in servers:
        server.shutdown()
        server.server_close()


def test_changed_weights_of_segnext_are_refused_and_removed(published) -> None:
    model, place = published(change=0)
    with pytest.raises(CheckpointError, match="invalid hash value"):
        load_segnext_weights(model, "imagenet")
    assert list(place.parent.iterdir()) == []
    model, place = published(change=None)
    load_segnext_weights(model, "imagenet")
    assert place.is_file()


def test_a_copy_of_segnext_that_is_another_file_is_refused_and_left_to_its_owner(published) -> None:
    model, place = published(change=None)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"not what OpenMMLab published.*remove it"):
        load_segnext_weights(model, "imagenet")
    assert place.read_bytes() == b"something else"
