"""Models, data and tasks that do not fit together: every entry point names both sides."""

import pandas as pd
import pytest
import torch
from torch import nn

import qmtl
from qmtl.circuit import (
    count_live_weights,
    draw_svg,
    load_design,
    without_blocks,
    without_entanglers,
)
from qmtl.data import TableColumns
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError
from qmtl.experiments import Run, read_recipe, resume_run, start_run, write_report
from qmtl.hardware import to_qasm3, to_qiskit
from qmtl.noise import DeviceNoise
from qmtl.simulators import NoisySimulator
from qmtl.tasks import Task
from qmtl.training import read_predictions

A = [Task.binary("a", class_names=["no", "yes"]), Task.regression("b")]
C = [Task.binary("c"), Task.regression("d")]
NEW, OTHER = (Task.binary("n", class_names=names) for names in (["no", "yes"], ["yes", "no"]))
X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = {"a": X[:, 0] > 0, "b": X[:, 1], "c": X[:, 2] > 0, "d": X[:, 3], "n": X[:, 4] > 0}
IQP = qmtl.AngleEncoding(n_layers=1)


class Means(TaskEncoder):
    """Gives each task features of its own."""

    def task_features(self, inputs, tasks):
        return inputs[:, [place for task in tasks for place in self.columns[task]]]


def model(tasks=A, encoder=None, head=qmtl.QuantumHead, columns=None, **circuit):
    circuit = qmtl.HeadCircuit(tasks, **circuit)
    made = head(circuit, seed=0) if head is qmtl.QuantumHead else head(tasks, circuit.n_features)
    if encoder is None:
        encoder = qmtl.encoders.MLP(5, 8, out_features=circuit.n_features, seed=0)
    found = qmtl.MultiTaskModel(encoder, made)
    if columns is not None:
        found.columns = columns
    return found


def mlp(width=5, out=4, **options):
    return qmtl.encoders.MLP(width, 8, out_features=out, seed=0, **options)


def layers(activation):
    return nn.Sequential(nn.Linear(5, 8), activation(), nn.Linear(8, 4))


def columns(names, mean=0.0, kinds=()):
    return TableColumns(tuple((name, mean, 1.0) for name in names), kinds)


def data(tasks, columns=None):
    rows = qmtl.data.from_arrays(X, {t.name: Y[t.name] for t in tasks}, tasks=tasks)
    if columns is not None:
        object.__setattr__(rows, "columns", columns)
    return rows


def tuned(*sets):
    return qmtl.merge([model(), model(C)], "atm", data=sets, rounds=1)


def task_model(tasks):
    head = qmtl.QuantumHead(qmtl.HeadCircuit(tasks), seed=0)
    return qmtl.MultiTaskModel(Means(head.task_columns()), head)


MISFITS = {
    # features
    "adapt, width": (lambda: model().adapt(NEW, (X[:, :3], Y["n"])), "40, 3", "5"),
    "adapt, width of one's own": (
        lambda: model(encoder=layers(nn.Tanh)).adapt(NEW, (X[:, :3], Y["n"])),
        "shape \\(40, 3\\)", "encoder Sequential: .*5x8",
    ),
    "merge, width": (
        lambda: qmtl.merge([model(), model(C, mlp(6))]), "\\(8, 5\\)", "model 2 .*\\(8, 6\\)",
    ),
    "merge, base's width": (
        lambda: qmtl.merge([model(), model(C)], base=model(encoder=mlp(6))),
        "model 1 .*\\(8, 5\\)", "base .*\\(8, 6\\)",
    ),
    "merge, activation": (
        lambda: qmtl.merge([model(), model(C, mlp(activation="tanh"))]),
        "model 1 .*relu", "model 2 .*tanh",
    ),
    "merge, layers of one's own": (
        lambda: qmtl.merge([model(encoder=layers(nn.ReLU)), model(C, layers(nn.Tanh))]),
        "model 1 .*ReLU", "model 2 .*Tanh",
    ),
    "merge, base's layers": (
        lambda: qmtl.merge([model(), model(C)], base=model(encoder=mlp(activation="gelu"))),
        "model 1 .*relu", "base .*gelu",
    ),
    "merge, features of tasks": (
        lambda: qmtl.merge([task_model(A), task_model(C)]), "model 1 \\['a', 'b'\\]",
        "model 2 \\['c', 'd'\\]",
    ),
    "with_task, width": (
        lambda: model().with_task(NEW, encoder=mlp()), "gives 4 features", "takes 6",
    ),
    "with_task, features of tasks": (
        lambda: task_model(A).with_task(NEW), "Means cannot grow", "\\['a', 'b', 'n'\\]",
    ),
    # circuits and heads
    "merge, encoding": (
        lambda: qmtl.merge([model(), model(C, encoding=IQP)]),
        "model 1 .*n_layers=2", "model 2 .*n_layers=1",
    ),
    "merge, base's encoding": (
        lambda: qmtl.merge([model(), model(C)], base=model(encoding=IQP)),
        "model 1 .*n_layers=2", "base .*n_layers=1",
    ),
    "merge, blocks of a common task": (
        lambda: qmtl.merge([model(), model(ansatz=qmtl.RotationAnsatz(n_layers=1))]),
        "model 1 .*RotationAnsatz\\(n_layers=2", "model 2 .*RotationAnsatz\\(n_layers=1",
    ),
    "merge, wires": (
        lambda: qmtl.merge([model(), model(C, mlp(out=5), wires_per_task={"c": 3, "d": 2})]),
        "model 1 4", "model 2 5",
    ),
    "merge, head": (
        lambda: qmtl.merge([model(), model(C, head=qmtl.LinearHead)]),
        "model 1 .*QuantumHead", "model 2 a LinearHead",
    ),
    "merge, base's head": (
        lambda: qmtl.merge([model(), model(C)], base=model(head=qmtl.LinearHead)),
        "model 1 .*QuantumHead", "base a LinearHead",
    ),
    "with_task, wires": (
        lambda: model(layout="shared", n_wires=4).with_task(NEW, wires=9), "same 4 wires",
        "wires=9",
    ),
    # tasks and classes
    "adapt, name": (lambda: model().adapt(A[0], (X, Y["a"])), "a task 'a'", "tasks are a, b"),
    "adapt, kind": (
        lambda: model().adapt(Task.regression("n"), data([NEW])), "'n' is regression",
        "data's is binary",
    ),
    "adapt, classes": (
        lambda: model().adapt(NEW, data([OTHER])), "'n' is .*no, yes", "data's is .*yes, no",
    ),
    "adapt, rows": (lambda: model().adapt(NEW, (X, Y["n"][:7])), "40 rows", "7 labels"),
    "merge, classes": (
        lambda: qmtl.merge([model([A[0]], mlp(out=2)), model([_flipped("a")], mlp(out=2))]),
        "model 1 .*'no', 'yes'", "model 2 .*'yes', 'no'",
    ),
    "merge, tasks in part": (
        lambda: qmtl.merge([model(), model([A[0], C[1]])]), "models 1 and 2", "both .* task 'a'",
    ),
    "merge, tasks of data": (lambda: tuned(data(A), data(A)), "tasks c, d", "data a, b"),
    "merge, classes of data": (
        lambda: tuned(data([_flipped("a"), A[1]]), data(C)), "model 1 is .*no, yes",
        "data have .*yes, no",
    ),
    "with_task, name": (lambda: model().with_task(A[1]), "positions 1", "and 2"),
    # columns of tables
    "adapt, columns": (
        lambda: model(columns=columns("pqrst")).adapt(NEW, data([NEW], columns("pqrsu"))),
        "model has p, q, r, s, t", "data have p, q, r, s, u",
    ),
    "adapt, ranges": (
        lambda: model(columns=columns("pqrst")).adapt(NEW, data([NEW], columns("pqrst", 7.0))),
        "model has p 0, 1;", "data have p 7, 1;",
    ),
    "adapt, a table without a column": (
        lambda: model(columns=columns("pqrst")).adapt(
            NEW, (pd.DataFrame(X.numpy(), columns=list("pqrsu")), Y["n"])
        ),
        "no column 't'", "Known: p, q, r, s, u",
    ),
    "merge, columns": (
        lambda: qmtl.merge([model(columns=columns("pqrst")), model(C, columns=columns("pqrsu"))]),
        "model 1 has p, q, r, s, t", "model 2 has p, q, r, s, u",
    ),
    "merge, categories": (
        lambda: qmtl.merge([
            model(columns=columns("pqr", kinds=(("s", ("no", "yes")),))),
            model(C, columns=columns("pqr", kinds=(("s", ("0", "1")),))),
        ]),
        "model 1 has s .*no.*yes", "model 2 has s .*0.*1",
    ),
    "merge, no columns": (
        lambda: qmtl.merge([model(columns=columns("pqrst")), model(C)]),
        "model 1 has p, q, r, s, t", "model 2 has no columns",
    ),
}  # fmt: skip


def _flipped(name):
    return Task.binary(name, class_names=["yes", "no"])


@pytest.mark.parametrize("misfit", MISFITS)
def test_both_sides_are_named(misfit):
    make, *sides = MISFITS[misfit]
    with pytest.raises(InvalidInputError) as found:
        make()
    for side in sides:
        assert found.match(side)


def test_what_only_training_knows_of_may_differ():
    models = [model(), model(C, mlp(dropout=0.5))]
    assert [task.name for task in qmtl.merge(models).tasks] == ["a", "b", "c", "d"]
    # Nor must both sides name their classes.
    larger = model().adapt(NEW, data([Task.binary("n")]), methods=["ridge"])
    assert larger.tasks[-1].class_names == ("no", "yes")


@pytest.mark.parametrize(
    "use",
    [
        model().save,
        model().save_pretrained,
        model().export,
        qmtl.load,
        qmtl.MultiTaskModel.from_pretrained,
        DeviceNoise.uniform().save,
        DeviceNoise.load,
        read_recipe,
        Run.read,
        resume_run,
        lambda path: write_report(["run"], path),
        lambda path: write_report([path], "report.html"),
        load_design,
        lambda path: read_predictions(path, A),
        lambda path: qmtl.data.from_csv(path, targets=["y"]),
        lambda path: qmtl.data.glue(path, embed=len),
        qmtl.data.chestxray,
        lambda path: qmtl.data.mustard(path, embed=len),
        lambda path: qmtl.fit(model(), data(A), checkpoints=path, max_epochs=1),
    ],
)
@pytest.mark.parametrize("path", [3, "a\0b"])
def test_arguments_that_are_no_path(use, path):
    with pytest.raises(InvalidInputError, match="path"):
        use(path)


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model().save("~/kept")
    assert (tmp_path / "kept" / "model.json").is_file()
    assert qmtl.load("~/kept").tasks == model().tasks


@pytest.mark.parametrize(
    "use", [draw_svg, without_blocks, without_entanglers, count_live_weights, to_qiskit, to_qasm3]
)
def test_a_head_in_place_of_its_circuit(use):
    with pytest.raises(InvalidInputError, match=r"circuit must be a HeadCircuit, got QuantumHead;"):
        use(model().head)
    with pytest.raises(InvalidInputError, match="got NoneType"):
        use(None)


def test_a_name_in_place_of_a_recipe():
    with pytest.raises(InvalidInputError, match=r"recipe must be a Recipe, got str; .*read_recipe"):
        start_run("digits")


def test_noise_that_is_none():
    for noise, kind in ((None, "NoneType"), ("fake_fez", "str")):
        with pytest.raises(InvalidInputError, match=f"noise must be a DeviceNoise, got {kind}"):
            NoisySimulator(noise)
    with pytest.raises(InvalidInputError, match=r"one_qubit must be in \[0, 1\], got True"):
        DeviceNoise.uniform(True)
    with pytest.raises(InvalidInputError, match="max_width must be an integer >= 1, got 'a'"):
        draw_svg(model().head.circuit, max_width="a")
