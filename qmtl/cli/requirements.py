"""What the package requires, and what of it is installed."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Needed", "declared", "needed"]


@dataclass(frozen=True)
class Needed:
    """A requirement and the version that is installed.

    Attributes:
        name: of the package.
        wanted: versions, such as ``>=2.6``.
        installed: the version, or None.
        extra: what asks for it; empty for the package itself.
    """

    name: str
    wanted: str
    installed: str | None
    extra: str = ""

    @property
    def state(self) -> str:
        """``ok``, ``missing``, or ``unfit`` (another version is installed).

        Example:
            >>> Needed("torch", ">=2.6", "2.1").state
            'unfit'
        """
        from packaging.specifiers import SpecifierSet

        if self.installed is None:
            return "missing"
        fits = SpecifierSet(self.wanted).contains(self.installed, prereleases=True)
        return "ok" if fits else "unfit"


def declared() -> list[str]:
    """Requirements of the installed package, as its metadata have them."""
    return metadata.requires("qmtl") or []


def needed(requirements: Iterable[str]) -> list[Needed]:
    """Requirements with the installed versions, those of the package first, then by extra.

    An extra that is made of others is left out.

    Example:
        >>> [n.extra for n in needed(["rich>=13", "no-such-thing>=1; extra == 'none'"])]
        ['', 'none']
    """
    from packaging.requirements import Requirement

    found = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name == "qmtl":
            continue
        for extra in ("", *_extras(requirement)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted = str(requirement.specifier)
                found.append(Needed(requirement.name, wanted, _version(requirement.name), extra))
                break
    return sorted(found, key=lambda one: (one.extra, one.name.lower()))


def _extras(requirement: "Requirement") -> list[str]:
    """The extras that a requirement's marker names."""
    import re

    return re.findall(r'extra == "([^"]+)"', str(requirement.marker or ""))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
