"""``qml.device("qmtl.lightcone")`` and ``"qmtl.noisy"``: simulation of QNodes by light cones.

PennyLane's device interface: https://docs.pennylane.ai/en/stable/development/plugins.html
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pennylane as qml
import torch
from autograd.tracer import isbox, trace_stack
from numpy.typing import NDArray
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.modifiers import simulator_tracking, single_tape_support
from pennylane.devices.preprocess import validate_device_wires, validate_measurements
from pennylane.exceptions import DeviceError
from pennylane.measurements import (
    ExpectationMP,
    MeasurementProcess,
    ProbabilityMP,
    SampleMeasurement,
    VarianceMP,
)
from pennylane.tape import QuantumScript
from pennylane.transforms import defer_measurements
from torch import Tensor

from qmtl.circuit import backward_cone, elementary, gates_by_wire
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.noise import DeviceNoise
from qmtl.pennylane._reads import Reads, Sampling, result_of
from qmtl.pennylane._tape import (
    Read,
    TapeCircuit,
    TapeGates,
    decomposed,
    precision,
    stacked,
    tape_circuit,
)
from qmtl.simulators import LightConeSimulator, NoisySimulator

# With these methods the device computes gradients, or torch does for torch tensors.
GRADIENT_METHODS = ("best", "device", "adjoint")


def _analytic(measurement: MeasurementProcess) -> bool:
    return isinstance(measurement, ExpectationMP | VarianceMP | ProbabilityMP)


def _sampled(measurement: MeasurementProcess) -> bool:
    obs = measurement.obs
    is_read = obs is None or obs.pauli_rep is not None or obs.has_diagonalizing_gates
    return isinstance(measurement, SampleMeasurement) and is_read


@qml.transform
def _without_snapshots(tape: QuantumScript) -> tuple[Sequence[QuantumScript], Callable[..., Any]]:
    """Remove snapshots, which have no effect; `qml.snapshots` turns them into separate tapes."""
    kept = [op for op in tape.operations if op.name != "Snapshot"]
    return (tape.copy(operations=kept),), lambda results: results[0]


@simulator_tracking
@single_tape_support
class LightConeDevice(Device):
    """A PennyLane device that simulates each measurement on its backward light cone.

    The device supports expectation values and variances of observables on few wires and of their
    sums, and probabilities, samples and counts of at most 20 wires. Without shots, values and
    gradients are exact. PennyLane decomposes gates that head circuits do not know; parameters may
    be broadcast. With ``diff_method="best"``, qmtl computes vector-Jacobian products in all
    interfaces; torch differentiates to any order. With shots, the samples and counts of one
    execution come from the same shots if their light cones meet and their bases agree. Each term
    of a sum is sampled separately, with all shots.

    Args:
        wires: number or labels of the wires; None for all wires that a circuit uses.
        shots: default number of shots; prefer ``qml.set_shots``.
        seed: seed of the samples: an integer, several, or a generator; ``"global"`` draws the seed
            from NumPy's global generator, as `default.qubit` does; None for a random seed.
        max_memory: largest estimate of an execution's memory in bytes; None for three quarters of
            the machine's memory.

    Raises:
        DeviceError: on execution, for a measurement whose light cone is too wide, an observable
            that is not Hermitian, or an unsupported gate or measurement.

    Example:
        >>> import pennylane as qml
        >>> device = qml.device("qmtl.lightcone", wires=200)
        >>> @qml.qnode(device)
        ... def circuit(x):
        ...     for i in range(200):
        ...         qml.RY(x, i)
        ...     for i in range(200):
        ...         qml.CZ((i, (i + 1) % 200))
        ...     return qml.expval(qml.X(7)), qml.expval(qml.Z(0) @ qml.Z(100))
        >>> [round(float(value), 4) for value in circuit(0.3)]
        [0.2697, 0.9127]
    """

    name = "qmtl.lightcone"
    # Whether measurements that share wires are separate circuits.
    _apart = False

    def __init__(
        self,
        wires: Any = None,
        shots: int | None = None,
        seed: Any = "global",
        max_memory: int | None = None,
    ) -> None:
        super().__init__(wires=wires, shots=shots)
        self._simulator = LightConeSimulator(max_memory=max_memory)
        if isinstance(seed, str) and seed == "global":
            seed = np.random.randint(0, high=10_000_000)
        try:
            self._rng = np.random.default_rng(seed)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"seed must be 'global', None, an integer >= 0, several, or a generator of NumPy, "
                f"got {seed!r}"
            ) from error

    def setup_execution_config(
        self, config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> ExecutionConfig:
        """Return the complete configuration: gradients by torch, or by the device's VJPs."""
        config = config or ExecutionConfig()
        config = replace(config, mcm_config=replace(config.mcm_config, mcm_method="deferred"))
        if config.gradient_method not in GRADIENT_METHODS:
            return config
        _check_order(circuit)
        by_torch = _by_torch(circuit)
        return replace(
            config,
            gradient_method="backprop" if by_torch else "adjoint",
            use_device_gradient=True,
            use_device_jacobian_product=not by_torch,
            grad_on_execution=False,
        )

    def supports_derivatives(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """Return whether the device differentiates: without shots, in torch to any order."""
        if execution_config is None:
            return True
        known = execution_config.gradient_method in GRADIENT_METHODS
        if circuit is None or not known:
            return known
        first = bool(execution_config.derivative_order == 1)
        return not circuit.shots and (first or _by_torch(circuit))

    supports_vjp = supports_derivatives

    def preprocess_transforms(
        self, execution_config: ExecutionConfig | None = None
    ) -> "qml.CompilePipeline":
        """Return the transforms that PennyLane applies to a circuit before its execution."""
        pipeline = qml.CompilePipeline()
        pipeline.add_transform(_without_snapshots)
        pipeline.add_transform(validate_device_wires, self.wires, name=self.name)
        pipeline.add_transform(defer_measurements, allow_postselect=False)
        pipeline.add_transform(decomposed, device_wires=self.wires, name=self.name)
        pipeline.add_transform(
            validate_measurements,
            analytic_measurements=_analytic,
            sample_measurements=_sampled,
            name=self.name,
        )
        return pipeline

    def execute(
        self,
        circuits: QuantumScript | Sequence[QuantumScript],
        execution_config: ExecutionConfig | None = None,
    ) -> Any:
        """Return the results of each circuit: one value, or a tuple of values."""
        return tuple(map(self._execute, circuits))

    def compute_vjp(
        self,
        circuits: QuantumScript | Sequence[QuantumScript],
        cotangents: Any,
        execution_config: ExecutionConfig | None = None,
    ) -> Any:
        """Return each circuit's vector-Jacobian product with respect to trainable parameters."""
        return tuple(map(self._vjp, circuits, cotangents))

    def compute_derivatives(
        self,
        circuits: QuantumScript | Sequence[QuantumScript],
        execution_config: ExecutionConfig | None = None,
    ) -> Any:
        """Return each circuit's Jacobian with respect to its trainable parameters."""
        return tuple(map(self._jacobian, circuits))

    def _execute(self, tape: QuantumScript) -> Any:
        if tape.shots:
            sampled = self._samples(tape)
            return sampled if len(sampled) > 1 or tape.shots.has_partitioned_shots else sampled[0]
        results = self._values(tape)
        found = results if _by_torch(tape) else [value.detach().numpy() for value in results]
        return tuple(found) if len(found) > 1 else found[0]

    def _with_leaves(self, tape: QuantumScript) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return trainable parameters as torch tensors, and the results that depend on them."""
        leaves = [
            torch.tensor(qml.math.toarray(parameter), dtype=torch.float64, requires_grad=True)
            for parameter in tape.get_parameters()
        ]
        with torch.enable_grad():
            return leaves, self._values(tape.bind_new_parameters(leaves, tape.trainable_params))

    def _vjp(self, tape: QuantumScript, cotangents: Any) -> tuple[NDArray[np.float64], ...]:
        leaves, results = self._with_leaves(tape)
        given = cotangents if len(results) > 1 else [cotangents]
        weights = [torch.tensor(qml.math.toarray(c), dtype=torch.float64) for c in given]
        # jax passes several cotangents at once, as leading dimensions.
        fronts = [w.shape[: max(0, w.ndim - r.ndim)] for w, r in zip(weights, results, strict=True)]
        return _gradients(results, leaves, weights, max(fronts, key=len))

    def _jacobian(self, tape: QuantumScript) -> Any:
        leaves, results = self._with_leaves(tape)
        every = []
        for result in results:
            units = torch.eye(result.numel(), dtype=result.dtype).reshape(2 * result.shape)
            columns = _gradients([result], leaves, [units], result.shape)
            every.append(columns if len(columns) > 1 else columns[0])
        return tuple(every) if len(every) > 1 else every[0]

    def _places(self, tape: QuantumScript) -> dict[Any, int]:
        """Return the number of each wire label, including extra wires of deferred measurements."""
        wires = [*(self.wires or ()), *tape.wires]
        return {wire: i for i, wire in enumerate(dict.fromkeys(wires))}

    def _values(self, tape: QuantumScript) -> tuple[Tensor, ...]:
        """Return the exact values of the measurements, differentiable by torch."""
        places = self._places(tape)
        reads = Reads(places.__getitem__)
        results = [result_of(measurement, reads, tape) for measurement in tape.measurements]
        outputs = self._outputs(tape, TapeGates.of(tape, places.__getitem__), places, reads.all)
        values = [result.value(outputs[:, result.columns]) for result in results]
        return tuple(values if tape.batch_size is not None else (value[0] for value in values))

    def _outputs(
        self, tape: QuantumScript, gates: TapeGates, places: dict[Any, int], reads: tuple[Read, ...]
    ) -> Tensor:
        """Return all outputs side by side, (batch, outputs); batch is 1 without broadcasting."""
        circuit = tape_circuit(max(len(places), 1), gates.gates, reads, self._apart)
        dtype = precision([*gates.features, *gates.weights])
        numbers = stacked(gates.weights, dtype)
        batch = 1 if tape.batch_size is None else tape.batch_size
        angles = stacked(gates.features, dtype, (batch,)).T
        try:
            return self._simulator.values(circuit, angles, numbers)
        except CircuitTooLargeError as error:
            raise DeviceError(_too_wide(self.name, circuit, list(places))) from error

    def _samples(self, tape: QuantumScript) -> tuple[Any, ...]:
        """Return the values of the measurements, estimated from samples."""
        places = self._places(tape)
        gates = TapeGates.of(tape, places.__getitem__)
        sampling = Sampling(tape, self._support(gates, places))
        reads = Reads(places.__getitem__)
        columns = [reads.probabilities(draw.wires, draw.gates) for draw in sampling.draws]
        with torch.no_grad():
            outputs = self._outputs(tape, gates, places, reads.all).double().numpy()
        return sampling.results([outputs[:, own] for own in columns], self._rng)

    def _support(
        self, gates: TapeGates, places: dict[Any, int]
    ) -> Callable[[Iterable[Any]], frozenset[Any]]:
        """Return a function from wires to the wires of their light cone."""
        own = elementary(gates.gates)
        by_wire = gates_by_wire(own)

        def support(wires: Iterable[Any]) -> frozenset[Any]:
            read = [places[wire] for wire in wires]
            cone = backward_cone(own, [], read, diagonal=False, encoding_by_wire=by_wire)
            return frozenset(cone.wires)

        return support


def _by_torch(circuit: QuantumScript | None) -> bool:
    """Return whether torch differentiates: some parameters of the circuit are torch tensors."""
    parameters = [] if circuit is None else circuit.get_parameters(trainable_only=False)
    return any(isinstance(parameter, Tensor) for parameter in parameters)


def _check_order(circuit: QuantumScript | None) -> None:
    """Raise an error for a second derivative by autograd, which would silently be 0."""
    parameters = [] if circuit is None else circuit.get_parameters(trainable_only=False)
    # autograd numbers traces from 0. Only the printed form shows that a number is traced twice.
    twice = (isbox(p) and str(p).count("ArrayBox") > 1 for p in parameters)
    if trace_stack.top > 0 and any(twice):
        raise DeviceError(
            "qmtl's devices have only first derivatives with autograd. For second derivatives, "
            "give the QNode max_diff=2, which uses parameter shifts; torch has derivatives of any "
            "order"
        )


def _gradients(
    results: Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Sequence[Tensor],
    front: Sequence[int],
) -> tuple[NDArray[np.float64], ...]:
    """Return the gradients of the weighted results; `front` are leading dimensions of `weights`."""
    pairs = [(r, w) for r, w in zip(results, weights, strict=True) if r.requires_grad]
    if not pairs or not leaves:
        return tuple(np.zeros((*front, *leaf.shape)) for leaf in leaves)
    rows = [w.expand((*front, *r.shape)).reshape((-1, *r.shape)) for r, w in pairs]
    found = [
        torch.autograd.grad(
            [result for result, _ in pairs],
            list(leaves),
            row,
            retain_graph=True,
            materialize_grads=True,
        )
        for row in zip(*rows, strict=True)
    ]
    parts = zip(*found, strict=True)
    return tuple(torch.stack(p).reshape((*front, *p[0].shape)).numpy() for p in parts)


def _too_wide(device: str, circuit: TapeCircuit, labels: Sequence[Any]) -> str:
    """Return the message for a too wide light cone: its measurement, its gates, alternatives."""
    cones = {name: circuit.light_cone(name) for name in circuit.registers}
    name = max(cones, key=lambda name: len(cones[name].wires))
    read = [labels[i] for i in circuit.register(name).wires]
    gates = ", ".join(
        f"{gate.name} on {[labels[i] for i in gate.wires]}" for gate, _ in cones[name].growth[-3:]
    )
    # Without such gates the measurement itself has too many wires.
    why = f" The first gates of the circuit that widen its light cone are {gates}." if gates else ""
    return (
        f"{device}: the measurement on {len(read)} wires, {read[:6]}{'…' * (len(read) > 6)}, "
        f"depends on {len(cones[name].wires)} of {circuit.n_wires} wires, too many to simulate."
        f"{why} Use lightning.qubit (up to about 30 wires) or lightning.tensor"
    )


class NoisyDevice(LightConeDevice):
    """A PennyLane device that simulates hardware noise exactly, on the measurements' light cones.

    Channels follow each elementary gate (``Hadamard``, ``RX``, ``RY``, ``RZ``, ``CZ``, ``CNOT``,
    ``IsingZZ``; other gates are decomposed into these). Measurements have read-out errors.
    Observables other than Z need further gates, which are noisy, too. The wires of `noise` are the
    positions of the device's wires, from 0. Measurements that share wires run in separate circuits,
    as on hardware.

    Args:
        noise: a `qmtl.noise.DeviceNoise`: noise of gates, idle wires, and read-out.
        wires, shots, seed, max_memory: as for `LightConeDevice`.

    Example:
        >>> import pennylane as qml
        >>> from qmtl.noise import DeviceNoise
        >>> noise = DeviceNoise.uniform(one_qubit=0.001, two_qubit=0.01, readout=0.02)
        >>> device = qml.device("qmtl.noisy", wires=100, noise=noise)
        >>> @qml.qnode(device)
        ... def circuit(x):
        ...     for i in range(100):
        ...         qml.RY(x, i)
        ...     for i in range(100):
        ...         qml.CZ((i, (i + 1) % 100))
        ...     return qml.expval(qml.Z(7))
        >>> round(float(circuit(0.3)), 4)
        0.8965
    """

    name = "qmtl.noisy"
    _apart = True  # gates before one measurement disturb other measurements on the same wires

    def __init__(
        self,
        wires: Any = None,
        noise: DeviceNoise | None = None,
        shots: int | None = None,
        seed: Any = "global",
        max_memory: int | None = None,
    ) -> None:
        super().__init__(wires, shots, seed, max_memory)
        if not isinstance(noise, DeviceNoise):
            raise InvalidInputError(
                f"noise must be a qmtl.noise.DeviceNoise, such as DeviceNoise.uniform(0.001, 0.01),"
                f" got {noise!r}"
            )
        self._simulator = NoisySimulator(noise, max_memory)

    def _support(
        self, gates: TapeGates, places: dict[Any, int]
    ) -> Callable[[Iterable[Any]], frozenset[Any]]:
        # Noise also acts through gates outside the ideal light cones, so all wires are one cone.
        return lambda wires: frozenset(["all"])
