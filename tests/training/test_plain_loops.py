"""Models in loops of other kinds: plain PyTorch, TorchJD, and a Lightning module."""

import pytest
import pytorch_lightning as pl
import torch
from torchjd.aggregation import UPGrad
from torchjd.autojac import jac_to_grad, mtl_backward

import qmtl
from tests.training.samples import TASKS, tiny_data, tiny_model


def _losses(model, features, targets):
    logits = model.head(features)
    return [
        task.loss(logits[task.name], model.standardise(task, targets[task.name]))
        for task in model.tasks
    ]


def _model(layout="partitioned", simulator="lightcone"):
    circuit = qmtl.HeadCircuit(TASKS, layout=layout)
    encoder = qmtl.encoders.MLP(3, 5, out_features=circuit.n_features, seed=0)
    head = qmtl.QuantumHead(circuit, simulator, seed=0)
    return qmtl.MultiTaskModel(encoder, head).double()


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_mtl_backward_as_torchjd_documents_it(layout, chunk):
    split, model = tiny_data().train, _model(layout)
    shared = list(model.encoder.parameters())
    features = model.encoder(split.inputs.double())
    mtl_backward(_losses(model, features, split.targets), features, parallel_chunk_size=chunk)
    jac_to_grad(shared, UPGrad())

    features = model.encoder(split.inputs.double())
    losses = _losses(model, features, split.targets)
    rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    expected = UPGrad()(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
    got = torch.cat([p.grad.flatten() for p in shared])
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)
    own = list(model.head.parameters())
    for parameter, gradient in zip(own, torch.autograd.grad(sum(losses), own), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_other_simulators_keep_their_graph_when_asked():
    split = tiny_data().train
    found = []
    for simulator in ("lightcone", "default.qubit"):
        model = _model(simulator=simulator)
        features = model.encoder(split.inputs[:4].double())
        targets = {name: values[:4] for name, values in split.targets.items()}
        mtl_backward(_losses(model, features, targets), features, retain_graph=True)
        jac_to_grad(list(model.encoder.parameters()), UPGrad())
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


def test_a_graph_is_not_run_again_after_its_weights_have_changed():
    head = _model().head
    features = torch.randn(4, head.n_features, dtype=torch.float64, requires_grad=True)
    logits = head(features)
    logits["a"].sum().backward()
    with torch.no_grad():
        head.blocks.parameter.add_(1)
    with pytest.raises(RuntimeError, match="second time"):
        logits["b"].sum().backward()


def test_a_plain_loop_with_torchs_own_adam_takes_the_steps_of_fit():
    data = tiny_data()
    ours, theirs = tiny_model(data), tiny_model(data)
    batches = qmtl.training.MultiTaskDataModule(data, qmtl.TrainingSettings(batch_size=8))
    options = {"optimizer": "adam", "schedule": "constant", "weight_decay": 0.0}
    options |= {"head_learning_rate": 0.01}
    options |= {"batch_size": 8, "restore_best": False, "accelerator": "cpu", "progress": False}
    qmtl.fit(theirs, data, max_epochs=1, **options)
    for name in ("mean", "std"):
        getattr(ours.scale, name).copy_(getattr(theirs.scale, name))
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    for rows in batches.plan.epoch(0):
        features = ours.encoder(data.train.inputs[rows])
        targets = {name: values[rows] for name, values in data.train.targets.items()}
        optimizer.zero_grad()
        torch.stack(_losses(ours, features, targets)).mean().backward()
        optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


class Own(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        inputs, label = batch
        logits = self.model(inputs, tasks=["a"])["a"][:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, label)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def test_a_lightning_module_of_ones_own():
    split, model = tiny_data().train, _model().float()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rows = torch.utils.data.TensorDataset(split.inputs, split.targets["a"])
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", accumulate_grad_batches=2, **quiet)
    trainer.fit(Own(model), torch.utils.data.DataLoader(rows, batch_size=8))
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"head.blocks.task_a", "head.encoding", "encoder.layers.0.weight"} <= changed
    assert "head.blocks.task_b" not in changed


def test_names_of_tasks_from_a_generator():
    names = ["a", "c"]
    model, inputs = _model(), torch.ones(600, 3, dtype=torch.float64)
    for call in (model, model.predict):
        whole = call(inputs[:2])
        found = call(inputs, tasks=(name for name in names))
        assert list(found) == names
        assert all(len(found[name]) == 600 for name in names)
        torch.testing.assert_close(found["a"][:2], whole["a"])
    data = tiny_data()
    result = qmtl.fit(
        tiny_model(data), data, tasks=(n for n in ["a"]), max_epochs=1, progress=False
    )
    assert list(result.metrics["test"]) == ["a"]
