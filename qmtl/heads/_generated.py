"""Block weights that are computed from shared parameters and a vector per task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from qmtl.circuit import Gate, HeadCircuit, elementary
from qmtl.errors import unknown_name
from qmtl.heads._task_rows import TaskRows

BlockShape = tuple[Gate, ...]
"""A block's gates on the wires of its register, decomposed into elementary gates."""


def block_shapes(circuit: HeadCircuit) -> dict[BlockShape, list[str]]:
    """Group the tasks whose blocks have the same gates, so that their weights correspond."""
    known: dict[tuple[int, ...], BlockShape] = {}
    found: dict[BlockShape, list[str]] = {}
    for name, register in circuit.registers.items():
        ansatz, n_wires = circuit.ansatz(name), len(register.wires)
        read = tuple(register.readout.read_wires(n_wires))
        # A user's ansätze may not be hashable.
        key = (id(ansatz), n_wires, *read)
        if key not in known:
            known[key] = tuple(elementary(ansatz.gates(n_wires, read)))
        found.setdefault(known[key], []).append(name)
    # Sort by names of gates, so that a saved inventory does not depend on the order of tasks.
    return {shape: found[shape] for shape in sorted(found, key=lambda gates: [*map(str, gates)])}


class GeneratedBlocks(nn.Module, ABC):
    """Block weights of a head that computes them instead of storing them in `TaskRows`.

    A subclass has the shared parameters and defines `made`.

    Args:
        circuit: circuit of the blocks.
        vectors: each task's vector, all of the same length.

    Attributes:
        shapes: the different shapes of blocks, in the order of their gates' names.
        members: the tasks of each shape.
        n_weights: number of weights of a block of each shape.
        vectors: `TaskRows` of the tasks' vectors.
    """

    tasks_by_shape: Tensor | None
    gate_order: Tensor | None

    def __init__(self, circuit: HeadCircuit, vectors: Mapping[str, Tensor]) -> None:
        super().__init__()
        shapes = block_shapes(circuit)
        self.shapes = tuple(shapes)
        self.members = tuple(tuple(names) for names in shapes.values())
        self._shape_of = {name: i for i, names in enumerate(self.members) for name in names}
        self.n_weights = tuple(circuit.n_weights(names[0]) for names in self.members)
        self.vectors = TaskRows(vectors)
        several = len(shapes) > 1
        # The first table orders tasks by shape, the second puts their weights back into the
        # circuit's order.
        by_shape = [name for names in self.members for name in names]
        slices, start = {}, 0
        for name in by_shape:
            slices[name] = range(start, start + circuit.n_weights(name))
            start = slices[name].stop
        places = {name: i for i, name in enumerate(circuit.registers)}
        order = [place for name in circuit.registers for place in slices[name]]
        for name, table in (
            ("tasks_by_shape", [places[task] for task in by_shape]),
            ("gate_order", order),
        ):
            values = torch.tensor(table, dtype=torch.long) if several else None
            self.register_buffer(name, values, persistent=False)

    @abstractmethod
    def made(self, shape: int, vectors: Tensor) -> Tensor:
        """Return weights of blocks of one shape, (tasks, weights), from vectors (tasks, length)."""

    def forward(self) -> Tensor:
        """Return the weights of all blocks, flat and in gate order."""
        vectors = self.vectors().view(len(self._shape_of), -1)
        if self.tasks_by_shape is None or self.gate_order is None:
            return self.made(0, vectors).reshape(-1)
        sorted_vectors = vectors.index_select(0, self.tasks_by_shape)
        parts = sorted_vectors.split([len(names) for names in self.members])
        made = [self.made(i, part).reshape(-1) for i, part in enumerate(parts)]
        return torch.cat(made).index_select(0, self.gate_order)

    def by_name(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the weights by task, computed as in a head that has only these tasks."""
        vectors = self.vectors.by_name()
        chosen = tuple(vectors) if names is None else tuple(names)
        found: dict[str, Tensor] = {}
        for shape, members in enumerate(self.members):
            own = [name for name in members if name in chosen]
            if own:
                rows = self.made(shape, torch.stack([vectors[name] for name in own]))
                found |= zip(own, rows, strict=True)
        return {name: found[name] for name in chosen}

    def of_vector(self, like: str, vector: Tensor) -> Tensor:
        """Return the weights of a block with the shape of the task `like`, from one vector."""
        if like not in self._shape_of:
            raise unknown_name("task", like, self._shape_of)
        return self.made(self._shape_of[like], vector[None])[0]
