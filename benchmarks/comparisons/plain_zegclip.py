"""A training step of ZegCLIP as its released code takes it: the oracle and the opponent of ours.

The prompts are full tokens of every layer, and what becomes of them is thrown away; the decoder
forms every head's map and computes all of its last layer; the losses are those of full-size logits,
differentiated by autograd. The weights are those of a model of ours.

Letters: B images, K classes, D embedding, N patches, P prompts, C tower width, A attention heads,
H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from comparisons.plain_loss import plain_mask_losses
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.clip import Block
from zegment.data import IGNORE_INDEX
from zegment.models.zegclip import DecoderLayer, ZegCLIP


def plain_logits(model: ZegCLIP, image: Tensor, text_embeddings: Tensor) -> Tensor:
    """Return mask logits on the patch grid, (B, K, h, w), of images (B, 3, H, W)."""
    tokens = model.prompt_norm(plain_tokens(model, image))
    tokens = model.tower.ln_post(tokens) @ model.tower.proj
    class_token = F.normalize(tokens[:, 0], dim=-1)  # B, D
    patch_tokens = F.normalize(tokens[:, 1:], dim=-1)  # B, N, D
    queries = torch.einsum("bd,kd->bkd", class_token, text_embeddings)
    names = text_embeddings.expand(len(image), -1, -1)
    queries = model.descriptor.proj(torch.cat([queries, names], dim=-1))  # B, K, D
    maps = []
    for layer in model.decoder.layers:
        queries, of_layer = plain_decoder_layer(layer, queries, patch_tokens)
        maps.append(of_layer)
    return maps[-1].unflatten(2, model.tower.grid(image))


def plain_tokens(model: ZegCLIP, image: Tensor) -> Tensor:
    """Return the tower's last tokens, (B, 1 + N, C), the prompts' removed."""
    tower, prompts = model.tower, model.prompts
    tokens = tower.embed(image, class_embeddings=model.class_embeddings)
    for block, own in zip(tower.transformer.resblocks, prompts.embeddings, strict=True):
        inserted = prompts.dropout(prompts.proj(own).expand(len(image), -1, -1))  # B, P, C
        tokens = torch.cat([tokens[:, :1], inserted, tokens[:, 1:]], dim=1)  # B, 1 + P + N, C
        tokens = plain_block(block, tokens)
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 + len(own) :]], dim=1)
    return tokens


def plain_block(block: Block, tokens: Tensor) -> Tensor:
    """Return the tokens (B, 1 + P + N, C) after a layer, with torch's own attention module."""
    attn, x = block.attn, block.ln_1(tokens).transpose(0, 1)
    read, _ = F.multi_head_attention_forward(
        *(x, x, x),
        embed_dim_to_check=x.shape[-1],
        num_heads=attn.heads,
        in_proj_weight=attn.in_proj_weight,
        in_proj_bias=attn.in_proj_bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attn.out_proj.weight,
        out_proj_bias=attn.out_proj.bias,
        need_weights=False,
    )
    tokens = tokens + read.transpose(0, 1)
    hidden = block.mlp.c_fc(block.ln_2(tokens))
    return tokens + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


def plain_decoder_layer(
    layer: DecoderLayer, queries: Tensor, patch_tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Return updated queries, (B, K, D), and the mean of the heads' logits, (B, K, N)."""
    q, k, v = (
        x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for x in (layer.q(queries), layer.k(patch_tokens), layer.v(patch_tokens))
    )
    logits = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5  # B, A, K, N
    kept = logits.clone()
    weights = layer.dropout(logits.softmax(dim=-1))
    read = layer.proj((weights @ v).transpose(1, 2).flatten(2))
    queries = layer.attention_norm(queries + layer.dropout(read))
    hidden = layer.linear2(layer.dropout(F.relu(layer.linear1(queries))))
    queries = layer.feed_forward_norm(queries + layer.dropout(hidden))
    return queries, kept.sum(dim=1) / layer.heads


def plain_step(
    model: ZegCLIP, text_embeddings: Tensor, *, seen: int, lr: float = 2e-4, mixed: bool = False
) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
    """Return an optimizer step on images (B, 3, H, W) and their labels (B, H, W).

    Args:
        model: It is trained, in place.
        text_embeddings: Unit rows of the seen classes, float (K, D).
        seen: K; the first classes of the labels are seen.
        lr: Of AdamW, over all that the released code trains.
        mixed: Whether the model computes in bfloat16 where that is safe.
    """
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.01
    )

    def step(image: Tensor, label: Tensor) -> Mapping[str, Tensor]:
        target = torch.where(label < seen, label, IGNORE_INDEX)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=mixed):
            logits = plain_logits(model, image, text_embeddings)
        losses = plain_mask_losses(logits.float(), target)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    return step


def without_dropout(model: nn.Module) -> nn.Module:
    """Return the model itself, none of whose elements are dropped any more, in training mode."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()
