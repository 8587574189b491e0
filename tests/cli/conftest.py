"""Fixtures of the command line's tests."""

import shutil

import pytest

from qmtl.experiments import read_recipe, start_run
from tests.cli.command import TINY, Command


@pytest.fixture
def qmtl(monkeypatch, capsys):
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    start_run(read_recipe("digits", TINY), folder, progress=False)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A finished run to do harm to."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
