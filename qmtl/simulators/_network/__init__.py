"""Contractions of Pauli transfer matrices: for noisy cones too large for strings one by one."""

from qmtl.simulators._network._engine import (
    CHUNK_BYTES,
    Channels,
    ChunkedEngine,
    NetworkEngine,
    angles_of,
)
from qmtl.simulators._network._program import Contraction, contractions

__all__ = [
    "CHUNK_BYTES",
    "Channels",
    "ChunkedEngine",
    "Contraction",
    "NetworkEngine",
    "angles_of",
    "contractions",
]
