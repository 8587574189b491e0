"""The files of a saved model: ``model.json`` describes its parts, ``model.safetensors`` has their
weights. Neither can run code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from qmtl._io import write_bytes, write_json
from qmtl._version import __version__
from qmtl.errors import InvalidInputError, ModelFileError

__all__ = ["read_model", "write_model"]

FORMAT = "qmtl-model"
VERSION = 1


def write_model(
    path: str | Path, parts: Mapping[str, Mapping[str, Any]], state: Mapping[str, Tensor]
) -> None:
    """Write a model's files.

    Args:
        path: the folder; made if it is not there.
        parts: ``to_dict`` of the encoder and of the head.
        state: the model's ``state_dict``.

    Raises:
        InvalidInputError: if the path is a file's.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidInputError(f"a model is saved to a folder; {folder} is a file") from None
    # Copies, since safetensors refuses parameters that share memory (tied weights).
    weights = save({name: value.cpu().contiguous().clone() for name, value in state.items()})
    write_bytes(folder / "model.safetensors", weights)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "qmtl": __version__,
        **parts,
        # Tells weights that are damaged, or of another save than this description.
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_json(folder / "model.json", description)


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A saved model's description and weights.

    Raises:
        ModelFileError: if a file is missing, damaged, or of another version.
    """
    description = _read_description(folder / "model.json")
    return description, _read_state(folder / "model.safetensors", description.get("weights_sha256"))


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inner = path.parent / "model"
        hint = f"; the run's model is {inner}" if (inner / path.name).is_file() else ""
        raise ModelFileError(
            f"{path.parent} is not a saved model: it has no model.json{hint}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a qmtl model")
    if description.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has format version {description.get('version')} (written by qmtl "
            f"{description.get('qmtl')}); this qmtl reads version {VERSION}"
        )
    return description


def _read_state(path: Path, digest: object) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
        tensors: dict[str, Tensor] = load(content)
    except FileNotFoundError:
        raise ModelFileError(f"{path.parent} is not a saved model: no model.safetensors") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or cut short: {error}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelFileError(f"{path} is damaged, or was not saved together with model.json")
    return tensors
