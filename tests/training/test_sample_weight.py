"""Weights of rows in data, training, checkpoints and results."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import baseline_metrics, evaluate
from tests.training.samples import (
    QUIET,
    TASKS,
    InterruptAt,
    InterruptionError,
    Spy,
    arrays,
    same_state,
    tiny_model,
)

N = 24
WEIGHTS = np.random.default_rng(3).integers(0, 4, N)
SPLITS = {"train": range(12), "validation": range(12, 18), "test": range(18, N)}
SPLITS = {name: list(rows) for name, rows in SPLITS.items()}
# All rows in one batch: the one case in which weights and repeated rows take the same steps.
ONE_BATCH = {"progress": False, "batch_size": 1000, "max_epochs": 3, "weight_decay": 0.01}


def weighted_data(weights=WEIGHTS, **options):
    X, targets = arrays(N)
    options = {"tasks": TASKS, "splits": SPLITS} | options
    return qmtl.data.from_arrays(X, targets, sample_weight=weights, **options)


def repeated_data():
    X, targets = arrays(N)
    rows = {name: np.repeat(part, WEIGHTS[part]) for name, part in SPLITS.items()}
    ends = np.cumsum([0, *map(len, rows.values())])
    order = np.concatenate(list(rows.values()))
    splits = {
        name: list(range(*pair)) for name, pair in zip(rows, itertools.pairwise(ends), strict=True)
    }
    repeated = {name: values[order] for name, values in targets.items()}
    return qmtl.data.from_arrays(X[order], repeated, tasks=TASKS, splits=splits)


def flat(metrics):
    return {(s, t, m): v for s, a in metrics.items() for t, b in a.items() for m, v in b.items()}


METHODS = [
    {"adversarial": {"attack": "fgsm", "epsilon": 0.1}},
    {"agreement": 0.5, "isolation": True},
    {"auxiliary": {"subclasses": 2, "look_ahead": 0.5}},
    {"flatness": 0.1, "loss": "unified"},
    {"saliency": {"alignment": 0.0}},
    {"scalarizer": "igb"},
]


@pytest.mark.parametrize(
    "how", [{}, {"aggregator": "upgrad"}, {"scalarizer": "uw"}, *METHODS], ids=str
)
def test_whole_weights_train_as_repeated_rows_do(how):
    ours, theirs = weighted_data(), repeated_data()
    first, second = tiny_model(ours).double(), tiny_model(theirs).double()
    result = qmtl.fit(first, ours, **ONE_BATCH, **how)
    expected = qmtl.fit(second, theirs, **ONE_BATCH, **how)
    for key, values in second.state_dict().items():
        torch.testing.assert_close(first.state_dict()[key], values, rtol=1e-6, atol=1e-6)
    assert flat(result.metrics) == pytest.approx(flat(expected.metrics), abs=1e-4, nan_ok=True)
    assert flat(result.baselines) == pytest.approx(flat(expected.baselines), abs=1e-6, nan_ok=True)
    for one, two in zip(result.history, expected.history, strict=True):
        assert one == two | {"value": pytest.approx(two["value"], abs=1e-4, nan_ok=True)}


@pytest.mark.parametrize("how", [{}, {"aggregator": "upgrad"}])
def test_a_row_of_weight_zero_is_left_out(how):
    X, targets = arrays(N)
    kept = np.flatnonzero(WEIGHTS)
    place = {row: i for i, row in enumerate(kept)}
    splits = {name: [place[r] for r in rows if r in place] for name, rows in SPLITS.items()}
    targets = {name: values[kept] for name, values in targets.items()}
    without = qmtl.data.from_arrays(
        X[kept], targets, tasks=TASKS, splits=splits, sample_weight=WEIGHTS[kept]
    )
    data = weighted_data()
    assert len(data.train) == (WEIGHTS[:12] > 0).sum()
    assert data.train.index.tolist() == kept[kept < 12].tolist()
    first, second = tiny_model(data), tiny_model(without)
    qmtl.fit(first, data, max_epochs=3, **QUIET, **how)
    qmtl.fit(second, without, max_epochs=3, **QUIET, **how)
    assert same_state(first, second)


def test_equal_weights_change_next_to_nothing_and_no_weights_nothing():
    plain, equal = weighted_data(None), weighted_data(np.full(N, 0.3))
    assert plain.train.sample_weight is None
    first, second = tiny_model(plain).double(), tiny_model(equal).double()
    qmtl.fit(first, plain, max_epochs=2, **QUIET)
    qmtl.fit(second, equal, max_epochs=2, **QUIET)
    for key, values in second.state_dict().items():
        torch.testing.assert_close(first.state_dict()[key], values, rtol=1e-6, atol=1e-6)


def test_batches_carry_the_weights_of_their_rows():
    data, spy = weighted_data(np.arange(1.0, N + 1)), Spy()
    qmtl.fit(tiny_model(data), data, max_epochs=1, callbacks=[spy], **QUIET)
    rows = {tuple(x): w for x, w in zip(data.train.inputs.tolist(), range(1, N), strict=False)}
    for step in spy.steps:
        batch = step["batch"]
        given = batch.sample_weight * data.train.sample_weight.max()
        assert given.tolist() == pytest.approx([rows[tuple(x)] for x in batch.inputs.tolist()])


@pytest.mark.parametrize("factor", [1e-60, 1e60])
def test_only_the_weights_among_themselves_count(factor):
    plain, scaled = weighted_data(), weighted_data(WEIGHTS * factor)
    first, second = tiny_model(plain).double(), tiny_model(scaled).double()
    expected = qmtl.fit(first, plain, max_epochs=2, **QUIET)
    result = qmtl.fit(second, scaled, max_epochs=2, **QUIET)
    for key, values in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], values)
    assert flat(result.metrics) == pytest.approx(flat(expected.metrics), abs=1e-6, nan_ok=True)


def test_affinities_and_the_linear_probe_take_weights_as_repeated_rows():
    ours, theirs = weighted_data(), repeated_data()
    # The scales of regressions are not set yet.
    found, expected = (
        qmtl.methods.affinity(tiny_model(data).double(), data, split="train")
        for data in (ours, theirs)
    )
    # Rows are counted and drawn as they are.
    one, two = (of.pairs[["first", "second", "cosine"]] for of in (found, expected))
    pd.testing.assert_frame_equal(one, two, atol=1e-6)
    found, expected = (qmtl.experiments.linear_probe(data).metrics for data in (ours, theirs))
    assert flat(found) == pytest.approx(flat(expected), abs=1e-3, nan_ok=True)


def test_weights_of_one_task_s_loss():
    task, logits = qmtl.Task.binary("a"), torch.tensor([[0.3], [-0.2], [1.0]])
    labels = torch.tensor([1.0, 0.0, torch.nan])
    expected = task.loss(logits[[0, 0, 1]], labels[[0, 0, 1]])
    for weights in (
        [2, 1, 5],
        np.array([2e60, 1e60, 1.0]),
        torch.tensor([2e-60, 1e-60, 0], dtype=torch.float64),
    ):
        torch.testing.assert_close(task.loss(logits, labels, weights), expected)
    with pytest.raises(InvalidInputError, match="weight 0"):
        task.loss(logits, labels, torch.tensor([0, 0, 1]))
    with pytest.raises(InvalidInputError, match=r"'a': sample_weight .* \(3,\), got \(2,\)"):
        task.loss(logits, labels, [1, 2])


def test_weights_of_a_split_by_hand():
    rows = qmtl.data.Split(torch.zeros(3, 2), {"a": torch.zeros(3)}, sample_weight=[1, 2, 3])
    assert rows.take(torch.tensor([0, 2])).sample_weight.tolist() == [1, 3]
    with pytest.raises(InvalidInputError, match=r"sample_weight: .* shape \(3,\)"):
        qmtl.data.Split(torch.zeros(3, 2), {"a": torch.zeros(3)}, sample_weight=[1, 2])


@pytest.mark.parametrize("how", [{}, {"aggregator": "upgrad"}])
def test_a_run_with_weights_resumes_bit_for_bit(tmp_path, how):
    data = weighted_data(np.linspace(0.5, 2, N))
    options = QUIET | {"max_epochs": 4} | how
    whole = tiny_model(data)
    qmtl.fit(whole, data, **options)
    with pytest.raises(InterruptionError):
        qmtl.fit(
            tiny_model(data), data, checkpoints=tmp_path, callbacks=[InterruptAt(2)], **options
        )
    resumed = tiny_model(data)
    qmtl.fit(resumed, data, checkpoints=tmp_path, resume=True, **options)
    assert same_state(whole, resumed)


def test_weights_multiply_class_weights():
    logits, targets = torch.tensor([[0.3], [-0.2], [1.0]]), torch.tensor([0.0, 1.0, 1.0])
    rows = torch.tensor([2.0, 1.0, 3.0])
    plain, task = qmtl.Task.binary("a"), qmtl.Task.binary("a", class_weights=(2.0, 5.0))
    classes = torch.tensor([2.0, 5.0, 5.0])
    each = torch.stack([plain.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(3)])
    expected = (rows * classes * each).sum() / rows.sum()
    torch.testing.assert_close(task.loss(logits, targets, rows), expected)


def test_subsets_and_baselines_keep_the_weights():
    data = weighted_data(np.arange(1.0, N + 1)).subset(["a"])
    assert data.train.sample_weight.tolist() == list(range(1, 13))
    labels, rows = data.train.targets["a"], data.train.sample_weight
    share = float((labels * rows).sum() / rows.sum())
    expected = max(share, 1 - share)
    assert baseline_metrics(data, data.train)["a"]["accuracy"] == pytest.approx(expected)
    model = tiny_model(data)
    right = (model.predict(data.test.inputs)["a"] >= 0.5) == data.test.targets["a"]
    own = data.test.sample_weight
    found = evaluate(model, data.test)["a"]["accuracy"]
    assert found == pytest.approx(float((right * own).sum() / own.sum()))


def test_equal_decisions_have_equal_metrics_to_the_last_digit():
    """Else a model that is as good as the constant prediction is told to be better."""
    for n in range(2, 30):
        data = weighted_data(np.where(np.arange(N) % 3, n, 1)).subset(["a"])
        model, task = tiny_model(data), data.tasks[0]
        predicted, own = model.predict(data.test.inputs)["a"], data.test.sample_weight
        expected = task.evaluate(predicted, data.test.targets["a"], own)
        assert evaluate(model, data.test)["a"]["accuracy"] == expected["accuracy"]


def test_weights_of_a_table(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=40), "sold": ["yes", "no", "no", "yes"] * 10,
                          "count": [0, 1, 2, 1] * 10})  # fmt: skip
    table["where"] = (["train"] * 6 + ["validation", "test"]) * 5
    data = qmtl.data.from_frame(table, targets=["sold"], weights="count", split_column="where")
    kept = table[table["count"] > 0]
    without = qmtl.data.from_frame(kept, targets=["sold"], weights="count", split_column="where")
    assert data.columns.names == ("size",)
    train = kept[kept["where"] == "train"]
    mean = np.average(train["size"], weights=train["count"])
    assert data.columns.numeric[0][1] == pytest.approx(mean)
    for part, split in data.splits.items():
        assert torch.equal(split.inputs, without.splits[part].inputs)
        rows = kept.index[kept["where"] == part]
        assert split.index.tolist() == rows.tolist()
        assert split.sample_weight.tolist() == table["count"][rows].tolist()
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    read = qmtl.data.from_csv(path, targets=["sold"], weights="count", split_column="where")
    assert read.train.sample_weight.tolist() == data.train.sample_weight.tolist()
    with pytest.raises(InvalidInputError, match="weights: 'cuont'"):
        qmtl.data.from_frame(table, targets=["sold"], weights="cuont")
    with pytest.raises(InvalidInputError, match="'sold' is the target"):
        qmtl.data.from_frame(table.replace({"yes": 1, "no": 0}), targets=["sold"], weights="sold")
    table.loc[3, "count"] = -2
    with pytest.raises(InvalidInputError, match=r"row 3, column 'count': .* at least 0, got '-2'"):
        qmtl.data.from_frame(table, targets=["sold"], weights="count")
    splits = {"train": range(24), "validation": range(24, 32), "test": range(32, 40)}
    table.loc[3, "count"] = 0
    given = qmtl.data.from_frame(
        table.drop(columns="where"), targets=["sold"], weights="count", splits=splits
    )
    assert given.train.index.tolist() == table.index[:24][table["count"][:24] > 0].tolist()
    masks = {name: np.isin(np.arange(40), list(rows)) for name, rows in splits.items()}
    masked = qmtl.data.from_frame(
        table.drop(columns="where"), targets=["sold"], weights="count", splits=masks
    )
    for name, split in given.splits.items():
        assert masked.splits[name].index.tolist() == split.index.tolist()
    with pytest.raises(InvalidInputError, match=r"test split names row 40, but rows are 0\.\.39"):
        qmtl.data.from_frame(
            table, targets=["sold"], weights="count", splits=splits | {"test": [40]}
        )


@pytest.mark.parametrize("kind", ["list", "array", "series", "tensor", "object"])
def test_targets_of_every_type_lose_rows_of_weight_zero(kind):
    X = np.arange(20.0).reshape(10, 2)
    labels = [0, 1] * 4 + [2, 0]
    made = {
        "list": labels, "array": np.array(labels), "series": pd.Series(labels, index=range(5, 15)),
        "tensor": torch.tensor(labels), "object": np.array([str(v) for v in labels], dtype=object),
    }[kind]  # fmt: skip
    splits = {"train": range(6), "validation": [6, 7], "test": [8, 9]}
    weights = [1, 2, 1, 1, 1, 1, 0.5, 1, 0, 1]
    data = qmtl.data.from_arrays(X, {"a": made}, splits=splits, sample_weight=weights)
    # The class of the row that is left out is no class.
    assert data.task("a").kind == "binary"
    assert data.test.index.tolist() == [9]
    assert data.validation.sample_weight.tolist() == [0.5, 1.0]


def test_weights_that_do_not_fit():
    with pytest.raises(InvalidInputError, match=r"shape \(24,\), got shape \(2,\)"):
        weighted_data([1, 2])
    with pytest.raises(InvalidInputError, match="row 2 has -1"):
        weighted_data([1, 1, -1] + [1] * (N - 3))
    split = weighted_data().train
    weights = torch.ones(len(split))
    with pytest.raises(InvalidInputError, match="every weight is zero"):
        qmtl.data.Split(split.inputs, split.targets, sample_weight=0 * weights)
    weights[1] = 0
    some = qmtl.data.Split(split.inputs, split.targets, sample_weight=weights)
    with pytest.raises(InvalidInputError, match="train has rows of weight 0"):
        qmtl.data.MultiTaskData("zero", tuple(TASKS), some, split, split)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "sample_weight" not in repr(split)
