"""qmtl: quantum heads for multi-task learning.

The public names. Training is imported when it is first used, so that ``import qmtl`` costs little
more than torch.
"""

from typing import TYPE_CHECKING, Any

from qmtl import data, encoders, errors, simulators
from qmtl.circuit import (
    AngleEncoding,
    ExpectationZ,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    Probabilities,
    RealAmplitudes,
    RotationAnsatz,
)
from qmtl.heads import LinearHead, LocalLinearHead, QuantumHead
from qmtl.model import MultiTaskModel, load
from qmtl.tasks import Task
from qmtl.version import __version__

if TYPE_CHECKING:
    from qmtl.training import Result, fit

__all__ = [
    "AngleEncoding",
    "ExpectationZ",
    "HeadCircuit",
    "IQPEncoding",
    "IdentityAnsatz",
    "LinearHead",
    "LocalLinearHead",
    "MultiTaskModel",
    "PauliStrings",
    "Probabilities",
    "QuantumHead",
    "RealAmplitudes",
    "Result",
    "RotationAnsatz",
    "Task",
    "__version__",
    "data",
    "encoders",
    "errors",
    "fit",
    "load",
    "simulators",
]


def __getattr__(name: str) -> Any:
    if name in ("fit", "Result"):
        from qmtl import training

        return getattr(training, name)
    raise AttributeError(f"module 'qmtl' has no attribute {name!r}")
