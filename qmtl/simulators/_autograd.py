"""A plan's engines as one differentiable function of features, weights and scales.

Compiled engines run as one node of autograd's graph: the angle map, the simulation and the scales.
The node computes in numpy, whose calls on small arrays cost a fraction of torch's. In all other
cases (other devices, ``torch.func``, forward mode, second derivatives) the slower torch operations
of the engines run.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.jit import is_tracing

from qmtl.circuit import HeadCircuit
from qmtl.simulators._contract import (
    PROBABILITY_FLOOR,
    AngleMap,
    OutputLayout,
    check_finite,
    to_logits,
)  # fmt: skip
from qmtl.simulators._engine import Array, Inputs, Program

# Without gradients, a separate state per task costs little up to this many amplitudes.
SMALL = 2**10


class State(NamedTuple):
    """Results of a forward pass that the backward pass needs.

    Attributes:
        given: features, and weights in one flat vector.
        inputs: the engines' angles.
        kept: each engine's stored results; None if the batch ran in chunks, which run again.
        columns: the tanh of the angle map at the features, shape (n_features, batch).
        values: the outputs, shape (batch, n_outputs).
    """

    given: tuple[Array, Array]
    inputs: Inputs
    kept: list[Any] | None
    columns: Array
    values: Array


class Step:
    """Evaluates an angle map, then a program, then scales.

    Args:
        circuit: the circuit of the features, weights and tasks.
        program: the program that computes the outputs.
        angle_map: map from features to angles; None if features already are angles.
        layout: layout of the outputs, to multiply them by scales; None for no scales.
        chunk: number of samples to run at a time, so that a step fits into memory.
        apart: (if several tasks share a state) makes a step with one state per task. That step
            keeps tasks strictly separate. It runs if numbers are not finite, and, if it is small,
            whenever no gradient is needed.
    """

    def __init__(
        self,
        circuit: HeadCircuit,
        program: Program,
        angle_map: AngleMap | None,
        layout: OutputLayout | None,
        chunk: int,
        apart: "Callable[[], Step] | None" = None,
    ) -> None:
        self.program, self.map, self.layout = program, angle_map, layout
        self.chunk, self.apart = chunk, apart
        self.is_small = sum(group.amplitudes for group in program.plan.groups) <= SMALL
        table, self.n_weights = program.table, circuit.n_circuit_weights
        self.is_plain = table.is_plain
        self.weights = _places(table.weights, self.n_weights)
        # Indices of the features to load. Tables with products need all features (None), and take
        # their number from the input: `circuit` may only describe a native circuit's registers.
        self.features = table.features.astype(np.uint64) if self.is_plain else None
        # Numbers of scales, encoding weights and block weights.
        n_encoding = circuit.n_encoding_weights
        self.lengths = (len(circuit.tasks), n_encoding, self.n_weights - n_encoding)
        # Angles are `scale` times the tanh, if there is one, of `factor` times features.
        self.is_curved, self.scale, self.factor = False, 1.0, 1.0
        if angle_map is not None and angle_map.stretch > 0:
            self.is_curved, self.scale, self.factor = True, angle_map.scale, 1 / angle_map.stretch
        self.tasks: Array | None = None
        self.probability: NDArray[np.bool_] | None = None
        if layout is not None:
            self.tasks = _places(layout.task_of_output, len(circuit.tasks))
            self.probability = layout.is_probability

    def __call__(self, features: Tensor, scales: Tensor | None, *weights: Tensor) -> Tensor:
        """Compute outputs, or logits if there are scales; shape (batch, outputs).

        Args:
            features: features or angles, shape (batch, n_features).
            scales: one number for each task of the circuit; None for no scales.
            *weights: all weights of the circuit, in one or several flat vectors.
        """
        given = (features, *weights) if scales is None else (features, scales, *weights)
        if _runs_kernels(features) and all(map(_is_plain, given)):
            # Rounding must not make a task's predictions depend on other tasks' blocks.
            if self.apart is not None and (
                (self.is_small and not torch.is_grad_enabled())
                or not all(bool(w.isfinite().all()) for w in weights)
            ):
                return self.apart()(features, scales, *weights)
            result: Tensor = _Node.apply(self, scales is not None, *given)
            return result
        if self.layout is not None:
            check_finite(features)
        with _full_precision(features):
            return self.by_torch(features, scales, *weights)

    def by_torch(self, features: Tensor, scales: Tensor | None, *weights: Tensor) -> Tensor:
        """Compute the result of `__call__` by torch operations, with one state per task."""
        if self.apart is not None:
            return self.apart().by_torch(features, scales, *weights)
        angles = features if self.map is None else self.map(features)
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        values = self.program.torch_values(angles, joined)
        if scales is None:
            return values
        assert self.layout is not None
        return to_logits(values, self.layout.factors(scales), self.probability)

    @cached_property
    def _kernels(self) -> Any:
        # Importing numba takes a while, and torch operations do not need it.
        from qmtl.simulators import _kernels

        return _kernels

    def _places(self, features: Array) -> Array:
        if self.features is None:
            return np.arange(features.shape[1], dtype=np.uint64)
        return self.features

    def _inputs(self, sampled: Array, fixed: Array) -> Inputs:
        """Return the angles in the form that the engines take."""
        whole = half = None
        if "whole" in self.program.wanted:
            whole = np.cos(sampled), np.sin(sampled), np.cos(fixed), np.sin(fixed)
        if "half" in self.program.wanted:
            x, y = sampled / 2, fixed / 2
            half = np.cos(x), np.sin(x), np.cos(y), np.sin(y)
        return Inputs(sampled, fixed, whole, half)

    def state(self, features: Array, weights: Array) -> State:
        """Compute outputs from features and flat weights, and store what a backward pass needs."""
        places = self._places(features)
        columns = np.empty((len(places), len(features)), features.dtype)
        if any(engine.has_kernels for engine in self.program.engines):
            rows = np.ascontiguousarray(features)
            total = self._kernels.load(columns, rows, places, self.factor)
        else:
            np.multiply(features.T[places], self.factor, out=columns)
            total = features.sum()
        if self.layout and not (math.isfinite(total) and len(columns) == features.shape[1]):
            check_finite(torch.from_numpy(features))
        angles = np.tanh(columns, columns) * self.scale if self.is_curved else columns
        if self.is_plain:
            fixed = weights if self.weights is None else weights[self.weights]
            inputs = self._inputs(angles, fixed)
        else:
            table, flat = self.program.table, torch.from_numpy(weights)
            sampled = table.sampled(torch.from_numpy(angles).T, flat).contiguous()
            inputs = self._inputs(sampled.numpy(), table.fixed(flat).numpy())
        values = np.empty((len(features), self.program.plan.n_outputs), features.dtype)
        given, kept = (features, weights), None
        if len(features) <= self.chunk:
            kept = [engine.forward(inputs, values) for engine in self.program.engines]
        else:
            for part, own in self._parts(inputs, len(features)):
                for engine in self.program.engines:
                    engine.forward(own, values[part])
        return State(given, inputs, kept, columns, values)

    def _parts(self, inputs: Inputs, samples: int) -> Iterator[tuple[slice, Inputs]]:
        """Split the batch into chunks."""
        for first in range(0, samples, self.chunk):
            part = slice(first, min(first + self.chunk, samples))
            own = np.ascontiguousarray(inputs.sampled[:, part])
            yield part, self._inputs(own, inputs.fixed)

    def factors(self, scales: Array) -> Array:
        """Return the scale of each output."""
        return scales if self.tasks is None else scales[self.tasks]

    def measured(self, values: Array) -> Array:
        """Return Z values, and logarithms of probabilities; see `qmtl.simulators.to_logits`."""
        if self.probability is None:
            return values
        found, mask = values.copy(), self.probability
        found[:, mask] = np.log(np.maximum(values[:, mask], 0) + PROBABILITY_FLOOR)
        return found

    def gradients(self, gradient: Array, scales: Array | None, state: State) -> list[Array]:
        """Return gradients with respect to features and all weights, or, if there are scales, to
        features, scales, encoding weights and block weights.

        Args:
            gradient: gradient with respect to outputs or logits, shape (batch, outputs).
            scales: one number for each task of the circuit; None for no scales.
            state: state that the forward pass returned.
        """
        step, by_scales = self, []
        # The kernels only take C-ordered arrays.
        gradient = np.ascontiguousarray(gradient)
        if scales is not None:
            terms, given = np.zeros(gradient.shape[1], gradient.dtype), gradient
            gradient = np.empty_like(given)
            factors, values = self.factors(scales), self.measured(state.values)
            self._kernels.weigh(gradient, terms, given, values, factors)
            by_scales.append(_placed(terms, self.tasks, len(scales)))
            if self.probability is not None:
                likely = state.values[:, self.probability]
                slope = (likely >= 0) / (np.maximum(likely, 0) + PROBABILITY_FLOOR)
                gradient[:, self.probability] *= slope.astype(gradient.dtype)
        if self.apart is not None and not np.isfinite(gradient).all():
            # A non-finite number of one task must not reach the others.
            step = self.apart()
            state = step.state(*state.given)
        by_features, by_weights = step._pull_back(gradient, state)
        if scales is None:
            return [by_features, by_weights]
        n = self.lengths[1]
        return [by_features, *by_scales, by_weights[:n], by_weights[n:]]

    def _pull_back(self, gradient: Array, state: State) -> tuple[Array, Array]:
        """Return gradients with respect to features (batch, n_features) and all weights, flat."""
        inputs, engines = state.inputs, self.program.engines
        by_angle = np.zeros(inputs.sampled.shape, gradient.dtype)
        by_weight = np.zeros(len(inputs.fixed), gradient.dtype)
        if state.kept is not None:
            for engine, own in zip(engines, state.kept, strict=True):
                engine.pull_back(inputs, own, gradient, by_angle, by_weight)
        else:
            for part, some in self._parts(inputs, len(gradient)):
                values, found = np.empty_like(gradient[part]), np.zeros_like(some.sampled)
                for engine in engines:
                    again = engine.forward(some, values)
                    engine.pull_back(some, again, gradient[part], found, by_weight)
                by_angle[:, part] = found
        if self.is_plain:
            by_weight = _placed(by_weight, self.weights, self.n_weights)
        else:
            by_angle, by_weight = self._through_table(by_angle, by_weight, state)
        # With another memory order than the features', torch would copy the gradient.
        by_feature = np.zeros(state.given[0].shape, gradient.dtype)
        slope, places = self.scale * self.factor, self._places(by_feature)
        self._kernels.unload(by_feature, by_angle, state.columns, places, slope, self.is_curved)
        return by_feature, by_weight

    def _through_table(
        self, by_sampled: Array, by_fixed: Array, state: State
    ) -> tuple[Array, Array]:
        """Convert gradients of the table's rows to those of encoding angles and weights."""
        angles = state.columns * self.scale
        copies = map(np.array, (angles.T, state.given[1]))
        leaves = [torch.from_numpy(copy).requires_grad_() for copy in copies]
        with torch.enable_grad():
            found = self.program.table.sampled(*leaves), self.program.table.fixed(leaves[1])
        gradients = torch.from_numpy(by_sampled), torch.from_numpy(by_fixed)
        pairs = [pair for pair in zip(found, gradients, strict=True) if pair[0].requires_grad]
        by_angle, by_weight = torch.autograd.grad(
            [f for f, _ in pairs], leaves, [g for _, g in pairs], materialize_grads=True
        )
        return by_angle.T.numpy(), by_weight.numpy()


def _places(index: NDArray[np.int64], size: int) -> Array | None:
    """Return the index, or None if the index lists all `size` numbers in order."""
    return None if len(index) == size and (index == np.arange(size)).all() else index


def _placed(values: Array, places: Array | None, size: int) -> Array:
    """Return a vector of `size` numbers to which `values` are added at `places`."""
    if places is None:
        return values
    found = np.zeros((size, *values.shape[1:]), values.dtype)
    np.add.at(found, places, values)
    return found


def _numbers(tensor: Tensor) -> Array:
    # `force` also negates a lazily negated tensor.
    found: Array = tensor.numpy(force=True)
    return found


def _tensors(arrays: Sequence[Array]) -> tuple[Tensor, ...]:
    return tuple(map(torch.from_numpy, arrays))


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary CPU tensor that no transform of torch wraps."""
    # A transform may wrap a parameter in a tensor of another type.
    if type(tensor) is nn.Parameter:
        return tensor.is_cpu
    if type(tensor) is not Tensor or not tensor.is_cpu:
        return False
    if torch.func.debug_unwrap(tensor) is not tensor:
        return False
    return forward_ad.unpack_dual(tensor).tangent is None


def _runs_kernels(features: Tensor) -> bool:
    """Return whether kernels may run: on the CPU, and not while torch records its operations."""
    is_recorded = is_compiling() or is_tracing() or get_proxy_mode() is not None
    return not is_recorded and features.is_cpu and features.shape[0] > 0


def _full_precision(like: Tensor) -> Any:
    """Return a context without autocast: simulators keep their inputs' precision."""
    kind = like.device.type
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class _Node(torch.autograd.Function):
    """The autograd node that computes outputs or logits of a step."""

    @staticmethod
    def forward(ctx: Any, step: Step, scaled: bool, *given: Tensor) -> Tensor:
        features, *parts = given
        # A copy: parameters may change before the backward pass, and FSDP cannot resize NumPy's.
        numbers, n = _numbers(torch.cat(parts)), len(parts[0]) if scaled else 0
        scales = numbers[:n] if scaled else None
        # Non-finite inputs give non-finite results; numpy need not warn of them.
        with np.errstate(all="ignore"):
            state = step.state(_numbers(features), numbers[n:])
            values = state.values
            if scales is None:
                # The caller owns the outputs and may change them, so they are not kept.
                state = state._replace(values=values[:0])
            else:
                values = step.measured(values) * step.factors(scales)
        ctx.save_for_backward(*given)
        ctx.step, ctx.scales, ctx.state = step, scales, state
        ctx.given, ctx.numbers = given, numbers
        return torch.from_numpy(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        step, scaled = ctx.step, ctx.scales is not None
        try:
            # This access makes torch check whether the saved tensors have changed.
            given = ctx.saved_tensors
        except RuntimeError as error:
            if not _runs_again(ctx, gradient, error):
                raise
            given = ctx.given
        if torch.is_grad_enabled():
            found = _derivatives(step, scaled, gradient, given)
        elif _is_plain(gradient) and _has_numbers(gradient):
            with np.errstate(all="ignore"):
                found = _tensors(step.gradients(_numbers(gradient), ctx.scales, ctx.state))
        elif torch.func.debug_unwrap(gradient) is not gradient:
            found = _Adjoint.apply(step, ctx.scales, ctx.state, gradient, *given)
        else:
            # ``is_grads_batched`` uses an older vmap that only knows torch's own operations.
            found = _derivatives(step, scaled, gradient, given)
        return None, None, *found


def _runs_again(ctx: Any, gradient: Tensor, error: RuntimeError) -> bool:
    """Return whether a node may run again after its graph was freed.

    TorchJD's ``mtl_backward`` differentiates each task's loss separately and frees each graph,
    although the tasks share this node. The node keeps all values that its backward pass needs. They
    are valid as long as weights and scales have not changed.
    """
    if "second time" not in str(error) or torch.is_grad_enabled():
        return False
    if not (_is_plain(gradient) and _has_numbers(gradient)):
        return False
    return np.array_equal(_numbers(torch.cat(ctx.given[1:])), ctx.numbers)


def _has_numbers(tensor: Tensor) -> bool:
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _derivatives(
    step: Step, scaled: bool, gradient: Tensor, given: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Compute gradients by torch operations, so that they can be differentiated again."""
    with torch.enable_grad(), _full_precision(given[0]):
        # Gradients by views do not count an input's path through another input that was computed
        # from it: the caller's graph has that path.
        inputs = [a.view_as(a) if a.requires_grad else a.detach().requires_grad_() for a in given]
        found = step.by_torch(inputs[0], *(inputs[1:] if scaled else (None, *inputs[1:])))
        if not found.requires_grad:
            return tuple(map(torch.zeros_like, inputs))
        return torch.autograd.grad(
            found, inputs, gradient, create_graph=True, materialize_grads=True
        )


class _Adjoint(torch.autograd.Function):
    """The backward pass of `_Node`, also for batches of gradients under ``torch.vmap``."""

    @staticmethod
    def forward(
        step: Step, scales: Array | None, state: State, gradient: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        with np.errstate(all="ignore"):
            return _tensors(step.gradients(_numbers(gradient), scales, state))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing, since there is no graph."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        step, scales, state, gradient, *given = inputs
        scaled = scales is not None
        dims = (0,) * len(given)
        rows = gradient.movedim(in_dims[3], 0) if in_dims[3] is not None else None
        unmapped = all(dim is None for dim in in_dims[4:])
        if rows is None or not unmapped or torch.func.debug_unwrap(rows) is not rows:
            mapped = torch.vmap(lambda g, *t: _derivatives(step, scaled, g, t), in_dims[3:])
            return mapped(gradient, *given), dims
        found = [_Adjoint.forward(step, scales, state, row, *given) for row in rows]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), dims
