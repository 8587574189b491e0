"""The circuit that every peer builds, its light cone, and the numbers it is run on.

``n = 2 T`` wires, wires ``2t`` and ``2t + 1`` of task t. Two encoding layers: RY(x_i) on every
wire, RZ(w) on every wire, a ring of CZs. Then per task two layers of Rot on both of its wires and a
CZ between them. Task t's output is <Z> on its first wire. This module imports only numpy, so that a
peer can run under an interpreter without qmtl.
"""

from dataclasses import dataclass, fields

import numpy as np

BLOCK_WEIGHTS = 12
ENCODING_LAYERS = 2


@dataclass(frozen=True)
class Gate:
    """RY, RZ or Rot (RZ, RY, RZ in the order of application) by its angles' indices, or CZ."""

    name: str
    wires: tuple[int, ...]
    source: str = ""  # "features" or "weights"
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConeGate:
    """The same on the local wires of a cone: `indices` has one row per task."""

    name: str
    wires: tuple[int, ...]
    source: str = ""
    indices: np.ndarray | None = None


@dataclass(frozen=True)
class Cone:
    """The light cone of every task, without gates that do not affect the task's output."""

    n_wires: int
    read: int
    gates: tuple[ConeGate, ...]


@dataclass(frozen=True)
class Problem:
    """Inputs of a step, and its outputs and gradients by qmtl in double precision."""

    features: np.ndarray  # (batch, wires)
    weights: np.ndarray  # (encoding, then blocks), see `n_weights`
    targets: np.ndarray  # (batch, tasks)
    outputs: np.ndarray  # (batch, tasks)
    feature_gradient: np.ndarray
    weight_gradient: np.ndarray

    @property
    def n_tasks(self):
        return self.targets.shape[1]

    @property
    def n_wires(self):
        return 2 * self.n_tasks

    @property
    def batch(self):
        return len(self.features)

    def save(self, path):
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path):
        with np.load(path) as file:
            return cls(**{name: file[name] for name in file.files})


@dataclass(frozen=True)
class Result:
    """What a step returns: arrays or tensors, all computed."""

    outputs: object
    feature_gradient: object
    weight_gradient: object


def n_weights(n_tasks):
    return ENCODING_LAYERS * 2 * n_tasks + BLOCK_WEIGHTS * n_tasks


def random_inputs(n_tasks, batch, seed):
    """Features, weights and targets, the same for every peer."""
    generator = np.random.default_rng(seed)
    features = generator.uniform(-np.pi, np.pi, (batch, 2 * n_tasks))
    weights = generator.uniform(-np.pi, np.pi, n_weights(n_tasks))
    return features, weights, generator.uniform(-1, 1, (batch, n_tasks))


def block_indices(n_tasks, task, layer, wire):
    """Indices of the three angles of a block's Rot; `wire` is 0 or 1."""
    first = ENCODING_LAYERS * 2 * n_tasks + BLOCK_WEIGHTS * task + 6 * layer + 3 * wire
    return (first, first + 1, first + 2)


def all_gates(n_tasks):
    """The whole circuit, in the order of application."""
    n = 2 * n_tasks
    gates = []
    for layer in range(ENCODING_LAYERS):
        gates += [Gate("RY", (i,), "features", (i,)) for i in range(n)]
        gates += [Gate("RZ", (i,), "weights", (layer * n + i,)) for i in range(n)]
        gates += [Gate("CZ", (i, (i + 1) % n)) for i in range(n)]
    for task in range(n_tasks):
        pair = (2 * task, 2 * task + 1)
        for layer in range(2):
            for wire in range(2):
                indices = block_indices(n_tasks, task, layer, wire)
                gates.append(Gate("Rot", (pair[wire],), "weights", indices))
            gates.append(Gate("CZ", pair))
    return gates


def without_rot(gates):
    """The same gates with every Rot as RZ, RY, RZ, for peers that have no Rot."""
    plain = []
    for gate in gates:
        if gate.name != "Rot":
            plain.append(gate)
            continue
        for name, index in zip(("RZ", "RY", "RZ"), gate.indices, strict=True):
            plain.append(Gate(name, gate.wires, gate.source, (index,)))
    return plain


def cone(n_tasks):
    """The light cone of a task: six wires in a line, or the whole ring of four for two tasks.

    It is as narrow as qmtl's own cone: the second layer rotates only the register and the wire on
    either side, and gates that commute with the observable are left out.
    """
    n = 2 * n_tasks
    size, first = (4, 1) if n == 4 else (6, 2)
    tasks = np.arange(n_tasks)
    wires = (2 * tasks[:, None] - first + np.arange(size)) % n
    near = range(first - 1, first + 3)
    line = [(i, i + 1) for i in range(size - 1)] + ([(size - 1, 0)] if n == 4 else [])
    turned = [near if n > 4 else range(size), (first, first + 1)]

    def rotation(name, layer, wire):
        if name == "RY":
            return ConeGate("RY", (wire,), "features", wires[:, [wire]])
        return ConeGate("RZ", (wire,), "weights", layer * n + wires[:, [wire]])

    def block(name, layer, wire, which):
        indices = [[block_indices(n_tasks, t, layer, wire)[i] for i in which] for t in tasks]
        return ConeGate(name, (first + wire,), "weights", np.array(indices))

    gates = [rotation("RY", 0, i) for i in range(size)]
    gates += [rotation("RZ", 0, i) for i in turned[0]]
    gates += [ConeGate("CZ", edge) for edge in line]
    gates += [rotation("RY", 1, i) for i in near]
    gates += [rotation("RZ", 1, i) for i in turned[1]]
    gates += [ConeGate("CZ", (i, i + 1)) for i in near[:-1]]
    gates += [block("Rot", 0, wire, (0, 1, 2)) for wire in (0, 1)]
    gates += [ConeGate("CZ", (first, first + 1))]
    gates += [block("RZ", 1, 0, (0,)), block("RY", 1, 0, (1,))]
    return Cone(size, first, tuple(gates))
