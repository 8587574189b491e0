"""What all sections of a recipe have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Fractions", "Section", "Seed"]

Fractions = Annotated[tuple[float, float, float], Field(description="train, validation, test")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A table of a recipe: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")
