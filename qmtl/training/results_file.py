"""What ``results.json`` must hold to be shown."""

from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

__all__ = ["results_problem"]

# JSON has no NaN: an undefined metric is null.
Metrics = dict[str, dict[str, float | None]]


class _Splits(BaseModel):
    train: Metrics
    validation: Metrics
    test: Metrics


class _Parameters(BaseModel):
    __pydantic_extra__: dict[str, int] = Field(init=False)
    model_config = {"extra": "allow"}

    encoder: int
    head: int


class _Results(BaseModel):
    metrics: _Splits
    baselines: _Splits
    rivals: dict[str, _Splits]
    parameters: _Parameters
    epochs: int
    best_epoch: int
    seconds: float

    @model_validator(mode="after")
    def _same_tasks(self) -> "_Results":
        for name, other in {"baselines": self.baselines, **self.rivals}.items():
            for split in _Splits.model_fields:
                if set(getattr(other, split)) != set(getattr(self.metrics, split)):
                    raise ValueError(f"{name} has other tasks than metrics in {split}")
        return self


def results_problem(content: Any) -> str | None:
    """What is wrong with the content of a ``results.json``; None if nothing is.

    Example:
        >>> results_problem({})
        'metrics: Field required'
    """
    try:
        _Results.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    return None
