"""``qml.device("qmtl.lightcone")``: any PennyLane QNode by the light cones of its measurements.

Each measurement depends on the gates of its backward light cone only. So a wide and shallow circuit
with local observables costs what its cones cost, whatever its number of wires.

References:
    PennyLane's device interface: https://docs.pennylane.ai/en/stable/development/plugins.html
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pennylane as qml
import torch
from numpy.typing import NDArray
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.modifiers import simulator_tracking
from pennylane.devices.preprocess import decompose, validate_device_wires, validate_measurements
from pennylane.exceptions import DeviceError
from pennylane.measurements import (
    ExpectationMP,
    MeasurementProcess,
    ProbabilityMP,
    SampleMeasurement,
    VarianceMP,
)
from pennylane.tape import QuantumScript
from pennylane.transforms import defer_measurements, split_non_commuting
from torch import Tensor

from qmtl.circuit import Angle, Gate
from qmtl.errors import CircuitTooLargeError
from qmtl.pennylane._tape import (
    GATES,
    IDLE,
    Read,
    Reads,
    TapeCircuit,
    basis_gates,
    decomposition,
    is_known,
    precision,
    result_of,
    stacked,
)
from qmtl.simulators import LightConeSimulator

__all__ = ["LightConeDevice"]

# Number of circuits that are kept with their plans, by their gates.
CACHED_CIRCUITS = 32
# Of the device itself; PennyLane may also ask for the "best".
GRADIENT_METHODS = ("best", "device", "adjoint")


def _analytic(measurement: MeasurementProcess) -> bool:
    return isinstance(measurement, ExpectationMP | VarianceMP | ProbabilityMP)


def _sampled(measurement: MeasurementProcess) -> bool:
    return isinstance(measurement, SampleMeasurement)


@qml.transform
def _sampled_apart(tape: QuantumScript) -> tuple[Sequence[QuantumScript], Callable[..., Any]]:
    """The terms of sums, if they are sampled, as measurements of their own."""
    sums = [m.obs for m in tape.measurements if isinstance(m.obs, qml.ops.Sum | qml.ops.SProd)]
    found: tuple[Sequence[QuantumScript], Callable[..., Any]]
    if tape.shots and sums:
        found = split_non_commuting(tape, grouping_strategy=None)
    else:
        found = (tape,), lambda results: results[0]
    return found


@simulator_tracking
class LightConeDevice(Device):
    """A PennyLane device whose cost is that of the measurements' light cones.

    Expectation values and variances of any observable of few wires, sums of them, and
    probabilities, samples and counts of at most 20 wires. Values and gradients are exact without
    shots. Gates that head circuits do not know are decomposed by PennyLane; parameters may be
    broadcast. Gradients of ``diff_method="best"`` are vector-Jacobian products by our engines, in
    all interfaces; torch differentiates to any order. With shots each term of a sum is sampled on
    its own, with all shots.

    Args:
        wires: their number or labels; None for whatever a circuit uses.
        shots: the default number; rather use ``qml.set_shots``.
        seed: of the samples; None for a random one.
        max_memory: bytes that an execution may take, by estimate; None for three quarters of the
            machine's memory.

    Raises:
        DeviceError: when a circuit is executed, for a measurement whose light cone is too wide.

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

    def __init__(
        self,
        wires: Any = None,
        shots: int | None = None,
        seed: int | None = None,
        max_memory: int | None = None,
    ) -> None:
        super().__init__(wires=wires, shots=shots)
        self._simulator = LightConeSimulator(max_memory=max_memory)
        self._rng = np.random.default_rng(seed)
        self._circuits: OrderedDict[Any, TapeCircuit] = OrderedDict()

    def setup_execution_config(
        self, config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> ExecutionConfig:
        """Complete the configuration: backpropagation in torch, else our vector products."""
        config = config or ExecutionConfig()
        changes: dict[str, Any] = {"mcm_config": replace(config.mcm_config, mcm_method="deferred")}
        method = config.gradient_method
        if method in GRADIENT_METHODS:
            by_torch = _by_torch(circuit) and method != "adjoint"
            changes["gradient_method"] = "backprop" if by_torch else "adjoint"
            changes["use_device_gradient"] = True
            changes["use_device_jacobian_product"] = not by_torch
            changes["grad_on_execution"] = False
        return replace(config, **changes)

    def supports_derivatives(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """Whether derivatives come from the device: without shots, by torch to any order."""
        if execution_config is None:
            return True
        if execution_config.gradient_method not in GRADIENT_METHODS:
            return False
        if circuit is None:
            return True
        if circuit.shots:
            return False
        return _by_torch(circuit) or execution_config.derivative_order == 1

    def supports_vjp(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """Whether vector-Jacobian products come from the device."""
        return self.supports_derivatives(execution_config, circuit)

    def supports_jvp(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """False: PennyLane makes them from Jacobians."""
        return False

    def preprocess_transforms(
        self, execution_config: ExecutionConfig | None = None
    ) -> "qml.CompilePipeline":
        """What PennyLane does with a circuit before it is executed."""
        pipeline = qml.CompilePipeline()
        pipeline.add_transform(validate_device_wires, self.wires, name=self.name)
        pipeline.add_transform(defer_measurements, allow_postselect=False)
        pipeline.add_transform(
            decompose,
            stopping_condition=is_known,
            skip_initial_state_prep=False,
            decomposer=decomposition,
            target_gates=set(GATES),
            device_wires=self.wires,
            name=self.name,
        )
        pipeline.add_transform(
            validate_measurements,
            analytic_measurements=_analytic,
            sample_measurements=_sampled,
            name=self.name,
        )
        pipeline.add_transform(_sampled_apart)
        return pipeline

    def execute(
        self,
        circuits: QuantumScript | Sequence[QuantumScript],
        execution_config: ExecutionConfig | None = None,
    ) -> Any:
        """The measurements of circuits, each a value or a tuple of them."""
        if isinstance(circuits, QuantumScript):
            return self._execute(circuits)
        return tuple(map(self._execute, circuits))

    def compute_vjp(
        self,
        circuits: QuantumScript | Sequence[QuantumScript],
        cotangents: Any,
        execution_config: ExecutionConfig | None = None,
    ) -> Any:
        """Gradients of circuits' weighted results with respect to their trainable parameters."""
        if isinstance(circuits, QuantumScript):
            return self._vjp(circuits, cotangents)
        return tuple(map(self._vjp, circuits, cotangents))

    def compute_derivatives(
        self,
        circuits: QuantumScript | Sequence[QuantumScript],
        execution_config: ExecutionConfig | None = None,
    ) -> Any:
        """Jacobians of circuits' results with respect to their trainable parameters."""
        if isinstance(circuits, QuantumScript):
            return self._jacobian(circuits)
        return tuple(map(self._jacobian, circuits))

    def _execute(self, tape: QuantumScript) -> Any:
        parameters = tape.get_parameters(trainable_only=False)
        if any(isinstance(parameter, Tensor) for parameter in parameters):
            results = self._values(tape)
            return results if len(results) > 1 else results[0]
        found: Sequence[Any]
        if tape.shots:
            found = self._samples(tape)
        else:
            with torch.no_grad():
                found = [value.numpy() for value in self._values(tape)]
        if tape.shots.has_partitioned_shots:
            return tuple(found)
        return tuple(found) if len(found) > 1 else found[0]

    def _with_leaves(self, tape: QuantumScript) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Trainable parameters as torch's, and the results that depend on them."""
        leaves = [
            torch.tensor(qml.math.toarray(parameter), dtype=torch.float64, requires_grad=True)
            for parameter in tape.get_parameters()
        ]
        with torch.enable_grad():
            return leaves, self._values(tape.bind_new_parameters(leaves, tape.trainable_params))

    def _vjp(self, tape: QuantumScript, cotangents: Any) -> tuple[NDArray[np.float64], ...]:
        leaves, results = self._with_leaves(tape)
        given = cotangents if len(results) > 1 else [cotangents]
        weights = [
            torch.as_tensor(np.array(qml.math.toarray(c)), dtype=torch.float64).reshape(r.shape)
            for c, r in zip(given, results, strict=True)
        ]
        return _gradients(results, leaves, weights)

    def _jacobian(self, tape: QuantumScript) -> Any:
        leaves, results = self._with_leaves(tape)
        every = []
        for result in results:
            rows = []
            for place in range(result.numel()):
                one = torch.zeros(result.numel(), dtype=result.dtype)
                one[place] = 1
                rows.append(_gradients([result], leaves, [one.reshape(result.shape)]))
            columns = [
                np.stack(part).reshape(*result.shape, *part[0].shape)
                for part in zip(*rows, strict=True)
            ]
            every.append(tuple(columns) if len(columns) > 1 else columns[0])
        return tuple(every) if len(every) > 1 else every[0]

    def _place(self, tape: QuantumScript) -> tuple[Callable[[Any], int], int]:
        """From wire labels to places, and how many there are."""
        wires = self.wires or tape.wires
        places = {wire: i for i, wire in enumerate(wires)}
        return places.__getitem__, max(len(wires), 1)

    def _values(self, tape: QuantumScript) -> tuple[Tensor, ...]:
        """The measurements' exact values, differentiable by torch."""
        place, n_wires = self._place(tape)
        reads = Reads(place)
        results = [result_of(measurement, reads, tape) for measurement in tape.measurements]
        outputs = self._outputs(tape, place, n_wires, reads.all)
        values = [result.value(outputs[:, result.columns]) for result in results]
        return tuple(values if tape.batch_size is not None else (value[0] for value in values))

    def _outputs(
        self, tape: QuantumScript, place: Callable[[Any], int], n: int, reads: tuple[Read, ...]
    ) -> Tensor:
        """What is read, side by side, shape (batch, outputs); the batch is 1 without broadcast."""
        gates: list[tuple[str, tuple[int, ...], Angle | None]] = []
        features: list[Any] = []
        weights: list[Any] = []
        for op in tape.operations:
            if op.name in IDLE:
                continue
            angle = None
            if op.num_params:
                if op.batch_size is None:
                    angle = Angle(weight=len(weights), owner="encoding")
                    weights.append(op.data[0])
                else:
                    angle = Angle(features=(len(features),))
                    features.append(op.data[0])
            gates.append((op.name, tuple(map(place, op.wires)), angle))
        key = (tuple(gates), reads, n)
        circuit = self._circuits.get(key)
        if circuit is None:
            found = tuple(Gate(*gate) for gate in gates)
            circuit = TapeCircuit(n, found, reads)
            self._circuits[key] = circuit
            while len(self._circuits) > CACHED_CIRCUITS:
                self._circuits.popitem(last=False)
        dtype = precision([*features, *weights])
        numbers = stacked(weights, dtype)
        angles = stacked(features, dtype, (tape.batch_size or 1,)).T
        try:
            return self._simulator.values(circuit, angles, numbers)
        except CircuitTooLargeError as error:
            raise DeviceError(_too_wide(circuit, list(self.wires or tape.wires))) from error

    def _samples(self, tape: QuantumScript) -> Any:
        """The measurements by samples."""
        place, n_wires = self._place(tape)
        reads = Reads(place)
        asked = []
        for measurement in tape.measurements:
            wires = list(measurement.wires or tape.wires)
            columns = reads.probabilities(wires, basis_gates(measurement))
            asked.append((measurement, wires, columns))
        with torch.no_grad():
            outputs = self._outputs(tape, place, n_wires, reads.all).double().numpy()
        total, values = tape.shots.total_shots, []
        for measurement, wires, columns in asked:
            rows = [_bits(self._rng, row, total) for row in outputs[:, columns]]
            bits = np.stack(rows) if tape.batch_size is not None else rows[0]
            order = qml.wires.Wires(wires)
            values.append(
                [
                    measurement.process_samples(bits, order, shot_range=part)
                    for part in tape.shots.bins()
                ]
            )
        if not tape.shots.has_partitioned_shots:
            return tuple(value[0] for value in values)
        parts = list(zip(*values, strict=True))
        return tuple(part if len(part) > 1 else part[0] for part in parts)


def _by_torch(circuit: QuantumScript | None) -> bool:
    """Whether torch differentiates, because its tensors are the circuit's parameters."""
    parameters = [] if circuit is None else circuit.get_parameters(trainable_only=False)
    return any(isinstance(parameter, Tensor) for parameter in parameters)


def _gradients(
    results: Sequence[Tensor], leaves: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[NDArray[np.float64], ...]:
    pairs = [(r, w) for r, w in zip(results, weights, strict=True) if r.requires_grad]
    if not pairs or not leaves:
        return tuple(np.zeros(leaf.shape) for leaf in leaves)
    found = torch.autograd.grad(
        [result for result, _ in pairs],
        list(leaves),
        [weight for _, weight in pairs],
        retain_graph=True,
        materialize_grads=True,
    )
    return tuple(gradient.numpy() for gradient in found)


def _bits(rng: np.random.Generator, likely: NDArray[np.float64], shots: int) -> NDArray[np.int64]:
    """Samples of wires with these probabilities, shape (shots, wires)."""
    likely = np.clip(likely, 0, None)
    states = rng.choice(len(likely), shots, p=likely / likely.sum())
    n = len(likely).bit_length() - 1
    return states[:, None] >> np.arange(n - 1, -1, -1) & 1


def _too_wide(circuit: TapeCircuit, labels: Sequence[Any]) -> str:
    """Which measurement has too wide a cone, the gates that widen it, and what to use instead."""
    cones = {name: circuit.light_cone(name) for name in circuit.registers}
    name = max(cones, key=lambda name: len(cones[name].wires))
    read = [labels[i] for i in circuit.register(name).wires]
    gates = ", ".join(
        f"{gate.name} on {[labels[i] for i in gate.wires]}" for gate, _ in cones[name].growth[-3:]
    )
    return (
        f"qmtl.lightcone: what is measured on wires {read} depends on "
        f"{len(cones[name].wires)} of {circuit.n_wires} wires, too many to simulate. The first "
        f"gates of the circuit that widen its light cone are {gates}. Use lightning.qubit (about "
        f"30 wires) or lightning.tensor"
    )
