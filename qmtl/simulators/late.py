"""What threads compute while torch is busy with the tasks' weights.

Torch takes a few microseconds for each leaf of the graph, in one thread; with hundreds of tasks
these add up to as much as the simulation. Forwards the encoding does not depend on the tasks'
weights, and begins before these are looked at. Backwards an engine has their gradients early. So
these are handed to torch, other threads compute the rest meanwhile, and a node of the graph in
front of the engine waits for it, and takes part.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from qmtl.errors import QmtlError
from qmtl.simulators.engine import EarlyEngine, Engine, Needs, Three

__all__ = ["Late", "starts_early", "waits"]

# Groups of fewer tasks have too few leaves.
FEWEST_TASKS = 64


def starts_early(engine: Engine, first: Tensor) -> TypeGuard[EarlyEngine]:
    """Whether there is something to be done while an engine's threads work.

    Args:
        engine: the engine.
        first: its first input, samples first.
    """
    # Several times as fast as isinstance of a protocol.
    if torch.get_num_threads() == 1 or not hasattr(engine, "begin"):
        return False
    early = cast(EarlyEngine, engine)
    many = early.n_members >= FEWEST_TASKS
    return many and early.n_threads(first.shape[0], first.itemsize) > 1


def waits(first: Tensor, second: Tensor, own: Sequence[Tensor]) -> bool:
    """Whether there will be gradients by the tasks' weights and by the other inputs, too."""
    shared = first.requires_grad or second.requires_grad
    # What is no tensor is refused later.
    return torch.is_grad_enabled() and shared and getattr(own[0], "requires_grad", False)


class Late:
    """Gradients on their way from `start` to the node that `awaited` puts into the graph."""

    def __init__(self) -> None:
        # By address, since torch hands on tensors, but not always the same objects; with the
        # backward pass.
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}

    def awaited(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The same two tensors; their gradients are waited for."""
        found: tuple[Tensor, Tensor] = _Awaited.apply(first, second, self)
        return found

    def start(
        self,
        engine: EarlyEngine,
        gradient: Tensor,
        inputs: Three,
        kept: Sequence[Tensor],
        needs: Needs,
    ) -> Three:
        """Gradients by the three inputs, of which the first two are still NaN."""
        gradients, finish = engine.start(gradient, inputs, kept, needs)
        waiting = torch._C._current_graph_task_id(), finish
        self._waiting[_address(gradients[:2], needs)] = waiting
        return gradients

    def finish(self, gradients: Sequence[Tensor | None]) -> None:
        """Fill in the gradients, if they are those that are waited for.

        Raises:
            QmtlError: if a hook has put others in their place, made of what was not there yet.
        """
        if not self._waiting:
            return
        address = _address(gradients, [g is not None for g in gradients])
        if address in self._waiting:
            self._waiting.pop(address)[1]()
            return
        now = torch._C._current_graph_task_id()
        replaced = [key for key, (begun, _) in self._waiting.items() if begun == now]
        for key in replaced:
            self._waiting.pop(key)[1]()
        if replaced:
            raise QmtlError(
                "a hook of a node of the graph changed gradients before these were computed; "
                "register it on a tensor, such as the features or the outputs"
            )


def _address(tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> int:
    first, second = tensors
    chosen = first if needs[0] else second
    assert chosen is not None
    functorch = torch._C._functorch
    if functorch.is_functorch_wrapped_tensor(chosen) or functorch.is_legacy_batchedtensor(chosen):
        return 0
    return chosen.data_ptr()


class _Awaited(torch.autograd.Function):
    """Passes its inputs on; its gradients are waited for."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, late: Late) -> tuple[Tensor, Tensor]:
        ctx.late = late
        ctx.set_materialize_grads(False)
        outputs = first.detach(), second.detach()
        pairs = zip(outputs, (first, second), strict=True)
        ctx.mark_non_differentiable(*(out for out, given in pairs if not given.requires_grad))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.late.finish(gradients)
        return (*gradients, None)
