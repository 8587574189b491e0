"""Noisy cones: the gates and channels that a task's outputs may meet, on local wires."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators.layers import Op
from qmtl.simulators.pauli.program import z_strings
from qmtl.simulators.pauli.walk import CHANNEL, DAMPING

__all__ = ["NoisyCone", "NoisyStructure", "noisy_cones"]


@dataclass(frozen=True)
class NoisyStructure:
    """What noisy cones must have in common to run in one batch.

    Attributes:
        encoding: operations of the encoding on local wires; slots number the angles, and for
            channels the channels.
        block: operations of the block, and read-out errors.
        sampled: which of the encoding's angles depend on the sample.
        strings: the Z-strings that are read, as masks of local wires.
        mixing: how they make the outputs; None if each output is one of them.
    """

    encoding: tuple[Op, ...]
    block: tuple[Op, ...]
    sampled: tuple[bool, ...]
    strings: tuple[int, ...]
    mixing: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class NoisyCone:
    """A task's noisy cone: its structure, and what sets it apart."""

    task: str
    wires: tuple[int, ...]
    structure: NoisyStructure
    encoding_angles: tuple[Angle, ...]
    block_angles: tuple[Angle, ...]
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class _Event:
    """A gate, or a channel."""

    wires: tuple[int, ...]
    gate: Gate | None = None
    channel: Channel | None = None


def noisy_cones(circuit: HeadCircuit, noise: DeviceNoise, tasks: Sequence[str]) -> list[NoisyCone]:
    """The noisy cone of each task, from the circuit's gates in their order."""
    encoding = list(_events(circuit.encoding_gates, noise))
    by_wire: dict[int, list[int]] = {}
    for position, event in enumerate(encoding):
        for wire in event.wires:
            by_wire.setdefault(wire, []).append(position)
    return [_cone(circuit, noise, task, encoding, by_wire) for task in tasks]


def _events(gates: Iterable[Gate], noise: DeviceNoise) -> Iterable[_Event]:
    for gate in gates:
        if gate.name == "CNOT":
            flip = Gate("Hadamard", gate.wires[1:])
            yield from (_Event(g.wires, g) for g in (flip, Gate("CZ", gate.wires), flip))
        else:
            yield _Event(gate.wires, gate)
        yield from (_Event(wires, channel=c) for c, wires in noise.after(gate))


def _cone(
    circuit: HeadCircuit,
    noise: DeviceNoise,
    task: str,
    encoding: list[_Event],
    by_wire: dict[int, list[int]],
) -> NoisyCone:
    register = circuit.register(task)
    read = register.readout.read_wires(len(register.wires))
    reading = [_Event((w,), channel=noise.reading(w)) for w in (register.wires[i] for i in read)]
    block = [*_events(circuit.block_gates(task), noise)]
    block += [event for event in reading if event.channel and not event.channel.is_identity]
    support = {register.wires[i] for i in read}
    kept_block = [event for event in reversed(block) if _met(event, support)][::-1]
    kept_encoding = _met_before(encoding, by_wire, support)
    # Wires are numbered from the register on, so that equal cones look equal along a ring.
    found = dict.fromkeys(register.wires)
    for event in reversed(kept_encoding):
        found |= dict.fromkeys(event.wires)
    local = {wire: i for i, wire in enumerate(found)}
    channels: list[Channel] = []
    encoding_ops, encoding_angles = _operations(kept_encoding, local, channels)
    block_ops, block_angles = _operations(kept_block, local, channels)
    strings, mixing = _strings(circuit, task, local)
    structure = NoisyStructure(
        encoding_ops, block_ops, tuple(bool(a.features) for a in encoding_angles), strings, mixing
    )
    return NoisyCone(task, tuple(found), structure, encoding_angles, block_angles, tuple(channels))


def _met(event: _Event, support: set[int]) -> bool:
    """Whether an operator on `support` meets the event; if it is a gate, the support grows."""
    if support.isdisjoint(event.wires):
        return False
    if event.gate is not None:
        support.update(event.wires)
    return True


def _met_before(
    events: Sequence[_Event], by_wire: dict[int, list[int]], support: set[int]
) -> list[_Event]:
    # Only events on the support are looked at, so that a cone costs what it holds.
    queue = [-position for wire in support for position in by_wire.get(wire, ())]
    heapq.heapify(queue)
    kept: list[_Event] = []
    previous = None
    while queue:
        position = -heapq.heappop(queue)
        if position == previous:
            continue
        previous = position
        added = set(events[position].wires) - support
        _met(events[position], support)
        kept.append(events[position])
        for wire in added & support:
            for earlier in by_wire[wire]:
                if earlier < position:
                    heapq.heappush(queue, -earlier)
    return kept[::-1]


def _operations(
    events: Iterable[_Event], local: dict[int, int], channels: list[Channel]
) -> tuple[tuple[Op, ...], tuple[Angle, ...]]:
    ops: list[Op] = []
    angles: list[Angle] = []
    for event in events:
        wires = tuple(local[w] for w in event.wires)
        if event.channel is not None:
            ops.append(Op(DAMPING if event.channel.shift else CHANNEL, wires, len(channels)))
            channels.append(event.channel)
        elif event.gate is not None:
            angle = event.gate.angle
            ops.append(Op(event.gate.name, wires, None if angle is None else len(angles)))
            angles += [] if angle is None else [angle]
    return tuple(ops), tuple(angles)


def _strings(
    circuit: HeadCircuit, task: str, local: dict[int, int]
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...] | None]:
    register = circuit.register(task)
    n = len(register.wires)
    given = getattr(register.readout, "z_strings", None)
    found = None if given is None else given(n)
    if found is not None:
        masks = [sum(1 << local[register.wires[i]] for i in string) for string in found]
        return tuple(masks), None
    masks, mixing = z_strings(np.array(register.readout.matrix(n), np.float64))
    assert [local[w] for w in register.wires] == list(range(n))
    return tuple(masks), None if mixing is None else tuple(map(tuple, mixing.tolist()))
