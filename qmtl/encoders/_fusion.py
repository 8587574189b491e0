"""Fusion: several modalities in one flat input, any of which may be missing."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling

from qmtl._calls import seeded
from qmtl._sections import Count
from qmtl.encoders._encoder import Described, EncoderInputs, EncoderSection, flat_width
from qmtl.encoders._mlp import MLP
from qmtl.errors import InvalidInputError, check_integer, unknown_name

# Each class in `JOINS` takes the modalities' columns, (batch, width) and 0 where missing, and the
# presence flags; it returns (batch, out_features).


class Concatenation(nn.Module):
    """All columns side by side; a learned vector replaces the columns of a missing modality."""

    def __init__(self, widths: Sequence[int], dim: int, n_heads: int) -> None:
        super().__init__()
        self.out_features = sum(widths)
        self.stand_ins = nn.ParameterList([0.1 * torch.randn(width) for width in widths])

    def forward(
        self, columns: Sequence[Tensor], present: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch features"]:
        parts = [
            torch.where(present[:, i, None], own, stand_in)
            for i, (own, stand_in) in enumerate(zip(columns, self.stand_ins, strict=True))
        ]
        return torch.cat(parts, dim=1)


class Gates(nn.Module):
    """Gated multimodal units: per unit, a weighted mean of the modalities' representations.

    The weights are a softmax over the present modalities; the scores are linear in all columns. For
    two present modalities this is the gate of arXiv:1702.01992.
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
        own = [linear(x) for linear, x in zip(self.represent, columns, strict=True)]
        values = torch.stack(own, dim=1).tanh()
        scores = self.score(torch.cat(list(columns), dim=1)).view_as(values)
        any_present = present.any(dim=1, keepdim=True)
        # A row without any modality is averaged over all modalities, to stay finite, and then
        # replaced.
        masked = scores.masked_fill(~(present | ~any_present)[:, :, None], -math.inf)
        joint = (masked.softmax(dim=1) * values).sum(dim=1)
        return torch.where(any_present, joint, self.nothing)


class CrossAttention(nn.Module):
    """Let each modality attend to the others, as a token; average the tokens that are present.

    A pre-norm block of attention and feed-forward layers with residuals, as in arXiv:1906.00295.
    All sequences have length 1 here, so that one block with an embedding per modality replaces a
    transformer for each ordered pair. A learned token is always a key, so that a single present
    modality also has a key.
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
        wide = nn.Linear(dim, 2 * dim)
        self.feed_forward = nn.Sequential(wide, nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(
        self, columns: Sequence[Tensor], present: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch features"]:
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
        batch, tokens, dim = x.shape
        return x.view(batch, tokens, self.n_heads, dim // self.n_heads).transpose(1, 2)


JOINS = {"concat": Concatenation, "gated": Gates, "cross-attention": CrossAttention}


class Fusion(Described):
    """Modalities joined by concatenation, gates or cross-attention, then an MLP.

    An input row has the layout of `qmtl.data.join_modalities`: a presence flag (1 or 0) per
    modality, then the columns of each modality, in the order of `widths`. The columns of a missing
    modality contribute nothing, neither to the features nor to a gradient. Instead

    * ``concat`` puts a learned vector of the same width in their place;
    * ``gated`` distributes the weight of a missing modality among those that are present;
    * ``cross-attention`` masks it as a key and leaves it out of the mean over modalities.

    A row without any modality gets finite features from learned vectors only, the same for all such
    rows. Columns should have similar scales (standardised, or of length 1, as sentence embeddings
    are).

    Args:
        widths: modality → its number of columns, in the order of the input.
        out_features: width of the features.
        kind: one of these three.
        dim: width of the joint representation, for ``gated`` and ``cross-attention``.
        n_heads: number of attention heads, a divisor of `dim`, for ``cross-attention``.
        hidden: widths of hidden layers between the joint representation and the features.
        activation: activation of the hidden layers: ``relu``, ``gelu``, ``silu`` or ``tanh``.
        dropout: probability of dropping a unit of the joint representation or of a hidden layer in
            training.
        modality_dropout: probability of treating a modality as missing in training, drawn per row;
            a row that would lose all its modalities keeps them.
        calibrate: whether `qmtl.fit` calls `calibrate_gradients` in each step.
        seed: seed of the initial weights; None uses torch's global generator.

    Shape:
        ``(batch, len(widths) + sum(widths.values()))`` to ``(batch, out_features)``.

    Raises:
        InvalidInputError: a number or a name does not fit.

    Example:
        >>> encoder = Fusion({"text": 3, "audio": 2}, 4, kind="gated", dim=8, seed=0)
        >>> both, text_only = torch.ones(1, 7), torch.tensor([[1.0, 0, 1, 1, 1, 0, 0]])
        >>> encoder(torch.cat([both, text_only])).shape
        torch.Size([2, 4])

    References:
        Gates: Arevalo et al., arXiv:1702.01992. Attention between modalities: Tsai et al.,
        arXiv:1906.00295. Modality dropout: Neverova et al., arXiv:1501.00102. Calibration: FULLER,
        arXiv:2307.16617.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        out_features: int,
        kind: str = "concat",
        *,
        dim: int = 64,
        n_heads: int = 4,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
        calibrate: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in JOINS:
            raise unknown_name("kind of fusion", kind, JOINS)
        _check(widths, dim, n_heads, modality_dropout)
        self.widths, self.out_features, self.kind = dict(widths), out_features, kind
        self.dim, self.n_heads, self.modality_dropout = dim, n_heads, modality_dropout
        self.calibrate = calibrate
        self.in_features = len(self.widths) + sum(self.widths.values())
        with seeded(seed):
            join: Any = JOINS[kind](list(self.widths.values()), dim, n_heads)
            layers = MLP(
                join.out_features,
                *hidden,
                out_features=out_features,
                activation=activation,
                dropout=dropout,
            )
        self.join, self.layers = join, layers
        self.hidden, self.activation, self.dropout = tuple(hidden), activation, dropout

    def forward(self, inputs: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch features"]:
        """Return the features of the inputs."""
        present, columns = self._split(inputs)
        if self.training and self.modality_dropout:
            present = _drop(present, self.modality_dropout)
        # The columns of a missing modality affect nothing and get no gradient.
        columns = [
            torch.where(present[:, i, None], own, torch.zeros_like(own))
            for i, own in enumerate(columns)
        ]
        joint = nn.functional.dropout(self.join(columns, present), self.dropout, self.training)
        features: Tensor = self.layers(joint)
        return features

    def _split(self, inputs: Tensor) -> tuple[Bool[Tensor, "batch modalities"], list[Tensor]]:
        layout = f"a presence flag per modality, then the columns of {self.widths}"
        if inputs.ndim != 2 or inputs.shape[1] != self.in_features:
            raise InvalidInputError(
                f"inputs must have shape (batch, {self.in_features}): {layout}; got "
                f"{tuple(inputs.shape)}"
            )
        flags, *columns = inputs.split([len(self.widths), *self.widths.values()], dim=1)
        present = flags == 1
        # An exported program cannot inspect its inputs.
        exporting = is_compiling() and not is_dynamo_compiling()
        if not exporting and not (present | (flags == 0)).all():
            raise InvalidInputError(
                f"inputs must begin with flags that are 0 or 1, got {flags.min().item():g} to "
                f"{flags.max().item():g}; expected {layout}"
            )
        return present, columns

    @torch.no_grad()
    def calibrate_gradients(self) -> None:
        """Scale the gradients of the modalities' branches to one norm, the mean of their norms.

        A branch is the set of weights that multiply one modality's columns only: columns of the
        first layer (``concat``), a representation and its columns of the scores (``gated``), a
        token's layer and embedding (``cross-attention``). Call this after the gradients of several
        tasks have been combined. A branch without a gradient does not change, such as that of a
        modality that no row of the batch has.

        The paper scales to a common magnitude, for which qmtl takes the mean. Adam divides by the
        size of the gradients, so that with Adam only changes from step to step have an effect.
        """
        branches = [
            [p.grad[where] for p, where in branch if p.grad is not None]
            for branch in self._branches()
        ]
        norms = [
            torch.stack([part.norm() for part in parts]).norm() if parts else None
            for parts in branches
        ]
        found = [norm for norm in norms if norm is not None and float(norm)]
        if not found:
            return
        mean = torch.stack(found).mean()
        for parts, norm in zip(branches, norms, strict=True):
            if norm is not None and float(norm):
                for part in parts:
                    # `part` is a view, so this scales the gradient in place.
                    part.mul_(mean / norm)

    def _branches(self) -> list[list[tuple[Tensor, Any]]]:
        """Return each modality's parameters, each with the index of the modality's own entries."""
        whole, ends = slice(None), list(accumulate(self.widths.values()))
        columns = [
            (whole, slice(end - width, end))
            for end, width in zip(ends, self.widths.values(), strict=True)
        ]
        join: Any = self.join
        if self.kind == "concat":
            first = next(m for m in self.layers.modules() if isinstance(m, nn.Linear))
            return [[(first.weight, own)] for own in columns]
        layers = join.represent if self.kind == "gated" else join.tokens
        mixed = join.score.weight if self.kind == "gated" else join.modality
        places = columns if self.kind == "gated" else range(len(columns))
        return [
            [(layer.weight, whole), (layer.bias, whole), (mixed, place)]
            for layer, place in zip(layers, places, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        # Pairs keep the order of modalities, which is the order of the input columns.
        return super().to_dict() | {"widths": [list(pair) for pair in self.widths.items()]}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        return super().from_dict({**description, "widths": dict(description["widths"])})


class FusionSection(EncoderSection):
    """Section ``[encoder]`` with ``type = "Fusion"``; its keys are arguments of `Fusion`.

    Without `widths` they are those of the data's modalities.
    """

    encoder: ClassVar[type[nn.Module]] = Fusion
    type: Literal["Fusion"] = "Fusion"
    widths: dict[str, Count] | None = None
    kind: Literal["concat", "gated", "cross-attention"] = "concat"
    dim: Count = 64
    n_heads: Count = 4
    hidden: list[int] = Field(default_factory=lambda: [64])
    activation: str = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    calibrate: bool = False

    def build(self, given: EncoderInputs) -> nn.Module:
        width = flat_width(self.type, given.inputs)
        widths = self.widths or given.modalities
        if widths is None:
            raise InvalidInputError(
                f"encoder 'Fusion' needs widths = {{ modality = columns, ... }}: the data have "
                f"{width} inputs and do not say which belong to which"
            )
        if given.modalities is not None and list(widths.items()) != list(given.modalities.items()):
            raise InvalidInputError(
                f"encoder: widths are {widths}, the data have {given.modalities}"
            )
        expected = len(widths) + sum(widths.values())
        if expected != width:
            raise InvalidInputError(
                f"encoder 'Fusion': widths {widths} and a presence flag for each are {expected} "
                f"inputs, the data have {width}"
            )
        return Fusion(widths, given.n_features, **self.model_dump(exclude={"type", "widths"}))


def _drop(present: Tensor, probability: float) -> Tensor:
    """Treat some modalities as missing; a row that would lose all its modalities keeps them."""
    kept = present & (torch.rand(present.shape, device=present.device) >= probability)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def _check(widths: Mapping[str, int], dim: int, n_heads: int, modality_dropout: float) -> None:
    if not isinstance(widths, Mapping) or not widths:
        raise InvalidInputError(
            f"widths must map each modality to its number of columns, got {widths!r}"
        )
    numbers = {f"widths[{name!r}]": width for name, width in widths.items()}
    for name, value in {**numbers, "dim": dim, "n_heads": n_heads}.items():
        check_integer(name, value)
    if dim % n_heads:
        raise InvalidInputError(f"n_heads must divide dim, got {n_heads} heads and dim {dim}")
    if not 0 <= modality_dropout < 1:
        raise InvalidInputError(f"modality_dropout must be in [0, 1), got {modality_dropout}")
