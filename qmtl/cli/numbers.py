"""Options that are lists of whole numbers."""

__all__ = ["parse_numbers"]


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
