"""Experts: several small encoders, and a gate per task that mixes their outputs."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import Count, OneOf, Section
from qmtl.encoders._encoder import (
    EncoderInputs,
    EncoderSection,
    TaskColumns,
    TaskEncoder,
    copy_weights,
    flat_width,
    known_encoders,
)
from qmtl.encoders._gates import (
    FeatureGate,
    Gate,
    SelectGate,
    SoftmaxGate,
    collapsed,
    exclusive_owners,
    group_owners,
)
from qmtl.encoders._mlp import MLP, MLPSection
from qmtl.errors import InvalidInputError, check_integer, unknown_name

GATES = ("mmoe", "dselect", "exclusive", "home")

Owners = Sequence[Sequence[str] | None]


class Experts(TaskEncoder):
    r"""Several small encoders, the experts, and a gate per task that mixes their outputs.

    A linear layer computes the features of task t's register from the mixture ``Σ_e g_te h_e(x)``
    of the experts' activated outputs. A task also depends on other tasks' features, through the
    circuit's entangling gates. Its loss therefore trains their experts, too, unless ``isolation =
    true``. Its prediction runs only the experts of the tasks on its light cone.

    * ``mmoe``: ``g_t = softmax(W_t x)`` over all experts.
    * ``dselect``: each task chooses `k` experts, the same for all inputs, by binary codes that are
      learned; see `qmtl.encoders.SelectGate`. Experts that no task has chosen do not run.
    * ``exclusive``: the softmax of MMoE, but `exclusive` of the experts belong to one task each.
    * ``home``: some experts are `shared`, the others belong to one of the `groups` of tasks. Each
      expert sees the inputs through a gate of low `rank`. Its output passes through normalisation
      and SiLU. A second gate gives a group's experts a second weight. Unlike HoME, this encoder has
      no meta-experts, and normalises by layer, not by batch: features do not depend on other rows.

    Args:
        in_features: number of values in an input; gates are linear in them (images are flattened).
        columns: task → indices of its features, the result of ``head.task_columns()``.
        experts: number of MLPs, or modules from inputs to features, all of one ``out_features``.
        gate: one of these four kinds.
        width: width of an MLP's output.
        hidden: widths of an MLP's hidden layers.
        k: number of experts that each task chooses.
        entropy: weight of the term that makes gates choose, in ``dselect``.
        exclusive: number of experts that belong to a single task; None for half of them.
        groups: names of tasks, each in one group.
        shared: number of experts that all groups see.
        rank: rank of the gates at the experts' inputs.
        owners: for each expert, the tasks that see it, or None for all tasks; None to derive this
            from `exclusive`, or from `groups` and `shared`.
        seed: seed of the initial weights; None uses torch's global generator.

    Shape:
        ``(batch, ...)`` to ``(batch, out_features)``.

    Raises:
        InvalidInputError: an argument does not fit; the error names it.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")])
        >>> head = qmtl.QuantumHead(circuit)
        >>> encoder = Experts(10, head.task_columns(), 3, gate="exclusive", exclusive=2, seed=0)
        >>> encoder(torch.zeros(5, 10)).shape, encoder.expert_names
        (torch.Size([5, 4]), ('0', '1: a', '2: b'))

    References:
        MMoE: Ma et al., KDD 2018. DSelect-k: arXiv:2106.03760. MMoEEx: arXiv:2009.05041 (there
        experts are assigned to tasks at random, here in turn). HoME: arXiv:2408.05430.
    """

    def __init__(
        self,
        in_features: int,
        columns: TaskColumns,
        experts: int | Sequence[nn.Module] = 4,
        *,
        gate: str = "mmoe",
        width: int = 32,
        hidden: Sequence[int] = (),
        k: int = 2,
        entropy: float = 0.3,
        exclusive: int | None = None,
        groups: Sequence[Sequence[str]] | None = None,
        shared: int = 1,
        rank: int = 4,
        owners: Owners | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(columns)
        in_features = check_integer("in_features", in_features)
        if gate not in GATES:
            raise unknown_name("gate", gate, GATES)
        tasks = list(self.columns)
        with seeded(seed):
            if isinstance(experts, int):
                experts = check_integer("experts", experts)
                options: dict[str, Any] = {"out_features": width}
                experts = [MLP(in_features, *hidden, **options) for _ in range(experts)]
            self.experts = nn.ModuleList(experts)
            number, self.width = len(self.experts), _width_of(self.experts)
            if owners is None:
                owners = [None] * number
                if gate == "exclusive":
                    owners = exclusive_owners(tasks, number, exclusive)
                elif gate == "home":
                    owners = group_owners(tasks, number, groups, shared)
            self.kind, self.gate_features = gate, in_features
            self.k, self.rank, self.entropy = k, rank, entropy
            self.owners = tuple(None if own is None else tuple(own) for own in owners)
            if gate == "dselect":
                _check_selection(k, number, entropy)
            self.gate = self._new_gate(tasks)
            self.views = self.norms = None
            if gate == "home":
                self.rank = check_integer("rank", rank)
                self.views = nn.ModuleList(
                    FeatureGate(in_features, self.rank) for _ in range(number)
                )
                self.norms = nn.ModuleList(nn.LayerNorm(self.width) for _ in range(number))
            layer = nn.Linear(self.width, self.out_features)
        # One row per feature; every feature belongs to one task.
        self.weight, self.bias = nn.Parameter(layer.weight), nn.Parameter(layer.bias)

    def _new_gate(self, tasks: Sequence[str]) -> Gate:
        if self.kind == "dselect":
            return SelectGate(len(tasks), len(self.experts), self.k, self.entropy)
        sees = [[own is None or task in own for own in self.owners] for task in tasks]
        for task, row in zip(tasks, sees, strict=True):
            if not any(row):
                raise InvalidInputError(f"task {task!r} sees no expert: all belong to others")
        common = torch.tensor([own is None for own in self.owners])
        seen = torch.tensor(sees)
        own = seen & ~common if self.kind == "home" else None
        return SoftmaxGate(seen, self.gate_features, own=own)

    def task_features(self, inputs: Tensor, tasks: tuple[str, ...]) -> Tensor:
        """Return features of these tasks side by side; only experts that they see run."""
        flat = self._flat(inputs)
        place = {name: i for i, name in enumerate(self.columns)}
        places = torch.tensor([place[task] for task in tasks], device=inputs.device)
        run = list(range(len(self.experts)))
        # An exported program cannot inspect its weights.
        if not torch.compiler.is_compiling():
            run = self.gate.open()[places].any(0).nonzero().flatten().tolist()
        outputs = torch.stack([self._output(expert, inputs, flat) for expert in run], dim=1)
        weights = self.gate(flat, places)[:, :, run].expand(flat.shape[0], -1, -1)
        mixtures = weights @ outputs
        rows = [row for task in tasks for row in self.columns[task]]
        of_row = [i for i, task in enumerate(tasks) for _ in self.columns[task]]
        features: Tensor = (mixtures[:, of_row] * self.weight[rows]).sum(-1) + self.bias[rows]
        return features

    def _flat(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        if flat.shape[1] != self.gate_features:
            raise InvalidInputError(
                f"inputs must have {self.gate_features} numbers a row, got shape "
                f"{tuple(inputs.shape)}"
            )
        return flat

    def _output(self, expert: int, inputs: Tensor, flat: Tensor) -> Tensor:
        module = self.experts[expert]
        if self.views is None or self.norms is None:
            return nn.functional.relu(module(inputs))
        seen = self.views[expert](flat).view_as(inputs)
        return nn.functional.silu(self.norms[expert](module(seen)))

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Name of each expert: its number, and its tasks unless all tasks see it."""
        return tuple(
            str(i) if own is None else f"{i}: {', '.join(own)}" for i, own in enumerate(self.owners)
        )

    @torch.no_grad()
    def utilisation(self, inputs: Tensor) -> dict[str, dict[str, float]]:
        """Return each task's mean weight of each expert, as a share of the task's total.

        Experts have the names of `expert_names`.

        Example:
            >>> encoder = Experts(4, {"a": (0, 1), "b": (2, 3)}, 2, gate="exclusive", exclusive=1)
            >>> encoder.utilisation(torch.zeros(3, 4))
            {'a': {'0': 0.5, '1: a': 0.5}, 'b': {'0': 1.0, '1: a': 0.0}}
        """
        flat = self._flat(inputs.to(self.weight))
        every = torch.arange(len(self.columns), device=flat.device)
        weights = torch.cat([self.gate(rows, every) for rows in flat.split(1024)])
        shares = (weights / weights.sum(-1, keepdim=True)).double().mean(0)
        return {
            task: dict(zip(self.expert_names, own, strict=True))
            for task, own in zip(self.columns, shares.tolist(), strict=True)
        }

    def collapse(self, inputs: Tensor) -> list[str]:
        """Describe problems in the use of the experts on some rows, one sentence each.

        An expert has almost no weight, or almost all; an expert of several tasks serves only one of
        them; or, with ``dselect``, a task does not have exactly `k` experts.

        Example:
            >>> encoder = Experts(4, {"a": (0, 1), "b": (2, 3)}, 2, seed=0)
            >>> encoder.collapse(torch.zeros(3, 4))
            []
        """
        chosen = self.k if self.kind == "dselect" else None
        return collapsed(self.utilisation(inputs), self.gate.sees, chosen)

    def start_epoch(self, progress: float) -> None:
        self.gate.start_epoch(progress)

    def extra_loss(self) -> Tensor | None:
        return self.gate.extra_loss()

    def train_new_tasks(self) -> None:
        """Put the gate in training mode: in evaluation mode `SelectGate` rounds its bits."""
        self.gate.train()

    def undecayed(self) -> list[nn.Parameter]:
        return self.gate.undecayed()

    def task_parameters(self) -> dict[nn.Parameter, tuple[str, ...]]:
        """Return the gates' parameters, and the rows of the last layer."""
        rows = self._feature_tasks()
        gates = dict.fromkeys(self.gate.parameters(), tuple(self.columns))
        return {self.weight: rows, self.bias: rows} | gates

    def with_task(self, name: str, columns: Sequence[int], seed: int | None = None) -> Self:
        """Return a copy with one more task, which sees the experts that all tasks see.

        Raises:
            InvalidInputError: all experts belong to other tasks.
        """
        with seeded(seed):
            fresh = type(self)(
                self.gate_features,
                {**self.columns, name: columns},
                list(copy.deepcopy(self.experts)),
                gate=self.kind,
                **{option: getattr(self, option) for option in ("k", "entropy", "rank", "owners")},
            )
        copy_weights(self, fresh)
        return fresh

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description without parameters.

        Raises:
            InvalidInputError: an expert is none of qmtl's encoders.
        """
        for expert in self.experts:
            if type(expert) not in known_encoders().values():
                raise InvalidInputError(
                    f"the expert {type(expert).__name__} is none of qmtl's encoders, and cannot be "
                    f"saved; save state_dict() yourself"
                )
        experts: Any = self.experts
        return {
            "type": "Experts",
            "in_features": self.gate_features,
            # Pairs keep their order, which is the order of the gates.
            "columns": [[name, list(own)] for name, own in self.columns.items()],
            "experts": [expert.to_dict() for expert in experts],
            "gate": self.kind,
            **{name: getattr(self, name) for name in ("k", "entropy", "rank")},
            "owners": [None if own is None else list(own) for own in self.owners],
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described, with fresh parameters."""
        known = known_encoders()
        options = {name: description[name] for name in ("gate", "k", "entropy", "rank", "owners")}
        experts = [known[one["type"]].from_dict(one) for one in description["experts"]]
        columns = dict(description["columns"])
        return cls(description["in_features"], columns, experts, **options, seed=0)


class _AnyOther(OneOf):
    """The section of any encoder that does not depend on tasks."""

    def members(self, base: type[Section]) -> dict[str, type[Section]]:
        return {
            name: member
            for name, member in super().members(base).items()
            if not issubclass(getattr(member, "encoder", nn.Module), TaskEncoder)
        }


class ExpertsSection(EncoderSection):
    """Section ``[encoder]`` with ``type = "experts"``; its keys are arguments of `Experts`.

    ``[encoder.expert]`` is the section of an expert.
    """

    encoder: ClassVar[type[nn.Module]] = Experts
    type: Literal["experts"] = "experts"
    gate: Literal["mmoe", "dselect", "exclusive", "home"] = "mmoe"
    n_experts: Count = 4
    width: Count = 32
    expert: Annotated[EncoderSection, _AnyOther("type", default="MLP")] = MLPSection(hidden=[])
    k: Count = 2
    entropy: float = Field(0.3, ge=0, allow_inf_nan=False)
    exclusive: int | None = Field(None, ge=0)
    groups: list[list[str]] | None = None
    shared: int = Field(1, ge=0)
    rank: Count = 4

    def build(self, given: EncoderInputs) -> nn.Module:
        if given.columns is None:
            raise InvalidInputError(
                "encoder 'experts' needs a head whose tasks have features of their own, one "
                "register each: not the shared layout, gates between heads, or a head of another "
                "width than the circuit's"
            )
        if self.gate == "home":
            flat_width(self.type, given.inputs)
        # Experts with the same seed would have the same weights.
        first = self.seed * (self.n_experts + 1)
        experts = [
            self.expert.model_copy(update={"seed": self.expert.seed + first + i}).build(
                replace(given, n_features=self.width, columns=None)
            )
            for i in range(self.n_experts)
        ]
        names = ("gate", "k", "entropy", "exclusive", "groups", "shared", "rank")
        options = {name: getattr(self, name) for name in names}
        seed = self.expert.seed + first + self.n_experts
        return Experts(given.inputs[0].numel(), given.columns, experts, **options, seed=seed)

    def of_task(self, name: str) -> Self:
        if self.groups is None:
            return self
        return self.model_copy(update={"groups": [[name]]})


def _width_of(experts: nn.ModuleList) -> int:
    if not len(experts):
        raise InvalidInputError("experts must be at least one, got none")
    widths = [getattr(expert, "out_features", None) for expert in experts]
    if not isinstance(widths[0], int) or len(set(widths)) > 1:
        raise InvalidInputError(f"experts must give the same number of out_features, got {widths}")
    return widths[0]


def _check_selection(k: int, n_experts: int, entropy: float) -> None:
    check_integer("k", k)
    if k > n_experts:
        raise InvalidInputError(f"k must be at most the number of experts {n_experts}, got {k}")
    if not 0 <= entropy < float("inf"):
        raise InvalidInputError(f"entropy must be a number >= 0, got {entropy!r}")
