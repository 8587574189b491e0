"""The files of a saved model, the model card beside them, and checks of a model's parts.

``model.json`` describes the model's parts, ``model.safetensors`` holds their weights. Neither can
run code.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import is_pruned

from qmtl._html import rendered
from qmtl._io import __version__, write_bytes, write_json
from qmtl._target_scale import TargetScale
from qmtl.data import TableColumns
from qmtl.encoders import ENCODERS, TaskEncoder, check_tasks_of
from qmtl.errors import (
    InvalidInputError,
    ModelFileError,
    QmtlError,
    as_path,
    near_paths,
    unknown_name,
)
from qmtl.heads import HEADS, Head, TaskRows

FORMAT = "qmtl-model"
VERSION = 1


def check_parts(encoder: Any, head: Any) -> None:
    """Raise unless an encoder and a head make a model."""
    for part, module in (("encoder", encoder), ("head", head)):
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise InvalidInputError(f"the {part} must be a torch module, got {kind}")
    if not (hasattr(head, "n_features") and hasattr(head, "tasks")):
        raise InvalidInputError(
            f"the head must have tasks and n_features, got {type(head).__name__}; write "
            f"MultiTaskModel(encoder, head)"
        )
    width = getattr(encoder, "out_features", head.n_features)
    if width != head.n_features:
        raise InvalidInputError(
            f"the encoder gives {width} features, the head takes {head.n_features}"
        )
    if isinstance(encoder, TaskEncoder):
        own = head.task_columns() if isinstance(head, Head) else None
        check_tasks_of(encoder, [task.name for task in head.tasks], own)


def check_plain(part: str, module: nn.Module, what: str, *, parametrised: bool = True) -> None:
    """Raise if a part is pruned or parametrised; `what` names what its weights would not do.

    An encoder may parametrise its weights when it is built. For a head, `parametrised` refuses
    parametrised weights, too.
    """
    refused = parametrised and part == "head" and any(map(is_parametrized, module.modules()))
    if refused or is_pruned(module):
        raise InvalidInputError(
            f"weights of the {part} {type(module).__name__} are pruned or parametrised, and would "
            f"not {what}; make that permanent first, as by torch.nn.utils.prune.remove(module, "
            f"name)"
        )


def described(part: str, module: Any, known: Mapping[str, type]) -> dict[str, Any]:
    """Return the result of an encoder's or head's ``to_dict``.

    Raises:
        InvalidInputError: `load` could not read the result; the error says why.
    """
    kind = type(module).__name__
    if kind == "OptimizedModule":
        raise InvalidInputError(
            f"torch.compile has wrapped the {part}, and its class is hidden; compile it in place "
            f"by model.{part}.compile(), or save the model without the wrapper"
        )
    needed = ("to_dict",) if part == "encoder" else ("to_dict", "from_dict")
    for method in needed:
        if not hasattr(module, method):
            raise InvalidInputError(
                f"the {part} {kind} has no {method}(), so its design cannot be saved; give it "
                f"to_dict() and from_dict(), or save state_dict() yourself"
            )
    check_plain(part, module, "load")
    description: dict[str, Any] = module.to_dict()
    said = description.get("type") if isinstance(description, Mapping) else None
    if said != kind or known.get(kind, type(module)) is not type(module):
        raise InvalidInputError(
            f"the {part} {kind} of {type(module).__module__} is described as type {said!r} and "
            f"would be loaded as another class; to_dict() must give the class's own name, which "
            f"must not be one of qmtl's: {', '.join(known)}"
        )
    try:
        json.dumps(description)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"to_dict() of the {part} {kind} is not valid JSON: {error}"
        ) from None
    return description


def write_model(path: str | Path, parts: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a model's files.

    Raises:
        InvalidInputError: if the path is a file.
    """
    folder = as_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidInputError(f"a model is saved to a folder; {folder} is a file") from None
    # Copies, because safetensors refuses parameters that share memory (tied weights).
    weights = save({name: value.cpu().contiguous().clone() for name, value in state.items()})
    write_bytes(folder / "model.safetensors", weights)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "qmtl": __version__,
        **parts,
        # A hash detects weights that are damaged, or that belong to another save.
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_json(folder / "model.json", description)


def local_folder(path: str | Path) -> Path:
    """Return the folder of a model; raise if there is none, as for a model's name on a hub."""
    folder = as_path(path)
    if not folder.is_dir():
        raise ModelFileError(
            f"there is no folder {folder}{near_paths(folder)}; a model of a hub has to be "
            f"downloaded first, as by huggingface_hub.snapshot_download, which returns its folder"
        )
    return folder


@contextmanager
def errors_of_file(folder: Path) -> Iterator[None]:
    """Raise a ModelFileError if a saved model's parts and weights do not fit together."""
    try:
        yield
    except QmtlError as error:
        raise ModelFileError(f"{folder / 'model.json'}: {error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{folder}: weights do not fit the model: {reason}") from None


def read_parts(
    folder: Path, encoder: nn.Module | None, own: Sequence[type]
) -> tuple[nn.Module, nn.Module, TableColumns | None, dict[str, Tensor]]:
    """Return a saved model's encoder and head, still without weights, its columns, its weights.

    Args:
        folder: the folder of the model.
        encoder: the encoder, if it has no ``from_dict``; None to build it.
        own: the user's classes.

    Raises:
        ModelFileError: if a file is missing, damaged, or of another version.
    """
    if isinstance(own, type | str) or not all(isinstance(part, type) for part in own):
        raise InvalidInputError(f"parts must be a list of classes, got {own!r}")
    where = folder / "model.json"
    description = _read_description(where)
    state = _read_state(folder / "model.safetensors", description.get("weights_sha256"))
    known = {part.__name__: part for part in own}
    try:
        if encoder is None:
            kind = _part_class("encoder", description, ENCODERS | known)
            encoder = kind.from_dict(description["encoder"])
        kind = _part_class("head", description, HEADS | known)
        # qmtl's heads need the user's circuit parts; a user's head class finds its parts itself.
        given = (known,) if issubclass(kind, Head) else ()
        head = kind.from_dict(description["head"], *given)
        columns = description.get("columns")
        columns = None if columns is None else TableColumns.from_dict(columns)
    except QmtlError as error:
        hint = "; classes of your own go into parts=[...]" if "unknown" in str(error) else ""
        raise ModelFileError(f"{where}: {error}{hint}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(repr(error).split())
        raise ModelFileError(f"{where}: a part is missing or wrong ({reason})") from None
    return encoder, head, columns, state


def _part_class(part: str, description: Mapping[str, Any], known: Mapping[str, type]) -> Any:
    """Return the class of a saved encoder or head; raise if it is not a known one."""
    kind = description[part]["type"]
    if kind in ("SeparateEncoders", "SeparateHeads"):
        raise InvalidInputError(
            f"version 0.1 saved single-task models side by side, as {kind}; now each is a model of "
            f"its own: train it on data.subset([task]) and save it by itself"
        )
    if kind not in known:
        raise unknown_name(part, kind, known)
    return known[kind]


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inner = path.parent / "model"
        hint = near_paths(path.parent)
        if (inner / path.name).is_file():
            hint = f"; the run's model is {inner}"
        raise ModelFileError(
            f"{path.parent} is not a saved model: it has no model.json{hint}"
        ) from None
    except NotADirectoryError:
        raise ModelFileError(
            f"{path.parent} is a file; give the folder that holds the model's files"
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


def take_types(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the types of a state, in place, so that tied ones stay tied."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            key = prefix + name
            if isinstance(module, TaskRows):
                (key, *_) = module.keys(prefix)
            elif isinstance(module, TargetScale):
                key = next(iter(module.keys(name, prefix.removesuffix("scale."))), "")
            if key in state:
                tensor.data = tensor.data.to(state[key].dtype)


def model_card(model: Any, *, title: str, metrics: Mapping[str, Mapping[str, float]] | None) -> str:
    """Return a model card in Markdown, with the front matter that model hubs read."""
    try:
        numbers = {t: {k: float(v) for k, v in own.items()} for t, own in (metrics or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidInputError(
            "metrics must be a dict of task → metric → number, such as result.metrics['test']"
        ) from None
    parts = {"encoder": model.encoder, "head": model.head}
    return rendered(
        "model_card.md.j2",
        title=title,
        tasks=model.tasks,
        circuit=getattr(model.head, "circuit", None),
        metrics=numbers,
        version=__version__,
        **{
            name: (type(part).__name__, sum(p.numel() for p in part.parameters()))
            for name, part in parts.items()
        },
    )
