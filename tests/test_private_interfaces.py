"""No private interface of another library is used in the package: a new release may change it."""

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import pytest

import qmtl

ROOT = Path(qmtl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# What must not be in the code (comments and strings aside), and whose it is. Other private names
# are found by `strangers`: they are all that nothing in the package has.
FORBIDDEN = {
    r"\btorch(\.\w+)*\._(?!_)\w+|\bfrom torch(\.\w+)*\._\w+": "torch's modules and functions",
    r"\bfrom (torch|numba|torchjd|pytorch_lightning)\b.* import .*\b_\w": "imported by name",
    r"_functorch|\bfunctorch\b": "the inside of torch.func",
    r"\._(parameters|buffers|modules|non_persistent_buffers_set)\b": "a module's dictionaries",
    r"\._(forward|backward|state_dict|load_state_dict|full_backward)\w*hooks\w*": "torch's hooks",
    r"\b_saved_\w+|\b_?raw_saved\w*": "what autograd's nodes have saved",
    r"\.next_functions\b|\bAccumulateGrad\b": "autograd's graph, by its nodes",
    r"\._(version|base|grad|is_view|make_subclass)\b|_execution_engine": "the inside of tensors",
    r"\bnumba\.(core|np|misc|cpython|targets|parfors|_)\w*": "the inside of numba",
    r"\bllvmlite\b|compile_extra|\.inspect_llvm\b|\.overloads\b": "llvmlite, and compiled code",
    r"\bctypes\b|\bcffi\b|\bCDLL\b": "binary interfaces of other libraries",
    r"GOMP_|\bomp_\w+|__kmp|libgomp|libiomp|\bmallopt\b|\bmalloc_trim\b": "OpenMP and glibc",
    r"lightning(\.\w+)*\._(?!_)\w+": "Lightning's modules",
    r"\b(trainer|loop|strategy|fit_loop|epoch_loop)\._(?!_)\w+": "Lightning's objects",
    r"\btorchjd(\.\w+)*\._(?!_)\w+": "TorchJD's modules",
    r"\bnp\._\w+|\bnumpy\.(core|_)\w*|__array_interface__": "the inside of NumPy",
}
# Documented, in spite of their names.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_repr_html_", "_exit"}
# (file, what is found there): why there is no other way. At most two.
EXCEPTIONS = {
    ("hardware/_client.py", "_get_api_client"): "IBM's client has no public setting that keeps it "
    "from posting a job twice; where this is not there, the second job is found and cancelled",
    ("hardware/_client.py", "_session"): "the same",
}


def code_of(path):
    """The code of a file without comments and strings, by line."""
    source = path.read_text()
    lines = [list(line) for line in source.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            (first, begin), (last, end) = token.start, token.end
            for row in range(first, last + 1):
                line = lines[row - 1]
                stop = end if row == last else len(line)
                for column in range(begin if row == first else 0, stop):
                    line[column] = " "
    return ["".join(line) for line in lines]


@functools.cache
def names_in(path):
    """Names that a file defines or assigns; (line, name) of private attributes and imports."""
    own, private = set(), []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(alias.name for alias in node.names), *(node.module or "").split(".")]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        named = [name for name in names if name.startswith("_") and not name.startswith("__")]
        private += [(node.lineno, name) for name in named]
    return own, private


@functools.cache
def own_names():
    """All names that modules have, define or assign, and those that are documented."""
    modules = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    return DOCUMENTED.union(modules, *(names_in(path)[0] for path in FILES))


def strangers(path):
    """(line, name) of attributes and imports with a leading underscore that nothing here has."""
    return [(line, name) for line, name in names_in(path)[1] if name not in own_names()]


def uses(path):
    """(line, what, whose) of everything private in a file."""
    code = re.sub(r"\bqmtl(\.\w+)+", "qmtl", "\n".join(code_of(path)))  # our own modules
    for pattern, whose in FORBIDDEN.items():
        for match in re.finditer(pattern, code):
            yield code.count("\n", 0, match.start()) + 1, match.group(), whose
    for number, name in strangers(path):
        yield number, name, "nothing in the package has this name"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_no_private_interface_is_used(path):
    name = str(path.relative_to(ROOT))
    found = [
        f"{name}:{number}: {what} ({whose})"
        for number, what, whose in uses(path)
        if (name, what) not in EXCEPTIONS
    ]
    assert not found, "\n".join(found)


def test_exceptions_are_few_and_needed():
    assert len(EXCEPTIONS) <= 2
    for name, what in EXCEPTIONS:
        assert what in [found for _, found, _ in uses(ROOT / name)], (name, what)


@pytest.mark.parametrize(
    ("line", "is_private"),
    [
        ("x = torch._C._functorch.maybe_get_level(x)", True),
        ("from torch._dynamo import disable", True),
        ("from torch.utils._pytree import tree_map", True),
        ("from torch.autograd import _engine", True),
        ("node.next_functions[0][0].variable", True),
        ("module._parameters[name] = weight", True),
        ("module._forward_hooks.clear()", True),
        ("import ctypes", True),
        ("from numba.core import types", True),
        ("from llvmlite import binding", True),
        ("entry = library.GOMP_parallel", True),
        ("from torchjd._linalg import project", True),
        ("trainer._results", True),
        ("# torch._C is not used, nor ctypes", False),
        ('text = "torch._C"', False),
        ("self._steps = nn.Parameter(torch.zeros(3))", False),
        ("from torch.fx.experimental.proxy_tensor import get_proxy_mode", False),
        ("torch.func.debug_unwrap(tensor)", False),
        ("tensor._make_subclass", True),
        ("service._anything_else()", True),
        ("from torch.optim import _functional", True),
        ("found = state._replace(values=None)", False),
    ],
)
def test_what_counts_as_private(tmp_path, line, is_private):
    file = tmp_path / "module.py"
    file.write_text(line + "\n")
    assert bool(list(uses(file))) == is_private
