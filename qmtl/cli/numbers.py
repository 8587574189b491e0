"""Options that are lists of numbers."""

from math import isfinite

__all__ = ["parse_numbers", "parse_scales"]


def parse_numbers(option: str, text: str, *, least: int = 1) -> tuple[int, ...]:
    """Whole numbers between commas, ascending and without repetition.

    Raises:
        InvalidInputError: something is no whole number, or too small.

    Example:
        >>> parse_numbers("--tasks", "8, 2,4")
        (2, 4, 8)
    """
    from qmtl.errors import InvalidInputError

    try:
        numbers = {int(word) for word in text.split(",")}
    except ValueError:
        numbers = set()
    if not numbers or min(numbers) < least:
        raise InvalidInputError(
            f"{option}: expected whole numbers >= {least} between commas, got {text!r}"
        )
    return tuple(sorted(numbers))


def parse_scales(option: str, text: str) -> tuple[float, ...]:
    """Finite numbers >= 0 between commas, ascending and without repetition.

    Raises:
        InvalidInputError: something is no such number.

    Example:
        >>> parse_scales("--scale", "0,1,0.5")
        (0.0, 0.5, 1.0)
    """
    from qmtl.errors import InvalidInputError

    try:
        numbers = {float(word) for word in text.split(",")}
    except ValueError:
        numbers = set()
    if not numbers or not all(isfinite(number) and number >= 0 for number in numbers):
        raise InvalidInputError(f"{option}: expected numbers >= 0 between commas, got {text!r}")
    return tuple(sorted(numbers))
