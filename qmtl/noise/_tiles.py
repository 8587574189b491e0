"""Tiled noise: a small device's calibration repeated over more wires than it has."""

from collections.abc import Iterator
from typing import TypeVar

from qmtl.errors import InvalidInputError
from qmtl.noise._device import DeviceNoise
from qmtl.noise._schedule import Timing

__all__ = ["tiled"]

Wires = tuple[int, ...]
T = TypeVar("T")


def tiled(noise: DeviceNoise, tile: int, n_wires: int) -> DeviceNoise:
    """The noise of wires 0 to ``tile - 1``, repeated over `n_wires` wires.

    Wire w has the noise of wire ``w % tile``. Gates between neighbouring tiles, from the last wire
    of one to the first of the next, have the noise of the pair ``(tile - 1, 0)``; if that has none
    of its own (the tile is a line, not a ring), they have that of pairs that `noise` does not name.

    Args:
        noise: of the tile.
        tile: wires of it.
        n_wires: wires wanted.

    Raises:
        InvalidInputError: for a tile of fewer than 3 wires, where a ring and a line are the same.

    Example:
        >>> from qmtl.circuit._gates import Gate
        >>> from qmtl.noise import Channel
        >>> error = ((Channel.depolarising(0.01, n_wires=2), (0, 1)),)
        >>> noise = tiled(DeviceNoise(gates={("CZ", (0, 1)): error}), tile=3, n_wires=9)
        >>> len(noise.after(Gate("CZ", (6, 7)))), len(noise.after(Gate("CZ", (7, 8))))
        (1, 0)
    """
    if tile < 3 or n_wires < 1:
        raise InvalidInputError(f"a tile must have at least 3 wires, got {tile} (of {n_wires})")
    starts = range(0, n_wires, tile)

    def places(wires: Wires) -> Iterator[Wires]:
        ring = sorted(wires) == [0, tile - 1]
        for start in starts if max(wires) < tile else ():
            # The low end of a pair across the border lies in the next tile.
            moved = tuple(start + w + (tile if ring and w == 0 else 0) for w in wires)
            if ring and start + tile == n_wires:
                moved = tuple(w % n_wires for w in moved)
            if max(moved) < n_wires:
                yield moved

    def spread(values: dict[int, T]) -> dict[int, T]:
        return {w: values[w % tile] for w in range(n_wires) if w % tile in values}

    timing = noise.timing
    if timing is not None:
        durations: dict[str | tuple[str, Wires], float] = {}
        for key, seconds in timing.durations.items():
            if isinstance(key, str):
                durations[key] = seconds
            else:
                durations |= {(key[0], moved): seconds for moved in places(key[1])}
        relaxation = spread(dict(timing.relaxation))
        timing = Timing(durations, relaxation, timing.others, timing.order)
    return DeviceNoise(
        noise.one_wire,
        noise.two_wire,
        {
            (name, moved): channels
            for (name, wires), channels in noise.gates.items()
            for moved in places(wires)
        },
        noise.readout,
        spread(dict(noise.readouts)),
        {
            key if isinstance(key, str) else (key[0], moved): error
            for key, error in noise.coherent.items()
            for moved in ([()] if isinstance(key, str) else places(key[1]))
        },
        timing,
    )
