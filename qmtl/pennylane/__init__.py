"""QNodes on qmtl's simulators, and PennyLane's devices and templates for heads.

Importing this package imports PennyLane, which takes seconds.
"""

from qmtl.pennylane._device import LightConeDevice, NoisyDevice
from qmtl.pennylane._qfunc import from_qfunc
from qmtl.pennylane._simulator import PennyLaneSimulator, task_qnode

__all__ = ["LightConeDevice", "NoisyDevice", "PennyLaneSimulator", "from_qfunc", "task_qnode"]
