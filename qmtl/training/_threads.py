"""The number of threads that torch uses while a model trains.

Torch's threads wait for each other after each operation, and they wait actively. If a step has
hundreds of small operations and another program needs a core, this takes many times longer than a
single thread. So only long steps get several threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from qmtl.errors import CircuitTooLargeError
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.training._settings import TrainingSettings

__all__ = ["torch_threads", "worthwhile_threads"]

# A thread does this many floating-point operations in some tenths of a second.
OPERATIONS_PER_THREAD = 1e9


def worthwhile_threads(model: MultiTaskModel, batch_size: int) -> int:
    """The number of threads that suits a training step, by an estimate of its operations.

    The estimate counts each parameter once per row, and the plan of a quantum head.

    Example:
        >>> import qmtl
        >>> head = qmtl.QuantumHead(qmtl.HeadCircuit([qmtl.Task.binary("a")]))
        >>> model = MultiTaskModel(qmtl.encoders.MLP(64, 32, out_features=2), head)
        >>> worthwhile_threads(model, batch_size=32)
        1
    """
    operations = 6.0 * batch_size * sum(p.numel() for p in model.parameters())
    if isinstance(model.head, QuantumHead):
        # Another simulator may run a circuit that light cones cannot.
        with suppress(CircuitTooLargeError):
            operations += model.head.explain(batch_size).operations
    return max(1, int(operations / OPERATIONS_PER_THREAD))


@contextmanager
def torch_threads(model: MultiTaskModel, settings: TrainingSettings) -> Iterator[None]:
    """Let torch use `settings.threads`, or a number that suits the model, at most the present one.

    The previous number is restored at the end.
    """
    before = torch.get_num_threads()
    threads = settings.threads
    if threads is None:
        threads = min(before, worthwhile_threads(model, settings.batch_for(0)))
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
