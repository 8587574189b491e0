"""State vectors: a compiled interpreter of small circuits, tile by tile of samples."""

from qmtl.simulators._amplitudes._engine import AmplitudeEngine
from qmtl.simulators._amplitudes._program import build_program

__all__ = ["AmplitudeEngine", "build_program"]
