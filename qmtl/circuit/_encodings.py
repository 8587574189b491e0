"""Shared encodings: circuits that load features into all wires of a head.

An encoding is any frozen object with ``n_features(n_wires)``, ``n_weights(n_wires)`` and
``gates(n_wires)``.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from qmtl.circuit._entanglers import entangler_edges, entangler_gates
from qmtl.circuit._gates import Angle, Gate, GateSequence, elementary
from qmtl.errors import InvalidInputError, check_integer


@runtime_checkable
class Encoding(Protocol):
    """The methods that an encoding must have."""

    def n_features(self, n_wires: int) -> int:
        """Return the number of encoding angles."""

    def n_weights(self, n_wires: int) -> int:
        """Return the number of trainable weights."""

    def gates(self, n_wires: int) -> list[Gate]:
        """Return gates in the order of application, with weights numbered from 0 in gate order."""


def _check_axes(what: str, axes: str, *, empty: bool) -> None:
    if set(axes) - set("XYZ") or (not axes and not empty):
        allowed = "X, Y and Z" + (", or empty" if empty else "")
        raise InvalidInputError(f"{what} must be a string of {allowed}, got {axes!r}")


@dataclass(frozen=True)
class AngleEncoding:
    r"""Angle encoding with re-uploading, trainable rotations and an entangler per layer.

    A layer loads features by one rotation per axis on every wire, applies trainable rotations to
    every wire, and then entangles. The last layer has no trainable rotations, because task blocks
    begin with trainable rotations::

        ──RY(x0)──RZ(w0)──╭●────────●──RY(x0)──╭●────────●──
        ──RY(x1)──RZ(w1)──╰●──╭●────│──RY(x1)──╰●──╭●────│──
        ──RY(x2)──RZ(w2)──────╰●────●──RY(x2)──────╰●────●──

    Args:
        n_layers: number of layers.
        axes: rotation axes that load features; each adds one rotation per wire and layer.
        features_per_wire: number of features on each wire; None for one per axis. The loading
            rotations of a wire take the features in turn, layer after layer, so that a wire may
            have more features than axes. Feature ``j`` of wire ``i`` has the index
            ``i · features_per_wire + j``.
        trainable: axes of the trainable rotations, in order; empty for none.
        reupload: whether every layer loads the features again. If not, all layers after the first,
            also the last, have trainable rotations instead.
        entangler: a name from `qmtl.circuit.ENTANGLERS`.

    Raises:
        InvalidInputError: for axes other than X, Y, Z, an unknown entangler, features that no
            rotation would load, or layers that would have diagonal gates only.

    Example:
        >>> encoding = AngleEncoding(n_layers=2)
        >>> encoding.n_features(6), encoding.n_weights(6)
        (6, 6)

    References:
        Re-uploading: Pérez-Salinas et al., arXiv:1907.02085. Dense angles: LaRose and Coyle,
        arXiv:2003.01695.
    """

    n_layers: int = 2
    axes: str = "Y"
    features_per_wire: int | None = None
    trainable: str = "Z"
    reupload: bool = True
    entangler: str = "cz_ring"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_layers", check_integer("n_layers", self.n_layers))
        _check_axes("axes", self.axes, empty=False)
        _check_axes("trainable", self.trainable, empty=True)
        entangler_edges(self.entangler, 2)
        slots = len(self.axes) * (self.n_layers if self.reupload else 1)
        if not 1 <= self._per_wire <= slots:
            raise InvalidInputError(
                f"features_per_wire must be from 1 to {slots}, the number of loading rotations "
                f"per wire (axes {self.axes!r}, n_layers {self.n_layers}, reupload "
                f"{self.reupload}), got {self.features_per_wire}"
            )
        if not self.reupload and self.n_layers > 1 and not set(self.trainable) - {"Z"}:
            raise InvalidInputError(
                f"without re-uploading, layers after the first need a trainable X or Y rotation, "
                f"got trainable={self.trainable!r}"
            )

    @property
    def _per_wire(self) -> int:
        return len(self.axes) if self.features_per_wire is None else self.features_per_wire

    def _has_trainable(self, layer: int) -> bool:
        return layer < self.n_layers - 1 or (not self.reupload and layer > 0)

    def n_features(self, n_wires: int) -> int:
        """Return the number of encoding angles on `n_wires` wires."""
        return self._per_wire * n_wires

    def n_weights(self, n_wires: int) -> int:
        """Return the number of trainable weights on `n_wires` wires."""
        layers = sum(self._has_trainable(layer) for layer in range(self.n_layers))
        return layers * len(self.trainable) * n_wires

    def gates(self, n_wires: int) -> list[Gate]:
        """Return the gates in the order of application."""
        gates: list[Gate] = []
        weight = loaded = 0
        for layer in range(self.n_layers):
            if self.reupload or layer == 0:
                for axis in self.axes:
                    feature = loaded % self._per_wire
                    loaded += 1
                    gates += [
                        Gate(f"R{axis}", (i,), Angle(features=(i * self._per_wire + feature,)))
                        for i in range(n_wires)
                    ]
            if self._has_trainable(layer):
                for axis in self.trainable:
                    gates += [
                        Gate(f"R{axis}", (i,), Angle(weight=weight + i)) for i in range(n_wires)
                    ]
                    weight += n_wires
            gates += entangler_gates(self.entangler, range(n_wires))
        return gates


@dataclass(frozen=True)
class IQPEncoding:
    r"""Instantaneous quantum polynomial encoding: H, RZ(x_i), and ZZ(x_i x_j) on a pattern.

    Signs and angles follow PennyLane's ``IQPEmbedding``. There are no trainable weights. With a
    `pattern` of neighbours, the size of light cones is constant; ``all_to_all`` is the original
    proposal.

    Args:
        n_layers: number of repetitions.
        pattern: name of the edges of the ZZ rotations: ``cz_ring``, ``cz_line``, ``all_to_all`` or
            ``none``.

    Example:
        >>> [str(gate) for gate in IQPEncoding(n_layers=1).gates(2)][2:]
        ['RZ(x[0]) 0', 'RZ(x[1]) 1', 'IsingZZ(x[0]·x[1]) 0,1']

    References:
        Havlíček et al., arXiv:1804.11326.
    """

    n_layers: int = 2
    pattern: str = "cz_ring"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_layers", check_integer("n_layers", self.n_layers))
        entangler_edges(self.pattern, 2)

    def n_features(self, n_wires: int) -> int:
        """Return the number of encoding angles on `n_wires` wires."""
        return n_wires

    def n_weights(self, n_wires: int) -> int:
        """Return zero: there are no trainable weights."""
        return 0

    def gates(self, n_wires: int) -> list[Gate]:
        """Return the gates in the order of application."""
        layer = [Gate("Hadamard", (i,)) for i in range(n_wires)]
        layer += [Gate("RZ", (i,), Angle(features=(i,))) for i in range(n_wires)]
        layer += [
            Gate("IsingZZ", edge, Angle(features=edge))
            for edge in entangler_edges(self.pattern, n_wires)
        ]
        return layer * self.n_layers


ENCODINGS = {
    "AngleEncoding": AngleEncoding,
    "IQPEncoding": IQPEncoding,
    "GateSequence": GateSequence,
}
"""Encodings by the names that catalogue files and saved models use."""


@dataclass(frozen=True)
class RegisterEncoding:
    """An encoding applied to each register separately: many small circuits that run as one.

    Features and weights are numbered register by register, in the order of `encoding`.

    Args:
        sizes: number of wires of each register, in order.
        encoding: the encoding to apply to each register.

    Raises:
        InvalidInputError: for sizes below 1, or if their sum is not the number of wires.

    Example:
        >>> from qmtl.circuit import AngleEncoding
        >>> gates = RegisterEncoding((2, 2), AngleEncoding(n_layers=1)).gates(4)
        >>> [str(gate) for gate in gates]
        ['RY(x[0]) 0', 'RY(x[1]) 1', 'CZ 0,1', 'RY(x[2]) 2', 'RY(x[3]) 3', 'CZ 2,3']
    """

    sizes: tuple[int, ...]
    encoding: Encoding

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or any(isinstance(k, bool) or int(k) != k or k < 1 for k in self.sizes):
            raise InvalidInputError(f"sizes must be one or more integers >= 1, got {self.sizes}")

    def n_features(self, n_wires: int) -> int:
        """Return the number of encoding angles of all registers."""
        self._check(n_wires)
        return sum(self.encoding.n_features(size) for size in self.sizes)

    def n_weights(self, n_wires: int) -> int:
        """Return the number of trainable weights of all registers."""
        self._check(n_wires)
        return sum(self.encoding.n_weights(size) for size in self.sizes)

    def gates(self, n_wires: int) -> list[Gate]:
        """Return the gates register by register, in the order of application."""
        self._check(n_wires)
        gates: list[Gate] = []
        wire = feature = weight = 0
        for size in self.sizes:
            inner = elementary(self.encoding.gates(size))
            gates += [_moved(gate, wire, feature, weight) for gate in inner]
            wire += size
            feature += self.encoding.n_features(size)
            weight += self.encoding.n_weights(size)
        return gates

    def _check(self, n_wires: int) -> None:
        if n_wires != sum(self.sizes):
            raise InvalidInputError(
                f"registers of {self.sizes} wires need {sum(self.sizes)} wires, got {n_wires}"
            )


def _moved(gate: Gate, wire: int, feature: int, weight: int) -> Gate:
    """Shift the gate's wires, features and weight by the given offsets."""
    angle: Angle | None = gate.angle
    if angle is not None:
        angle = replace(
            angle,
            features=tuple(feature + i for i in angle.features),
            weight=None if angle.weight is None else weight + angle.weight,
        )
    return Gate(gate.name, tuple(wire + w for w in gate.wires), angle)
