"""A model with one task more, and training of some tasks only."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import qmtl
from qmtl._growth import widened
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task

OLD = [Task.binary("a"), Task.regression("b"), Task.multiclass("c", 3)]
NEW = [
    Task.binary("new"),
    Task.multiclass("new", 5),
    Task.multilabel("new", 3),
    Task.regression("new", 2),
]
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))


def model(kind="partitioned", encoder=None):
    circuit = qmtl.HeadCircuit(OLD, layout="shared" if kind == "shared" else "partitioned")
    head = qmtl.QuantumHead(circuit, seed=0)
    if kind == "linear":
        head = qmtl.LinearHead(OLD, circuit.n_features, seed=0)
    encoder = encoder or qmtl.encoders.MLP(4, 8, out_features=head.n_features, seed=0)
    made = qmtl.MultiTaskModel(encoder, head)
    made.set_target_scale("b", torch.tensor(7.0), torch.tensor(1.5))
    return made


def data(tasks):
    labels = {"binary": X[:, 0] > 0, "regression": X[:, 1], "multiclass": (X[:, 2] > 0).long()}
    return qmtl.data.from_arrays(X, {t.name: labels[t.kind] for t in tasks}, tasks=tasks)


def begins_with(larger, smaller):
    """Whether each tensor of a state is the beginning of the larger state's."""
    return all(
        torch.equal(larger[key][: len(value)] if value.ndim else larger[key], value)
        for key, value in smaller.items()
    )


def test_a_model_of_ones_own_class_grows_into_a_plain_one():
    class Mine(qmtl.MultiTaskModel):
        def __init__(self):
            plain = model()
            super().__init__(plain.encoder, plain.head)

    mine = Mine()
    labels = (X[:, 0] > 0).float()
    for larger in (mine.with_task(NEW[0], seed=0), mine.adapt(NEW[0], (X, labels))):
        assert type(larger) is qmtl.MultiTaskModel
        assert torch.equal(larger.predict(X, ["a"])["a"], mine.eval().predict(X, ["a"])["a"])


@pytest.mark.parametrize("kind", ["partitioned", "shared", "linear"])
@pytest.mark.parametrize("task", NEW, ids=lambda task: task.kind)
def test_other_tasks_keep_their_parameters_and_predictions(kind, task):
    if kind == "shared" and task.n_outputs > 2:
        pytest.skip("more outputs than its wires have")
    old = model(kind)
    before = copy.deepcopy(old.state_dict())
    larger = old.with_task(task, seed=1)
    assert [t.name for t in larger.tasks] == ["a", "b", "c", "new"]
    assert begins_with(larger.state_dict(), before)
    ours, theirs = larger.predict(X), old.predict(X)
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-5, atol=1e-5)
        # Where tasks have registers and features of their own, bit for bit.
        assert kind != "partitioned" or torch.equal(ours[name], values)
    # The model itself is left alone, and shares nothing with the larger one.
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.add_(1)
    assert all(torch.equal(old.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_stay_bit_for_bit_in_batches_of_every_size(hidden, dtype):
    for tasks in (OLD, OLD[:1], OLD[2:], [Task.binary(f"t{i}") for i in range(7)]):
        circuit = qmtl.HeadCircuit(tasks)
        encoder = qmtl.encoders.MLP(4, *hidden, out_features=circuit.n_features, seed=0)
        old = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0)).to(dtype)
        larger = old.with_task(NEW[1], seed=1)
        twice = larger.with_task(Task.regression("more"), seed=2)
        last = tasks[-1].name
        for n in (1, 3, 60):
            expected, ours, again = (m.predict(X[:n]) for m in (old, larger, twice))
            for name, values in expected.items():
                assert torch.equal(ours[name], values)
                assert torch.equal(again[name], values)
            assert torch.equal(again["new"], ours["new"])
            some = larger.predict(X[:n], ["new", last])
            assert torch.equal(some[last], old.predict(X[:n], [last])[last])
        # The logits of the whole model are the same but for rounding.
        whole = larger.predictions(larger(X.to(dtype)))
        for name, values in larger.predict(X).items():
            torch.testing.assert_close(whole[name], values, rtol=1e-5, atol=1e-5)


def test_the_larger_model_reads_the_same_tables():
    table = pd.DataFrame(X.numpy(), columns=list("wxyz")).assign(a=(X[:, 0] > 0).numpy())
    trained = qmtl.data.from_frame(table, targets=["a"])
    circuit = qmtl.HeadCircuit(trained.tasks)
    encoder = qmtl.encoders.MLP(4, 8, out_features=circuit.n_features, seed=0)
    old = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    qmtl.fit(old, trained, max_epochs=1, progress=False)
    larger = old.with_task(NEW[0], seed=1)
    assert larger.columns == old.columns is not None
    assert torch.equal(larger.predict(table)["a"], old.predict(table)["a"])


def test_growing_twice_and_saving(tmp_path):
    larger = model().with_task(NEW[0], seed=1).with_task(Task.regression("more"), seed=2)
    larger.save(tmp_path)
    again = qmtl.load(tmp_path)
    assert again.head.circuit == larger.head.circuit
    for name, values in larger.predict(X).items():
        assert torch.equal(again.predict(X)[name], values)


def test_the_new_register_is_of_ones_own_choice():
    ansatz = qmtl.RotationAnsatz(n_layers=3)
    larger = model().with_task(NEW[0], wires=3, ansatz=ansatz, readout=qmtl.PauliStrings(["ZZI"]))
    register = larger.head.circuit.register("new")
    assert (len(register.wires), register.readout.strings) == (3, ("ZZI",))
    assert larger.head.circuit.ansatz("new") == ansatz
    assert larger.head.circuit.ansatz("a") == qmtl.RotationAnsatz()


def test_types_modes_and_frozen_tasks_are_kept():
    old = model().double().eval()
    old.head.freeze("b")
    old.encoder.requires_grad_(False)
    larger = old.with_task(NEW[0])
    assert {p.dtype for p in larger.parameters()} == {torch.float64}
    assert larger.head.frozen_tasks == {"b"}
    assert not larger.training
    assert not any(p.requires_grad for p in larger.encoder.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.with_task(OLD[0]), "the name 'a' is used twice"),
        (lambda m: m.with_task("a"), "expected a Task"),
        (lambda m: model("shared").with_task(NEW[0], wires=9), "in the shared layout all tasks"),
        (lambda m: model("linear").with_task(NEW[0], wires=3), "a LinearHead takes no wires"),
        (lambda m: m.with_task(NEW[1], wires=2), "needs 3|at least 3|3 wires"),
    ],
)
def test_what_cannot_grow_says_why(change, words):
    with pytest.raises(InvalidInputError, match=words):
        change(model())


def test_a_last_layer_that_does_more_does_not_grow():
    """Its further rows would be further inputs of itself."""
    layer, tied = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[0].weight = tied[1].weight
    for encoder in (nn.Sequential(layer, nn.ReLU(), layer), tied):
        head = qmtl.QuantumHead(qmtl.HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        with pytest.raises(InvalidInputError, match="does not end in a linear layer"):
            qmtl.MultiTaskModel(encoder, head).with_task(NEW[0])


@pytest.mark.parametrize("part", ["encoder.layers.0", "head", "head.blocks"])
def test_pruned_models_say_what_to_do_first(part):
    old = model()
    module = old.get_submodule(part)
    name, _ = next(module.named_parameters(recurse=False))
    prune.random_unstructured(module, name, 0.5)
    old(X)
    steps = [lambda: old.with_task(NEW[0]), lambda: qmtl.merge([old, old])]
    if part != "encoder.layers.0":
        steps.append(lambda: old.adapt(NEW[0], (X, X[:, 0] > 0)))
    for step in steps:
        with pytest.raises(InvalidInputError, match="are pruned or parametrised, and would not"):
            step()
    prune.remove(module, name)
    assert torch.equal(old.with_task(NEW[0], seed=0).predict(X)["a"], old.predict(X)["a"])


def test_an_encoder_without_a_last_layer_needs_another():
    tanh = lambda n: nn.Sequential(nn.Linear(4, n), nn.Tanh())  # noqa: E731
    old = model(encoder=tanh(6))
    with pytest.raises(InvalidInputError, match=r"does not end in a linear layer .* give encoder="):
        old.with_task(NEW[0])
    assert old.with_task(NEW[0], encoder=tanh(8)).head.n_features == 8
    with pytest.raises(InvalidInputError, match=r"encoder gives 6 features|takes 8"):
        old.with_task(NEW[0], encoder=qmtl.encoders.MLP(4, out_features=6))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aggregator": "upgrad"},
        {"scalarizer": "uw"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"gradient_clip": 0.1},
        {"accumulate_grad_batches": 2},
    ],
)
@pytest.mark.parametrize("kind", ["partitioned", "shared", "linear"])
def test_training_some_tasks_leaves_the_others_bit_for_bit(kind, options):
    larger = model(kind).with_task(NEW[0], seed=1)
    before, values = copy.deepcopy(larger.state_dict()), larger.predict(X)
    result = qmtl.fit(
        larger, data([NEW[0]]), tasks=["new"], max_epochs=2, progress=False, **options
    )
    after, found = larger.state_dict(), larger.predict(X)
    assert all(torch.equal(found[name], values[name]) for name in "abc")
    assert not torch.equal(found["new"], values["new"])
    assert begins_with(after, model(kind).state_dict())
    assert list(result.metrics["test"]) == ["new"]
    if kind == "partitioned":
        # What only the new task sees is trained: its features and its encoding.
        for key, n_old in (("encoder.layers.3.weight", 6), ("head.encoding", 6)):
            assert not torch.equal(after[key][n_old:], before[key][n_old:])


def test_some_tasks_of_data_that_have_all():
    old = model()
    before = old.predict(X)
    result = qmtl.fit(old, data(OLD), tasks=["c", "a"], max_epochs=2, progress=False)
    found = old.predict(X)
    assert torch.equal(found["b"], before["b"])
    assert not any(torch.equal(found[name], before[name]) for name in "ac")
    assert set(result.metrics["test"]) == {"a", "c"}
    with pytest.raises(InvalidInputError, match="unknown task 'd'"):
        qmtl.fit(old, data(OLD), tasks=["d"], progress=False)


def test_other_tasks_on_one_state_keep_their_bits():
    tasks = [qmtl.Task.binary("a"), qmtl.Task.binary("b")]
    head = qmtl.QuantumHead(qmtl.HeadCircuit(tasks, qmtl.AngleEncoding(3)), seed=0)
    (group,) = head.simulator.plan(head.circuit).groups
    assert group.joint is not None
    rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = head(rows), head.expectation_values(head.angles(rows))
        head.blocks["a"].add_(0.3)
        after = head(rows), head.expectation_values(head.angles(rows))
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old["b"], new["b"])
        assert not torch.equal(old["a"], new["a"])


def test_batch_statistics_of_the_encoder_are_not_touched():
    layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8))
    larger = qmtl.MultiTaskModel(layers, model().with_task(NEW[0]).head)
    before = larger.eval().predict(X)
    qmtl.fit(larger, data([NEW[0]]), tasks=["new"], max_epochs=1, progress=False)
    assert all(torch.equal(larger.predict(X)[name], before[name]) for name in "abc")


def test_without_a_seed_every_growth_draws_anew():
    encoder = torch.nn.Linear(3, 2)
    first, second = (widened(encoder, 2, 4, None).weight[2:] for _ in range(2))
    assert not torch.equal(first, second)
