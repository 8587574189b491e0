"""Rows of a Jacobian taken apart from sums of them, against a backward pass for each."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchjd.aggregation import UPGrad

import qmtl
from qmtl.training import gradients, make_aggregator
from qmtl.training.local_rows import Locality, local_rows
from qmtl.training.sparse_rows import SparseRows
from tests.training.samples import QUIET

MIXED = [
    task
    for i in range(4)
    for task in (
        qmtl.Task.binary(f"a{i}"),
        qmtl.Task.multiclass(f"b{i}", 3),
        qmtl.Task.regression(f"c{i}"),
    )
]
BINARY = [qmtl.Task.binary(f"t{i}") for i in range(10)]


class Tied(nn.Module):
    """A layer twice, so that its gradient is more than that of the last one."""

    def __init__(self, n_features):
        super().__init__()
        self.first = nn.Linear(4, n_features)
        self.twice = nn.Linear(n_features, n_features)

    def forward(self, inputs):
        return self.twice(self.twice(self.first(inputs)).tanh())


class Backbone(nn.Module):
    """What is before the last layer depends on one number, and has parts that nothing depends on.

    Args:
        n_features: of the last layer.
        trains: whether the backbone is part of the graph.
    """

    def __init__(self, n_features, trains):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.unused = nn.Linear(2, 3)
        self.empty = nn.Parameter(torch.zeros(0, 2))
        self.last = nn.Linear(4, n_features)
        self.trains = trains

    def forward(self, inputs):
        with torch.set_grad_enabled(self.trains):
            hidden = (inputs * self.temperature).tanh()
        return self.last(hidden)


ENCODERS = {
    "hidden": lambda n: qmtl.encoders.MLP(4, 5, out_features=n, seed=0),
    "linear": lambda n: nn.Linear(4, n),
    "without bias": lambda n: nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, n, bias=False)
    ),
    "bounded": lambda n: nn.Sequential(nn.Linear(4, n), nn.Tanh()),
    "tied": Tied,
    "backbone": lambda n: Backbone(n, trains=True),
    "backbone without a graph": lambda n: Backbone(n, trains=False),
    "parametrised": lambda n: nn.utils.parametrizations.weight_norm(nn.Linear(4, n)),
    "frozen weight": lambda n: _frozen(nn.Linear(4, n), "weight"),
    "frozen bias": lambda n: _frozen(nn.Linear(4, n), "bias"),
}


def _frozen(layer, name):
    getattr(layer, name).requires_grad_(False)
    return layer


def model_of(tasks, encoder="hidden", **options):
    torch.manual_seed(0)
    circuit = qmtl.HeadCircuit(tasks, **options)
    encoder = ENCODERS[encoder](circuit.n_features)
    return qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0)).double()


def step(model, present):
    features = model.encoder(torch.randn(6, 4, dtype=torch.float64))
    logits = [model.head(features)[model.tasks[i].name] for i in present]
    losses = torch.stack([values.square().mean() + values.sum() for values in logits])
    own = [p for i in present for p in model.task_parameters(model.tasks[i].name)]
    return features, logits, losses, own


@pytest.mark.parametrize(
    ("tasks", "options"),
    [
        *((BINARY, {"encoder": encoder}) for encoder in ENCODERS),
        (MIXED, {}),
        (MIXED, {"encoding": qmtl.AngleEncoding(n_layers=1)}),
        (BINARY, {"encoding": qmtl.AngleEncoding(n_layers=2, entangler="none")}),
    ],
)
@pytest.mark.parametrize("present", [None, [0, 2, 3, 7, 9]])
def test_rows_are_those_of_separate_backward_passes(tasks, options, present):
    model = model_of(tasks, **options)
    present = list(range(len(tasks))) if present is None else present
    locality = Locality.of(model)
    assert locality is not None
    assert locality.n_groups <= len(tasks) // 2
    shared = model.shared_parameters()
    features, logits, losses, own = step(model, present)
    rows, gradients = local_rows(losses, logits, features, shared, own, locality.of_tasks(present))
    rows = [part.dense() if isinstance(part, SparseRows) else part for part in rows]
    for i, loss in enumerate(losses):
        expected = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        for row, other in zip(rows, expected, strict=True):
            torch.testing.assert_close(row[i], other, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(losses.sum(), own)
    for got, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-10, atol=1e-12)


def test_tasks_of_a_group_have_nothing_in_common():
    locality = Locality.of(model_of(BINARY))
    depends = torch.cat([locality.features, locality.weights], dim=1).int()
    for group in range(locality.n_groups):
        assert depends[locality.groups == group].sum(0).max() <= 1


def test_the_number_of_groups_does_not_grow():
    tasks = [qmtl.Task.binary(f"t{i}") for i in range(60)]
    assert Locality.of(model_of(tasks)).n_groups <= 5


@pytest.mark.parametrize("case", ["few", "wide cones", "linear", "device"])
def test_where_it_does_not_help(case):
    model = model_of(BINARY[:4] if case == "few" else BINARY)
    n = model.head.n_features
    if case == "wide cones":
        model = model_of(BINARY, encoding=qmtl.AngleEncoding(n_layers=2, entangler="cnot_ring"))
    elif case == "linear":
        model = qmtl.MultiTaskModel(model.encoder, qmtl.LinearHead(BINARY, n_features=n))
    elif case == "device":
        head = qmtl.QuantumHead(model.head.circuit, "default.qubit")
        model = qmtl.MultiTaskModel(model.encoder, head)
    assert Locality.of(model) is None


@pytest.mark.parametrize("combiner", [{"aggregator": "upgrad"}, {"aggregator": "config"}])
@pytest.mark.parametrize("encoder", ["backbone", "backbone without a graph"])
def test_such_encoders_train(encoder, combiner):
    model = model_of(BINARY, encoder)
    before = model.encoder.last.weight.clone()
    qmtl.fit(model, data(), max_epochs=1, seed=0, restore_best=False, **QUIET, **combiner)
    assert not torch.equal(model.encoder.last.weight, before)


def test_a_circuit_without_encoding_weights():
    model = model_of(BINARY, encoding=qmtl.AngleEncoding(n_layers=1, trainable=""))
    assert not model.head.encoding.numel()
    model.requires_grad_(True)
    before = model.encoder.layers[0].weight.clone()
    qmtl.fit(model, data(), aggregator="upgrad", max_epochs=1, seed=0, **QUIET)
    assert not torch.equal(model.encoder.layers[0].weight, before)


def test_pruned_encoding_weights_train():
    model = model_of(BINARY)
    prune.random_unstructured(model.head, "encoding", 0.5)
    assert Locality.of(model) is None
    before = model.head.encoding_orig.clone()
    qmtl.fit(model, data(), aggregator="upgrad", max_epochs=1, seed=0, restore_best=False, **QUIET)
    assert not torch.equal(model.head.encoding_orig, before)


HOOKS = {
    "head's input": lambda model: model.head.register_forward_pre_hook(
        lambda _, args: (args[0].roll(1, 1),)
    ),
    "head's output": lambda model: model.head.register_forward_hook(
        lambda _, args, out: {name: 2 * value for name, value in out.items()}
    ),
    "last layer": lambda model: model.encoder.layers[-1].register_backward_hook(
        lambda _, gradients, __: tuple(g if g is None else g * g.abs() for g in gradients)
    ),
    "encoding": lambda model: model.head.encoding.register_hook(lambda g: g / g.norm()),
    "block": lambda model: model.task_parameters("t3")[0].register_hook(lambda g: g + 0.1),
    "features": lambda model: model.encoder.register_forward_hook(
        lambda _, __, features: features.register_hook(lambda g: -g) and None
    ),
    "layer's output": lambda model: model.encoder.layers[0].register_forward_hook(
        lambda _, __, hidden: hidden.register_hook(lambda g: -g) and None
    ),
}


def aggregated(model, aggregator, locality):
    torch.manual_seed(0)
    model.zero_grad()
    features, logits, losses, own = step(model, range(len(BINARY)))
    shared = model.shared_parameters()
    gradients.aggregate(
        losses, logits, own, shared, aggregator, features=features, locality=locality
    )
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_see_rows_that_are_a_task_s(hook):
    model = model_of(BINARY)
    # Which may come when training has begun.
    locality, aggregator = Locality.of(model), make_aggregator("upgrad", len(BINARY))
    before = aggregated(model, aggregator, locality)
    HOOKS[hook](model)
    found = aggregated(model, aggregator, locality)
    assert not torch.allclose(found, before)
    by_row = aggregated(model, aggregator, None)
    torch.testing.assert_close(found, by_row, rtol=1e-9, atol=1e-12)


def test_hooks_of_an_aggregator_are_called():
    model, calls = model_of(BINARY), []
    aggregator, locality = make_aggregator("upgrad", len(BINARY)), Locality.of(model)
    unseen = aggregated(model, aggregator, locality)
    aggregator.register_forward_hook(lambda *_: calls.append(1))
    same = aggregated(model, aggregator, locality)
    assert calls == [1]
    torch.testing.assert_close(same, unseen, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["upgrad", "mgda", "mean", "sum", "random", "constant"])
def test_rows_stay_on_top_of_each_other(name, monkeypatch):
    model, options = model_of(BINARY), {"weights": [1.0 + i for i in range(10)]}
    aggregator = make_aggregator(
        name, len(BINARY), options if name == "constant" else {}, dtype=torch.float64
    )
    expected = aggregated(model, aggregator, None)
    monkeypatch.delattr(SparseRows, "dense")
    found = aggregated(model, aggregator, Locality.of(model))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["mean", "random"])
def test_weights_of_rows_have_all_digits(name):
    """Those of the number of rows, for an encoder in single precision and a head in double."""
    rows = [torch.zeros(len(BINARY), 3), torch.zeros(len(BINARY), 2, dtype=torch.float64)]
    torch.manual_seed(0)
    found = gradients._weights(rows, make_aggregator(name, len(BINARY)))
    torch.manual_seed(0)
    expected = make_aggregator(name, len(BINARY)).weighting(rows[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_encoder_that_shares_with_the_head():
    model = model_of(BINARY)
    model.encoder.tied = model.head.encoding
    assert Locality.of(model) is None


def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 4)).astype("float32")
    signs = {task.name: X[:, i % 4] > 0.1 * i - 0.4 for i, task in enumerate(BINARY)}
    targets = {name: values.astype("float32") for name, values in signs.items()}
    targets["t3"][rng.random(40) < 0.9] = np.nan
    return qmtl.data.from_arrays(X, targets, tasks=BINARY)


@pytest.mark.parametrize(
    ("aggregator", "frozen"),
    [
        ("upgrad", None),
        ("upgrad", "encoder"),
        ("upgrad", "encoding"),
        *((of_their_number, None) for of_their_number in ("mean", "sum", "random")),
        ("pcgrad", None),
        ("graddrop", None),
        ("config", None),
    ],
)
def test_training_is_the_same_as_row_by_row(aggregator, frozen):
    def trained(**options):
        model = model_of(BINARY)
        if frozen is not None:
            (model.encoder if frozen == "encoder" else model.head.encoding).requires_grad_(False)
        qmtl.fit(model, data(), aggregator=aggregator, max_epochs=2, seed=0, restore_best=False,
                 optimizer="sgd", **QUIET, **options)  # fmt: skip
        return model.state_dict()

    one, other = trained(), trained(jacobian_chunk=3)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("other", ["alike", "row by row"])
def test_rows_of_two_processes_add_up(monkeypatch, other):
    monkeypatch.setattr(gradients, "n_processes", lambda: 2)
    model, everybody = model_of(BINARY), range(len(BINARY))
    shared, locality = model.shared_parameters(), Locality.of(model)
    aggregator = make_aggregator("upgrad", len(BINARY))
    matrix, sent = 0, []
    for of_all_processes, of_this in (
        (lambda values: sent.append(values) or values, locality),
        (lambda values: values + sent.pop(0), locality if other == "alike" else None),
    ):
        monkeypatch.setattr(gradients, "sum_over_processes", of_all_processes)
        features, logits, losses, own = step(model, everybody)
        each = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        matrix = matrix + torch.stack([torch.cat([g.flatten() for g in row]) for row in each])
        gradients.aggregate(
            losses, logits, own, shared, aggregator, features=features, locality=of_this
        )
    assert not sent
    found = torch.cat([parameter.grad.flatten() for parameter in shared])
    torch.testing.assert_close(found, UPGrad()(matrix), rtol=0, atol=1e-10)
