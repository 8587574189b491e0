"""Noise of devices: channels in the Pauli basis, and which of them follow which gate."""

from qmtl.noise.channel import Channel
from qmtl.noise.coherent import CoherentError
from qmtl.noise.device import DeviceNoise
from qmtl.noise.schedule import Relaxation, Timing, idle_times
from qmtl.noise.tiles import tiled

__all__ = [
    "Channel",
    "CoherentError",
    "DeviceNoise",
    "Relaxation",
    "Timing",
    "idle_times",
    "tiled",
]
