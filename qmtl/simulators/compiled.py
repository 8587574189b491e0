"""A group's outputs by the compiled kernel, as differentiable torch functions.

`_Values` evaluates, `_Adjoint` is its backward pass, and both fall back to the eager path where
torch transforms them further (``vmap`` over samples, double backward), so that every transform is
either fast or at least right. One transform has a fast path of its own: a batch of gradients, as
Jacobian aggregators ask for. Each row of such a Jacobian mostly concerns one task, and only cones
with a gradient are run, so that T rows cost about as much as one backward pass.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.simulators import kernel
from qmtl.simulators.angles import by_slot
from qmtl.simulators.eager import eager_values
from qmtl.simulators.program import Program
from qmtl.simulators.work import Array, Work, row_index

__all__ = ["compiled_values"]


def compiled_values(
    program: Program, rows: Tensor, cone_fixed: Tensor, task_fixed: Tensor
) -> Tensor:
    """Outputs of a group, shape (tasks, n_outputs, samples).

    Args:
        program: the group's tables.
        rows: sample-dependent angles, shape (rows, samples); ``program.row_index`` says which.
        cone_fixed: the encoding's other angles, shape (cones, slots).
        task_fixed: the block's angles, shape (tasks, slots).
    """
    differentiable = torch.is_grad_enabled() and (
        rows.requires_grad or cone_fixed.requires_grad or task_fixed.requires_grad
    )
    values: Tensor = _Values.apply(rows, cone_fixed, task_fixed, program, differentiable)
    return values


def _eager(program: Program, *angles: Tensor) -> Tensor:
    rows, cone_fixed, task_fixed = angles
    group = program.group
    sample = rows[torch.from_numpy(row_index(program)).to(rows.device)]
    none = task_fixed.new_zeros(len(group.tasks), 0, 1)
    block = by_slot(group.block_slots, none, task_fixed)
    return eager_values(group, sample, cone_fixed, block)


def _eager_gradients(
    program: Program, gradient: Tensor, *angles: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = torch.func.vjp(
        lambda *values: _eager(program, *values), *angles
    )[1](gradient)
    return gradients


def _first_derivatives(
    program: Program, gradient: Tensor, angles: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients by the eager path, with a graph of their own."""
    with torch.enable_grad():
        angles = [a if a.requires_grad else a.detach().requires_grad_() for a in angles]
        return torch.autograd.grad(
            _eager(program, *angles), angles, gradient, create_graph=True, materialize_grads=True
        )


def _in_threads(function: Any, items: Array, *arguments: Any) -> None:
    """Run a kernel over its work items, in as many threads as torch itself uses."""
    n = min(torch.get_num_threads(), max(1, len(items) // 4))
    if n == 1:
        function(items, *arguments)
        return
    with ThreadPoolExecutor(n) as pool:
        for part in [pool.submit(function, i, *arguments) for i in np.array_split(items, n)]:
            part.result()


class _Values(torch.autograd.Function):
    """Outputs of a group; its states are kept if the backward pass will want them."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        cone_fixed: Tensor,
        task_fixed: Tensor,
        program: Program,
        keep: bool,
    ) -> Tensor:
        work = Work(program, rows, cone_fixed, task_fixed)
        cones = np.arange(program.group.n_cones)
        items = work.items(cones, cones, np.zeros_like(cones))
        keep = keep and len(items) <= work.kept_at_once
        if not keep:
            items[:, 4] = -1
        values, states = work.new_values(), work.new_states(len(items) if keep else 0)
        _in_threads(kernel.forward, items, *work.tables(), values.numpy(), states.numpy())
        ctx.program = program
        ctx.save_for_backward(rows, cone_fixed, task_fixed, states)
        return values[..., : work.samples]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, cone_fixed, task_fixed, states = ctx.saved_tensors
        angles = (rows, cone_fixed, task_fixed)
        if torch._C._functorch.is_legacy_batchedtensor(gradient):
            # autograd.grad(is_grads_batched=True) still has the older vmap, without our rule.
            return (*_first_derivatives(ctx.program, gradient, angles), None, None)
        if torch._C._are_functorch_transforms_active() or torch.is_grad_enabled():
            return (*_Adjoint.apply(gradient, *angles, states, ctx.program), None, None)
        # The usual backward pass, past the costs of a function that can be transformed.
        jacobian = _jacobian(ctx.program, gradient[None], rows, cone_fixed, task_fixed, states)
        return (*(part[0] for part in jacobian), None, None)


class _Adjoint(torch.autograd.Function):
    """Gradients of `_Values` by its three kinds of angles."""

    @staticmethod
    def forward(
        gradient: Tensor,
        rows: Tensor,
        cone_fixed: Tensor,
        task_fixed: Tensor,
        states: Tensor,
        program: Program,
    ) -> tuple[Tensor, Tensor, Tensor]:
        by_rows, by_cone, by_task = _jacobian(
            program, gradient[None], rows, cone_fixed, task_fixed, states
        )
        return by_rows[0], by_cone[0], by_task[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.program = inputs[5]
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Second derivatives, of the eager path; on copies that keep their graph for the third.
        with torch.enable_grad():
            gradient, *angles = (
                tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
                for tensor in ctx.saved_tensors
            )
            first = _first_derivatives(ctx.program, gradient, angles)
            second = torch.autograd.grad(
                first, (gradient, *angles), gradients, create_graph=True, materialize_grads=True
            )
        return (*second, None, None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
        *tensors, states, program = inputs
        if in_dims[0] is None or any(dim is not None for dim in in_dims[1:4]):
            gradients = torch.vmap(lambda *values: _eager_gradients(program, *values), in_dims[:4])(
                *tensors
            )
            return gradients, (0, 0, 0)
        batch = tensors[0].movedim(in_dims[0], 0)
        if torch._C._functorch.is_functorch_wrapped_tensor(batch):
            eager = torch.vmap(lambda g: _eager_gradients(program, g, *tensors[1:]))(batch)
            return eager, (0, 0, 0)
        rows, cone_fixed, task_fixed = tensors[1:]
        return _jacobian(program, batch, rows, cone_fixed, task_fixed, states), (0, 0, 0)


def _jacobian(
    program: Program,
    gradients: Tensor,
    rows: Tensor,
    cone_fixed: Tensor,
    task_fixed: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a Jacobian: each of `gradients` (n, tasks, outputs, samples) pulled back.

    Only pairs of a row and a cone with a gradient are run, each into a place of its own.
    """
    work = Work(program, rows, cone_fixed, task_fixed)
    group, n = program.group, len(gradients)
    padding = (0, work.padded - work.samples)
    padded = torch.nn.functional.pad(gradients.detach(), padding).contiguous()
    # NaN counts: it must reach the result.
    wanted = (padded != 0).flatten(2).any(2)
    pairs = wanted.reshape(n, group.n_cones, -1).any(2).flatten().nonzero().flatten()
    row, cone = pairs // group.n_cones, pairs % group.n_cones
    per_cone = len(group.tasks) // group.n_cones
    by_sample = torch.zeros(len(pairs), work.index.shape[1], work.padded, dtype=rows.dtype)
    by_cone = torch.zeros(work.n_tiles, len(pairs), cone_fixed.shape[1], dtype=rows.dtype)
    by_task = torch.zeros(
        work.n_tiles, len(pairs) * per_cone, task_fixed.shape[1], dtype=rows.dtype
    )
    items = work.items(cone.numpy(), np.arange(len(pairs)), row.numpy())
    gradients_of = [a.numpy() for a in (wanted, padded, by_sample, by_cone, by_task)]
    if len(states):
        kept = states.detach().numpy()
        _in_threads(kernel.backward, items, *work.tables(), kept, *gradients_of)
    else:
        # The states were too many to keep: compute some again, take them back, and so on.
        values = work.new_values().numpy()
        again = work.new_states(min(len(items), work.kept_at_once)).numpy()
        for begin in range(0, len(items), len(again)):
            part = items[begin : begin + len(again)]
            part[:, 4] = np.arange(len(part))
            _in_threads(kernel.forward, part, *work.tables(), values, again)
            _in_threads(kernel.backward, part, *work.tables(), again, *gradients_of)
    return _scatter(work, rows, row, cone, n, (by_sample, by_cone.sum(0), by_task.sum(0)))


def _scatter(
    work: Work, rows: Tensor, row: Tensor, cone: Tensor, n: int, parts: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the places' gradients where they belong: rows of the Jacobian, and their angles."""
    by_sample, by_cone, by_task = parts
    group = work.program.group
    target = row[:, None] * len(rows) + torch.from_numpy(work.index)[cone]
    by_rows = rows.new_zeros(n * len(rows), work.samples)
    by_rows.index_add_(0, target.flatten(), by_sample[..., : work.samples].flatten(0, 1))
    cones = rows.new_zeros(n * group.n_cones, by_cone.shape[1])
    cones[row * group.n_cones + cone] = by_cone
    per_cone = len(group.tasks) // group.n_cones
    tasks = rows.new_zeros(n * group.n_cones, per_cone, by_task.shape[1])
    tasks[row * group.n_cones + cone] = by_task.reshape(len(row), per_cone, by_task.shape[1])
    return (
        by_rows.reshape(n, len(rows), work.samples),
        cones.reshape(n, group.n_cones, by_cone.shape[1]),
        tasks.reshape(n, len(group.tasks), by_task.shape[1]),
    )
