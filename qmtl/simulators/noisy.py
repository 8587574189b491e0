"""NoisySimulator: exact head circuits under a device's noise, at any number of tasks.

Gates and channels act on Pauli strings, where noise costs next to nothing and every string meets
only the noise on its own wires. So a task costs what its light cone costs, and noise that an ideal
cone would not see, of gates that cancel but stay in the circuit, is seen.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.noise import DeviceNoise
from qmtl.simulators.autograd import are_plain, engine_values, full_precision
from qmtl.simulators.chunks import ChunkedEngine
from qmtl.simulators.engine import Engine
from qmtl.simulators.explain import Explanation
from qmtl.simulators.memory import largest_chunk, memory_limit
from qmtl.simulators.noisy_cones import NoisyCone, noisy_cones
from qmtl.simulators.noisy_engines import check_fits, noisy_engine
from qmtl.simulators.noisy_explain import explain_noisy
from qmtl.simulators.plan import Group
from qmtl.simulators.simulator import check_inputs

__all__ = ["NoisySimulator", "group_values"]

CACHED_CIRCUITS = 16
# Cones of one structure, as a group, and what computes their outputs.
Prepared = tuple[list[NoisyCone], Group, Engine]


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
            for _, group, engine in groups:
                own = [weights[name] for name in group.tasks]
                outputs = group_values(
                    circuit, group, engine, (angles.T, weights["encoding"]), own, limit
                )
                found |= dict(zip(group.tasks, outputs.mT.unbind(), strict=True))
        return {name: found[name] for name in chosen}

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Noisy and ideal cones, bytes and operations of a step, without running one.

        Raises:
            CircuitTooLargeError: if not even one sample in single precision fits.

        Example:
            >>> from qmtl import AngleEncoding, HeadCircuit, Task
            >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)], AngleEncoding(1))
            >>> plan = NoisySimulator(DeviceNoise.uniform(0.001, 0.01)).explain(circuit, 32)
            >>> plan.groups[0].cone_wires, plan.groups[0].ideal_wires
            (6, 4)
        """
        with self._lock:
            groups = self._prepare(circuit, tuple(circuit.registers))
        limit = memory_limit(torch.device("cpu"), self.max_memory)
        engines = [(cones, engine) for cones, _, engine in groups]
        return explain_noisy(circuit, engines, batch_size, dtype, limit)

    def _groups(self, circuit: HeadCircuit, tasks: tuple[str, ...]) -> list[Prepared]:
        alike: dict[object, list[NoisyCone]] = {}
        for cone in noisy_cones(circuit, self.noise, tasks):
            alike.setdefault(cone.structure, []).append(cone)
        limit = memory_limit(torch.device("cpu"), self.max_memory)
        return [(cones, *noisy_engine(circuit, cones, limit)) for cones in alike.values()]

    def __getstate__(self) -> dict[str, Any]:
        return {"noise": self.noise, "max_memory": self.max_memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"NoisySimulator({self.noise!r})"


def group_values(
    circuit: HeadCircuit,
    group: Group,
    engine: Engine,
    shared: tuple[Tensor, Tensor],
    own: Sequence[Tensor],
    limit: int,
) -> Tensor:
    """Outputs of a group's tasks, shape (tasks, n_outputs, samples), in chunks where they must be.

    Args:
        circuit: whose tasks they are.
        group: the tasks.
        engine: what computes them.
        shared: features (n_features, samples), and the encoding's weights.
        own: each task's weights.
        limit: bytes that a step may take.

    Raises:
        CircuitTooLargeError: if not even one sample fits.
    """
    columns, encoding = shared
    shape = (len(group.members), -1, columns.shape[1])
    samples, on_cpu = columns.shape[1], columns.device.type == "cpu"
    if not (samples and on_cpu and are_plain(*shared, *own)):
        return engine.eager(engine.angles(columns, encoding), encoding, torch.stack(list(own)))
    itemsize = columns.element_size()
    check_fits(circuit, group, engine, itemsize, limit)
    chunk = largest_chunk(engine, samples, itemsize, limit)
    fitting = engine if chunk == samples else ChunkedEngine(engine, chunk)
    return engine_values(fitting, columns.T, encoding, lambda: own).T.reshape(shape)
