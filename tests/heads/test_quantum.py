"""QuantumHead: weights, counts, logits, errors."""

import math

import pytest
import torch

import qmtl
from qmtl.circuit import AngleEncoding, HeadCircuit, IdentityAnsatz, IQPEncoding, RealAmplitudes
from qmtl.errors import InvalidInputError
from qmtl.heads import QuantumHead
from qmtl.simulators import Simulator
from qmtl.tasks import Task
from tests.heads.quantum_samples import CIRCUIT, TASKS, assert_equal, features

# Names that torch's own containers and methods take, and names that are no identifiers.
AWKWARD = ["keys", "train", "float", "STS-B", "items", "weight", "to", "two words", "größe", "0"]


class TestWeights:
    def test_scales(self):
        head = QuantumHead(CIRCUIT, seed=0)
        scales = {name: head.scales[name].item() for name in CIRCUIT.registers}
        assert scales == {"cola": 5, "emotion": 1, "stsb": 5, "finding": 5}

    def test_spread(self):
        circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(200)])
        head = QuantumHead(circuit, seed=0, initial="normal")
        blocks = torch.cat([head.weights()[f"t{i}"] for i in range(200)])
        for weights, std in [(head.encoding.detach(), 0.1), (blocks.detach(), 0.5)]:
            assert float(weights.std()) == pytest.approx(std, rel=0.05)
            assert abs(float(weights.mean())) < 5 * std / math.sqrt(len(weights))

    def test_keys_and_order(self):
        head = QuantumHead(CIRCUIT, seed=0)
        weights = head.weights()
        assert list(weights) == ["encoding", "cola", "emotion", "stsb", "finding"]
        assert {name: w.numel() for name, w in weights.items()} == {
            "encoding": CIRCUIT.n_encoding_weights,
            **CIRCUIT.count_parameters().tasks,
        }
        assert weights["encoding"] is head.encoding
        assert all(w.requires_grad and w.ndim == 1 for w in weights.values())
        with torch.no_grad():
            weights["stsb"].fill_(2.0)
        assert head.blocks.parameter[head.blocks.slices["stsb"]].eq(2).all()

    def test_three_parameters(self):
        assert [name for name, _ in QuantumHead(CIRCUIT, seed=0).named_parameters()] == [
            "encoding",
            "blocks.parameter",
            "scales.parameter",
        ]

    def test_seed(self):
        heads = [QuantumHead(CIRCUIT, seed=seed) for seed in (3, 3, 4)]
        assert_equal(heads[0].state_dict(), heads[1].state_dict())
        for name, weights in heads[0].weights().items():
            assert (weights != heads[2].weights()[name]).all()

    def test_no_seed_draws_from_the_global_generator(self):
        torch.manual_seed(7)
        first, second = QuantumHead(CIRCUIT), QuantumHead(CIRCUIT)
        torch.manual_seed(7)
        assert_equal(first.state_dict(), QuantumHead(CIRCUIT).state_dict())
        assert not torch.equal(first.encoding, second.encoding)

    def test_a_seed_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        QuantumHead(CIRCUIT, seed=0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_tasks_draw_apart(self):
        head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        assert (head.weights()["a"] != head.weights()["b"]).all()

    def test_appending_a_task_leaves_the_others_alone(self):
        fewer = QuantumHead(CIRCUIT, seed=1)
        more = QuantumHead(HeadCircuit([*TASKS, Task.binary("new")]), seed=1)
        old, new = fewer.state_dict(), more.state_dict()
        assert set(new) - set(old) == {"blocks.task_new", "scales.task_new"}
        assert set(old) <= set(new)
        for key in set(old) - {"encoding"}:
            assert torch.equal(old[key], new[key]), key

    @pytest.mark.parametrize("seed", [1.0, "1", True])
    def test_bad_seed(self, seed):
        with pytest.raises(InvalidInputError, match="seed must be an integer or None, got"):
            QuantumHead(CIRCUIT, seed=seed)

    def test_awkward_names(self):
        circuit = HeadCircuit([Task.binary(name) for name in AWKWARD])
        head = QuantumHead(circuit, seed=0)
        logits = head(features(circuit))
        assert list(logits) == AWKWARD
        assert list(head.weights()) == ["encoding", *AWKWARD]
        again = QuantumHead(circuit, seed=1)
        again.load_state_dict(head.state_dict())
        assert_equal(again(features(circuit)), logits)


class TestCounts:
    @pytest.mark.parametrize("n_tasks", [1, 2, 5, 16, 64])
    @pytest.mark.parametrize("layout", ["partitioned", "shared"])
    @pytest.mark.parametrize(
        ("encoding", "ansatz"),
        [
            (AngleEncoding(), None),
            (AngleEncoding(3, axes="XY", trainable="YZ"), RealAmplitudes()),
            (IQPEncoding(), None),
            (IQPEncoding(), IdentityAnsatz()),
        ],
    )
    def test_closed_form_and_partition(self, n_tasks, layout, encoding, ansatz):
        kinds = [Task.binary, lambda n: Task.multiclass(n, 5), lambda n: Task.regression(n, 2)]
        tasks = [kinds[i % 3](f"t{i}") for i in range(n_tasks)]
        circuit = HeadCircuit(tasks, encoding, ansatz, layout=layout)
        head = QuantumHead(circuit, seed=0)
        count = circuit.count_parameters()
        assert count.total == sum(p.numel() for p in head.parameters())
        assert count.encoding == head.encoding.numel()
        assert head.shared_parameters() == [head.encoding] * bool(count.encoding)
        assert head.task_rows() == [head.blocks, head.scales]
        assert dict(zip(head.blocks.names, head.blocks.sizes, strict=True)) == count.tasks
        assert head.scales.sizes == (1,) * n_tasks

    @pytest.mark.parametrize("n_tasks", [2, 5, 16, 64])
    def test_default_binary_is_8_per_task_and_a_scale(self, n_tasks):
        circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(n_tasks)])
        assert circuit.count_parameters().circuit == 8 * n_tasks
        assert circuit.count_parameters().total == 9 * n_tasks

    def test_unknown_task(self):
        with pytest.raises(InvalidInputError, match="unknown task 'colla'; did you mean 'cola'"):
            QuantumHead(CIRCUIT, seed=0).freeze("colla")


class TestLogits:
    @pytest.mark.parametrize("angle_map", ["tanh", "identity"])
    def test_by_hand(self, angle_map):
        head = QuantumHead(CIRCUIT, angle_map=angle_map, seed=0)
        with torch.no_grad():
            for i, name in enumerate(head.scales.names):
                head.scales[name].fill_(1.5 + i)
        x = features()
        angles = math.pi * torch.tanh(x / 2) if angle_map == "tanh" else x
        values = head.expectation_values(angles)
        logits = head(x)
        for i, task in enumerate(TASKS):
            value = values[task.name]
            assert value.shape == (5, task.n_outputs)
            if task.kind == "multiclass":
                assert ((value >= 0) & (value <= 1)).all()
                expected = (1.5 + i) * torch.log(value + 1e-6)
            else:
                assert (value.abs() <= 1 + 1e-6).all()
                expected = (1.5 + i) * value
            torch.testing.assert_close(logits[task.name], expected)

    def test_a_probability_of_zero_is_finite(self):
        head = QuantumHead(HeadCircuit([Task.multiclass("a", 4)]), seed=0)
        with torch.no_grad():
            head.encoding.zero_()
            head.weights()["a"].zero_()
        logits = head(torch.zeros(1, 2))["a"]
        expected = torch.log(torch.tensor([[1 + 1e-6, 1e-6, 1e-6, 1e-6]]))
        torch.testing.assert_close(logits, expected)

    def test_estimated_probabilities_below_zero(self):
        class Rounding(Simulator):
            def values(self, circuit, angles, weights, tasks=None):
                return torch.tensor([[-1e-3, 0.5, 0.501]])

        head = QuantumHead(HeadCircuit([Task.multiclass("a", 3)]), Rounding(), seed=0)
        assert head(torch.zeros(1, 2))["a"][0, 0].item() == pytest.approx(math.log(1e-6))

    def test_a_period_whatever_the_features(self):
        head = QuantumHead(CIRCUIT, seed=0)
        huge = torch.full((1, CIRCUIT.n_features), 1e30)
        assert_equal(head(huge), head(100 * torch.ones_like(huge)))

    def test_subset(self):
        head = QuantumHead(CIRCUIT, seed=0)
        everything = head(features())
        some = head(features(), tasks=["stsb", "cola"])
        assert list(some) == ["stsb", "cola"]
        for name, logits in some.items():
            torch.testing.assert_close(logits, everything[name])
        assert head(features(), tasks=[]) == {}

    def test_batches(self):
        head = QuantumHead(CIRCUIT, seed=0)
        everything = head(features())
        assert {n: v.shape[0] for n, v in head(features()[:0]).items()} == dict.fromkeys(
            everything, 0
        )
        for i in range(5):
            for name, logits in head(features()[i : i + 1]).items():
                torch.testing.assert_close(logits[0], everything[name][i])

    def test_every_parameter_gets_a_gradient(self):
        head = QuantumHead(CIRCUIT, seed=0)
        sum(logits.square().sum() for logits in head(features()).values()).backward()
        for name, parameter in head.named_parameters():
            assert (parameter.grad != 0).all(), name


class TestErrors:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(2, 3), f"must have shape (batch, {CIRCUIT.n_features}), got (2, 3)"),
            (torch.zeros(CIRCUIT.n_features), "features must have shape"),
            (torch.zeros(2, CIRCUIT.n_features).long(), "floating-point tensor, got torch.int64"),
            ([[0.0] * CIRCUIT.n_features], "floating-point tensor, got list"),
            (torch.zeros(2, CIRCUIT.n_features).half(), "weights are, got torch.float16"),
            (torch.zeros(2, CIRCUIT.n_features).double(), "must be torch.float32 as the head"),
        ],
    )  # fmt: skip
    def test_features(self, x, message):
        with pytest.raises(InvalidInputError) as caught:
            QuantumHead(CIRCUIT, seed=0)(x)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_not_finite(self, value):
        x = features()
        x[2, 0] = x[4, 1] = x[4, 2] = value
        with pytest.raises(InvalidInputError) as caught:
            QuantumHead(CIRCUIT, seed=0)(x)
        assert "2 of 5 samples have NaN or infinite values, the first at index 2" in str(
            caught.value
        )

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [
            (["colla"], "unknown task 'colla'; did you mean 'cola'"),
            ("cola", "a sequence of names, got the string 'cola'"),
            (["cola", "cola"], "tasks must be distinct"),
        ],
    )
    def test_tasks(self, tasks, message):
        with pytest.raises(InvalidInputError, match=message):
            QuantumHead(CIRCUIT, seed=0)(features(), tasks=tasks)

    def test_angle_map(self):
        with pytest.raises(InvalidInputError, match="unknown angle_map 'tan'; did you mean 'tanh'"):
            QuantumHead(CIRCUIT, angle_map="tan")


@pytest.mark.parametrize(
    "simulator",
    [
        qmtl.simulators.LightConeSimulator(max_memory=10**9, engine="eager"),
        qmtl.pennylane.PennyLaneSimulator("default.qubit", diff_method="parameter-shift", seed=3),
    ],
)
def test_simulator_settings_are_saved(simulator):
    head = qmtl.QuantumHead(qmtl.HeadCircuit([qmtl.Task.binary("a")]), simulator)
    again = qmtl.QuantumHead.from_dict(head.to_dict()).simulator
    assert repr(again) == repr(simulator)
    assert {k: v for k, v in vars(again).items() if not k.startswith("_")} == {
        k: v for k, v in vars(simulator).items() if not k.startswith("_")
    }


def test_a_simulator_of_your_own_cannot_be_saved():
    class Zeros(Simulator):
        def values(self, circuit, angles, weights, tasks=None):
            return angles[:, :1] * 0

    head = qmtl.QuantumHead(qmtl.HeadCircuit([qmtl.Task.binary("a")]), Zeros())
    assert head(torch.ones(2, 2))["a"].shape == (2, 1)
    with pytest.raises(qmtl.errors.InvalidInputError, match="with_simulator\\('lightcone'\\)"):
        head.to_dict()


def test_with_simulator_shares_parameters_and_not_hooks():
    head = qmtl.QuantumHead(qmtl.HeadCircuit([qmtl.Task.binary("a")]), seed=0)
    twin = head.with_simulator("default.qubit")
    calls = []
    twin.register_forward_hook(lambda *_: calls.append(1))
    head(torch.ones(1, 2))
    assert calls == []
    assert [id(p) for p in twin.parameters()] == [id(p) for p in head.parameters()]


class TestParts:
    """forward is angles, then expectation values, then logits."""

    def test_logits_of_the_values_at_the_angles(self):
        head = QuantumHead(CIRCUIT, seed=0)
        x = features(CIRCUIT, 3)
        parts = head.logits(head.expectation_values(head.angles(x), ["emotion", "cola"]))
        torch.testing.assert_close(parts, head(x, tasks=["emotion", "cola"]))

    def test_another_name(self):
        head = QuantumHead(CIRCUIT, seed=0)
        with pytest.raises(InvalidInputError, match="did you mean 'cola'"):
            head.logits({"colla": torch.zeros(1, 1)})
