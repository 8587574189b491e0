"""What runs on the wires, as plain data: gates, encodings, task blocks, readouts, head circuits."""

from qmtl.circuit.ablations import count_live_weights, rebuilt, without_blocks, without_entanglers
from qmtl.circuit.ansatz import ANSATZE, Ansatz, IdentityAnsatz, RealAmplitudes, RotationAnsatz
from qmtl.circuit.bit_strings import distribution_circuit, output_matrix
from qmtl.circuit.counts import ParameterCount
from qmtl.circuit.encodings import ENCODINGS, AngleEncoding, Encoding, IQPEncoding
from qmtl.circuit.entanglers import ENTANGLERS, entangler_edges, entangler_gates
from qmtl.circuit.gates import DIAGONAL_GATES, ROTATIONS, Angle, Gate, Kind, PauliString
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.light_cone import LightCone, Walk, backward_cone, gates_by_wire
from qmtl.circuit.readout import READOUTS, ExpectationZ, PauliStrings, Probabilities, Readout
from qmtl.circuit.register_encoding import RegisterEncoding
from qmtl.circuit.registers import Register, default_readout
from qmtl.circuit.z_strings import task_strings

__all__ = [
    "ANSATZE",
    "DIAGONAL_GATES",
    "ENCODINGS",
    "ENTANGLERS",
    "READOUTS",
    "ROTATIONS",
    "Angle",
    "AngleEncoding",
    "Ansatz",
    "Encoding",
    "ExpectationZ",
    "Gate",
    "HeadCircuit",
    "IQPEncoding",
    "IdentityAnsatz",
    "Kind",
    "LightCone",
    "ParameterCount",
    "PauliString",
    "PauliStrings",
    "Probabilities",
    "Readout",
    "RealAmplitudes",
    "Register",
    "RegisterEncoding",
    "RotationAnsatz",
    "Walk",
    "backward_cone",
    "count_live_weights",
    "default_readout",
    "distribution_circuit",
    "entangler_edges",
    "entangler_gates",
    "gates_by_wire",
    "output_matrix",
    "rebuilt",
    "task_strings",
    "without_blocks",
    "without_entanglers",
]
