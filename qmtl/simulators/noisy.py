"""NoisySimulator: exact head circuits under a device's noise, at any number of tasks.

Observables are taken backwards through gates and channels in the Pauli basis, where noise costs
next to nothing and every string meets only the noise on its own wires. So a task costs what its
light cone costs, and noise that an ideal cone would not see, of gates that cancel but stay in the
circuit, is seen.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators.autograd import Engine, are_plain, engine_values, full_precision
from qmtl.simulators.chunks import ChunkedEngine
from qmtl.simulators.memory import bytes_text, largest_chunk, memory_limit
from qmtl.simulators.noisy_cones import NoisyCone, noisy_cones
from qmtl.simulators.noisy_program import noisy_program
from qmtl.simulators.pauli import PauliEngine
from qmtl.simulators.pauli.polynomials import Polynomials
from qmtl.simulators.pauli.walk import SHIFT
from qmtl.simulators.plan import Group
from qmtl.simulators.simulator import check_inputs
from qmtl.simulators.slots import slot_table

__all__ = ["NoisySimulator", "prepared"]

CACHED_CIRCUITS = 16


class NoisySimulator:
    """Exact simulation of head circuits under noise: values, probabilities and gradients.

    The contract is that of `Simulator`. Time and memory are linear in the number of tasks. Use it
    as ``QuantumHead(circuit, simulator=NoisySimulator(noise))`` or
    ``head.with_simulator(NoisySimulator(noise))``.

    Args:
        noise: channels after the gates, and read-out errors.
        max_memory: bytes that a training step may take; None for three quarters of the machine's.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> weights = {"encoding": torch.zeros(4), "a": torch.zeros(6), "b": torch.zeros(6)}
        >>> noisy = NoisySimulator(DeviceNoise.uniform(readout=0.1))
        >>> noisy.expectation_values(circuit, torch.zeros(1, 4), weights)["a"]
        tensor([[0.8000]])
    """

    def __init__(self, noise: DeviceNoise, max_memory: int | None = None) -> None:
        self.noise = noise
        self.max_memory = max_memory
        self._lock = Lock()
        self._prepare = lru_cache(maxsize=CACHED_CIRCUITS)(self._groups)

    def expectation_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Each task's outputs, shape (batch, n_outputs); see `Simulator`."""
        chosen = check_inputs(circuit, angles, weights, tasks)
        with self._lock:
            groups = self._prepare(circuit, chosen)
        limit = memory_limit(angles.device, self.max_memory)
        found: dict[str, Tensor] = {}
        with full_precision(angles):
            for group, engine in groups:
                own = torch.stack([weights[name] for name in group.tasks])
                outputs = _outputs(engine, limit, angles.T, weights["encoding"], own)
                found |= dict(zip(group.tasks, outputs.mT.unbind(), strict=True))
        return {name: found[name] for name in chosen}

    def _groups(self, circuit: HeadCircuit, tasks: tuple[str, ...]) -> list[tuple[Group, Engine]]:
        alike: dict[object, list[NoisyCone]] = {}
        for cone in noisy_cones(circuit, self.noise, tasks):
            alike.setdefault(cone.structure, []).append(cone)
        return [prepared(circuit, cones) for cones in alike.values()]

    def __getstate__(self) -> dict[str, Any]:
        return {"noise": self.noise, "max_memory": self.max_memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"NoisySimulator({self.noise!r})"


def _outputs(engine: Engine, limit: int, columns: Tensor, encoding: Tensor, own: Tensor) -> Tensor:
    samples, on_cpu = columns.shape[1], columns.device.type == "cpu"
    if not (samples and on_cpu and are_plain(columns, encoding, own)):
        return engine.eager(engine.angles(columns, encoding), encoding, own)
    chunk = largest_chunk(engine, samples, columns.element_size(), limit)
    if not chunk:
        needed = engine.step_bytes(1, columns.element_size())
        raise CircuitTooLargeError(
            f"under noise a step of one sample would take about {bytes_text(needed)}, the limit "
            f"is {bytes_text(limit)}: use fewer tasks at a time, or smaller cones"
        )
    return engine_values(
        engine if chunk == samples else ChunkedEngine(engine, chunk), columns, encoding, own
    )


def prepared(circuit: HeadCircuit, cones: Sequence[NoisyCone]) -> tuple[Group, Engine]:
    """What computes the outputs of cones of one structure.

    Raises:
        CircuitTooLargeError: if the cones are too large for Pauli strings.
    """
    first = cones[0]
    found = noisy_program(first.structure)
    if found is None:
        raise CircuitTooLargeError(
            f"task {first.task!r}: under noise its observables become more Pauli strings than can "
            f"be followed: use fewer encoding layers, fewer wires, or entanglers whose cones are "
            f"small ('cz_ring')"
        )
    program, encoding, block = found
    group = Group(
        tasks=tuple(cone.task for cone in cones),
        outputs=tuple(tuple(range(program.n_outputs)) for _ in cones),
        wires=np.array([cone.wires for cone in cones], np.int64),
        n_inner=len(circuit.register(first.task).wires),
        encoding=(),
        block=(),
        encoding_slots=slot_table([[cone.encoding_angles[i] for i in encoding] for cone in cones]),
        block_slots=slot_table([[cone.block_angles[i] for i in block] for cone in cones]),
        n_weights=circuit.n_weights(first.task),
        readout=np.zeros((program.n_outputs, 1)),
        sizes=(),
    )
    constants = (
        _constants(program.encoding, cones),
        _constants(program.block, cones),
    )
    return group, PauliEngine(group, program, constants)


def _constants(polynomials: Polynomials, cones: Sequence[NoisyCone]) -> np.ndarray:
    """The value of each constant for each cone."""

    def number(channel: Channel, which: int) -> float:
        return channel.shift if which == SHIFT else channel.factors[which]

    return np.array(
        [
            [
                np.prod([number(cone.channels[slot], which) for slot, which in factors])
                for factors in polynomials.constants
            ]
            for cone in cones
        ]
    ).reshape(len(cones), len(polynomials.constants))
