"""Who may import whom: the table of the design, held over every import in the package.

Imports inside functions and under TYPE_CHECKING count, too. A unit is a module or a package
directly under ``qmtl``.
"""

import ast
import functools
import sys
import tomllib
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import qmtl

ROOT = Path(qmtl.__file__).parent

BASE = {"_calls", "_html", "_io", "_sections", "_uncompiled"}
BASE |= {"errors", "plotting", "tasks"}
MODEL = BASE | {"data", "circuit", "simulators", "pennylane", "noise", "heads", "encoders"}
MODEL |= {"model", "adaptation", "_growth", "_target_scale", "_model_export"}
MODEL |= {"_model_files"}
METHODS = MODEL | {"methods"}
TRAINING = METHODS | {"training"}
EXPERIMENTS = TRAINING | {"experiments"}
MAY_IMPORT = {
    "errors": set(),
    "_io": {"errors"},
    "_html": set(),
    "_sections": {"errors"},
    "_uncompiled": set(),
    "plotting": {"errors", "_io"},
    "tasks": {"errors"},
    "data": BASE | {"encoders"},
    "circuit": BASE,
    "noise": BASE | {"circuit"},
    "simulators": BASE | {"circuit", "noise"},
    "pennylane": BASE | {"circuit", "noise", "simulators"},
    "heads": BASE | {"circuit", "simulators", "pennylane"},
    "encoders": BASE,
    "adaptation": BASE
    | {"circuit", "simulators", "heads", "data", "encoders", "_model_files", "_target_scale"}
    | {"_growth"},
    "_calls": {"errors"},
    "model": MODEL,
    "_growth": BASE | {"circuit", "simulators", "heads", "encoders"},
    "_target_scale": BASE | {"heads"},
    "_model_export": BASE | {"circuit", "simulators", "heads", "encoders", "data"},
    "_model_files": BASE | {"data", "heads", "encoders", "_target_scale"},
    "methods": METHODS,
    "training": TRAINING,
    "experiments": EXPERIMENTS,
    "hardware": MODEL | {"hardware"},
    "merging": TRAINING,
    "sklearn": TRAINING,
    "__main__": {"cli"},
    "cli": EXPERIMENTS | {"hardware", "merging", "sklearn"},
}

# Library: where it may be imported.
LIBRARIES = {
    "pennylane": {"pennylane/"},
    "qiskit": {"hardware/", "noise/"},
    "qiskit_aer": {"hardware/", "noise/"},
    "qiskit_ibm_runtime": {"hardware/", "noise/"},
    "pytorch_lightning": {"training/"},
    "lightning": {"training/"},
    "torchjd": {"training/"},
}
HEAVY = [
    "matplotlib", "pandas", "pennylane", "pytorch_lightning", "qiskit", "sklearn", "torchjd",
    "torchmetrics",
]  # fmt: skip

# Imports against the grain, inside functions: (from, to): why.
EXCEPTIONS = {
    ("qmtl.circuit._head_circuit", "qmtl.circuit._drawing"): "HeadCircuit.draw, and in notebooks",
    ("qmtl.circuit._head_circuit", "qmtl.circuit._catalogue"): "HeadCircuit.load and to_dict",
    ("qmtl.simulators._contract", "qmtl.simulators._lightcone"): "Simulator.explain by default",
}


@dataclass(frozen=True)
class Import:
    """One imported module, and how: "module", "function" or "typing"."""

    source: str
    target: str
    how: str
    where: str


def module_name(path: Path) -> str:
    parts = ["qmtl", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(ROOT.rglob("*.py"))
MODULES = {module_name(path) for path in FILES}


class Reader(ast.NodeVisitor):
    def __init__(self, source: str, where: str, modules: set[str]) -> None:
        self.source, self.where, self.modules = source, where, modules
        self.how = "module"
        self.found: list[Import] = []

    def _add(self, target: str, line: int) -> None:
        self.found.append(Import(self.source, target, self.how, f"{self.where}:{line}"))

    def _within(self, how: str, nodes: list[ast.stmt]) -> None:
        outer, self.how = self.how, how
        for node in nodes:
            self.visit(node)
        self.how = outer

    def visit_FunctionDef(self, node):
        self._within("function", node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_If(self, node):
        typing = "TYPE_CHECKING" in ast.unparse(node.test)
        self._within("typing" if typing else self.how, node.body)
        self._within(self.how, node.orelse)

    def visit_Import(self, node):
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"{self.where}:{node.lineno}: relative imports hide the direction"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._add(whole if whole in self.modules else node.module, node.lineno)


def read(source: str, text: str, where: str = "", modules: set[str] = MODULES) -> list[Import]:
    reader = Reader(source, where, modules)
    reader.visit(ast.parse(text))
    return reader.found


@functools.cache
def all_imports() -> list[Import]:
    return [
        found
        for path in FILES
        for found in read(module_name(path), path.read_text(), str(path.relative_to(ROOT)))
    ]


def unit(module: str) -> str:
    return module.split(".")[1]


def cycle(edges: set[tuple[str, str]]) -> list[str] | None:
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        graph.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def edges(*hows: str) -> set[tuple[str, str]]:
    """Imports between modules; a package stands for its ``__init__``."""
    return {(i.source, i.target) for i in all_imports() if i.how in hows and i.target in MODULES}


def test_every_unit_is_in_the_table():
    units = {unit(module) for module in MODULES - {"qmtl"}}
    assert units <= set(MAY_IMPORT), "say in MAY_IMPORT and in the design what it may import"


def test_modules_are_private():
    public = {"qmtl.errors", "qmtl.model", "qmtl.plotting"}
    named = {m for m in MODULES - public if m.count(".") > 1 or ("." in m and m.count(".") == 1)}
    packages = {m for m in MODULES if (ROOT / m.split(".")[-1]).is_dir() and m.count(".") == 1}
    wrong = [m for m in named - packages if not m.split(".")[-1].startswith("_")]
    assert [m for m in wrong if not m.startswith("qmtl.cli.")] == []


def test_other_packages_are_imported_through_their_init():
    """What a package's ``__init__`` does not export is its own business."""
    wrong = [
        f"{found.where} imports {found.target}"
        for found in all_imports()
        if found.target.count(".") > 1
        and found.target.startswith("qmtl.")
        and unit(found.target) != unit(f"{found.source}.")
    ]
    assert not wrong


def test_the_table_is_downwards():
    assert cycle({(a, b) for a, below in MAY_IMPORT.items() for b in below if a != b}) is None


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_units_import_downwards(name):
    wrong = []
    for found in all_imports():
        inside = found.source != "qmtl" and found.target.split(".")[0] == "qmtl"
        if not inside or unit(found.source) != name:
            continue
        if found.target == "qmtl":
            wrong.append(f"{found.where} imports the public names; import the module they are in")
        elif unit(found.target) not in MAY_IMPORT[name] | {name}:
            wrong.append(f"{found.where} imports {found.target}")
    assert not wrong


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_stay_in_their_place(library):
    allowed = tuple(LIBRARIES[library])
    wrong = [
        f"{found.where} imports {found.target}"
        for found in all_imports()
        if found.target.split(".")[0] == library and not found.where.startswith(allowed)
    ]
    assert not wrong


def test_no_cycles():
    assert cycle(edges("module")) is None
    assert cycle(edges("module", "function") - set(EXCEPTIONS)) is None


def test_exceptions_are_needed():
    for exception in EXCEPTIONS:
        assert exception in edges("function"), f"{exception} is no longer there"
        assert exception not in edges("module")
        rest = set(EXCEPTIONS) - {exception}
        assert cycle(edges("module", "function") - rest) is not None


def test_nothing_heavy_is_imported_at_the_top():
    """Lightning and torchjd are the business of training, which is itself imported late; so are
    the scikit-learn estimators, which have scikit-learn's classes as parents, and
    what needs PennyLane. `tests/cli/test_processes.py` shows what ``import qmtl`` imports."""
    wrong = [
        f"{found.where} imports {found.target}"
        for found in all_imports()
        if found.how == "module"
        and found.target.split(".")[0] in HEAVY
        and unit(f"{found.source}.") not in ("training", "sklearn", "pennylane")
    ]
    assert not wrong


def test_the_reader():
    """Every form of import is seen, or the tests above hold nothing."""
    text = """
import os
import qmtl.a
from qmtl import b, Task
from qmtl.c import d
if TYPE_CHECKING:
    from qmtl.e import f
else:
    import g
try:
    import h
except ImportError:
    pass
class A:
    import i
    def method(self):
        with open("x"):
            import j.k
async def run():
    import l
"""
    found = read("qmtl.x", text, modules={"qmtl.b", "qmtl.c.d"})
    assert [(i.target, i.how) for i in found] == [
        ("os", "module"),
        ("qmtl.a", "module"),
        ("qmtl.b", "module"),
        ("qmtl", "module"),
        ("qmtl.c.d", "module"),
        ("qmtl.e", "typing"),
        ("g", "module"),
        ("h", "module"),
        ("i", "module"),
        ("j.k", "function"),
        ("l", "function"),
    ]
    assert cycle({("a", "b"), ("b", "a")}) is not None
    assert cycle({("a", "b"), ("b", "c"), ("a", "c")}) is None


# --- what is imported is declared --------------------------------------------------------------

PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
# They come with packages that are declared.
COMES_WITH = {"pydantic_core": "pydantic", "IPython": "jupyterlab"}


def packages(requirements):
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def imported(body, *, deep):
    """Modules that are imported by statements: when the file is imported, or ever."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(ast.iter_child_nodes(node), deep=deep)


@pytest.mark.parametrize("deep", [False, True])
def test_what_is_imported_is_declared(deep):
    """A plain installation has all that is imported at the start, an extra what comes later."""
    declared = packages(PROJECT["dependencies"])
    if deep:
        extras = PROJECT["optional-dependencies"]
        declared |= packages(r for name, own in extras.items() if name != "dev" for r in own)
    distributions = packages_distributions()
    missing = set()
    for path in ROOT.rglob("*.py"):
        for module in imported(ast.parse(path.read_text()).body, deep=deep):
            top = COMES_WITH.get(module.split(".")[0], module.split(".")[0])
            names = {canonicalize_name(name) for name in distributions.get(top, [top])}
            if top != "qmtl" and top not in sys.stdlib_module_names and not names & declared:
                missing.add(f"{path.relative_to(ROOT)} imports {module}")
    assert missing == set()
