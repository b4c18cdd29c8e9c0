"""What a class query of ZegCLIP is made of, before it is projected.

Letters: B images, K classes, D embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn


class Relation(ABC):
    """How the text embedding T of a class and the class token g of an image are put together."""

    parts: ClassVar[int]
    """How many times D the result is long."""

    @abstractmethod
    def __call__(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return what queries are projected from, float (B, K, parts · D).

        Args:
            class_token: Unit class embedding g of each image, float (B, D).
            text_embeddings: Unit text embeddings T, float (K, D) or (B, K, D).
        """

    def projection(self, embed_dim: int) -> nn.Module:
        """Return φ, a new layer from parts · D to D."""
        return nn.Linear(self.parts * embed_dim, embed_dim)


class ProductAndText(Relation):
    """[T ⊙ g, T].

    Source:
        ZegCLIP eq. 5, and its released code.
    """

    parts = 2

    def __call__(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return both; see `Relation`."""
        related = class_token[:, None] * text_embeddings
        return torch.cat([related, text_embeddings.expand_as(related)], dim=-1)


class Text(Relation):
    """T alone and as it is: no relationship descriptor.

    Source:
        ZegCLIP without its third design; ``q`` in the released code of TagCLIP.
    """

    parts = 1

    def __call__(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return the text embeddings for every image; see `Relation`."""
        return text_embeddings.expand(class_token.shape[0], -1, -1)

    def projection(self, embed_dim: int) -> nn.Module:
        """Return a layer that changes nothing."""
        del embed_dim
        return nn.Identity()


class ClassAndText(Relation):
    """[g, T].

    Source:
        ``s_q`` in the released code of TagCLIP.
    """

    parts = 2

    def __call__(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return both; see `Relation`."""
        names = text_embeddings.expand(class_token.shape[0], -1, -1)
        return torch.cat([class_token[:, None].expand_as(names), names], dim=-1)


class Product(Relation):
    """T ⊙ g.

    Source:
        ZegCLIP's comparison of formats of text queries; that it is projected is our choice.
    """

    parts = 1

    def __call__(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return it; see `Relation`."""
        return class_token[:, None] * text_embeddings


class DifferenceAndText(Relation):
    """[|T − g|, T].

    Source:
        ZegCLIP's comparison of formats of text queries.
    """

    parts = 2

    def __call__(self, class_token: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return both; see `Relation`."""
        difference = (text_embeddings - class_token[:, None]).abs()
        return torch.cat([difference, text_embeddings.expand_as(difference)], dim=-1)


RELATIONS: Mapping[str, type[Relation]] = {
    "product_text": ProductAndText,
    "text": Text,
    "class_text": ClassAndText,
    "product": Product,
    "difference_text": DifferenceAndText,
}
