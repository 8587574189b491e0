"""Gates between a common predictor and each task's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.heads import (
    HEADS,
    GatedHead,
    HeadOptions,
    QuantumHead,
    build_head,
    common_tasks,
    head_parameters,
)
from qmtl.tasks import Task
from tests.heads.rival_samples import features_for, mixed_tasks

TASKS = [Task.binary("a"), Task.multiclass("b", 3), Task.binary("c"), Task.regression("d")]
OPTIONS = HeadOptions(gates=True, width=4, seed=0)


def gated(kind="quantum", tasks=TASKS, **circuit):
    return build_head(kind, qmtl.HeadCircuit(tasks, **circuit), OPTIONS)


def outlier_data(outlier=3, n_tasks=6, n=1200, seed=0):
    """Binary tasks with one rule, but for an outlier whose labels have nothing to do with it."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 6)).astype("float32")
    targets = {}
    for number in range(n_tasks):
        rule = inputs[:, 5] if number == outlier else inputs[:, 0] + inputs[:, 1]
        targets[f"t{number}"] = (rule + 0.3 * rng.normal(size=n) > 0).astype(float)
    tasks = [Task.binary(name) for name in targets]
    return qmtl.data.from_arrays(inputs, targets, tasks=tasks, seed=0)


@pytest.mark.parametrize("kind", ["quantum", "linear", "local-cone", "vqc-per-task"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_mixed_by_the_gates(kind, dtype):
    head = gated(kind).to(dtype)
    with torch.no_grad():
        head.gates["a"].fill_(0.7)
        head.gates["c"].fill_(-1.2)
    x = features_for(head, dtype=dtype)
    own = head.own(x[:, : head.own.n_features])
    common = head.common(x[:, head.own.n_features :])["common_binary_1"]
    logits = head(x)
    for name, theta in (("a", 0.7), ("c", -1.2)):
        sigma = 1 / (1 + np.exp(-theta))
        expected = sigma * own[name] + (1 - sigma) * common
        assert torch.allclose(logits[name], expected, atol=1e-6)
        assert head.outlier_scores()[name] == pytest.approx(sigma)
    # Tasks without another of their kind are as without gates.
    assert torch.equal(logits["b"], own["b"])
    assert torch.equal(logits["d"], own["d"])
    some = head(x, tasks=["d", "c"])
    assert list(some) == ["d", "c"]
    assert torch.allclose(some["c"], logits["c"])


def test_open_and_closed_gates():
    head = gated()
    x = features_for(head)
    with torch.no_grad():
        head.gates.parameter.fill_(50.0)
    own = head.own(x[:, : head.own.n_features])
    assert all(torch.allclose(value, own[name]) for name, value in head(x).items())
    with torch.no_grad():
        head.gates.parameter.fill_(-50.0)
    assert torch.equal(head(x)["a"], head(x)["c"])


def test_one_task_of_each_kind_has_no_gate():
    plain = gated(tasks=TASKS[1:])
    assert isinstance(plain, QuantumHead)
    assert common_tasks(TASKS[1:]) == []


@pytest.mark.parametrize("kind", ["quantum", "linear", "low-rank", "fixed-width", "quantum-frozen"])
@pytest.mark.parametrize("n_tasks", [2, 7])
def test_parameters_in_closed_form(kind, n_tasks):
    circuit = qmtl.HeadCircuit(mixed_tasks(n_tasks))
    head = build_head(kind, circuit, OPTIONS)
    trained = sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert trained == head_parameters(kind, circuit, OPTIONS)
    rows = {id(r.parameter) for r in head.task_rows()}
    shared = {id(p) for p in head.shared_parameters()}
    assert not rows & shared
    assert rows | shared == {id(p) for p in head.parameters() if p.numel()}


def test_shared_layout():
    head = gated(layout="shared", n_wires=4)
    x = features_for(head)
    assert {name: value.shape[1] for name, value in head(x).items()} == {
        "a": 1,
        "b": 3,
        "c": 1,
        "d": 1,
    }


@pytest.mark.parametrize("outlier", [1, 3])
def test_finds_a_planted_outlier(outlier):
    """Its gate is open, those of the others are closed."""
    data = outlier_data(outlier)
    head = gated(tasks=data.tasks)
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(6, 8, out_features=head.n_features, seed=0), head)
    options = {"learning_rate": 0.01, "head_learning_rate": 0.05, "progress": False, "seed": 0}
    result = qmtl.fit(model, data, max_epochs=8, restore_best=False, **options)
    scores = head.outlier_scores()
    assert scores.pop(f"t{outlier}") > 0.7
    assert max(scores.values()) < 0.5
    assert min(own["accuracy"] for own in result.metrics["test"].values()) > 0.8


def test_absent_tasks_keep_their_gates():
    data = outlier_data(n=60)
    without = {
        name: values if name != "t1" else torch.full_like(values, torch.nan)
        for name, values in data.train.targets.items()
    }
    without["t1"][:3] = 1.0
    data = replace(data, train=replace(data.train, targets=without))
    head = build_head("quantum", qmtl.HeadCircuit(data.tasks), OPTIONS)
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(6, 4, out_features=head.n_features, seed=0), head)
    head.freeze("t2")
    qmtl.fit(model, data, max_epochs=2, batch_size=4, progress=False)
    moved = {name: score != 0.5 for name, score in head.outlier_scores().items()}
    assert moved["t0"]
    assert not moved["t2"]


@pytest.mark.parametrize("aggregator", ["upgrad", "mean"])
def test_trains_with_aggregators_and_comes_back_from_files(aggregator, tmp_path):
    data = outlier_data(n=80)
    head = build_head("quantum", qmtl.HeadCircuit(data.tasks), OPTIONS)
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(6, 4, out_features=head.n_features, seed=0), head)
    qmtl.fit(model, data, aggregator=aggregator, max_epochs=1, progress=False)
    assert len({round(score, 6) for score in head.outlier_scores().values()}) > 1
    model.save(tmp_path / "model")
    again = qmtl.load(tmp_path / "model")
    assert torch.equal(again(data.test.inputs, joined=True), model(data.test.inputs, joined=True))
    described = json.loads(json.dumps(head.to_dict()))
    assert HEADS[described["type"]].from_dict(described).outlier_scores().keys() == {
        f"t{i}" for i in range(6)
    }


def test_another_simulator_shares_the_gates():
    head = gated()
    other = head.with_simulator("default.qubit")
    with torch.no_grad():
        head.gates.parameter.fill_(0.4)
    x = features_for(head)
    assert torch.allclose(head(x)["a"], other(x)["a"], atol=1e-5)
    with pytest.raises(InvalidInputError, match="LinearHead cannot change its simulator"):
        gated("linear").with_simulator("default.qubit")


def test_other_common_tasks_are_refused():
    circuit = qmtl.HeadCircuit(TASKS)
    with pytest.raises(InvalidInputError, match="common_binary_1"):
        GatedHead(QuantumHead(circuit), QuantumHead(qmtl.HeadCircuit([Task.binary("x")])))


def test_recipes_have_gates():
    from qmtl.experiments import build_data, build_model, read_recipe

    recipe = read_recipe("digits", ["head.gates=true"])
    model = build_model(recipe, build_data(recipe))
    assert set(model.head.outlier_scores()) == {"parity", "five_or_more", "has_loop"}
