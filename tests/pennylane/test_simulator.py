from functools import partial

import pytest
import torch
from hypothesis import given, settings

from qmtl.circuit import (
    ENTANGLERS,
    AngleEncoding,
    ExpectationZ,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    Probabilities,
    RealAmplitudes,
    RotationAnsatz,
    task_strings,
)
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.pennylane import PennyLaneSimulator
from qmtl.simulators import LightConeSimulator, Simulator, simulator_for
from qmtl.tasks import Task
from tests.laws import (
    assert_batch_is_samples,
    assert_gradients_stay_in_cone,
    assert_same_values_and_gradients,
    assert_subset_is_the_same,
    assert_valid_outputs,
    dense_outputs,
    vjp,
)
from tests.strategies import binary_tasks, cases, random_angles, random_case, random_weights

REFERENCE = PennyLaneSimulator("default.qubit")
LIGHTCONE = LightConeSimulator()


ENCODINGS = {
    "angle": AngleEncoding,
    "dense": partial(AngleEncoding, 2, axes="YX", features_per_wire=3, trainable="ZY"),
    "once": partial(AngleEncoding, 3, axes="XZ", trainable="YZ", reupload=False),
    "iqp": lambda entangler: IQPEncoding(2, pattern=entangler),
}


@pytest.mark.parametrize(("i", "entangler"), list(enumerate(ENTANGLERS)))
@pytest.mark.parametrize(("j", "encoding"), list(enumerate(ENCODINGS)))
def test_every_entangler_and_encoding_agrees(i, entangler, j, encoding):
    """All pairs, and every entangler and encoding in both layouts."""
    layout = ("partitioned", "shared")[(i + j) % 2]
    circuit = HeadCircuit(
        [Task.multiclass("c", 3), Task.binary("b"), Task.regression("r"), Task.binary("d")],
        ENCODINGS[encoding](entangler=entangler),
        {
            "c": RotationAnsatz(2, entangler),
            "b": RealAmplitudes(2, entangler),
            "d": IdentityAnsatz(),
        },
        layout=layout,
        readouts={"b": PauliStrings(("ZZ",))},
    )
    assert_same_values_and_gradients(LIGHTCONE, REFERENCE, random_case(circuit, 2), atol=1e-10)


@pytest.mark.slow
@given(cases(max_wires=9, max_tasks=5))
def test_light_cones_agree_with_pennylane(case):
    assert_same_values_and_gradients(LIGHTCONE, REFERENCE, case, atol=1e-10)


@settings(max_examples=8)
@given(cases(max_wires=5, max_tasks=3, max_batch=3))
def test_lightning_agrees(case):
    lightning = PennyLaneSimulator("lightning.qubit", diff_method="adjoint")
    assert_same_values_and_gradients(LIGHTCONE, lightning, case, atol=1e-10)


@pytest.mark.parametrize(
    ("task", "readout"),
    [
        (Task.regression("t", 2), ExpectationZ(2, step=2)),
        (Task.regression("t", 2), PauliStrings(("ZIZ", "IZZ"))),
        (Task.multiclass("t", 5), Probabilities(5)),
        (Task.multiclass("t", 8), Probabilities(8)),
    ],
)
def test_every_readout_on_lightning(task, readout):
    tasks = [task, Task.binary("b")]
    circuit = HeadCircuit(tasks, wires_per_task={"t": 3}, readouts={"t": readout})
    case = random_case(circuit)
    assert_same_values_and_gradients(simulator_for("lightning.qubit"), LIGHTCONE, case, atol=1e-10)


@given(cases(max_wires=6, max_tasks=3, max_batch=2))
def test_values_are_those_of_dense_state_vectors(case):
    # The same gates by an independent few lines of numpy, whatever PennyLane may share with us.
    weights = case.weights()
    values = REFERENCE.expectation_values(case.circuit, case.angles(), weights)
    for name, v in values.items():
        for i, row in enumerate(case.angles().tolist()):
            expected = torch.from_numpy(dense_outputs(case.circuit, name, row, weights))
            torch.testing.assert_close(v[i], expected, rtol=0, atol=1e-12)


@settings(max_examples=8)
@given(cases(max_wires=5, max_tasks=3, max_batch=2))
def test_laws(case):
    values = REFERENCE.expectation_values(case.circuit, case.angles(), case.weights())
    assert_valid_outputs(case.circuit, values, atol=1e-12)
    assert_gradients_stay_in_cone(REFERENCE, case, atol=1e-12)
    assert_subset_is_the_same(REFERENCE, case, list(case.circuit.registers)[::-1][:2], atol=1e-12)
    assert_batch_is_samples(REFERENCE, case, atol=1e-12)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit"])
@pytest.mark.parametrize("diff_method", ["parameter-shift", "adjoint"])
@pytest.mark.parametrize("batch", [1, 2])
def test_parameter_shift_and_adjoint_equal_backprop(device, diff_method, batch):
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)], AngleEncoding(2, axes="YX"))
    simulator = PennyLaneSimulator(device, diff_method=diff_method)
    assert_same_values_and_gradients(simulator, LIGHTCONE, random_case(circuit, batch), atol=1e-10)


def test_float32():
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
    case = random_case(circuit)
    values, grads = vjp(REFERENCE, circuit, case.angles(torch.float32), case.weights(torch.float32))
    expected, _ = vjp(LIGHTCONE, circuit, case.angles(), case.weights())
    for name, v in values.items():
        assert v.dtype == torch.float32
        torch.testing.assert_close(v.double(), expected[name], rtol=0, atol=1e-5)
    assert {g.dtype for g in grads.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lightning_keeps_all_digits_whatever_the_default_type(dtype):
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
    case = random_case(circuit)
    assert torch.get_default_dtype() == torch.float32
    torch.set_default_dtype(dtype)
    try:
        assert_same_values_and_gradients(simulator_for("lightning.qubit"), LIGHTCONE, case)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_no_tasks_and_no_samples(layout):
    circuit = HeadCircuit(binary_tasks(2), layout=layout)
    weights = random_weights(circuit)
    assert REFERENCE.expectation_values(circuit, random_angles(circuit), weights, []) == {}
    empty = REFERENCE.expectation_values(circuit, random_angles(circuit, 0), weights)
    assert {name: tuple(v.shape) for name, v in empty.items()} == {"t0": (0, 1), "t1": (0, 1)}


@pytest.mark.parametrize(
    ("readout", "n"),
    [
        (ExpectationZ(2), 3),
        (PauliStrings(("ZIZ", "ZZI")), 3),
        (Probabilities(3), 2),
        (Probabilities(8), 3),
        (Probabilities(3), 4),
    ],
)
def test_readouts_as_z_strings(readout, n):
    task = Task.multiclass("t", readout.n_outputs)
    circuit = HeadCircuit([task], wires_per_task=n, readouts={"t": readout})
    masks, mixing = task_strings(circuit, "t")
    signs = torch.tensor(
        [
            [(-1) ** sum(s >> (n - 1 - w) & m >> w & 1 for w in range(n)) for s in range(2**n)]
            for m in masks
        ]
    ).double()
    expected = torch.tensor(readout.matrix(n)).double()
    found = signs if mixing is None else torch.tensor(mixing).double() @ signs
    if len(found[0]) < 2**n:  # wires after the last that is read are left out
        expected = expected[:, :: 2**n // len(found[0])]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


class Constant:
    """A readout that no state changes."""

    n_outputs, min_wires, is_probability = 1, 1, False

    def read_wires(self, n_wires):
        return (0,)

    def matrix(self, n_wires):
        return [[1.0] * 2**n_wires]


@pytest.mark.parametrize("others", [(), ("b",)])
def test_constant_readouts(others):
    tasks = [Task.binary("a"), *map(Task.binary, others)]
    circuit = HeadCircuit(tasks, readouts={"a": Constant()})
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    expected = LightConeSimulator().expectation_values(circuit, angles, weights)
    found = PennyLaneSimulator().expectation_values(circuit, angles, weights)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert found["a"].tolist() == [[1.0]] * 3


def test_wide_registers_need_no_square_matrix():
    circuit = HeadCircuit(binary_tasks(1), wires_per_task=16)
    assert task_strings(circuit, "t0") == ((1,), None)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit", "default.mixed"])
def test_what_no_memory_holds_is_an_error(device):
    circuit = HeadCircuit(binary_tasks(40))
    angles, weights = random_angles(circuit, 1), random_weights(circuit)
    with pytest.raises(CircuitTooLargeError, match=f"'{device}' simulates all 80 wires"):
        PennyLaneSimulator(device).expectation_values(circuit, angles, weights, ["t0"])


def test_names():
    assert isinstance(simulator_for("lightcone"), LightConeSimulator)
    assert isinstance(simulator_for("default.qubit"), PennyLaneSimulator)
    assert isinstance(REFERENCE, Simulator)
    assert simulator_for(REFERENCE) is REFERENCE
    with pytest.raises(InvalidInputError, match=r"'default\.qbit'; did you mean 'default\.qubit'"):
        simulator_for("default.qbit")
    with pytest.raises(InvalidInputError, match="'lightcne'; did you mean 'lightcone'"):
        simulator_for("lightcne")
    with pytest.raises(InvalidInputError, match=r"must be a name .* or a Simulator, got 3"):
        simulator_for(3)
    circuit = HeadCircuit(binary_tasks(1))
    with pytest.raises(InvalidInputError, match=r"'default\.qbit'; did you mean 'default\.qubit'"):
        PennyLaneSimulator("default.qbit").expectation_values(
            circuit, random_angles(circuit), random_weights(circuit)
        )
