"""Noise of devices: channels in the Pauli basis, and which of them follow which gate."""

from qmtl.noise.channel import Channel
from qmtl.noise.device import DeviceNoise

__all__ = ["Channel", "DeviceNoise"]
