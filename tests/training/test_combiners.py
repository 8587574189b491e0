"""Every TorchJD aggregator and scalarizer by name: training, options, errors, saved state."""

import io
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import qmtl
from qmtl.errors import InvalidInputError, MissingDependencyError
from qmtl.training import (
    TrainingSettings,
    aggregators,
    make_aggregator,
    make_scalarizer,
    scalarizers,
)
from qmtl.training._combine import (
    combiner_state,
    fixed_size,
    load_combiner_state,
    make_combiner,
    scalarize,
)
from tests.training.samples import QUIET, tiny_data, tiny_model

EVERY = [("aggregator", name) for name in aggregators()] + [
    ("scalarizer", name) for name in scalarizers()
]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_trains_a_tiny_model_without_a_warning(kind, name):
    data = tiny_data()
    model = tiny_model(data)
    before = {key: value.clone() for key, value in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = qmtl.fit(
            model, data, max_epochs=2, restore_best=False, seed=0, **QUIET, **{kind: name}
        )
    losses = [row["value"] for row in result.history if row["metric"] == "loss"]
    assert len(losses) == 2 * 2 * len(data.tasks)
    assert np.isfinite(losses).all()
    still = [key for key, value in model.named_parameters() if torch.equal(before[key], value)]
    assert not still


@pytest.mark.parametrize("name", ["upgrad", "UPGRAD", "up-grad", "UP_Grad"])
def test_case_and_dashes_do_not_matter(name):
    assert type(make_aggregator(name, 3)).__name__ == "UPGrad"


def test_options_reach_the_class():
    assert make_aggregator("cagrad", 3, {"c": 0.25}).c == 0.25
    weights = make_scalarizer("constant", 2, {"weights": [1.0, 3.0]})
    assert float(weights(torch.tensor([1.0, 2.0]))) == 7.0


@pytest.mark.parametrize(
    ("make", "name", "options", "words"),
    [
        (make_aggregator, "upgard", {}, ["unknown aggregator 'upgard'", "'UPGrad'"]),
        (make_scalarizer, "famoo", {}, ["unknown scalarizer 'famoo'", "'FAMO'"]),
        (
            make_scalarizer,
            "up-grad",
            {},
            ["r 'up-grad'", "; it is the name of an aggregator"],
        ),
        (make_aggregator, "famo", {}, ["Known: ", "UPGrad; it is the name of a scalarizer"]),
        (make_aggregator, "mgda", {"max_iter": 3}, ["MGDA", "'max_iter'", "'max_iters'"]),
        (make_aggregator, "cagrad", {"c": -1.0}, ["CAGrad", "-1"]),
        (make_aggregator, "nashmtl", {"n_tasks": 3}, ["NashMTL", "'n_tasks'", "cannot be set"]),
        (make_scalarizer, "uw", {"shape": 2}, ["UW", "'shape'", "3 here", "cannot be set"]),
        (make_aggregator, "constant", {"weights": [1, 2]}, ["Constant", "'weights'", "3", "got 2"]),
        (make_scalarizer, "stch", {"reference": 0.0}, ["STCH", "'reference'", "3 tasks"]),
        (make_scalarizer, "pbi", {"weights": ["x"]}, ["PBI", "'weights'", "list of numbers"]),
        (
            make_aggregator,
            "krum",
            {"n_byzantine": 1},
            ["Krum", "n_byzantine", "at least 4", "got 3"],
        ),
        (
            make_aggregator,
            "trimmed-mean",
            {"trim_number": 2},
            ["TrimmedMean", "at least 5", "got 3"],
        ),
    ],
)
def test_unknown_names_and_options_are_one_line(make, name, options, words):
    with pytest.raises(InvalidInputError) as caught:
        make(name, 3, options)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"scalarizer": "constant", "options": {"weights": [1.0, 2.0]}},
        {"aggregator": "constant", "options": {"weights": [1.0, 2.0]}},
        {"aggregator": "krum", "options": {"n_byzantine": 7}},
    ],
)
def test_options_that_do_not_fit_the_number_of_tasks(options):
    data = tiny_data()
    with pytest.raises(InvalidInputError, match="4"):
        qmtl.fit(tiny_model(data), data, max_epochs=1, **QUIET, **options)


@pytest.mark.parametrize(("name", "solver"), [("nash-mtl", "ecos"), ("cagrad", "clarabel")])
def test_a_missing_solver_names_our_extra(monkeypatch, name, solver):
    class Without:
        def __init__(self, **arguments):
            raise ImportError(f"No module named {solver!r}")

    known = dict.fromkeys(aggregators(), Without)
    monkeypatch.setattr("qmtl.training._combine.aggregators", lambda: known)
    with pytest.raises(MissingDependencyError, match=r"\.\[aggregators\]") as caught:
        make_aggregator(name, 3, {})
    assert solver in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_solver_that_torchjd_itself_misses(monkeypatch):
    monkeypatch.setitem(sys.modules, "ecos", None)
    with pytest.raises(MissingDependencyError, match=r"\.\[aggregators\]"):
        make_aggregator("nash-mtl", 3)


def test_who_keeps_something_per_task():
    per_task = {name for name in scalarizers() if fixed_size(make_scalarizer(name, 3))}
    assert per_task >= {"UW", "DWA", "FAMO", "IMTLL", "Constant"}
    assert not per_task & {"Mean", "Sum", "GeometricMean"}
    assert fixed_size(make_aggregator("nashmtl", 3))
    assert not fixed_size(make_aggregator("upgrad", 3))


def _advance(combiner: nn.Module, kind: str, steps: range) -> torch.Tensor:
    """Feed a combiner as training does; what it answered in the last step."""
    answer = torch.empty(0)
    for step in steps:
        torch.manual_seed(step)
        values = torch.rand(3, 7) + 0.1
        if kind == "aggregator":
            answer = combiner(values)
            continue
        losses = values[:, 0].requires_grad_()
        answer = torch.stack([combiner(losses), *torch.autograd.grad(combiner(losses), losses)[0]])
        if hasattr(combiner, "update"):
            combiner.update(values[:, 1])
        if hasattr(combiner, "step"):
            combiner.step()
    return answer.detach()


@pytest.mark.filterwarnings("ignore:.*not DPP")
@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_state_survives_a_file_that_runs_no_code(kind, name):
    make = make_aggregator if kind == "aggregator" else make_scalarizer
    unbroken = make(name, 3)
    _advance(unbroken, kind, range(4))
    file = io.BytesIO()
    torch.save(combiner_state(unbroken), file)
    file.seek(0)
    resumed = make(name, 3)
    load_combiner_state(resumed, torch.load(file, weights_only=True))
    first = _advance(unbroken, kind, range(4, 8))
    assert torch.equal(first, _advance(resumed, kind, range(4, 8)))


def test_nash_mtl_needs_two_tasks():
    with pytest.raises(InvalidInputError, match="NashMTL needs at least 2 tasks, got 1"):
        make_aggregator("nashmtl", 1)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_trains_a_float64_model(kind, name):
    data = tiny_data()
    model = tiny_model(data).double()
    qmtl.fit(model, data, max_epochs=1, restore_best=False, **QUIET, **{kind: name})
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("aggregator", "constant"), ("scalarizer", "constant"), ("scalarizer", "pbi"),
     ("scalarizer", "cosmos"), ("scalarizer", "stch"), ("aggregator", "aligned-mtl")],
)  # fmt: skip
def test_numbers_per_task_have_the_models_precision(kind, name):
    data = tiny_data()
    option = "pref_vector" if name == "aligned-mtl" else "weights"
    settings = TrainingSettings(**{kind: name}, options={option: [1, 0.1, 2, 3]})
    combiner = make_combiner(settings, 4, torch.float64)
    kept = getattr(combiner.weighting if name == "constant" and kind == "aggregator" else combiner,
                   option)  # fmt: skip
    assert kept.tolist() == [1, 0.1, 2, 3]
    qmtl.fit(tiny_model(data).double(), data, settings.model_copy(update={"max_epochs": 1}),
             progress=False)  # fmt: skip


def test_the_mean_is_torchjds():
    """That it is taken without its import, `tests.training.test_encoders_of_ones_own` shows."""
    losses, last = torch.randn(4, dtype=torch.float64), torch.zeros(4)
    present = torch.tensor([0, 2])
    ours, theirs = make_combiner(TrainingSettings(), 4), make_scalarizer("mean", 4)
    for rows, given in ((None, losses), (present, losses[present])):
        assert torch.equal(*(scalarize(one, given, rows, last) for one in (ours, theirs)))
    assert combiner_state(ours) == combiner_state(theirs)
    assert fixed_size(ours) is fixed_size(theirs) is False


@pytest.mark.parametrize("options", [{"lr": "fast"}, {"max_norm": "x"}])
def test_an_option_that_fails_only_when_used_is_one_line(options):
    data = tiny_data()
    name = {"scalarizer": "famo"} if "lr" in options else {"aggregator": "nashmtl"}
    with pytest.raises(InvalidInputError) as caught:
        qmtl.fit(tiny_model(data), data, max_epochs=1, **QUIET, **name, options=options)
    assert "\n" not in str(caught.value)
