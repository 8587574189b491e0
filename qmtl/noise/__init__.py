"""Noise of devices: channels in the Pauli basis, and which of them follow which gate."""

from qmtl.noise._channel import Channel, CoherentError
from qmtl.noise._device import DeviceNoise, noise_of_backend, tiled
from qmtl.noise._events import (
    CHANNEL,
    DAMPING,
    DeviceStep,
    Event,
    NativeCircuit,
    device_events,
    head_steps,
)
from qmtl.noise._schedule import Relaxation, Timing, idle_times

__all__ = [
    "CHANNEL",
    "DAMPING",
    "Channel",
    "CoherentError",
    "DeviceNoise",
    "DeviceStep",
    "Event",
    "NativeCircuit",
    "Relaxation",
    "Timing",
    "device_events",
    "head_steps",
    "idle_times",
    "noise_of_backend",
    "tiled",
]
