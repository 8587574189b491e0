"""The matrix-product path against PennyLane, dense state vectors and the light-cone simulator."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import (
    Angle,
    AngleEncoding,
    ExpectationZ,
    Gate,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    RealAmplitudes,
    RotationAnsatz,
    distribution_circuit,
)
from qmtl.errors import InvalidInputError
from qmtl.simulators import _chain, simulator_for
from qmtl.simulators._angles import TableBuilder
from qmtl.simulators._chain import CHUNK_BYTES, ChainEngine
from qmtl.simulators._engine import Program
from qmtl.simulators._lightcone import LightConeSimulator
from qmtl.simulators._plan import build_plan
from qmtl.tasks import Task, chosen_tasks
from tests.laws import (
    assert_gradients_stay_in_cone,
    assert_same_values_and_gradients,
    assert_subset_is_the_same,
    assert_valid_outputs,
    dense_outputs,
    vjp,
)
from tests.strategies import binary_tasks, head_circuits, random_angles, random_case, random_weights


class ChainSimulator(LightConeSimulator):
    """Runs all tasks as a chain, whatever their cones are."""

    def _new(self, circuit, tasks, joint):
        names, builder = chosen_tasks(tasks, circuit.registers), TableBuilder()
        engine = ChainEngine(circuit, names, names, builder)
        plan = build_plan(circuit, names, names, builder=builder)
        return Program(plan, [engine])


def chain_values(circuit, angles, weights, tasks=None):
    return ChainSimulator().expectation_values(circuit, angles, weights, tasks)


def engine_of(circuit, tasks=None):
    return ChainSimulator()._prepare(circuit, tasks).engines[0]


CHAIN = ChainSimulator()
MIXED = [
    Task.binary("a"),
    Task.multiclass("b", 3),
    Task.regression("c", 2),
    Task.multilabel("d", 2),
]
ENTANGLERS = ["cnot_line", "cnot_ring"]


@dataclass(frozen=True)
class ListedEncoding:
    """An encoding of given gates; they may use two features per wire and two weights."""

    listed: tuple[Gate, ...]

    def n_features(self, n_wires):
        return 2 * n_wires

    def n_weights(self, n_wires):
        return 2

    def gates(self, n_wires):
        return list(self.listed)


@st.composite
def chain_circuits(draw):
    """Circuits of random gates between neighbours, no pattern in them."""
    circuit = draw(head_circuits(max_wires=6, max_tasks=3, layout="partitioned"))
    n, edges, gates = circuit.n_wires, [], []
    for _ in range(draw(st.integers(0, 16))):
        name = draw(st.sampled_from(["CNOT", "CNOT", "CZ", "RX", "RY", "RZ", "Hadamard"]))
        wire = draw(st.integers(0, n - 1))
        if name not in ("CNOT", "CZ"):
            features = tuple(draw(st.lists(st.integers(0, 2 * n - 1), max_size=2)))
            weight = draw(st.sampled_from([None, 0, 1]))
            angle = Angle(features, weight, constant=draw(st.sampled_from([1.0, -0.7])))
            gates.append(Gate(name, (wire,), None if name == "Hadamard" else angle))
            continue
        pair = (wire, (wire + 1) % n)
        if n > 1 and edges.count(frozenset(pair)) < 3:
            edges.append(frozenset(pair))
            gates.append(Gate(name, pair[:: draw(st.sampled_from([1, -1]))]))
    return HeadCircuit(
        circuit.tasks,
        ListedEncoding(tuple(gates)),
        {name: circuit.ansatz(name) for name in circuit.registers},
        wires_per_task={name: len(r.wires) for name, r in circuit.registers.items()},
        readouts={name: r.readout for name, r in circuit.registers.items()},
    )


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("entangler", ENTANGLERS)
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_agrees_with_pennylane(entangler, n_layers, n_tasks):
    encoding = AngleEncoding(n_layers=n_layers, entangler=entangler)
    circuit = HeadCircuit(MIXED[:n_tasks], encoding)
    case = random_case(circuit, batch=1 if n_tasks == 2 else 3, seed=n_layers)
    assert_same_values_and_gradients(CHAIN, simulator_for("default.qubit"), case)


@pytest.mark.parametrize(("i", "entangler"), list(enumerate([*ENTANGLERS, "cz_ring", "none"])))
@pytest.mark.parametrize(
    ("j", "tasks", "options"),
    [
        (0, MIXED, {}),
        (1, binary_tasks(9), {"wires_per_task": 1}),
        (2, binary_tasks(3), {"wires_per_task": 3, "ansatz": RealAmplitudes(2, "cnot_ring")}),
        (3, MIXED[:2], {"wires_per_task": {"a": 1, "b": 4}, "ansatz": IdentityAnsatz()}),
        (
            4,
            [Task.binary("t"), Task.multilabel("s", 2), Task.binary("u")],
            {
                "wires_per_task": {"t": 2, "s": 5, "u": 1},
                "readouts": {"s": PauliStrings(("ZIIIZ", "IZIZI")), "t": PauliStrings(("ZZ",))},
            },
        ),
        (
            5,
            [Task.multilabel("many", 8), Task.binary("one")],
            {"ansatz": RotationAnsatz(entangler="cz_ring"), "readouts": {"many": ExpectationZ(8)}},
        ),
    ],
)
def test_agrees_with_state_vectors(i, entangler, j, tasks, options):
    """All pairs, and every entangler and register in one layer and in two."""
    options, n_layers = dict(options), 1 + (i + j) % 2
    encoding = AngleEncoding(n_layers=n_layers, axes="XY", trainable="ZX", entangler=entangler)
    circuit = HeadCircuit(tasks, encoding, options.pop("ansatz", None), **options)
    assert_same_values_and_gradients(
        CHAIN, LightConeSimulator(engine="eager"), random_case(circuit, batch=2)
    )


@given(chain_circuits(), st.integers(0, 1000))
def test_any_gates_between_neighbours(circuit, seed):
    case = random_case(circuit, batch=2, seed=seed)
    angles, weights = case.angles(), case.weights()
    values = chain_values(circuit, angles, weights)
    assert_valid_outputs(circuit, values, atol=1e-12)
    plain = {name: w.numpy() for name, w in weights.items()}
    for name, found in values.items():
        expected = [dense_outputs(circuit, name, row.numpy(), plain) for row in angles]
        torch.testing.assert_close(found, torch.tensor(np.array(expected)), rtol=0, atol=1e-12)


def test_features_in_the_blocks():
    @dataclass(frozen=True)
    class FeatureAnsatz:
        def n_weights(self, n_wires, read):
            return 1

        def gates(self, n_wires, read):
            angle = Angle(features=(0,), weight=0)
            return [Gate("Hadamard", (0,)), Gate("IsingZZ", (0, 1), angle), Gate("RX", (0,), angle)]

    circuit = HeadCircuit(binary_tasks(3), AngleEncoding(entangler="cnot_ring"), FeatureAnsatz())
    assert_same_values_and_gradients(CHAIN, simulator_for("default.qubit"), random_case(circuit))


@pytest.mark.parametrize("entangler", ENTANGLERS)
def test_tasks_keep_to_themselves(entangler):
    circuit = HeadCircuit(MIXED, AngleEncoding(entangler=entangler))
    case = random_case(circuit)
    assert_subset_is_the_same(CHAIN, case, ["c", "a"], atol=1e-13)
    assert_gradients_stay_in_cone(CHAIN, case, atol=1e-13)


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entangler", "n_layers", "chunk"),
    [("cnot_line", 2, 2**29), ("cnot_ring", 2, 2**29), ("cnot_ring", 2, 1)],
)
def test_second_derivatives(monkeypatch, entangler, n_layers, chunk):
    monkeypatch.setattr(_chain, "CHUNK_BYTES", chunk)
    encoding = AngleEncoding(n_layers=n_layers, entangler=entangler)
    circuit = HeadCircuit(binary_tasks(2), encoding)
    weights = random_weights(circuit, grad=True)

    def outputs(angles, *vectors):
        values = chain_values(circuit, angles, dict(zip(weights, vectors, strict=True)))
        return tuple(values.values())

    inputs = (random_angles(circuit, 2, grad=True), *weights.values())
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


def test_chunks_do_not_matter(monkeypatch):
    circuit = HeadCircuit(MIXED, AngleEncoding(entangler="cnot_ring"))
    angles, weights = random_angles(circuit, 5), random_weights(circuit)
    expected = vjp(CHAIN, circuit, angles, weights)
    monkeypatch.setattr(_chain, "CHUNK_BYTES", 16 * engine_of(circuit).lane_numbers)
    values, grads = vjp(ChainSimulator(), circuit, angles, weights)
    for found, whole in zip((values, grads), expected, strict=True):
        for name in whole:
            torch.testing.assert_close(found[name], whole[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 2**29])
def test_jacobians_by_vmap(monkeypatch, chunk):
    """The rows of a Jacobian in one backward pass, as Jacobian aggregators ask for them."""
    monkeypatch.setattr(_chain, "CHUNK_BYTES", chunk)
    circuit = HeadCircuit(binary_tasks(3), AngleEncoding(entangler="cnot_ring"))
    angles, weights = random_angles(circuit, 2, grad=True), random_weights(circuit, grad=True)
    losses = torch.stack(
        [v.square().sum() for v in chain_values(circuit, angles, weights).values()]
    )
    inputs = [angles, weights["encoding"]]
    rows = torch.autograd.grad(
        losses, inputs, torch.eye(3).double(), is_grads_batched=True, retain_graph=True
    )
    for i, loss in enumerate(losses):
        one = torch.autograd.grad(loss, inputs, retain_graph=True)
        for row, expected in zip(rows, one, strict=True):
            torch.testing.assert_close(row[i], expected, rtol=0, atol=1e-13)


def test_function_transforms():
    circuit = HeadCircuit(binary_tasks(2), AngleEncoding(entangler="cnot_line"))
    angles, weights = random_angles(circuit, 3), random_weights(circuit)

    def outputs(angles):
        return torch.cat(list(chain_values(circuit, angles, weights).values()), 1)

    reverse = torch.func.jacrev(outputs)(angles)
    forward = torch.func.jacfwd(outputs)(angles)
    torch.testing.assert_close(reverse, forward, rtol=0, atol=1e-13)
    mapped = torch.func.vmap(lambda row: outputs(row[None])[0])(angles)
    torch.testing.assert_close(mapped, outputs(angles), rtol=0, atol=1e-13)


# --- size --------------------------------------------------------------------------------------


@pytest.mark.parametrize("entangler", ENTANGLERS)
def test_single_precision_on_2000_wires(entangler):
    circuit = HeadCircuit(binary_tasks(1000), AngleEncoding(entangler=entangler))
    case = random_case(circuit, batch=1)
    values, grads = vjp(CHAIN, circuit, case.angles(), case.weights())
    assert max(v.abs().max() for v in values.values()) <= 1 + 1e-12
    single, single_grads = vjp(
        CHAIN, circuit, case.angles(torch.float32), case.weights(torch.float32)
    )
    # One rounding that has a bias, two thousand times, would be 1e-4.
    for name, v in single.items():
        assert v.dtype == torch.float32
        torch.testing.assert_close(v.double(), values[name], rtol=0, atol=2e-6)
    for name, g in single_grads.items():
        torch.testing.assert_close(g.double(), grads[name], rtol=0, atol=5e-6)


def saved_bytes(circuit, batch):
    """Bytes that autograd keeps for the backward pass, each storage counted once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    program = ChainSimulator()._prepare(circuit, None)
    angles = random_angles(circuit, batch, grad=True)
    weights = torch.cat(list(random_weights(circuit, grad=True).values()))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        values = program.torch_values(angles, weights)
    assert values.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("entangler", ENTANGLERS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_memory_is_linear_in_the_wires_and_estimated(entangler, n_layers):
    encoding = AngleEncoding(n_layers=n_layers, entangler=entangler)
    kept, engines = [], []
    for n in (64, 128, 256):
        circuit = HeadCircuit(binary_tasks(n // 2), encoding)
        kept.append(saved_bytes(circuit, 2))
        engines.append(engine_of(circuit))
    assert kept[2] < 1.05 * 2 * kept[1] < 1.05**2 * 4 * kept[0]
    for n_bytes, engine in zip(kept, engines, strict=True):
        assert 0.3 * n_bytes < engine.step_bytes(2, 8) < 4 * n_bytes
        bond = (4 if entangler == "cnot_ring" else 2) ** n_layers
        assert engine.name == f"matrix products with bonds of {bond}"
    assert engines[2].step_operations(2) < 2.1 * engines[1].step_operations(2)


def test_memory_is_bounded_by_chunks():
    circuit = HeadCircuit(binary_tasks(500), AngleEncoding(entangler="cnot_ring"))
    engine = engine_of(circuit)
    assert engine.step_bytes(1000, 4) < 1.5 * CHUNK_BYTES
    assert engine.step_operations(1000) == 1000 * engine.step_operations(1)
    assert engine_of(circuit, ["t3"]).step_bytes(1, 4) < engine.step_bytes(1, 4)


# --- what it is for ----------------------------------------------------------------------------


def test_applies():
    tasks = binary_tasks(4)
    ring = AngleEncoding(entangler="cnot_ring")
    wide = HeadCircuit([*tasks, Task.multiclass("wide", 257)], ring)
    for circuit in (HeadCircuit(tasks, ring), HeadCircuit(tasks), wide):
        values = chain_values(circuit, random_angles(circuit), random_weights(circuit), ["t1"])
        assert list(values) == ["t1"]
    for other in (
        HeadCircuit(tasks, AngleEncoding(entangler="all_to_all")),
        HeadCircuit(tasks, IQPEncoding()),
        HeadCircuit(tasks, AngleEncoding(n_layers=5, entangler="cnot_line")),
        HeadCircuit(tasks, ring, layout="shared"),
    ):
        with pytest.raises(InvalidInputError, match="at most 4 CNOT or CZ per pair of neighbours"):
            chain_values(other, random_angles(other), random_weights(other))
    with pytest.raises(InvalidInputError, match=r"task 'wide': .* more than 8 wires"):
        chain_values(wide, random_angles(wide), random_weights(wide))


@pytest.mark.parametrize("entangler", ENTANGLERS)
def test_no_tasks_and_no_samples(entangler):
    circuit = HeadCircuit(MIXED, AngleEncoding(entangler=entangler))
    weights = random_weights(circuit, grad=True)
    assert chain_values(circuit, random_angles(circuit), weights, []) == {}
    empty = chain_values(circuit, random_angles(circuit, 0), weights)
    assert [tuple(v.shape) for v in empty.values()] == [(0, 1), (0, 3), (0, 2), (0, 2)]
    sum(v.sum() for v in empty.values()).backward()
    assert (weights["encoding"].grad == 0).all()


def test_wires_that_are_not_read_add_nothing_to_a_readout():
    sizes = {"a": 24, "b": 2}
    narrow = HeadCircuit(
        [Task.binary("a"), Task.binary("b")],
        AngleEncoding(entangler="cnot_line"),
        wires_per_task=sizes,
    )
    # A matrix over all 24 wires of the register would take gigabytes.
    circuit = distribution_circuit(narrow)
    angles, weights = random_angles(circuit, 2), random_weights(circuit)
    values = chain_values(circuit, angles, weights, ["a"])["a"]
    expected = chain_values(narrow, angles, weights, ["a"])["a"]
    torch.testing.assert_close(values[:, :1] - values[:, 1:], expected, atol=1e-10, rtol=0)
