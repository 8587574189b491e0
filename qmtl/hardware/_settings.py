"""HardwareSettings: the settings and budgets of a run on a backend."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from qmtl._sections import Count, Section, Seed
from qmtl.errors import InvalidInputError

# Correction of read-out errors by the backend's calibration, or by circuits in the same job.
Mitigation = Literal["none", "calibration", "circuits"]
Primitive = Literal["sampler", "estimator"]
Mode = Literal["job", "batch", "session"]

# The client's least shots per twirling randomisation, its number of randomisations, and its number
# of noise strengths for extrapolation to zero noise.
LEAST_TWIRLED, RANDOMISATIONS, STRENGTHS = 64, 32, 3


class HardwareSettings(Section):
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

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    largest: ClassVar[int] = 2**63 - 1  # budgets may be large

    shots: Count = 4096
    primitive: Primitive = "sampler"
    mode: Mode | None = None
    mitigation: Mitigation = "none"
    resilience: Literal[0, 1, 2] = 1
    twirl_gates: bool = False
    twirl_readout: bool = False
    decoupling: Literal["XX", "XpXm", "XY4"] | None = None
    max_execution_time: Count | None = None
    max_qpu_seconds: float | None = Field(None, gt=0)
    max_shots: Count | None = None
    layout: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    seed: Seed | None = None
    predict: bool = True
    cache: bool = True
    max_executions: Count = 10_000_000
    max_job_bytes: Count = 100_000_000

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, content: Any) -> Any:
        """Turn NumPy's values into Python's, and lists into tuples."""

        def plain(value: Any) -> Any:
            if isinstance(value, list | tuple | range):
                return tuple(map(plain, value))
            return plain(value.tolist()) if isinstance(value, np.generic | np.ndarray) else value

        if not isinstance(content, Mapping):
            return content
        return {key: plain(value) for key, value in content.items()}

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.primitive == "estimator" and self.mitigation != "none":
            raise ValueError(
                "mitigation applies to the sampler only; for the estimator, use resilience (1 "
                "corrects read-out errors)"
            )
        if self.primitive == "estimator" and (self.twirl_gates or self.twirl_readout):
            raise ValueError(
                "twirl_gates and twirl_readout apply to the sampler only; for the estimator, "
                "resilience sets the twirling (1 measurements, 2 also gates)"
            )
        if self.primitive == "sampler" and self.resilience != 1:
            raise ValueError(
                f"resilience applies to the estimator only, got {self.resilience} for the sampler; "
                f"use mitigation to correct its read-out errors"
            )
        if self.shots > self.max_executions:
            raise ValueError(
                f"shots must be at most max_executions ({self.max_executions}), got {self.shots}"
            )
        return self

    @classmethod
    def of(cls, options: Mapping[str, Any], settings: "HardwareSettings | None" = None) -> Self:
        """Return the given settings, or settings made from field names and values."""
        if settings is None:
            return cls(**options)
        if not isinstance(settings, cls):
            raise InvalidInputError(f"settings must be HardwareSettings, got {settings!r}")
        if options:
            raise InvalidInputError(f"pass settings or {sorted(options)}, not both")
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as data that JSON can hold; `of` reads them."""
        return self.model_dump(mode="json")

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
