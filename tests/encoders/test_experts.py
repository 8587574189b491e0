"""Experts: gates against the papers' formulas, what they choose in training, and what runs."""

import itertools
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import qmtl
from qmtl.data import from_arrays
from qmtl.encoders import CNN, MLP, Experts, FeatureGate, SelectGate, SoftmaxGate
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments import build_data, build_model, read_recipe, start_run, write_report
from qmtl.experiments._recipe import recipe_from
from qmtl.experiments._rivals import train_rival
from qmtl.heads import LocalLinearHead
from qmtl.training import MultiTaskDataModule, MultiTaskModule, TrainingSettings

TASKS = [qmtl.Task.binary(name) for name in "abcdef"]
COLUMNS = {"a": (0, 3), "b": (1,), "c": (2, 4)}
HOME = {"gate": "home", "groups": [["a", "c"], ["b"]], "shared": 2}


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def columns(n_tasks):
    return {task.name: (2 * i, 2 * i + 1) for i, task in enumerate(TASKS[:n_tasks])}


def model(n_tasks, *arguments, n_inputs=5, **options):
    circuit = qmtl.HeadCircuit(TASKS[:n_tasks])
    head = qmtl.QuantumHead(circuit, seed=0)
    encoder = Experts(n_inputs, head.task_columns(), *arguments, seed=0, **options)
    return qmtl.MultiTaskModel(encoder, head)


def double(encoder):
    """With weights that are far from their start, where some of them are 0."""
    torch.manual_seed(1)
    for p in encoder.parameters():
        p.data = torch.randn_like(p)
    return encoder.double().eval()


class TestGates:
    @pytest.mark.parametrize("options", [{}, {"gate": "exclusive", "exclusive": 3}])
    def test_softmax(self, options):
        encoder = double(Experts(6, COLUMNS, 4, width=3, seed=0, **options))
        x = torch.randn(7, 6, dtype=torch.float64)
        weight, rows = encoder.gate.weight.detach().numpy(), x.numpy()
        expected = np.zeros((7, 5))
        for r, (t, task) in itertools.product(range(7), enumerate("abc")):
            seen = [e for e, own in enumerate(encoder.owners) if own is None or task in own]
            gate = softmax(weight[t, seen] @ rows[r])
            outputs = [
                np.maximum(0, layer.weight.detach().numpy() @ rows[r] + layer.bias.detach().numpy())
                for layer in (encoder.experts[e].layers[0] for e in seen)
            ]
            mixture = sum(g * h for g, h in zip(gate, outputs, strict=True))
            for f in COLUMNS[task]:
                expected[r, f] = encoder.weight[f].detach().numpy() @ mixture
        expected += encoder.bias.detach().numpy()
        np.testing.assert_allclose(encoder(x).detach().numpy(), expected, atol=1e-12)
        assert len(set(encoder.owners)) == (1 if not options else 4)

    def test_home(self):
        encoder = double(Experts(6, COLUMNS, 5, width=3, seed=0, rank=2, **HOME))
        assert encoder.owners == (None, None, ("a", "c"), ("b",), ("a", "c"))
        x = torch.randn(7, 6, dtype=torch.float64)
        state = {name: value.numpy() for name, value in encoder.state_dict().items()}
        outputs = []
        for e in range(5):
            view = (
                x.numpy()
                * 2
                * sigmoid(x.numpy() @ state[f"views.{e}.down"] @ state[f"views.{e}.up"])
            )
            own = f"experts.{e}.layers.0"
            h = view @ state[f"{own}.weight"].T + state[f"{own}.bias"]
            h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
            h = h * state[f"norms.{e}.weight"] + state[f"norms.{e}.bias"]
            outputs.append(h * sigmoid(h))
        expected = np.zeros((7, 5))
        sees = {"a": [0, 1, 2, 4], "b": [0, 1, 3], "c": [0, 1, 2, 4]}
        for r, (t, task) in itertools.product(range(7), enumerate("abc")):
            row, seen = x[r].numpy(), sees[task]
            total = np.zeros(5)
            total[seen] = softmax(state["gate.weight"][t, seen] @ row)
            own = state["gate.self_weight"][t] @ row
            if task == "b":
                total[3] += sigmoid(own[3])
            else:
                total[[2, 4]] += softmax(own[[2, 4]])
            mixture = sum(g * h[r] for g, h in zip(total, outputs, strict=True))
            for f in COLUMNS[task]:
                expected[r, f] = state["weight"][f] @ mixture + state["bias"][f]
        np.testing.assert_allclose(encoder(x).detach().numpy(), expected, atol=1e-12)

    def test_a_feature_gate_starts_as_the_identity(self):
        x = torch.randn(3, 6)
        torch.testing.assert_close(FeatureGate(6, 2)(x), x)

    @pytest.mark.parametrize("progress", [0.0, 0.5])
    @pytest.mark.parametrize(("n_experts", "k"), [(4, 2), (8, 3), (6, 2), (1, 1)])
    def test_dselect(self, n_experts, k, progress):
        gate = double(SelectGate(3, n_experts, k, entropy=0.5)).train()
        gate.start_epoch(progress)
        width = 1 - progress**2
        bits, logits = gate.positions().detach().numpy() / width, gate.logits.detach().numpy()
        n_bits = bits.shape[2]

        def step(z):
            return 0.0 if z <= -0.5 else 1.0 if z >= 0.5 else -2 * z**3 + 1.5 * z + 0.5

        expected, entropy, overlap = np.zeros((3, n_experts)), 0.0, 0.0
        for t in range(3):
            selectors = np.zeros((k, n_experts))
            for i, code in itertools.product(range(k), range(2**n_bits)):
                steps = [step(z) for z in bits[t, i]]
                p = math.prod(s if code >> j & 1 else 1 - s for j, s in enumerate(steps))
                selectors[i, code % n_experts] += p
                entropy -= p * math.log(p) if p else 0.0
            expected[t] = softmax(logits[t]) @ selectors
            overlap += sum(a @ b for a, b in itertools.combinations(selectors, 2))
        weights = gate(torch.zeros(2, 1, dtype=torch.float64), torch.arange(3))
        np.testing.assert_allclose(weights[0].detach().numpy(), expected, atol=1e-12)
        assert weights.sum(2).flatten().tolist() == pytest.approx([1.0] * 3)
        total = 0.5 * (progress**2 * entropy + overlap / 10)
        assert gate.extra_loss().item() == pytest.approx(total)

    def test_dselect_trains_the_last_epoch_as_it_is_evaluated(self):
        gate = double(SelectGate(3, 8, 2, entropy=0.5))
        rounded = gate.weights()
        gate.train().start_epoch(1.0)
        assert torch.equal(gate.weights(), rounded)

    def test_dselect_rounds_in_evaluation(self):
        gate = double(SelectGate(3, 8, 2, entropy=0.5))
        z = gate.positions().detach().numpy()
        chosen = ((z > 0) * 2 ** np.arange(3)).sum(-1)
        expected = np.zeros((3, 8))
        for t, i in itertools.product(range(3), range(2)):
            expected[t, chosen[t, i]] += softmax(gate.logits[t].detach().numpy())[i]
        np.testing.assert_allclose(gate.weights().detach().numpy(), expected, atol=1e-12)

    def test_a_task_that_sees_one_expert_gives_it_all(self):
        gate = SoftmaxGate(torch.tensor([[True, False], [True, True]]), 3)
        assert gate(torch.randn(4, 3), torch.tensor([0])).tolist() == [[[1.0, 0.0]]] * 4


class Part(nn.Module):
    """One column of the inputs, with both signs."""

    out_features = 2

    def __init__(self, column):
        super().__init__()
        self.column = column

    def forward(self, inputs):
        own = inputs[:, [self.column]]
        return torch.cat([own, -own], dim=1)


class TestSelection:
    def train(self, needed, k, **settings):
        """A model whose tasks need some of four columns, of which each expert knows one."""
        x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        labels = {task: (x[:, list(own)].sum(1) > 0).long() for task, own in needed.items()}
        head = LocalLinearHead.on_registers(qmtl.HeadCircuit(TASKS[:3]), seed=0)
        parts = [Part(i) for i in range(4)]
        encoder = Experts(4, head.task_columns(), parts, gate="dselect", k=k, seed=0)
        data = from_arrays(x, labels, tasks=TASKS[:3])
        own = qmtl.MultiTaskModel(encoder, head)
        qmtl.fit(own, data, max_epochs=12, seed=0, progress=False, **settings)
        return encoder, x

    def test_finds_the_expert_that_a_task_needs(self):
        needed = {"a": (2,), "b": (1,), "c": (2,)}
        encoder, x = self.train(needed, 1)
        assert encoder.gate.weights().tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
        unused = [f"expert {i} has almost no weight" for i in (0, 3)]
        assert encoder.collapse(x) == unused

    @pytest.mark.parametrize("settings", [{"aggregator": "upgrad"}, {"weight_decay": 3.0}])
    def test_chooses_k_experts(self, settings):
        encoder, x = self.train({"a": (0, 3), "b": (1, 2), "c": (3, 1)}, 2, **settings)
        weights = encoder.gate.weights()
        assert (weights != 0).sum(1).tolist() == [2, 2, 2]  # Of four.
        assert weights.sum(1).tolist() == pytest.approx([1.0] * 3)
        assert not [text for text in encoder.collapse(x) if "not 2" in text]

    def test_selectors_of_the_same_expert_are_told(self):
        encoder = Experts(4, COLUMNS, 4, gate="dselect", k=2, seed=0).eval()
        assert not [text for text in encoder.collapse(torch.zeros(2, 4)) if "not 2" in text]
        encoder.gate.bits.data[1] = 2.0
        assert "task b has 1 experts, not 2" in encoder.collapse(torch.zeros(2, 4))

    @pytest.mark.parametrize("own_trainer", [False, True])
    def test_epochs_count_to_one(self, own_trainer, monkeypatch):
        """One epoch by `fit`, or three by a trainer whose settings say nothing."""
        data = build_data(read_recipe("digits", ['data.tasks=["parity","ink"]']))
        head = qmtl.QuantumHead(qmtl.HeadCircuit(data.tasks), seed=0)
        encoder = Experts(64, head.task_columns(), 4, gate="dselect", k=2, seed=0)
        seen = []

        monkeypatch.setattr(encoder, "start_epoch", seen.append)
        own = qmtl.MultiTaskModel(encoder, head)
        if own_trainer:
            settings = TrainingSettings()
            trainer = pl.Trainer(
                max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, limit_train_batches=1,
            )  # fmt: skip
            trainer.fit(MultiTaskModule(own, settings), MultiTaskDataModule(data, settings))
            assert seen == pytest.approx([1 / 3, 2 / 3, 1.0])
        else:
            qmtl.fit(own, data, max_epochs=1, progress=False)
            assert seen == [1.0]


def calls(encoder, run):
    """Which experts run, and how often."""
    counted = [0] * len(encoder.experts)

    def count(place):
        def hook(*_):
            counted[place] += 1

        return hook

    hooks = [e.register_forward_hook(count(i)) for i, e in enumerate(encoder.experts)]
    run()
    for hook in hooks:
        hook.remove()
    return counted


class TestWhatRuns:
    def check(self, own, tasks, expected):
        x = torch.randn(3, 5)
        assert calls(own.encoder, lambda: own.predict(x)) == [1] * len(expected)
        assert calls(own.encoder, lambda: own.predict(x, tasks)) == expected
        some, whole = own.predict(x, tasks), own.predict(x)
        for name in tasks:
            torch.testing.assert_close(some[name], whole[name])

    def test_exclusive(self):
        """The cone of c has features of b and d, too."""
        own = model(6, 8, gate="exclusive", exclusive=6)
        self.check(own, ["c"], [1, 1, 0, 1, 1, 1, 0, 0])

    def test_home(self):
        groups = [["a", "b", "f"], ["c", "d", "e"]]
        own = model(6, 5, gate="home", groups=groups)
        self.check(own, ["d"], [1, 0, 1, 0, 1])
        self.check(own, ["b", "d"], [1, 1, 1, 1, 1])

    def test_dselect(self):
        own = model(6, 4, gate="dselect", k=1)
        choice = torch.tensor([0, 1, 2, 3, 2, 1])
        own.encoder.gate.bits.data = (own.encoder.gate.codes[choice].float() - 0.5)[:, None]
        own.eval()
        self.check(own, ["d"], [0, 0, 1, 1])
        self.check(own, ["f", "a"], [1, 1, 1, 0])

    def test_no_expert_that_no_task_has_chosen(self):
        own = model(2, 4, gate="dselect", k=1)
        own.encoder.gate.bits.data = torch.tensor([[[2.0, 2.0]], [[-2.0, 2.0]]])
        assert calls(own.encoder, lambda: own.predict(torch.zeros(2, 5))) == [0, 0, 1, 1]


def test_a_task_that_is_trained_alone_chooses_its_experts():
    own = model(3, 4, gate="dselect", k=1)
    data = qmtl.data.from_arrays(
        torch.randn(40, 5, generator=torch.Generator().manual_seed(0)),
        {task.name: torch.arange(40) % 2 for task in own.tasks},
        tasks=own.tasks,
    )
    name = own.tasks[1].name
    before = own.encoder.gate.bits.detach().clone()
    qmtl.fit(own, data, tasks=[name], max_epochs=2, seed=0, progress=False)
    moved = (own.encoder.gate.bits.detach() != before).flatten(1).any(1).tolist()
    assert moved == [False, True, False]
    assert not own.encoder.gate.training


class TestGradients:
    @pytest.mark.parametrize(
        ("task", "options", "experts"),
        [
            ("b", {"gate": "exclusive", "exclusive": 3}, [0, 1, 3]),
            ("b", HOME, [0, 1, 3]),
            ("c", HOME, [0, 1, 2, 4]),
        ],
    )
    def test_of_a_task_reach_its_experts_only(self, task, options, experts):
        encoder = Experts(6, COLUMNS, 5, seed=0, **options)
        encoder(torch.randn(9, 6))[:, list(COLUMNS[task])].square().sum().backward()
        reached = {
            int(name.split(".")[1])
            for name, p in encoder.named_parameters()
            if name.startswith("experts.") and p.grad is not None and p.grad.abs().sum() > 0
        }
        assert reached == set(experts)
        place = list(COLUMNS).index(task)
        rows = encoder.gate.weight.grad.abs().sum((1, 2)).nonzero().flatten().tolist()
        assert rows == [place]
        rows = encoder.weight.grad.abs().sum(1).nonzero().flatten().tolist()
        assert rows == sorted(COLUMNS[task])

    @pytest.mark.parametrize("gate", ["mmoe", "dselect", "exclusive", "home"])
    @pytest.mark.parametrize("aggregator", [None, "upgrad"])
    def test_train_all_that_is_there(self, gate, aggregator):
        options = {"groups": [["a"], ["b"]]} if gate == "home" else {}
        own = model(2, 4, gate=gate, **options)
        before = {name: p.clone() for name, p in own.encoder.named_parameters()}
        x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        data = from_arrays(x, {t.name: (x[:, 0] > 0).long() for t in TASKS[:2]}, tasks=TASKS[:2])
        qmtl.fit(own, data, max_epochs=2, seed=0, aggregator=aggregator, progress=False)
        still = {n for n, p in own.encoder.named_parameters() if torch.equal(p, before[n])}
        assert not still


class TestCollapse:
    def test_is_found_after_a_run_that_is_forced_to_it(self):
        """On inputs far from 0, the softmax of MMoE is one expert's."""
        x = 50 + torch.randn(120, 5, generator=torch.Generator().manual_seed(0))
        labels = {t.name: (x[:, i] > 50).long() for i, t in enumerate(TASKS[:2])}
        found = {}
        for name, shift in (("far", 0.0), ("centred", 50.0)):
            own = model(2, 3)
            data = from_arrays(x - shift, labels, tasks=TASKS[:2])
            qmtl.fit(own, data, max_epochs=2, seed=0, progress=False)
            found[name] = own.encoder.collapse(x - shift)
            shares = own.encoder.utilisation(x - shift)
            assert [sum(of.values()) for of in shares.values()] == pytest.approx([1.0] * 2)
        assert found["centred"] == []
        assert any("almost no weight" in text for text in found["far"])

    @pytest.mark.parametrize(
        ("shares", "expected"),
        [
            ([[0.5, 0.5], [0.2, 0.8]], []),
            ([[0.95, 0.05], [0.3, 0.7]], ["expert 1 serves task b alone"]),
            ([[0.94, 0.06], [0.92, 0.08]], ["expert 0 has 93% of the weight of its tasks"]),
            (
                [[0.01, 0.99], [0.03, 0.97]],
                ["expert 0 has almost no weight", "expert 1 has 98% of the weight of its tasks"],
            ),
            ([[0.02, 0.98], [0.5, 0.5]], ["expert 0 serves task b alone"]),
            ([[0.1, 0.9], [0.5, 0.5]], []),
        ],
    )
    def test_sentences(self, shares, expected):
        # Gates of a constant input can have any shares.
        encoder = Experts(1, {"a": (0,), "b": (1,)}, 2, seed=0)
        encoder.gate.weight.data = torch.tensor(shares).log()[:, :, None]
        assert encoder.collapse(torch.ones(3, 1)) == expected

    def test_is_in_the_report(self, tmp_path):
        keys = ['data.tasks=["parity","ink"]', "training.max_epochs=1"]
        keys += ['encoder={type="experts",gate="dselect",k=1,n_experts=4}']
        run = start_run(read_recipe("digits", keys), tmp_path / "run", progress=False)
        text = write_report([run.path], tmp_path / "report.html").read_text()
        assert 'id="experts"' in text
        unused = [w for w in run.results["collapse"] if "almost no weight" in w]
        assert len(unused) >= 2  # Two tasks choose one expert each.
        assert f'<p class="warning">Warning: {unused[0]}.</p>' in text
        assert set(run.results["utilisation"]) == {"parity", "ink"}


class TestModels:
    @pytest.mark.parametrize("gate", ["mmoe", "dselect", "exclusive", "home"])
    def test_save_load_and_double(self, tmp_path, gate):
        options = {"groups": [["a", "c"], ["b"]]} if gate == "home" else {"exclusive": 1}
        own = model(3, 4, gate=gate, **options).double()
        x = torch.randn(4, 5, dtype=torch.float64)
        own.save(tmp_path)
        again = qmtl.load(tmp_path)
        assert again.encoder.owners == own.encoder.owners
        expected = own.predict(x)
        assert all(torch.equal(again.predict(x)[name], v) for name, v in expected.items())
        assert again.encoder.weight.dtype == torch.float64

    @pytest.mark.parametrize("gate", ["mmoe", "dselect", "exclusive", "home"])
    def test_growing_leaves_the_others_bit_for_bit(self, tmp_path, gate):
        options = {"groups": [["a", "c"], ["b"]]} if gate == "home" else {"exclusive": 1}
        own = model(3, 4, gate=gate, **options)
        larger = own.with_task(TASKS[3], seed=1)
        x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        before = own.predict(x)
        assert all(torch.equal(larger.predict(x)[name], v) for name, v in before.items())
        data = from_arrays(x, {"d": (x[:, 0] > 0).long()}, tasks=[TASKS[3]])
        first = larger.predict(x)["d"].clone()
        qmtl.fit(larger, data, tasks=["d"], max_epochs=2, seed=0, progress=False)
        assert all(torch.equal(larger.predict(x)[name], v) for name, v in before.items())
        assert not torch.equal(larger.predict(x)["d"], first)
        larger.save(tmp_path)
        assert torch.equal(qmtl.load(tmp_path).predict(x)["d"], larger.predict(x)["d"])

    def test_a_new_task_needs_an_expert(self):
        own = model(2, 2, gate="exclusive", exclusive=2)
        with pytest.raises(InvalidInputError, match="task 'c' sees no expert: all belong to"):
            own.with_task(TASKS[2])

    def test_experts_of_ones_own_are_not_saved(self, tmp_path):
        own = model(2, [Part(0), Part(1)])
        assert own.predict(torch.zeros(2, 5))["a"].shape == (2,)
        with pytest.raises(InvalidInputError, match="the expert Part is none of qmtl's encoders"):
            own.save(tmp_path)


class TestRecipes:
    def recipe(self, data, **keys):
        return recipe_from({"data": data, "encoder": {"type": "experts", **keys}})

    def test_images(self):
        images = from_arrays(torch.rand(40, 1, 8, 10), {"a": torch.arange(40) % 2})
        recipe = self.recipe({"source": "digits"}, expert={"type": "CNN", "channels": [4]}, width=6)
        encoder = build_model(recipe, images).encoder
        assert [type(e) for e in encoder.experts] == [CNN] * 4
        assert encoder(images.train.inputs).shape == (len(images.train), encoder.out_features)
        with pytest.raises(InvalidInputError, match="'experts' needs flat inputs, got shape"):
            build_model(self.recipe({"source": "digits"}, gate="home"), images)

    def test_resolved_recipe_reads_back(self, tmp_path):
        groups = [["parity"], ["ink", "has_loop"]]
        keys = {"gate": "home", "groups": groups, "expert": {"hidden": [8], "activation": "gelu"}}
        recipe = self.recipe({"source": "digits"}, **keys)
        (tmp_path / "recipe.toml").write_text(recipe.as_toml())
        assert read_recipe(tmp_path / "recipe.toml").encoder == recipe.encoder

    @pytest.mark.parametrize("head", ["linear", "local-cone", "single-task"])
    def test_rivals_have_the_same_experts(self, head):
        groups = [["parity"], ["ink"]]
        data = {"source": "digits", "tasks": ["parity", "ink"]}
        recipe = self.recipe(data, gate="home", groups=groups, n_experts=3)
        recipe = recipe.with_values({"training.max_epochs": 1})
        found = train_rival(recipe, build_data(recipe), head)
        assert set(found.metrics["test"]) == {"parity", "ink"}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"circuit.design": "shared-register"}, "needs a head whose tasks have features of"),
            ({"head.type": "fixed-width"}, "needs a head whose tasks have features of their own"),
            ({"encoder.k": 5, "encoder.gate": "dselect"}, "k must be at most .* experts 4, got 5"),
            ({"encoder.gate": "home"}, r"'home' needs groups of tasks, such as \[\['digit'\], \["),
            (
                {"encoder.gate": "home", "encoder.groups": [["parityy"]]},
                "groups name the task 'parityy'; the tasks are",
            ),
        ],
    )
    def test_what_does_not_fit(self, changes, message):
        recipe = self.recipe({"source": "digits"}).with_values(changes)
        with pytest.raises(InvalidInputError, match=message) as caught:
            build_model(recipe, build_data(recipe))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"gate": "moe"}, "unknown value of encoder.gate: 'moe'; did you mean 'mmoe'"),
            ({"n_experts": 0}, "encoder.n_experts: .* got 0"),
            ({"experts": 3}, "unknown key 'encoder.experts'; did you mean"),
            ({"expert": {"type": "experts"}}, "unknown value of encoder.expert.type: 'experts'"),
        ],
    )
    def test_keys(self, keys, message):
        with pytest.raises(RecipeError, match=message):
            self.recipe({"source": "digits"}, **keys)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((5, None), {}, "columns must map each task to its features, .* got None"),
        ((5, COLUMNS, 0), {}, "experts must be an integer >= 1, got 0"),
        ((5, COLUMNS, []), {}, "experts must be at least one, got none"),
        ((5, COLUMNS, True), {}, "experts must be an integer >= 1, got True"),
        ((5, COLUMNS), {"gate": "top-k"}, "unknown gate 'top-k'"),
        ((5, COLUMNS), {"gate": "dselect", "k": 0}, "k must be an integer >= 1, got 0"),
        ((5, COLUMNS), {"gate": "dselect", "k": 5}, "k must be at most .* experts 4, got 5"),
        ((5, COLUMNS), {"gate": "dselect", "entropy": -1.0}, "entropy must be a number >= 0"),
        ((5, COLUMNS), {"gate": "exclusive", "exclusive": 5}, "one task only sees, 0 to 4, got 5"),
        ((5, COLUMNS, 2), {"gate": "exclusive", "exclusive": 2}, "3 tasks cannot have one each"),
        ((5, COLUMNS), {"gate": "home", "groups": "abc"}, "needs groups of tasks, .* got 'abc'"),
        ((5, COLUMNS), {"gate": "home", "groups": [["a", "z"]]}, "groups name the task 'z'"),
        ((5, COLUMNS), {"gate": "home", "groups": [["a", "b"]]}, "task 'c' is in 0"),
        ((5, COLUMNS), {"gate": "home", "groups": [["a", "b"], ["c", "a"]]}, "task 'a' is in 2"),
        ((5, COLUMNS, 2), HOME, "2 groups and 2 shared experts need 4 experts at least, got 2"),
        (
            (5, COLUMNS, [MLP(5, out_features=2), MLP(5, out_features=3)]),
            {},
            r"the same number of out_features, got \[2, 3\]",
        ),
    ],
)
def test_errors(arguments, options, message):
    with pytest.raises(InvalidInputError, match=message):
        Experts(*arguments, **options)


def test_inputs_of_another_width():
    with pytest.raises(InvalidInputError, match=r"must have 5 numbers a row, got shape \(2, 4\)"):
        Experts(5, COLUMNS)(torch.zeros(2, 4))


def test_an_expert_that_is_there_twice_grows_as_one():
    circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")])
    head = qmtl.QuantumHead(circuit, seed=0)
    expert = qmtl.encoders.MLP(3, out_features=4, seed=0)
    encoder = qmtl.encoders.Experts(3, head.task_columns(), [expert, expert], seed=0)
    model, rows = qmtl.MultiTaskModel(encoder, head), torch.randn(5, 3)
    larger = model.with_task(qmtl.Task.binary("c"), seed=0)
    assert torch.equal(larger.predict(rows)["a"], model.predict(rows)["a"])
    assert larger.encoder.experts[0] is larger.encoder.experts[1]
