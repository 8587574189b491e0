"""What runs on the wires, as plain data: gates, encodings, task blocks, readouts, head circuits."""

from qmtl.circuit._ablations import count_live_weights, rebuilt, without_blocks, without_entanglers
from qmtl.circuit._ansatz import ANSATZE, Ansatz, IdentityAnsatz, RealAmplitudes, RotationAnsatz
from qmtl.circuit._bit_strings import distribution_circuit, output_matrix
from qmtl.circuit._catalogue import circuit_from_dict, list_designs, load_design
from qmtl.circuit._counts import ParameterCount
from qmtl.circuit._display import circuit_drawing, circuit_facts, task_rows
from qmtl.circuit._drawing import draw_svg
from qmtl.circuit._encodings import ENCODINGS, AngleEncoding, Encoding, IQPEncoding
from qmtl.circuit._entanglers import ENTANGLERS, entangler_edges, entangler_gates
from qmtl.circuit._gates import DIAGONAL_GATES, ROTATIONS, Angle, Gate, Kind, PauliString
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._light_cone import LightCone, Walk, backward_cone, gates_by_wire
from qmtl.circuit._readout import READOUTS, ExpectationZ, PauliStrings, Probabilities, Readout
from qmtl.circuit._register_encoding import RegisterEncoding
from qmtl.circuit._registers import Register, default_readout
from qmtl.circuit._z_strings import (
    MAX_READ_WIRES,
    spanned_wires,
    task_strings,
    z_strings,
    z_strings_of,
)

__all__ = [
    "ANSATZE",
    "DIAGONAL_GATES",
    "ENCODINGS",
    "ENTANGLERS",
    "MAX_READ_WIRES",
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
    "circuit_drawing",
    "circuit_facts",
    "circuit_from_dict",
    "count_live_weights",
    "default_readout",
    "distribution_circuit",
    "draw_svg",
    "entangler_edges",
    "entangler_gates",
    "gates_by_wire",
    "list_designs",
    "load_design",
    "output_matrix",
    "rebuilt",
    "spanned_wires",
    "task_rows",
    "task_strings",
    "without_blocks",
    "without_entanglers",
    "z_strings",
    "z_strings_of",
]
