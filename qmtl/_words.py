"""Numbers and their units in words, for messages and summaries."""


def counted(number: int, noun: str) -> str:
    """Write a number and what it counts.

    Example:
        >>> counted(1, "task"), counted(2_000, "task")
        ('1 task', '2,000 tasks')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def bytes_text(number: float) -> str:
    """Write a number of bytes to three digits.

    Example:
        >>> bytes_text(1_234_567)
        '1.23 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} EB"


def duration_text(seconds: float) -> str:
    """Write a time in a unit that suits it, roughly.

    Example:
        >>> duration_text(0.0123), duration_text(150), duration_text(90_000)
        ('12 ms', '2 minutes', '25 hours')
    """
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{1e3 * seconds:.2g} ms"
