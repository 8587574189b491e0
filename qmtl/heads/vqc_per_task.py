"""VQCPerTaskHead: a hybrid peer, in which each task has a circuit of its own and a linear layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.readout import ExpectationZ
from qmtl.circuit.register_encoding import RegisterEncoding
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads.affine import local_linear
from qmtl.heads.computed import leaves, values_of
from qmtl.heads.counts import vqc_per_task_count
from qmtl.heads.features import check_features, chosen_tasks, task_key
from qmtl.heads.initial import (
    INITIAL_STD,
    block_weights,
    circuit_weights,
    drawn_seed,
    linear_layer,
)
from qmtl.heads.quantum import ANGLE_MAPS
from qmtl.simulators import Simulator, simulator_for, simulator_from_dict, simulator_to_dict
from qmtl.tasks import Task

__all__ = ["VQCPerTaskHead"]


class VQCPerTaskHead(nn.Module):
    """Each task a variational circuit of its own, then a linear layer on ⟨Z⟩ of all its wires.

    The circuits are the quantum head's, cut apart: a register's encoding and block are those of
    `circuit` on the register's wires alone, with no gate between registers. In the partitioned
    layout a task's circuit loads the features of its own register; in the shared layout every
    task's circuit loads all of them. All circuits run as one batch on the simulator.

    Args:
        circuit: the quantum head's circuit, for tasks, registers, encoding and blocks.
        simulator: ``"lightcone"``, the name of a PennyLane device, or a `Simulator`.
        angle_map: as in `QuantumHead`.
        seed: of the initial weights, drawn per task; None draws it from torch's global generator.
        initial: how the blocks start, as in `QuantumHead`.

    Shape:
        features ``(batch, circuit.n_features)`` to ``{task: (batch, n_outputs)}``.

    Raises:
        InvalidInputError: for an encoding whose features cannot be dealt out to the registers.

    Example:
        >>> head = VQCPerTaskHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]), seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(5, 4)).items()}
        {'a': (5, 1), 'b': (5, 3)}

    References:
        The hybrid form of Mari et al., arXiv:1912.08278 (a circuit between classical layers), once
        per task.
    """

    def __init__(
        self,
        circuit: HeadCircuit,
        simulator: str | Simulator = "lightcone",
        *,
        angle_map: str = "tanh",
        seed: int | None = None,
        initial: str = "normal",
    ) -> None:
        super().__init__()
        if angle_map not in ANGLE_MAPS:
            raise unknown_name("angle_map", angle_map, ANGLE_MAPS)
        self.circuit = circuit
        self.separate = _cut_apart(circuit)
        self.columns = _columns(circuit, self.separate)
        self.simulator = simulator_for(simulator)
        self.angle_map = angle_map
        seed = drawn_seed(seed)
        self.encodings = nn.ParameterDict()
        self.blocks = nn.ParameterDict()
        self.layers = nn.ModuleDict()
        for name, register in self.separate.registers.items():
            key, size = task_key(name), len(register.wires)
            self.encodings[key] = circuit_weights(
                seed,
                f"encoding of {name}",
                circuit.encoding.n_weights(size),
                INITIAL_STD["encoding"],
            )
            self.blocks[key] = block_weights(seed, f"task {name}", self.separate, name, initial)
            outputs = circuit.task(name).n_outputs
            self.layers[key] = linear_layer(seed, f"layer of {name}", size, outputs)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the circuit's order."""
        return self.circuit.tasks

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.circuit.n_features

    def count_parameters(self) -> int:
        """Number of trainable parameters, in closed form."""
        return vqc_per_task_count(self.circuit)

    def shared_parameters(self) -> list[nn.Parameter]:
        """None: every parameter belongs to one task."""
        return []

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters of one task: its encoding's and its block's weights, and its linear layer."""
        key = task_key(self.circuit.register(task).task.name)
        weights = [*leaves(self.encodings, key), *leaves(self.blocks, key)]
        return [*weights, *self.layers[key].parameters()]

    def forward(
        self, features: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Logits of the tasks asked for (None: all), each ``(batch, n_outputs)``."""
        check_features(features, self.n_features)
        names = chosen_tasks(tasks, self.circuit.registers)
        if not names:
            return {}
        angles = ANGLE_MAPS[self.angle_map](features)
        if self.circuit.layout == "shared":
            angles = angles[:, self.columns]
        encodings = values_of(self.encodings, self.encodings.keys())
        blocks = values_of(self.blocks, [task_key(name) for name in names])
        weights = {"encoding": torch.cat(encodings), **dict(zip(names, blocks, strict=True))}
        values = self.simulator.expectation_values(self.separate, angles, weights, names)
        layers: dict[str, Any] = {name: self.layers[task_key(name)] for name in names}
        starts, start = {}, 0
        for name in names:
            starts[name] = range(start, start + layers[name].in_features)
            start += layers[name].in_features
        joined = torch.cat([values[name] for name in names], dim=1)
        return local_linear(joined, starts, layers)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the head without its parameters."""
        return {
            "type": "VQCPerTaskHead",
            "circuit": self.circuit.to_dict(),
            "angle_map": self.angle_map,
            "simulator": simulator_to_dict(self.simulator),
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> "VQCPerTaskHead":
        """The head that `to_dict` described, with fresh parameters."""
        from qmtl.circuit.catalogue import circuit_from_dict

        circuit = circuit_from_dict(description["circuit"], custom=custom or {})
        simulator = simulator_from_dict(description["simulator"])
        return cls(circuit, simulator, angle_map=description["angle_map"], seed=0)


def _cut_apart(circuit: HeadCircuit) -> HeadCircuit:
    """One register per task with an encoding of its own, read on all wires."""
    sizes = {name: len(register.wires) for name, register in circuit.registers.items()}
    return HeadCircuit(
        # What is measured: so many numbers, whatever the task makes of them.
        [Task.regression(name, size) for name, size in sizes.items()],
        RegisterEncoding(tuple(sizes.values()), circuit.encoding),
        {name: circuit.ansatz(name) for name in sizes},
        wires_per_task=sizes,
        readouts={name: ExpectationZ(size) for name, size in sizes.items()},
    )


def _columns(circuit: HeadCircuit, separate: HeadCircuit) -> list[int]:
    """Which feature each encoding angle of the separate circuits is."""
    copies = len(circuit.tasks) if circuit.layout == "shared" else 1
    if separate.n_features != copies * circuit.n_features:
        raise InvalidInputError(
            f"the features of {circuit.encoding} cannot be dealt out to registers: it takes "
            f"{circuit.n_features} on {circuit.n_wires} wires, and "
            f"{separate.n_features // copies} on the registers by themselves"
        )
    return list(range(circuit.n_features)) * copies
