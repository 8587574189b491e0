"""Noise of devices: channels in the Pauli basis, and which of them follow which gate."""

from qmtl.noise._channel import Channel, CoherentError
from qmtl.noise._device import DeviceNoise, noise_of_backend, tiled
from qmtl.noise._schedule import Relaxation, Timing, idle_times

__all__ = [
    "Channel",
    "CoherentError",
    "DeviceNoise",
    "Relaxation",
    "Timing",
    "idle_times",
    "noise_of_backend",
    "tiled",
]
