"""Head circuits and designs as files: JSON for one circuit, TOML for a design of any tasks."""

from qmtl.circuit._catalogue._circuit_json import circuit_from_dict, circuit_to_dict
from qmtl.circuit._catalogue._designs import (
    Design,
    design_from_toml,
    list_designs,
    load_design,
    to_toml,
)

__all__ = [
    "Design",
    "circuit_from_dict",
    "circuit_to_dict",
    "design_from_toml",
    "list_designs",
    "load_design",
    "to_toml",
]
