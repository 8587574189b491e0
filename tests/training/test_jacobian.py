"""The Jacobian by its rows in groups, and its aggregation, against a backward pass for each."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchjd.aggregation import UPGrad

import qmtl
from qmtl.training import SharedJacobian, make_aggregator
from qmtl.training._sparse_rows import SparseRows
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


def jacobian_of(model, name="upgrad", options=None, chunk=None):
    aggregator = make_aggregator(name, len(model.tasks), options, dtype=torch.float64)
    own = [rows.parameter for rows in model.task_rows()]
    owned = {id(p) for p in own}
    shared = [p for p in model.parameters() if p.requires_grad and id(p) not in owned]
    return SharedJacobian(model, shared, own, aggregator, chunk)


def losses_of(model, logits, present=None):
    """Any function of each task's logits."""
    parts = logits.split([task.n_outputs for task in model.tasks], dim=1)
    losses = torch.stack([values.square().mean() + values.sum() for values in parts])
    return losses if present is None else losses[present]


def inputs():
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize(
    ("tasks", "options"),
    [
        *((BINARY, {"encoder": encoder}) for encoder in ENCODERS),
        (MIXED, {}),
        (MIXED, {"encoding": qmtl.AngleEncoding(n_layers=1)}),
        (BINARY, {"encoding": qmtl.AngleEncoding(n_layers=2, entangler="none")}),
    ],
)
def test_rows_are_those_of_separate_backward_passes(tasks, options, chunk):
    model = model_of(tasks, **options)
    jacobian = jacobian_of(model, chunk=chunk)
    assert jacobian.n_groups <= len(tasks) // 2
    step = jacobian.forward(inputs())
    losses = losses_of(model, step.logits)
    rows, gradients = jacobian.rows(losses, step)
    named = {**dict(model.encoder.named_parameters()), "encoding": model.head.encoding}
    found = {id(named[name]): part for name, part in rows.items()}
    for i, loss in enumerate(losses):
        expected = torch.autograd.grad(
            loss, jacobian.shared, retain_graph=True, materialize_grads=True
        )
        for parameter, other in zip(jacobian.shared, expected, strict=True):
            part = found.get(id(parameter))
            part = part.dense() if isinstance(part, SparseRows) else part
            row = torch.zeros_like(other) if part is None else part[i]
            torch.testing.assert_close(row, other, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(losses.sum(), jacobian.own)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


LAYERS = {"hidden": "layers.3", "linear": "", "without bias": "2", "backbone": "last",
          "backbone without a graph": "last", "frozen weight": "", "frozen bias": "",
          "bounded": None, "tied": None, "parametrised": None}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_layer_that_features_come_from(encoder):
    model = model_of(BINARY, encoder)
    step = jacobian_of(model).forward(inputs())
    assert step.layer == LAYERS[encoder]


CHANGES = {
    "another output": lambda _, __, output: 2 * output,
    "in place": lambda _, __, output: output.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_layer_whose_output_a_hook_has_changed(change):
    model = model_of(BINARY)
    model.encoder.layers[-1].register_forward_hook(CHANGES[change])
    jacobian = jacobian_of(model)
    step = jacobian.forward(inputs())
    assert step.layer is None
    found, expected = aggregated(model, jacobian), aggregated(model, plain(model))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_tasks_of_a_group_have_nothing_in_common():
    jacobian = jacobian_of(model_of(BINARY))
    for places in (jacobian._features, jacobian._weights):
        at = list(zip(places.group[places.task].tolist(), places.place.tolist(), strict=True))
        assert len(set(at)) == len(at)


def test_the_number_of_groups_does_not_grow():
    tasks = [qmtl.Task.binary(f"t{i}") for i in range(60)]
    assert jacobian_of(model_of(tasks)).n_groups <= 5


@pytest.mark.parametrize("case", ["few", "wide cones", "linear", "device", "shared"])
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
    elif case == "shared":
        model.encoder.tied = model.head.encoding
    assert jacobian_of(model).n_groups is None


@pytest.mark.filterwarnings("ignore:no gradient reaches encoder:UserWarning")
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
    assert jacobian_of(model).n_groups is None
    before = model.head.encoding_orig.clone()
    qmtl.fit(model, data(), aggregator="upgrad", max_epochs=1, seed=0, restore_best=False, **QUIET)
    assert not torch.equal(model.head.encoding_orig, before)


def plain(model, name="upgrad", options=None):
    """TorchJD's way, one row for every task."""
    jacobian = jacobian_of(model, name, options)
    jacobian.n_groups, jacobian.counts_rows = None, False
    return jacobian


def aggregated(model, jacobian, present=None):
    model.zero_grad()
    step = jacobian.forward(inputs()) if jacobian.n_groups else None
    logits = model(inputs(), joined=True) if step is None else step.logits
    jacobian.aggregate(losses_of(model, logits, present), present, step)
    # Parameters that nothing depends on have no gradient, or zeros by TorchJD's way.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("present", [None, torch.tensor([0, 2, 3, 7, 9])])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_upgrad_is_torchjds(encoder, present):
    model = model_of(BINARY, encoder)
    expected = aggregated(model, plain(model), present)
    found = aggregated(model, jacobian_of(model), present)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", ["upgrad", "mgda", "pcgrad", "mean", "sum", "random", "constant"])
def test_rows_stay_on_top_of_each_other(name, monkeypatch):
    model, options = model_of(BINARY), {"weights": [1.0 + i for i in range(10)]}
    options = options if name == "constant" else {}
    torch.manual_seed(0)
    expected = aggregated(model, plain(model, name, options))
    monkeypatch.delattr(SparseRows, "dense")
    torch.manual_seed(0)
    found = aggregated(model, jacobian_of(model, name, options))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


WHERE = {
    "features": lambda model: None,
    "layer's weight": lambda model: model.encoder.layers[-1].weight,
    "hidden weight": lambda model: model.encoder.layers[0].weight,
    "encoding": lambda model: model.head.encoding,
    "block": lambda model: model.task_rows()[0].parameter,
}


@pytest.mark.parametrize("aggregator", ["upgrad", "mean"])
@pytest.mark.parametrize("where", WHERE)
def test_tensor_hooks_see_the_combined_gradient_once(where, aggregator):
    model, seen = model_of(BINARY), []
    jacobian = jacobian_of(model, aggregator)
    before = aggregated(model, jacobian)
    tensor = WHERE[where](model)
    if tensor is None:
        model.encoder.register_forward_hook(
            lambda _, __, features: features.register_hook(seen.append) and None
        )
    else:
        tensor.register_hook(seen.append)
    found = aggregated(model, jacobian)
    torch.testing.assert_close(found, before)
    assert len(seen) == 1
    if tensor is not None:
        torch.testing.assert_close(seen[0], tensor.grad)
    else:
        weight, bias = model.encoder.layers[-1].weight, model.encoder.layers[-1].bias
        torch.testing.assert_close(seen[0].sum(0), bias.grad)
        assert seen[0].shape == (6, len(weight))


def test_a_hook_s_gradient_is_the_one_that_counts():
    model = model_of(BINARY)
    jacobian = jacobian_of(model)
    before = aggregated(model, jacobian)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: 2 * gradient)
    torch.testing.assert_close(aggregated(model, jacobian), 2 * before)


HEAD_HOOKS = {
    "input": lambda head: head.register_forward_pre_hook(lambda _, args: (args[0].roll(1, 1),)),
    "output": lambda head: head.register_forward_hook(lambda _, __, logits: 2 * logits.sin()),
}


@pytest.mark.parametrize("hook", HEAD_HOOKS)
def test_a_head_with_hooks_is_differentiated_row_by_row(hook):
    model = model_of(BINARY)
    jacobian = jacobian_of(model)
    before = aggregated(model, jacobian)
    # Which may come when training has begun.
    HEAD_HOOKS[hook](model.head)
    found, expected = aggregated(model, jacobian), aggregated(model, plain(model))
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


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
def test_training_is_the_same_as_row_by_row(aggregator, frozen, monkeypatch):
    def trained(**options):
        model = model_of(BINARY)
        if frozen is not None:
            (model.encoder if frozen == "encoder" else model.head.encoding).requires_grad_(False)
        qmtl.fit(model, data(), aggregator=aggregator, max_epochs=1, seed=0, restore_best=False,
                 optimizer="sgd", **QUIET, **options)  # fmt: skip
        return model.state_dict()

    one = trained()
    monkeypatch.setattr(SharedJacobian, "_find_groups", lambda self: None)
    other = trained(jacobian_chunk=3)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-9, atol=1e-11)


def _half(rank, store, grouped, file):
    """One of two processes, with half of the rows."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    model = model_of(BINARY)
    # If one of them has no rows in groups, the other takes its way.
    jacobian = jacobian_of(model)
    half = inputs()[rank::2]
    step = jacobian.forward(half) if grouped or rank else None
    logits = model(half, joined=True) if step is None else step.logits
    jacobian.aggregate(logits.sin().sum(0), None, step)
    if not rank:
        torch.save([p.grad for p in model.parameters()], file)
    torch.distributed.destroy_process_group()
    # Without Python's own end: a thread of Gloo that asks for the interpreter lock then aborts.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [True, False])
def test_rows_of_two_processes_add_up(tmp_path, grouped):
    arguments = (str(tmp_path / "store"), grouped, str(tmp_path / "gradients"))
    # Forks, since a new process would import everything again.
    torch.multiprocessing.start_processes(_half, arguments, nprocs=2, start_method="fork")
    found = torch.load(tmp_path / "gradients")
    model = model_of(BINARY)
    jacobian = jacobian_of(model)
    losses = model(inputs(), joined=True).sin().sum(0)
    each = [torch.autograd.grad(loss, jacobian.shared, retain_graph=True) for loss in losses]
    matrix = torch.stack([torch.cat([g.flatten() for g in row]) for row in each])
    own = torch.autograd.grad(losses.sum(), jacobian.own)
    expected = dict(zip(map(id, jacobian.own), own, strict=True))
    sizes = [p.numel() for p in jacobian.shared]
    parts = UPGrad()(matrix).split(sizes)
    expected |= {id(p): part.view_as(p) for p, part in zip(jacobian.shared, parts, strict=True)}
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, expected[id(parameter)], rtol=0, atol=1e-10)
