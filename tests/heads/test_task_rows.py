"""One parameter of all tasks: its slices, its keys, freezing, pruning, and many tasks."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.nn.utils import parametrize, prune

import qmtl
from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.heads import HEAD_TYPES, Head, LinearHead, LocalLinearHead, QuantumHead, TaskRows
from qmtl.simulators import LightConeSimulator, Simulator
from qmtl.tasks import Task
from tests.heads.quantum_samples import CIRCUIT, TASKS, assert_equal, features
from tests.heads.rival_samples import features_for, make, mixed_tasks, rival


def shared(tasks):
    """A circuit whose encoding is the same whatever the tasks."""
    return HeadCircuit(tasks, layout="shared", n_wires=4)


class TestRows:
    def test_slices(self):
        rows = TaskRows({"a": torch.zeros(2, 2), "b": torch.ones(()), "c.d": torch.zeros(0)})
        assert rows.names == ("a", "b", "c.d")
        assert rows.sizes == (4, 1, 0)
        assert rows.slices == {"a": slice(0, 4), "b": slice(4, 5), "c.d": slice(5, 5)}
        assert rows.row_of.tolist() == [0, 0, 0, 0, 1]
        assert rows["a"].shape == (2, 2)
        assert rows["b"].shape == ()
        assert {k: tuple(v.shape) for k, v in rows.state_dict().items()} == {
            "task_a": (2, 2),
            "task_b": (),
            "task_c%2Ed": (0,),
        }
        with pytest.raises(InvalidInputError, match="unknown task 'x'"):
            rows["x"]

    def test_views_are_set_in_place(self):
        rows = TaskRows({"a": torch.zeros(2, 3), "b": torch.zeros(1, 3)}, flat=False)
        with torch.no_grad():
            rows["b"].fill_(2.0)
        assert rows().tolist() == [[0.0] * 3, [0.0] * 3, [2.0] * 3]
        rows.freeze("b")
        rows["b"].fill_(3.0)
        assert rows().tolist() == [[0.0] * 3, [0.0] * 3, [3.0] * 3]


class TestJoined:
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_the_dictionarys_values_side_by_side(self, kind):
        head = rival(kind)
        assert isinstance(head, Head)
        x = features_for(head)
        for tasks in (None, ["t2"], ["t3", "t0", "t1"], ["t3", "t2", "t1", "t0"], []):
            logits, joined = head(x, tasks), head(x, tasks, joined=True)
            expected = torch.cat([x[:, :0], *logits.values()], dim=1)
            torch.testing.assert_close(joined, expected)

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_gradients_of_some_tasks_are_those_of_all(self, kind):
        head = rival(kind).double()
        x = features_for(head, dtype=torch.float64)
        head(x, ["t3", "t1"], joined=True).square().sum().backward()
        some = [p.grad for p in head.parameters()]
        head.zero_grad(set_to_none=True)
        logits = head(x)
        (logits["t1"].square().sum() + logits["t3"].square().sum()).backward()
        for parameter, gradient in zip(head.parameters(), some, strict=True):
            if parameter.grad is not None:
                gradient = torch.zeros_like(parameter) if gradient is None else gradient
                torch.testing.assert_close(gradient, parameter.grad)

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_a_tasks_logits_may_be_changed_in_place(self, kind):
        head = rival(kind).double()
        x = features_for(head, dtype=torch.float64).requires_grad_()
        logits, changed = head(x), head(x)
        changed["t0"].sigmoid_()
        changed["t1"][0] = 0.0
        expected = {**logits, "t0": logits["t0"].sigmoid()}
        expected["t1"] = torch.cat([torch.zeros_like(logits["t1"][:1]), logits["t1"][1:]])
        assert_equal(changed, expected)
        leaves = [x, *(p for p in head.parameters() if p.requires_grad)]
        found, right = (
            torch.autograd.grad(sum(v.square().sum() for v in values.values()), leaves)
            for values in (changed, expected)
        )
        torch.testing.assert_close(found, right)


class TestStates:
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    @pytest.mark.parametrize(
        "way", ["plain", "saved", "assigned", "converted", "safetensors", "distributed", "full"]
    )
    def test_round_trip(self, kind, way, tmp_path):
        head, other = rival(kind), rival(kind, seed=1)
        state = head.state_dict()
        if way == "safetensors":  # refuses slices of one storage
            save_model(head, tmp_path / "head.safetensors")
            state = load_file(tmp_path / "head.safetensors")
        if way in ("distributed", "full"):  # accelerate loads in the second way
            options = StateDictOptions(full_state_dict=way == "full")
            state = get_model_state_dict(head, options=options)
            set_model_state_dict(other, dict(state), options=options)
            assert_equal(other.state_dict(), head.state_dict())
        if way == "saved":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file)
        if way == "converted":
            state = {key: value.double() for key, value in state.items()}
            other = other.double()
        other.load_state_dict(state, assign=way == "assigned")
        assert_equal(other.float().state_dict(), head.state_dict())
        x = features_for(head)
        assert_equal(other(x), head(x))
        assert [p.requires_grad for p in other.parameters()] == [
            p.requires_grad for p in head.parameters()
        ]

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_a_state_may_be_changed_in_place(self, kind):
        """As averages of weights do that go through states."""
        head = rival(kind)
        with torch.no_grad():
            for value in head.state_dict().values():
                value.fill_(0.5)
        assert all((p == 0.5).all() for p in head.parameters())

    @pytest.mark.parametrize("kind", HEAD_TYPES)
    def test_errors_are_by_task(self, kind):
        head = rival(kind)
        state = head.state_dict()
        key = next(key for key in state if "task_t1" in key and state[key].ndim)
        with pytest.raises(RuntimeError) as caught:
            head.load_state_dict({k: v for k, v in state.items() if k != key})
        assert f'Missing key(s) in state_dict: "{key}".' in str(caught.value)
        with pytest.raises(RuntimeError, match="size mismatch for") as caught:
            head.load_state_dict(state | {key: torch.zeros(77)})
        assert key in str(caught.value)
        strange = key.replace("t1", "t9")
        with pytest.raises(RuntimeError) as caught:
            head.load_state_dict(state | {strange: state[key]})
        assert f'Unexpected key(s) in state_dict: "{strange}".' in str(caught.value)
        with pytest.raises(RuntimeError, match=r"expected a torch\.Tensor, got"):
            head.load_state_dict(state | {key: "text"})

    # Single-task heads are numbered, and the rank depends on the number of tasks.
    @pytest.mark.parametrize(
        "kind", [kind for kind in HEAD_TYPES if "single" not in kind and kind != "low-rank"]
    )
    def test_growth(self, kind):
        """A head for more tasks, in another order, takes what an older state has."""
        tasks = mixed_tasks(4)
        fewer = make(kind, shared(tasks), seed=0)
        more = make(kind, shared([Task.binary("new"), *tasks[::-1]]), seed=1)
        before = {key: value.clone() for key, value in more.state_dict().items()}
        missing, unexpected = more.load_state_dict(fewer.state_dict(), strict=False)
        assert missing == [key for key in before if "task_new" in key]
        assert unexpected == []
        for key, value in more.state_dict().items():
            assert torch.equal(value, (before if key in missing else fewer.state_dict())[key]), key
        x = features_for(fewer)
        for name, logits in fewer(x).items():
            torch.testing.assert_close(more(x)[name], logits)

    def test_shrinking(self):
        tasks = mixed_tasks(3)
        more, fewer = LinearHead(tasks, 4, seed=0), LinearHead(tasks[:2], 4, seed=1)
        missing, unexpected = fewer.load_state_dict(more.state_dict(), strict=False)
        assert missing == []
        assert unexpected == ["layers.task_t2.weight", "layers.task_t2.bias"]
        x = torch.randn(3, 4)
        torch.testing.assert_close(fewer(x)["t1"], more(x)["t1"])

    def test_inside_of_other_modules(self):
        def whole(seed):
            return nn.Sequential(nn.Linear(3, 4), LinearHead(mixed_tasks(3), 4, seed=seed))

        first, second = whole(0), whole(1)
        assert "1.layers.task_t0.weight" in first.state_dict()
        second.load_state_dict(first.state_dict())
        x = torch.randn(2, 3)
        assert_equal(second(x), first(x))

    def test_optimisers_and_states_of_parameters_are_unharmed_by_keys(self):
        head = QuantumHead(CIRCUIT, seed=0)
        values = head.state_dict()
        values["blocks.task_cola"].zero_()  # a reference, as torch promises
        assert not head.blocks["cola"].any()
        kept = head.state_dict(keep_vars=True)
        assert kept["blocks.task_stsb"].requires_grad


class TestFreeze:
    @pytest.mark.parametrize("kind", HEAD_TYPES)
    @pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
    def test_a_frozen_task_stays_and_the_others_train_as_before(self, kind, optimizer):
        options = {"momentum": 0.9} if optimizer == "SGD" else {}
        frozen, free = rival(kind), rival(kind)
        x = features_for(frozen)
        steppers = [
            getattr(torch.optim, optimizer)(head.parameters(), lr=0.1, weight_decay=0.1, **options)
            for head in (frozen, free)
        ]

        def step():
            for head, stepper in zip((frozen, free), steppers, strict=True):
                stepper.zero_grad()
                head(x, joined=True).square().sum().backward()
                stepper.step()

        step()  # moments that would move it
        frozen.freeze("t1")
        assert frozen.frozen_tasks == {"t1"}
        before = [v.clone() for rows in frozen.task_rows() for n, v in rows_of(rows) if n == "t1"]
        for _ in range(3):
            step()
        after = [v for rows in frozen.task_rows() for n, v in rows_of(rows) if n == "t1"]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for rows in frozen.task_rows():
            gradient = rows.parameter.grad
            if gradient is not None and "t1" in rows.slices:
                assert not gradient[rows.slices["t1"]].any()
        state, other = frozen.state_dict(), free.state_dict()
        if not frozen.shared_parameters():
            for key in state:
                assert "task_t1" in key or torch.equal(state[key], other[key]), key
        frozen.unfreeze("t1")
        assert frozen.frozen_tasks == frozenset()
        assert_equal(frozen.state_dict(), state)
        step()
        assert kind == "quantum-no-block" or any(
            not torch.equal(state[key], value)
            for key, value in frozen.state_dict().items()
            if "task_t1" in key or "heads.1" in key
        )

    def test_several_and_copies_and_types(self):
        head = QuantumHead(CIRCUIT, seed=0)
        x = features()
        before = head(x)
        for name in ("cola", "emotion"):
            head.freeze(name)
        for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
            assert other.frozen_tasks == {"cola", "emotion"}
            with torch.no_grad():
                other.blocks.parameter.add_(1)
                other.scales.parameter.add_(1)
            assert_equal(
                {name: other(x)[name] for name in ("cola", "emotion")},
                {name: before[name] for name in ("cola", "emotion")},
            )
            assert not torch.equal(other(x)["stsb"], before["stsb"])
            assert other.double()(x.double())["cola"].dtype == torch.float64
        assert_equal(head(x), before)
        head.unfreeze("cola")
        assert head.frozen_tasks == {"emotion"}
        with pytest.raises(InvalidInputError, match="unknown task 'colla'"):
            head.unfreeze("colla")

    def test_what_is_loaded_is_what_is_held(self):
        head, other = QuantumHead(CIRCUIT, seed=0), QuantumHead(CIRCUIT, seed=1)
        head.freeze("cola")
        head.load_state_dict(other.state_dict())
        assert_equal(head(features()), other(features()))
        assert_equal(head.state_dict(), other.state_dict())


def rows_of(rows):
    return [(name, rows[name].detach()) for name in rows.names]


def new_head(simulator="lightcone"):
    circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")])
    return QuantumHead(circuit, simulator, seed=0)


def change(head, how, places):
    for module, name in places:
        if how == "pruned":
            prune.random_unstructured(module, name, amount=0.5)
        else:
            parametrize.register_parametrization(module, name, nn.Tanh())


def assert_every_step_counts(head, x):
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        before = head(x)["a"]
        before.sum().backward()
        optimizer.step()
        assert not torch.equal(before, head(x)["a"])


@pytest.mark.parametrize("how", ["pruned", "parametrised"])
class TestComputedParameters:
    """Parameters that torch's pruning or parametrisations compute from others."""

    def test_trains(self, how):
        head, x = new_head(), torch.linspace(-1, 1, 4)[None]
        change(head, how, [(head, "encoding"), (head.blocks, "parameter")])
        assert_every_step_counts(head, x)
        assert all(p.grad is not None for p in head.parameters())
        assert head.double()(x.double())["a"].dtype is torch.float64
        own = [p for rows in head.task_rows() for p in rows.parameters()]
        assert {id(p) for p in (*own, *head.shared_parameters())} == {
            id(p) for p in head.parameters()
        }

    def test_states(self, how):
        heads = [new_head(), new_head()]
        for head in heads:
            change(head, how, [(head, "encoding"), (head.blocks, "parameter")])
        state = heads[0].state_dict()
        assert any(key.startswith("blocks.param") for key in state)
        heads[1].load_state_dict(state)
        x = torch.linspace(-1, 1, 4)[None]
        assert_equal(heads[1](x), heads[0](x))

    def test_another_simulator(self, how):
        head, x = new_head(), torch.linspace(-1, 1, 4)[None]
        change(head, how, [(head.blocks, "parameter"), (head.scales, "parameter")])
        twin = head.with_simulator("default.qubit")
        with torch.no_grad():
            for parameter in head.parameters():
                parameter *= 1.5
        torch.testing.assert_close(twin(x), head(x), atol=1e-5, rtol=0)
        change(head, how, [(head, "encoding")])
        with pytest.raises(InvalidInputError, match="pruned or parametrised"):
            head.with_simulator("default.qubit")

    @pytest.mark.parametrize("kind", ["linear", "local"])
    def test_layers(self, how, kind):
        circuit, x = new_head().circuit, torch.linspace(-1, 1, 4)[None]
        head = (
            LinearHead(circuit.tasks, 4, seed=0)
            if kind == "linear"
            else LocalLinearHead.on_registers(circuit, seed=0)
        )
        change(head, how, [(head.layers.weight, "parameter")])
        assert_every_step_counts(head, x)

    def test_freezing(self, how):
        head, x = new_head(), torch.linspace(-1, 1, 4)[None]
        change(head, how, [(head.blocks, "parameter")])
        head.freeze("a")
        before = head(x)["a"].detach()
        with torch.no_grad():
            for parameter in head.blocks.parameters():
                parameter *= 1.5
        torch.testing.assert_close(head(x)["a"], before)
        head.unfreeze("a")
        assert (head(x)["a"] - before).abs() > 1e-3


class Halved(nn.Module, Simulator):
    """With a parameter of its own."""

    def __init__(self, strength):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def values(self, circuit, angles, weights, tasks=None):
        return LightConeSimulator().values(circuit, angles, weights, tasks) * self.strength


def test_simulators_that_are_modules_stay_with_their_head():
    x = torch.linspace(-1, 1, 4)[None]
    exact = new_head()
    twin = exact.with_simulator(Halved(0.5))
    torch.testing.assert_close(twin(x)["a"], exact(x)["a"] / 2)
    assert "simulator.strength" in twin.state_dict()
    assert "simulator.strength" not in exact.state_dict()
    other = twin.with_simulator(Halved(0.25))
    torch.testing.assert_close(twin(x)["a"], 2 * other(x)["a"])
    torch.testing.assert_close(twin.with_simulator("lightcone")(x), exact(x))


def test_what_one_of_two_heads_learns_or_loads_is_seen_by_both():
    head = QuantumHead(CIRCUIT, seed=0)
    twin = head.with_simulator("default.qubit")
    assert [id(p) for p in twin.parameters()] == [id(p) for p in head.parameters()]
    twin.load_state_dict(QuantumHead(CIRCUIT, seed=1).state_dict())
    assert_equal(head.state_dict(), QuantumHead(CIRCUIT, seed=1).state_dict())
    twin.freeze("cola")
    assert head.frozen_tasks == {"cola"}


@pytest.mark.parametrize("value", ["vmap", "meta", "inference"])
@pytest.mark.parametrize("kind", ["linear", "local-cone", "vqc-per-task", "low-rank"])
def test_where_there_are_no_values_to_check(kind, value):
    head = rival(kind)
    x = features_for(head)
    if value == "vmap":
        rows = torch.vmap(lambda row: head(row[None], joined=True)[0])(x)
        torch.testing.assert_close(rows, head(x, joined=True))
    elif value == "meta":
        assert head.to("meta")(x.to("meta"), joined=True).is_meta
    else:
        with torch.inference_mode():
            head(x)
        head(x.requires_grad_(), joined=True).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("value", [1e38, -1e38])
def test_features_whose_sum_overflows_are_finite(value):
    head = QuantumHead(CIRCUIT, seed=0)
    with warnings.catch_warnings(action="error"):
        logits = head(torch.full((9, CIRCUIT.n_features), value), joined=True)
    assert logits.isfinite().all()


def test_an_optimiser_sees_no_parameter_per_task():
    tasks = [Task.binary(f"t{i}") for i in range(4096)]
    heads = [QuantumHead(HeadCircuit(tasks), seed=0), LocalLinearHead(tasks, 9, columns_of(tasks))]
    for head in heads:
        assert len(list(head.parameters())) <= 3
        state = head.state_dict()
        assert len(state) >= 2 * len(tasks)
        head.load_state_dict(state)


def columns_of(tasks):
    return {task.name: (i % 8, i % 8 + 1) for i, task in enumerate(tasks)}


def test_the_tasks_are_those_of_the_circuit():
    assert QuantumHead(CIRCUIT).tasks == CIRCUIT.tasks == tuple(TASKS)
