"""The section [data] of a recipe: a source, and the keys that this source reads."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from qmtl.training._settings import Fractions, Section, Seed

__all__ = ["DataSection"]

Source = Literal[
    "digits", "csv", "glue", "chestxray", "mustard", "mustard-extended", "mustard-plus-plus"
]

_MUSTARD = {"path", "split", "splits", "context", "audio", "visual", "validation", "text_model"}
_KEYS: dict[str, set[str]] = {
    "digits": {"splits"},
    "csv": {"path", "targets", "inputs", "ignore", "delimiter", "split_column", "group_column",
            "splits"},
    "glue": {"path", "validation", "max_rows", "max_test_rows", "text_model"},
    "chestxray": {"path", "labels", "images", "image_size", "uncertain", "blank", "views", "kind",
                  "flat", "max_patients", "splits"},
    "mustard": _MUSTARD,
    "mustard-extended": _MUSTARD,
    "mustard-plus-plus": _MUSTARD,
}  # fmt: skip
_COMMON = {"source", "tasks", "seed"}


class DataSection(Section):
    """Where the data come from. Paths are relative to the recipe.

    Attributes:
        source: ``digits`` (scikit-learn's), ``csv``, ``glue``, ``chestxray``, ``mustard`` (sarcasm
            alone), ``mustard-extended`` or ``mustard-plus-plus``.
        path: (all but digits) the file (csv), or the folder of the data set.
        targets: (csv) column to kind, or None with a list of `tasks` to infer the kinds.
        inputs: (csv) input columns; None for all others.
        ignore: (csv) columns to leave out.
        delimiter: (csv) between cells.
        split_column: (csv) column with train, validation or test.
        group_column: (csv) column whose equal values stay in one split.
        text_model: (glue, mustard) a folder with a sentence-transformers model, or its name on the
            hub; None for the default of `qmtl.encoders.TextEmbedding`.
        validation: (glue, mustard) share of the training rows; None for the source's default.
        max_rows: (glue) at most so many training rows per task.
        max_test_rows: (glue) at most so many test rows per task.
        labels: (chestxray) label files in the folder; None for those of train.csv, valid.csv and
            test.csv that are there.
        images: (chestxray) a folder or a .npz; None to look in `path`.
        image_size: (chestxray) side in pixels.
        uncertain: (chestxray) what -1 means, or a table of finding to policy.
        blank: (chestxray) what a blank means.
        views: (chestxray) all, frontal or lateral.
        kind: (chestxray) binary, a task per finding; or multilabel, one task.
        flat: (chestxray) inputs as one vector, for encoders that take no images.
        max_patients: (chestxray) at most so many patients.
        split: (mustard) ``fold 0`` to ``fold 4``, or ``speaker-independent``.
        context: (mustard) the lines before the utterance are a modality, too.
        audio: (mustard) a file of features by id.
        visual: (mustard) a file of features by id.
        tasks: names of the tasks to keep, in this order; None for all.
        splits: fractions of train, validation and test; None for the source's default.
        seed: of the splits.
    """

    source: Source
    path: str | None = None
    targets: dict[str, str] | None = None
    inputs: list[str] | None = None
    ignore: list[str] = Field(default_factory=list)
    delimiter: str = ","
    split_column: str | None = None
    group_column: str | None = None
    text_model: str | None = None
    validation: float | None = Field(None, gt=0, lt=1)
    max_rows: int | None = Field(None, ge=2)
    max_test_rows: int | None = Field(None, ge=1)
    labels: list[str] | None = None
    images: str | None = None
    image_size: int | None = Field(None, ge=1)
    uncertain: str | dict[str, str] = "ignore"
    blank: str = "ignore"
    views: str = "all"
    kind: str = "binary"
    flat: bool = False
    max_patients: int | None = Field(None, ge=3)
    split: str | None = None
    context: bool = False
    audio: str | None = None
    visual: str | None = None
    tasks: list[str] | None = None
    splits: Fractions | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> "DataSection":
        # A default is no wish: resolved recipes hold the defaults of all sources.
        default = DataSection.model_construct(source=self.source)
        for key in type(self).model_fields:
            unread = key not in _COMMON | _KEYS[self.source]
            if unread and getattr(self, key) != getattr(default, key):
                raise ValueError(
                    f"source '{self.source}' does not read '{key}'; it reads "
                    f"{', '.join(sorted((_COMMON | _KEYS[self.source]) - {'source'}))}"
                )
        if self.source == "csv" and (self.path is None or not (self.targets or self.tasks)):
            raise ValueError("source 'csv' needs path, and targets (or tasks)")
        if self.source != "digits" and self.path is None:
            raise ValueError(f"source '{self.source}' needs path: the folder that you have")
        if self.split is not None and self.splits is not None:
            raise ValueError("give split (of the authors) or splits (fractions), not both")
        return self

    def relative_to(self, folder: Path) -> "DataSection":
        """The section with its paths made absolute, as seen from the recipe's folder.

        Example:
            >>> section = DataSection(source="glue", path="glue", text_model="some/model-name")
            >>> section = section.relative_to(Path("/recipes"))
            >>> section.path, section.text_model  # the latter is a name: there is no such folder
            ('/recipes/glue', 'some/model-name')
        """
        update: dict[str, Any] = {}
        for key in ("path", "images", "audio", "visual", "text_model"):
            value = getattr(self, key)
            if value is None:
                continue
            absolute = (folder / value).resolve()
            if key != "text_model" or absolute.exists():
                update[key] = str(absolute)
        return self.model_copy(update=update)
