"""Recipe: everything about a run, in sections (data, encoder, head, circuit, training, ...)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from qmtl._sections import RecipePath, Section, Seed, explain
from qmtl.data import AnyDataSection
from qmtl.encoders import AnyEncoderSection, MLPSection
from qmtl.errors import RecipeError
from qmtl.heads import HeadSection, HeadType
from qmtl.noise import DeviceNoise
from qmtl.training import LoggingSection, TrainingSettings

__all__ = [
    "SEED_KEYS",
    "SINGLE_TASK",
    "NoiseSection",
    "Recipe",
    "RivalType",
    "TrainingSection",
    "flatten",
    "recipe_from",
    "set_key",
]

SEED_KEYS = ("data.seed", "encoder.seed", "head.seed", "training.seed")
SINGLE_TASK: Literal["single-task"] = "single-task"
RivalType = Literal[HeadType, "single-task"]
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

    file: RecipePath | None = None
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

    def device_noise(self, n_wires: int) -> DeviceNoise:
        """The noise of a circuit with so many wires.

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
    """How to train, and the noise and shots of the head's circuit.

    Attributes:
        noise: of the head's circuit, in training and evaluation: see `NoiseSection`; a file
            (``"noise.json"``) or a backend (``"fake_fez"``) may be given by itself. Heads without a
            circuit ignore it.
        shots: measurements per sample; None for exact values. They are drawn anew in each step,
            from `seed`.
    """

    noise: Annotated[NoiseSection | None, BeforeValidator(_from_text)] = None
    shots: int | None = Field(None, ge=1)


class CircuitSection(Section):
    """The head circuit: a catalogue design by name or path; register sizes may be set."""

    design: str = "cz-ring"
    wires_per_task: int | dict[str, int] | None = None


class BenchSection(Section):
    """What ``qmtl bench`` compares; a single run ignores it.

    Attributes:
        heads: types of heads, or ``single-task``, each trained on every seed.
        seeds: number of seeds; seed ``s`` sets those of data, encoder, head and training to ``s``.
        first_seed: the first of them.
        search_seeds: the setting of each head is chosen on the validation splits of so many
            seeds, the first ones; the other seeds run with the chosen setting only.
        shuffle_tasks: whether the seed also shuffles the tasks (neighbours share light cones).
        probe: whether to fit a linear probe to the encoder's inputs, as a floor.
        grid: recipe key to values; every head tries every combination of them.
    """

    heads: list[RivalType] = Field(
        ["quantum", "linear", "local-cone", "local-register"], min_length=1
    )
    seeds: int = Field(5, ge=1)
    first_seed: Seed = 0
    search_seeds: int = Field(2, ge=1)
    shuffle_tasks: bool = True
    probe: bool = True
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {
            "training.learning_rate": [0.003, 0.01],
            "training.head_learning_rate": [0.003, 0.01, 0.03, 0.1],
        }
    )


class Recipe(Section):
    """A whole run.

    Attributes:
        name: of the run; part of the default run directory.
        seed: the default of the seeds in all sections.
        data: where the data come from.
        encoder: the classical encoder.
        head: quantum, or a rival.
        circuit: the head circuit (its width sets the encoder's, also for linear heads but those
            of a fixed width).
        training: see `TrainingSettings`; and noise and shots, see `TrainingSection`.
        logging: see `LoggingSection`.
        compare: further heads to train on the same encoder, splits and seeds, for the table.
        bench: see `BenchSection`.
    """

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Seed | None = None
    data: AnyDataSection
    encoder: AnyEncoderSection = MLPSection()
    head: HeadSection = HeadSection()
    circuit: CircuitSection = CircuitSection()
    training: TrainingSection = TrainingSection()
    logging: LoggingSection = LoggingSection()
    compare: list[RivalType] = Field(default_factory=list)
    bench: BenchSection = BenchSection()

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with other values of some keys.

        Args:
            values: such as ``{"training.seed": 1}``.

        Raises:
            RecipeError: for an unknown key, or a value that does not fit.

        Example:
            >>> from qmtl.experiments import read_recipe
            >>> read_recipe("digits").with_values({"encoder.hidden": [8]}).encoder.hidden
            [8]
        """
        content = self.model_dump(mode="json", exclude_none=True)
        for key, value in values.items():
            set_key(content, key, value, key)
        return recipe_from(content, self.name)

    @property
    def seeds(self) -> dict[str, int]:
        """The seeds of splits, encoder, head and training, by name."""
        return {
            "split": self.data.seed,
            "encoder": self.encoder.seed,
            "head": self.head.seed,
            "training": self.training.seed,
        }

    def flat(self) -> dict[str, Any]:
        """Keys such as ``training.seed`` to their values; those that are not set are left out."""
        return dict(flatten(self.model_dump(mode="json", exclude_none=True)))

    def as_toml(self) -> str:
        """The resolved recipe, defaults included; reading it back gives an equal recipe.

        It has every key of every section; a key that is not set is a comment, ``# rank =``.
        """
        import tomli_w

        unset: dict[str, list[str]] = {"": _unset(self)}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, Section):
                unset[f"[{name}]\n"] = _unset(section)
        tables = tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
        text = ""
        for line in tables.splitlines(keepends=True):
            text += line + "".join(f"# {key} =\n" for key in unset.pop(line, ()))
        first = "".join(f"# {key} =\n" for key in unset.pop(""))
        return first + text


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of tables within tables, joined by dots, and their values."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _unset(section: Section) -> list[str]:
    return [key for key in type(section).model_fields if getattr(section, key) is None]


def recipe_from(
    content: Mapping[str, Any], source: str = "recipe", folder: Path | None = None
) -> Recipe:
    """A recipe from plain tables, with one-line errors.

    The recipe's ``seed`` is the default of the sections' seeds.

    Args:
        content: the tables.
        source: where they come from, for messages.
        folder: that paths are relative to, so that a run directory works from anywhere; None
            leaves paths as they are.
    """
    seed = content.get("seed")
    if seed is not None:
        # A section that is not a table has its own error.
        tables = {key.split(".")[0]: content.get(key.split(".")[0], {}) for key in SEED_KEYS}
        own = {k: {"seed": seed} | dict(t) for k, t in tables.items() if isinstance(t, Mapping)}
        content = {**content, **own}
    try:
        return Recipe.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, Recipe)}") from None


def set_key(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a key such as ``training.seed`` in the tables of a recipe; `where` is for messages.

    ``seed`` sets those of all sections, too.
    """
    if key == "seed":
        for own in SEED_KEYS:
            set_key(content, own, value, where)
    *sections, last = key.split(".")
    table = content
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{where}: {section!r} is not a table")
    table[last] = value
