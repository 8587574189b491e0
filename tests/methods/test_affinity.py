"""Gradient affinity against gradients taken task by task, and on tasks whose groups are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.methods import affinity
from tests.methods.related import GROUPS, model_for, planted, trained_briefly
from tests.training.samples import with_missing


def product_with_labels(task, logits, targets, known):
    """-Σ (y - ȳ)·logit, where ȳ is the mean of all known labels."""
    total = 0.0
    for output in range(task.n_outputs):
        column = logits[:, output]
        y, of_all = (
            (values == output).to(column)
            if task.kind == "multiclass"
            else values.reshape(len(values), -1)[:, output].to(column)
            for values in (targets, known)
        )
        total = total - ((y - of_all.nanmean()).nan_to_num() * column).sum()
    return total


def by_hand(model, data, first, second, of, split="validation"):
    """The cosine of two tasks' gradients on the rows that have both labels, by plain torch."""
    rows = data.splits[split]
    both = data.task(first).labelled(rows.targets[first])
    both &= data.task(second).labelled(rows.targets[second])
    model.eval()
    vectors = []
    for name in (first, second):
        task = data.task(name)
        every = rows.targets[name]
        every = every[task.labelled(every)]
        if task.kind == "regression":
            known = data.train.targets[name].double()
            mean = known.nanmean()
            every = (every - mean) / (known - mean).square().nanmean().sqrt()
        targets = every[both[task.labelled(rows.targets[name])]]
        model.zero_grad()
        inputs = rows.inputs[both].to(next(model.parameters()))
        logits = model(inputs)[name]
        if of == "losses":
            total, _ = task.loss_terms(logits, targets)
        else:
            total = product_with_labels(task, logits, targets, every)
        total.backward()
        grads = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in model.shared_parameters()
        ]
        vectors.append(torch.cat([grad.flatten() for grad in grads]).double())
    x, y = vectors
    shared = (x.abs() > 1e-9 * x.abs().max()) & (y.abs() > 1e-9 * y.abs().max())
    x, y = x[shared], y[shared]
    return int(both.sum()), float(x @ y / (x.norm() * y.norm()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", ["quantum", "linear"])
@pytest.mark.parametrize("of", ["labels", "losses"])
def test_cosines_are_those_of_plain_gradients(of, head, dtype):
    """Of all kinds of tasks, with labels missing at random."""
    data = with_missing(0.3, n=120)
    model = model_for(data, head, hidden=5, dtype=dtype)
    found = affinity(model, data, of=of, n_bootstrap=20)
    assert len(found.pairs) == 6
    for row in found.pairs.itertuples():
        shared, cosine = by_hand(model, data, row.first, row.second, of)
        assert row.shared_rows == shared
        assert row.cosine == pytest.approx(cosine, abs=1e-4 if dtype is torch.float32 else 1e-9)
        assert row.low <= row.high


def test_cosines_at_the_features():
    data = planted(n=200)
    model = model_for(data, "linear")
    rows = data.validation
    features = model.encoder(rows.inputs).detach().requires_grad_()
    logits = model.head(features)
    gradients = [
        torch.autograd.grad(
            data.task(n).loss_terms(logits[n], rows.targets[n])[0], features, retain_graph=True
        )[0].flatten()
        for n in ("t0", "t3")
    ]
    expected = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    found = affinity(model, data, of="losses", by="features", n_bootstrap=20).matrix()
    assert found.loc["t0", "t3"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("head", "epochs", "seed"),
    [("quantum", 3, 0), ("quantum", 10, 1), ("linear", 3, 2)],
)
def test_recovers_planted_groups(head, epochs, seed):
    """While losses fall, and long after."""
    data = planted(seed)
    model = model_for(data, head)
    qmtl.fit(model, data, max_epochs=epochs, restore_best=False, progress=False, seed=0)
    found = affinity(model, data, n_bootstrap=20)
    assert set(found.pairs["overlap"]) == {1.0}
    assert sorted(map(sorted, found.groups(2))) == GROUPS
    assert found.groups(1) == [list(found.names)]
    cosines = found.matrix().to_numpy()
    related = [[one in group and other in group for one in found.names for other in found.names]
               for group in GROUPS]  # fmt: skip
    inside = np.any(related, 0).reshape(6, 6)
    assert cosines[inside].min() > 0.3 > cosines[~inside].max()


def test_says_so_where_there_is_no_evidence():
    for overlap, verdicts in ((0.2, {"no evidence"}), (0.35, {"caution"})):
        data = planted(overlap=overlap)
        found = affinity(trained_briefly(data), data, n_bootstrap=20)
        assert found.pairs["overlap"].mean() == pytest.approx(overlap, abs=0.03)
        assert set(found.pairs["verdict"]) == verdicts
        if overlap < 0.3:
            with pytest.raises(InvalidInputError, match="no evidence on 15 of 15 pairs"):
                found.groups(2)


def test_tasks_without_common_rows():
    data = planted(n=60)
    splits = {}
    for name, split in data.splits.items():
        half = torch.arange(len(split)) % 2
        targets = {
            task: values.where(half == int(task[1]) % 2, torch.nan)
            for task, values in split.targets.items()
        }
        splits[name] = replace(split, targets=targets)
    data = replace(data, **splits)
    pairs = affinity(model_for(data), data, n_bootstrap=20).pairs.set_index(["first", "second"])
    apart, together = pairs.loc[("t0", "t1")], pairs.loc[("t0", "t2")]
    assert apart["shared_rows"] == 0
    assert apart["overlap"] == 0
    assert np.isnan(apart["cosine"])
    assert apart["verdict"] == "no evidence"
    assert together["overlap"] == 1
    assert not np.isnan(together["cosine"])


def test_identical_and_opposite_tasks():
    inputs = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    labels = (inputs[:, 0] > 0).astype(float)
    tasks = [qmtl.Task.binary(name) for name in "abc"]
    targets = {"a": labels, "b": labels, "c": 1 - labels}
    data = qmtl.data.from_arrays(inputs, targets, tasks=tasks, seed=0)
    model = model_for(data, "linear")
    with torch.no_grad():  # heads that read the same
        for rows in model.task_rows():
            rows.parameter.zero_()
        model.head.layers.weight.parameter.fill_(0.01)
    found = affinity(model, data).matrix()
    assert found.loc["a", "b"] == pytest.approx(1)
    assert found.loc["a", "c"] == pytest.approx(-1, abs=0.01)


def test_rows_with_weights_count_so_often():
    data = planted(n=200)
    rows = data.validation
    model = model_for(data, "linear")
    counts = torch.arange(len(rows)) % 3 + 1
    weighted = replace(data, validation=replace(rows, sample_weight=counts.double()))
    repeated = replace(
        data, validation=rows.take(torch.arange(len(rows)).repeat_interleave(counts))
    )
    first, second = (
        affinity(model, d, n_bootstrap=2).pairs["cosine"] for d in (weighted, repeated)
    )
    assert np.allclose(first, second, atol=1e-5)


def test_one_task():
    data = planted(n=60).subset(["t0"])
    found = affinity(model_for(data), data)
    assert found.pairs.empty
    assert found.groups(1) == [["t0"]]
    assert found.matrix().loc["t0", "t0"] == 1


def test_intervals_cover():
    """In about 95 of 100 samples; here at least 16 of 20, with the cosine of many rows as truth."""
    many = planted(n=20_000)
    model = trained_briefly(planted())
    truth = affinity(model, many, split="train", n_bootstrap=2).matrix().loc["t0", "t1"]
    hits = 0
    for part in torch.arange(len(many.train)).split(600)[:20]:
        one = replace(many, validation=many.train.take(part)).subset(["t0", "t1"])
        row = affinity(model, one, n_bootstrap=300).pairs.iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert hits >= 16


def test_wide_gradients_are_sketched(monkeypatch):
    from qmtl.methods import _affinity

    data = planted(n=200)
    model = model_for(data, "linear", hidden=300)
    exact = affinity(model, data, n_bootstrap=2).pairs["cosine"]
    monkeypatch.setattr(_affinity, "SKETCH", 1024)
    assert np.abs(affinity(model, data, n_bootstrap=2).pairs["cosine"] - exact).max() < 0.15


def test_leaves_the_model_alone():
    data = planted(n=60)
    model = model_for(data).train()
    model.encoder.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    affinity(model, data, n_bootstrap=2)
    assert model.training
    assert not model.encoder.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_plot_marks_doubts():
    data = planted(n=300, overlap=0.35)
    found = affinity(model_for(data), data, n_bootstrap=20)
    ax = found.plot(Figure().subplots())
    assert [label.get_text() for label in ax.get_xticklabels()] == list(found.names)
    marked = sum(text.get_text().endswith("?") for text in ax.texts)
    assert marked == 2 * (found.pairs["verdict"] == "caution").sum()
    hatched = sum(patch.get_hatch() is not None for patch in ax.patches)
    assert hatched == 2 * (found.pairs["verdict"] == "no evidence").sum()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "tset"}, "did you mean 'test'"),
        ({"of": "loss"}, "of.* did you mean 'losses'"),
        ({"by": "weights"}, "Known: parameters, features"),
        ({"n_bootstrap": 1}, "n_bootstrap must be an integer >= 2, got 1"),
        ({"n_blocks": 0}, "n_blocks must be an integer >= 2, got 0"),
    ],
)
def test_bad_arguments(options, words):
    data = planted(n=60)
    with pytest.raises(InvalidInputError, match=words):
        affinity(model_for(data), data, **options)


def test_models_that_do_not_fit():
    data = planted(n=60)
    model = model_for(data.subset(["t0", "t1"]))
    with pytest.raises(InvalidInputError, match="task of the data, for this model: 't2'"):
        affinity(model, data)
    model = model_for(data)
    for parameter in model.shared_parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="no trainable shared parameter"):
        affinity(model, data)
