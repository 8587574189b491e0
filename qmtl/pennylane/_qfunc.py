"""PennyLane functions and templates as encodings and task blocks of head circuits."""

import inspect
from collections.abc import Callable, Sequence
from math import prod
from operator import index
from typing import Any

import pennylane as qml
import torch
from torch import Tensor

from qmtl.circuit import Angle, Gate, GateSequence
from qmtl.errors import InvalidInputError, check_integer

# PennyLane decomposes all other gates. Gates with an angle obey U(a)U(b) = U(a + b), so `_gates`
# can turn a sum of terms into one gate per term.
KNOWN = {
    "RX", "RY", "RZ", "PhaseShift", "CRX", "CRY", "CRZ", "ControlledPhaseShift",
    "IsingXX", "IsingYY", "IsingZZ",
    "Hadamard", "S", "T", "SX", "PauliX", "PauliY", "PauliZ", "CNOT", "CY", "CZ", "SWAP",
}  # fmt: skip
WITHOUT_EFFECT = {"GlobalPhase", "Identity", "Barrier"}
ZERO = 1e-12


def from_qfunc(
    qfunc: Callable[..., Any],
    n_wires: int,
    *,
    n_features: int = 0,
    weights: int | Sequence[int] = (),
) -> GateSequence:
    """Convert a PennyLane function or template to gates, as an encoding or a task's block.

    `qfunc` is called at two random points. Its positional arguments are the features, if any, and
    then the weights, if any; it also gets ``wires=`` if it has such an argument. Its measurements
    are ignored, because a task's readout defines the measurement. An angle may be a sum of
    constants, features, weights, products of two features, and products of a feature and a weight.

    Args:
        qfunc: a template such as ``qml.StronglyEntanglingLayers``, your own function, or a QNode.
        n_wires: number of wires of the encoding or of the task's register.
        n_features: number of features; 0 for a task's block.
        weights: shape or number of the weights. The head stores them flat, in row-major order.

    Raises:
        InvalidInputError: for an operation that is not a gate, a wire out of range, an angle of
            another form, or a feature or weight that no gate depends on.

    Example:
        >>> import pennylane as qml
        >>> import qmtl
        >>> shape = qml.BasicEntanglerLayers.shape(n_layers=2, n_wires=2)
        >>> block = from_qfunc(qml.BasicEntanglerLayers, 2, weights=shape)
        >>> qmtl.HeadCircuit([qmtl.Task.binary("a")], ansatz=block).n_weights("a")
        4
    """
    try:
        sizes = weights if isinstance(weights, Sequence) else (weights,)
        shape = tuple(map(index, sizes))
    except TypeError:
        raise InvalidInputError(
            f"weights must be a number of weights, or their shape as a tuple, got {weights!r}"
        ) from None
    n_weights = prod(shape) if shape else 0
    counts = {"n_wires": (n_wires, 1), "n_features": (n_features, 0), "weights": (n_weights, 0)}
    for name, (value, least) in counts.items():
        check_integer(name, value, least)
    generator = torch.Generator().manual_seed(0)
    point, other = torch.randn(2, n_features + n_weights, dtype=torch.float64, generator=generator)
    point.requires_grad_()
    operations, checks = (_traced(qfunc, n_wires, n_features, shape, p) for p in (point, other))
    names = [operation.name for operation in operations]
    if names != [operation.name for operation in checks]:
        raise InvalidInputError(
            "the function applies other gates at other values of its arguments, as state "
            "preparations do; a head circuit has the same gates for every sample"
        )
    gates: list[Gate] = []
    for operation, check in zip(operations, checks, strict=True):
        gates += _gates(operation, check, n_wires, n_features, point, other)
    sequence = GateSequence.of(n_wires, gates)
    used = {"features": sequence.n_features(n_wires), "weights": sequence.n_weights(n_wires)}
    for name, number in (("features", n_features), ("weights", n_weights)):
        if used[name] < number:
            raise InvalidInputError(
                f"the function's gates depend on {used[name]} of its {number} {name}"
            )
    return sequence


def _traced(
    qfunc: Callable[..., Any], n_wires: int, n_features: int, shape: tuple[int, ...], point: Tensor
) -> list[Any]:
    """Return the function's decomposed operations at one point of features and weights."""
    function = qfunc.func if isinstance(qfunc, qml.QNode) else qfunc
    if not callable(function):
        raise InvalidInputError(f"qfunc must be a function or a template, got {qfunc!r}")
    arguments = [point[:n_features]] if n_features else []
    arguments += [point[n_features:].reshape(shape)] if shape else []
    # Some templates need `wires` as a keyword; others accept any keyword, so check the signature.
    parameters = inspect.signature(function).parameters
    options = {"wires": range(n_wires)} if "wires" in parameters else {}
    try:
        tape = qml.tape.make_qscript(function)(*arguments, **options)
        known = KNOWN | WITHOUT_EFFECT
        (script,), _ = qml.transforms.decompose(
            tape, gate_set=known, stopping_condition=lambda op: op.name in known or _is_zz(op)
        )
    except RuntimeError as error:
        if "numpy()" not in str(error):
            raise
        raise InvalidInputError(
            "the function applies NumPy to its features or weights, which are torch tensors; use "
            "torch or pennylane.math"
        ) from error
    except (
        TypeError, ValueError, IndexError, ImportError, qml.exceptions.DecompositionUndefinedError
    ) as error:  # fmt: skip
        given = [n for n, some in (("features", n_features), ("weights", shape)) if some]
        takes = [f"{n} of shape {tuple(a.shape)}" for n, a in zip(given, arguments, strict=True)]
        raise InvalidInputError(
            f"the function cannot be applied to {', '.join([*takes, *options]) or 'no arguments'} "
            f"and decomposed: {' '.join(str(error).split())}; it gets n_features features, if any, "
            f"then the weights, and wires=; wrap one with other arguments in a function of your own"
        ) from error
    return [op for op in script.operations if op.name not in WITHOUT_EFFECT]


def _is_zz(operation: Any) -> bool:
    return operation.name == "MultiRZ" and len(operation.wires) == 2


def _gates(
    operation: Any, check: Any, n_wires: int, n_features: int, point: Tensor, other: Tensor
) -> list[Gate]:
    wires = tuple(operation.wires)
    name = "IsingZZ" if _is_zz(operation) else operation.name
    if name not in KNOWN:
        raise InvalidInputError(
            f"{operation.name} on wires {list(wires)} is not a gate of a circuit"
        )
    wrong = [w for w in wires if not isinstance(w, int) or not 0 <= w < n_wires]
    if wrong:
        raise InvalidInputError(
            f"{operation.name} is on wire {wrong[0]!r}; there are {n_wires} (numbered from 0)"
        )
    if not operation.data:
        return [Gate(name, wires)]
    angle = torch.as_tensor(operation.data[0], dtype=torch.float64)
    if angle.numel() != 1:
        raise InvalidInputError(
            f"{operation.name} on wires {list(wires)} has {angle.numel()} angles: a gate of a "
            f"circuit takes one, such as w[0]"
        )
    terms = _terms(angle.reshape(()), point, n_features)
    expected = float(torch.as_tensor(check.data[0], dtype=torch.float64))
    found = sum(_value(term, other, n_features) for term in terms)
    if not abs(found - expected) <= 1e-9 * max(1.0, abs(expected)):  # true of NaN
        raise InvalidInputError(
            f"{operation.name} on wires {list(wires)}: its angle is not a sum of constants, "
            f"features, weights, products of two features, and features times a weight"
        )
    return [Gate(name, wires, term) for term in terms]


def _terms(angle: Tensor, point: Tensor, n_features: int) -> list[Angle]:
    """Return the terms of an angle from its derivatives, if it is a quadratic polynomial."""
    value = angle.detach()
    if not angle.requires_grad:
        return [] if abs(value) <= ZERO else [Angle(constant=float(value))]
    (slope,) = torch.autograd.grad(angle, point, create_graph=True)
    curvature = torch.zeros(len(point), len(point), dtype=torch.float64)
    if slope.requires_grad:
        for i in slope.detach().abs().gt(ZERO).nonzero().flatten().tolist():
            found = torch.autograd.grad(slope[i], point, retain_graph=True, allow_unused=True)[0]
            curvature[i] = 0 if found is None else found
    at = point.detach()
    linear = slope.detach() - curvature @ at
    constant = value - linear @ at - at @ curvature @ at / 2
    terms = [Angle(constant=float(constant))] if abs(constant) > ZERO else []
    terms += [
        _angle((i,), float(linear[i]), n_features)
        for i in linear.abs().gt(ZERO).nonzero().flatten().tolist()
    ]
    for i, j in curvature.triu().abs().gt(ZERO).nonzero().tolist():
        factor = float(curvature[i, j]) / (2 if i == j else 1)
        terms.append(_angle((i, j), factor, n_features))
    return terms


def _angle(places: tuple[int, ...], constant: float, n_features: int) -> Angle:
    features = tuple(place for place in places if place < n_features)
    weights = [place - n_features for place in places if place >= n_features]
    if len(weights) > 1:
        a, b = weights
        how = (
            f"is not linear in weight {a}" if a == b else f"has the product of weights {a} and {b}"
        )
        raise InvalidInputError(f"an angle {how}; a gate takes one weight as a factor")
    return Angle(features, weights[0] if weights else None, constant)


def _value(angle: Angle, point: Tensor, n_features: int) -> float:
    factors = [point[i] for i in angle.features]
    factors += [] if angle.weight is None else [point[n_features + angle.weight]]
    return float(angle.constant * prod(factors))
