"""Head circuits on hardware. Qiskit is imported by the functions that need it only."""

from qmtl.hardware.prediction import predict_transpiled
from qmtl.hardware.qiskit import QiskitHeadCircuit, state_index, to_qasm3, to_qiskit

__all__ = ["QiskitHeadCircuit", "predict_transpiled", "state_index", "to_qasm3", "to_qiskit"]
