"""SharedVQCHead: a hybrid peer, in which all tasks share one circuit before their linear layers."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor, nn

from qmtl.circuit.ansatz import Ansatz
from qmtl.circuit.encodings import Encoding
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.readout import ExpectationZ
from qmtl.errors import unknown_name
from qmtl.heads.affine import shared_linear
from qmtl.heads.counts import shared_vqc_count
from qmtl.heads.features import check_features, check_width, chosen_tasks, task_key
from qmtl.heads.initial import (
    INITIAL_STD,
    block_weights,
    circuit_weights,
    drawn_seed,
    linear_layer,
)
from qmtl.heads.quantum import ANGLE_MAPS
from qmtl.simulators import Simulator, simulator_for, simulator_from_dict, simulator_to_dict
from qmtl.tasks import Task, check_tasks

__all__ = ["SharedVQCHead", "shared_circuit"]

# The one thing that the shared circuit measures; its name is part of saved models.
MEASURED = "wires"


class SharedVQCHead(nn.Module):
    """One variational circuit for all tasks, ⟨Z⟩ of all its wires, then a linear layer per task.

    The circuit has a fixed number of wires, so the representation does not grow with the tasks.

    Args:
        tasks: the tasks.
        n_wires: wires of the circuit.
        encoding: the encoding; None for the default.
        ansatz: the block; None for the default.
        simulator: ``"lightcone"``, the name of a PennyLane device, or a `Simulator`.
        angle_map: as in `QuantumHead`.
        seed: of the initial weights, the linear layers' drawn per task; None draws it from torch's
            global generator.
        initial: how the block starts, as in `QuantumHead`.

    Shape:
        features ``(batch, circuit.n_features)`` to ``{task: (batch, n_outputs)}``.

    Example:
        >>> import torch
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
        angle_map: str = "tanh",
        seed: int | None = None,
        initial: str = "normal",
    ) -> None:
        super().__init__()
        if angle_map not in ANGLE_MAPS:
            raise unknown_name("angle_map", angle_map, ANGLE_MAPS)
        self.tasks = check_tasks(tasks)
        self.circuit = shared_circuit(n_wires, encoding, ansatz)
        self.simulator = simulator_for(simulator)
        self.angle_map = angle_map
        seed = drawn_seed(seed)
        n_encoding = self.circuit.n_encoding_weights
        self.encoding = circuit_weights(seed, "encoding", n_encoding, INITIAL_STD["encoding"])
        self.block = block_weights(seed, "block", self.circuit, MEASURED, initial)
        self.layers = nn.ModuleDict(
            {
                task_key(task.name): linear_layer(
                    seed, f"task {task.name}", n_wires, task.n_outputs
                )
                for task in self.tasks
            }
        )

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.circuit.n_features

    def count_parameters(self) -> int:
        """Number of trainable parameters, in closed form."""
        return shared_vqc_count(self.tasks, self.circuit)

    def shared_parameters(self) -> list[nn.Parameter]:
        """The circuit's weights."""
        return [p for p in (self.encoding, self.block) if p.numel()]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Weight and bias of one task's linear layer."""
        (name,) = chosen_tasks([task], self._known())
        return list(self.layers[task_key(name)].parameters())

    def forward(
        self, features: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Logits of the tasks asked for (None: all), each ``(batch, n_outputs)``."""
        check_features(features, self.n_features)
        layers: dict[str, Any] = {
            name: self.layers[task_key(name)] for name in chosen_tasks(tasks, self._known())
        }
        if not layers:
            return {}
        angles = ANGLE_MAPS[self.angle_map](features)
        weights = {"encoding": self.encoding, MEASURED: self.block}
        values = self.simulator.expectation_values(self.circuit, angles, weights)
        return shared_linear(values[MEASURED], layers)

    def _known(self) -> list[str]:
        return [task.name for task in self.tasks]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the head without its parameters."""
        return {
            "type": "SharedVQCHead",
            "tasks": [task.to_dict() for task in self.tasks],
            "circuit": self.circuit.to_dict(),
            "angle_map": self.angle_map,
            "simulator": simulator_to_dict(self.simulator),
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        """The head that `to_dict` described, with fresh parameters."""
        from qmtl.circuit.catalogue import circuit_from_dict

        circuit = circuit_from_dict(description["circuit"], custom=custom or {})
        return cls(
            [Task.from_dict(task) for task in description["tasks"]],
            circuit.n_wires,
            circuit.encoding,
            circuit.ansatz(MEASURED),
            simulator_from_dict(description["simulator"]),
            angle_map=description["angle_map"],
            seed=0,
        )


def shared_circuit(
    n_wires: int, encoding: Encoding | None = None, ansatz: Ansatz | None = None
) -> HeadCircuit:
    """The circuit of a `SharedVQCHead`: one register, read on all wires.

    Example:
        >>> shared_circuit(4).count_parameters().circuit
        20
    """
    check_width(n_wires, "n_wires")
    return HeadCircuit(
        # What is measured: so many numbers, whatever the tasks make of them.
        [Task.regression(MEASURED, n_wires)],
        encoding,
        ansatz,
        wires_per_task=n_wires,
        readouts={MEASURED: ExpectationZ(n_wires)},
    )
