"""Linear heads: exact products, the columns they see, counts, errors."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding
from qmtl.errors import InvalidInputError
from qmtl.heads import LinearHead, LocalLinearHead
from qmtl.tasks import Task

TASKS = [Task.binary("keys"), Task.multiclass("b c", 3), Task.regression("float", 2)]
COLUMNS = {"keys": (0,), "b c": (4, 2), "float": (0, 1, 2, 3, 4)}


def binary_circuit(n_tasks, **options):
    return HeadCircuit([Task.binary(f"t{i}") for i in range(n_tasks)], **options)


class TestLogits:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dense(self, dtype):
        head = LinearHead(TASKS, 5, seed=0).to(dtype)
        x = torch.randn(7, 5, dtype=dtype)
        logits = head(x)
        assert list(logits) == [task.name for task in TASKS]
        for name, value in logits.items():
            weight, bias = head.layers.weight[name], head.layers.bias[name]
            torch.testing.assert_close(value, x @ weight.T + bias)

    def test_local(self):
        head = LocalLinearHead(TASKS, 5, COLUMNS, seed=0)
        assert head.columns["b c"] == (2, 4)
        x = torch.randn(7, 5)
        for name, value in head(x).items():
            weight, bias = head.layers.weight[name], head.layers.bias[name]
            seen = torch.zeros(len(weight), 5)
            seen[:, list(head.columns[name])] = weight.detach()
            torch.testing.assert_close(value, x @ seen.T + bias)

    def test_subset_empty_batch_and_copies(self):
        head = LocalLinearHead(TASKS, 5, COLUMNS, seed=0)
        x = torch.randn(2, 5)
        assert list(head(x, tasks=["float", "keys"])) == ["float", "keys"]
        assert head(x[:0])["float"].shape == (0, 2)
        for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
            assert torch.equal(other(x)["b c"], head(x)["b c"])
        assert head.to("meta")(x.to("meta"))["b c"].shape == (2, 3)

    def test_seed(self):
        state = torch.get_rng_state()
        first, second = (LinearHead(TASKS, 5, seed=3).state_dict() for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not torch.equal(
            first["layers.task_keys.weight"],
            LinearHead(TASKS, 5).state_dict()["layers.task_keys.weight"],
        )


class TestColumns:
    def test_on_registers(self):
        head = LocalLinearHead.on_registers(binary_circuit(4), seed=0)
        assert head.columns == {f"t{i}": (2 * i, 2 * i + 1) for i in range(4)}

    def test_on_registers_with_several_features_per_wire(self):
        circuit = binary_circuit(3, encoding=AngleEncoding(axes="XY"))
        head = LocalLinearHead.on_registers(circuit)
        assert head.columns["t1"] == (4, 5, 6, 7)

    def test_on_registers_leaves_products_with_other_registers_out(self):
        head = LocalLinearHead.on_registers(binary_circuit(3, encoding=IQPEncoding()))
        assert head.columns["t1"] == (2, 3)

    def test_on_cones(self):
        circuit = binary_circuit(5)
        head = LocalLinearHead.on_cones(circuit)
        for name, columns in head.columns.items():
            assert columns == circuit.light_cone(name).wires  # one feature on each wire
        assert head.columns["t0"] == (0, 1, 2, 3, 8, 9)

    def test_on_cones_sees_what_the_quantum_head_sees(self):
        from qmtl.heads import QuantumHead

        circuit = binary_circuit(6)
        x = torch.randn(4, circuit.n_features, requires_grad=True)
        logits = QuantumHead(circuit, seed=0)(x)
        for name, columns in LocalLinearHead.on_cones(circuit).columns.items():
            (gradient,) = torch.autograd.grad(logits[name].sum(), x, retain_graph=True)
            seen = (gradient != 0).any(0).nonzero().flatten()
            assert tuple(seen.tolist()) == columns

    def test_shared_layout_is_dense(self):
        circuit = binary_circuit(3, layout="shared", n_wires=4)
        assert set(LocalLinearHead.on_cones(circuit).columns.values()) == {(0, 1, 2, 3)}
        assert set(LocalLinearHead.on_registers(circuit).columns.values()) == {(0, 1, 2, 3)}


class TestCounts:
    @pytest.mark.parametrize("n_tasks", [1, 2, 5, 16, 64])
    def test_closed_form(self, n_tasks):
        def count(head):
            return sum(p.numel() for p in head.parameters())

        circuit = binary_circuit(n_tasks)
        assert count(LinearHead(circuit.tasks, circuit.n_features)) == n_tasks * (2 * n_tasks + 1)
        assert count(LocalLinearHead.on_registers(circuit)) == 3 * n_tasks
        cone = 6 if n_tasks >= 3 else 2 * n_tasks
        assert count(LocalLinearHead.on_cones(circuit)) == (cone + 1) * n_tasks


class TestErrors:
    @pytest.mark.parametrize(
        "columns",
        [
            {"keys": ()}, {}, {"keys": (-1, 2)}, {"keys": (5,)}, {"keys": (1, 1)},
            {"keys": (0.5,)}, {"keys": "01"},
        ],
    )  # fmt: skip
    def test_columns(self, columns):
        columns = {**COLUMNS, "keys": (), **columns}
        with pytest.raises(
            InvalidInputError,
            match="columns of task 'keys' must be one or more different integers from 0 to 4, got",
        ):
            LocalLinearHead(TASKS, 5, columns)

    def test_columns_of_unknown_tasks(self):
        with pytest.raises(InvalidInputError, match="unknown task in columns 'kyes'; did you mean"):
            LocalLinearHead(TASKS, 5, {**COLUMNS, "kyes": (1,)})

    @pytest.mark.parametrize("width", [0, -1, 2.5, True, "4", None])
    def test_width(self, width):
        message = "n_features must be an integer >= 1, got"
        with pytest.raises(InvalidInputError, match=message):
            LinearHead(TASKS, width)
        with pytest.raises(InvalidInputError, match=message):
            LocalLinearHead(TASKS, width, COLUMNS)

    @pytest.mark.parametrize(
        ("x", "tasks", "message"),
        [
            (torch.zeros(2, 4), None, r"shape \(batch, 5\), got \(2, 4\)"),
            (torch.full((2, 5), torch.nan), None, "2 of 2 samples .* the first at index 0"),
            (torch.zeros(2, 5).int(), None, "floating-point tensor, got torch.int32"),
            (torch.zeros(2, 5), ["kyes"], "unknown task 'kyes'; did you mean 'keys'"),
            (torch.zeros(2, 5), "keys", "sequence of names, got the string 'keys'"),
        ],
    )
    def test_call(self, x, tasks, message):
        for head in (LinearHead(TASKS, 5), LocalLinearHead(TASKS, 5, COLUMNS)):
            with pytest.raises(InvalidInputError, match=message) as caught:
                head(x, tasks=tasks)
            assert "\n" not in str(caught.value)

    def test_unknown_task(self):
        with pytest.raises(InvalidInputError, match="unknown task 'x'"):
            LinearHead(TASKS, 5).freeze("x")


def test_descriptions():
    local = LocalLinearHead(TASKS, 5, {**COLUMNS, "keys": np.array([1, 3])})
    for head in (LinearHead(TASKS, 5), local):
        again = type(head).from_dict(json.loads(json.dumps(head.to_dict())))
        assert again.tasks == head.tasks
        assert getattr(again, "columns", None) == getattr(head, "columns", None)
        again.load_state_dict(head.state_dict())
        x = torch.randn(2, 5)
        assert torch.equal(again(x, joined=True), head(x, joined=True))
