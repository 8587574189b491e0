"""Exported models: the same predictions, in a process that has no qmtl."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from qmtl.circuit import AngleEncoding, HeadCircuit, load_design
from qmtl.data import from_arrays, from_frame
from qmtl.encoders import CNN, MLP, Experts, FourierFeatures, Fusion, Identity
from qmtl.errors import CircuitTooLargeError, InvalidInputError, MissingDependencyError
from qmtl.heads import (
    ExtendedHead,
    LinearHead,
    LocalLinearHead,
    QuantumHead,
    SharedVQCHead,
    VQCPerTaskHead,
    register_columns,
)
from qmtl.model import MultiTaskModel
from qmtl.noise import DeviceNoise
from qmtl.simulators import NoisySimulator
from qmtl.tasks import Task
from qmtl.training import fit
from tests.strategies import binary_tasks

# Names that the exporter has uses for, or that are no identifiers.
TASKS = [
    Task.binary("inputs"),
    Task.multiclass("linear", 3, class_names=["low", "middle", "high"]),
    Task.regression("price, in €"),
    Task.multilabel("value.3", 2),
]
SMALL = load_design("hardware-lean").circuit(TASKS)
FEW = load_design("hardware-lean").circuit([TASKS[0], TASKS[2]])

ELSEWHERE = """
import sys
sys.modules["qmtl"] = sys.modules["torch"] = None
import json
import numpy
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
rows = numpy.load(sys.argv[2])
given = session.get_inputs()[0]
print(json.dumps({
    "input": given.name, "shape": given.shape[1:],
    "about": json.loads(session.get_modelmeta().custom_metadata_map["qmtl"]),
    "predictions": [
        {own.name: found.tolist() for own, found in
         zip(session.get_outputs(), session.run(None, {given.name: rows[:n]}), strict=True)}
        for n in (1, len(rows))
    ],
}))
"""


def make_model(circuit=SMALL, encoder=None, head=None):
    encoder = encoder or MLP(6, 8, out_features=circuit.n_features, seed=0)
    model = MultiTaskModel(encoder, head or QuantumHead(circuit, seed=0))
    if "price, in €" in circuit.registers:
        model.set_target_scale("price, in €", torch.tensor(5e5), torch.tensor(1e5))
    return model


def inputs(*shape):
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))


def found_elsewhere(model, rows, folder):
    """What a process without qmtl and torch makes of an exported model."""
    model.export(folder / "model.onnx")
    np.save(folder / "rows.npy", rows.numpy())
    command = [sys.executable, "-c", ELSEWHERE, folder / "model.onnx", folder / "rows.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_predictions(found, model, rows):
    for part, n in zip(found["predictions"], (1, len(rows)), strict=True):
        expected = model.predict(rows[:n])
        assert list(part) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(part[name], values.numpy(), rtol=1e-5, atol=1e-5)


def test_onnx_gives_the_same_predictions_without_qmtl(tmp_path):
    model, rows = make_model(), inputs(6)
    found = found_elsewhere(model, rows, tmp_path)
    assert_predictions(found, model, rows)
    assert (found["input"], found["shape"]) == ("inputs_", [6])
    about = found["about"]
    assert about["inputs"] == {"name": "inputs_", "shape": ["batch", 6], "dtype": "float32"}
    assert [Task.from_dict(task) for task in about["tasks"]] == TASKS


@pytest.mark.slow
def test_a_shared_register_as_onnx(tmp_path):
    tasks = [Task.binary("a"), Task.multiclass("b", 3)]
    circuit = HeadCircuit(tasks, AngleEncoding(n_layers=1), layout="shared")
    model, rows = make_model(circuit), inputs(6)
    assert_predictions(found_elsewhere(model, rows, tmp_path), model, rows)


ADDED = ExtendedHead(QuantumHead(FEW, seed=0), binary_tasks(2), blocks=["t1"], seed=0)
LOCAL = LocalLinearHead(FEW.tasks, FEW.n_features, register_columns(FEW), seed=0)
# Each encoder and head once, and few circuits: one takes seconds to export.
PRESENT = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0], [1, 1]])
PARTS = {
    "cnn": (
        CNN(1, 8, out_features=FEW.n_features, seed=0),
        LinearHead(FEW.tasks, FEW.n_features, seed=0),
        inputs(1, 8, 8),
    ),
    "fourier": (FourierFeatures(6, FEW.n_features, seed=0), LOCAL, inputs(6)),
    "vqc": (MLP(6, out_features=2, seed=0), SharedVQCHead(FEW.tasks, 2, seed=0), inputs(6)),
} | {
    gate: (Experts(6, LOCAL.task_columns(), 2, gate=gate, seed=0), LOCAL, inputs(6))
    for gate in ("mmoe", "dselect", "exclusive")
} | {
    kind: (
        Fusion({"a": 3, "b": 2}, FEW.n_features, kind, dim=4, n_heads=2, seed=0),
        head,
        torch.cat([PRESENT, inputs(5)], dim=1),
    )
    for kind, head in (
        ("concat", VQCPerTaskHead(FEW, seed=0)), ("gated", ADDED), ("cross-attention", LOCAL),
    )
}  # fmt: skip


def exported(model, path, **options):
    model.export(path, **options)
    return torch.export.load(path).module()


@pytest.mark.parametrize("parts", PARTS)
def test_encoders_and_heads(parts, tmp_path):
    encoder, head, rows = PARTS[parts]
    model = make_model(FEW, encoder, head).train()
    own = {"inputs": rows} if isinstance(encoder, Experts) else {}
    program = exported(model, tmp_path / "model.pt2", **own)
    assert model.training
    for n in (1, 2, 5):
        expected = model.predict(rows[:n])
        for name, values in program(rows[:n]).items():
            torch.testing.assert_close(values, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("design", ["shared-register", "iqp"])
def test_double_precision_stays_double(design, tmp_path):
    model = make_model(load_design(design).circuit(TASKS[:1])).double()
    program, rows = exported(model, tmp_path / "model.pt2"), inputs(6).double()
    for name, values in program(rows).items():
        torch.testing.assert_close(values, model.predict(rows)[name], rtol=1e-12, atol=1e-12)


def test_a_table_s_columns_are_in_the_file(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(5, 2, 60), "colour": rng.choice(["red", "blue"], 60)})
    table["sold"] = np.where(table["size"] > 5, "yes", "no")
    data = from_frame(table, targets=["sold"])
    model = make_model(HeadCircuit(data.tasks), MLP(3, out_features=2, seed=0))
    model.columns = data.columns
    model.export(tmp_path / "model.pt2")
    extra = {"qmtl.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    columns = json.loads(extra["qmtl.json"])["columns"]
    inputs = [(table[name] - mean) / std for name, mean, std in columns["numeric"]]
    inputs += [table[name] == kind for name, kinds in columns["categorical"] for kind in kinds]
    found = program(torch.tensor(np.stack(inputs, 1).astype(np.float32)))["sold"]
    torch.testing.assert_close(found, model.predict(table)["sold"], rtol=1e-5, atol=1e-6)


class Own(nn.Module):
    """An encoder that does not say what it takes, and with `branch` looks at its inputs."""

    def __init__(self, branch):
        super().__init__()
        self.layer, self.branch = nn.Linear(4, SMALL.n_features), branch

    def forward(self, inputs):
        if self.branch and inputs.sum() > 0:
            return self.layer(-inputs)
        return self.layer(inputs)


@pytest.mark.parametrize(
    "task", [Task.binary("for export"), Task.multiclass("ex", 3), Task.multilabel("port", 2)]
)
def test_a_task_trains_after_an_export(task, tmp_path):
    """Index tensors that were made while torch recorded the program are not used again."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    labels = {1: x[:, 0] > 0, 2: x[:, :2] > 0, 3: torch.arange(60) % 3}[task.n_outputs]
    for tasks in ([task, Task.binary("beside")], [task]):
        circuit = HeadCircuit(tasks)
        encoder = MLP(5, 8, out_features=circuit.n_features, seed=0)
        own = MultiTaskModel(encoder, QuantumHead(circuit))
        if len(tasks) == 2:
            own.export(tmp_path / "model.pt2")
    data = from_arrays(x, {task.name: labels}, tasks=[task])
    result = fit(own, data, max_epochs=1, progress=False)
    assert np.isfinite(result.metrics["test"][task.name]["loss"])


def test_an_encoder_of_ones_own_needs_an_example(tmp_path):
    model, rows = make_model(encoder=Own(branch=False)), inputs(4)
    with pytest.raises(InvalidInputError, match=r"Own .* inputs=\.\.\."):
        model.export(tmp_path / "model.pt2")
    found = exported(model, tmp_path / "model.pt2", inputs=rows.numpy()[:1])(rows)
    torch.testing.assert_close(found["linear"], model.predict(rows)["linear"])


def test_what_cannot_be_exported_says_why(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    with pytest.raises(InvalidInputError, match="whose encoder is Own"):
        make_model(encoder=Own(branch=True)).export(path, inputs=inputs(4))
    noisy = NoisySimulator(DeviceNoise.uniform(one_qubit=0.01))
    with pytest.raises(InvalidInputError, match=r"with_simulator\('lightcone'\)"):
        make_model().with_simulator(noisy).export(path)
    many = HeadCircuit([replace(TASKS[0], name=f"t{i}") for i in range(2000)])
    with pytest.raises(CircuitTooLargeError, match="33,554,432"):
        make_model(many).export(path)
    for wrong in ("model.onx", "none/model.onnx"):
        with pytest.raises(InvalidInputError, match=wrong):
            make_model().export(tmp_path / wrong)
    monkeypatch.setattr("qmtl._model_export.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"\[onnx\]"):
        make_model().export(path)
    with pytest.raises(InvalidInputError, match=r"^inputs must have at least one sample"):
        make_model().export(tmp_path / "model.pt2", inputs=inputs(6)[:0])
    with pytest.raises(InvalidInputError, match=r"^features must have shape .* got \(2, 5\)"):
        make_model(encoder=Identity(SMALL.n_features)).export(
            tmp_path / "model.pt2", inputs=inputs(5)
        )
    assert not list(tmp_path.iterdir())
