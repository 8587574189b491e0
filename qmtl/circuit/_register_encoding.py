"""RegisterEncoding: the same encoding on every register by itself, so that no gate joins two."""

from dataclasses import dataclass, replace

from qmtl.circuit._encodings import Encoding
from qmtl.circuit._gates import Angle, Gate
from qmtl.errors import InvalidInputError

__all__ = ["RegisterEncoding"]


@dataclass(frozen=True)
class RegisterEncoding:
    """An encoding applied to each register alone: many small circuits side by side, run as one.

    Features and weights are numbered register by register, each in the inner encoding's order.

    Args:
        sizes: wires of each register, in order.
        encoding: what runs on each of them.

    Raises:
        InvalidInputError: for sizes below 1, or wires in another number than the sizes' sum.

    Example:
        >>> from qmtl.circuit._encodings import AngleEncoding
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
        """Number of encoding angles of all registers."""
        self._check(n_wires)
        return sum(self.encoding.n_features(size) for size in self.sizes)

    def n_weights(self, n_wires: int) -> int:
        """Number of trainable weights of all registers."""
        self._check(n_wires)
        return sum(self.encoding.n_weights(size) for size in self.sizes)

    def gates(self, n_wires: int) -> list[Gate]:
        """Gates register by register, in the order of application."""
        self._check(n_wires)
        gates: list[Gate] = []
        wire = feature = weight = 0
        for size in self.sizes:
            gates += [_moved(gate, wire, feature, weight) for gate in self.encoding.gates(size)]
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
    """The gate with its wires, features and weight numbered on from the given ones."""
    angle: Angle | None = gate.angle
    if angle is not None:
        angle = replace(
            angle,
            features=tuple(feature + i for i in angle.features),
            weight=None if angle.weight is None else weight + angle.weight,
        )
    return Gate(gate.name, tuple(wire + w for w in gate.wires), angle)
