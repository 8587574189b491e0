"""Several tasks on one state: as if each were alone, whatever is wrong with another one.

A task's outputs do not depend on the others' blocks, which act on other wires. On one state that
is so up to rounding only, and not at all where a number is not finite.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qmtl.simulators.engine import ALL, Engine, Needs, Three
from qmtl.simulators.plan import Group

__all__ = ["JointEngine"]


class JointEngine:
    """Runs a group whose members are several tasks each; an `Engine`.

    Gradients by the weights of a task that is not asked for are zero, and not nearly so; numbers
    that are not finite stay with their task.

    Args:
        engine: what runs the group.
        group: of one member.
    """

    def __init__(self, engine: Engine, group: Group) -> None:
        self.engine = engine
        (tasks,) = group.members
        self._outputs = [len(outputs) for outputs in group.outputs]
        self._weights = list(group.own_weights)
        self._places = torch.from_numpy(np.repeat(np.arange(len(tasks)), self._weights))

    @property
    def name(self) -> str:
        """That of the engine."""
        return self.engine.name

    @property
    def is_differentiable(self) -> bool:
        """That of the engine."""
        return self.engine.is_differentiable

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input."""
        return self.engine.angles(columns, encoding)

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (1, outputs of all tasks, samples), and what `pull_back` wants."""
        return self.engine.forward(inputs, keep)

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the inputs, for each row of a Jacobian."""
        if gradients.isfinite().all():
            return self._pull_back(gradients, inputs, kept, needs)
        n, parts = len(gradients), gradients.split(self._outputs, dim=2)
        # A row for each task, of which the others are zero.
        rows = [
            torch.cat(
                [part if i == j else torch.zeros_like(part) for j, part in enumerate(parts)], 2
            )
            for i in range(len(parts))
        ]
        found = self._pull_back(torch.cat(rows), inputs, kept, needs)
        first, second, third = (part.reshape(-1, n, *part.shape[1:]).sum(0) for part in found)
        return first, second, third

    def _pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs
    ) -> Three:
        first, second, third = self.engine.pull_back(gradients, inputs, kept, needs)
        if needs[2]:
            parts = gradients.split(self._outputs, dim=2)
            asked = torch.stack([(part != 0).flatten(1).any(1) for part in parts], 1)
            third = torch.where(asked[:, None, self._places], third, 0)
        return first, second, third

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """The same by torch operations, task by task, without the others' weights."""
        found, begin = [], 0
        for i, n in enumerate(self._outputs):
            own = torch.where(self._places.to(third.device) == i, third, 0)
            found.append(self.engine.eager(first, second, own)[:, begin : begin + n])
            begin += n
        return torch.cat(found, 1)

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        return self.engine.step_bytes(samples, itemsize)

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""
        return self.engine.step_operations(samples)
