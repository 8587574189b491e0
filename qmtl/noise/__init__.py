"""Noise of devices: channels in the Pauli basis, and the gates that they follow."""

from qmtl.noise._backend import fake_backends as fake_backends
from qmtl.noise._channel import Channel as Channel
from qmtl.noise._channel import CoherentError as CoherentError
from qmtl.noise._device import DeviceNoise as DeviceNoise
from qmtl.noise._device import noise_of_backend as noise_of_backend
from qmtl.noise._device import tiled as tiled
from qmtl.noise._events import CHANNEL as CHANNEL
from qmtl.noise._events import DAMPING as DAMPING
from qmtl.noise._events import DeviceStep as DeviceStep
from qmtl.noise._events import Event as Event
from qmtl.noise._events import NativeCircuit as NativeCircuit
from qmtl.noise._events import Relaxation as Relaxation
from qmtl.noise._events import Timing as Timing
from qmtl.noise._events import device_events as device_events
from qmtl.noise._events import head_steps as head_steps
from qmtl.noise._events import idle_times as idle_times
