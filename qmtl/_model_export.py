"""The inputs of a model, and the model as a program for inference, which runs without qmtl."""

import copy
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmtl._io import __version__, silenced
from qmtl.circuit import HeadCircuit
from qmtl.data import as_samples
from qmtl.encoders import CNN, ENCODERS
from qmtl.errors import InvalidInputError, QmtlError, as_path, missing_extra
from qmtl.heads import AddedVector, CircuitHead
from qmtl.simulators import FixedCircuit, LightConeSimulator, Simulator

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


def _inference_copy(model: Any) -> Any:
    """Copy a model to the CPU, in evaluation mode, so that its heads run torch operations."""
    twin = copy.deepcopy(model).cpu().eval()
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


def model_samples(model: Any, inputs: Any, *, knows_columns: bool) -> Tensor:
    """Return inputs as the model's encoder takes them; see `qmtl.MultiTaskModel.predict`."""
    reference: Tensor = next(model.parameters())
    samples: Tensor
    if model.columns is not None and model.columns.fits(inputs):
        samples = model.columns.encode(inputs)
        for note in model.columns.unseen_notes(inputs):
            warnings.warn(note, UserWarning, stacklevel=5)
    else:
        if not knows_columns and hasattr(inputs, "columns"):
            warnings.warn(
                "the model does not know how the table's columns become inputs, and takes its "
                "numbers as they are; if it was trained on a table, set model.columns = "
                "data.columns, or load it by qmtl.load",
                UserWarning,
                stacklevel=5,
            )
        samples = as_samples(inputs)
    if samples.is_floating_point() or isinstance(model.encoder, tuple(ENCODERS.values())):
        return samples.to(reference)
    return samples.to(reference.device)


def check_samples(samples: Tensor) -> None:
    """Raise unless inputs have samples in the first dimension, and at least one of them."""
    if samples.ndim < 2:
        raise InvalidInputError(
            f"inputs must have samples in the first dimension and at least 2 dimensions, got "
            f"shape {tuple(samples.shape)}"
        )
    if not len(samples):
        raise InvalidInputError("inputs must have at least one sample, got none")


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
    """Write a model for inference, with example inputs; see `qmtl.MultiTaskModel.export`."""
    target = as_path(path)
    if target.suffix not in (".onnx", ".pt2"):
        raise InvalidInputError(f"path must end in .onnx or .pt2, got {str(path)!r}")
    if target.is_dir() or not target.parent.is_dir():
        raise InvalidInputError(f"path must be a file in a folder that exists, got {str(path)!r}")
    if target.suffix == ".onnx":
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            raise missing_extra(f"ONNX needs {' and '.join(missing)}", "onnx")
    check_samples(inputs)
    model = _inference_copy(model)
    # Two rows, because from one row torch would make a program for exactly one.
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
