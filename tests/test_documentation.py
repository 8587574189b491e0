"""Every example of a docstring and every block of the README runs."""

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qmtl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODULES = [m.name for m in pkgutil.walk_packages(qmtl.__path__, "qmtl.")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failures = []
    for test in finder.find(module, name, globs=dict(vars(module)) | {"torch": torch}):
        result = runner.run(test, out=failures.append)
        assert result.failed == 0, "".join(failures)


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_python_blocks_run_in_order(tmp_path, monkeypatch):
    """In an empty folder, one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    blocks = _blocks("python")
    assert blocks
    namespace = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.slow
def test_readme_commands_run(tmp_path):
    """Commands of console blocks, in order, in an empty folder (CI itself tests scripts)."""
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ qmtl")]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        executable = Path(sys.executable).with_name(program)
        done = subprocess.run(
            [executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_version_is_that_of_the_project_file():
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert declared[1] == qmtl.__version__


def test_package_is_typed_and_the_readme_is_finished():
    assert (ROOT / "qmtl" / "py.typed").is_file()
    assert not re.findall(r"^[A-Z_]{5,}$", README, re.MULTILINE)
