"""HardwareSettings: the settings and budgets of a run on a backend."""

import math
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np

from qmtl.errors import InvalidInputError, check_integer, unknown_name

# Correction of read-out errors by the backend's calibration, or by circuits in the same job.
Mitigation = Literal["none", "calibration", "circuits"]
Primitive = Literal["sampler", "estimator"]
Mode = Literal["job", "batch", "session"]

CHOICES: dict[str, tuple[object, ...]] = {
    "primitive": get_args(Primitive),
    "mode": (None, *get_args(Mode)),
    "mitigation": get_args(Mitigation),
    "resilience": (0, 1, 2),
    "decoupling": (None, "XX", "XpXm", "XY4"),
}
# The client's least shots per twirling randomisation, its number of randomisations, and its number
# of noise strengths for extrapolation to zero noise.
LEAST_TWIRLED, RANDOMISATIONS, STRENGTHS = 64, 32, 3
SWITCHES = ("twirl_gates", "twirl_readout", "predict", "cache")
POSITIVE = ("shots", "max_executions", "max_job_bytes")
POSITIVE_OR_NONE = ("max_execution_time", "max_qpu_seconds", "max_shots")


@dataclass(frozen=True)
class HardwareSettings:
    """Settings and budgets of a run on a backend.

    Args:
        shots: number of measurements of each circuit and sample.
        primitive: ``"sampler"`` (all tasks use the same shots) or ``"estimator"`` (which offers
            other mitigation).
        mode: ``"job"``, ``"batch"`` or ``"session"``; None uses a batch if there are several jobs.
        mitigation: the sampler's correction of read-out errors: ``"none"``, ``"calibration"`` (by
            the backend's calibration) or ``"circuits"`` (by two more circuits in each job).
        resilience: level of the estimator's mitigation: 0 none, 1 read-out mitigation (TREX), 2
            also gate twirling and extrapolation to zero noise.
        twirl_gates: whether the sampler uses Pauli twirling of two-qubit gates.
        twirl_readout: whether the sampler twirls measurements.
        decoupling: sequence of dynamical decoupling (``"XX"``, ``"XpXm"``, ``"XY4"``), or None.
        max_execution_time: seconds after which the service stops a job.
        max_qpu_seconds: largest estimated time on the device; `prepare` refuses a longer run.
        max_shots: largest total number of executions; `prepare` refuses a larger run.
        layout: for each wire of the circuit, a qubit of the device; None to choose the qubits by
            the calibration.
        seed: seed of the shots on fake backends and Aer; None for different shots each time.
        predict: whether to compute the expected outputs, with and without noise.
        cache: whether to keep transpiled circuits in the user's cache folder.
        max_executions: largest number of executions of one job; IBM's limit is 10 million.
        max_job_bytes: largest size of one job's input, and of its result.

    Example:
        >>> HardwareSettings(shots=1024, mitigation="calibration").mitigation
        'calibration'
    """

    shots: int = 4096
    primitive: Primitive = "sampler"
    mode: Mode | None = None
    mitigation: Mitigation = "none"
    resilience: int = 1
    twirl_gates: bool = False
    twirl_readout: bool = False
    decoupling: str | None = None
    max_execution_time: int | None = None
    max_qpu_seconds: float | None = None
    max_shots: int | None = None
    layout: tuple[int, ...] | None = None
    seed: int | None = None
    predict: bool = True
    cache: bool = True
    max_executions: int = 10_000_000
    max_job_bytes: int = 100_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic | np.ndarray):
                object.__setattr__(self, field.name, value.tolist())
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown_name(name, getattr(self, name), map(str, choices))
        for name in (*POSITIVE, *POSITIVE_OR_NONE):
            value = getattr(self, name)
            if value is None and name in POSITIVE_OR_NONE:
                continue
            kinds = (int, float) if name == "max_qpu_seconds" else int
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
                what = "whole number" if kinds is int else "number"
                raise InvalidInputError(f"{name} must be a positive {what}, got {value!r}")
        for name in SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidInputError(f"{name} must be true or false, got {value!r}")
        if self.seed is not None:
            object.__setattr__(self, "seed", check_integer("seed", self.seed, 0))
        if self.primitive == "estimator" and self.mitigation != "none":
            raise InvalidInputError(
                "mitigation applies to the sampler only; for the estimator, use resilience (1 "
                "corrects read-out errors)"
            )
        if self.primitive == "estimator" and (self.twirl_gates or self.twirl_readout):
            raise InvalidInputError(
                "twirl_gates and twirl_readout apply to the sampler only; for the estimator, "
                "resilience sets the twirling (1 measurements, 2 also gates)"
            )
        if self.primitive == "sampler" and self.resilience != 1:
            raise InvalidInputError(
                f"resilience applies to the estimator only, got {self.resilience} for the sampler; "
                f"use mitigation to correct its read-out errors"
            )
        if self.shots > self.max_executions:
            raise InvalidInputError(
                f"shots must be at most max_executions ({self.max_executions}), got {self.shots}"
            )
        if self.layout is not None:
            try:
                if isinstance(self.layout, Set | Mapping):
                    raise TypeError("the order of qubits counts")
                qubits = tuple(check_integer("layout", qubit, 0) for qubit in self.layout)
            except (TypeError, InvalidInputError):
                raise InvalidInputError(
                    f"layout must be the number of a qubit for each wire, got {self.layout!r}"
                ) from None
            object.__setattr__(self, "layout", qubits)

    @classmethod
    def of(cls, options: Mapping[str, Any], settings: "HardwareSettings | None" = None) -> Self:
        """Return the given settings, or settings made from field names and values."""
        if settings is not None:
            if not isinstance(settings, cls):
                raise InvalidInputError(f"settings must be HardwareSettings, got {settings!r}")
            if options:
                raise InvalidInputError(f"pass settings or {sorted(options)}, not both")
            return settings
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise unknown_name("hardware setting", name, known)
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as data that JSON can hold; `of` reads them."""
        return asdict(self) | {"layout": None if self.layout is None else list(self.layout)}

    def executions(self, sets: int) -> int:
        """Return the executions that IBM's client sends in one job of `sets` parameter sets.

        Twirling rounds the shots up to whole randomisations of at least 64 shots. The estimator's
        levels 1 and 2 add a calibration circuit to the job; level 2 measures at three noise
        strengths.

        Example:
            >>> HardwareSettings(shots=100).executions(2)
            200
            >>> HardwareSettings(shots=100, twirl_readout=True).executions(2)
            256
        """
        level = self.resilience if self.primitive == "estimator" else 0
        shots = self.shots
        if level or self.twirl_gates or self.twirl_readout:
            each = max(LEAST_TWIRLED, -(-shots // RANDOMISATIONS))
            shots = -(-shots // each) * each
        return shots * (sets * (STRENGTHS if level > 1 else 1) + (level > 0))

    def runtime_options(self, *, is_local: bool) -> dict[str, Any]:
        """Return the options for the client's `SamplerOptions` or `EstimatorOptions`."""
        options: dict[str, Any] = {}
        if self.primitive == "sampler":
            options["default_shots"] = self.shots
            if self.twirl_gates or self.twirl_readout:
                options["twirling"] = {
                    "enable_gates": self.twirl_gates,
                    "enable_measure": self.twirl_readout,
                }
        else:
            options["resilience_level"] = self.resilience
            options["default_precision"] = self.shots**-0.5
        if self.decoupling is not None:
            options["dynamical_decoupling"] = {"enable": True, "sequence_type": self.decoupling}
        if self.max_execution_time is not None:
            options["max_execution_time"] = self.max_execution_time
        if is_local and self.seed is not None:
            options["simulator"] = {"seed_simulator": self.seed}
        return options
