"""Small light cones in the Pauli basis: operators taken backwards, as polynomials of the angles."""

from qmtl.simulators.pauli.engine import PauliEngine
from qmtl.simulators.pauli.program import LARGEST_PROGRAM, PauliProgram, pauli_program

__all__ = ["LARGEST_PROGRAM", "PauliEngine", "PauliProgram", "pauli_program"]
