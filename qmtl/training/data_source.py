"""From the section [data] of a recipe to the data."""

from typing import Any

from qmtl import data as sources
from qmtl.data import MultiTaskData
from qmtl.training.data_section import DataSection

__all__ = ["load_data"]

_MUSTARD_LABELS = {
    "mustard": "sarcasm",
    "mustard-extended": "extended",
    "mustard-plus-plus": "plus_plus",
}


def load_data(section: DataSection) -> MultiTaskData:
    """The data of a section, split.

    Example:
        >>> load_data(DataSection(source="digits", tasks=["ink"]))
        MultiTaskData('digits', inputs=(64,), train=1079, validation=359, test=359,
        tasks: ink (regression))
    """
    if section.source == "digits":
        return sources.digits(seed=section.seed, tasks=section.tasks, **_given(section, "splits"))
    assert section.path is not None
    if section.source == "csv":
        return _csv(section, section.path)
    if section.source == "glue":
        options = _given(section, "validation", "max_rows", "max_test_rows")
        return sources.glue(
            section.path, section.tasks, _embedding(section), seed=section.seed, **options
        )
    if section.source == "chestxray":
        options = _given(section, "labels", "images", "image_size", "max_patients", "splits")
        return sources.chestxray(
            section.path,
            tasks=section.tasks,
            uncertain=section.uncertain,
            blank=section.blank,
            views=section.views,
            kind=section.kind,
            flat=section.flat,
            seed=section.seed,
            **options,
        )
    return sources.mustard(
        section.path,
        _MUSTARD_LABELS[section.source],
        split=section.split or section.splits,
        tasks=section.tasks,
        embed=_embedding(section),
        context=section.context,
        seed=section.seed,
        **_given(section, "audio", "visual", "validation"),
    )


def _given(section: DataSection, *keys: str) -> dict[str, Any]:
    """The keys that are not None, which stands for the source's default."""
    return {key: getattr(section, key) for key in keys if getattr(section, key) is not None}


def _embedding(section: DataSection) -> Any:
    if section.text_model is None:
        return None
    from qmtl.encoders import TextEmbedding

    return TextEmbedding(section.text_model)


def _csv(section: DataSection, path: str) -> MultiTaskData:
    loaded = sources.from_csv(
        path,
        targets=section.targets or section.tasks or (),
        inputs=section.inputs,
        ignore=section.ignore,
        seed=section.seed,
        split_column=section.split_column,
        group_column=section.group_column,
        delimiter=section.delimiter,
        **_given(section, "splits"),
    )
    return loaded if section.tasks is None else loaded.subset(section.tasks)
