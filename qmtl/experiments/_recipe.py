"""Recipes: one TOML file that says everything about a run (data, encoder, circuit, training)."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from qmtl._sections import Section, Seed, explain
from qmtl.data import AnyDataSection
from qmtl.encoders import AnyEncoderSection, MLPSection
from qmtl.errors import RecipeError, unknown_name
from qmtl.experiments._training_section import TrainingSection
from qmtl.heads import HeadOptions, HeadType
from qmtl.training import LoggingSection

__all__ = ["Recipe", "built_in_recipes", "parse_grid", "read_recipe", "recipe_from"]


SEED_KEYS = ("data.seed", "encoder.seed", "head.seed", "training.seed")
SINGLE_TASK: Literal["single-task"] = "single-task"
RivalType = Literal[HeadType, "single-task"]


def _one_model(value: Any) -> Any:
    if value == SINGLE_TASK:
        raise ValueError(
            "single-task models are not one model; compare with them by compare = "
            "['single-task'], or by qmtl bench --heads single-task,..., and train one of them "
            "by data.tasks = ['its name'] with head.type = 'linear'"
        )
    return value


class HeadSection(Section):
    """The head: quantum, a rival, or an ablation.

    Attributes:
        type: see `qmtl.heads.build_head`.
        simulator: of the heads that have a circuit.
        angle_map: of the heads that have a circuit.
        initial: of the heads that have a circuit.
        width: (fixed-width, shared-vqc) features of the representation.
        rank: (low-rank) width of the bottleneck; None for the closest parameter count.
        single_task: the head of each single-task model that a comparison trains: ``linear``, on a
            representation as wide as the shared one, or ``quantum``, on the task's own register.
        seed: of the initial weights.
    """

    type: Annotated[HeadType, BeforeValidator(_one_model)] = "quantum"
    simulator: str = "lightcone"
    angle_map: Literal["tanh", "narrow", "identity"] = "tanh"
    initial: Literal["normal", "equator"] = "normal"
    width: int = Field(8, ge=1)
    rank: int | None = Field(None, ge=1)
    single_task: Literal["linear", "quantum"] = "linear"
    seed: Seed = 0

    def options(self) -> HeadOptions:
        """All but the type, as `qmtl.heads.build_head` takes them."""
        return HeadOptions(**self.model_dump(exclude={"type", "single_task"}))


class CircuitSection(Section):
    """The head circuit: a catalogue design by name or path; register sizes may be set."""

    design: str = "cz-ring"
    wires_per_task: int | dict[str, int] | None = None


class BenchSection(Section):
    """What ``qmtl bench`` compares; a single run takes no notice of it.

    Attributes:
        heads: types of heads, or ``single-task``, each trained on every seed.
        seeds: number of seeds; seed ``s`` sets those of data, encoder, head and training to ``s``.
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
            >>> read_recipe("digits").with_values({"encoder.hidden": [8]}).encoder.hidden
            [8]
        """
        content = self.model_dump(mode="json", exclude_none=True)
        for key, value in values.items():
            _set(content, key, value, key)
        return recipe_from(content, self.name)

    @property
    def seeds(self) -> dict[str, int]:
        """What is drawn to its seed."""
        return {
            "split": self.data.seed,
            "encoder": self.encoder.seed,
            "head": self.head.seed,
            "training": self.training.seed,
        }

    def as_toml(self) -> str:
        """The resolved recipe, defaults included; reading it back gives an equal recipe."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def built_in_recipes() -> list[str]:
    """Names of the recipes that come with the package.

    Example:
        >>> "digits" in built_in_recipes()
        True
    """
    folder = resources.files("qmtl.experiments") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by built-in name or by path.

    Args:
        name_or_path: such as ``"digits"`` or ``"my.toml"``.
        overrides: ``"section.key=value"`` with a TOML value (quotes around text may be left out).

    Raises:
        RecipeError: for a file that is missing or not TOML, an unknown key (the nearest valid
            one is named), or a value that does not fit.

    Example:
        >>> read_recipe("digits", ["training.seed=3"]).training.seed
        3
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecipeError(f"recipe {path}: there is no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    elif str(name_or_path) in built_in_recipes():
        text = (
            resources.files("qmtl.experiments") / "recipes" / f"{name_or_path}.toml"
        ).read_text()
    else:
        raise unknown_name(
            "recipe (or path to a .toml file)", str(name_or_path), built_in_recipes()
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name_or_path} is not valid TOML: {error}") from None
    for override in overrides:
        _override(content, override)
    recipe = recipe_from(content, str(name_or_path), path.parent)
    training = recipe.training.relative_to(path.parent)
    return recipe.model_copy(update={"training": training})


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """A grid from texts ``KEY=V1,V2,...`` with TOML values (quotes around words may be left out).

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


def recipe_from(
    content: Mapping[str, Any], source: str = "recipe", folder: Path | None = None
) -> Recipe:
    """A recipe from plain tables, with one-line errors.

    Args:
        content: the tables.
        source: where they come from, for messages.
        folder: that paths are relative to, so that a run directory works from anywhere; None
            leaves paths as they are.
    """
    try:
        return Recipe.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, Recipe)}") from None


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set needs KEY=VALUE, got {override!r}")
    _set(content, key.strip(), _value(text), f"--set {override!r}")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _set(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    *sections, last = key.split(".")
    table = content
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{where}: {section!r} is not a table")
    table[last] = value
