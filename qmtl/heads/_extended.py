"""ExtendedHead: a trained head, unchanged, with additional tasks."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from qmtl.circuit import Ansatz, Gate, HeadCircuit, PauliStrings, rebuilt
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads._generated import GeneratedBlocks
from qmtl.heads._head import Head, head_from_dict
from qmtl.heads._initial import drawn_seed
from qmtl.heads._linear import DenseLayers
from qmtl.heads._quantum import QuantumHead
from qmtl.heads._task_rows import TaskRows
from qmtl.simulators import Simulator
from qmtl.tasks import Task

# Wider registers have too many Z-strings: of these, only those with one or two Zs are read.
MOST_WIRES = 4


@dataclass(frozen=True)
class _ReadAs:
    """A block with fixed read positions: its gates never depend on a new readout."""

    ansatz: Ansatz
    read: tuple[int, ...]

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        return self.ansatz.n_weights(n_wires, self.read)

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        return self.ansatz.gates(n_wires, self.read)


def reading_circuit(circuit: HeadCircuit) -> HeadCircuit:
    """Return the same circuit, with all Z-strings on each register as readout.

    On registers of more than four wires, only strings with one or two Zs are read.

    Example:
        >>> circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 8)])
        >>> [len(r.readout.strings) for r in reading_circuit(circuit).registers.values()]
        [3, 7]
    """
    blocks: dict[str, Ansatz] = {}
    readouts, tasks = {}, []
    for name, register in circuit.registers.items():
        n_wires = len(register.wires)
        strings = tuple(_strings(n_wires, n_wires if n_wires <= MOST_WIRES else 2))
        read = tuple(register.readout.read_wires(n_wires))
        blocks[name], readouts[name] = _ReadAs(circuit.ansatz(name), read), PauliStrings(strings)
        tasks.append(Task.multilabel(name, len(strings)))
    return rebuilt(circuit, blocks=blocks, tasks=tasks, readouts=readouts)


def _strings(n_wires: int, most: int) -> Iterator[str]:
    for size in range(1, most + 1):
        for wires in itertools.combinations(range(n_wires), size):
            yield "".join("Z" if wire in wires else "I" for wire in range(n_wires))


class AddedBlock(nn.Module):
    """A separate register and block for an added task, on a linear map of the features.

    The weights of the register's encoding keep their random initial values.

    Args:
        task: the task.
        n_features: number of features.
        simulator: simulator of its circuit.
        angle_map: map from features to angles, as in `QuantumHead`.
        seed: seed of the initial weights.

    Shape:
        features ``(batch, n_features)`` to logits ``(batch, n_outputs)``.

    Example:
        >>> AddedBlock(Task.binary("a"), 6)(torch.zeros(3, 6)).shape
        torch.Size([3, 1])
    """

    def __init__(
        self,
        task: Task,
        n_features: int,
        simulator: str | Simulator = "lightcone",
        *,
        angle_map: str = "narrow",
        seed: int = 0,
    ) -> None:
        super().__init__()
        circuit = HeadCircuit([task])
        # The linear layer, whose outputs are the register's features, belongs to the task.
        own = Task.multilabel(task.name, circuit.n_features)
        self.inputs = DenseLayers(seed, [own], n_features)
        self.head = QuantumHead(circuit, simulator, angle_map=angle_map, seed=seed)
        self.head.encoding.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of the task, (batch, n_outputs)."""
        logits: Tensor = self.head(self.inputs(features, None), joined=True)
        return logits


class AddedVector(nn.Module):
    """A vector and a scale for an added task, whose block the base head computes from the vector.

    The task is measured on the register of the `host` task, where its block replaces the host's.
    So the task has a second circuit with the same wires, encoding and gates.

    Args:
        task: the task.
        base: a head that computes its blocks, such as `MixtureHead`.
        host: the task of `base` on whose register the new task is measured.

    Raises:
        InvalidInputError: for a head of another kind, or a host with other outputs.

    Example:
        >>> from qmtl import MixtureHead
        >>> base = MixtureHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        >>> added = AddedVector(Task.binary("c"), base, host="b")
        >>> x = torch.ones(1, 4)
        >>> bool(torch.isclose(added(base, x), base(x)["b"]))
        True
        >>> sum(p.numel() for p in added.parameters())
        3
    """

    def __init__(self, task: Task, base: Head, host: str) -> None:
        super().__init__()
        if not takes_vectors(base):
            raise InvalidInputError(
                f"to add a task by a vector, the head must be a MixtureHead or a HyperHead, got a "
                f"{type(base).__name__}"
            )
        assert isinstance(base, QuantumHead)
        assert isinstance(base.blocks, GeneratedBlocks)
        if host not in hosts_for(task, base):
            raise InvalidInputError(
                f"task {task.name!r} ({task.kind}, {task.n_outputs} outputs) cannot be measured "
                f"on the register of {host!r}; possible tasks are {hosts_for(task, base)}"
            )
        self.host, self.simulator = host, base.simulator
        # Start with the host's values.
        self.vector = TaskRows({task.name: base.blocks.vectors[host].detach().clone()})
        self.scale = TaskRows({task.name: base.scales[host].detach().clone()})

    def forward(self, base: QuantumHead, features: Tensor) -> Tensor:
        """Return the task's logits, (batch, n_outputs); the head's own weights get no gradient."""
        assert isinstance(base.blocks, GeneratedBlocks)
        circuit = base.circuit
        blocks, scales = base.blocks().detach(), base.scales().detach()
        block = circuit.weight_slices[self.host]
        place = list(circuit.registers).index(self.host)
        start, stop = (edge - circuit.n_encoding_weights for edge in (block.start, block.stop))
        own = base.blocks.of_vector(self.host, self.vector())
        return self.simulator.logits(
            circuit,
            features,
            base.encoding.detach(),
            torch.cat([blocks[:start], own, blocks[stop:]]),
            torch.cat([scales[:place], self.scale(), scales[place + 1 :]]),
            angle_map=base.angle_map,
            tasks=(self.host,),
        )


def takes_vectors(head: Head) -> bool:
    """Return whether a head computes its blocks from vectors, so that a vector can add a task.

    Example:
        >>> takes_vectors(QuantumHead(HeadCircuit([Task.binary("a")])))
        False
    """
    return isinstance(head, QuantumHead) and isinstance(head.blocks, GeneratedBlocks)


def hosts_for(task: Task, base: Head) -> list[str]:
    """Return the head's tasks on whose registers the new task can be measured.

    Example:
        >>> base = QuantumHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]))
        >>> hosts_for(Task.regression("c"), base)
        ['a']
    """
    kind = task.kind == "multiclass"
    alike = (t for t in base.tasks if (t.kind == "multiclass") == kind)
    return [own.name for own in alike if own.n_outputs == task.n_outputs]


class ExtendedHead(Head):
    """A trained head with added tasks; the logits of its other tasks stay equal bit for bit.

    An added task has a linear layer on the Z-strings of the registers (for heads other than
    `QuantumHead`: on the features), or an `AddedBlock`, or an `AddedVector`.
    `MultiTaskModel.adapt` makes such heads.

    Args:
        base: the trained head, whose tasks come first.
        added: the new tasks.
        blocks: names of the added tasks that have an `AddedBlock`.
        vectors: from the name of each added task with an `AddedVector` to the task of `base` on
            whose register it is measured.
        seed: seed of the initial weights of the added tasks; None draws it from torch's global
            generator.
        notes: the training method of each added task; saved with the model.

    Example:
        >>> base = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        >>> head = ExtendedHead(base, [Task.multiclass("c", 3)], seed=0)
        >>> x = torch.ones(2, 4)
        >>> head(x)["c"].shape, torch.equal(head(x)["a"], base(x)["a"])
        (torch.Size([2, 3]), True)

    References:
        Linear readouts of a frozen embedding: Pi-PINN, arXiv:2604.21761.
    """

    instead = "; the head that was extended is model.head.base"

    def __init__(
        self,
        base: Head,
        added: Sequence[Task],
        blocks: Sequence[str] = (),
        vectors: Mapping[str, str] | None = None,
        *,
        seed: int | None = None,
        notes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__([*base.tasks, *added], base.n_features)
        names = [task.name for task in added]
        self.hosts = dict(vectors or {})
        for what, chosen in (("blocks", blocks), ("vectors", self.hosts)):
            for name in chosen:
                if name not in names:
                    raise unknown_name(f"task in {what}", name, names)
        seed = drawn_seed(seed)
        self.base = base
        self.added = tuple(added)
        self.with_blocks = tuple(name for name in names if name in blocks)
        self.notes = {name: dict(note) for name, note in (notes or {}).items()}
        self._reading = reading_circuit(base.circuit) if isinstance(base, QuantumHead) else None
        others = {*self.with_blocks, *self.hosts}
        linear = [task for task in self.added if task.name not in others]
        self._linear = tuple(task.name for task in linear)
        self.readouts = DenseLayers(seed, linear, self.n_readings) if linear else None
        options: dict[str, Any] = {"seed": seed}
        if isinstance(base, QuantumHead):
            options |= {"simulator": base.simulator, "angle_map": base.angle_map}
        self.blocks = nn.ModuleList(
            AddedBlock(task, base.n_features, **options)
            for task in self.added
            if task.name in self.with_blocks
        )
        by_name = {task.name: task for task in self.added}
        self.vectors = nn.ModuleList(
            AddedVector(by_name[name], base, host) for name, host in self.hosts.items()
        )

    @property
    def n_readings(self) -> int:
        """Number of readings that the linear layers take as inputs."""
        if self._reading is None:
            return self.base.n_features
        return sum(task.n_outputs for task in self._reading.tasks)

    def readings(self, features: Tensor) -> Tensor:
        """Return the inputs of the linear layers, (batch, n_readings): Z-strings, or features.

        The circuit's weights get no gradient through this function.
        """
        if self._reading is None or not isinstance(self.base, QuantumHead):
            return features
        weights = torch.cat([self.base.encoding, self.base.blocks()]).detach()
        simulator, angles = self.base.simulator, self.base.angles(features)
        values = simulator.expectation_values(self._reading, angles, weights, None)
        return torch.cat(list(values.values()), dim=1)

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        every = tuple(self._sizes)
        wanted = every if names is None else names
        logits: dict[str, Tensor] = {}
        old = tuple(task.name for task in self.base.tasks if task.name in wanted)
        if old:
            # A call of the base head alone keeps its logits equal bit for bit.
            logits = self.base(features, None if names is None else old)
        linear = [name for name in self._linear if name in wanted]
        if linear and self.readouts is not None:
            readings = self.readings(features)
            # Compute tasks one by one: products of other shapes may round differently.
            logits |= {name: self.readouts(readings, (name,)) for name in linear}
        for name, block in zip(self.with_blocks, self.blocks, strict=True):
            if name in wanted:
                logits[name] = block(features)
        for name, vector in zip(self.hosts, self.vectors, strict=True):
            if name in wanted:
                logits[name] = vector(self.base, features)
        return torch.cat([logits[name] for name in wanted], dim=1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": type(self).__name__,
            "base": self.base.to_dict(),
            "added": [task.to_dict() for task in self.added],
            "blocks": list(self.with_blocks),
            "vectors": self.hosts,
            "notes": self.notes,
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        base = head_from_dict(description["base"], custom)
        added = [Task.from_dict(task) for task in description["added"]]
        # Older heads were saved without this option.
        kinds = description["blocks"], description.get("vectors", {})
        return cls(base, added, *kinds, seed=0, notes=description["notes"])
