"""HardwareSimulator: a backend as a simulator for trained heads."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.hardware._backends import Backend, open_backend
from qmtl.hardware._client import Client
from qmtl.hardware._decode import Decoded, decode
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._local import execute
from qmtl.hardware._payload import HeadRun
from qmtl.hardware._prepare import prepare_head
from qmtl.hardware._prepared_run import PreparedRun
from qmtl.hardware._qiskit import to_qasm3, to_qiskit
from qmtl.hardware._result import raw_results
from qmtl.hardware._run import submit_head, wait
from qmtl.hardware._settings import HardwareSettings
from qmtl.simulators import (
    Simulator,
    check_angles,
    check_weights,
    joined_weights,
    shift_plan,
    shifted_values,
    weights_by_name,
)

logger = logging.getLogger("qmtl")


class HardwareSimulator(Simulator):
    """Evaluates trained heads on a backend: one of IBM's devices, its fake version, or Aer.

    One run measures all samples and tasks of a call. A run on a device is in the ledger: after an
    interruption, the same call continues the run instead of sending it again.
    A backward pass raises an error unless you request parameter shift, which takes two more
    executions for each rotation, sample and shot (`executions`).

    Args:
        backend: a name or a backend, see `qmtl.hardware.open_backend`.
        gradient: None, or ``"parameter-shift"``.
        service: an open `QiskitRuntimeService`; None for the account's.
        ledger: for IBM's devices, the ledger or its file; None for the user's.
        **options: fields of `HardwareSettings`, such as ``shots`` or ``mitigation``.

    Example:
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
        >>> measured = head.with_simulator(HardwareSimulator("aer", shots=100, seed=1))
        >>> measured(torch.zeros(3, 2))["a"].shape
        torch.Size([3, 1])
    """

    # A head finds this class by its entry point and calls these functions.
    to_qiskit = staticmethod(to_qiskit)
    to_qasm3 = staticmethod(to_qasm3)

    def __init__(
        self,
        backend: Any = "fake_fez",
        *,
        gradient: Literal["parameter-shift"] | None = None,
        service: Any = None,
        ledger: Any = None,
        **options: Any,
    ) -> None:
        if gradient not in (None, "parameter-shift"):
            raise unknown_name("gradient", gradient, ["parameter-shift", "None"])
        self.backend = backend
        self.gradient = gradient
        self.service = service
        self.ledger = ledger
        self.settings = HardwareSettings.of({"predict": False, **options})
        self._opened: Backend | None = None
        if not isinstance(backend, str) or not backend.startswith("ibm_"):
            self._open()  # reports an unknown name now; IBM's devices need the network

    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the tasks' measured outputs side by side, shape (batch, outputs); see `Simulator`.

        Raises:
            HardwareError: if the service fails, or the run exceeds its budget.
        """
        chosen = check_angles(circuit, angles, tasks)
        check_weights(circuit, weights, angles)
        if not chosen or not len(angles):
            sizes = [circuit.register(name).readout.n_outputs for name in chosen]
            return angles.new_zeros(len(angles), sum(sizes))
        if self.gradient is None or not (
            torch.is_grad_enabled() and (angles.requires_grad or weights.requires_grad)
        ):
            measured = self._outputs(circuit, chosen, weights, angles)
            reason = self._refusal(circuit, len(angles), chosen)
            refused: Tensor = _Refused.apply(measured, reason, angles, weights)
            return refused
        plan = shift_plan(circuit)
        turned, none = plan.angles(angles, weights), angles.new_zeros(0)

        def group(names: tuple[str, ...]) -> Tensor:
            measure = partial(self._outputs, plan.circuit, names, none)

            def shifted(rows: Tensor) -> Tensor:
                logger.info("parameter shift: %d executions", len(rows) * self.settings.shots)
                return measure(rows)

            return shifted_values(plan, names, turned, measure(turned), shifted)

        return torch.cat([group(names) for names in _groups(circuit, chosen)], dim=1)

    def executions(
        self,
        circuit: HeadCircuit,
        batch_size: int,
        tasks: Sequence[str] | None = None,
        *,
        gradient: bool = True,
    ) -> int:
        """Count the executions of a forward pass, and of a backward pass by parameter shift.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> circuit = HeadCircuit([Task.binary("a")])
            >>> HardwareSimulator("aer", shots=100).executions(circuit, 2)
            5000

        References:
            Mitarai et al., arXiv:1803.00745; Schuld et al., arXiv:1811.11184.
        """
        chosen = tuple(circuit.registers) if tasks is None else tuple(tasks)
        circuits = len(_groups(circuit, chosen))
        shifts = shift_plan(circuit).shifts(chosen) if gradient else 0
        return (circuits + shifts) * batch_size * self.settings.shots

    def prepare(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor | Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> PreparedRun:
        """Return the run that `expectation_values` would measure, without sending it."""
        chosen = check_angles(circuit, angles, tasks)
        named = weights_by_name(circuit, joined_weights(circuit, weights, chosen, angles))
        return prepare_head(_head_run(circuit, angles, named, chosen), self._open(), self.settings)

    def _open(self) -> Backend:
        if self._opened is None:
            self._opened = open_backend(self.backend, service=self.service)
        return self._opened

    def _outputs(
        self, circuit: HeadCircuit, tasks: tuple[str, ...], weights: Tensor, angles: Tensor
    ) -> Tensor:
        """Return the tasks' measured outputs side by side, (samples, outputs)."""
        decoded = self._run(_head_run(circuit, angles, weights_by_name(circuit, weights), tasks))
        return torch.from_numpy(np.concatenate([decoded.values[n] for n in tasks], 1)).to(angles)

    def _run(self, run: HeadRun) -> Decoded:
        backend = self._open()
        if backend.is_local:
            prepared = prepare_head(run, backend, self.settings)
            chunks = range(len(prepared.chunks))
            return decode(prepared, [execute(prepared, i, backend=backend) for i in chunks])
        ledger, client = Ledger.of(self.ledger), Client.of(self.service)
        name = submit_head(run, backend, self.settings, ledger, client)
        wait(name, ledger, service=client)
        return decode(ledger.prepared(name), raw_results(name, ledger))

    def _refusal(self, circuit: HeadCircuit, batch: int, tasks: tuple[str, ...]) -> str:
        forward = self.executions(circuit, batch, tasks, gradient=False)
        backward = self.executions(circuit, batch, tasks) - forward
        return (
            f"a {self._open().name} head is for evaluation: gradients by parameter shift would "
            f"take {backward:,} executions for this batch; ask for them with "
            f"HardwareSimulator(..., gradient='parameter-shift'), or train with 'lightcone'"
        )

    def __getstate__(self) -> dict[str, Any]:
        # An open device or service holds connections and a token. The copy opens the device again
        # with the account.
        backend = self.backend
        if not isinstance(backend, str) and not self._open().is_local:
            backend = self._open().name
        return {**self.__dict__, "_opened": None, "service": None, "backend": backend}

    def __deepcopy__(self, memo: dict[int, Any]) -> "HardwareSimulator":
        return self  # the simulator is immutable, and its service cannot be copied

    def __repr__(self) -> str:
        name = self.backend if isinstance(self.backend, str) else self._open().name
        return f"HardwareSimulator({name!r}, shots={self.settings.shots})"


class _Refused(torch.autograd.Function):
    """Passes measured values on; the backward pass raises an error."""

    @staticmethod
    def forward(ctx: Any, measured: Tensor, reason: str, *inputs: Tensor) -> Tensor:
        ctx.reason = reason
        return measured.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise InvalidInputError(ctx.reason)


def _head_run(
    circuit: HeadCircuit, angles: Tensor, weights: Mapping[str, Tensor], tasks: tuple[str, ...]
) -> HeadRun:
    numbers = {name: value.detach() for name, value in weights.items()}
    return HeadRun(circuit, numbers, angles.detach(), tasks, dict.fromkeys(tasks, 1.0))


def _groups(circuit: HeadCircuit, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the groups of tasks that one circuit measures."""
    return [tasks] if circuit.layout == "partitioned" else [(name,) for name in tasks]
