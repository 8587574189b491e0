"""Scripts import from the folder that they lie in."""

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


def load_script(name: str) -> ModuleType:
    """A script as a module; its file has no suffix to import it by."""
    loader = SourceFileLoader(name, str(SCRIPTS / name))
    module = ModuleType(name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module
