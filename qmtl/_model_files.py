"""The files of a saved model, and the model card beside them.

``model.json`` describes the model's parts, ``model.safetensors`` holds their weights. Neither can
run code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from qmtl._io import __version__, write_bytes, write_json
from qmtl._target_scale import TargetScale
from qmtl.errors import InvalidInputError, ModelFileError, unknown_name
from qmtl.heads import TaskRows

FORMAT = "qmtl-model"
VERSION = 1


def described(part: str, module: Any, known: Mapping[str, type]) -> dict[str, Any]:
    """The result of ``to_dict`` of an encoder or head, checked to be loadable.

    Args:
        part: ``encoder`` or ``head``.
        module: the encoder or head.
        known: qmtl's own classes, by name.

    Raises:
        InvalidInputError: if not; the error says what is missing.
    """
    kind = type(module).__name__
    needed = ("to_dict",) if part == "encoder" else ("to_dict", "from_dict")
    for method in needed:
        if not hasattr(module, method):
            raise InvalidInputError(
                f"the {part} {kind} has no {method}(), so its design cannot be saved; give it "
                f"to_dict() and from_dict(), or save state_dict() yourself"
            )
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
        raise InvalidInputError(f"to_dict() of the {part} {kind} is no JSON: {error}") from None
    return description


def part_class(part: str, description: Mapping[str, Any], known: Mapping[str, type]) -> Any:
    """The class of a saved encoder or head.

    Raises:
        InvalidInputError: if it is not one of the known classes.
    """
    kind = description[part]["type"]
    if kind in ("SeparateEncoders", "SeparateHeads"):
        raise InvalidInputError(
            f"version 0.1 saved single-task models side by side, as {kind}; now each is a model of "
            f"its own: train it on data.subset([task]) and save it by itself"
        )
    if kind not in known:
        raise unknown_name(part, kind, known)
    return known[kind]


def write_model(path: str | Path, parts: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a model's files.

    Args:
        path: the folder; created if it does not exist.
        parts: results of ``to_dict`` of the encoder, the head, and the table columns if there are
            any.
        state: the model's ``state_dict``.

    Raises:
        InvalidInputError: if the path is a file.
    """
    folder = Path(path)
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


HEADER = """\
---
library_name: qmtl
tags:
- multi-task-learning
- quantum-machine-learning
---

# {title}

An encoder (`{encoder}`, {encoder_parameters:,} parameters) and a head (`{head}`,
{head_parameters:,} parameters) for {n_tasks} {tasks}, saved by qmtl {version}.

```python
import qmtl

model = qmtl.MultiTaskModel.from_pretrained("path/to/this/folder")
model.predict(inputs)  # task name to probabilities, or to values in the targets' units
```
{circuit}
| task | kind | outputs | classes |
|---|---|---|---|
"""


def model_card(
    model: Any, *, title: str = "qmtl model", metrics: Mapping[str, Mapping[str, float]] | None
) -> str:
    """A model card in Markdown, with the front matter that model hubs read.

    Args:
        model: a `qmtl.MultiTaskModel`.
        title: title of the page.
        metrics: task → metric → value, such as ``result.metrics["test"]``.
    """
    text = HEADER.format(
        title=_cell(title),
        encoder=type(model.encoder).__name__,
        encoder_parameters=sum(p.numel() for p in model.encoder.parameters()),
        head=type(model.head).__name__,
        head_parameters=sum(p.numel() for p in model.head.parameters()),
        n_tasks=len(model.tasks),
        tasks="task" if len(model.tasks) == 1 else "tasks",
        version=__version__,
        circuit=_circuit(model.head),
    )
    for task in model.tasks:
        classes = ", ".join(map(_cell, task.class_names or ()))
        text += f"| {_cell(task.name)} | {task.kind} | {task.n_outputs} | {classes} |\n"
    if metrics:
        text += "\n| task | metric | value |\n|---|---|---|\n"
        for task_name, values in metrics.items():
            for name, value in values.items():
                text += f"| {_cell(task_name)} | {_cell(name)} | {value:.4f} |\n"
    return text


def _circuit(head: Any) -> str:
    circuit = getattr(head, "circuit", None)
    if circuit is None:
        return ""
    return (
        f"\nThe circuit has {circuit.n_wires} wires, depth {circuit.depth} and "
        f"{circuit.two_qubit_gates} two-qubit gates.\n"
    )


def _cell(text: str) -> str:
    """Text that can neither end a table's cell nor begin a tag."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return plain.replace("<", "&lt;")
