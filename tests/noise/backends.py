"""Small backends for the tests: some qubits of a big one, as a backend of their own."""

from collections.abc import Sequence

from qiskit import QuantumCircuit
from qiskit.circuit import Delay, Gate, Measure, Parameter
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import InstructionProperties, Target


def cut(target: Target, qubits: Sequence[int], **measured: float) -> "CutBackend":
    """The qubits, numbered as given, with the gates between them and their calibration."""
    place = {qubit: i for i, qubit in enumerate(qubits)}
    small = Target(
        num_qubits=len(qubits),
        dt=target.dt,
        qubit_properties=[target.qubit_properties[qubit] for qubit in qubits],
    )
    for name in target.operation_names:
        operation = target.operation_from_name(name)
        if not isinstance(operation, Gate | Measure | Delay):
            continue
        properties = {
            tuple(place[q] for q in on): InstructionProperties(found.duration, found.error)
            if found is not None
            else None
            for on, found in target[name].items()
            if all(q in place for q in on)
        }
        small.add_instruction(
            Delay(Parameter("t")) if isinstance(operation, Delay) else operation, properties
        )
    return CutBackend(small)


class CutBackend(BackendV2):
    """A backend that has a target and nothing else."""

    def __init__(self, target: Target) -> None:
        super().__init__(name="cut")
        self._target = target

    @property
    def target(self) -> Target:
        return self._target

    @property
    def max_circuits(self) -> None:
        return None

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def run(self, run_input: QuantumCircuit, **options: object) -> None:
        raise NotImplementedError


def ring(coupling: Sequence[tuple[int, int]], n: int) -> list[int]:
    """A closed path of `n` qubits along a coupling map."""
    near: dict[int, set[int]] = {}
    for a, b in coupling:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    paths = [[start] for start in near]
    while paths:
        path = paths.pop()
        if len(path) == n and path[0] in near[path[-1]]:
            return path
        if len(path) < n:
            paths += [[*path, q] for q in sorted(near[path[-1]] - set(path))]
    raise ValueError(f"no ring of {n}")
