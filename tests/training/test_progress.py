"""What training shows: a bar in a notebook, a bar on a terminal, lines in a log."""

import sys
from types import SimpleNamespace

from qmtl._html import in_notebook
from qmtl.training._loggers import EpochBar, EpochLines, NotebookBar, progress_callback


def test_choice(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(progress_callback(), EpochLines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress_callback(), EpochBar)
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert in_notebook()
    assert isinstance(progress_callback(), NotebookBar)
    # IPython on a terminal has no kernel.
    shell.get_ipython = lambda: SimpleNamespace()
    assert not in_notebook()
