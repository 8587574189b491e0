"""The interface of simulators: the methods that a head calls, and functions of all simulators."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.jit import is_tracing

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.tasks import chosen_tasks

if TYPE_CHECKING:
    from qmtl.simulators._explain import Explanation

PROBABILITY_FLOOR = 1e-6
"""Added to probabilities before their logarithm is taken as logits."""


@dataclass(frozen=True)
class AngleMap:
    """A map from features to angles in radians: ``scale · tanh(features / stretch)``.

    Attributes:
        scale: the largest angle.
        stretch: width of the tanh; 0 if features already are angles (``scale · features``).
    """

    scale: float
    stretch: float

    def __call__(self, features: Tensor) -> Tensor:
        """Return angles in the shape of the features; differentiable."""
        if not self.stretch:
            return features if self.scale == 1 else self.scale * features
        return self.scale * torch.tanh(features / self.stretch)


ANGLE_MAPS = {
    "tanh": AngleMap(math.pi, 2),
    "narrow": AngleMap(math.pi / 4, 4),
    "identity": AngleMap(1.0, 0),
}
"""Maps from features to angles. "tanh" keeps angles within a period. "narrow" keeps them within one
slope of the sine even if a feature is loaded twice. "identity" takes features as angles."""


class Dependencies(NamedTuple):
    """The features and encoding weights that each task depends on, as pairs of int64 indices.

    Attributes:
        features: ``(task, feature)``: two index arrays of the same length.
        weights: ``(task, encoding weight)``: two index arrays of the same length.
    """

    features: tuple[NDArray[np.int64], NDArray[np.int64]]
    weights: tuple[NDArray[np.int64], NDArray[np.int64]]


class OutputLayout(NamedTuple):
    """The layout of the outputs of some tasks, side by side.

    Attributes:
        sizes: number of outputs of each task.
        task_of_output: for each output, the index of its task in the circuit.
        is_probability: for each output, whether it is a probability; None if none is.
    """

    sizes: tuple[int, ...]
    task_of_output: NDArray[np.int64]
    is_probability: NDArray[np.bool_] | None

    def factors(self, scales: Tensor) -> Tensor:
        """Return the scale of each output, from the scales of all tasks of the circuit."""
        return scales[torch.from_numpy(self.task_of_output).to(scales.device)]


class Simulator(ABC):
    """A way to evaluate head circuits.

    Implementations are differentiable by torch with respect to angles and weights. They compute in
    the angles' precision, accept any batch size, and are deterministic unless they sample shots.

    Attributes:
        follows_shift_rule: whether each output is A + B cos θ + C sin θ in the angle θ of each
            rotation. This holds if an output comes from a single circuit.
    """

    follows_shift_rule: ClassVar[bool] = True

    @abstractmethod
    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the tasks' outputs side by side, (batch, outputs): Z values or probabilities.

        Args:
            circuit: the head circuit.
            angles: encoding angles in radians, shape (batch, n_features).
            weights: all weights of the circuit in one flat vector: see
                `HeadCircuit.weight_slices`.
            tasks: the tasks to evaluate, in this order; None for all.

        Raises:
            InvalidInputError: for angles or weights of another shape or type, or unknown tasks.
        """

    def expectation_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor | Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return the outputs of `values` as a dictionary: (batch, n_outputs) for each task.

        Weights are one flat vector, or a dictionary from ``"encoding"`` and task names to flat
        vectors, as returned by `QuantumHead.weights`. The other arguments are those of `values`.
        """
        chosen = check_angles(circuit, angles, tasks)
        flat = joined_weights(circuit, weights, chosen, angles)
        values = self.values(circuit, angles, flat, chosen)
        return by_task(values, chosen, output_layout(circuit, chosen).sizes)

    def logits(
        self,
        circuit: HeadCircuit,
        features: Tensor,
        encoding: Tensor,
        blocks: Tensor,
        scales: Tensor,
        *,
        angle_map: str = "narrow",
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the tasks' logits side by side, (batch, outputs), from a head's features.

        Args:
            circuit: the head circuit.
            features: the features, shape (batch, n_features).
            encoding: weights of the encoding, flat.
            blocks: weights of all tasks' blocks, flat.
            scales: one number for each task of the circuit.
            angle_map: one of `ANGLE_MAPS`.
            tasks: the tasks to evaluate, in this order; None for all.

        Raises:
            InvalidInputError: for features with NaN or infinity, and as `values` does.
        """
        check_finite(features)
        angles = ANGLE_MAPS[angle_map](features)
        chosen = check_angles(circuit, angles, tasks)
        values = self.values(circuit, angles, torch.cat([encoding, blocks]), chosen)
        layout = output_layout(circuit, chosen)
        return to_logits(values, layout.factors(scales), layout.is_probability)

    def readout_rows(
        self,
        circuit: HeadCircuit,
        features: Tensor,
        encoding: Tensor,
        blocks: Tensor,
        scales: Tensor,
        gradients: Tensor,
        *,
        angle_map: str = "narrow",
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return rows of a Jacobian: gradients with respect to features and encoding weights.

        No graph is kept, and no hook of the given tensors is called. The arguments are those of
        `logits`, with `gradients` with respect to the logits, shape (rows, batch, outputs).

        Returns:
            Two tensors of shape (rows, batch, n_features) and (rows, n_encoding_weights).
        """
        first, second = features.detach().requires_grad_(), encoding.detach().requires_grad_()
        rest = blocks.detach(), scales.detach()
        with torch.enable_grad():
            logits = self.logits(circuit, first, second, *rest, angle_map=angle_map, tasks=tasks)
        found = [first.new_empty(len(gradients), *own.shape) for own in (first, second)]
        for i, row in enumerate(gradients):
            found[0][i], found[1][i] = torch.autograd.grad(
                logits, [first, second], row, retain_graph=True, materialize_grads=True
            )
        return found[0], found[1]

    def dependencies(self, circuit: HeadCircuit) -> Dependencies | None:
        """Return the features and encoding weights that each task depends on; None if unknown."""
        return None

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> "Explanation":
        """Return the cost of a training step; here, the cost on `LightConeSimulator`."""
        from qmtl.simulators._lightcone import LightConeSimulator

        return LightConeSimulator().explain(circuit, batch_size, dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description, which `simulator_from_dict` reads.

        Raises:
            InvalidInputError: for a user's own simulator.
        """
        raise InvalidInputError(
            f"the simulator {self!r} is not one of qmtl's and cannot be saved; save "
            f"head.with_simulator('lightcone')"
        )


def to_logits(values: Tensor, factors: Tensor, is_probability: NDArray[np.bool_] | None) -> Tensor:
    """Turn measured values into logits: factor · ⟨Z⟩, or factor · log-probability.

    Args:
        values: measured values, shape (batch, outputs).
        factors: factor of each output, shape (outputs,).
        is_probability: which outputs are probabilities; None if none is.

    Example:
        >>> to_logits(torch.tensor([[0.5, 1.0]]), torch.tensor([5.0, 1.0]), np.array([False, True]))
        tensor([[2.5000e+00, 9.5367e-07]])
    """
    if is_probability is None:
        return values * factors
    mask = torch.from_numpy(is_probability).to(values.device)
    # Shot noise and rounding may make an estimated probability negative.
    safe = torch.where(mask, values, 1.0).clamp(min=0)
    return torch.where(mask, torch.log(safe + PROBABILITY_FLOOR), values) * factors


def by_task(joined: Tensor, names: Iterable[str], sizes: Iterable[int]) -> dict[str, Tensor]:
    """Split outputs side by side into each task's, as copies that may be changed in place.

    Example:
        >>> by_task(torch.tensor([[1.0, 2.0, 3.0]]), ["a", "b"], [1, 2])
        {'a': tensor([[1.]]), 'b': tensor([[2., 3.]])}
    """
    split: Any = torch.split_with_sizes_copy  # torch's types say that it returns nothing
    return dict(zip(names, split(joined, list(sizes), dim=1), strict=True))


@lru_cache(maxsize=64)
def output_layout(circuit: HeadCircuit, tasks: tuple[str, ...]) -> OutputLayout:
    """Return the layout of these tasks' outputs side by side."""
    readouts = [circuit.registers[name].readout for name in tasks]
    sizes = tuple(readout.n_outputs for readout in readouts)
    place = {name: i for i, name in enumerate(circuit.registers)}
    tasks_of = np.repeat(np.array([place[name] for name in tasks], np.int64), sizes)
    mask = np.repeat(np.array([bool(r.is_probability) for r in readouts], bool), sizes)
    return OutputLayout(sizes, tasks_of, mask if mask.any() else None)


def check_finite(features: Tensor) -> None:
    """Raise InvalidInputError if features have NaN or infinity; the error counts such samples."""
    # Tensors under vmap and jacrev have no concrete values.
    is_one = type(features) in (Tensor, nn.Parameter) and not features.is_meta
    is_recorded = is_compiling() or is_tracing() or get_proxy_mode() is not None
    if is_recorded or not is_one or torch.func.debug_unwrap(features) is not features:
        return
    # One sum is cheap to check. An infinite sum proves nothing: finite features may overflow.
    if math.isfinite(features.detach().sum()):
        return
    bad = (~torch.isfinite(features).all(dim=1)).nonzero().flatten()
    if len(bad):
        raise InvalidInputError(
            f"features must be finite; {len(bad)} of {len(features)} samples have NaN or infinite "
            f"values, the first at index {int(bad[0])}"
        )


def check_angles(
    circuit: HeadCircuit, angles: Tensor, tasks: Sequence[str] | None
) -> tuple[str, ...]:
    """Check angles and task names, and return the tasks to evaluate."""
    kind = angles.dtype if isinstance(angles, Tensor) else type(angles).__name__
    if kind not in (torch.float32, torch.float64):
        raise InvalidInputError(f"angles must be a tensor of float32 or float64, got {kind}")
    if angles.ndim != 2 or angles.shape[1] != circuit.n_features:
        raise InvalidInputError(
            f"angles must have shape (batch, {circuit.n_features}), got {tuple(angles.shape)}"
        )
    return chosen_tasks(tasks, circuit.registers)


def check_weights(circuit: HeadCircuit, weights: Tensor, like: Tensor) -> None:
    """Check that the weights are one vector of all the circuit's weights, in the type of `like`.

    Raises:
        InvalidInputError: if not; the error names the given and the expected form.
    """
    _check_vector("weights", weights, circuit.n_circuit_weights, like)


def _check_vector(name: str, vector: object, size: int, like: Tensor) -> None:
    if not isinstance(vector, Tensor):
        raise InvalidInputError(f"{name} must be a tensor, got {type(vector).__name__}")
    if vector.shape != (size,):
        raise InvalidInputError(f"{name} must have shape ({size},), got {tuple(vector.shape)}")
    if vector.dtype != like.dtype:
        raise InvalidInputError(
            f"{name} must be {like.dtype} as the angles are, got {vector.dtype}"
        )


def weights_by_name(circuit: HeadCircuit, weights: Tensor) -> dict[str, Tensor]:
    """Return views of the weights of ``"encoding"`` and of each task in one flat vector."""
    parts = weights.split([s.stop - s.start for s in circuit.weight_slices.values()])
    return dict(zip(circuit.weight_slices, parts, strict=True))


def joined_weights(
    circuit: HeadCircuit, weights: Tensor | Mapping[str, Tensor], tasks: Sequence[str], like: Tensor
) -> Tensor:
    """Join a dictionary of weights to one flat vector; weights of tasks not in `tasks` are zero.

    Args:
        circuit: the head circuit.
        weights: a dictionary from ``"encoding"`` and task names to flat vectors. A single vector is
            returned unchanged.
        tasks: the requested tasks.
        like: the angles; weights must have their type and device.

    Raises:
        InvalidInputError: for a missing weight, or a weight of another shape or type.
    """
    if isinstance(weights, Tensor):
        return weights
    asked = {"encoding", *tasks}
    parts = []
    for name, (size,) in circuit.weight_sizes.items():
        if name not in asked:
            parts.append(like.new_zeros(size))
            continue
        if name not in weights:
            raise InvalidInputError(f"weights must have the key {name!r}, got {sorted(weights)}")
        _check_vector(f"weights[{name!r}]", weights[name], size, like)
        parts.append(weights[name])
    return torch.cat(parts)


def memory_limit(device: torch.device, max_memory: int | None) -> int:
    """Return the bytes that a step may take on `device`."""
    if max_memory is not None:
        return max_memory
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1] * 0.75)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.75)


def cause_of_size(circuit: HeadCircuit, task: str, cone_wires: int, block_wires: int) -> str:
    """Explain in words why a task's light cone is so large, and how to reduce it."""
    encoding = circuit.encoding
    if cone_wires <= 12:
        return "The cones are small: use fewer tasks at a time, or a smaller batch."
    if block_wires >= cone_wires - 2:
        return f"The task's register has {block_wires} wires: use fewer wires."
    pattern = getattr(encoding, "entangler", None) or getattr(encoding, "pattern", None)
    layers = getattr(encoding, "n_layers", None)
    chained = getattr(encoding, "entangler", None) in ("cnot_ring", "cnot_line")
    if chained or pattern == "all_to_all":
        why = "joins every pair of wires" if pattern == "all_to_all" else "is one chain of CNOTs"
        return (
            f"The cause is the encoding's entangler {pattern!r}, which {why}; 'cz_ring' widens a "
            f"cone by 2 wires per layer only."
        )
    if pattern is not None and layers is not None:
        return (
            f"The cause is {layers} encoding layers of {pattern!r}, each of which widens the cone "
            f"by 2 wires: use fewer layers."
        )
    gate, size = circuit.light_cone(task).growth[-1]
    return f"The cone reaches {size} wires at the encoding's gate {gate}."
