"""Head circuits on hardware. Qiskit is imported by the functions that need it only."""

from qmtl.hardware.backends import Backend, open_backend
from qmtl.hardware.decode import Decoded, decode
from qmtl.hardware.estimate import Estimate
from qmtl.hardware.local import execute
from qmtl.hardware.prediction import predict_transpiled
from qmtl.hardware.prepare import prepare
from qmtl.hardware.prepared import PreparedRun
from qmtl.hardware.qiskit import QiskitHeadCircuit, state_index, to_qasm3, to_qiskit
from qmtl.hardware.settings import HardwareSettings

__all__ = [
    "Backend",
    "Decoded",
    "Estimate",
    "HardwareSettings",
    "PreparedRun",
    "QiskitHeadCircuit",
    "decode",
    "execute",
    "open_backend",
    "predict_transpiled",
    "prepare",
    "state_index",
    "to_qasm3",
    "to_qiskit",
]
