"""Merging: limiting cases, independent computations, what does not fit."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.merging import METHODS, differences, disjoint, projective, wrapped
from qmtl.merging._parts import shared_state
from qmtl.tasks import Task

A = [Task.binary("a"), Task.regression("b")]
C = [Task.binary("c"), Task.regression("d")]
X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
FREE = ("arithmetic", "disjoint", "projective")


def model(tasks=A, seed=0, layout="partitioned", width=8, head=None, **options):
    circuit = qmtl.HeadCircuit(tasks, layout=layout, **options)
    encoder = qmtl.encoders.MLP(5, width, out_features=circuit.n_features, seed=seed)
    made = head(circuit) if head else qmtl.QuantumHead(circuit, seed=seed)
    return qmtl.MultiTaskModel(encoder, made)


def moved(start, seed, size=0.3):
    """A model as if training had moved every weight."""
    twin, generator = copy.deepcopy(start), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return twin


def data(tasks):
    labels = {task.name: X[:, i] if i % 2 else X[:, i] > 0 for i, task in enumerate(tasks)}
    return qmtl.data.from_arrays(X, labels, tasks=tasks)


def same(one, other, rtol=0.0, atol=1e-5):
    found, expected = one.predict(X), other.predict(X)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=rtol, atol=atol)


@pytest.mark.parametrize("method", FREE)
@pytest.mark.parametrize("with_base", [True, False])
def test_one_model_and_equal_models_are_themselves(method, with_base):
    base = model()
    trained = moved(base, 1)
    given = base if with_base else None
    same(qmtl.merge([trained], method, base=given), trained)
    # What both changed alike is applied once: scales sum to 1.
    twins = [trained, copy.deepcopy(trained)]
    same(qmtl.merge(twins, method, base=given), trained)


@pytest.mark.parametrize("method", ["arithmetic", "disjoint"])
def test_a_scale_of_zero_is_the_base(method):
    base = model()
    merged = qmtl.merge([moved(base, 1), moved(base, 2)], method, base=base, scale=0.0)
    same(merged, base)


def test_arithmetic_is_the_sum_with_wrapped_angles():
    base = model()
    models = [moved(base, 1), moved(base, 2)]
    with torch.no_grad():
        # The short way from 3 to -3 leads through π.
        base.head.encoding.fill_(3.0)
        models[0].head.encoding.fill_(-3.0)
        models[1].head.encoding.fill_(3.0)
    merged = qmtl.merge(models, "arithmetic", base=base, scale=0.5)
    start, *ends = (m.encoder.state_dict() for m in (base, *models))
    for name, value in merged.encoder.state_dict().items():
        w = start[name].numpy() + 0.5 * sum(e[name].numpy() - start[name].numpy() for e in ends)
        np.testing.assert_allclose(value.numpy(), w, rtol=1e-5, atol=1e-6)
    expected = torch.full_like(base.head.encoding, 3 + 0.5 * (2 * math.pi - 6))
    torch.testing.assert_close(merged.head.encoding, expected)


def test_wrapped_angles_are_in_a_half_open_period():
    angles = torch.linspace(-20, 20, 1001, dtype=torch.float64)
    found = wrapped(angles)
    assert found.max() <= math.pi
    assert found.min() > -math.pi
    torch.testing.assert_close(torch.cos(found), torch.cos(angles))
    torch.testing.assert_close(torch.sin(found), torch.sin(angles))


def test_disjoint_elects_the_larger_change_in_units_of_its_tensor():
    rng = np.random.default_rng(0)
    taus = rng.normal(size=(3, 4, 5)) * np.array([1.0, 10.0, 0.1])[:, None, None]
    keep = 0.5
    importance = np.abs(taus) / np.sqrt((taus**2).mean(axis=(1, 2)))[:, None, None]
    for one in importance:
        one[one < np.sort(one.ravel())[-math.ceil(keep * one.size)]] = 0.0
    winner = importance.argmax(axis=0)
    expected = np.where(
        importance.max(axis=0) > 0, np.take_along_axis(taus, winner[None], axis=0)[0], 0.0
    )
    found = disjoint([{"w": torch.from_numpy(tau)} for tau in taus], keep=keep)["w"]
    np.testing.assert_allclose(found.numpy(), expected)
    assert (expected == 0).any()


def test_the_projective_shift_solves_its_normal_equations():
    """With gradient descent to its end: stationary off the shared subspace, zero within it."""
    rng = np.random.default_rng(0)
    taus = [rng.normal(size=(6, 4)) for _ in range(2)]
    vectors = [{"w": torch.from_numpy(tau)} for tau in taus]
    found = projective(vectors, 0.5, rank=0.25, steps=20_000)["w"].numpy()
    norms = np.array([np.linalg.norm(tau) for tau in taus])
    scales = 0.5 * 2 * (1 / norms) / (1 / norms).sum()
    start = sum(s * tau for s, tau in zip(scales, taus, strict=True))
    leading = np.concatenate([np.linalg.svd(tau)[0][:, :1] for tau in taus], axis=1)
    shared = np.linalg.svd(leading, full_matrices=False)[0][:, :1]
    shift = found - start
    np.testing.assert_allclose(shared.T @ shift, 0, atol=1e-8)
    gradient = sum((found - tau) @ tau.T @ tau / n**2 for tau, n in zip(taus, norms, strict=True))
    off = gradient - shared @ (shared.T @ gradient)
    np.testing.assert_allclose(off, 0, atol=1e-6)
    assert np.abs(shift).max() > 0.01


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_different_tasks_keep_their_blocks_and_targets(layout, tmp_path):
    start = model(layout=layout)
    one, two = moved(start, 1), moved(model(C, layout=layout), 2)
    one.set_target_scale("b", torch.tensor(5.0), torch.tensor(2.0))
    with torch.no_grad():
        # With equal shared parts each task predicts as before.
        for ours, theirs in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True):
            theirs.copy_(ours)
        two.head.encoding.copy_(one.head.encoding)
    merged = qmtl.merge([one, two])
    assert [task.name for task in merged.tasks] == ["a", "b", "c", "d"]
    expected = one.predict(X) | two.predict(X)
    for name, values in merged.predict(X).items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-5)
    merged.save(tmp_path)
    loaded = qmtl.load(tmp_path).predict(X)
    assert all(torch.equal(loaded[name], v) for name, v in merged.predict(X).items())
    assert merged.head.weights()["c"].equal(two.head.weights()["c"])


def test_each_model_may_keep_its_last_layer_and_encoding():
    """Then models that differ in these only predict as before, merged by any method."""
    one, two = model(), model(C)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*two.encoder.layers[-1].parameters(), two.head.encoding):
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    expected = one.predict(X) | two.predict(X)
    for method in FREE:
        found = qmtl.merge([one, two], method, base=model(), keep_last=True).predict(X)
        for name, values in found.items():
            torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-5)
    for models in ([one, one], [model(layout="shared"), model(C, layout="shared")]):
        with pytest.raises(InvalidInputError, match="keep_last=True is for models of different"):
            qmtl.merge(models, keep_last=True)


@pytest.mark.parametrize("keep_last", [False, True])
def test_merged_models_merge_and_grow(keep_last):
    names = ["abcd", "efgh"]
    pairs = [[[Task.binary(n) for n in own[i : i + 2]] for i in (0, 2)] for own in names]
    merged = [qmtl.merge([model(tasks) for tasks in own], keep_last=keep_last) for own in pairs]
    whole = qmtl.merge(merged, keep_last=keep_last)
    same(whole, merged[0])
    same(whole, merged[1])
    grown = whole.with_task(Task.binary("i"), seed=0)
    before, after = whole.predict(X), grown.predict(X)
    assert all(torch.equal(after[name], values) for name, values in before.items())


@pytest.mark.parametrize("head", [None, lambda c: qmtl.LinearHead(c.tasks, c.n_features, seed=0)])
@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_frozen_tasks_stay_frozen(layout, head):
    one, two = model(A, layout=layout, head=head), model(C, layout=layout, head=head)
    two.head.freeze("d")
    assert qmtl.merge([one, two]).head.frozen_tasks == {"d"}


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_frozen_circuits_stay_frozen(layout):
    frozen = lambda circuit: qmtl.QuantumHead(circuit, frozen=True, seed=0)  # noqa: E731
    merged = qmtl.merge([model(tasks, head=frozen, layout=layout) for tasks in (A, C)]).head
    assert merged.frozen
    assert not any(p.requires_grad for p in (merged.encoding, *merged.blocks.parameters()))
    assert not qmtl.merge([model(A, layout=layout), model(C, layout=layout)]).head.frozen


def test_linear_heads_merge_too():
    made = lambda tasks: lambda c: qmtl.LinearHead(tasks, c.n_features, seed=0)  # noqa: E731
    one, two = model(A, head=made(A)), model(C, head=made(C))
    merged = qmtl.merge([one, two])
    expected = one.predict(X) | two.predict(X)
    for name, values in merged.predict(X).items():
        torch.testing.assert_close(values, expected[name])


@pytest.mark.parametrize("method", ["concrete", "atm"])
def test_methods_with_data_lower_the_loss_of_the_plain_sum(method):
    base = model()
    models = [moved(base, 1, 0.8), moved(model(C), 2, 0.8)]
    sets = [data(A), data(C)]
    before = [copy.deepcopy(shared_state(m, False)) for m in models]
    merged = qmtl.merge(models, method, base=base, data=sets, steps=40, rounds=2)
    plain = qmtl.merge(models, base=base)

    def loss(found):
        parts = []
        for own in sets:
            logits = found(own.train.inputs)
            for task in own.tasks:
                targets = own.train.targets[task.name]
                parts.append(task.loss(logits[task.name], found.standardise(task, targets)).item())
        return sum(parts)

    assert loss(merged) < loss(plain)
    # The models themselves are left alone.
    for own, old in zip(models, before, strict=True):
        assert all(
            torch.equal(value, old[name]) for name, value in shared_state(own, False).items()
        )


def test_input_statistics_are_averaged():
    encoder = qmtl.encoders.MLP(5, 8, out_features=4, standardise=True, seed=0)
    base = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(qmtl.HeadCircuit(A), seed=0))
    models = [copy.deepcopy(base), copy.deepcopy(base)]
    for shift, own in enumerate(models):
        own.encoder.set_input_scale(X + 2 * shift)
    for method in FREE:
        merged = qmtl.merge(models, method, base=base)
        torch.testing.assert_close(merged.encoder.input_mean, X.mean(dim=0) + 1)


def test_a_mask_leaves_no_trace_in_the_given_models():
    """Models that are training, with dropout and statistics of batches, in double precision."""

    def made(tasks):
        circuit = qmtl.HeadCircuit(tasks)
        encoder = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5),
            torch.nn.Linear(8, circuit.n_features),
        )  # fmt: skip
        return qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0)).double().train()

    torch.manual_seed(0)
    models, found = [made(A), made(C)], []
    before = [copy.deepcopy(m.state_dict()) for m in models]
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(qmtl.merge(models, "concrete", data=[data(A), data(C)], steps=3))
    same(*found, atol=0.0)
    for own, old in zip(models, before, strict=True):
        assert own.training
        assert own.encoder[1].training
        assert all(torch.equal(value, old[key]) for key, value in own.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in own.parameters())


def test_a_mask_is_learned_on_rows_as_they_count():
    """A task whose rows count next to nothing is learned as if it had no labels there."""
    base = model()
    models, whole = [moved(base, 1), moved(base, 2)], data(A)
    rows = torch.arange(len(whole.train)) % 2 == 0
    weights = torch.where(rows, 1.0, 1e-12).double()
    light = replace(whole, train=replace(whole.train, sample_weight=weights))
    targets = {n: torch.where(rows, v, torch.nan) for n, v in whole.train.targets.items()}
    half = replace(whole, train=replace(whole.train, targets=targets))
    one, two, plain = (
        qmtl.merge(models, "concrete", base=base, data=[own, own], steps=5)
        for own in (light, half, whole)
    )
    same(one, two)
    assert not torch.allclose(one.predict(X)["a"], plain.predict(X)["a"], atol=1e-4)


def test_targets_scales_of_the_same_task_are_merged_whatever_the_order():
    models = [moved(model(), seed) for seed in (1, 2)]
    models[0].set_target_scale("b", torch.tensor(10.0), torch.tensor(1.0))
    models[1].set_target_scale("b", torch.tensor(20.0), torch.tensor(3.0))
    for order in (models, models[::-1]):
        mean, std = qmtl.merge(order).target_scale(["b"])
        assert (mean.item(), std.item()) == (15.0, 2.0)


def test_differences_name_the_angles():
    vector = differences(
        {"encoding": torch.tensor([6.0]), "encoder.w": torch.tensor([6.0])},
        {"encoding": torch.tensor([0.0]), "encoder.w": torch.tensor([0.0])},
    )
    torch.testing.assert_close(vector["encoding"], torch.tensor([6 - 2 * math.pi]))
    assert vector["encoder.w"].item() == 6


def _with_columns(names):
    made = model()
    made.columns = qmtl.data.TableColumns(tuple((name, 0.0, 1.0) for name in names))
    return made


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (list, "one or more MultiTaskModel, got none"),
        (lambda: [model(), model(C, width=9)], r"encoders differ .*\(8, 5\).*\(9, 5\)"),
        (
            lambda: [model(), model([*C, Task.binary("e")])],
            "numbers of features: model 1 4, model 2 6",
        ),
        (
            lambda: [model(layout="shared", n_wires=4), model(C, wires_per_task=2)],
            "layout shared, 4 wires.*layout partitioned, 4 wires",
        ),
        (
            lambda: [model(), model(head=lambda c: qmtl.LinearHead(A, c.n_features))],
            "model 1 has a QuantumHead, model 2 a LinearHead",
        ),
        (
            lambda: [
                model([Task.binary("a", class_names=("no", "yes")), A[1]]),
                model([Task.binary("a", class_names=("well", "ill")), A[1]]),
            ],
            "'no', 'yes'.*'well', 'ill'",
        ),
        (lambda: [model(), model(A[::-1])], "another order: a, b and b, a"),
        (lambda: [model(), model([A[0], C[1]])], "both have the task 'a'"),
        (lambda: [_with_columns("pqrst"), _with_columns("pqrsu")], "p, q, r, s, t.*p, q, r, s, u"),
    ],
)
def test_models_that_do_not_fit_are_both_named(models, words):
    with pytest.raises(InvalidInputError, match=words):
        qmtl.merge(models())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "aritmetic"}, "did you mean 'arithmetic'"),
        ({"method": "atm"}, "needs data=.* for each of 2 models, got none"),
        ({"method": "atm", "data": [1]}, "got 1"),
        ({"method": "atm", "data": data(A)}, "for each of 2 models, got a MultiTaskData"),
        (
            {"method": "atm", "data": [data(A), data(A)]},
            "model 2 has the tasks c, d, its data a, b",
        ),
        ({"keep": 0.5}, "unknown option of method 'arithmetic': 'keep'"),
        ({"method": "disjoint", "kep": 0.5}, "did you mean 'keep'"),
        ({"method": "disjoint", "keep": 2}, r"keep must be in \(0, 1\], got 2"),
        ({"method": "projective", "rank": 0.0}, r"rank must be in \(0, 1\], got 0"),
        (
            {"method": "atm", "data": [data(A), data(C)], "scale": 0.5},
            "'atm' averages models and has no scale, got 0.5",
        ),
        ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
        ({"steps": 1.5}, "steps must be an integer >= 1, got 1.5"),
        ({"scale": "x"}, "scale must be a finite number, got 'x'"),
        ({"scale": float("nan")}, "scale must be a finite number, got nan"),
        ({"method": "disjoint", "keep": "a"}, r"keep must be in \(0, 1\], got 'a'"),
        ({"base": 3}, "base must be a MultiTaskModel, got int"),
        ({"base": model(width=3)}, r"model 1 .* \(8, 5\).* base .* \(3, 5\)"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(InvalidInputError, match=words):
        qmtl.merge([model(), model(C)], **options)


@pytest.mark.parametrize("models", [model(), None])
def test_models_are_a_list(models):
    with pytest.raises(InvalidInputError, match="models must be a list of MultiTaskModel, got a"):
        qmtl.merge(models, model(C))


def test_every_method_gives_an_ordinary_model(tmp_path):
    sets, base = [data(A), data(C)], model()
    for method in METHODS:
        given = {"data": sets, "steps": 2, "rounds": 1} if method in ("atm", "concrete") else {}
        merged = qmtl.merge([moved(base, 1), moved(model(C), 2)], method, base=base, **given)
        merged.save(tmp_path / method)
        assert list(qmtl.load(tmp_path / method).predict(X)) == ["a", "b", "c", "d"]
