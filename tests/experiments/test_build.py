"""Models of every head type from a recipe: sizes, a short training, files, missing labels."""

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments._build import build_circuit, build_data, build_model
from qmtl.experiments._recipe import read_recipe
from qmtl.heads import HEAD_TYPES, build_head, head_parameters
from tests.heads.rival_samples import OPTIONS
from tests.training.samples import QUIET, TASKS, Spy, arrays, present, rows_of_task

SMALL = ["data.splits=[0.2,0.1,0.7]", "encoder.hidden=[16]", "training.max_epochs=1"]
RECIPE = read_recipe("digits", SMALL)
DATA = build_data(RECIPE)


@pytest.mark.parametrize("kind", HEAD_TYPES)
def test_every_type_trains_and_is_saved(kind, tmp_path):
    model = build_model(RECIPE, DATA, kind)
    count = head_parameters(kind, build_circuit(RECIPE, DATA.tasks), RECIPE.head)
    assert sum(p.numel() for p in model.head.parameters() if p.requires_grad) == count
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = qmtl.fit(model, DATA, RECIPE.training, progress=False)
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == parameter.requires_grad, name
    assert list(result.metrics["test"]) == [task.name for task in DATA.tasks]
    losses = [values["loss"] for values in result.metrics["test"].values()]
    assert torch.isfinite(torch.tensor(losses)).all()
    model.save(tmp_path)
    again = qmtl.load(tmp_path)
    inputs = DATA.test.inputs[:20]
    for name, prediction in model.predict(inputs).items():
        assert torch.equal(again.predict(inputs)[name], prediction)


def test_options_of_the_recipe():
    recipe = RECIPE.with_values({"head.width": 5, "head.rank": 3, "head.angle_map": "identity"})
    assert build_model(recipe, DATA, "fixed-width").encoder.out_features == 5
    assert build_model(recipe, DATA, "shared-vqc").head.circuit.n_wires == 5
    assert build_model(recipe, DATA, "low-rank").head.rank == 3
    assert build_model(recipe, DATA, "vqc-per-task").head.angle_map == "identity"


def test_the_encoder_starts_the_same():
    first, *others = (
        build_model(RECIPE, DATA, kind).encoder.state_dict() for kind in ("linear", "low-rank")
    )
    for other in others:
        assert all(torch.equal(first[name], value) for name, value in other.items())


def test_type_names():
    with pytest.raises(RecipeError, match=r"unknown value of head\.type: 'low-rnk'; did you mean"):
        read_recipe("digits", ["head.type=low-rnk"])
    with pytest.raises(RecipeError, match=r"head\.width: .* greater than or equal to 1, got 0"):
        read_recipe("digits", ["head.width=0"])


def test_identity_of_another_width():
    recipe = RECIPE.with_values({"encoder.type": "Identity"})
    with pytest.raises(InvalidInputError, match="passes 64 inputs on, the head takes 8 features"):
        build_model(recipe, DATA, "fixed-width")


@pytest.mark.parametrize("combiner", [{"scalarizer": "mean"}, {"aggregator": "upgrad"}])
@pytest.mark.parametrize("kind", HEAD_TYPES)
def test_a_task_without_labels_stays_as_it_is(kind, combiner):
    X, targets = arrays(48)
    targets["d"][1:32] = torch.nan
    splits = {"train": list(range(32)), "validation": [*range(32, 40)], "test": [*range(40, 48)]}
    data = qmtl.data.from_arrays(X, targets, tasks=TASKS, splits=splits)
    head = build_head(kind, qmtl.HeadCircuit(TASKS), OPTIONS)
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(3, 5, out_features=head.n_features, seed=0), head)
    spy = Spy()
    qmtl.fit(model, data, max_epochs=2, callbacks=[spy], **QUIET, **combiner)
    assert model.task_rows()
    for step in spy.steps:
        for before, after in rows_of_task(model, step, "d"):
            if present(step["batch"])[3]:
                assert not torch.equal(before[0], after[0])
            else:
                assert all(torch.equal(b, a) for b, a in zip(before, after, strict=False))


def test_frozen_head_on_frozen_features():
    """Only the scales are left to train."""
    recipe = read_recipe("digits", ["training.max_epochs=1"])
    circuit = build_circuit(recipe, DATA.tasks)
    inputs = {name: split.inputs[:, : circuit.n_features] for name, split in DATA.splits.items()}
    X = torch.cat(list(inputs.values())).numpy()
    targets = {
        task.name: torch.cat([split.targets[task.name] for split in DATA.splits.values()]).numpy()
        for task in DATA.tasks
    }
    data = qmtl.data.from_arrays(X, targets, tasks=DATA.tasks)
    for combiner in ({}, {"aggregator": "upgrad"}):
        head = build_head("quantum-frozen", circuit)
        model = qmtl.MultiTaskModel(qmtl.encoders.Identity(circuit.n_features), head)
        before = head.scales.parameter.detach().clone()
        qmtl.fit(model, data, max_epochs=1, progress=False, **combiner)
        assert (head.scales.parameter != before).all()
