"""Encoders as people write them: lazy, sparse, with batch normalisation, frozen."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import MultiTaskModule, TrainingSettings, check_fit
from tests.training.samples import QUIET, same_state, tiny_data, tiny_model

COMBINERS = [{"scalarizer": "mean"}, {"aggregator": "upgrad"}, {"aggregator": "pcgrad"}]


def _model(data, encoder):
    circuit = qmtl.HeadCircuit(data.tasks)
    torch.manual_seed(0)
    return qmtl.MultiTaskModel(encoder(circuit.n_features), qmtl.QuantumHead(circuit, seed=0))


class Words(nn.Module):
    def __init__(self, n_features, layer=nn.Embedding, **options):
        super().__init__()
        self.table = layer(20, 6, **options)
        self.layer = nn.Linear(6, n_features)
        self.is_bag = layer is nn.EmbeddingBag

    def forward(self, inputs):
        found = self.table(inputs.long())
        return self.layer(found if self.is_bag else found.mean(1))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_embeddings_train_as_dense_ones(layer, combiner, optimizer):
    words = torch.randint(0, 20, (40, 5), generator=torch.Generator().manual_seed(0))
    labels = {"a": (words[:, 0] > 9).float(), "b": (words[:, 1] > 9).float()}
    data = qmtl.data.from_arrays(words, labels)
    models = [_model(data, lambda n, s=s: Words(n, layer, sparse=s)) for s in (True, False)]
    before = copy.deepcopy(models[0])
    for model in models:
        qmtl.fit(model, data, max_epochs=2, optimizer=optimizer, **QUIET, **combiner)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not same_state(before, models[0])
    assert models[0].encoder.table.sparse


@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_leftover_of_one_row_does_not_stop_batch_normalisation(combiner):
    splits = {"train": list(range(17)), "validation": [17, 18, 19], "test": [20, 21]}
    X = torch.randn(22, 3)
    data = qmtl.data.from_arrays(X, {"a": (X[:, 0] > 0).float()}, splits=splits)
    layers = lambda n: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, n))  # noqa: E731
    result = qmtl.fit(_model(data, layers), data, max_epochs=2, **QUIET, **combiner)
    assert result.epochs == 2
    with pytest.raises(InvalidInputError, match=r"a single row, .* use a larger batch_size"):
        qmtl.fit(_model(data, layers), data, **QUIET | {"batch_size": 1}, **combiner)


def test_lazy_layers_see_the_training_rows_first():
    data = tiny_data()
    lazy = lambda n: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(n))  # noqa: E731
    with pytest.raises(InvalidInputError, match=r"lazy layers .* run the model once"):
        MultiTaskModule(_model(data, lazy), TrainingSettings())
    check_fit(_model(data, lazy), data, TrainingSettings(aggregator="upgrad"))
    model = _model(data, lazy)
    qmtl.fit(model, data, max_epochs=1, **QUIET)
    assert [layer.in_features for layer in model.encoder[::2]] == [3, 5]
    wrong = lambda n: nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten(), nn.LazyLinear(n))  # noqa: E731
    with pytest.raises(
        InvalidInputError, match=r"lazy layers do not take inputs of shape \(2, 3\)"
    ):
        qmtl.fit(_model(data, wrong), data, **QUIET)


@pytest.mark.parametrize("combiner", [*COMBINERS, {"scalarizer": "uw"}])
def test_nothing_to_train_is_an_error(combiner):
    data = tiny_data()
    model = tiny_model(data).requires_grad_(False)
    with pytest.raises(InvalidInputError, match="nothing to train"):
        qmtl.fit(model, data, **QUIET, **combiner)
    model = tiny_model(data)
    model.encoder.requires_grad_(False)
    model.head.encoding.requires_grad_(False)
    for task in data.tasks[1:]:
        model.head.freeze(task.name)
    qmtl.fit(model, data, max_epochs=1, **QUIET, **combiner)
    model.head.freeze(data.tasks[0].name)
    with pytest.raises(InvalidInputError, match="nothing to train"):
        qmtl.fit(model, data, **QUIET, **combiner)


class Checkpointed(nn.Module):
    def __init__(self, n_features, reentrant):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 6), nn.Linear(6, n_features)
        self.reentrant = reentrant

    def forward(self, inputs):
        given = inputs.clone().requires_grad_()
        found = checkpoint(self.inner, given, use_reentrant=self.reentrant)
        return self.outer(found.relu())


@pytest.mark.parametrize("combiner", COMBINERS[:2])
def test_a_checkpoint_that_gradients_do_not_enter_is_named(combiner):
    data = tiny_data()
    model = _model(data, lambda n: Checkpointed(n, reentrant=True))
    with pytest.warns(UserWarning, match=r"encoder\.inner\.weight.*needs use_reentrant=False"):
        qmtl.fit(model, data, max_epochs=2, **QUIET, **combiner)
    models = [_model(data, lambda n: Checkpointed(n, reentrant=False)) for _ in range(2)]
    before = models[0].encoder.inner.weight.clone()
    models[1].encoder.forward = lambda x: models[1].encoder.outer(models[1].encoder.inner(x).relu())
    for model in models:
        qmtl.fit(model, data, max_epochs=2, **QUIET, **combiner)
    # Checkpointed layers run again, in another order on some machines.
    first, second = (model.state_dict() for model in models)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    assert not torch.equal(models[0].encoder.inner.weight, before)


def test_inference_mode_and_parameters_without_values():
    data = tiny_data()
    with torch.inference_mode():
        made = tiny_model(data)
        with pytest.raises(InvalidInputError, match="inference_mode"):
            qmtl.fit(tiny_model(data), data, max_epochs=1, **QUIET)
    with pytest.raises(InvalidInputError, match="cannot be made or trained"):
        qmtl.fit(made, data, max_epochs=1, **QUIET)
    with pytest.raises(InvalidInputError, match="device 'meta' and has no values"):
        qmtl.fit(tiny_model(data).to("meta"), data, max_epochs=1, **QUIET)
    with torch.no_grad():
        assert qmtl.fit(tiny_model(data), data, max_epochs=1, **QUIET).epochs == 1


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, inputs):
        return self.layer(self.layer(inputs).relu())


@pytest.mark.parametrize(
    "options", [{}, {"aggregator": "upgrad"}, {"auxiliary": 2}, {"saliency": True}]
)
def test_a_layer_that_is_used_twice_is_trained_as_one(options):
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    data = qmtl.data.from_arrays(rows, {name: rows[:, i] > 0 for i, name in enumerate("abc")})
    states = []
    for twice in (lambda layer: nn.Sequential(layer, nn.ReLU(), layer), Twice):
        torch.manual_seed(0)
        layer = nn.Linear(6, 6)
        circuit = qmtl.HeadCircuit(data.tasks, encoding=qmtl.AngleEncoding(entangler="none"))
        model = qmtl.MultiTaskModel(twice(layer), qmtl.QuantumHead(circuit, seed=0))
        qmtl.fit(model, data, max_epochs=3, restore_best=False, **QUIET, **options)
        assert all(isinstance(p, nn.Parameter) for p in model.parameters())
        states.append([layer.weight.detach(), *model.head.state_dict().values()])
    for ours, theirs in zip(*states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [*COMBINERS, {"tasks": ["b"]}])
def test_a_parameter_that_encoder_and_head_share_is_trained(options):
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data = qmtl.data.from_arrays(rows, {name: rows[:, i] > 0 for i, name in enumerate("abc")})
    circuit = qmtl.HeadCircuit(data.tasks, encoding=qmtl.AngleEncoding(entangler="none"))
    model = qmtl.MultiTaskModel(nn.Linear(3, 6), qmtl.QuantumHead(circuit, seed=0))
    model.encoder.bias = model.head.encoding
    before, kept = model.predict(rows), model.head.encoding.clone()
    qmtl.fit(model, data, max_epochs=2, restore_best=False, **QUIET, **options)
    assert model.encoder.bias is model.head.encoding
    if "tasks" in options:
        after = model.predict(rows)
        assert [torch.equal(after[name], before[name]) for name in "abc"] == [True, False, True]
    else:
        assert not torch.equal(model.head.encoding, kept)


@pytest.mark.parametrize("how", ["-", "-c", "prompt"])
def test_several_devices_need_a_program_in_a_file(how, monkeypatch):
    """Not as Python has it for ``python -``, for ``python -c`` and for its prompt."""
    if how == "prompt":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        monkeypatch.setattr(sys, "argv", [how])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    data = tiny_data()
    told = "devices=2 starts the program again .*devices=1, or run the training from a file"
    with pytest.raises(InvalidInputError, match=told):
        qmtl.fit(tiny_model(data), data, devices=2, accelerator="cpu", **QUIET)


def test_one_process_trains_by_itself_within_a_slurm_allocation(monkeypatch):
    names = {"NTASKS": "2", "JOB_ID": "1", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}
    for name, value in {**names, "NODEID": "0", "JOB_NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    data = tiny_data()
    assert qmtl.fit(tiny_model(data), data, max_epochs=1, **QUIET).epochs == 1
