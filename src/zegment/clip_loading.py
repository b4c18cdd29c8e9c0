"""Finds a CLIP by name, through open_clip's public calls, and checks that our tower equals it."""

from __future__ import annotations

import difflib
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.clip import Clip, ImageTower, fingerprint, tower_from_state
from zegment.clip_weights import check_described
from zegment.errors import ModelNotFoundError, UnsupportedModelError, ZegmentError
from zegment.hub.connection import cache_if_unreachable
from zegment.hub.verification import arrivals_verified
from zegment.normalization import channels, deviations
from zegment.text_cache import TextCache, cache_folder, tower_identity
from zegment.text_files import parse_json, read_text
from zegment.text_tower import TextTower
from zegment.wording import first_line

PACKAGED = "shapes-clip"

CONFIG = "open_clip_config.json"

LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,  # a configuration without a tower, weights without a tensor
    ArithmeticError,  # a head or patch without width
    StopIteration,  # weights in an empty file
    TypeError,  # a configuration with an unknown key
    AttributeError,  # a file that holds no table
    AssertionError,  # open_clip's way to refuse a width or a way of pooling
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""What open_clip and the readers of weight files raise for a damaged or missing CLIP."""


def asset(name: str) -> Path | None:
    """Return the folder of a packaged model, or None if no such asset ships with Zegment."""
    folder = Path(str(resources.files("zegment"))) / "assets" / name
    return folder if Path(name).name == name and folder.is_dir() else None


def load_clip(name: str, *, device: torch.device | str = "cpu") -> Clip:
    """Return a CLIP with frozen weights, in evaluation mode.

    Args:
        name: ``"shapes-clip"`` (packaged), ``"ViT-B-16/openai"`` (open_clip model and weights),
            ``"hf-hub:org/repo"``, or a folder with ``open_clip_config.json`` and weights.
        device: Where both towers live.

    Raises:
        ModelNotFoundError: If nothing answers to the name, or it needs a download and there is
            no network.
        CheckpointError: If what arrived is not what its source says it is.
        UnsupportedModelError: If its image tower is not a vision transformer that can be
            prompted.
    """
    source = find_clip(name)
    with source.loading():
        config = source.config()
        _check_is_vit(name, config)  # before open_clip asks a hub for another tower
        if source.tag is None:
            check_described(source, config)
        model = open_clip.create_model(
            source.model_name,
            pretrained=source.tag,
            force_quick_gelu=config["quick_gelu"],
            require_pretrained=True,
        )
        preprocess = open_clip.get_model_preprocess_cfg(model)
        mean, std = channels(preprocess.get("mean")), deviations(preprocess.get("std"))
        if preprocess.get("interpolation") is None or mean is None or std is None:
            raise UnsupportedModelError(f"CLIP '{name}' does not say how its images are normalised")
        tower = _image_tower(name, model, config)
    del model.visual  # its weights now live in our tower
    model.eval().requires_grad_(False).to(device)
    return Clip(
        name=name,
        image_tower=tower.eval().requires_grad_(False).to(device),
        text_tower=source.text_tower(model, model.encode_text, device=device),
        mean=mean,
        std=std,
        fingerprint=fingerprint(tower),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSource:
    """Where open_clip finds a CLIP, and how failing to load it is told.

    Attributes:
        name: As it was given, for messages.
        model_name: open_clip's name, with its schema (``local-dir:``, ``hf-hub:``) if any.
        tag: The weights among those of a built-in model; None with a schema.
    """

    name: str
    model_name: str
    tag: str | None

    @property
    def is_here(self) -> bool:
        """Return whether it lies in a folder, so that nothing need be downloaded."""
        return self.model_name.startswith("local-dir:")

    def config(self) -> dict[str, Any]:
        """Return open_clip's configuration; its ``quick_gelu`` is what the weights want."""
        if self.is_here:
            path = Path(self.model_name.removeprefix("local-dir:")) / CONFIG
            content = parse_json(read_text(path))
            config = content.get("model_cfg", content)
        else:
            config = open_clip.get_model_config(self.model_name)
        wanted = self.tag and open_clip.get_pretrained_cfg(self.model_name, self.tag)
        quick_gelu = bool(wanted and wanted.get("quick_gelu")) or config.get("quick_gelu", False)
        return {**config, "quick_gelu": quick_gelu}

    def text_tower(
        self,
        transformer: nn.Module,
        encode: Callable[[Tensor], Tensor],
        *,
        device: torch.device | str,
    ) -> TextTower:
        """Return a tower from this CLIP's tokenizer and text transformer.

        Args:
            transformer: Holds the weights.
            encode: What it does: ids (n, T) to (n, D).
            device: Where it computes.

        Raises:
            ModelNotFoundError: If the tokenizer cannot be loaded.
            UnsupportedModelError: If the tokenizer comes from a package that is not installed.
        """
        with self.loading():
            text_config = self.config()["text_cfg"]
            try:
                # Whoever wrote the configuration must not choose to run code.
                safe = {"trust_remote_code": False} if text_config.get("hf_tokenizer_name") else {}
                tokenizer = open_clip.get_tokenizer(self.model_name, **safe)
            except ImportError as error:
                raise UnsupportedModelError(
                    f"the tokenizer of CLIP '{self.name}' needs a package that is not installed "
                    f"({error}): pip install transformers"
                ) from error
        length = int(text_config.get("context_length", 77))
        # What decides an embedding beside the weights; devices round differently.
        details = (type(tokenizer).__name__, length, self.config()["quick_gelu"])
        kind = torch.device(device).type
        return TextTower(
            encode=encode,
            tokenize=lambda sentences, length: tokenizer(sentences, context_length=length),
            context_length=length,
            device=device,
            cache=TextCache(lambda: tower_identity(transformer, *details, kind), cache_folder()),
        )

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Keep libraries quiet, and tell their errors in our words.

        Raises:
            ModelNotFoundError: If a download finds no network, or anything is damaged.
            CheckpointError: If what arrived is not what its source says it is.
        """
        try:
            with quiet():
                if self.is_here:
                    yield
                else:
                    with cache_if_unreachable(), arrivals_verified():
                        yield
        except ZegmentError:  # already in our words, and built-in errors too
            raise
        except LOADING_ERRORS as error:
            if is_offline(error):
                raise ModelNotFoundError(
                    f"cannot download CLIP '{self.name}': no network, and no copy in the Hugging "
                    "Face cache; load it once where there is a network and copy the cache "
                    "(HF_HOME), give a local folder in open_clip's format, or use "
                    f"{PACKAGED}, which always works"
                ) from error
            reason = first_line(error)
            if isinstance(error, KeyError):
                reason = f"its configuration has no {reason}"
            raise ModelNotFoundError(
                f"cannot load CLIP '{self.name}': {reason}; check the name or folder, or use "
                f"{PACKAGED}"
            ) from error


def find_clip(name: str) -> ClipSource:
    """Return where open_clip finds one of the names that `load_clip` knows; loads nothing.

    Raises:
        ModelNotFoundError: If nothing answers to the name.
    """
    model_name, tag = _resolve(name)
    return ClipSource(name=name, model_name=model_name, tag=tag)


def _resolve(name: str) -> tuple[str, str | None]:
    """Return open_clip's model name and weight tag for one of our names."""
    if name.startswith("hf-hub:"):
        return name, None
    packaged = asset(name)
    folder = packaged or Path(name.removeprefix("local-dir:"))
    if (folder / CONFIG).is_file():
        return f"local-dir:{folder}", None
    model_name, _, tag = name.rpartition("/")
    if folder.is_dir() or name.startswith("local-dir:"):
        raise ModelNotFoundError(
            f"no CLIP in folder '{folder}': it has no open_clip_config.json; expected a folder "
            "in open_clip's local format"
        )
    if model_name not in open_clip.list_models():
        known = [f"{m}/{t}" for m, t in open_clip.list_pretrained()]
        near = difflib.get_close_matches(name, [PACKAGED, *known], n=3, cutoff=0.5)
        raise ModelNotFoundError(
            f"no model is called '{name}'"
            + (f" (did you mean {', '.join(near)}?)" if near else "")
            + "; give MODEL/WEIGHTS of open_clip (ViT-B-16/openai), hf-hub:ORG/REPO, the folder of "
            f"a trained model or of a CLIP, or a packaged model such as {PACKAGED}"
        )
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag not in tags:
        raise ModelNotFoundError(
            f"open_clip has no weights '{tag}' for {model_name}; it has {', '.join(tags)}"
        )
    return model_name, tag


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from logging what is said once, in the error, or is provided for.

    open_clip warns that a tag's activation differs from the model's, which is forced to match.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def silent() -> Iterator[None]:
    """Keep libraries from logging and warning of what a caller can do nothing about."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_offline(error: BaseException | None) -> bool:
    """Return whether an error came from a download that found neither network nor cached copy."""
    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | ConnectionError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_is_vit(name: str, config: dict[str, Any]) -> None:
    vision = config["vision_cfg"]
    other = "timm_model_name" in vision or "multimodal_cfg" in config
    if other or not isinstance(vision.get("layers", 12), int):
        raise UnsupportedModelError(
            f"CLIP '{name}' has an image tower that is no plain vision transformer; supported "
            "are open_clip's ViT models with a class token, for example ViT-B-16 and ViT-L-14"
        )


def _image_tower(name: str, model: Any, config: dict[str, Any]) -> ImageTower:  # noqa: ANN401
    """Return our tower with open_clip's weights, after checking that both compute the same."""
    vision = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    patch = vision.patch_size
    height, width = model.visual.image_size
    tower = tower_from_state(
        model.visual.state_dict(),
        heads=vision.width // vision.head_width,
        activation="quick_gelu" if config["quick_gelu"] else "gelu",
        grid=(height // patch, width // patch),
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, height, width, generator=generator)
    with torch.no_grad():
        ours = tower(image)[0]
        theirs = F.normalize(model.encode_image(image), dim=-1)
    if not torch.allclose(ours, theirs, atol=1e-3):
        raise UnsupportedModelError(
            f"the image tower of CLIP '{name}' has parts that Zegment does not know (its "
            "embedding differs from open_clip's); supported are plain ViT models with a class "
            "token, for example ViT-B-16 and ViT-L-14"
        )
    return tower
