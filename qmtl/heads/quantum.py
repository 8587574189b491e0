"""QuantumHead: a head circuit as a torch module."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError, QmtlError, unknown_name
from qmtl.heads.computed import leaves, renew, twin_of, values_of
from qmtl.heads.features import check_features, chosen_tasks, task_key
from qmtl.heads.initial import INITIAL_STD, block_weights, circuit_weights, drawn_seed
from qmtl.simulators import (
    Explanation,
    Simulator,
    explained,
    joined_values,
    simulator_for,
    simulator_from_dict,
    simulator_to_dict,
)
from qmtl.tasks import Task

__all__ = ["ANGLE_MAPS", "QuantumHead"]

# How features become angles. "tanh" keeps them within a period whatever the encoder gives;
# "narrow" within one slope of the sine, also when they are loaded twice.
ANGLE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda features: math.pi * torch.tanh(features / 2),
    "narrow": lambda features: math.pi / 4 * torch.tanh(features / 4),
    "identity": lambda features: features,
}
PROBABILITY_FLOOR = 1e-6
INITIAL_SCALE = {False: 5.0, True: 1.0}


class QuantumHead(nn.Module):
    r"""A fully quantum multi-task head: features in, each task's logits out.

    Features become angles ``π·tanh(features / 2)``; the circuit's shared encoding loads them; a
    task's logits are what is measured on its register, times one trainable scale: ``s·⟨Z⟩`` (s
    starts at 5), or ``s·log(p + 1e-6)`` for basis-state probabilities (s starts at 1). No linear
    layer follows.

    Args:
        circuit: what runs on the wires.
        simulator: ``"lightcone"`` (exact, the default), the name of a PennyLane device, or a
            `Simulator`.
        angle_map: ``"tanh"``; ``"narrow"``, ``π/4·tanh(features / 4)``, for an output that is
            nearly linear in the features; or ``"identity"`` if these are angles in radians already.
        seed: of the initial weights; every task draws from a generator of its own, so that adding
            a task leaves the others' weights alone. None draws the seed from torch's global
            generator.
        initial: how blocks start, see `qmtl.heads.initial.block_weights`: ``"normal"``, N(0, 0.5²),
            or ``"equator"``. The encoding starts with N(0, 0.1²).
        frozen: whether the circuit's weights stay at their random initial values, so that only the
            scales are trained (and the encoder before the head). For ablations.

    Shape:
        features ``(batch, circuit.n_features)`` to ``{task: (batch, n_outputs)}``.

    Raises:
        InvalidInputError: on a call, for features of another width or with NaN, or unknown tasks.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("cola"), Task.multiclass("emotion", 9)])
        >>> head = QuantumHead(circuit, seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(3, 6)).items()}
        {'cola': (3, 1), 'emotion': (3, 9)}

    References:
        Cowlessur, Thapa, Alpcan and Camtepe, arXiv:2604.13560.
    """

    def __init__(
        self,
        circuit: HeadCircuit,
        simulator: str | Simulator = "lightcone",
        *,
        angle_map: str = "tanh",
        seed: int | None = None,
        initial: str = "normal",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if angle_map not in ANGLE_MAPS:
            raise unknown_name("angle_map", angle_map, ANGLE_MAPS)
        self.circuit = circuit
        self.simulator = simulator_for(simulator)
        self.angle_map = angle_map
        self.frozen = frozen
        seed = drawn_seed(seed)
        self.encoding = circuit_weights(
            seed, "encoding", circuit.n_encoding_weights, INITIAL_STD["encoding"]
        )
        self.blocks = nn.ParameterDict()
        self.scales = nn.ParameterDict()
        self._keys = {name: task_key(name) for name in circuit.registers}
        for name, register in circuit.registers.items():
            weights = block_weights(seed, f"task {name}", circuit, name, initial)
            scale = torch.tensor(INITIAL_SCALE[register.readout.is_probability])
            self.blocks[self._keys[name]] = weights
            self.scales[self._keys[name]] = nn.Parameter(scale)
        if frozen:
            for parameter in (self.encoding, *self.blocks.values()):
                parameter.requires_grad_(False)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in the circuit's order."""
        return self.circuit.tasks

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.circuit.n_features

    def weights(self) -> dict[str, Tensor]:
        """The circuit weights, flat and in gate order: ``"encoding"`` and each task's."""
        encoding, blocks = self._encoding(), values_of(self.blocks, self._keys.values())
        return {"encoding": encoding, **dict(zip(self._keys, blocks, strict=True))}

    def _encoding(self) -> Tensor:
        renew(self)
        try:
            return self.encoding
        except AttributeError:
            raise QmtlError(
                "the head has lost its encoding weights, since one that shares them by "
                "with_simulator was pruned or parametrised: do so before, or on a copy.deepcopy"
            ) from None

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that several tasks depend on: the encoding weights."""
        self._encoding()
        return leaves(self, "encoding")

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters of one task alone: its block's weights and its scale."""
        key = task_key(self.circuit.register(task).task.name)
        return [*leaves(self.blocks, key), *leaves(self.scales, key)]

    def forward(
        self, features: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Logits of the tasks asked for (None: all), each ``(batch, n_outputs)``."""
        angles, weights = self.angles(features), self.weights()
        if angles.dtype is not self.encoding.dtype:
            raise InvalidInputError(
                f"features must be {self.encoding.dtype} as the head's weights are, got "
                f"{features.dtype}"
            )
        names = chosen_tasks(tasks, self.circuit.registers)
        if not names:
            return {}
        factors: list[Tensor] = []

        def meanwhile() -> None:
            factors.append(self._factors(names))

        values = joined_values(self.simulator, self.circuit, angles, weights, names, meanwhile)
        return self._by_task(values, names, factors[0] if factors else self._factors(names))

    def angles(self, features: Float[Tensor, "batch features"]) -> Tensor:
        """The encoding angles (radians) that features become, ``(batch, n_features)``.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a")]))
            >>> head.angles(torch.tensor([[0.0, 100.0]]))
            tensor([[0.0000, 3.1416]])
        """
        check_features(features, self.n_features)
        return ANGLE_MAPS[self.angle_map](features)

    def logits(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits from what was measured: scale times ⟨Z⟩, or scale times log-probability.

        Args:
            values: task names to ``(batch, n_outputs)``, as from `expectation_values` or from
                hardware.
        """
        registers = self.circuit.registers
        for name in values:
            if name not in registers:
                raise unknown_name("task", name, registers)
        if not values:
            return {}
        joined = torch.cat(list(values.values()), dim=1)
        return self._by_task(joined, list(values), self._factors(list(values)))

    def _factors(self, names: Sequence[str]) -> Tensor:
        """The tasks' scales, one for each output."""
        factors = torch.stack(values_of(self.scales, [self._keys[name] for name in names]))
        sizes, _, repeats = _layout(self.circuit, tuple(names))
        if repeats is None:
            return factors
        counts = torch.from_numpy(repeats).to(factors.device)
        return factors.repeat_interleave(counts, output_size=sum(sizes))

    def _by_task(self, values: Tensor, names: Sequence[str], factors: Tensor) -> dict[str, Tensor]:
        """Logits from what was measured on the registers of these tasks, side by side."""
        # Tasks together: hundreds of small products would cost more than the simulation.
        sizes, are_probabilities, _ = _layout(self.circuit, tuple(names))
        if are_probabilities is not None:
            mask = torch.from_numpy(are_probabilities).to(values.device)
            # Shot noise and rounding may take an estimated probability below zero.
            safe = torch.where(mask, values, 1.0).clamp(min=0)
            values = torch.where(mask, torch.log(safe + PROBABILITY_FLOOR), values)
        return dict(zip(names, (values * factors).split(sizes, dim=1), strict=True))

    def expectation_values(
        self, angles: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """What is measured at these encoding angles (radians): no angle map and no scale.

        Returns:
            Task names to ``(batch, n_outputs)``: Z values in [-1, 1], or probabilities in [0, 1].
        """
        return self.simulator.expectation_values(self.circuit, angles, self.weights(), tasks)

    def with_simulator(self, simulator: str | Simulator) -> "QuantumHead":
        """A head with these very parameters, evaluated by another simulator.

        What one of them learns or loads is seen by both. Hooks are not shared, but for those by
        which torch computes parameters: prune or parametrise a head first, or a copy of it, for
        the encoding weights that it loses are lost to the other, too (which says so).
        """
        twin = twin_of(self)
        # Simulators of one's own may be modules, which torch keeps in another place.
        del twin.simulator
        twin.simulator = simulator_for(simulator)
        return twin

    def to_qnode(self, device: Any = "default.qubit", **options: Any) -> Any:
        """A PennyLane QNode of the head, ``qnode(angles, weights)``, with its weights as default.

        It takes what `angles` makes of features, and returns what is measured, without scales; its
        gradients reach the head's parameters. A head of the shared layout has a circuit per task:
        give ``tasks=["name"]``. For the arguments see `qmtl.simulators.qnodes.task_qnode`.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
            >>> angles = head.angles(torch.zeros(1, 2))
            >>> value = head.to_qnode("default.qubit")(angles)["a"][0]
            >>> bool(torch.allclose(value.float(), head.expectation_values(angles)["a"][:, 0]))
            True
        """
        from qmtl.simulators.qnodes import task_qnode

        return task_qnode(self.circuit, self.weights(), device, **options)

    def explain(self, batch_size: int = 32) -> Explanation:
        """How this head is simulated, and what a training step takes.

        Under noise, noisy light cones are shown beside the ideal ones; with shots, what is sampled
        from. Other simulators have no plan: it is the light-cone simulator's then.
        """
        return explained(self.simulator, self.circuit, batch_size, self._encoding().dtype)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the head without its parameters.

        Raises:
            InvalidInputError: for a simulator of your own (take ``with_simulator("lightcone")``).
        """
        return {
            "type": "QuantumHead",
            "circuit": self.circuit.to_dict(),
            "angle_map": self.angle_map,
            "simulator": simulator_to_dict(self.simulator),
            "frozen": self.frozen,
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> "QuantumHead":
        """The head that `to_dict` described, with fresh parameters."""
        from qmtl.circuit.catalogue import circuit_from_dict

        circuit = circuit_from_dict(description["circuit"], custom=custom or {})
        simulator = simulator_from_dict(description["simulator"])
        # Models saved before heads could be frozen do not say.
        frozen = description.get("frozen", False)
        return cls(circuit, simulator, angle_map=description["angle_map"], seed=0, frozen=frozen)

    def _repr_html_(self) -> str:
        from qmtl.heads.display import head_html

        return head_html(self)

    def extra_repr(self) -> str:
        """Shown by ``print(head)``."""
        return f"{self.circuit!r}, simulator={self.simulator!r}"


@lru_cache(maxsize=64)
def _layout(
    circuit: HeadCircuit, names: tuple[str, ...]
) -> tuple[list[int], NDArray[np.bool_] | None, NDArray[np.int64] | None]:
    """How many outputs each of these tasks has, which outputs of all are probabilities (None: no
    one), and the numbers again, to repeat a value per task by (None: all are 1).
    """
    readouts = [circuit.registers[name].readout for name in names]
    sizes = [readout.n_outputs for readout in readouts]
    repeats = np.array(sizes, dtype=np.int64)
    mask = np.repeat([readout.is_probability for readout in readouts], repeats)
    return sizes, mask if mask.any() else None, repeats if max(sizes) > 1 else None
