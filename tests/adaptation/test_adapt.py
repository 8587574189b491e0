"""A new task on a trained model: the others' outputs stay, and the fits are what they say."""

import numpy as np
import pytest
import torch
from torch import nn

import qmtl
from qmtl.adaptation import METHODS
from qmtl.adaptation._fits import STRENGTHS, ridge_fit, spectral_fit_of
from qmtl.errors import InvalidInputError
from qmtl.heads import ExtendedHead, reading_circuit
from qmtl.tasks import Task
from tests.training.samples import SIMULATOR

OLD = [Task.binary("a"), Task.regression("b"), Task.multiclass("c", 3)]
X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
LABELS = {
    "binary": (Task.binary("new"), (X[:, 0] > 0).float()),
    "multiclass": (Task.multiclass("new", 3), (X[:, 0] > 0).long() + (X[:, 1] > 0).long()),
    "multilabel": (Task.multilabel("new", 2), (X[:, :2] > 0).float()),
    "regression": (Task.regression("new"), 100 * X[:, 0].double() + 7),
}


def model(kind="partitioned"):
    circuit = qmtl.HeadCircuit(OLD, layout="shared" if kind == "shared" else "partitioned")
    makers = {
        "linear": lambda: qmtl.LinearHead(OLD, circuit.n_features, seed=0),
        "vqc": lambda: qmtl.VQCPerTaskHead(circuit, seed=0),
    }
    head = makers.get(kind, lambda: qmtl.QuantumHead(circuit, SIMULATOR, seed=0))()
    made = qmtl.MultiTaskModel(qmtl.encoders.MLP(4, 16, out_features=head.n_features, seed=0), head)
    made.set_target_scale("b", torch.tensor(7.0), torch.tensor(1.5))
    return made


@pytest.mark.parametrize(
    ("kind", "method"),
    [("partitioned", "block"), ("partitioned", "ridge"), ("shared", "ridge"), ("linear", "block"),
     ("vqc", "ridge"), ("partitioned", "smart")],
)  # fmt: skip
def test_other_tasks_keep_every_bit(kind, method):
    old = model(kind)
    state = repr(np.random.get_state())
    larger = old.adapt(LABELS["binary"][0], (X, LABELS["binary"][1]), methods=[method])
    assert larger.head.notes["new"]["method"] == method
    assert repr(np.random.get_state()) == state
    for asked in (None, ["a"], ["c", "a"]):
        found = larger.predict(X, asked)
        for name, values in old.predict(X, asked).items():
            assert torch.equal(found[name], values)
    # Nothing is shared with the model that it came from.
    before = {key: value.clone() for key, value in old.state_dict().items()}
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.add_(1)
    assert all(torch.equal(old.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("method", "asked"),
    [("block", None), ("ridge", None), ("ridge", ["c"]), ("ridge", ["b", "a"]), ("ridge", ["new"])],
)
def test_a_grown_model_keeps_every_bit_too(method, asked):
    grown = model().with_task(Task.binary("d"), seed=1).with_task(Task.binary("e"), seed=2)
    larger = grown.adapt(LABELS["binary"][0], (X, LABELS["binary"][1]), methods=[method])
    found = larger.predict(X, asked)
    assert set(found) == set(asked or ["a", "b", "c", "d", "e", "new"])
    old = None if asked is None else [name for name in asked if name != "new"]
    for name, values in grown.predict(X, old).items() if old != [] else ():
        assert torch.equal(found[name], values)
    assert torch.equal(larger.predict(X)["new"], larger.predict(X, ["new"])["new"])


@pytest.mark.parametrize("gate", ["mmoe", "dselect", "exclusive", "home"])
def test_a_model_with_experts_keeps_every_bit_whatever_is_asked(gate):
    tasks = [Task.binary(name) for name in "abcdefg"]
    head = qmtl.QuantumHead(qmtl.HeadCircuit(tasks), seed=0)
    options = {"groups": [list("abc"), list("defg")]} if gate == "home" else {}
    encoder = qmtl.encoders.Experts(4, head.task_columns(), 4, gate=gate, seed=0, **options)
    old = qmtl.MultiTaskModel(encoder, head)
    larger = old.adapt(LABELS["binary"][0], (X, LABELS["binary"][1]), methods=["ridge"])
    for asked in (None, ["a"], ["g", "b"]):
        found = larger.predict(X, asked)
        for name, values in old.predict(X, asked).items():
            assert torch.equal(found[name], values)


def test_without_gradients_around_it():
    task, labels = LABELS["binary"]
    found = []
    for around in (torch.no_grad(), torch.enable_grad()):
        with around:
            found.append(model().adapt(task, (X, labels), methods=["block"]).predict(X)["new"])
    assert torch.equal(*found)


def test_features_that_do_not_change_give_a_constant():
    """The encoder of this model is dead: nothing in the inputs tells the classes apart."""
    old = model()
    with torch.no_grad():
        for parameter in old.encoder.parameters():
            parameter.zero_()
    labels = torch.arange(80) % 4 == 0
    found = old.adapt(Task.binary("new"), (X, labels), methods=METHODS).predict(X, ["new"])["new"]
    assert found.unique().numel() == 1
    assert float(found[0]) == pytest.approx(0.25, abs=0.15)


@pytest.mark.parametrize("kind", LABELS)
def test_every_kind_of_task_is_learned(kind):
    task, labels = LABELS[kind]
    larger = model().adapt(task, (X, labels), seed=1)
    scores = task.evaluate(larger.predict(X)["new"], labels)
    base = task.evaluate(task.baseline(labels).expand(len(X), *task.baseline(labels).shape), labels)
    main = task.main_metric
    gain = scores[main] - base[main] if main != "mse" else base[main] - scores[main]
    assert gain > 0.15
    note = larger.head.notes["new"]
    assert note["rows"] == 80
    assert note["method"] == min(note["losses"], key=note["losses"].get)


@pytest.mark.parametrize("kind", LABELS)
def test_a_label_of_each_class_is_enough(kind):
    task, labels = LABELS[kind]
    rows = [int(labels.reshape(len(labels), -1)[:, 0].eq(value).nonzero()[0]) for value in
            labels.reshape(len(labels), -1)[:, 0].unique()[:3]]  # fmt: skip
    larger = model().double().adapt(task, (X[rows].double(), labels[rows]))
    assert larger.head.notes["new"]["rows"] == len(rows)
    assert larger.predict(X)["new"].isfinite().all()


def test_missing_labels_and_scales():
    labels = LABELS["regression"][1].clone()
    labels[::2] = float("nan")
    larger = model().adapt(LABELS["regression"][0], (X, labels), methods=["ridge"])
    mean, std = larger.target_scale(["new"])
    torch.testing.assert_close(mean[0], labels.nanmean())
    torch.testing.assert_close(std[0], labels[1::2].std(correction=0), rtol=1e-6, atol=0)
    assert larger.head.notes["new"]["rows"] == 40
    # The scale of the others stays.
    assert [v.item() for v in larger.target_scale(["b"])] == [7.0, 1.5]


def test_one_after_the_other_saved_and_loaded(tmp_path):
    first = model().adapt(LABELS["binary"][0], (X, LABELS["binary"][1]), methods=["block"])
    task = Task.multiclass("more", 3)
    second = first.adapt(task, (X, LABELS["multiclass"][1]), methods=["ridge"])
    third = second.adapt(Task.binary("last"), (X, X[:, 2] > 0), methods=["logistic"])
    assert isinstance(third.head.base, qmtl.QuantumHead)
    assert [t.name for t in third.tasks] == ["a", "b", "c", "new", "more", "last"]
    third.save(tmp_path)
    again = qmtl.load(tmp_path)
    assert again.head.notes == third.head.notes
    for earlier in (model(), first, second, third):
        for name, values in earlier.predict(X).items():
            assert torch.equal(again.predict(X)[name], values)
    features = again.encoder(X)
    whole, found = again.head(features), again.head(features, ["last", "a", "new"])
    assert list(found) == ["last", "a", "new"]
    assert all(torch.equal(whole[name], values) for name, values in found.items())


def test_an_adapted_model_trains_on():
    larger = model().adapt(LABELS["binary"][0], (X, LABELS["binary"][1]), methods=["ridge"])
    labels = {"a": X[:, 0] > 0, "b": X[:, 1], "c": (X[:, 2] > 0).long(), "new": X[:, 3] > 0}
    data = qmtl.data.from_arrays(X, labels, tasks=list(larger.tasks))
    own = larger.head.readouts.weight["new"].clone()
    qmtl.fit(larger, data, max_epochs=2, progress=False)
    assert not torch.equal(larger.head.readouts.weight["new"], own)


def test_readings_are_expectation_values_of_the_frozen_circuit():
    head = model().head
    extended = ExtendedHead(head, [Task.binary("new")], seed=0)
    features = torch.randn(5, head.n_features)
    values = head.expectation_values(head.angles(features))
    joined = extended.readings(features)
    # "a" and "b" are read by Z on their first wires; strings of a register begin with that one.
    torch.testing.assert_close(joined[:, 0], values["a"][:, 0])
    torch.testing.assert_close(joined[:, 3], values["b"][:, 0])
    # Probabilities of two wires: Z on the first is p(00) + p(01) - p(10) - p(11).
    probabilities = values["c"]
    fourth = 1 - probabilities.sum(dim=1)
    z = probabilities[:, 0] + probabilities[:, 1] - probabilities[:, 2] - fourth
    torch.testing.assert_close(joined[:, 6], z)
    # And by another simulator.
    circuit = reading_circuit(head.circuit)
    weights = torch.cat([head.encoding, head.blocks()])
    other = qmtl.simulators.simulator_for("default.qubit")
    expected = other.expectation_values(circuit, head.angles(features), weights, None)
    torch.testing.assert_close(joined, torch.cat(list(expected.values()), dim=1).float())


def test_ridge_has_the_strength_of_leave_one_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5))
    y = x @ rng.normal(size=5) + 2 * rng.normal(size=30)
    errors = []
    for strength in STRENGTHS * len(x):
        left = []
        for i in range(len(x)):
            keep = np.arange(len(x)) != i
            centre, level = x[keep].mean(axis=0), y[keep].mean()
            inner = x[keep] - centre
            w = np.linalg.solve(inner.T @ inner + strength * np.eye(5), inner.T @ (y[keep] - level))
            left.append((y[i] - level - (x[i] - centre) @ w) ** 2)
        errors.append(np.mean(left))
    strength = STRENGTHS[int(np.argmin(errors))] * len(x)
    inner = x - x.mean(axis=0)
    w = np.linalg.solve(inner.T @ inner + strength * np.eye(5), inner.T @ (y - y.mean()))
    found, bias = ridge_fit(x, torch.from_numpy(y), Task.regression("y"))
    np.testing.assert_allclose(found[0], w, rtol=1e-6)
    np.testing.assert_allclose(bias[0], y.mean() - x.mean(axis=0) @ w, rtol=1e-6)


def test_spectral_transfer_stays_in_the_sources_span_and_needs_fewer_labels():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(3, 40))
    target = rng.normal(size=3) @ source
    x, far = rng.normal(size=(15, 40)), rng.normal(size=(200, 40))
    y = torch.from_numpy(x @ target)
    task = Task.regression("y")
    w, _ = spectral_fit_of(source)(x, y, task)
    inside = np.linalg.lstsq(source.T, w[0], rcond=None)[0] @ source
    np.testing.assert_allclose(inside, w[0], atol=1e-9)
    ridge, _ = ridge_fit(x, y, task)
    errors = [np.mean((far @ (found[0] - target)) ** 2) for found in (w, ridge)]
    assert errors[0] < errors[1] / 10


# Half of the labels are wrong, and hardly count.
GOOD = torch.arange(len(X)) % 2 == 0
WEIGHTS = torch.where(GOOD, 3.0, 1e-9)
WRONG = torch.where(GOOD, X[:, 0] > 0, X[:, 0] <= 0).float()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "vector"])
def test_rows_count_by_their_weight(method):
    task, values = Task.binary("new"), model().predict(X)["a"]
    right = (values > values.median()).float()
    wrong = torch.where(GOOD, right, 1 - right)
    larger = model().adapt(task, (X, wrong), sample_weight=WEIGHTS, methods=[method])
    assert task.evaluate(larger.predict(X)["new"], right)["accuracy"] > 0.85
    # And so do they where methods are compared.
    assert larger.head.notes["new"]["scores"]["accuracy"] > 0.85
    plain = model().adapt(task, (X, wrong), methods=[method])
    assert task.evaluate(plain.predict(X)["new"], right)["accuracy"] < 0.75


@pytest.mark.parametrize("kind", LABELS)
def test_rows_without_weight_are_as_if_they_were_not_there(kind):
    task, labels = LABELS[kind]
    some = model().adapt(task, (X, labels), sample_weight=GOOD, methods=["ridge", "smart"])
    half = model().adapt(task, (X[GOOD], labels[GOOD]), methods=["ridge", "smart"])
    assert some.head.notes["new"]["rows"] == 40
    torch.testing.assert_close(some.predict(X)["new"], half.predict(X)["new"])
    # As good as without it, too: what it says is in parts of the largest.
    tiny = model().adapt(task, (X, labels), sample_weight=WEIGHTS, methods=["ridge"])
    half = model().adapt(task, (X[GOOD], labels[GOOD]), methods="ridge")
    torch.testing.assert_close(tiny.predict(X)["new"], half.predict(X)["new"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tiny.target_scale(["new"]), half.target_scale(["new"]))


def test_data_have_their_own_weights():
    splits = {"train": range(40), "validation": range(40, 70), "test": range(70, 80)}
    data = qmtl.data.from_arrays(
        X, {"new": WRONG}, tasks=[Task.binary("new")], sample_weight=WEIGHTS,
        splits={name: list(rows) for name, rows in splits.items()},
    )  # fmt: skip
    found = model().adapt(data.tasks[0], data, methods=["ridge"])
    pair = model().adapt(
        data.tasks[0], (X[:70], WRONG[:70]), sample_weight=WEIGHTS[:70], methods=["ridge"]
    )
    torch.testing.assert_close(found.predict(X), pair.predict(X))


def test_ridge_counts_a_row_of_weight_two_twice():
    """The strength too: that of leave-one-out, each error times its weight."""
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(30, 5)), rng.integers(1, 4, 30).astype(float)
    y, w = x @ rng.normal(size=5) + 2 * rng.normal(size=30), w / w.mean()

    def fitted(keep, strength):
        own = w[keep] / w[keep].sum()
        centre, level = own @ x[keep], own @ y[keep]
        inner = x[keep] - centre
        gram = inner.T @ (w[keep, None] * inner) + strength * np.eye(5)
        return np.linalg.solve(gram, inner.T @ (w[keep] * (y[keep] - level))), centre, level

    errors = []
    for strength in STRENGTHS * len(x):
        left = [(fitted(np.arange(30) != i, strength), i) for i in range(30)]
        errors.append(sum(w[i] * (y[i] - b - (x[i] - c) @ v) ** 2 for (v, c, b), i in left))
    v, centre, level = fitted(np.arange(30) >= 0, STRENGTHS[int(np.argmin(errors))] * len(x))
    found, bias = ridge_fit(x, torch.from_numpy(y), Task.regression("y"), w)
    np.testing.assert_allclose(found[0], v, rtol=1e-6)
    np.testing.assert_allclose(bias[0], level - centre @ v, rtol=1e-6)


def _data(name, task, labels):
    return qmtl.data.from_arrays(X, {name: labels}, tasks=[task])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, y: m.adapt(OLD[0], (X, y)), "has a task 'a' already; its tasks are a, b, c"),
        (lambda m, y: m.adapt("new", (X, y)), "new_task must be a Task, got a str"),
        (
            lambda m, y: m.adapt(Task.regression("n"), (X, 0 * y + 7)),
            r"two different values, .*\[7.0\]",
        ),
        (lambda m, y: m.adapt((X, y), Task.binary("n")), "new_task must be a Task, got a tuple"),
        (lambda m, y: m.adapt(Task.binary("n"), (X, 0 * y)), r"two different classes, .*\[0.0\]"),
        (
            lambda m, y: m.adapt(Task.multilabel("n", 2), (X[:1], torch.tensor([[0, 1]]))),
            "task 'n': at least two labelled rows are needed, got 1",
        ),
        (lambda m, y: m.adapt(Task.binary("n"), (X[:9], y)), "9 rows of inputs and 80 labels"),
        (lambda m, y: m.adapt(Task.binary("n"), (X[:, :3], y)), "3|shape"),
        (lambda m, y: m.adapt(Task.binary("n"), X), "a pair of inputs and labels, got Tensor"),
        (lambda m, y: m.adapt(Task.binary("n"), (X, y), methods=["ridg"]), "did you mean 'ridge'"),
        (lambda m, y: m.adapt(Task.binary("n"), (X, y), methods=None), "unknown method None"),
        (
            lambda m, y: m.adapt(Task.regression("n"), (X, y), methods=["logistic"]),
            "for the regression task 'n'",
        ),
        (
            lambda m, y: m.adapt(Task.binary("n"), (X, y), sample_weight=y[:9]),
            r"sample_weight: expected .* shape \(80,\), got shape \(9,\)",
        ),
        (
            lambda m, y: m.adapt(
                Task.binary("n"), _data("n", Task.binary("n"), y), sample_weight=y
            ),
            "goes with a pair of inputs and labels",
        ),
        (
            lambda m, y: m.adapt(Task.binary("n"), _data("other", Task.binary("other"), y)),
            "unknown task 'n'",
        ),
        (
            lambda m, y: m.adapt(Task.binary("n"), _data("n", Task.regression("n"), y)),
            "'n' is binary with 1 outputs; the data's is regression",
        ),
    ],
)
def test_what_does_not_fit_says_why(change, words):
    with pytest.raises((InvalidInputError, RuntimeError), match=words):
        change(model(), LABELS["binary"][1])


def test_a_head_of_ones_own_says_why():
    class Own(nn.Module):
        tasks, n_features = OLD, 4

    with pytest.raises(InvalidInputError, match=r"only a head of qmtl.heads .* got a Own"):
        qmtl.MultiTaskModel(nn.Identity(), Own()).adapt(Task.binary("n"), (X, X[:, 0] > 0))


def test_a_method_that_ran_on_one_fold_is_not_chosen(monkeypatch):
    """It fell behind on the first fold, and others' harder folds do not bring it back."""
    fold = []

    def first(readings, targets, task, weights):
        fold.append(1)
        bias = 0.0 if len(fold) == 1 else 50.0
        return np.zeros((1, readings.shape[1])), np.array([bias])

    def second(readings, targets, task, weights):
        return np.zeros((1, readings.shape[1])), np.array([5.0])

    found = {"ridge": first, "smart": second}
    monkeypatch.setattr("qmtl.adaptation._adapt.fits", lambda task, source: found)
    task, labels = LABELS["regression"]
    note = model().adapt(task, (X, labels), methods=["ridge", "smart"]).head.notes["new"]
    assert note["losses"]["smart"] < note["losses"]["ridge"]
    assert note["method"] == "ridge"


@pytest.mark.parametrize("gated", [False, True])
def test_what_takes_no_extended_or_gated_head_says_what_to_take(gated):
    from qmtl.hardware import prepare
    from qmtl.heads import HeadOptions, build_head

    old = model()
    if gated:
        tasks = [Task.binary("a"), Task.binary("b")]
        head = build_head("quantum", qmtl.HeadCircuit(tasks), HeadOptions(gates=True))
        found = qmtl.MultiTaskModel(qmtl.encoders.MLP(4, out_features=head.n_features), head)
        words = r"Gated.*its two heads are model\.head\.own and model\.head\.common"
    else:
        found = old.adapt(LABELS["binary"][0], (X, LABELS["binary"][1]), methods=["ridge"])
        words = r"Extended.*the head that was extended is model\.head\.base"
    for call in (
        lambda: found.with_task(Task.binary("more")),
        lambda: qmtl.merge([found, found]),
        lambda: prepare(found, X[:2], "aer"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()
    if not gated:
        with pytest.raises(InvalidInputError, match=words):
            found.with_simulator("default.qubit")


@pytest.mark.parametrize("seed", [-1, 2**40, None])
def test_any_seed_of_torch_will_do(seed):
    larger = model().adapt(Task.binary("n"), (X, LABELS["binary"][1]), methods="ridge", seed=seed)
    assert larger.head.notes["n"]["method"] == "ridge"
