"""qmtl: quantum heads for multi-task learning.

The public names. Each is imported when it is first used, so that ``qmtl --help`` answers at once
and a program that only builds circuits does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qmtl.version import __version__

if TYPE_CHECKING:
    from qmtl import circuit, data, encoders, errors, heads, simulators, sklearn, training
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
    from qmtl.heads import (
        LinearHead,
        LocalLinearHead,
        LowRankLinearHead,
        QuantumHead,
        SharedVQCHead,
        VQCPerTaskHead,
    )
    from qmtl.model import MultiTaskModel, load
    from qmtl.sklearn import (
        MultiTaskEstimator,
        QuantumMultiTaskClassifier,
        QuantumMultiTaskRegressor,
    )
    from qmtl.tasks import Task
    from qmtl.training import Result, TrainingSettings, fit

__all__ = [
    "AngleEncoding",
    "ExpectationZ",
    "HeadCircuit",
    "IQPEncoding",
    "IdentityAnsatz",
    "LinearHead",
    "LocalLinearHead",
    "LowRankLinearHead",
    "MultiTaskEstimator",
    "MultiTaskModel",
    "PauliStrings",
    "Probabilities",
    "QuantumHead",
    "QuantumMultiTaskClassifier",
    "QuantumMultiTaskRegressor",
    "RealAmplitudes",
    "Result",
    "RotationAnsatz",
    "SharedVQCHead",
    "Task",
    "TrainingSettings",
    "VQCPerTaskHead",
    "__version__",
    "circuit",
    "data",
    "encoders",
    "errors",
    "fit",
    "hardware",
    "heads",
    "load",
    "noise",
    "simulators",
    "sklearn",
    "training",
]

_MODULES = (
    "circuit",
    "data",
    "encoders",
    "errors",
    "hardware",
    "heads",
    "noise",
    "simulators",
    "sklearn",
    "training",
)
_HOMES = {
    "qmtl.tasks": ("Task",),
    "qmtl.heads": (
        "LinearHead",
        "LocalLinearHead",
        "LowRankLinearHead",
        "QuantumHead",
        "SharedVQCHead",
        "VQCPerTaskHead",
    ),
    "qmtl.model": ("MultiTaskModel", "load"),
    "qmtl.sklearn": (
        "MultiTaskEstimator",
        "QuantumMultiTaskClassifier",
        "QuantumMultiTaskRegressor",
    ),
    "qmtl.training": ("Result", "TrainingSettings", "fit"),
    "qmtl.circuit": (
        "AngleEncoding",
        "ExpectationZ",
        "HeadCircuit",
        "IQPEncoding",
        "IdentityAnsatz",
        "PauliStrings",
        "Probabilities",
        "RealAmplitudes",
        "RotationAnsatz",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"qmtl.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qmtl' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
