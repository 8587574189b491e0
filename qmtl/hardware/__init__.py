"""Head circuits on hardware. Qiskit is imported by the functions that need it only."""

from qmtl.hardware.backends import Backend, open_backend
from qmtl.hardware.compare import Comparison, compare
from qmtl.hardware.decode import Decoded, decode
from qmtl.hardware.estimate import Estimate
from qmtl.hardware.ledger import Ledger
from qmtl.hardware.local import execute
from qmtl.hardware.prediction import predict_transpiled
from qmtl.hardware.prepare import prepare
from qmtl.hardware.prepared import PreparedRun
from qmtl.hardware.qiskit import QiskitHeadCircuit, state_index, to_qasm3, to_qiskit
from qmtl.hardware.result import HardwareResult
from qmtl.hardware.run import fetch, run
from qmtl.hardware.settings import HardwareSettings
from qmtl.hardware.simulator import HardwareSimulator
from qmtl.hardware.status import status
from qmtl.hardware.submit import cancel, submit

__all__ = [
    "Backend",
    "Comparison",
    "Decoded",
    "Estimate",
    "HardwareResult",
    "HardwareSettings",
    "HardwareSimulator",
    "Ledger",
    "PreparedRun",
    "QiskitHeadCircuit",
    "cancel",
    "compare",
    "decode",
    "execute",
    "fetch",
    "open_backend",
    "predict_transpiled",
    "prepare",
    "run",
    "state_index",
    "status",
    "submit",
    "to_qasm3",
    "to_qiskit",
]
