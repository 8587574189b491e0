import pytest
import torch

from qmtl._html import bytes_text
from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding, PauliStrings, RotationAnsatz
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.simulators import LightConeSimulator
from qmtl.tasks import Task
from tests.laws import assert_same_values_and_gradients, vjp
from tests.strategies import binary_tasks, random_angles, random_case, random_weights


def explain(circuit, batch=32, **options):
    return LightConeSimulator(**options).explain(circuit, batch)


def test_512_tasks_are_one_group_of_six_wires():
    explanation = explain(HeadCircuit(binary_tasks(512)))
    (group,) = explanation.groups
    assert (len(group.tasks), group.n_cones, group.cone_wires, group.block_wires) == (
        512,
        512,
        6,
        2,
    )
    assert group.sizes == (2, 3, 4, 5, 6)
    assert explanation.amplitudes == group.amplitudes == 512 * 64 * 32
    assert explanation.fits
    text = str(explanation)
    assert "512 tasks on 1024 wires, batch 32, float32: 1 group of equal cones" in text
    assert "cone 6 wires, block 2, 512 states of 2^6 amplitudes per sample" in text
    assert "2 → 3 → 4 → 5 → 6 wires" in text


def test_sizes_are_linear_in_tasks_and_batch():
    small, large = (explain(HeadCircuit(binary_tasks(n))) for n in (8, 512))
    double = explain(HeadCircuit(binary_tasks(8)), batch=64)
    assert large.amplitudes == 64 * small.amplitudes == 32 * double.amplitudes
    assert large.operations == 64 * small.operations
    # The blocks do not depend on the batch.
    assert double.operations == pytest.approx(2 * small.operations, rel=0.01)
    # Beside what grows with the tasks there is room for one tile per thread.
    sizes = [explain(HeadCircuit(binary_tasks(n))).bytes for n in (8, 16, 32, 64)]
    assert sizes[3] - sizes[2] == 2 * (sizes[2] - sizes[1]) == 4 * (sizes[1] - sizes[0]) > 0


def test_a_training_step_of_512_tasks_runs():
    circuit = HeadCircuit(binary_tasks(512))
    angles = random_angles(circuit, 4, torch.float32)
    weights = random_weights(circuit, torch.float32)
    values, grads = vjp(LightConeSimulator(), circuit, angles, weights)
    assert len(values) == 512
    assert all(g.isfinite().all() for g in grads.values())
    assert (grads["angles"] != 0).all()


@pytest.mark.parametrize(
    ("circuit", "message"),
    [
        (
            HeadCircuit(binary_tasks(12), AngleEncoding(entangler="cnot_ring")),
            "'t0': its light cone has 24 of 24 wires.*entangler 'cnot_ring'.*chain.*'cz_ring'",
        ),
        (
            HeadCircuit(binary_tasks(12), AngleEncoding(entangler="all_to_all")),
            "24 of 24 wires.*entangler 'all_to_all', which joins every pair",
        ),
        (
            HeadCircuit(binary_tasks(12), IQPEncoding(pattern="all_to_all")),
            "24 of 24 wires.*entangler 'all_to_all'",
        ),
        (
            HeadCircuit(binary_tasks(20), AngleEncoding(n_layers=11)),
            "24 of 40 wires.*11 encoding layers of 'cz_ring'.*use fewer layers",
        ),
        (
            HeadCircuit(
                [Task.binary("m")], AngleEncoding(n_layers=1), RotationAnsatz(16), wires_per_task=16
            ),
            "'m': its light cone has 16 of 16 wires.*register has 16 wires: use fewer wires",
        ),
    ],
)
def test_errors_name_the_cause(circuit, message):
    simulator = LightConeSimulator(max_memory=10**7, engine="eager")
    with pytest.raises(CircuitTooLargeError, match=message) as caught:
        simulator.expectation_values(circuit, random_angles(circuit, 64), random_weights(circuit))
    assert "a step of one sample" in str(caught.value)
    assert "the limit is 10 MB" in str(caught.value)
    assert not simulator.explain(circuit, 64, torch.float64).fits
    assert "does not fit" in str(simulator.explain(circuit, 64, torch.float64))


def test_too_large_register_names_the_task():
    strings = PauliStrings((20 * "Z" + "I", 21 * "Z"))
    circuit = HeadCircuit([Task.binary("a"), Task.multilabel("big", 2)], readouts={"big": strings})
    message = "'big': 21 of its wires are read together, at most 20.*fewer wires for this task"
    with pytest.raises(InvalidInputError, match=message):
        LightConeSimulator().explain(circuit, 1)
    values = LightConeSimulator().expectation_values(
        HeadCircuit([Task.binary("a")]),
        torch.zeros(1, 2),
        {"encoding": torch.zeros(2), "a": torch.zeros(6)},
    )
    assert values["a"].item() == pytest.approx(1)


def test_many_small_cones_ask_for_a_smaller_batch():
    circuit = HeadCircuit(binary_tasks(8))
    with pytest.raises(CircuitTooLargeError, match="use fewer tasks at a time, or a smaller batch"):
        LightConeSimulator(max_memory=10**5).expectation_values(
            circuit, random_angles(circuit, 64), random_weights(circuit)
        )


@pytest.mark.parametrize(
    "circuit",
    [
        HeadCircuit(binary_tasks(3)),
        HeadCircuit(binary_tasks(2), layout="shared", n_wires=4),
        # Many steps per amplitude.
        HeadCircuit(binary_tasks(4), AngleEncoding(n_layers=6), RotationAnsatz(6)),
        HeadCircuit(
            [Task.multiclass("c", 5), Task.binary("b")], AngleEncoding(entangler="cnot_ring")
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_max_memory_is_honoured_to_the_byte(circuit, dtype):
    need = max(g.bytes for g in LightConeSimulator().explain(circuit, 1, dtype).groups)
    angles, weights = random_angles(circuit, 3, dtype), random_weights(circuit, dtype)
    enough, scarce = LightConeSimulator(max_memory=need), LightConeSimulator(max_memory=need - 1)
    assert enough.explain(circuit, 3, dtype).fits
    enough.expectation_values(circuit, angles, weights)
    assert not scarce.explain(circuit, 3, dtype).fits
    with pytest.raises(CircuitTooLargeError, match="the limit is"):
        scarce.expectation_values(circuit, angles, weights)


def test_a_batch_that_does_not_fit_runs_in_chunks():
    circuit = HeadCircuit(binary_tasks(8))
    whole = LightConeSimulator()
    scarce = LightConeSimulator(max_memory=whole.explain(circuit, 1024, torch.float64).bytes // 2)
    (group,) = scarce.explain(circuit, 1024, torch.float64).groups
    assert 0 < group.chunk < 1024
    assert f"run as Pauli strings, {group.chunk} samples at a time" in str(
        scarce.explain(circuit, 1024, torch.float64)
    )
    assert_same_values_and_gradients(scarce, whole, random_case(circuit, 1024))


def test_how_long_a_large_cone_takes():
    circuit = HeadCircuit(binary_tasks(11), AngleEncoding(entangler="all_to_all"))
    explanation = explain(circuit, batch=8)
    assert explanation.groups[0].cone_wires == 22
    assert explanation.groups[0].engine == "state vectors"
    assert explanation.groups[0].n_cones == 1
    assert 5 < explanation.seconds < 60
    assert "57.3 GFLOP, some 11 s on one core" in str(explanation)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2 * 10**9, "2 GB"), (10**18, "1 EB")],
)
def test_bytes(number, text):
    assert bytes_text(number) == text
