"""Engines as differentiable torch functions.

`_Values` evaluates, `_Adjoint` is its backward pass, and both fall back to the engine's torch
operations where torch transforms them further (``vmap`` over samples, double backward), so that
every transform is either fast or at least right. One transform has a fast path of its own: a batch
of gradients, as Jacobian aggregators ask for. Each row of such a Jacobian mostly concerns one task,
and engines run only cones with a gradient, so that T rows cost about as much as one backward pass.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qmtl.errors import InvalidInputError
from qmtl.simulators.engine import Engine, Needs, Three
from qmtl.simulators.late import Late, starts_early, waits

__all__ = [
    "are_plain",
    "engine_values",
    "full_precision",
]


def engine_values(
    engine: Engine,
    angles: Tensor,
    encoding: Tensor,
    own: Callable[[], Sequence[Tensor]],
    meanwhile: Callable[[], object] | None = None,
    stacked: Callable[[Sequence[Tensor]], Tensor] | None = None,
) -> Tensor:
    """Outputs of an engine, shape (samples, outputs of all tasks); differentiable.

    Args:
        engine: what computes them.
        angles: features, shape (samples, features).
        encoding: the encoding's weights.
        own: gives each task's weights, of the same number.
        meanwhile: called where threads are at work, forwards and, on what it puts into the graph,
            backwards.
        stacked: makes one tensor of what `own` gives; by itself, it is stacked.
    """
    # Engines have samples last, for long loops, and callers first. Here is where that is turned
    # round: each view that torch keeps a node for costs as much as a small kernel.
    columns = angles.T
    rows = engine.angles(columns, encoding)
    first, second = angles if rows is columns else rows.T, encoding
    if not engine.is_differentiable:
        # Kernels read what is in memory, of which a lazy sign is not a part.
        first, second = first.resolve_neg(), second.resolve_neg()
    begun = late = None
    if starts_early(engine, first):
        begun = engine.begin(first.T, second)
    try:
        tensors = own()
        if begun is not None and waits(first, second, tensors):
            # Before the tasks' weights are stacked, so that it comes after them backwards.
            late = Late()
            first, second = late.awaited(first, second)
        if begun is not None and meanwhile is not None:
            meanwhile()
        inputs = (
            first,
            second,
            torch.stack(list(tensors)) if stacked is None else stacked(tensors),
        )
        if engine.is_differentiable:
            return engine.eager(first.T, *inputs[1:]).flatten(0, 1).T
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        values: Tensor = _Values.apply(*inputs, engine, keep, begun, late)
        # Hooks of this node see whole gradients, those of the engine's unfinished ones.
        return values if late is None else values.view_as(values)
    except BaseException:
        # Whoever keeps the error must not keep the threads.
        if begun is not None:
            begun.finish()
        raise


def are_plain(*tensors: Tensor, others: Callable[[], Sequence[Tensor]] = tuple) -> bool:
    """Whether torch is not transforming these (``torch.func``, forward mode, ``torch.compile``).

    Nor looking at each operation (tracing, dispatch modes, subclasses), which kernels pass by.

    Args:
        *tensors: some tensors.
        others: gives more of them; called only if it matters.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack():
        return False
    if any(type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__ for t in tensors):
        return False
    if forward_ad._current_level < 0:
        return True
    return all(forward_ad.unpack_dual(tensor).tangent is None for tensor in (*tensors, *others()))


def full_precision(like: Tensor) -> Any:
    """A context in which autocast does not round: simulators keep their inputs' precision."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if _autocasts(kind) else nullcontext()


def _autocasts(kind: str) -> bool:
    return kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)


def _eager_gradients(engine: Engine, gradient: Tensor, *inputs: Tensor) -> Three:
    gradients: Three = torch.func.vjp(engine.eager, *inputs)[1](gradient)
    return gradients


def _first_derivatives(
    engine: Engine, gradient: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients by the eager path, with a graph of their own."""
    with torch.enable_grad():
        # Views: where one input was computed from another, that path is the caller's.
        inputs = [a.view_as(a) if a.requires_grad else a.detach().requires_grad_() for a in inputs]
        return _gradients([engine.eager(*inputs)], inputs, [gradient])


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients with a graph; zero where outputs are constants, which torch has no graph of."""
    pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
    if not pairs:
        return tuple(map(torch.zeros_like, inputs))
    outputs, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(
        outputs, inputs, gradients, create_graph=True, materialize_grads=True
    )


def _will_be_awaited(ctx: Any) -> bool:
    """Whether this backward pass goes on to the node that waits, and nobody looks in between."""
    node = ctx.next_functions[0][0] or ctx.next_functions[1][0]
    return torch._C._will_engine_execute_node(node) and not torch.is_anomaly_enabled()


def _check_types(saved: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Kernels would read past the end of what hooks of saved tensors gave back in fewer bytes."""
    for part in saved:
        if part.dtype != dtype:
            raise InvalidInputError(
                f"hooks of saved tensors must give back what they were given, of type {dtype}, got "
                f"{part.dtype}"
            )


class _Values(torch.autograd.Function):
    """Outputs of a group."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        third: Tensor,
        engine: Engine,
        keep: bool,
        begun: Any,
        late: Late | None,
    ) -> Tensor:
        with full_precision(first):
            early = () if begun is None else (begun,)
            values, kept = engine.forward((first.T, second, third), keep, *early)
        ctx.engine, ctx.late, ctx.shape = engine, late, values.shape
        ctx.save_for_backward(first, second, third, *kept)
        # As callers' losses want it; turning it round takes them longer.
        return values.flatten(0, 1).T.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.resolve_neg().T.contiguous()
        found = _Values._pulled_back(ctx, gradient.reshape(ctx.shape))
        first, *rest = (
            part if needed else None
            for part, needed in zip(found, ctx.needs_input_grad[:3], strict=True)
        )
        return (None if first is None else first.T, *rest, *[None] * 4)

    @staticmethod
    def _pulled_back(ctx: Any, gradient: Tensor) -> Sequence[Tensor]:
        """The same as the engine has them: samples last, and all three."""
        first, second, third, *kept = ctx.saved_tensors
        inputs = (first.T, second, third)
        # As they were, whatever hooks of saved tensors have made of their strides.
        kept = [part.contiguous() for part in kept]
        _check_types((*inputs, *kept), gradient.dtype)
        if torch._C._functorch.is_legacy_batchedtensor(gradient):
            # autograd.grad(is_grads_batched=True) still has the older vmap, without our rule.
            return _first_derivatives(ctx.engine, gradient, inputs)
        if torch._C._are_functorch_transforms_active() or torch.is_grad_enabled():
            needs = ctx.needs_input_grad[:3]
            if torch.is_grad_enabled():
                # Second derivatives reach the node that waits by other ways, too.
                ctx.late = None
            adjoint: Sequence[Tensor] = _Adjoint.apply(gradient, *inputs, ctx.engine, needs, *kept)
            return adjoint
        # The usual backward pass, past the costs of a function that can be transformed.
        with full_precision(first):
            needs = ctx.needs_input_grad[:3]
            if ctx.late is not None and _will_be_awaited(ctx):
                begun: Three = ctx.late.start(ctx.engine, gradient, inputs, kept, needs)
                return begun
            jacobian = ctx.engine.pull_back(gradient[None], inputs, kept, needs)
            return tuple(part[0] for part in jacobian)


class _Adjoint(torch.autograd.Function):
    """Gradients of `_Values` by its three inputs."""

    @staticmethod
    def forward(
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        third: Tensor,
        engine: Engine,
        needs: Needs,
        *kept: Tensor,
    ) -> Three:
        with full_precision(first):
            a, b, c = engine.pull_back(gradient[None], (first, second, third), kept, needs)
        return a[0], b[0], c[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.engine, ctx.n_kept = inputs[4], len(inputs) - 6
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Second derivatives, of the eager path; on copies that keep their graph for the third.
        with torch.enable_grad():
            gradient, *inputs = (
                tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
                for tensor in ctx.saved_tensors
            )
            first = _first_derivatives(ctx.engine, gradient, inputs)
            second = _gradients(first, (gradient, *inputs), gradients)
        return (*second, *[None] * (2 + ctx.n_kept))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *inputs: Any
    ) -> tuple[Three, tuple[int, int, int]]:
        tensors, engine, needs, kept = inputs[:4], inputs[4], inputs[5], inputs[6:]
        if in_dims[0] is None or any(dim is not None for dim in in_dims[1:4]):
            gradients = torch.vmap(lambda *values: _eager_gradients(engine, *values), in_dims[:4])(
                *tensors
            )
            return gradients, (0, 0, 0)
        batch = tensors[0].movedim(in_dims[0], 0)
        if torch._C._functorch.is_functorch_wrapped_tensor(batch):
            eager = torch.vmap(lambda g: _eager_gradients(engine, g, *tensors[1:]))(batch)
            return eager, (0, 0, 0)
        return engine.pull_back(batch, tensors[1:], kept, needs), (0, 0, 0)
