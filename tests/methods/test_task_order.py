"""The order of tasks on the ring: graphs that are known, orders found by trying all."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.methods import TaskGraph, task_graph, task_order
from tests.methods.related import model_for
from tests.training.samples import disjoint_data


def chain(n_tasks=6, n=3000, missing=0.0, seed=0):
    """Regressions of which each depends on the one before it only, in a shuffled order."""
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=n)]
    for _ in range(n_tasks - 1):
        values.append(0.7 * values[-1] + 0.7 * rng.normal(size=n))
    order = rng.permutation(n_tasks)
    targets = {}
    for number in order:
        column = values[number].copy()
        column[rng.random(n) < missing] = np.nan
        targets[f"t{number}"] = column
    tasks = [qmtl.Task.regression(name) for name in targets]
    inputs = rng.normal(size=(n, 3)).astype("float32")
    return qmtl.data.from_arrays(inputs, targets, tasks=tasks, seed=0)


def graph_of(weights):
    names = tuple("abcdefghijklmnop"[: len(weights)])
    return TaskGraph(names, pd.DataFrame(weights, index=names, columns=names), 0.1)


def random_weights(n, seed):
    weights = np.triu(np.random.default_rng(seed).random((n, n)) ** 3, 1)
    return weights + weights.T


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_chain_is_found(missing):
    """Each link has an edge, and on the ring each link is between neighbours."""
    data = chain(missing=missing)
    before = repr(np.random.get_state())
    graph = task_graph(data)
    assert repr(np.random.get_state()) == before
    order = graph.order()
    ring = {frozenset((order[i - 1], order[i])) for i in range(6)}
    assert all(frozenset((f"t{i}", f"t{i + 1}")) in ring for i in range(5))
    assert task_order(data) == order
    links = [graph.weights.loc[f"t{i}", f"t{i + 1}"] for i in range(5)]
    others = graph.weights.loc["t0", ["t2", "t3", "t4", "t5"]]
    assert min(links) > 3 * others.max()


def test_partial_correlations_are_those_of_the_inverse():
    """With many rows and little penalty, against numpy's inverse of the correlations."""
    data = chain(n_tasks=4, n=20_000)
    graph = task_graph(data)
    table = np.stack([data.train.targets[name].numpy() for name in graph.names], 1)
    precision = np.linalg.inv(np.corrcoef(table.T))
    scale = np.sqrt(np.diag(precision))
    expected = np.abs(precision / np.outer(scale, scale)) - np.eye(4)
    assert np.abs(graph.weights.to_numpy() - expected).max() < 0.05
    assert graph.alpha < 0.05


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("seed", range(3))
def test_orders_are_the_best_and_the_worst_of_all(n, seed):
    weights = random_weights(n, seed)
    graph = graph_of(weights)

    def length(order):
        ends = 1 if n == 2 else n
        return sum(weights[order[i], order[(i + 1) % n]] for i in range(ends))

    lengths = [length(order) for order in permutations(range(n))]
    assert graph.length(graph.order()) == pytest.approx(max(lengths))
    assert graph.length(graph.worst_order()) == pytest.approx(min(lengths))
    assert graph.order()[0] == "a"


@pytest.mark.parametrize("seed", range(4))
def test_many_tasks_come_within_a_hundredth_of_the_best(seed):
    """More than are tried one by one; against the exact solution by dynamic programming."""
    n = 11
    weights = random_weights(n, seed)
    best = {(1 << i | 1, i): weights[0, i] for i in range(1, n)}
    for size in range(2, n):
        for members in [m for m in range(1, 1 << n, 2) if bin(m).count("1") == size + 1]:
            for last in [i for i in range(1, n) if members >> i & 1]:
                before = members ^ (1 << last)
                best[members, last] = max(
                    best[before, i] + weights[i, last] for i in range(1, n) if before >> i & 1
                )
    exact = max(best[(1 << n) - 1, i] + weights[i, 0] for i in range(1, n))
    graph = graph_of(weights)
    assert graph.length(graph.order()) >= 0.99 * exact


def test_the_order_stays_where_no_other_is_better():
    data = disjoint_data({"a": 20, "b": 20, "c": 20, "d": 20})
    graph = task_graph(data)
    assert not graph.weights.to_numpy().any()
    assert graph.order() == ["a", "b", "c", "d"]
    assert task_order(chain(n_tasks=1, n=30)) == ["t0"]


def test_identical_tasks_and_tasks_without_variation():
    labels = np.random.default_rng(0).random(200).round()
    others = {name: np.random.default_rng(i).random(200).round() for i, name in enumerate("xyz", 1)}
    targets = {"a": labels, **others, "b": labels, "same": np.ones(200)}
    tasks = [qmtl.Task.binary(name) for name in (*others, "a", "b")] + [
        qmtl.Task.regression("same")
    ]
    with pytest.warns(UserWarning, match="target 'same' is 1 in every"):
        data = qmtl.data.from_arrays(np.zeros((200, 2), "float32"), targets, tasks=tasks, seed=0)
    graph = task_graph(data)
    assert graph.weights.loc["a", "b"] == graph.weights.to_numpy().max()
    assert not graph.weights["same"].any()
    order = graph.order()
    assert abs(order.index("a") - order.index("b")) in (1, len(order) - 1)


def test_classes_have_columns_and_residuals_replace_labels():
    data = qmtl.data.digits()
    graph = task_graph(data)
    assert graph.weights.loc["digit", "parity"] > 0.9
    model = model_for(data)
    for part in model.parameters():
        part.requires_grad_(False)
    residual = task_graph(data, model)
    assert residual.names == graph.names
    assert not np.allclose(residual.weights, graph.weights)


def test_unrelated_tasks_with_several_classes_have_a_graph():
    # Their columns are singular, and without relations between tasks the best penalty is small.
    random = np.random.default_rng(0)
    inputs = random.normal(size=(200, 6))
    labels = {
        "a": (inputs[:, 0] > 0).astype(int),
        "b": inputs[:, 1] * 2 + 1,
        "c": np.digitize(inputs[:, 2], [-0.5, 0.5]),
    }
    graph = task_graph(qmtl.data.from_arrays(inputs, labels))
    assert np.isfinite(graph.weights.to_numpy()).all()
    assert graph.weights.to_numpy().max() < 0.4
    assert graph.alpha in (0.01, 0.03, 0.1, 0.3)


def test_the_ring_is_drawn():
    graph = task_graph(qmtl.data.digits())
    ax = graph.plot(ax=Figure().subplots())
    assert {text.get_text() for text in ax.texts} == set(graph.names)
    assert f"{graph.length(graph.order()):.2f}" in ax.get_title()


def test_bad_arguments():
    data = chain(n_tasks=3, n=40)
    graph = task_graph(data)
    with pytest.raises(InvalidInputError, match="data must be a MultiTaskData, got Tensor"):
        qmtl.methods.task_graph(torch.ones(3))
    with pytest.raises(InvalidInputError, match="unknown task 't9'"):
        graph.length(["t9", "t1", "t2"])
    with pytest.raises(InvalidInputError, match="all 3 tasks, got 1"):
        graph.length(["t1"])
    with pytest.raises(InvalidInputError, match="task of the data, for this model: 't"):
        task_graph(data, model_for(qmtl.data.digits()))


def test_recipes_order_tasks_by_their_graph():
    from qmtl.experiments import build_data, build_model, read_recipe

    recipe = read_recipe("digits", ['circuit.task_order="graph"'])
    data = build_data(recipe)
    assert [task.name for task in data.tasks] == task_order(qmtl.data.digits())
    assert [t.name for t in build_model(recipe, data).tasks] == [t.name for t in data.tasks]
    with torch.no_grad():
        assert len(build_model(recipe, data)(data.test.inputs[:2])) == 5
