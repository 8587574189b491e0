"""Small light cones in the Pauli basis: operators moved backwards, as polynomials of the angles."""

from qmtl.simulators._pauli._engine import PauliEngine
from qmtl.simulators._pauli._program import (
    LARGEST_PROGRAM,
    PauliProgram,
    pauli_program,
    write_program,
)

__all__ = ["LARGEST_PROGRAM", "PauliEngine", "PauliProgram", "pauli_program", "write_program"]
