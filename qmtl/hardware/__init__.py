"""Head circuits on hardware: prepare, submit, wait, decode. Qiskit is imported only when needed."""

from qmtl.hardware._backends import Backend, backend_names, open_backend
from qmtl.hardware._client import BackendState, Client, JobState, Patience
from qmtl.hardware._decode import Decoded, decode
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._local import execute
from qmtl.hardware._predict import predict_transpiled
from qmtl.hardware._prepare import prepare
from qmtl.hardware._prepared_run import Estimate, PreparedRun
from qmtl.hardware._qiskit import QiskitHeadCircuit, to_qasm3, to_qiskit
from qmtl.hardware._result import Comparison, HardwareResult, compare, read_result, write_result
from qmtl.hardware._run import RunStatus, cancel, fetch, run, status, wait
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._simulator import HardwareSimulator
from qmtl.hardware._submit import Progress, submit

__all__ = [
    "Backend", "BackendState", "Client", "Comparison", "Decoded", "Estimate", "HardwareResult",
    "HardwareSettings", "HardwareSimulator", "JobState", "Ledger", "Patience", "PreparedRun",
    "Progress", "QiskitHeadCircuit", "RunStatus", "backend_names", "cancel", "compare", "decode",
    "execute", "fetch", "open_backend", "predict_transpiled", "prepare", "read_result", "run",
    "status", "submit", "to_qasm3", "to_qiskit", "wait", "write_result",
]  # fmt: skip
