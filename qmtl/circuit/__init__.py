"""What runs on the wires, as plain data: gates, encodings, task blocks, readouts, head circuits."""

from qmtl.circuit._ablations import count_live_weights, rebuilt, without_blocks, without_entanglers
from qmtl.circuit._ansatz import ANSATZE, Ansatz, IdentityAnsatz, RealAmplitudes, RotationAnsatz
from qmtl.circuit._catalogue import (
    Design,
    design_from_toml,
    list_designs,
    load_design,
    to_toml,
)
from qmtl.circuit._description import circuit_from_dict, circuit_to_dict
from qmtl.circuit._drawing import circuit_drawing, circuit_facts, draw_svg, task_rows
from qmtl.circuit._encodings import (
    ENCODINGS,
    AngleEncoding,
    Encoding,
    IQPEncoding,
    RegisterEncoding,
)
from qmtl.circuit._entanglers import ENTANGLERS, entangler_edges, entangler_gates
from qmtl.circuit._gates import (
    DIAGONAL_GATES,
    GATE_WIRES,
    ROTATIONS,
    Angle,
    Gate,
    GateSequence,
    Kind,
    PauliString,
    elementary,
)
from qmtl.circuit._head_circuit import HeadCircuit, ParameterCount
from qmtl.circuit._light_cone import LightCone, Walk, backward_cone, gates_by_wire
from qmtl.circuit._observables import (
    MAX_READ_WIRES,
    distribution_circuit,
    output_matrix,
    spanned_wires,
    task_strings,
    z_strings,
    z_strings_of,
)
from qmtl.circuit._readout import (
    READOUTS,
    ExpectationZ,
    PauliStrings,
    Probabilities,
    Readout,
    Register,
    default_readout,
)

__all__ = [
    "ANSATZE",
    "DIAGONAL_GATES",
    "ENCODINGS",
    "ENTANGLERS",
    "GATE_WIRES",
    "MAX_READ_WIRES",
    "READOUTS",
    "ROTATIONS",
    "Angle",
    "AngleEncoding",
    "Ansatz",
    "Design",
    "Encoding",
    "ExpectationZ",
    "Gate",
    "GateSequence",
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
    "circuit_to_dict",
    "count_live_weights",
    "default_readout",
    "design_from_toml",
    "distribution_circuit",
    "draw_svg",
    "elementary",
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
    "to_toml",
    "without_blocks",
    "without_entanglers",
    "z_strings",
    "z_strings_of",
]
