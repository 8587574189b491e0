"""The API reference reports what is undocumented and every name that does not exist."""

import sys
from types import ModuleType

import pdoc.doc
import pytest

from tests.scripts.conftest import load_script

TEXT = '''
"""A module, with `qmtl.QuantumHead` and `qmtl.QuantumHed`."""

__all__ = ["Thing", "f", "g"]

class Thing:
    """It has `Thing.known`, `Thing.unknown` and a field.

    Attributes:
        told: explained here.
    """

    told: int
    untold: int

    def known(self):
        """Known."""

    def silent(self):
        pass

def f():
    """Documented."""

def g():
    pass
'''


@pytest.fixture
def page(tmp_path, monkeypatch):
    (tmp_path / "a_made_up_module.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    yield pdoc.doc.Module(__import__("a_made_up_module"))
    del sys.modules["a_made_up_module"]


def test_what_is_undocumented(page):
    found = load_script("api_reference").undocumented(page)
    assert [line.split()[0].removeprefix("a_made_up_module.") for line in found] == [
        "Thing.untold",
        "Thing.silent",
        "g",
    ]


def test_names_that_do_not_exist(page):
    found = load_script("api_reference").broken_names(page, {"Thing": page.obj.Thing})
    assert len(found) == 2
    assert "`qmtl.QuantumHed`" in found[0]
    assert "`Thing.unknown`" in found[1]


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#x">x</a><a href="#y">y</a><p id="y">')
    (tmp_path / "b.html").write_text('<a href="a.html">a</a><a href="c.html">c</a>')
    found = load_script("api_reference").broken_links(tmp_path)
    assert sorted(found) == ["a.html: b.html#x leads nowhere", "b.html: c.html leads nowhere"]


def test_every_public_name_is_seen():
    modules = load_script("api_reference").public_modules()
    assert isinstance(modules[0], ModuleType)
    names = {module.__name__: set(module.__all__) for module in modules}
    assert {"QuantumHead", "fit", "MultiTaskEstimator"} <= names["qmtl"]
    assert {"from_csv", "Split"} <= names["qmtl.data"]
    assert "qmtl.cli" not in names
