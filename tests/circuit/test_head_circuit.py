import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given

from qmtl.circuit import (
    Angle,
    AngleEncoding,
    ExpectationZ,
    Gate,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    Probabilities,
    RealAmplitudes,
    RotationAnsatz,
)
from qmtl.errors import InvalidInputError
from qmtl.simulators import LightConeSimulator, simulator_for
from qmtl.tasks import Task
from tests.laws import assert_closed_form_counts, assert_no_dead_gate, jacobian
from tests.strategies import binary_tasks, head_circuits, random_case

MIXED = [
    Task.binary("b"),
    Task.multiclass("c", 3),
    Task.regression("r", 2),
    Task.multilabel("l", 3),
]


@pytest.mark.parametrize(
    ("task", "n_wires", "kind", "read"),
    [
        (Task.binary("t"), 2, ExpectationZ, (0,)),
        (Task.regression("t"), 2, ExpectationZ, (0,)),
        (Task.regression("t", 3), 6, ExpectationZ, (0, 2, 4)),
        (Task.multiclass("t", 2), 2, Probabilities, (0, 1)),
        (Task.multiclass("t", 4), 2, Probabilities, (0, 1)),
        (Task.multiclass("t", 5), 3, Probabilities, (0, 1, 2)),
        (Task.multiclass("t", 9), 4, Probabilities, (0, 1, 2, 3)),
        (Task.multiclass("t", 17), 5, Probabilities, (0, 1, 2, 3, 4)),
        (Task.multilabel("t", 1), 2, ExpectationZ, (0,)),
        (Task.multilabel("t", 2), 2, ExpectationZ, (0, 1)),
        (Task.multilabel("t", 5), 5, ExpectationZ, (0, 1, 2, 3, 4)),
    ],
)
def test_defaults(task, n_wires, kind, read):
    circuit = HeadCircuit([task])
    register = circuit.register("t")
    assert circuit.n_wires == circuit.n_features == len(register.wires) == n_wires
    assert isinstance(register.readout, kind)
    assert register.readout.n_outputs == task.n_outputs
    assert register.readout.read_wires(n_wires) == read
    assert circuit.encoding == AngleEncoding(n_layers=2, axes="Y", trainable="Z")
    assert circuit.ansatz("t") == RotationAnsatz(n_layers=2, entangler="cz_ring")
    assert circuit.layout == "partitioned"


def test_registers_follow_each_other():
    circuit = HeadCircuit(MIXED)
    assert [r.wires for r in circuit.registers.values()] == [
        (0, 1), (2, 3), (4, 5, 6, 7), (8, 9, 10),
    ]  # fmt: skip
    shared = HeadCircuit(MIXED, layout="shared")
    assert shared.n_wires == 4
    assert {r.wires for r in shared.registers.values()} == {(0, 1, 2, 3)}
    named = HeadCircuit(MIXED, wires_per_task={"c": 3})
    assert [len(r.wires) for r in named.registers.values()] == [2, 3, 4, 3]
    assert HeadCircuit(binary_tasks(3), wires_per_task=1).n_wires == 3
    # A wider register spreads what is read over it; a readout may ask for more wires.
    wide = HeadCircuit([Task.multilabel("l", 2)], wires_per_task=4).register("l")
    assert wide.readout.read_wires(4) == (0, 2)
    strings = PauliStrings(("ZZZ",))
    assert HeadCircuit(binary_tasks(1), readouts={"t0": strings}).n_wires == 3


@given(head_circuits())
def test_counts_equal_the_gates(circuit):
    assert_closed_form_counts(circuit)


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["lightcone", "default.qubit"])
def test_binary_tasks_have_eight_weights_each_and_all_count(n_tasks, name):
    circuit = HeadCircuit(binary_tasks(n_tasks))
    count = circuit.count_parameters()
    assert (count.encoding, count.circuit, count.total) == (2 * n_tasks, 8 * n_tasks, 9 * n_tasks)
    assert str(count).endswith(f", total={9 * n_tasks})")
    case = random_case(circuit, batch=12)
    rows = jacobian(simulator_for(name), circuit, case.angles(), case.weights())
    sizes = torch.linalg.svdvals(rows)
    rank = int((sizes > 1e-8 * sizes[0]).sum())
    print(f"{name}, T={n_tasks}: {count.circuit} weights, rank {rank}")
    assert rank == count.circuit


@pytest.mark.parametrize(
    "circuit",
    [
        HeadCircuit(binary_tasks(5)),
        HeadCircuit(MIXED),
        HeadCircuit(MIXED[::-1]),
        HeadCircuit(MIXED[1:], layout="shared", n_wires=4),
        HeadCircuit(binary_tasks(3), layout="shared"),
        HeadCircuit([Task.regression("r", 3), Task.multiclass("c", 9)]),
        HeadCircuit(binary_tasks(4), wires_per_task=1),
        HeadCircuit(binary_tasks(2), wires_per_task=3),
        HeadCircuit(MIXED, AngleEncoding(n_layers=3)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_dead_gate_in_the_default(circuit, seed):
    assert_no_dead_gate(LightConeSimulator(), random_case(circuit, batch=4, seed=seed))


@pytest.mark.parametrize(
    "circuit",
    [HeadCircuit(MIXED, layout="shared"), HeadCircuit(binary_tasks(2), wires_per_task=5)],
    ids=repr,
)
def test_dead_gates_are_those_outside_the_light_cone(circuit):
    # A block of two layers does not reach all of a register of which it reads one wire only.
    case = random_case(circuit, batch=4)
    rows = jacobian(LightConeSimulator(), circuit, case.angles(), case.weights()).abs().amax(0)
    sizes = [circuit.n_encoding_weights, *map(circuit.n_weights, circuit.registers)]
    for name, moved in zip(circuit.registers, rows.split(sizes)[1:], strict=True):
        alive = sorted(g.angle.weight for g in circuit.light_cone(name).block if g.angle)
        assert torch.nonzero(moved > 1e-6).flatten().tolist() == alive
        assert (moved[[w for w in range(len(moved)) if w not in alive]] == 0).all()


@pytest.mark.parametrize("n_tasks", [2, 3, 8, 100])
def test_depth_does_not_grow_with_the_number_of_tasks(n_tasks):
    circuit = HeadCircuit(binary_tasks(n_tasks))
    assert circuit.two_qubit_depth == 2 + 2 + 1
    # RY RZ (CZ CZ) RY (CZ CZ) and RZ RY CZ RZ RY
    assert circuit.depth == 12
    assert circuit.two_qubit_gates == 2 * circuit.n_wires + n_tasks
    assert len(circuit.gates()) == circuit.n_wires * 5 + n_tasks * 7


def test_depth_of_other_circuits():
    assert HeadCircuit(binary_tasks(1)).two_qubit_depth == 3
    odd = HeadCircuit([Task.multilabel("l", 5)], AngleEncoding(1), IdentityAnsatz())
    assert (odd.depth, odd.two_qubit_depth) == (4, 3)
    # A ring of odd length starts beside the closing edge of the one before.
    assert HeadCircuit([Task.multilabel("l", 5)]).two_qubit_depth == 3 + 3 + 3 - 1
    chain = HeadCircuit(binary_tasks(4), AngleEncoding(1, entangler="cnot_line"), IdentityAnsatz())
    assert (chain.depth, chain.two_qubit_depth, chain.two_qubit_gates) == (8, 7, 7)
    shared = HeadCircuit(
        binary_tasks(2),
        AngleEncoding(1, entangler="none"),
        {"t0": IdentityAnsatz(), "t1": RotationAnsatz()},
        layout="shared",
    )
    assert (shared.two_qubit_depth, shared.two_qubit_gates) == (1, 1)
    assert shared.depth == 1 + 2 + 1 + 2


def test_gates_of_the_layouts():
    circuit = HeadCircuit(binary_tasks(3))
    blocks = [gate for name in circuit.registers for gate in circuit.block_gates(name)]
    assert list(circuit.gates()) == [*circuit.encoding_gates, *blocks]
    assert circuit.gates("t1") == circuit.encoding_gates + circuit.block_gates("t1")
    with pytest.raises(InvalidInputError, match=r"one circuit per task.*'t0', 't1'"):
        HeadCircuit(binary_tasks(2), layout="shared").gates()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[]], {}, "task"),
        ([binary_tasks(1) * 2], {}, "named twice|used twice|'t0'"),
        ([[Task.binary("a")]], {"wires_per_task": 0}, "'a': wires must be an integer >= 1, got 0"),
        ([[Task.binary("a")]], {"wires_per_task": 1.5}, "got 1.5"),
        ([[Task.binary("a")]], {"wires_per_task": True}, "got True"),
        (
            [[Task.multiclass("a", 9)]],
            {"wires_per_task": 3},
            "at least 4 wires, its register has 3",
        ),
        ([[Task.multilabel("a", 3)]], {"wires_per_task": {"a": 2}}, "at least 3 .*register has 2"),
        ([MIXED], {"layout": "shared", "n_wires": 2}, "its register has 2"),
        ([MIXED], {"layout": "shared", "wires_per_task": 2}, "wires_per_task is for the part"),
        ([MIXED], {"n_wires": 20}, "n_wires is for the shared layout"),
        ([MIXED], {"layout": "share"}, "unknown layout 'share'; did you mean 'shared'"),
        ([MIXED], {"wires_per_task": {"bb": 2}}, "unknown task in wires_per_task 'bb'.*'b'"),
        ([MIXED], {"readouts": {"x": ExpectationZ()}}, "unknown task in readouts 'x'"),
        ([MIXED], {"readouts": {"c": ExpectationZ()}}, "'c' has 3 outputs, .* has 1"),
        ([MIXED, None, {"z": IdentityAnsatz()}], {}, "unknown task in ansatz 'z'"),
        ([MIXED, "angle"], {}, "encoding must have gates.* got 'angle'"),
        ([MIXED, None, {"b": 3}], {}, "'b': an ansatz must have gates .* got 3"),
    ],
)
def test_errors(arguments, options, message):
    with pytest.raises(InvalidInputError, match=message):
        HeadCircuit(*arguments, **options)


def test_unknown_task():
    circuit = HeadCircuit([Task.binary("cola"), Task.binary("rte")])
    for ask in (circuit.register, circuit.task, circuit.light_cone, circuit.n_weights,
                circuit.ansatz, circuit.block_gates, circuit.gates):  # fmt: skip
        with pytest.raises(InvalidInputError, match="unknown task 'colo'; did you mean 'cola'"):
            ask("colo")


VARIANTS = [
    HeadCircuit(MIXED),
    HeadCircuit(MIXED[::-1]),
    HeadCircuit(MIXED[:3]),
    HeadCircuit(MIXED, AngleEncoding(n_layers=3)),
    HeadCircuit(MIXED, IQPEncoding()),
    HeadCircuit(MIXED, ansatz=RealAmplitudes()),
    HeadCircuit(MIXED, ansatz={"b": RealAmplitudes()}),
    HeadCircuit(MIXED, layout="shared"),
    HeadCircuit(MIXED, layout="shared", n_wires=5),
    HeadCircuit(MIXED, wires_per_task={"b": 3}),
    HeadCircuit(MIXED, readouts={"b": PauliStrings(("ZZ",))}),
]


def test_different_circuits_differ():
    assert len(set(VARIANTS)) == len(VARIANTS)
    assert all((a == b) == (i == j) for i, a in enumerate(VARIANTS) for j, b in enumerate(VARIANTS))
    assert HeadCircuit(MIXED) != "circuit"


@pytest.mark.parametrize("circuit", VARIANTS)
@pytest.mark.parametrize("touched", [False, True])
def test_copies_are_equal(circuit, touched):
    if touched:
        _ = circuit.depth, hash(circuit), circuit.light_cone("b"), repr(circuit)
    for other in (pickle.loads(pickle.dumps(circuit)), copy.deepcopy(circuit), copy.copy(circuit)):
        assert other == circuit
        assert hash(other) == hash(circuit)
        assert other.light_cone("b") == circuit.light_cone("b")
        assert other.count_parameters() == circuit.count_parameters()


def test_repr_says_what_it_is():
    text = repr(HeadCircuit(binary_tasks(20)))
    assert "20 tasks, 40 wires, partitioned" in text
    assert "cones of up to 6 wires, 160 weights" in text


@dataclass(frozen=True)
class OneOff:
    """A part whose gates have an index that is not there."""

    gate: Gate

    def n_features(self, n_wires):
        return 2

    def n_weights(self, n_wires, read=()):
        return 2

    def gates(self, n_wires, read=()):
        return [self.gate]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (Gate("RY", (2,), Angle(weight=0)), r"the gate RY\(w\[0\]\) 2 has wire 2, there are 2"),
        (Gate("RY", (0,), Angle(weight=2)), r"has weight 2, there are 2"),
        (Gate("RY", (0,), Angle(features=(0, 5))), r"has feature 5, there are 2"),
        (Gate("CRX", (1, 7), Angle(weight=0)), r"CRX\(w\[0\]\) 1,7 has wire 7, there are 2"),
        (Gate("Rot", (0,), (Angle(), Angle(), Angle(weight=3))), "has weight 3, there are 2"),
        ("RY", "gates must be a list of Gate, got 'RY'"),
    ],
)
def test_an_index_out_of_range_is_told_with_numbers(gate, message):
    task = Task.binary("a")
    with pytest.raises(InvalidInputError, match=f"OneOff: .*{message}"):
        HeadCircuit([task], OneOff(gate))
    with pytest.raises(InvalidInputError, match=f"task 'a': OneOff: .*{message}"):
        HeadCircuit([task], ansatz=OneOff(gate))


@dataclass(frozen=True)
class YieldedEncoding:
    """An encoding whose gates are a generator."""

    given: AngleEncoding

    def n_features(self, n_wires):
        return self.given.n_features(n_wires)

    def n_weights(self, n_wires):
        return self.given.n_weights(n_wires)

    def gates(self, n_wires):
        yield from self.given.gates(n_wires)


@dataclass(frozen=True)
class YieldedBlock:
    """A block whose gates are a generator."""

    given: RotationAnsatz

    def n_weights(self, n_wires, read):
        return self.given.n_weights(n_wires, read)

    def gates(self, n_wires, read):
        yield from self.given.gates(n_wires, read)


def test_gates_may_be_yielded():
    plain = HeadCircuit(MIXED)
    yielded = HeadCircuit(MIXED, YieldedEncoding(AngleEncoding()), YieldedBlock(RotationAnsatz()))
    assert yielded.gates() == plain.gates()
    assert len(yielded.encoding_gates) > 0


@pytest.mark.parametrize("read", [[2], [0, -1]])
def test_a_light_cone_of_wires_that_a_register_has_not(read):
    circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
    with pytest.raises(InvalidInputError, match=r"its register has wires 0 to 1, got (2|-1)"):
        circuit.light_cone("b", read)
