"""Hybrid rivals of the quantum head: variational circuits, then a linear layer for each task."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from qmtl.circuit import Ansatz, Encoding, ExpectationZ, HeadCircuit, RegisterEncoding
from qmtl.errors import InvalidInputError, check_integer
from qmtl.heads._head import CircuitHead
from qmtl.heads._initial import (
    all_blocks,
    block_weights,
    circuit_weights,
    drawn_seed,
    linear_weights,
)
from qmtl.heads._linear import DenseLayers, LocalLayers
from qmtl.heads._task_rows import TaskRows
from qmtl.simulators import ANGLE_MAPS, Simulator, simulator_from_dict
from qmtl.tasks import Task

# Name of the shared circuit's only task, which saved models contain.
MEASURED = "wires"


class VQCPerTaskHead(CircuitHead):
    """A variational circuit per task, followed by a linear layer on ⟨Z⟩ of all its wires.

    Each register has the encoding and block of `circuit` on the register's wires alone, with no
    gate between registers. In the partitioned layout a task's circuit loads the features of the
    task's register; in the shared layout every task's circuit loads all features. All circuits run
    as one batch on the simulator.

    Args:
        circuit: the quantum head's circuit, for tasks, registers, encoding and blocks.
        simulator: ``"lightcone"``, the name of a PennyLane device, or a `Simulator`.
        angle_map: map from features to angles, as in `QuantumHead`.
        seed: seed of the initial weights, drawn per task; None draws it from torch's global
            generator.
        initial: initial weights of the blocks, as in `QuantumHead`.

    Shape:
        features ``(batch, circuit.n_features)`` to ``{task: (batch, n_outputs)}``.

    Raises:
        InvalidInputError: if the features of the encoding cannot be divided among the registers.

    Example:
        >>> head = VQCPerTaskHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]), seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(5, 4)).items()}
        {'a': (5, 1), 'b': (5, 3)}

    References:
        The hybrid form of Mari et al., arXiv:1912.08278 (a circuit between classical layers), for
        each task.
    """

    def __init__(
        self,
        circuit: HeadCircuit,
        simulator: str | Simulator = "lightcone",
        *,
        angle_map: str = "narrow",
        seed: int | None = None,
        initial: str = "equator",
    ) -> None:
        super().__init__(circuit.tasks, circuit, simulator, angle_map)
        self.separate = _cut_apart(circuit)
        self.columns = _columns(circuit, self.separate)
        seed = drawn_seed(seed)
        sizes = {name: len(register.wires) for name, register in circuit.registers.items()}
        self.encodings = TaskRows(
            {
                name: circuit_weights(seed, f"encoding of {name}", circuit.encoding.n_weights(size))
                for name, size in sizes.items()
            }
        )
        self.blocks = TaskRows(all_blocks(seed, self.separate, initial))
        layers = {
            t.name: linear_weights(seed, f"layer of {t.name}", sizes[t.name], t.n_outputs)
            for t in self.tasks
        }
        outputs = self.separate.output_slices
        measured = {name: range(s.start, s.stop) for name, s in outputs.items()}
        self.layers = LocalLayers(layers, measured, sum(sizes.values()))

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        angles = ANGLE_MAPS[self.angle_map](features)
        if self.circuit.layout == "shared":
            angles = angles[:, self.columns]
        weights = torch.cat([self.encodings(), self.blocks()])
        values = self.simulator.values(self.separate, angles, weights, names)
        if names is None:
            logits: Tensor = self.layers(values)
            return logits
        sizes = [len(self.circuit.registers[name].wires) for name in names]
        return self.layers.of_tasks(dict(zip(names, values.split(sizes, dim=1), strict=True)))


class SharedVQCHead(CircuitHead):
    """One variational circuit for all tasks, then a linear layer per task on ⟨Z⟩ of all wires.

    The circuit has a fixed number of wires for any number of tasks.

    Args:
        tasks: the tasks.
        n_wires: number of wires of the circuit.
        encoding: the encoding; None for the default.
        ansatz: the block; None for the default.
        simulator: ``"lightcone"``, the name of a PennyLane device, or a `Simulator`.
        angle_map: map from features to angles, as in `QuantumHead`.
        seed: seed of the initial weights, which are drawn per task for the linear layers. None
            draws the seed from torch's global generator.
        initial: initial weights of the block, as in `QuantumHead`.

    Shape:
        features ``(batch, circuit.n_features)`` to ``{task: (batch, n_outputs)}``.

    Example:
        >>> head = SharedVQCHead([Task.binary("a"), Task.multiclass("b", 3)], n_wires=4, seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(5, 4)).items()}
        {'a': (5, 1), 'b': (5, 3)}

    References:
        The hybrid form of Mari et al., arXiv:1912.08278 (a circuit between classical layers), with
        an output layer per task.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        n_wires: int = 8,
        encoding: Encoding | None = None,
        ansatz: Ansatz | None = None,
        simulator: str | Simulator = "lightcone",
        *,
        angle_map: str = "narrow",
        seed: int | None = None,
        initial: str = "equator",
    ) -> None:
        circuit = shared_circuit(n_wires, encoding, ansatz)
        super().__init__(tasks, circuit, simulator, angle_map)
        seed = drawn_seed(seed)
        weights = circuit_weights(seed, "encoding", circuit.n_encoding_weights)
        block = block_weights(seed, "block", circuit, MEASURED, initial)
        # DistributedDataParallel waits for the gradient of every trainable parameter, empty or not.
        self.encoding = nn.Parameter(weights, requires_grad=len(weights) > 0)
        self.block = nn.Parameter(block, requires_grad=len(block) > 0)
        self.layers = DenseLayers(seed, self.tasks, n_wires)

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        angles = ANGLE_MAPS[self.angle_map](features)
        weights = torch.cat([self.encoding, self.block])
        logits: Tensor = self.layers(self.simulator.values(self.circuit, angles, weights), names)
        return logits

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"tasks": [task.to_dict() for task in self.tasks]}

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        from qmtl.circuit import circuit_from_dict

        circuit = circuit_from_dict(description["circuit"], custom=custom or {})
        tasks = [Task.from_dict(task) for task in description["tasks"]]
        parts = circuit.n_wires, circuit.encoding, circuit.ansatz(MEASURED)
        simulator = simulator_from_dict(description["simulator"])
        return cls(tasks, *parts, simulator, angle_map=description["angle_map"], seed=0)


def shared_circuit(
    n_wires: int, encoding: Encoding | None = None, ansatz: Ansatz | None = None
) -> HeadCircuit:
    """Return the circuit of a `SharedVQCHead`: one register with all wires read."""
    n_wires = check_integer("n_wires", n_wires)
    return HeadCircuit(
        # This task reads all wires; the linear layers compute the real tasks' outputs.
        [Task.regression(MEASURED, n_wires)],
        encoding,
        ansatz,
        wires_per_task=n_wires,
        readouts={MEASURED: ExpectationZ(n_wires)},
    )


def _cut_apart(circuit: HeadCircuit) -> HeadCircuit:
    """Return a circuit with a separate register and encoding for each task, and all wires read."""
    sizes = {name: len(register.wires) for name, register in circuit.registers.items()}
    return HeadCircuit(
        # These tasks read all wires; the linear layers compute the real tasks' outputs.
        [Task.regression(name, size) for name, size in sizes.items()],
        RegisterEncoding(tuple(sizes.values()), circuit.encoding),
        {name: circuit.ansatz(name) for name in sizes},
        wires_per_task=sizes,
        readouts={name: ExpectationZ(size) for name, size in sizes.items()},
    )


def _columns(circuit: HeadCircuit, separate: HeadCircuit) -> list[int]:
    """Return the feature of `circuit` for each encoding angle of the separate circuits."""
    copies = len(circuit.tasks) if circuit.layout == "shared" else 1
    if separate.n_features != copies * circuit.n_features:
        raise InvalidInputError(
            f"the features of {circuit.encoding} cannot be divided among registers: it takes "
            f"{circuit.n_features} on {circuit.n_wires} wires, and "
            f"{separate.n_features // copies} on separate registers"
        )
    return list(range(circuit.n_features)) * copies
