"""The files of a model: saved, with a model card beside them, or exported for inference.

``model.json`` describes a saved model's parts, ``model.safetensors`` holds their weights. Neither
can run code. An exported model is a program that runs without qmtl.
"""

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import is_pruned

from qmtl._io import __version__, silenced, write_bytes, write_json
from qmtl._target_scale import TargetScale
from qmtl.circuit import HeadCircuit
from qmtl.encoders import CNN
from qmtl.errors import (
    InvalidInputError,
    ModelFileError,
    QmtlError,
    missing_extra,
    near_paths,
    unknown_name,
)
from qmtl.heads import AddedVector, CircuitHead, TaskRows
from qmtl.simulators import FixedCircuit, LightConeSimulator, Simulator

FORMAT = "qmtl-model"
VERSION = 1


def check_plain(part: str, module: nn.Module, what: str, *, parametrised: bool = True) -> None:
    """Raise if weights of a part are computed from others, which would not `what`.

    An encoder may parametrise its weights as it is built; pruning comes later.
    """
    refused = parametrised and part == "head" and any(map(is_parametrized, module.modules()))
    if refused or is_pruned(module):
        raise InvalidInputError(
            f"weights of the {part} {type(module).__name__} are pruned or parametrised, and would "
            f"not {what}; make that permanent first, as by torch.nn.utils.prune.remove(module, "
            f"name)"
        )


def described(part: str, module: Any, known: Mapping[str, type]) -> dict[str, Any]:
    """Return what an encoder's or head's ``to_dict`` gives; raise if it could not be loaded.

    Raises:
        InvalidInputError: if not; the error says what is missing.
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


def part_class(part: str, description: Mapping[str, Any], known: Mapping[str, type]) -> Any:
    """Return the class of a saved encoder or head.

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
    """Return a saved model's description and weights.

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
        hint = near_paths(path.parent)
        if (inner / path.name).is_file():
            hint = f"; the run's model is {inner}"
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
    """Return a model card in Markdown, with the front matter that model hubs read."""
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
    """Escape a text so that it neither ends a Markdown table's cell nor begins a tag."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return plain.replace("<", "&lt;")


PACKAGES = ("onnx", "onnxscript")
# An ONNX file is a protocol buffer of at most 2 GB; larger models keep their numbers in a second
# file.
LARGEST_FILE = 2**30


class _FixedSimulator(Simulator):
    """Evaluates each circuit with the weights of its first call."""

    def __init__(self) -> None:
        self.fixed: dict[HeadCircuit, FixedCircuit] = {}

    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        if circuit not in self.fixed:
            self.fixed[circuit] = FixedCircuit(circuit, weights)
        values: Tensor = self.fixed[circuit](angles)
        if tasks is None or list(tasks) == list(circuit.registers):
            return values
        return torch.cat([values[:, circuit.output_slices[name]] for name in tasks], dim=1)


class _Predictor(nn.Module):
    """A model from inputs to predictions by task."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        predictions: dict[str, Tensor] = self.model.predictions(self.model(inputs))
        return predictions


def inference_copy(module: Any) -> Any:
    """Copy an encoder or head to the CPU, in evaluation mode, so that it runs torch operations.

    Raises:
        InvalidInputError: if a head's simulator is not exact.
    """
    twin = copy.deepcopy(module).cpu().eval()
    for part in twin.modules():
        if not isinstance(part, CircuitHead | AddedVector):
            continue
        if type(part.simulator) is not LightConeSimulator:
            raise InvalidInputError(
                f"exported models are exact, but this one uses the simulator "
                f"{part.simulator!r}; export model.with_simulator('lightcone')"
            )
        part.simulator = _FixedSimulator()
    return twin


def example_inputs(encoder: nn.Module, like: Tensor) -> Tensor:
    """Return two rows of inputs in the shape that an encoder takes.

    Raises:
        InvalidInputError: if the encoder does not declare its input shape.
    """
    if isinstance(encoder, CNN):
        return like.new_zeros(2, encoder.in_channels, *encoder.image_size)
    width = getattr(encoder, "in_features", None)
    if not isinstance(width, int):
        raise InvalidInputError(
            f"the encoder {type(encoder).__name__} does not say what inputs it takes: give "
            f"inputs=..., an example of them"
        )
    return like.new_zeros(2, width)


def export_program(model: Any, path: str | Path, inputs: Tensor) -> None:
    """Write a model for inference; see `qmtl.MultiTaskModel.export`.

    Args:
        model: the model, with encoder and head on the CPU and in evaluation mode.
        path: the file, ``.onnx`` or ``.pt2``.
        inputs: example inputs, (samples, ...).
    """
    target = Path(path).expanduser()
    if target.suffix not in (".onnx", ".pt2"):
        raise InvalidInputError(f"path must end in .onnx or .pt2, got {str(path)!r}")
    if target.is_dir() or not target.parent.is_dir():
        raise InvalidInputError(f"path must be a file in a folder that exists, got {str(path)!r}")
    if target.suffix == ".onnx":
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            raise missing_extra(f"ONNX needs {' and '.join(missing)}", "onnx")
    if not len(inputs):
        raise InvalidInputError("inputs must have at least one sample, got none")
    # Two rows: from a single row, torch would make a program for one row only.
    rows = torch.cat([inputs[:1], inputs[-1:]]).cpu()
    program = _program(model, rows)
    about = json.dumps(_about(model, rows))
    if target.suffix == ".pt2":
        with _quiet():
            torch.export.save(program, target, extra_files={"qmtl.json": about})
        return
    with _quiet():
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    _name_values(written.model.graph, [task.name for task in model.tasks])
    written.model.metadata_props["qmtl"] = about
    size = sum(part.numel() * part.element_size() for part in model.state_dict().values())
    written.save(target, external_data=size > LARGEST_FILE)


def _program(model: nn.Module, rows: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), _quiet():
            # This call fixes the circuits' weights.
            model(rows)
            return torch.export.export(
                _Predictor(model), (rows,), dynamic_shapes=({0: batch},), strict=False
            )
    except QmtlError:
        raise
    except Exception as error:  # torch documents no class for failed exports
        kind, lines = type(model.encoder).__name__, str(error).strip().splitlines()
        raise InvalidInputError(
            f"torch cannot export this model, whose encoder is {kind}: "
            f"{lines[0] if lines else type(error).__name__}"
        ) from error


def _name_values(graph: Any, tasks: Sequence[str]) -> None:
    """Name an ONNX graph's outputs after the tasks, and all other values so that none clashes."""
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for number, value in enumerate(inner):
        value.name = _unlike(tasks, f"value.{number}")
    graph.inputs[0].name = _unlike(tasks, "inputs")
    for value, task in zip(graph.outputs, tasks, strict=True):
        value.name = task


def _unlike(tasks: Sequence[str], name: str) -> str:
    """Return the name, with ``_`` appended as often as needed to differ from all task names."""
    return _unlike(tasks, f"{name}_") if name in tasks else name


def _about(model: Any, rows: Tensor) -> dict[str, Any]:
    """Describe the model for readers of the file, as data that JSON can hold."""
    about = {
        "qmtl": __version__,
        "inputs": {
            "name": _unlike([task.name for task in model.tasks], "inputs"),
            "shape": ["batch", *rows.shape[1:]],
            "dtype": str(rows.dtype).removeprefix("torch."),
        },
        "tasks": [task.to_dict() for task in model.tasks],
    }
    return about if model.columns is None else about | {"columns": model.columns.to_dict()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own messages."""
    with silenced("torch", "onnxscript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
