"""Head circuits in a device's own gates: what each task should give under the device's noise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.noise import DeviceNoise
from qmtl.simulators.memory import memory_limit
from qmtl.simulators.noisy import group_values
from qmtl.simulators.noisy_cones import NoisyCone, make_cone
from qmtl.simulators.noisy_engines import vector_engine
from qmtl.simulators.noisy_events import (
    Event,
    EventsByWire,
    Step,
    gate_events,
    readings,
    waiting,
)

__all__ = ["NativeCircuit", "native_values"]


@dataclass(frozen=True)
class NativeCircuit:
    """A head circuit as a device runs it, with all weights bound.

    Attributes:
        steps: gates, delays, barriers and measurements, in the order of application, on the
            device's wires. Angles depend on the head circuit's features.
        wires: for each task the device's wires on which its register is read.
    """

    steps: tuple[Step, ...]
    wires: Mapping[str, tuple[int, ...]]


def native_values(
    circuit: HeadCircuit, native: NativeCircuit, angles: Tensor, noise: DeviceNoise
) -> dict[str, Tensor]:
    """Exact outputs of the tasks of a native circuit under noise, shape (batch, n_outputs) each.

    Args:
        circuit: the head circuit; only its registers and readouts are looked at.
        native: the same as the device runs it.
        angles: encoding angles in radians, shape (batch, n_features).
        noise: of the device's wires and gates.

    Raises:
        CircuitTooLargeError: if a cone does not fit into memory.
    """
    limit = memory_limit(angles.device, None)
    events = EventsByWire(list(_events(native, noise)))
    alike: dict[object, list[NoisyCone]] = {}
    for task, wires in native.wires.items():
        register = circuit.register(task)
        read = [wires[i] for i in register.readout.read_wires(len(wires))]
        kept = events.met(set(read))
        cone = make_cone(circuit, task, wires, kept, readings(read, noise))
        factors = tuple(len(angle.features) for angle in cone.encoding_angles)
        alike.setdefault((cone.structure, factors), []).append(cone)
    found: dict[str, Tensor] = {}
    none = angles.new_zeros(0)
    for cones in alike.values():
        group, engine = vector_engine(circuit, cones, limit)
        own = [angles.new_zeros(group.n_weights)] * len(cones)
        outputs = group_values(circuit, group, engine, (angles.T, none), own, limit)
        found |= dict(zip(group.tasks, outputs.mT.unbind(), strict=True))
    return {task: torch.as_tensor(found[task]) for task in native.wires}


def _events(native: NativeCircuit, noise: DeviceNoise) -> Iterable[Event]:
    timing = noise.timing
    for now, waited in zip(native.steps, waiting(native.steps, timing), strict=True):
        if now.name in ("barrier", "measure"):
            yield from waited
        elif now.name == "delay":
            yield from waited
            wire, seconds = now.wires[0], now.seconds or 0.0
            channel = None if timing is None else timing.waiting(wire, seconds)
            if channel is not None:
                yield Event((wire,), channel=channel)
        else:
            yield from gate_events(now, noise, waited)
