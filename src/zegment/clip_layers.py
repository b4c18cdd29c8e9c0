"""What a block of CLIP's transformer is made of: attention, and the perceptron behind it.

Letters: B images, N tokens, P tokens of a context, C tower width, A attention heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class QuickGELU(nn.Module):
    """The activation of OpenAI's CLIP, x·σ(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, same shape."""
        if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _DifferentiatedQuickGELU.apply(x)  # type: ignore[no-any-return]
        # silu(y) = y·σ(y) is fused, forward and backward; written out it takes twice the passes.
        return F.silu(1.702 * x).div_(1.702)


class _DifferentiatedQuickGELU(torch.autograd.Function):
    """The same with a backward pass of its own, in which the factor and its inverse cancel out.

    The hidden layers are the largest tensors of a tower, and every pass over them counts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's own
        scaled = 1.702 * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).div_(1.702)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's own
        (scaled,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient, scaled)  # type: ignore[no-any-return]


ACTIVATIONS: Mapping[str, type[nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class Attention(nn.Module):
    """Multi-head attention in OpenAI key layout, fused, with optional read-only context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def split_heads(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, N, C) with its heads apart, (B, A, N, C / A)."""
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads

    def merge_heads(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, A, N, C / A) with its heads joined and projected, (B, N, C)."""
        projected: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))
        return projected

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of ``x`` (B, N, C), each (B, A, N, C / A)."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)

    def query(self, x: Tensor) -> Tensor:
        """Return the query alone of ``x`` (B, N, C), (B, A, N, C / A)."""
        width = x.shape[-1]
        return self.split_heads(F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width]))

    def key_value(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return key and value of ``x`` (B, N, C) and then of ``context`` (B or 1, P, C).

        Each is (B, A, N + P, C / A). ``context`` has no query: its own output nobody reads.
        """
        width = x.shape[-1]
        weight, bias = self.in_proj_weight[width:], self.in_proj_bias[width:]
        # One copy that both share, and the only one that is kept for the backward pass.
        both = torch.cat(
            [
                F.linear(x, weight, bias),
                F.linear(context, weight, bias).expand(x.shape[0], -1, -1),
            ],
            dim=1,
        )
        k, v = both.chunk(2, dim=-1)
        return self.split_heads(k), self.split_heads(v)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return what the tokens ``x`` read from themselves and from ``context``.

        Args:
            x: Normalised tokens, float (B, N, C).
            context: Normalised tokens that are read but not updated, float (B or 1, P, C).

        Returns:
            Attended and projected tokens, float (B, N, C).
        """
        if context is None:
            q, k, v = self.query_key_value(x)
        else:
            q, (k, v) = self.query(x), self.key_value(x, context)
        return self.merge_heads(F.scaled_dot_product_attention(q, k, v))


class MLP(nn.Module):
    """The two-layer perceptron of a block, in OpenAI key layout."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = ACTIVATIONS[activation]()
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens, same shape as ``x`` (B, N, C)."""
        y: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return y
