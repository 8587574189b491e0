"""Gradients of modalities at one magnitude: after a backward pass, and in training."""

import pytest
import torch

import qmtl
from qmtl.encoders import Fusion
from tests.methods.samples import assert_alike, assert_resumes, first_step
from tests.training.samples import QUIET

WIDTHS = {"text": 4, "audio": 2, "video": 3}
COLUMNS = {"text": slice(0, 4), "audio": slice(4, 6), "video": slice(6, 9)}
KINDS = ["concat", "gated", "cross-attention"]


def make(kind, n=5, widths=WIDTHS, **options):
    return Fusion(widths, n, kind, dim=8, n_heads=2, hidden=[6], seed=0, **options).double()


def branches(kind, gradients, prefix=""):
    """Each modality's numbers of gradients by name, as one vector."""
    found = []
    for i, columns in enumerate(COLUMNS.values()):
        if kind == "concat":
            (first,) = [n for n in gradients if n.endswith("layers.0.weight")]
            parts = [gradients[first][:, columns]]
        elif kind == "gated":
            parts = [gradients[f"{prefix}join.represent.{i}.{n}"] for n in ("weight", "bias")]
            parts.append(gradients[f"{prefix}join.score.weight"][:, columns])
        else:
            parts = [gradients[f"{prefix}join.tokens.{i}.{n}"] for n in ("weight", "bias")]
            parts.append(gradients[f"{prefix}join.modality"][i])
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


def inputs(present, n=12):
    x = torch.randn(n, 9, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return torch.cat([torch.tensor([present], dtype=torch.double).expand(n, 3), x], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_branches_get_the_mean_of_their_norms(kind):
    encoder = make(kind)
    encoder(inputs([1.0, 1.0, 1.0])).square().sum().backward()
    gradients = {
        name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None
    }
    before = branches(kind, gradients)
    encoder.calibrate_gradients()
    after_all = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    after = branches(kind, after_all)
    mean = sum(b.norm() for b in before) / 3
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old * mean / old.norm())
    # What all modalities have is as it was.
    common = [n for n in gradients if "layers" in n and not n.endswith("layers.0.weight")]
    assert common
    assert all(torch.equal(gradients[n], after_all[n]) for n in common)


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_that_is_not_there_stays_without_gradient(kind):
    encoder = make(kind)
    encoder(inputs([1.0, 0.0, 1.0])).square().sum().backward()
    if kind == "concat":
        # Its stand-in is multiplied by the same weights.
        encoder.join.stand_ins[1].data.zero_()
        encoder.zero_grad()
        encoder(inputs([1.0, 0.0, 1.0])).square().sum().backward()
    encoder.calibrate_gradients()
    gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    text, audio, video = branches(kind, gradients)
    assert not audio.any()
    assert float(text.norm()) == pytest.approx(float(video.norm()))
    encoder.zero_grad()
    encoder.calibrate_gradients()


def data_and_model(kind, calibrate, widths=WIDTHS):
    x = inputs([1.0, 1.0, 1.0], n=40).float()
    x = x if len(widths) == 3 else torch.cat([torch.ones(40, 1), x[:, 3:7]], dim=1)
    x[::3, 1] = 0.0 if len(widths) == 3 else x[::3, 1]
    targets = {"a": (x[:, 4] > 0).float(), "b": (x[:, -1] > 0).float()}
    targets["a"][::4] = torch.nan
    tasks = [qmtl.Task.binary("a"), qmtl.Task.binary("b")]
    data = qmtl.data.from_arrays(x.numpy(), {n: t.numpy() for n, t in targets.items()}, tasks=tasks)
    circuit = qmtl.HeadCircuit(tasks)
    encoder = make(kind, circuit.n_features, widths, calibrate=calibrate)
    return data, qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0).double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"scalarizer": "mean"}, {"aggregator": "upgrad"}])
def test_training_calibrates_what_tasks_have_agreed_on(kind, options):
    found = []
    for calibrate in (False, True):
        data, model = data_and_model(kind, calibrate)
        gradients = first_step(model, data, **options)["gradients"]
        found.append(
            branches(kind, {n: g for n, g in gradients.items() if g is not None}, "encoder.")
        )
    before, after = found
    mean = sum(b.norm() for b in before) / 3
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old * mean / old.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_one_modality_is_plain_training(kind):
    models = []
    for calibrate in (False, True):
        data, model = data_and_model(kind, calibrate, {"text": 4})
        qmtl.fit(model, data, max_epochs=2, **QUIET)
        models.append(model)
    assert_alike(*models)


@pytest.mark.parametrize("kind", KINDS)
def test_resumes_bit_for_bit(tmp_path, kind):
    data, _ = data_and_model(kind, True)
    make_model = lambda: data_and_model(kind, True)[1].float()  # noqa: E731
    assert_resumes(tmp_path, make_model, data, max_epochs=3)
