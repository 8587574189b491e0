"""Head circuits on hardware. Qiskit is imported by the functions that need it only."""

from qmtl.hardware._backends import Backend, backend_names, open_backend
from qmtl.hardware._client import Client
from qmtl.hardware._compare import Comparison, compare
from qmtl.hardware._decode import Decoded, decode
from qmtl.hardware._estimate import Estimate
from qmtl.hardware._fetch import collect, wait
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._local import execute
from qmtl.hardware._prediction import predict_transpiled
from qmtl.hardware._prepare import prepare
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._qiskit import QiskitHeadCircuit, state_index, to_qasm3, to_qiskit
from qmtl.hardware._result import HardwareResult, read_result, write_result
from qmtl.hardware._run import fetch, run, send
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._simulator import HardwareSimulator
from qmtl.hardware._status import RunStatus, status
from qmtl.hardware._submit import cancel, complain, submit

__all__ = [
    "Backend",
    "Client",
    "Comparison",
    "Decoded",
    "Estimate",
    "HardwareResult",
    "HardwareSettings",
    "HardwareSimulator",
    "Ledger",
    "PreparedRun",
    "QiskitHeadCircuit",
    "RunStatus",
    "backend_names",
    "cancel",
    "collect",
    "compare",
    "complain",
    "decode",
    "execute",
    "fetch",
    "open_backend",
    "predict_transpiled",
    "prepare",
    "read_result",
    "run",
    "send",
    "state_index",
    "status",
    "submit",
    "to_qasm3",
    "to_qiskit",
    "wait",
    "write_result",
]
