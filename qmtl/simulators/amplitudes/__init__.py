"""Larger light cones as state vectors, taken through the circuit and back by a compiled kernel."""

from qmtl.simulators.amplitudes.engine import AmplitudeEngine
from qmtl.simulators.amplitudes.program import Program, build_program
from qmtl.simulators.amplitudes.work import working_bytes

__all__ = ["AmplitudeEngine", "Program", "build_program", "working_bytes"]
