"""Pauli strings as pairs of bit masks, and their change under gates (U† P U).

A string is ``(x, z)``: bit w of `x` is set for X or Y on wire w, bit w of `z` for Z or Y. A gate
without an angle turns a string into one string and a sign. A rotation exp(-iθA/2) keeps a string
that commutes with A, and turns any other string P into ``cos θ · P + sign · sin θ · Q``.
"""

from qmtl.simulators._cones import Op

Pauli = tuple[int, int]
# The rotation axis of half turns, which only change signs of strings; the axis of quarter turns,
# with the sign of the partner.
HALF_TURNS = {"X": "RX", "Z": "RZ"}
QUARTER_TURNS = {"SX": ("RX", 1), "SXdg": ("RX", -1), "S": ("RZ", 1), "Sdg": ("RZ", -1)}


def after_clifford(op: Op, string: Pauli) -> tuple[Pauli, int]:
    """Return U† P U as a string and its sign, for a gate that maps each string to one string.

    Example:
        >>> after_clifford(Op("CZ", (0, 1), None), (0b01, 0b00))  # X I becomes X Z
        ((1, 2), 1)
    """
    x, z = string
    if op.name == "Hadamard":
        wire = 1 << op.wires[0]
        flips = x & z & wire
        swap = (x ^ z) & wire
        return (x ^ swap, z ^ swap), -1 if flips else 1
    if op.name in HALF_TURNS:
        moved = rotated(Op(HALF_TURNS[op.name], op.wires, None), string)
        return string, 1 if moved is None else -1
    if op.name in QUARTER_TURNS:
        axis, direction = QUARTER_TURNS[op.name]
        moved = rotated(Op(axis, op.wires, None), string)
        return (string, 1) if moved is None else (moved[0], moved[1] * direction)
    if op.name not in ("CZ", "CNOT"):
        raise AssertionError(f"{op.name} is neither a rotation nor a known gate without angle")
    a, b = op.wires
    xa, xb, za, zb = x >> a & 1, x >> b & 1, z >> a & 1, z >> b & 1
    if op.name == "CNOT":
        sign = -1 if xa & zb & (xb ^ za ^ 1) else 1
        return (x ^ (xa << b), z ^ (zb << a)), sign
    sign = -1 if xa & xb & (za ^ zb) else 1
    return (x, z ^ (xb << a) ^ (xa << b)), sign


def rotated(op: Op, string: Pauli) -> tuple[Pauli, int] | None:
    """Return the partner Q = ±i A P of a string P under a rotation about A, and its sign.

    The result is None if P commutes with A.

    Example:
        >>> rotated(Op("RY", (0,), 0), (0, 1))  # Z becomes cos Z - sin X
        ((1, 0), -1)
    """
    axis, (x, z) = 0, string
    for wire in op.wires:
        axis |= 1 << wire
    ax, az = axis if op.name in ("RX", "RY") else 0, axis if op.name != "RX" else 0
    passed = (az & x).bit_count()
    if ((ax & z).bit_count() + passed) % 2 == 0:
        return None
    qx, qz = x ^ ax, z ^ az
    # A string is i^|x&z| X^x Z^z; moving Z^az past X^x costs (-1)^|az&x|.
    power = 1 + (ax & az).bit_count() + (x & z).bit_count() + 2 * passed - (qx & qz).bit_count()
    return (qx, qz), 1 if power % 4 == 0 else -1


def without_z(wire: int, string: Pauli) -> Pauli | None:
    """Return the string without its Z on a wire; None if the string has no Z there.

    Example:
        >>> without_z(0, (0, 3)), without_z(0, (1, 3))  # ZZ becomes IZ, but YZ stays
        ((0, 2), None)
    """
    x, z = string
    bit = 1 << wire
    return (x, z ^ bit) if z & bit and not x & bit else None


def written(wires: tuple[int, ...], string: Pauli) -> int:
    """Write the string on some wires in base 4, first wire first: I 0, X 1, Y 2, Z 3.

    Example:
        >>> written((0, 1), (1, 2))  # X Z
        7
    """
    x, z = string
    number = 0
    for wire in wires:
        a, b = x >> wire & 1, z >> wire & 1
        number = 4 * number + (3 - a if b else a)
    return number
