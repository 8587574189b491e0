"""Noisy cones: the gates and channels that a task's outputs may meet, on local wires."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from qmtl.circuit.gates import Angle
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators.layers import Op
from qmtl.simulators.noisy_events import (
    Event,
    EventsByWire,
    Step,
    gate_events,
    met,
    readings,
    step,
    waiting,
)
from qmtl.simulators.pauli.program import z_strings
from qmtl.simulators.pauli.walk import CHANNEL, DAMPING

__all__ = ["NoisyCone", "NoisyStructure", "make_cone", "noisy_cones"]


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


def noisy_cones(circuit: HeadCircuit, noise: DeviceNoise, tasks: Sequence[str]) -> list[NoisyCone]:
    """The noisy cone of each task, from the circuit's gates in their order."""
    if circuit.layout == "shared":
        # Every task is a circuit of its own, with a schedule of its own.
        runs = [(_run(circuit, noise, [task]), [task]) for task in tasks]
    else:
        runs = [(_run(circuit, noise, list(circuit.registers)), [*tasks])]
    return [
        _cone(circuit, noise, task, encoding, blocks[task])
        for (encoding, blocks), chosen in runs
        for task in chosen
    ]


def _run(
    circuit: HeadCircuit, noise: DeviceNoise, tasks: Sequence[str]
) -> tuple[EventsByWire, dict[str, list[Event]]]:
    """Events of the encoding and of each block, when these tasks run together."""
    sections = [
        [step(gate) for gate in gates]
        for gates in (circuit.encoding_gates, *(circuit.block_gates(task) for task in tasks))
    ]
    # Wires that take longer to read are done with their gates earlier.
    wires = dict.fromkeys(wire for task in tasks for wire in circuit.register(task).wires)
    read = [Step("measure", (wire,)) for wire in wires]
    waited = iter(waiting([*chain.from_iterable(sections), *read], noise.timing))
    found = [
        [event for now in steps for event in gate_events(now, noise, next(waited))]
        for steps in sections
    ]
    return EventsByWire(found[0]), dict(zip(tasks, found[1:], strict=True))


def _cone(
    circuit: HeadCircuit,
    noise: DeviceNoise,
    task: str,
    encoding: EventsByWire,
    block: Sequence[Event],
) -> NoisyCone:
    register = circuit.register(task)
    read = [register.wires[i] for i in register.readout.read_wires(len(register.wires))]
    support = set(read)
    kept_block = met([*block, *readings(read, noise)], support)
    kept_encoding = encoding.met(support)
    return make_cone(circuit, task, register.wires, kept_encoding, kept_block)


def make_cone(
    circuit: HeadCircuit,
    task: str,
    wires: Sequence[int],
    encoding: Sequence[Event],
    block: Sequence[Event],
) -> NoisyCone:
    """A cone of these events.

    Args:
        circuit: whose readout it has.
        task: of which task.
        wires: where the wires of the task's register are.
        encoding: what may depend on the sample.
        block: what comes after, and read-out errors.
    """
    # Wires are numbered from the register on, so that equal cones look equal along a ring.
    found = dict.fromkeys(wires)
    for event in reversed(encoding):
        found |= dict.fromkeys(event.wires)
    local = {wire: i for i, wire in enumerate(found)}
    channels: list[Channel] = []
    encoding_ops, encoding_angles = _operations(encoding, local, channels)
    block_ops, block_angles = _operations(block, local, channels)
    strings, mixing = _strings(circuit, task)
    structure = NoisyStructure(
        encoding_ops, block_ops, tuple(bool(a.features) for a in encoding_angles), strings, mixing
    )
    return NoisyCone(task, tuple(found), structure, encoding_angles, block_angles, tuple(channels))


def _operations(
    events: Iterable[Event], local: dict[int, int], channels: list[Channel]
) -> tuple[tuple[Op, ...], tuple[Angle, ...]]:
    ops: list[Op] = []
    angles: list[Angle] = []
    for event in events:
        wires = tuple(local[w] for w in event.wires)
        if event.channel is not None:
            ops.append(Op(DAMPING if event.channel.shift else CHANNEL, wires, len(channels)))
            channels.append(event.channel)
        else:
            ops.append(Op(event.name, wires, None if event.angle is None else len(angles)))
            angles += [] if event.angle is None else [event.angle]
    return tuple(ops), tuple(angles)


def _strings(
    circuit: HeadCircuit, task: str
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...] | None]:
    register = circuit.register(task)
    n = len(register.wires)
    given = getattr(register.readout, "z_strings", None)
    found = None if given is None else given(n)
    if found is not None:
        return tuple(sum(1 << i for i in string) for string in found), None
    masks, mixing = z_strings(np.array(register.readout.matrix(n), np.float64))
    return tuple(masks), None if mixing is None else tuple(map(tuple, mixing.tolist()))
