"""What noise a recipe trains and evaluates under, and with how many shots."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from qmtl._sections import Section
from qmtl.circuit import HeadCircuit
from qmtl.errors import RecipeError
from qmtl.heads import HeadOptions
from qmtl.noise import DeviceNoise
from qmtl.simulators import (
    LightConeSimulator,
    NoisySimulator,
    ShotSimulator,
    Simulator,
    simulator_for,
)
from qmtl.training import TrainingSettings

__all__ = ["NoiseSection", "TrainingSection", "with_noise"]

Probability = Annotated[float, Field(ge=0, le=1)]


class NoiseSection(Section):
    """Noise of the head's circuit: a file, a backend, or numbers (see `DeviceNoise.uniform`).

    Attributes:
        file: that `DeviceNoise.save` wrote.
        backend: name of a fake IBM backend, such as ``fake_fez``.
        relaxation: (backend) whether wires relax, in gates and while they wait; without, gates
            depolarise by their reported error.
        one_qubit: probability of an error after a one-wire gate.
        two_qubit: probability of an error after a two-wire gate.
        readout: probability that a bit is read wrongly.
        scale: how much stronger than that.
    """

    file: str | None = None
    backend: str | None = None
    relaxation: bool = True
    one_qubit: Probability = 0.0
    two_qubit: Probability = 0.0
    readout: Probability = 0.0
    scale: float = Field(1.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_source(self) -> "NoiseSection":
        numbers = {"one_qubit", "two_qubit", "readout"} & self.model_fields_set
        numbers = {name for name in numbers if getattr(self, name)}
        given = [name for name in ("file", "backend") if getattr(self, name) is not None]
        if len(given) + bool(numbers) > 1:
            raise ValueError(
                f"give one of file, backend, and numbers, got {[*given, *sorted(numbers)]}"
            )
        return self

    def relative_to(self, folder: Path) -> "NoiseSection":
        """The section with its path made absolute, as seen from the recipe's folder.

        Example:
            >>> NoiseSection(file="noise.json").relative_to(Path("/recipes")).file
            '/recipes/noise.json'
        """
        if self.file is None:
            return self
        return self.model_copy(update={"file": str((folder / self.file).resolve())})

    def device_noise(self, n_wires: int) -> DeviceNoise:
        """The noise, for a circuit of so many wires.

        Example:
            >>> NoiseSection(readout=0.02, scale=2).device_noise(4).readout
            (0.04, 0.04)
        """
        if self.file is not None:
            noise = DeviceNoise.load(self.file)
        elif self.backend is not None:
            from qmtl.noise import noise_of_backend

            noise = noise_of_backend(self.backend, n_wires, relaxation=self.relaxation)
        else:
            noise = DeviceNoise.uniform(self.one_qubit, self.two_qubit, self.readout)
        return noise.scaled(self.scale)


def _from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return {"file": value} if value.endswith(".json") else {"backend": value}


class TrainingSection(TrainingSettings):
    """How to train, and on which device the head is imagined.

    Attributes:
        noise: of the head's circuit, in training and evaluation: see `NoiseSection`; a file
            (``"noise.json"``) or a backend (``"fake_fez"``) may be given by itself. Heads without a
            circuit take no notice of it.
        shots: measurements per sample; None for exact values. They are drawn anew in each step,
            from `seed`.
    """

    noise: Annotated[NoiseSection | None, BeforeValidator(_from_text)] = None
    shots: int | None = Field(None, ge=1)

    def relative_to(self, folder: Path) -> "TrainingSection":
        """The section with its path made absolute, as seen from the recipe's folder."""
        if self.noise is None:
            return self
        return self.model_copy(update={"noise": self.noise.relative_to(folder)})


def with_noise(
    options: HeadOptions, training: TrainingSection, circuit: HeadCircuit
) -> HeadOptions:
    """Options of a head whose circuit runs under the recipe's noise and with its shots.

    Raises:
        RecipeError: for noise or shots together with another simulator than ``lightcone``.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> with_noise(HeadOptions(), TrainingSection(shots=8), circuit).simulator
        ShotSimulator(LightConeSimulator(max_memory=None, engine='compiled'), shots=8, seed=None)
    """
    if training.noise is None and training.shots is None:
        return options
    simulator: Simulator = simulator_for(options.simulator)
    if not isinstance(simulator, LightConeSimulator):
        raise RecipeError(
            f"training.noise and training.shots go with head.simulator 'lightcone', got "
            f"{options.simulator!r}; a PennyLane device has noise and shots of its own"
        )
    if training.noise is not None:
        simulator = NoisySimulator(training.noise.device_noise(circuit.n_wires))
    if training.shots is not None:
        simulator = ShotSimulator(simulator, training.shots)
    return dataclasses.replace(options, simulator=simulator)
