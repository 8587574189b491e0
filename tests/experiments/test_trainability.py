"""`qmtl trainability`: the variance of gradients."""

import csv
import math

import pytest
import torch
from matplotlib.figure import Figure

from qmtl.errors import InvalidInputError
from qmtl.experiments._trainability import (
    INITIALS,
    READOUTS,
    Case,
    GradientVariance,
    TrainabilitySettings,
    _columns,
    _draw,
    cases,
    decay_rates,
    gradient_variance,
    plot_variance,
    run_trainability,
)
from qmtl.simulators import LightConeSimulator

RING = {"initial": "uniform", "entangler": "cz_ring"}


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("tasks", [1, 3])
def test_variance_is_that_of_gradients_taken_one_by_one(readout, tasks):
    """The batch over draws takes weights as inputs; here every draw is a call of its own."""
    case = Case("wires", readout, **RING, wires=3, block_layers=3, tasks=tasks)
    circuit, samples = case.circuit(), 12
    inputs = _draw(circuit, "uniform", samples, seed=5)
    sizes = [circuit.n_features, circuit.n_encoding_weights, circuit.n_weights("t0")]
    gradients = []
    for draw in inputs:
        angles, encoding, own = (part.clone().requires_grad_() for part in draw.split(sizes))
        weights = {"encoding": encoding, "t0": own}
        values = LightConeSimulator().expectation_values(circuit, angles[None], weights, ["t0"])
        values["t0"][0, 0].backward()
        gradients.append(torch.cat([angles.grad, encoding.grad, own.grad]))
    expected = torch.stack(gradients).var(dim=0)
    found = {one.weight: one for one in gradient_variance(case, samples=samples, seed=5)}
    for weight, column in _columns(circuit).items():
        assert found[weight].variance == pytest.approx(float(expected[column]), rel=1e-9)
        assert 0 < found[weight].error < found[weight].variance


def test_the_error_of_a_variance_of_few_draws_is_not_nought():
    """Two draws 2 d apart: variance 2 d², fourth moment d⁴, so an error of √(5/2) d²."""
    case = Case("wires", "local", **RING, wires=2, block_layers=2)
    for found in gradient_variance(case, samples=2):
        assert found.error == pytest.approx(math.sqrt(5 / 2) * found.variance / 2)


def test_the_variance_on_one_wire_is_that_computed_by_hand():
    """One wire without entangler and one layer: ⟨Z⟩ is a product of cosines and sines."""
    case = Case("wires", "local", **RING, wires=1, block_layers=1, encoding_layers=1)
    (found,) = gradient_variance(case, samples=20_000)
    # cos(x) cos(b) - cos(a) sin(x) sin(b), by b: x, a and b uniform give 1/4 + 1/8.
    assert found.variance == pytest.approx(3 / 8, abs=4 * found.error)
    assert found.error < 0.01


def test_plateaus_where_they_are_known_to_be():
    """Global readouts and deep blocks decay with wires, shallow local readouts do not."""

    def rate(readout, layers):
        made = [Case("wires", readout, **RING, wires=n, block_layers=layers) for n in (4, 6, 8)]
        found = [one for case in made for one in gradient_variance(case, samples=400)]
        return {key[-1]: fit for key, fit in decay_rates(found).items()}["block"].slope

    assert abs(rate("local", 2)) < 0.2
    assert rate("local", 24) == pytest.approx(-1, abs=0.3)
    assert rate("global-string", 2) < -0.7
    assert rate("global-projector", 24) == pytest.approx(-2, abs=0.4)


def test_no_plateau_in_the_number_of_tasks():
    few, many = (
        gradient_variance(
            Case("tasks", "local", **RING, wires=2, block_layers=2, tasks=n), samples=400
        )[0]
        for n in (4, 300)
    )
    assert abs(few.variance - many.variance) < 4 * math.hypot(few.error, many.error)


@pytest.mark.parametrize("initial", INITIALS)
def test_draws_repeat_and_follow_the_distribution(initial):
    circuit = Case("wires", "local", initial, "cz_ring", wires=4, block_layers=2).circuit()
    draws = _draw(circuit, initial, 4000, 3)
    assert torch.equal(draws, _draw(circuit, initial, 4000, 3))
    block = draws[:, circuit.n_features + circuit.n_encoding_weights :]
    if initial == "uniform":
        assert 0 <= float(draws.min()) <= float(draws.max()) < 2 * math.pi
    else:
        assert float(block.std()) == pytest.approx(0.5, rel=0.05)


def test_the_whole_run(tmp_path):
    settings = TrainabilitySettings(wires=(2, 3), layers=(1, 3), tasks=(1, 4, 8), samples=4)
    lines = []
    run_trainability(settings, tmp_path, say=lines.append)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cells", "variance.csv", "rates.csv", "wires.png", "layers.png", "tasks.png"}
    with (tmp_path / "variance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # One layer of encoding has no weight of its own.
    single = [row for row in rows if row["encoding_layers"] == "1"]
    assert {row["weight"] for row in single} == {"block"}
    assert len(rows) - len(single) == 2 * (len(list(cases(settings))) - len(single))
    assert any("variance as T^(" in line for line in lines)
    few = settings.model_copy(update={"entanglers": ("all_to_all",), "tasks": (1,)})
    run_trainability(few, tmp_path / "few", say=lines.append)
    assert {path.suffix for path in (tmp_path / "few").iterdir()} == {"", ".csv", ".png"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wires": (1, 2)}, "wires.0: .* or equal to 2"),
        ({"layers": ()}, "layers: .*at least 1 item"),
        ({"tasks": (0,)}, "tasks.0: .* or equal to 1"),
        ({"samples": 1}, "samples: .* or equal to 2, got 1"),
    ],
)
def test_settings_that_do_not_fit(change, words):
    with pytest.raises(InvalidInputError, match=words):
        TrainabilitySettings(**change)


@pytest.mark.parametrize(
    ("readout", "initial", "words"),
    [("locale", "uniform", "'local'"), ("local", "unifrom", "'uniform'")],
)
def test_unknown_names(readout, initial, words):
    case = Case("wires", readout, initial, "cz_ring", wires=2, block_layers=2)
    with pytest.raises(InvalidInputError, match=words):
        gradient_variance(case, samples=2)


def test_bars_of_a_plot_are_two_standard_errors_and_only_cut_towards_zero():
    case = Case("wires", "local", wires=2, block_layers=2, **RING)
    found = [GradientVariance(case, "block", 9, 0.5, 0.4)]
    ax = plot_variance(found, Figure().subplots(), against=lambda _: 2, xlabel="n", title="t")
    (bar,) = ax.containers[0].lines[2][0].get_segments()
    assert bar[:, 1].tolist() == pytest.approx([0.05, 0.5 + 2 * 0.4])
