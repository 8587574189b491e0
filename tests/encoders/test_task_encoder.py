"""TaskEncoder: features of each task's own, and only those that the tasks asked for depend on."""

import pytest
import torch
from torch import nn

import qmtl
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError
from qmtl.heads import LocalLinearHead

TASKS = [qmtl.Task.binary(name) for name in "abcdef"]


class Layers(TaskEncoder):
    """A layer for each task; it notes who asked for it."""

    def __init__(self, columns, penalty=0.0):
        super().__init__(columns)
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({t: nn.Linear(3, len(own)) for t, own in self.columns.items()})
        self.penalty, self.asked = penalty, []

    def task_features(self, inputs, tasks):
        self.asked.append(tasks)
        return torch.cat([self.layers[task](inputs) for task in tasks], dim=1)

    def extra_loss(self):
        return self.penalty * self.layers["a"].bias.sum() if self.penalty else None

    def task_parameters(self):
        return {
            p: (task,) * len(p) for task, layer in self.layers.items() for p in layer.parameters()
        }

    def with_task(self, name, columns, seed=None):
        grown = Layers(self.columns | {name: tuple(columns)})
        for task, layer in self.layers.items():
            grown.layers[task].load_state_dict(layer.state_dict())
        return grown


def model(tasks=TASKS, simulator="lightcone", **options):
    circuit = qmtl.HeadCircuit(tasks)
    head = qmtl.QuantumHead(circuit, simulator, seed=0)
    return qmtl.MultiTaskModel(Layers(head.task_columns(), **options), head)


class TestFeatures:
    def test_stand_where_the_register_of_their_task_looks_for_them(self):
        encoder = Layers({"a": (2, 0), "b": (1, 3, 4)})
        x = torch.randn(5, 3)
        features = encoder(x)
        assert torch.equal(features[:, [2, 0]], encoder.layers["a"](x))
        assert torch.equal(features[:, [1, 3, 4]], encoder.layers["b"](x))

    def test_of_tasks_that_are_not_asked_for_are_zero(self):
        encoder = Layers({"a": (2, 0), "b": (1, 3, 4)})
        x = torch.randn(5, 3)
        expected = encoder(x).clone()
        expected[:, [2, 0]] = 0
        assert torch.equal(encoder(x, ["b"]), expected)


class TestPrediction:
    def test_asks_for_the_light_cone_only(self):
        own = model()
        x = torch.randn(4, 3)
        whole = own.predict(x)
        own.encoder.asked.clear()
        some = own.predict(x, ["c"])
        (asked,) = own.encoder.asked
        cone = qmtl.heads.cone_columns(own.head.circuit)["c"]
        assert set(asked) == {t for t, c in own.encoder.columns.items() if set(c) & set(cone)}
        assert len(asked) < 6
        torch.testing.assert_close(some["c"], whole["c"])

    def test_asks_for_all_where_the_simulator_does_not_say(self):
        own = model(TASKS[:3], "default.qubit")
        x = torch.randn(2, 3)
        own.predict(x, ["a"])
        assert own.encoder.asked == [("a", "b", "c")]

    def test_after_growing_is_the_same_bit_for_bit(self):
        own = model(TASKS[:4])
        larger = own.with_task(qmtl.Task.multiclass("new", 3), seed=0)
        assert larger.encoder.columns["new"] == (8, 9)
        again = larger.with_task(qmtl.Task.binary("newer"), seed=0)
        x = torch.randn(7, 3)
        for names in (None, ["b"], ["d", "a"]):
            before = own.predict(x, names)
            for grown in (larger, again):
                after = grown.predict(x, names)
                assert all(torch.equal(after[name], values) for name, values in before.items())
        again.encoder.asked.clear()
        torch.testing.assert_close(again.predict(x, ["new"])["new"], again.predict(x)["new"])
        assert again.encoder.asked[0] == ("new",)


class TestTraining:
    def data(self, tasks):
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
        return qmtl.data.from_arrays(x, {t.name: (x[:, 0] > 0).long() for t in tasks}, tasks=tasks)

    def test_adds_the_extra_loss(self):
        moved = []
        for penalty in (0.0, 50.0):
            own = model(TASKS[:2], penalty=penalty)
            before = own.encoder.layers["a"].bias.detach().clone()
            settings = {"optimizer": "sgd", "learning_rate": 1e-3, "max_epochs": 1}
            qmtl.fit(own, self.data(TASKS[:2]), batch_size=64, progress=False, **settings)
            moved.append(own.encoder.layers["a"].bias.detach() - before)
        torch.testing.assert_close(moved[1] - moved[0], torch.full((2,), -0.05), atol=2e-4, rtol=0)

    @pytest.mark.parametrize("settings", [{}, {"aggregator": "upgrad"}])
    def test_of_a_new_task_alone_leaves_the_others(self, settings):
        larger = model(TASKS[:2]).with_task(TASKS[2], seed=0)
        before = {n: p.clone() for n, p in larger.encoder.named_parameters()}
        data = self.data([TASKS[2]])
        qmtl.fit(larger, data, tasks=["c"], max_epochs=2, progress=False, **settings)
        changed = {n for n, p in larger.encoder.named_parameters() if not torch.equal(p, before[n])}
        assert changed == {"layers.c.weight", "layers.c.bias"}


class TestErrors:
    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (None, "columns must map each task to its features, .* got None; in a shared layout"),
            ({}, "got {}; in a shared layout"),
            ({"a": (0, 1), "b": (1, 2)}, "each feature from 0 on to one task"),
            ({"a": (0,), "b": (2,)}, "each feature from 0 on to one task"),
            ({"a": (0,), "b": ()}, "each task at least one, got"),
        ],
    )
    def test_columns(self, columns, message):
        with pytest.raises(InvalidInputError, match=message):
            Layers(columns)

    def test_another_head(self):
        head = qmtl.QuantumHead(qmtl.HeadCircuit(TASKS[:2]))
        with pytest.raises(InvalidInputError, match="features of task 'z', the head has the tasks"):
            qmtl.MultiTaskModel(Layers({"a": (0, 1), "z": (2, 3)}), head)
        message = r"task 'a': the encoder has \(0, 2\), the head takes \(0, 1\)"
        with pytest.raises(InvalidInputError, match=message):
            qmtl.MultiTaskModel(Layers({"a": (0, 2), "b": (1, 3)}), head)

    def test_an_encoder_that_cannot_grow(self):
        class Fixed(Layers):
            with_task = TaskEncoder.with_task

        head = qmtl.QuantumHead(qmtl.HeadCircuit(TASKS[:2]))
        own = qmtl.MultiTaskModel(Fixed(head.task_columns()), head)
        with pytest.raises(InvalidInputError, match="the encoder Fixed cannot grow by a task"):
            own.with_task(TASKS[2])


def test_heads_say_which_features_are_whose():
    tasks = TASKS[:2]
    circuit = qmtl.HeadCircuit(tasks)
    assert qmtl.QuantumHead(circuit).task_columns() == {"a": (0, 1), "b": (2, 3)}
    assert LocalLinearHead.on_registers(circuit).task_columns() == {"a": (0, 1), "b": (2, 3)}
    assert LocalLinearHead.on_cones(circuit).task_columns() is None
    assert qmtl.LinearHead(tasks, 4).task_columns() is None
    assert qmtl.LinearHead(tasks[:1], 2).task_columns() == {"a": (0, 1)}
    shared = qmtl.QuantumHead(qmtl.HeadCircuit(tasks, layout="shared"))
    assert shared.task_columns() is None
