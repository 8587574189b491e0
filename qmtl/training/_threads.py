"""How many threads torch computes with while a model trains.

Torch's threads wait for each other at the end of each operation, and they wait actively. Where a
step has hundreds of small operations and something else needs a core, this takes many times longer
than one thread does. So a step gets threads only where it is long.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from qmtl.errors import CircuitTooLargeError
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.training._settings import TrainingSettings

__all__ = ["torch_threads", "worthwhile_threads"]

# A thread computes so many floating-point operations in some tenths of a second.
OPERATIONS_PER_THREAD = 1e9


def worthwhile_threads(model: MultiTaskModel, batch_size: int) -> int:
    """The threads that a training step is worth, by an estimate of its operations.

    It counts each parameter once per row, and the plan of a quantum head.

    Example:
        >>> import qmtl
        >>> head = qmtl.QuantumHead(qmtl.HeadCircuit([qmtl.Task.binary("a")]))
        >>> model = MultiTaskModel(qmtl.encoders.MLP(64, 32, out_features=2), head)
        >>> worthwhile_threads(model, batch_size=32)
        1
    """
    operations = 6.0 * batch_size * sum(p.numel() for p in model.parameters())
    if isinstance(model.head, QuantumHead):
        # Another simulator may run what light cones do not.
        with suppress(CircuitTooLargeError):
            operations += model.head.explain(batch_size).operations
    return max(1, int(operations / OPERATIONS_PER_THREAD))


@contextmanager
def torch_threads(model: MultiTaskModel, settings: TrainingSettings) -> Iterator[None]:
    """Let torch use `settings.threads`; or what the model is worth, at most as many as before.

    The number of before comes back at the end.
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
