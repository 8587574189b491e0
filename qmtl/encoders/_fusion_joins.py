"""Ways to join modalities of which some are missing; the parts of `Fusion`.

Each is a module with ``out_features`` that takes the modalities' columns, (batch, width) each and
zero where missing, and what is present, bool (batch, modalities); it gives (batch, out_features).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["JOINS", "Concatenation", "CrossAttention", "Gates"]


class Concatenation(nn.Module):
    """All columns side by side; a learned vector stands in for those of a missing modality."""

    def __init__(self, widths: Sequence[int], dim: int, n_heads: int) -> None:
        super().__init__()
        self.out_features = sum(widths)
        self.stand_ins = nn.ParameterList([0.1 * torch.randn(width) for width in widths])

    def forward(
        self, columns: Sequence[Tensor], present: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch features"]:
        """The joint representation."""
        parts = [
            torch.where(present[:, i, None], own, stand_in)
            for i, (own, stand_in) in enumerate(zip(columns, self.stand_ins, strict=True))
        ]
        return torch.cat(parts, dim=1)


class Gates(nn.Module):
    """Gated multimodal units: per unit, a weighted mean of the modalities' representations.

    The weights are a softmax over the modalities that are present, of scores that are linear in
    all columns. With two modalities, both present, this is the gate of arXiv:1702.01992.
    """

    def __init__(self, widths: Sequence[int], dim: int, n_heads: int) -> None:
        super().__init__()
        self.out_features = dim
        self.represent = nn.ModuleList([nn.Linear(width, dim) for width in widths])
        self.score = nn.Linear(sum(widths), len(widths) * dim)
        self.nothing = nn.Parameter(0.1 * torch.randn(dim))

    def forward(
        self, columns: Sequence[Tensor], present: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch features"]:
        """The joint representation."""
        own = [linear(x) for linear, x in zip(self.represent, columns, strict=True)]
        values = torch.stack(own, dim=1).tanh()
        scores = self.score(torch.cat(list(columns), dim=1)).view_as(values)
        any_present = present.any(dim=1, keepdim=True)
        # A row without any modality is averaged over all, to stay finite, and then replaced.
        masked = scores.masked_fill(~(present | ~any_present)[:, :, None], -math.inf)
        joint = (masked.softmax(dim=1) * values).sum(dim=1)
        return torch.where(any_present, joint, self.nothing)


class CrossAttention(nn.Module):
    """Each modality is a token that attends to the other ones; the mean of those present.

    A pre-norm block of attention and feed-forward layers with residuals, as in arXiv:1906.00295,
    whose sequences are of length 1 here, so that one block with an embedding per modality serves
    in place of a transformer for each ordered pair. A learned token is a key at all times: what a
    modality attends to where no other is there.
    """

    def __init__(self, widths: Sequence[int], dim: int, n_heads: int) -> None:
        super().__init__()
        self.out_features, self.n_heads = dim, n_heads
        self.tokens = nn.ModuleList([nn.Linear(width, dim) for width in widths])
        self.modality = nn.Parameter(0.1 * torch.randn(len(widths), dim))
        self.nothing = nn.Parameter(0.1 * torch.randn(dim))
        self.norm, self.norm_after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
        )

    def forward(
        self, columns: Sequence[Tensor], present: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch features"]:
        """The joint representation."""
        own = [linear(x) for linear, x in zip(self.tokens, columns, strict=True)]
        tokens = torch.stack(own, dim=1) + self.modality
        tokens = tokens + self._attend(tokens, present)
        tokens = tokens + self.feed_forward(self.norm_after(tokens))
        weights = present.to(tokens.dtype)
        count = weights.sum(dim=1, keepdim=True)
        mean = (tokens * weights[:, :, None]).sum(dim=1) / count.clamp(min=1)
        return torch.where(count > 0, mean, self.nothing)

    def _attend(self, tokens: Tensor, present: Tensor) -> Tensor:
        batch, modalities, dim = tokens.shape
        nothing = self.nothing.expand(batch, 1, dim)
        keys, values = self.key_value(self.norm(torch.cat([tokens, nothing], dim=1))).chunk(2, -1)
        queries = self._heads(self.query(self.norm(tokens)))
        scores = queries @ self._heads(keys).transpose(-1, -2) / math.sqrt(dim // self.n_heads)
        others = present[:, None, :] & ~torch.eye(
            modalities, dtype=torch.bool, device=tokens.device
        )
        allowed = torch.cat([others, others.new_ones(batch, modalities, 1)], dim=2)
        attention = scores.masked_fill(~allowed[:, None], -math.inf).softmax(dim=-1)
        mixed = (attention @ self._heads(values)).transpose(1, 2).reshape(batch, modalities, dim)
        attended: Tensor = self.out(mixed)
        return attended

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to (batch, heads, tokens, dim / heads)."""
        batch, tokens, dim = x.shape
        return x.view(batch, tokens, self.n_heads, dim // self.n_heads).transpose(1, 2)


JOINS = {"concat": Concatenation, "gated": Gates, "cross-attention": CrossAttention}
