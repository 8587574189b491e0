"""Any PennyLane device as a simulator of head circuits: the reference, and others' engines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators.memory import bytes_text, memory_limit
from qmtl.simulators.qnodes import to_qnode, z_string_mixing
from qmtl.simulators.simulator import check_inputs

# Devices that hold a state of all wires, and how many bits of its index a wire takes; complex
# numbers of single precision at the least.
STATE_WIRES = {"default.qubit": 1, "lightning.qubit": 1, "default.mixed": 2}
BYTES_PER_AMPLITUDE = 8

__all__ = ["PennyLaneSimulator"]


class PennyLaneSimulator:
    """Evaluates head circuits gate by gate on a PennyLane device, as torch QNodes.

    All wires are simulated. The outputs of every readout are linear in expectation values of
    Z-strings, which all PennyLane devices and differentiation methods offer.

    Args:
        device: a device name, such as ``"default.qubit"`` or ``"lightning.qubit"``.
        diff_method: PennyLane's differentiation method.
        options: keyword arguments for ``qml.device``.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> weights = {"encoding": torch.zeros(2), "a": torch.zeros(6)}
        >>> PennyLaneSimulator().expectation_values(circuit, torch.zeros(2, 2), weights)["a"].shape
        torch.Size([2, 1])
    """

    def __init__(
        self, device: str = "default.qubit", *, diff_method: str = "best", **options: Any
    ) -> None:
        self.device = device
        self.diff_method = diff_method
        self.options = options

    def expectation_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Each task's outputs, shape (batch, n_outputs); see `Simulator`."""
        chosen = check_inputs(circuit, angles, weights, tasks)
        self._check_width(circuit)
        if circuit.layout == "partitioned":
            return self._run(circuit, angles, weights, chosen)
        values: dict[str, Tensor] = {}
        for name in chosen:
            values |= self._run(circuit, angles, weights, (name,))
        return values

    def _check_width(self, circuit: HeadCircuit) -> None:
        """Raise `CircuitTooLargeError` if the state of all wires cannot be in memory."""
        wires, limit = circuit.n_wires, memory_limit(torch.device("cpu"), None)
        needed = BYTES_PER_AMPLITUDE << STATE_WIRES.get(self.device, 0) * wires
        if self.device in STATE_WIRES and needed > limit:
            raise CircuitTooLargeError(
                f"{self.device!r} simulates all {wires} wires at once, which takes "
                f"{bytes_text(needed)}, more than the {bytes_text(limit)} that a step may take; "
                f"'lightcone' simulates each task on its own few wires"
            )

    def _run(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: tuple[str, ...],
    ) -> dict[str, Tensor]:
        qnode = to_qnode(circuit, tasks, self.device, diff_method=self.diff_method, **self.options)
        mixings = {name: z_string_mixing(circuit.register(name)) for name in tasks}
        n_strings = sum(len(strings) for strings, _, _ in mixings.values())
        if len(angles) and n_strings:
            with _default_dtype(torch.float64):
                found = qnode(angles, *[weights[key] for key in ("encoding", *tasks)])
            measured = torch.stack(tuple(found), dim=-1)
            # A circuit without features in the cone, or a batch of one, may come back unbatched.
            measured = measured.reshape(-1, measured.shape[-1]).expand(angles.shape[0], -1)
            measured = measured.to(angles.dtype)
        else:
            # PennyLane refuses circuits of which nothing is measured, and batches of nothing.
            measured = angles.new_zeros(len(angles), n_strings)
        values, start = {}, 0
        for name, (_, mixing, constant) in mixings.items():
            mixing, constant = mixing.to(angles), constant.to(angles)
            part = measured[:, start : start + mixing.shape[1]]
            values[name] = part @ mixing.T + constant
            start += mixing.shape[1]
        return values

    def __repr__(self) -> str:
        return f"PennyLaneSimulator({self.device!r}, diff_method={self.diff_method!r})"


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default type for a while.

    PennyLane makes a device's numbers (NumPy scalars, as lightning's) tensors of the default type:
    with float32 they would lose half of their digits, and so would the gradients.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
