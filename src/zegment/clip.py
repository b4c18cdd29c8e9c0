"""CLIP's image tower: images to a class token and dense tokens.

Letters: B images, N patches, P prompts, C tower width, D embedding, H W pixels, h w patch grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zegment.clip_layers import MLP, Attention
from zegment.errors import UnsupportedModelError
from zegment.text_tower import TextTower
from zegment.wording import first_line


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, activation)

    def forward(self, tokens: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Return the tokens (B, N, C) after this layer.

        ``prompts`` (B or 1, P, C) take part as keys and values only. ZegCLIP inserts its prompts
        as full tokens and throws their outputs away after every layer, so this is the same
        function at less cost.
        """
        context = None if prompts is None else self.ln_1(prompts)
        tokens = tokens + self.attn(self.ln_1(tokens), context)
        return tokens + self.mlp(self.ln_2(tokens))  # type: ignore[no-any-return]


class LastLayer(Protocol):
    """Another way to run the tower's last block, for dense use."""

    def __call__(self, block: Block, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the last block's output (B, 1 + N, C) for its input ``tokens``."""


class _Blocks(nn.Module):
    """Gives the layers the name they have in OpenAI's state dicts."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerShape:
    """The numbers of an image tower."""

    width: int
    layers: int
    heads: int
    patch_size: int
    grid: tuple[int, int]
    embed_dim: int
    hidden: int
    activation: str = "quick_gelu"


class ImageTower(nn.Module):
    """CLIP's vision transformer with dense tokens, deep prompts and any patch grid.

    Its parameters carry the names of OpenAI's ``visual`` state dict, so weights load strictly.

    Attributes:
        gradient_checkpointing: Keep only the tokens between the blocks for the backward pass, and
            compute again what is inside them: less memory for about a third more time.
    """

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.gradient_checkpointing = False
        width, scale = shape.width, shape.width**-0.5
        self.conv1 = nn.Conv2d(3, width, shape.patch_size, shape.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        n_positions = shape.grid[0] * shape.grid[1] + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(n_positions, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Blocks(
            [Block(width, shape.heads, shape.hidden, shape.activation) for _ in range(shape.layers)]
        )
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, shape.embed_dim))

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return the patch grid (h, w) of an image batch (B, 3, H, W).

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        height, width = image.shape[-2:]
        patch = self.shape.patch_size
        if height % patch or width % patch:
            raise ValueError(
                f"image of {height}×{width} pixels: both sides must be multiples of the patch "
                f"size {patch}; pad it first"
            )
        return height // patch, width // patch

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return positional embeddings (1 + N, C) for a grid, bilinearly resized if need be.

        Source:
            ZegCLIP released code: bilinear, corners not aligned, class position untouched.

        Note:
            The released code resizes to the grid of 512 pixels first and from there to any other
            grid; one step from the pretrained grid is the same for windows of 512 pixels.
        """
        # A traced graph is for every grid; there, resizing to the same grid changes no value.
        if not torch.compiler.is_compiling() and grid == self.shape.grid:
            return self.positional_embedding
        first, rest = self.positional_embedding[:1], self.positional_embedding[1:]
        plane = rest.T.unflatten(1, self.shape.grid)[None]  # 1, C, h0, w0
        plane = F.interpolate(plane, size=grid, mode="bilinear", align_corners=False)
        return torch.cat([first, plane[0].flatten(1).T])

    def embed(self, image: Tensor, *, class_embeddings: int = 1) -> Tensor:
        """Return the input tokens of the first block, float (B, 1 + N, C).

        Args:
            image: Normalised images, float (B, 3, H, W), sides multiples of the patch size.
            class_embeddings: How often the class embedding is added to the class token; ZegCLIP's
                released code adds it twice.

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        patches = self.conv1(image).flatten(2).transpose(1, 2)  # B, N, C
        positions = self.positions(self.grid(image))
        first = class_embeddings * self.class_embedding + positions[0]
        first = first.to(patches.dtype).expand(image.shape[0], 1, -1)
        tokens: Tensor = self.ln_pre(torch.cat([first, patches + positions[1:]], dim=1))
        return tokens

    def encode(
        self, image: Tensor, *, prompts: Sequence[Tensor] = (), class_embeddings: int = 1
    ) -> Tensor:
        """Return the tokens after the last block, before the last norm and projection.

        Args:
            image: Normalised images, float (B, 3, H, W), sides multiples of the patch size.
            prompts: Further tokens, (B or 1, P, C) for each of the first layers; those of a layer
                replace what the one before made of its own, and the last ones stay to the end.
            class_embeddings: See `embed`.

        Returns:
            Class token first, then patches row by row, float (B, 1 + N, C).

        Raises:
            ValueError: If a side is not a multiple of the patch size, or there are prompts for
                more layers than the tower has.

        Source:
            Jia et al., Visual Prompt Tuning, ECCV 2022, section 3.2 (shallow and deep prompts).
        """
        blocks = self.transformer.resblocks
        if len(prompts) > len(blocks):
            raise ValueError(f"{len(prompts)} layers of prompts for {len(blocks)} layers")
        # What a layer makes of prompts that are replaced or dropped after it, nobody looks at.
        read_only = prompts if len(prompts) == len(blocks) else prompts[:-1]
        tokens = self.embed(image, class_embeddings=class_embeddings)
        for i, block in enumerate(blocks):
            if i == len(read_only) < len(prompts):
                staying = prompts[i].expand(tokens.shape[0], -1, -1)
                tokens = torch.cat([tokens, staying], dim=1)  # B, 1 + N + P, C
            tokens = self._run(block, tokens, read_only[i] if i < len(read_only) else None)
        if len(read_only) < len(prompts):
            tokens = tokens[:, : -prompts[-1].shape[1]]  # B, 1 + N, C
        return tokens

    def _run(self, block: nn.Module, tokens: Tensor, prompts: Tensor | None) -> Tensor:
        """Return what a block makes of the tokens, (B, 1 + N, C)."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, prompts, use_reentrant=False)  # type: ignore[no-any-return]
        return block(tokens, prompts)  # type: ignore[no-any-return]

    def encode_densely(self, image: Tensor, last_layer: LastLayer) -> Tensor:
        """Return what `encode` does where ``last_layer`` runs the last block, (B, 1 + N, C)."""
        last, tokens = self._until_last(image)
        return last_layer(last, tokens, self.grid(image))

    def encode_twice(self, image: Tensor, last_layer: LastLayer) -> tuple[Tensor, Tensor]:
        """Return what `encode` and `encode_densely` do, two (B, 1 + N, C).

        Only the last block runs twice.
        """
        last, tokens = self._until_last(image)
        return last(tokens), last_layer(last, tokens, self.grid(image))

    def _until_last(self, image: Tensor) -> tuple[Block, Tensor]:
        """Return the last block and the tokens that it is given, (B, 1 + N, C)."""
        *blocks, last = self.transformer.resblocks
        tokens = self.embed(image)
        for block in blocks:
            tokens = self._run(block, tokens, None)
        return last, tokens  # type: ignore[return-value]

    def project(self, tokens: Tensor) -> Tensor:
        """Return unit embeddings (B, 1 + N, D) of tokens (B, 1 + N, C)."""
        return F.normalize(self.ln_post(tokens) @ self.proj, dim=-1)

    def forward(
        self, image: Tensor, *, last_layer: LastLayer | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the unit class embedding (B, D) and unit patch embeddings (B, N, D).

        Args:
            image: Normalised images, float (B, 3, H, W), sides multiples of the patch size.
            last_layer: Runs the last block in another way; None runs it as trained.

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        if last_layer is None:
            tokens = self.encode(image)
        else:
            tokens = self.encode_densely(image, last_layer)
        embeddings = self.project(tokens)
        return embeddings[:, 0], embeddings[:, 1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A loaded CLIP: both towers and how its images are normalised.

    Attributes:
        name: What it was loaded as, e.g. ``"ViT-B-16/openai"``.
        image_tower: Ours, in OpenAI key layout.
        text_tower: open_clip's, with its tokenizer.
        mean: Per-channel mean of RGB in [0, 1] that the weights were trained with.
        std: Per-channel standard deviation, likewise.
        fingerprint: First 16 hex digits of a SHA-256 over the image tower's weights.
    """

    name: str
    image_tower: ImageTower
    text_tower: TextTower
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str


def fingerprint(tower: ImageTower) -> str:
    """Return 16 hex digits that change with any weight of the tower."""
    digest = hashlib.sha256()
    for key, value in sorted(tower.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def tower_from_state(
    state: Mapping[str, Tensor], *, heads: int, activation: str, grid: tuple[int, int] | None = None
) -> ImageTower:
    """Return an image tower with the given weights; every size is read off their shapes.

    Args:
        state: OpenAI-layout ``visual`` state dict, loaded strictly.
        heads: Attention heads; the one number that shapes do not tell.
        activation: ``"quick_gelu"`` or ``"gelu"``.
        grid: Patch grid (h, w) of the positional embeddings; None means square.

    Raises:
        UnsupportedModelError: If keys or shapes are not those of a CLIP vision transformer with
            a class token.
    """
    try:
        width, _, patch_size, _ = state["conv1.weight"].shape
        n_positions = state["positional_embedding"].shape[0] - 1
        shape = TowerShape(
            width=width,
            layers=sum(key.endswith(".ln_1.weight") for key in state),
            heads=heads,
            patch_size=patch_size,
            grid=grid or (round(n_positions**0.5), round(n_positions**0.5)),
            embed_dim=state["proj"].shape[1],
            hidden=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            activation=activation,
        )
        tower = ImageTower(shape)
        tower.load_state_dict(dict(state), strict=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            "this image tower is not a CLIP vision transformer in OpenAI key layout "
            f"({first_line(error)}); supported are open_clip's ViT models with a class "
            "token, for example ViT-B-32, ViT-B-16 and ViT-L-14"
        ) from error
    return tower
