"""Laws that hold for every head type: counts, subsets, seeds, gradients, types, files."""

import copy
import json
import pickle

import pytest
import torch

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding, count_live_weights
from qmtl.errors import InvalidInputError
from qmtl.heads import HEAD_TYPES, HEADS, HeadOptions, build_head, head_parameters
from qmtl.tasks import Task
from tests.heads.quantum_samples import assert_equal
from tests.heads.rival_samples import features_for, make, mixed_tasks, rival

CIRCUITS = {
    "partitioned": lambda tasks: HeadCircuit(tasks),
    "dense": lambda tasks: HeadCircuit(tasks, AngleEncoding(2, axes="XY", trainable="YZ")),
    "iqp": lambda tasks: HeadCircuit(tasks, IQPEncoding()),
    "shared": lambda tasks: HeadCircuit(tasks, layout="shared", n_wires=4),
}


def numel(parameters, trainable=False):
    return sum(p.numel() for p in parameters if p.requires_grad or not trainable)


class TestCounts:
    @pytest.mark.parametrize("circuit", CIRCUITS)
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_all_and_trained(self, kind, circuit):
        built = CIRCUITS[circuit](mixed_tasks(3))
        for options in (HeadOptions(), HeadOptions(width=4, rank=2)):
            head = build_head(kind, built, options)
            whole = head_parameters(kind, built, options, trainable=False)
            assert numel(head.parameters()) == whole
            trainable = numel(head.parameters(), trainable=True)
            assert trainable == head_parameters(kind, built, options)
            assert (trainable == whole) == (kind != "quantum-frozen")
            if hasattr(head, "count_parameters"):
                assert head.count_parameters() == whole

    def test_a_binary_task_five_classes_and_two_numbers(self):
        tasks = mixed_tasks(3)
        for circuit, counts in {
            "partitioned": (42, 80, 65, 33, 42, 72, 78, 112, 12, 3, 42, 78, 195),
            "shared": (45, 40, 40, 40, 44, 72, 100, 112, 7, 3, 45, 89, 190),
        }.items():
            kinds = (
                "quantum", "linear", "local-cone", "local-register", "low-rank", "fixed-width",
                "vqc-per-task", "shared-vqc", "quantum-no-block", "quantum-frozen",
                "quantum-no-entangler", "mixture", "hyper",
            )  # fmt: skip
            found = {kind: head_parameters(kind, CIRCUITS[circuit](tasks)) for kind in kinds}
            assert found == dict(zip(kinds, counts, strict=True))

    @pytest.mark.parametrize("n_tasks", [3, 16, 64])
    def test_binary_tasks(self, n_tasks):
        circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(n_tasks)])
        counts = {kind: head_parameters(kind, circuit) for kind in HEAD_TYPES}
        assert counts == {
            "quantum": 9 * n_tasks,
            "linear": n_tasks * (2 * n_tasks + 1),
            "local-register": 3 * n_tasks,
            "local-cone": 7 * n_tasks,
            "low-rank": 9 * n_tasks,
            "fixed-width": 9 * n_tasks,
            "vqc-per-task": 13 * n_tasks,
            "shared-vqc": 40 + 9 * n_tasks,
            "quantum-no-block": 3 * n_tasks,
            "quantum-frozen": n_tasks,
            "quantum-no-entangler": 9 * n_tasks,
            "mixture": 12 + 5 * n_tasks,
            "hyper": 177 + 5 * n_tasks,
        }

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_partition(self, kind):
        head = rival(kind)
        own = [rows.parameter for rows in head.task_rows()]
        parts = [*head.shared_parameters(), *own]
        assert len({id(p) for p in parts}) == len(parts)
        assert {id(p) for p in parts if p.numel()} == {
            id(p) for p in head.parameters() if p.numel()
        }
        assert len(list(head.parameters())) <= 4


class TestLogits:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_shapes_types_and_subsets(self, kind, dtype):
        head = rival(kind).to(dtype)
        x = features_for(head, dtype=dtype)
        logits = head(x)
        assert list(logits) == [task.name for task in head.tasks]
        for task in head.tasks:
            assert logits[task.name].shape == (5, task.n_outputs)
            assert logits[task.name].dtype == dtype
        some = head(x, tasks=["t2", "t0"])
        assert list(some) == ["t2", "t0"]
        for name, value in some.items():
            torch.testing.assert_close(value, logits[name])
        assert head(x, tasks=[]) == {}
        for name, value in head(x[:0]).items():
            assert value.shape == (0, logits[name].shape[1])
        for name, value in head(x[2:3]).items():
            torch.testing.assert_close(value[0], logits[name][2])

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_copies_and_descriptions(self, kind):
        head = rival(kind)
        x = features_for(head)
        description = json.loads(json.dumps(head.to_dict()))
        again = HEADS[description["type"]].from_dict(description)
        again.load_state_dict(head.state_dict())
        for other in (again, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
            assert_equal(other(x), head(x))
            trainable = [p.requires_grad for p in other.parameters()]
            assert trainable == [p.requires_grad for p in head.parameters()]
            assert other.to_dict() == head.to_dict()

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_bad_calls(self, kind):
        head = rival(kind)
        x = features_for(head)
        for features, tasks, message in [
            (x[:, 1:], None, rf"\(batch, {head.n_features}\), got \(5, {head.n_features - 1}\)"),
            (x.int(), None, "floating-point tensor, got torch.int32"),
            (x * torch.nan, None, "5 of 5 samples"),
            (x, ["t9"], "unknown task 't9'"),
            (x, "t0", "sequence of names, got the string 't0'"),
            (x, ["t0", "t0"], "tasks must be distinct"),
        ]:
            with pytest.raises(InvalidInputError, match=message):
                head(features, tasks=tasks)
        with pytest.raises(InvalidInputError, match="unknown task 'x'"):
            head.freeze("x")


class TestSeeds:
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_equal_seeds_and_no_seed(self, kind):
        state = torch.get_rng_state()
        heads = [rival(kind, seed=seed) for seed in (3, 3, 4)]
        assert torch.equal(torch.get_rng_state(), state)
        first, second, other = (list(head.parameters()) for head in heads)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        names = [name for name, _ in heads[0].named_parameters()]
        drawn = [p.numel() and "scales" not in n for n, p in zip(names, first, strict=True)]
        for a, b, is_drawn in zip(first, other, drawn, strict=True):
            assert not is_drawn or not torch.equal(a, b)
        torch.manual_seed(7)
        free = rival(kind, seed=None)
        torch.manual_seed(7)
        assert_equal(free.state_dict(), rival(kind, seed=None).state_dict())

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    @pytest.mark.parametrize("change", ["one more", "other order"])
    def test_other_tasks_leave_a_tasks_weights_alone(self, kind, change):
        tasks = mixed_tasks(4)
        others = [*tasks, Task.binary("new")] if change == "one more" else tasks[::-1]
        # On a shared register the representation is as wide whatever the tasks.
        heads = [make(kind, HeadCircuit(ts, layout="shared", n_wires=4)) for ts in (tasks, others)]
        if kind == "low-rank":
            options = HeadOptions(rank=2, seed=0)
            heads = [build_head(kind, head_circuit(ts), options) for ts in (tasks, others)]
        for task in tasks:
            first, second = (own_values(head, task.name) for head in heads)
            assert first
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def own_values(head, task):
    """A task's slices of the head's parameters."""
    return [rows[task] for rows in head.task_rows() if task in rows.slices]


def head_circuit(tasks):
    return HeadCircuit(tasks, layout="shared", n_wires=4)


class TestGradients:
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_a_task_moves_its_own_and_shared_parameters_only(self, kind):
        head = rival(kind)
        x = features_for(head)
        head(x, tasks=["t1"])["t1"].square().sum().backward()
        for rows in head.task_rows():
            gradient = rows.parameter.grad
            for name, where in rows.slices.items():
                assert name == "t1" or gradient is None or not gradient[where].any()

    @pytest.mark.parametrize(
        "kind", [k for k in HEAD_TYPES if k not in ("quantum-no-block", "quantum-no-entangler")]
    )
    def test_every_trainable_parameter_has_an_effect(self, kind):
        head = rival(kind)
        sum(value.square().sum() for value in head(features_for(head)).values()).backward()
        for name, parameter in head.named_parameters():
            if parameter.requires_grad:
                assert (parameter.grad != 0).all(), name
            else:
                assert parameter.grad is None

    @pytest.mark.parametrize("kind", ["quantum-no-block", "quantum-no-entangler"])
    def test_ablations_keep_weights_without_effect(self, kind):
        options = HeadOptions(seed=0, initial="normal")
        head = build_head(kind, HeadCircuit(mixed_tasks(4)), options)
        sum(value.square().sum() for value in head(features_for(head)).values()).backward()
        weights = [p for p in (head.encoding, head.blocks.parameter) if p.numel()]
        effective = sum(int((p.grad != 0).sum()) for p in weights)
        assert effective == count_live_weights(head.circuit) < numel(weights)

    def test_frozen(self):
        head = rival("quantum-frozen")
        trainable = [name for name, p in head.named_parameters() if p.requires_grad]
        assert trainable == ["scales.parameter"]
        x = features_for(head).requires_grad_()
        sum(value.sum() for value in head(x).values()).backward()
        assert x.grad.any(dim=0).all()
        assert_equal(head(x), rival("quantum")(x))
        assert not head.with_simulator("default.qubit").encoding.requires_grad


class TestErrors:
    def test_type(self):
        circuit = HeadCircuit(mixed_tasks(1))
        for call in (build_head, head_parameters):
            with pytest.raises(InvalidInputError, match="head type 'lineer'; did you mean 'linea"):
                call("lineer", circuit)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"width": 0}, "width: Input should be greater than or equal to 1, got 0"),
            ({"seed": "one"}, "seed: Input should be a valid integer.* got 'one'"),
            ({"rank": 1.5}, "rank: Input should be a valid integer.* got 1.5"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(InvalidInputError, match=message):
            HeadOptions(**options)
