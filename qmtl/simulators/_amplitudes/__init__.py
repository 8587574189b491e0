"""State vectors of small circuits, by a compiled kernel that works on tiles of samples."""

from qmtl.simulators._amplitudes._engine import AmplitudeEngine
from qmtl.simulators._amplitudes._program import build_program

__all__ = ["AmplitudeEngine", "build_program"]
