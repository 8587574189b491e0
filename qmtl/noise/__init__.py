"""Noise of devices: channels in the Pauli basis, and which of them follow which gate."""

from qmtl.noise._channel import Channel
from qmtl.noise._coherent import CoherentError
from qmtl.noise._device import DeviceNoise
from qmtl.noise._names import noise_of_backend
from qmtl.noise._schedule import Relaxation, Timing, idle_times
from qmtl.noise._tiles import tiled

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
