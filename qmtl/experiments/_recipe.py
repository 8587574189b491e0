"""Recipe: the complete description of a run, in sections (data, encoder, head, circuit, ...)."""

import codecs
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from qmtl._io import recipe_texts
from qmtl._sections import RecipePath, Section, Seed, absolute_if_there, explain
from qmtl.circuit import list_designs
from qmtl.data import AnyDataSection
from qmtl.encoders import AnyEncoderSection, MLPSection
from qmtl.errors import RecipeError, as_path, near_paths, unknown_name
from qmtl.heads import HeadSection, HeadType
from qmtl.noise import DeviceNoise
from qmtl.training import LoggingSection, TrainingSettings

SEED_KEYS = ("data.seed", "encoder.seed", "head.seed", "training.seed")
TABLES = (".csv", ".tsv", ".tab")
SINGLE_TASK: Literal["single-task"] = "single-task"
RivalType = Literal[HeadType, "single-task"]
Probability = Annotated[float, Field(ge=0, le=1)]


class NoiseSection(Section):
    """Noise of the head's circuit: a file, a backend, or numbers (see `DeviceNoise.uniform`).

    Attributes:
        file: a file that `DeviceNoise.save` wrote.
        backend: name of a fake IBM backend, such as ``fake_fez``.
        relaxation: (backend) whether wires relax during gates and idle times; if not, gates
            depolarise by their reported error.
        one_qubit, two_qubit: probabilities of an error after a gate on one and on two wires.
        readout: probability of a readout error of one bit.
        scale: factor on the strength of the noise.
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
        given = [name for name in ("file", "backend") if getattr(self, name) is not None]
        numbers = [key for key in ("one_qubit", "readout", "two_qubit") if getattr(self, key)]
        if len(given) + bool(numbers) > 1:
            raise ValueError(f"give one of file, backend, and numbers, got {[*given, *numbers]}")
        return self

    def device_noise(self, n_wires: int) -> DeviceNoise:
        """Return the noise of a circuit with this many wires.

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
    """Settings of training, and the noise and shots of the head's circuit.

    Attributes:
        noise: noise of the head's circuit, in training and evaluation: a table, see `NoiseSection`,
            or the name of a file (``"noise.json"``) or backend (``"fake_fez"``). Heads without a
            circuit ignore it.
        shots: number of measurements per sample; None for exact values. Each step draws new ones
            from `seed`.
    """

    noise: Annotated[NoiseSection | None, BeforeValidator(_from_text)] = None
    shots: int | None = Field(None, ge=1)


def _design(value: str, info: ValidationInfo) -> str:
    # A design's name wins over a folder of this name beside the recipe.
    return value if value in list_designs() else absolute_if_there(value, info)


class CircuitSection(Section):
    """The head circuit.

    Attributes:
        design: name of a catalogue design, or path of its file, relative to the recipe's folder.
        wires_per_task: number of wires for all tasks, or by task; None for the design's defaults.
        task_order: order of the tasks on the ring: ``graph`` puts related tasks side by side, by
            `qmtl.methods.task_order` of the training labels; None for the order of the data.
    """

    design: Annotated[str, AfterValidator(_design)] = "cz-ring"
    wires_per_task: int | dict[str, int] | None = None
    task_order: Literal["graph"] | None = None


class BenchSection(Section):
    """The comparison that ``qmtl bench`` makes; a single run ignores this section.

    Attributes:
        heads: types of heads, or ``single-task``, each trained on every seed.
        seeds: number of seeds; seed ``s`` is used for data, encoder, head and training.
        first_seed: the first seed.
        search_seeds: number of first seeds, whose validation splits choose each head's setting;
            the other seeds run with the chosen setting only.
        shuffle_tasks: whether the seed also shuffles the tasks (neighbours share light cones).
        probe: whether to fit a linear probe to the encoder's inputs, as a lower bound.
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
    """The complete description of a run.

    Attributes:
        name: name of the run, part of the default run directory.
        seed: default for the seeds of all sections.
        data, encoder: sections of the data set and of the classical encoder.
        head: section of the head: quantum, or a rival.
        circuit: see `CircuitSection`. Its number of features is the encoder's output width, also
            for linear heads, except for heads of a fixed width.
        training: see `TrainingSettings`, and `TrainingSection` for noise and shots.
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
        """Return the recipe with other values for some keys.

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
        """Return keys such as ``training.seed`` with their values; leave unset keys out."""
        return dict(flatten(self.model_dump(mode="json", exclude_none=True)))

    def as_toml(self, *, unset_keys: bool = True) -> str:
        """Return the resolved recipe with all defaults as TOML; reading it gives an equal recipe.

        An unset key is a comment, such as ``# rank =``; with `unset_keys` False it is left out.
        """
        import tomli_w

        tables = tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
        if not unset_keys:
            return tables
        unset = {f"[{table}]\n" if table else "": keys for table, keys in _all_unset(self)}
        lines = ["", *tables.splitlines(keepends=True)]
        return "".join(
            line + "".join(f"# {key} =\n" for key in unset.get(line, ())) for line in lines
        )


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys and values of nested tables; dots join the parts of a key."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _all_unset(section: Section, table: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each table, including nested ones, with its unset keys."""
    yield table, [key for key, value in section if value is None]
    for key, value in section:
        if isinstance(value, Section):
            yield from _all_unset(value, f"{table}.{key}" if table else key)


def recipe_from(
    content: Mapping[str, Any], source: str = "recipe", folder: Path | None = None
) -> Recipe:
    """Make a recipe from plain tables, with one-line errors.

    The recipe's ``seed`` is the default of the sections' seeds. `source` names the origin of the
    tables in messages. Paths are relative to `folder`; None leaves them unchanged.
    """
    seed = content.get("seed")
    if seed is not None:
        # Pydantic reports a section that is not a table.
        tables = {key.split(".")[0]: content.get(key.split(".")[0], {}) for key in SEED_KEYS}
        own = {k: {"seed": seed} | dict(t) for k, t in tables.items() if isinstance(t, Mapping)}
        content = {**content, **own}
    try:
        return Recipe.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, Recipe)}") from None


def set_key(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a key such as ``training.seed`` in the tables of a recipe; `where` is for messages.

    The key ``seed`` also sets the seeds of all sections.
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


def built_in_recipes() -> list[str]:
    """Return the names of the recipes that come with the package.

    Example:
        >>> "digits" in built_in_recipes()
        True
    """
    return list(recipe_texts())


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its built-in name or its path.

    Args:
        name_or_path: a name or path such as ``"digits"`` or ``"my.toml"``.
        overrides: texts ``"section.key=value"`` with a TOML value; text needs no quotes.

    Raises:
        RecipeError: for a missing file, a data table, invalid TOML, an unknown key (the error names
            the nearest valid one), or a value that does not fit.

    Example:
        >>> read_recipe("digits", ["training.seed=3"]).training.seed
        3
    """
    path = as_path(name_or_path, "name_or_path")
    if path.suffix.lower() in TABLES:
        raise RecipeError(
            f"{path} looks like a table, not a recipe; write a recipe for it with: qmtl init "
            f"{shlex.quote(str(path))}"
        )
    if path.suffix == ".toml" or path.is_file():
        try:
            text = _decoded(path.read_bytes())
        except FileNotFoundError:
            raise RecipeError(f"recipe {path}: there is no such file{near_paths(path)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    elif str(name_or_path) in (built_in := recipe_texts()):
        text = built_in[str(name_or_path)]
    else:
        raise unknown_name("recipe (or path to a .toml file)", str(name_or_path), built_in)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name_or_path} is not valid TOML: {error}") from None
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key.strip():
            raise RecipeError(f"--set needs KEY=VALUE, got {override!r}")
        set_key(content, key.strip(), _value(value), f"--set {override!r}")
    return recipe_from(content, str(name_or_path), path.parent)


def _decoded(content: bytes) -> str:
    """Decode text in UTF-8, with or without a byte order mark, or in UTF-16 with one."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig")


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Parse a grid from texts ``KEY=V1,V2,...``; words need no quotes, other values are TOML.

    Raises:
        RecipeError: for a text without a key or a value, or a key that is given twice.

    Example:
        >>> parse_grid(["training.learning_rate=0.01,0.1", "training.scalarizer=mean,uw"])
        {'training.learning_rate': [0.01, 0.1], 'training.scalarizer': ['mean', 'uw']}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, _, values = (part.strip() for part in text.partition("="))
        if not key or not values:
            raise RecipeError(f"--grid needs KEY=V1,V2,..., got {text!r}")
        if key in grid:
            raise RecipeError(f"--grid: the key {key!r} is given twice; separate values by commas")
        try:
            grid[key] = tomllib.loads(f"values = [{values}]")["values"]
        except tomllib.TOMLDecodeError:
            grid[key] = [_value(value.strip()) for value in values.split(",")]
    return grid


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
