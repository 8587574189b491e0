"""Commands in a process that sees only what a plain installation brings, without any extra.

    python -m tests.cli.plain_installation WORDS -- WORDS -- ...

Modules and metadata of all other distributions are hidden, as if they were not installed.
"""

import itertools
import sys
import tomllib
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def brought_by(name, extras, seen):
    """Add to `seen` what an installation of a distribution brings: extras by canonical names."""
    name = canonicalize_name(name)
    new = {"", *extras} - seen.setdefault(name, set())
    seen[name] |= new
    for text in (distribution(name).requires or []) if new else []:
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in new):
            brought_by(wanted.name, wanted.extras, seen)


def plain_installation():
    """The distributions of an installation of this project without any extra."""
    seen = {"qmtl": set()}
    # From the project file: an editable installation keeps the metadata of its day.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        brought_by(wanted.name, wanted.extras, seen)
    return set(seen)


def hide_the_others():
    """Let this process import only modules of `plain_installation`, of Python and of its start."""
    there = plain_installation()
    absent = {
        module
        for module, owners in packages_distributions().items()
        if not there & set(map(canonicalize_name, owners)) and module not in sys.modules
    }

    class Plain(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            hidden = name.partition(".")[0] in absent
            return None if hidden else super().find_spec(name, path, target)

        @staticmethod
        def find_distributions(context=DistributionFinder.Context()):  # noqa: B008
            found = PathFinder.find_distributions(context)
            return (one for one in found if canonicalize_name(one.name) in there)

    sys.meta_path = [Plain if finder is PathFinder else finder for finder in sys.meta_path]
    return absent


if __name__ == "__main__":
    calls = [list(c) for is_end, c in itertools.groupby(sys.argv[1:], "--".__eq__) if not is_end]
    hidden = hide_the_others()
    from qmtl.cli import main

    for words in calls:
        sys.argv[1:] = words
        try:
            main()
        except SystemExit as end:
            if end.code:
                print("status:", end.code)
    print("TorchJD was imported:", "torchjd" in sys.modules)
    print("hidden and not imported:", *sorted(hidden - sys.modules.keys()))
    print("hidden and imported:", *sorted(hidden & sys.modules.keys()))
