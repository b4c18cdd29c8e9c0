"""ZegCLIP: deep prompts in a frozen CLIP, a relationship descriptor, and a mask decoder.

Letters: B images, K classes, D embedding, N patches, P prompts, C tower width, L tower layers,
H W pixels, h w patch grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.clip import ImageTower
from zegment.models.base import SegmentationModel, full_precision, widened
from zegment.models.relations import ProductAndText, Relation


class DeepPrompts(nn.Module):
    """Learnt tokens for the first layers of the image tower, or for all of them.

    Args:
        layers: L, how many layers get prompts of their own.
        tokens: P, prompts per layer.
        width: C of the tower.
        patch_size: Enters the initial range, as in visual prompt tuning.
        dropout: Applied after the projection that all prompts share.

    Source:
        ZegCLIP section 3.3 and released ``VPTCLIPVisionTransformer``.

    Note:
        Prompts for some of the layers stay to the last one, as in visual prompt tuning, see
        `ImageTower.encode`. The released code does that for one layer, and drops them after
        several; its configurations have prompts in all.
        ``test_the_last_prompts_stay_as_tokens_to_the_end`` pins it.
    """

    def __init__(
        self, *, layers: int, tokens: int, width: int, patch_size: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(layers, tokens, width))
        bound = (6 / (3 * patch_size * patch_size + width)) ** 0.5
        nn.init.uniform_(self.embeddings, -bound, bound)
        self.proj = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.proj.weight, a=0, mode="fan_out")
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch_size: int) -> list[Tensor]:
        """Return one tensor of prompts per layer: (B, P, C) in training, else (1, P, C)."""
        prompts = self.proj(self.embeddings)[:, None]  # L, 1, P, C
        if self.training:
            # Every image of the batch drops its own elements.
            prompts = self.dropout(prompts.expand(-1, batch_size, -1, -1))
        return list(prompts)


class NoPrompts(nn.Module):
    """The image tower as it is."""

    def forward(self, batch_size: int) -> list[Tensor]:
        """Return nothing; see `DeepPrompts`."""
        del batch_size
        return []


class RelationshipDescriptor(nn.Module):
    """Queries that describe how each class name relates to this image.

    Args:
        embed_dim: D.
        relation: What they are made of.

    Source:
        ZegCLIP eq. 5: T̂ = φ([T ⊙ g, T]).
    """

    def __init__(self, embed_dim: int, relation: Relation | None = None) -> None:
        super().__init__()
        self.relation = relation or ProductAndText()
        self.proj = self.relation.projection(embed_dim)

    def forward(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return queries, float (B, K, D).

        Args:
            class_token: Unit class embedding g of each image, float (B, D).
            text_embeddings: Unit text embeddings T, float (K, D) or (B, K, D).
        """
        queries: Tensor = self.proj(self.relation(class_token, text_embeddings))
        return queries


class DecoderLayer(nn.Module):
    """Cross-attention from class queries to patch tokens, then a feed-forward network.

    The layer is post-norm and has no self-attention: the released one constructs it and never
    calls it.
    """

    def __init__(self, embed_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(embed_dim, embed_dim)
        self.k = nn.Linear(embed_dim, embed_dim)
        self.v = nn.Linear(embed_dim, embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.linear2 = nn.Linear(4 * embed_dim, embed_dim)
        self.feed_forward_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, patch_tokens: Tensor) -> Tensor:
        """Return updated queries, float (B, K, D).

        Args:
            queries: Class queries, float (B, K, D).
            patch_tokens: Unit patch embeddings, float (B, N, D).
        """
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.q(queries), self.k(patch_tokens), self.v(patch_tokens))
        )
        dropout = self.dropout.p if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        read = self.proj(read.transpose(1, 2).flatten(2))  # B, K, D
        queries = self.attention_norm(queries + self.dropout(read))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(queries))))
        updated: Tensor = self.feed_forward_norm(queries + self.dropout(hidden))
        return updated

    def mask_logits(self, queries: Tensor, patch_tokens: Tensor) -> Tensor:
        """Return attention logits before the softmax, averaged over heads, float (B, K, N).

        The mean of per-head products is the product over all dimensions, divided by the number
        of heads, so no per-head map is formed.
        """
        scale = (queries.shape[-1] / self.heads) ** -0.5 / self.heads
        return torch.einsum("bkd,bnd->bkn", self.q(queries) * scale, self.k(patch_tokens))


class MaskDecoder(nn.Module):
    """Class queries and patch tokens to mask logits.

    The masks are the last layer's attention logits. Its value path and feed-forward network
    therefore receive no gradient; they exist because released checkpoints hold them.

    Args:
        embed_dim: D.
        layers: Decoder layers; as released they start identical.
        heads: Attention heads.
        dropout: On attention, its output, and the feed-forward network.

    Source:
        ZegCLIP section 3.2 and released ``ATMSingleHeadSeg``.
    """

    def __init__(
        self, embed_dim: int, *, layers: int = 3, heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        layer = DecoderLayer(embed_dim, heads, dropout)
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(layers)])

    def forward(self, queries: Tensor, patch_tokens: Tensor) -> Tensor:
        """Return mask logits, float (B, K, N).

        Args:
            queries: Class queries, float (B, K, D).
            patch_tokens: Unit patch embeddings, float (B, N, D).
        """
        *readers, last = self.layers
        for layer in readers:
            queries = layer(queries, patch_tokens)
        logits: Tensor = last.mask_logits(queries, patch_tokens)  # type: ignore[operator]
        return logits

    def every_layer(self, queries: Tensor, patch_tokens: Tensor) -> list[Tensor]:
        """Return the mask logits of each layer, of the first one first, float (B, K, N).

        Args:
            queries: Class queries, float (B, K, D).
            patch_tokens: Unit patch embeddings, float (B, N, D).
        """
        *readers, last = self.layers
        masks: list[Tensor] = []
        for layer in readers:
            masks.append(layer.mask_logits(queries, patch_tokens))  # type: ignore[operator]
            queries = layer(queries, patch_tokens)
        return [*masks, last.mask_logits(queries, patch_tokens)]  # type: ignore[operator]


class ZegCLIP(SegmentationModel):
    """One-stage zero-shot segmentation on a frozen CLIP with deep prompts.

    Args:
        tower: The image tower; it is frozen, see `fine_tune_tower`.
        prompts: Prompts for its layers.
        decoder: Mask decoder over its embedding space.
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        prompt_norm: Trainable LayerNorm before the tower's last one; the released code has it,
            the paper does not mention it.
        double_class_embedding: Add the class embedding twice, as the released code does.
        relation: What queries are made of; None is as released, [T ⊙ g, T].

    Source:
        Zhou et al., ZegCLIP, CVPR 2023, and its released code.
    """

    def __init__(  # noqa: PLR0913 - the parts of the method, and two that the paper leaves out
        self,
        tower: ImageTower,
        prompts: DeepPrompts | NoPrompts,
        decoder: MaskDecoder,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        prompt_norm: bool = True,
        double_class_embedding: bool = True,
        relation: Relation | None = None,
    ) -> None:
        super().__init__(mean=mean, std=std, patch_size=tower.shape.patch_size)
        self.tower = tower.requires_grad_(False)
        self.prompts = prompts
        width = tower.shape.width
        self.prompt_norm = nn.LayerNorm(width, eps=1e-6) if prompt_norm else nn.Identity()
        self.descriptor = RelationshipDescriptor(tower.shape.embed_dim, relation)
        self.decoder = decoder
        self.class_embeddings = 2 if double_class_embedding else 1

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prompted unit class embedding (B, D) and patch embeddings (B, N, D)."""
        tokens = self.tower.encode(
            image, prompts=self.prompts(image.shape[0]), class_embeddings=self.class_embeddings
        )
        tokens = widened(tokens)
        with full_precision(image.device):
            embeddings = self.tower.project(self.prompt_norm(tokens))
        return embeddings[:, 0], embeddings[:, 1:]

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return mask logits on the patch grid, float (B, K, h, w); see the base class."""
        class_token, patch_tokens = self.encode(image)
        with full_precision(image.device):
            queries = self.descriptor(class_token, text_embeddings)
            logits: Tensor = self.decoder(queries, patch_tokens)
        masks: Tensor = logits.unflatten(2, self.tower.grid(image))
        return masks

    def scores(self, logits: Tensor) -> Tensor:
        """Return independent mask probabilities, same shape as ``logits``."""
        return logits.sigmoid()

    @property
    def separate_scores(self) -> bool:
        """Return that each mask is a matter of its own."""
        return True

    def fine_tune_tower(self) -> None:
        """From now on, train CLIP's image tower too.

        Source:
            ZegCLIP section 4, the comparison of prompts with fine-tuning.
        """
        self.tower.requires_grad_(True)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the tower, if they are trained."""
        return (parameter for parameter in self.tower.parameters() if parameter.requires_grad)

    def use_gradient_checkpointing(self) -> None:
        """Keep only what is between the tower's blocks for the backward pass; see the base."""
        self.tower.gradient_checkpointing = True


class DeeplySupervisedZegCLIP(ZegCLIP):
    """ZegCLIP in which the masks of every decoder layer are held against the labels.

    Source:
        SegViT's auxiliary losses, which the criterion of ZegCLIP's released code would compute as
        well (``aux_outputs``); its decoder never gives it the masks.
    """

    def training_logits(self, image: Tensor, text_embeddings: Tensor) -> list[Tensor]:
        """Return the mask logits of the last layer, then of the first, the second, and so on.

        Args:
            image: See `forward`.
            text_embeddings: See `forward`.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``.
        """
        class_token, patch_tokens = self.encode(image)
        with full_precision(image.device):
            queries = self.descriptor(class_token, text_embeddings)
            *earlier, last = self.decoder.every_layer(queries, patch_tokens)
        grid = self.tower.grid(image)
        return [logits.unflatten(2, grid) for logits in (last, *earlier)]
