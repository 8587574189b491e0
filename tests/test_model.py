"""MultiTaskModel: predictions, parts, parameters."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import qmtl
from qmtl.encoders import MLP, Identity
from qmtl.errors import InvalidInputError
from qmtl.heads import LinearHead
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from tests.model_samples import HEADS, TASKS, WIDTH, inputs_of, make_model


class TestPredict:
    def test_shapes_and_ranges(self):
        predictions = make_model().predict(torch.randn(7, 6))
        assert {name: tuple(p.shape) for name, p in predictions.items()} == {
            "keys": (7,),
            "emotion": (7, 3),
            "finding": (7, 2),
            "STS-B": (7,),
            "two targets": (7, 2),
        }
        for name in ("keys", "emotion", "finding"):
            assert ((predictions[name] >= 0) & (predictions[name] <= 1)).all()
        torch.testing.assert_close(predictions["emotion"].sum(1), torch.ones(7))
        assert not any(p.requires_grad for p in predictions.values())

    def test_regression_in_target_units(self):
        model = make_model().eval()
        x = inputs_of(model)
        logits, predictions = model(x), model.predict(x)
        assert predictions["STS-B"].dtype == torch.float64
        logits = {name: value.double() for name, value in logits.items()}
        torch.testing.assert_close(predictions["STS-B"], logits["STS-B"][:, 0] * 0.5 + 2.5)
        scale = torch.tensor([[3.0, 10.0], [1.0, -7.0]]).double()
        expected = logits["two targets"] * scale[0] + scale[1]
        torch.testing.assert_close(predictions["two targets"], expected)
        for task in TASKS[3:]:
            torch.testing.assert_close(
                model.standardise(task, predictions[task.name]),
                logits[task.name].reshape(predictions[task.name].shape),
            )

    def test_a_data_frame_is_its_numbers(self):
        model, x = make_model(), torch.randn(4, 6)
        frame = pd.DataFrame(x.numpy(), columns=[f"c{i}" for i in range(6)], index=[7, 3, 9, 1])
        for name, values in model.predict(frame).items():
            # Products of matrices in another order of memory are rounded otherwise.
            torch.testing.assert_close(values.float(), model.predict(x)[name].float())
        with pytest.raises(InvalidInputError, match="array of numbers"):
            model.predict(frame.assign(c0="red"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda x: x[::-1][::-1],
            lambda x: x.astype(">f4"),
            lambda x: np.asfortranarray(x),
            lambda x: np.ma.masked_array(x),
            lambda x: x.astype(object),
            lambda x: pd.DataFrame(x).convert_dtypes(),
            lambda x: pd.DataFrame(x).astype("Float64"),
            lambda x: pd.DataFrame(x[::-1].copy()).iloc[::-1],
            lambda x: x.tolist(),
        ],
    )
    def test_arrays_of_every_kind(self, change):
        model, x = make_model(), torch.randn(4, 6)
        expected = model.predict(x)
        for name, values in model.predict(change(x.numpy())).items():
            torch.testing.assert_close(values.float(), expected[name].float())

    def test_by_another_simulator_in_the_same_units(self):
        model = make_model()
        x = inputs_of(model)
        model.train()
        other = model.with_simulator("default.qubit")
        assert other.training
        assert all(module.training for module in model.modules())
        assert other.head.simulator != model.head.simulator
        for name, values in model.predict(x).items():
            torch.testing.assert_close(other.predict(x)[name], values, rtol=1e-4, atol=1e-5)
        model.set_target_scale("STS-B", torch.tensor(100.0), torch.tensor(3.0))
        torch.testing.assert_close(
            other.predict(x)["STS-B"], model.predict(x)["STS-B"], rtol=1e-4, atol=1e-3
        )
        with pytest.raises(InvalidInputError, match="LinearHead cannot change its simulator"):
            make_model(head="linear").with_simulator("default.qubit")

    def test_standardise_keeps_missing_labels_and_other_kinds(self):
        model = make_model()
        targets = TASKS[3].to_targets([2.5, None, 3.0])
        assert model.standardise(TASKS[3], targets).isnan().tolist() == [False, True, False]
        classes = TASKS[1].to_targets([2, None])
        assert model.standardise(TASKS[1], classes) is classes

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_scales_keep_float64_digits_in_any_model(self, dtype):
        model = make_model().to(dtype)
        mean = torch.tensor(1_700_000_001.5, dtype=torch.float64)
        model.set_target_scale("STS-B", mean, torch.tensor(2.0))
        targets = TASKS[3].to_targets([1_700_000_001.5, 1_700_000_003.5])
        torch.testing.assert_close(
            model.float().standardise(TASKS[3], targets), torch.tensor([0.0, 1.0]).double()
        )
        zero = model.predictions({"STS-B": torch.zeros(1, 1)})
        assert float(zero["STS-B"]) == float(mean)

    @pytest.mark.parametrize("std", [0.0, -1.0, torch.nan, torch.inf, 1e-60, 1e60])
    def test_scales_that_are_none(self, std):
        with pytest.raises(InvalidInputError, match="'STS-B': the targets' means must be finite"):
            make_model().set_target_scale(
                "STS-B", torch.tensor(0.0), torch.tensor(std, dtype=torch.float64)
            )
        with pytest.raises(InvalidInputError, match="'STS-B'"):
            make_model().set_target_scale("STS-B", torch.tensor(torch.nan), torch.tensor(1.0))

    def test_integers_stay_integers_for_encoders_of_tokens(self):
        encoder = nn.Sequential(nn.Embedding(5, WIDTH // 2), nn.Flatten())
        model = MultiTaskModel(encoder, HEADS["linear"]())
        tokens = torch.tensor([[0, 4], [3, 1]])
        for inputs in (tokens, tokens.numpy(), tokens.tolist()):
            torch.testing.assert_close(
                model.predict(inputs)["keys"], model(tokens)["keys"].sigmoid()[:, 0].detach()
            )

    def test_batches_subsets_and_arrays(self):
        model = make_model()
        x = inputs_of(model, 7)
        everything = model.predict(x)
        for batch_size in (1, 3, 7, 100):
            for name, prediction in model.predict(x, batch_size=batch_size).items():
                torch.testing.assert_close(prediction.float(), everything[name].float())
        some = model.predict(x.double().numpy(), tasks=["STS-B", "keys"])
        assert set(some) == {"STS-B", "keys"}
        torch.testing.assert_close(some["STS-B"].float(), everything["STS-B"].float())
        whole = model.predict(np.ones((2, 6), dtype=int))
        torch.testing.assert_close(whole["keys"], model.predict(torch.ones(2, 6))["keys"])

    def test_training_mode_is_restored_module_by_module(self):
        model = make_model().train()
        model.encoder.eval()  # a frozen encoder
        model.predict(inputs_of(model))
        assert model.training
        assert model.head.training
        assert not any(module.training for module in model.encoder.modules())
        with pytest.raises(InvalidInputError):
            model.predict(torch.zeros(2, 99))
        assert model.training
        model.eval().predict(inputs_of(model))
        assert not any(module.training for module in model.modules())

    @pytest.mark.parametrize(
        ("inputs", "options", "message"),
        [
            (torch.zeros(6), {}, r"at least 2 dimensions, got shape \(6,\)"),
            (torch.zeros(0, 6), {}, "at least one sample, got none"),
            ([["a"]], {}, "inputs must be an array of numbers .* got list that is not numeric"),
            (np.array([["a"]]), {}, "got ndarray that is not numeric"),
            (torch.zeros(2, 6) + 1j, {}, "inputs must be real numbers, got torch.complex64"),
            ([[1.0], [1.0, 2.0]], {}, "rows of different lengths"),
            ([[None] * 6], {}, "features must be finite"),
            (np.zeros((2, 6), dtype="M8[s]"), {}, "not numeric"),
            (torch.zeros(2, 6), {"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
            (torch.zeros(2, 6), {"tasks": ["kes"]}, "unknown task 'kes'; did you mean 'keys'"),
            (torch.zeros(2, 5), {}, r"shape \(batch, 6\), got \(2, 5\)"),
            (torch.full((2, 6), torch.nan), {}, "features must be finite; 2 of 2 samples"),
        ],
    )
    def test_errors(self, inputs, options, message):
        with pytest.raises(InvalidInputError, match=message) as caught:
            make_model().predict(inputs, **options)
        assert "\n" not in str(caught.value)

    def test_features_come_in_batches(self):
        model = make_model().eval()
        inputs = inputs_of(model)
        features = model.features(inputs, batch_size=2)
        torch.testing.assert_close(features, model.encoder(inputs).detach())
        with pytest.raises(InvalidInputError, match="batch_size must be an integer >= 1, got 0"):
            model.features(inputs, batch_size=0)


class TestStates:
    def test_a_key_for_each_regression_task(self):
        state = make_model().state_dict()
        assert {key for key in state if key.startswith("target")} == {
            f"target_{part}_{task.name}" for task in TASKS[3:] for part in ("mean", "rest", "std")
        }
        assert state["target_std_two targets"].tolist() == [3.0, 10.0]

    @pytest.mark.parametrize("assign", [False, True])
    def test_round_trip(self, assign):
        model = make_model()
        other = MultiTaskModel(model.encoder, HEADS["quantum"]())
        other.load_state_dict(model.state_dict(), assign=assign)
        for name, value in other.predict(inputs_of(model)).items():
            assert torch.equal(value, model.predict(inputs_of(model))[name])

    def test_a_model_of_more_tasks_takes_the_scales_it_knows(self):
        whole = make_model(head="linear")
        some = MultiTaskModel(Identity(WIDTH), LinearHead([TASKS[4], Task.regression("n")], WIDTH))
        missing, _ = some.load_state_dict(whole.state_dict(), strict=False)
        assert {key for key in missing if key.startswith("target")} == {
            "target_mean_n",
            "target_rest_n",
            "target_std_n",
        }
        mean, std = some.target_scale()
        assert mean.tolist() == [1.0, -7.0, 0.0]
        assert std.tolist() == [3.0, 10.0, 1.0]

    def test_errors_are_by_task(self):
        model = make_model()
        state = model.state_dict()
        del state["target_std_STS-B"]
        state["target_mean_two targets"] = torch.zeros(3)
        with pytest.raises(RuntimeError) as caught:
            model.load_state_dict(state)
        assert 'Missing key(s) in state_dict: "target_std_STS-B"' in str(caught.value)
        assert "size mismatch for target_mean_two targets" in str(caught.value)

    def test_inside_of_another_module(self):
        first, second = nn.Sequential(make_model()), nn.Sequential(make_model())
        second[0].set_target_scale("STS-B", torch.tensor(9.0), torch.tensor(9.0))
        assert "0.target_mean_STS-B" in first.state_dict()
        second.load_state_dict(first.state_dict())
        assert second[0].target_scale()[0].tolist() == first[0].target_scale()[0].tolist()

    @pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies(self, way):
        model = make_model()
        other = way(model)
        x = inputs_of(model)
        for name, value in other.predict(x).items():
            assert torch.equal(value, model.predict(x)[name])
        other.set_target_scale("STS-B", torch.tensor(9.0), torch.tensor(9.0))
        assert not torch.equal(other.predict(x)["STS-B"], model.predict(x)["STS-B"])

    def test_scales_of_all_columns(self):
        mean, std = make_model().target_scale()
        # One column of the binary and of the multiclass task, two of the multilabel task.
        assert mean.tolist() == [0, 0, 0, 0, 2.5, 1.0, -7.0]
        assert std.tolist() == [1, 1, 1, 1, 0.5, 3.0, 10.0]
        assert mean.dtype == std.dtype == torch.float64

    def test_scales_of_no_regression_task(self):
        with pytest.raises(InvalidInputError, match="unknown regression task 'STSB'; did you mean"):
            make_model().set_target_scale("STSB", torch.tensor(0.0), torch.tensor(1.0))


class Plain(nn.Module):
    """A head of your own: tasks, n_features, and a call."""

    def __init__(self):
        super().__init__()
        self.tasks, self.n_features = TASKS, WIDTH
        self.layers = nn.ModuleList(nn.Linear(WIDTH, task.n_outputs) for task in TASKS)

    def forward(self, features, tasks=None):
        layers = zip(self.tasks, self.layers, strict=True)
        return {t.name: layer(features) for t, layer in layers if tasks is None or t.name in tasks}


class TestParts:
    @pytest.mark.parametrize("head", [*HEADS, "plain"])
    def test_joined(self, head):
        model = make_model(head=head) if head in HEADS else MultiTaskModel(Identity(WIDTH), Plain())
        model.eval()
        x = inputs_of(model)
        for tasks in (None, ["two targets", "keys"]):
            logits = model(x, tasks)
            names = list(logits) if tasks is None else tasks
            expected = torch.cat([logits[name] for name in names], dim=1)
            torch.testing.assert_close(model(x, tasks, joined=True), expected)

    def test_a_head_of_ones_own(self):
        model = MultiTaskModel(Identity(WIDTH), Plain())
        assert model.tasks == tuple(TASKS)
        assert model.task_rows() == []
        assert model.shared_parameters() == list(model.head.parameters())
        assert model.predict(torch.zeros(2, WIDTH))["two targets"].shape == (2, 2)

    def test_widths(self):
        with pytest.raises(InvalidInputError, match=f"gives 5 features, the head takes {WIDTH}"):
            MultiTaskModel(MLP(6, out_features=5), HEADS["quantum"]())
        with pytest.raises(InvalidInputError, match="gives 5 features, the head takes"):
            MultiTaskModel(nn.Linear(6, 5), HEADS["linear"]())

    def test_modules(self):
        with pytest.raises(InvalidInputError, match="the head must be a torch module, got dict"):
            MultiTaskModel(Identity(3), {})
        with pytest.raises(InvalidInputError, match="the encoder must be a torch module, got func"):
            MultiTaskModel(lambda x: x, HEADS["linear"]())

    @pytest.mark.parametrize("head", HEADS)
    def test_parameters_are_partitioned(self, head):
        model = make_model(head=head)
        parts = model.shared_parameters()
        parts += [rows.parameter for rows in model.task_rows()]
        assert len({id(p) for p in parts}) == len(parts)
        assert {id(p) for p in parts if p.numel()} == {
            id(p) for p in model.parameters() if p.numel()
        }

    def test_frozen_parameters_are_not_shared(self):
        model = make_model()
        model.encoder.requires_grad_(False)
        model.head.encoding.requires_grad_(False)
        assert model.shared_parameters() == []


def test_arguments_in_the_wrong_order_are_named(tmp_path):
    task = qmtl.Task.binary("a")
    head = qmtl.QuantumHead(qmtl.HeadCircuit([task]), seed=0)
    encoder = qmtl.encoders.MLP(3, out_features=2, seed=0)
    model = qmtl.MultiTaskModel(encoder, head)
    model.save(tmp_path)
    data = qmtl.data.digits(tasks=["parity"])
    for call, words in (
        (lambda: qmtl.MultiTaskModel(head, encoder), r"got MLP; write MultiTaskModel\(encoder, "),
        (lambda: qmtl.QuantumHead([task]), "circuit must be a HeadCircuit, got list"),
        (lambda: qmtl.fit(data, model), "model must be a MultiTaskModel, got MultiTaskData"),
        (lambda: qmtl.fit(head, data), "model must be a MultiTaskModel, got QuantumHead"),
        (lambda: qmtl.load(tmp_path, parts=qmtl.encoders.MLP), "parts must be a list of classes"),
        (lambda: qmtl.load(tmp_path, parts="MLP"), "parts must be a list of classes, got 'MLP'"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()
