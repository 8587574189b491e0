"""Sections of a recipe: their base class, unions of sections, paths, and one-line errors."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from qmtl.errors import InvalidInputError, unknown_name

Fractions = Annotated[tuple[float, float, float], Field(description="train, validation, test")]
MOST = 2**31 - 1  # whole numbers of settings: far more than any machine can do
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]


class _OneLine(type(BaseModel)):  # type: ignore[misc]
    """The type of sections, whose constructors raise errors in one line."""

    def __call__(self, *args: Any, **keys: Any) -> Any:
        if args:
            raise InvalidInputError(f"{self.__name__} takes keywords only, got {args[0]!r}")
        try:
            return super().__call__(**keys)
        except ValidationError as error:
            raise InvalidInputError(explain(error, self)) from None


if TYPE_CHECKING:  # checkers do not know computed types
    _Model = BaseModel
else:

    class _Model(BaseModel, metaclass=_OneLine):
        """A model whose constructor raises errors in one line."""


class Section(_Model):
    """A table of a recipe: frozen; unknown keys are refused.

    Raises:
        InvalidInputError: by the constructor, for unknown keys and wrong values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    defaults_of_0_1: ClassVar[Mapping[str, Any]] = {}
    """Defaults of version 0.1 that have changed; see `OneOf`."""
    largest: ClassVar[int] = MOST
    """Largest whole number that a key may have."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, content: Any) -> Any:
        """Refuse true and false where numbers are expected; pydantic takes them for 1 and 0."""
        for key, value in content.items() if isinstance(content, Mapping) else ():
            values = value if isinstance(value, list | tuple) else [value]
            if key in cls.model_fields and any(isinstance(one, bool) for one in values):
                annotation = cls.model_fields[key].annotation
                if _names(annotation, int, float) and not _names(annotation, bool):
                    raise ValueError(f"{key} takes numbers, not true or false; got {value!r}")
        return content

    @model_validator(mode="after")
    def _no_huge_number(self) -> Self:
        for key, value in self:
            values = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(one, int) and abs(one) > self.largest for one in values):
                raise ValueError(
                    f"{key}: expected whole numbers up to {self.largest:,}, got {value!r}"
                )
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some other values, which are checked as in the constructor."""
        if update:
            checked = type(self)(**{**dict(self), **update})
            update = {key: getattr(checked, key) for key in update}
        return super().model_copy(update=update, deep=deep)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Take the state of a pickle, also of the dataclasses that some sections once were."""
        plain = state if "__dict__" in state else type(self)(**state).__getstate__()
        super().__setstate__(plain)


def _names(annotation: Any, *kinds: type) -> bool:
    """Return whether a type annotation names one of some types, at any depth."""
    return annotation in kinds or any(_names(part, *kinds) for part in get_args(annotation))


def _absolute(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    return value if folder is None else str((folder / Path(value).expanduser()).resolve())


def absolute_if_there(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of a file or folder beside the recipe; another text as it is."""
    path = _absolute(value, info)
    return path if Path(path).exists() else value


RecipePath = Annotated[str, AfterValidator(_absolute)]
"""A path relative to the recipe's folder, which validation takes from ``context["folder"]``."""

NameOrPath = Annotated[str, AfterValidator(absolute_if_there)]
"""A name, or the path of a file or folder that exists."""


class OneOf:
    """Marks a field that holds one of several subclasses of a section; a key selects which.

    A subclass gives its value of the key as a ``Literal``. The union consists of all subclasses
    that exist when the field's model is defined, so that no second list is needed.

    A key that only other subclasses have is refused, unless its value is their default: recipes
    that version 0.1 resolved hold the defaults of all subclasses.

    Args:
        key: the key, such as ``source``.
        default: value of the key if it is missing; None if it must be given.

    Example:
        >>> from typing import Literal
        >>> class Shape(Section):
        ...     kind: str
        >>> class Circle(Shape):
        ...     kind: Literal["circle"] = "circle"
        ...     radius: float
        >>> class Square(Shape):
        ...     kind: Literal["square"] = "square"
        ...     side: float = 1.0
        >>> class Drawing(Section):
        ...     shape: Annotated[Shape, OneOf("kind")]
        >>> Drawing.model_validate({"shape": {"kind": "circle", "radius": 2, "side": 1.0}}).shape
        Circle(kind='circle', radius=2.0)
    """

    def __init__(self, key: str, default: str | None = None) -> None:
        self.key, self.default = key, default

    def members(self, base: type[Section]) -> dict[str, type[Section]]:
        """Return a dictionary from value of the key to subclass."""
        return {
            str(value): member
            for member in base.__subclasses__()
            for value in get_args(member.model_fields[self.key].annotation)
        }

    def __get_pydantic_core_schema__(
        self, source: type[Section], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of a union whose members the key tells apart."""
        members = self.members(source)
        union: Any = reduce(or_, dict.fromkeys(members.values()))
        schema = handler.generate_schema(Annotated[union, Field(discriminator=self.key)])
        return core_schema.no_info_before_validator_function(
            lambda value: self._own_keys(value, members), schema
        )

    def _own_keys(self, value: Any, members: Mapping[str, type[Section]]) -> Any:
        """Remove defaults of other sections from the table; raise for other keys of theirs."""
        if not isinstance(value, Mapping):
            return value
        if self.default is not None:
            value = {self.key: self.default, **value}
        chosen = members.get(str(value.get(self.key)))
        if chosen is None:
            return value
        kept = {}
        for name, given in value.items():
            others = [member for member in members.values() if name in member.model_fields]
            if name in chosen.model_fields or not others:
                kept[name] = given
            elif all(given not in _defaults(member, name) for member in others):
                known = ", ".join(sorted(set(chosen.model_fields) - {self.key}))
                raise ValueError(
                    f"{self.key} {value[self.key]!r} does not read {name!r}; it reads {known}"
                )
        return kept


def _defaults(section: type[Section], name: str) -> list[Any]:
    now = section.model_fields[name].get_default(call_default_factory=True)
    return [now, section.defaults_of_0_1.get(name, now)]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Explain a validation error of a section in one line, with the nearest valid names."""
    return "; ".join(_problem(problem, model) for problem in error.errors())


def _problem(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    path, _ = _follow(problem["loc"], model)
    where = ".".join(path)
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        _, section = _follow(problem["loc"][:-1], model)
        known = list(section.model_fields) if section else []
        close = get_close_matches(path[-1], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        return f"unknown key {where!r}{hint} Known: {', '.join(known) or 'none'}"
    given = f"{' '.join(repr(problem['input']).split()):.100}"  # in one line
    if kind == "literal_error" and isinstance(problem["input"], str):
        choices = re.findall(r"'([^']*)'", context["expected"])
        return str(unknown_name(f"value of {where}:", problem["input"], choices))
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        choices = re.findall(r"'([^']*)'", context["expected_tags"])
        return str(unknown_name(f"value of {where}.{key}:", context["tag"], choices))
    if kind == "union_tag_not_found":
        return f"missing key '{where}.{context['discriminator'].strip(chr(39))}'"
    if kind == "missing":
        return f"missing key {where!r}"
    message: str = problem["msg"].removeprefix("Value error, ")
    if kind == "tuple_type":
        message = "expected a list"
    if not where:
        return message
    if isinstance(problem["input"], Mapping):  # a whole section: the message says what is wrong
        return f"{where}: {message}"
    return f"{where}: {message}, got {given}"


def _follow(
    location: Sequence[Any], model: type[BaseModel]
) -> tuple[list[str], type[BaseModel] | None]:
    """Return an error's keys as a recipe writes them, and the section of the last key."""
    path: list[str] = []
    section: type[BaseModel] | None = model
    members: Mapping[str, type[Section]] = {}
    for part in location:
        if part in members:  # a name of pydantic's for the union's member, which no recipe contains
            section, members = members[part], {}
            continue
        path.append(str(part))
        field = section.model_fields.get(str(part)) if section else None
        section, members = None, {}
        if field is None:
            continue
        # The type of an optional section is a union with None.
        options = (field.annotation, *get_args(field.annotation))
        section = next(
            (o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None
        )
        for mark in field.metadata:
            if isinstance(mark, OneOf) and section is not None and issubclass(section, Section):
                members = mark.members(section)
    return path, section
