"""Circuits with an ingredient taken out: what stays, what goes, and which weights still matter."""

from dataclasses import dataclass

import pytest

from qmtl.circuit import (
    AngleEncoding,
    ExpectationZ,
    Gate,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    RealAmplitudes,
    RotationAnsatz,
    count_live_weights,
    without_blocks,
    without_entanglers,
)
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task

TASKS = [
    Task.binary("a"),
    Task.multiclass("b", 5),
    Task.regression("c", 2),
    Task.multilabel("d", 3),
]
CIRCUITS = {
    "default": HeadCircuit(TASKS),
    "shared": HeadCircuit(TASKS, layout="shared", n_wires=5),
    "iqp": HeadCircuit(TASKS, IQPEncoding()),
    "chosen": HeadCircuit(
        TASKS,
        AngleEncoding(3, axes="XY", entangler="cnot_ring"),
        {"a": RealAmplitudes(2), "b": RotationAnsatz(3, entangler="all_to_all")},
        wires_per_task={"a": 3, "c": 6},
        readouts={"c": ExpectationZ(2, step=3)},
    ),
}


@pytest.fixture(params=CIRCUITS)
def circuit(request):
    return CIRCUITS[request.param]


@pytest.mark.parametrize("ablate", [without_blocks, without_entanglers])
def test_tasks_layout_registers_and_readouts_stay(ablate, circuit):
    ablated = ablate(circuit)
    assert ablated.tasks == circuit.tasks
    assert ablated.layout == circuit.layout
    assert ablated.registers == circuit.registers
    assert ablated.n_features == circuit.n_features


def test_without_blocks(circuit):
    ablated = without_blocks(circuit)
    assert ablated.encoding == circuit.encoding
    assert all(ablated.block_gates(name) == () for name in circuit.registers)
    assert ablated.count_parameters().circuit == circuit.n_encoding_weights


def test_without_entanglers(circuit):
    ablated = without_entanglers(circuit)
    for name in circuit.registers:
        gates = [gate for gate in ablated.gates(name) if len(gate.wires) > 1]
        assert gates == []
        assert set(ablated.light_cone(name).wires) <= set(ablated.register(name).wires)
    # The rotations are the same, and so is the number of weights.
    assert ablated.count_parameters() == circuit.count_parameters()


def test_live_weights():
    circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
    assert count_live_weights(circuit) == circuit.count_parameters().circuit == 16
    # A wire that is not read keeps no weight: of each register 1 + 4 of 2 + 6.
    assert count_live_weights(without_entanglers(circuit)) == 10
    # RZ on a wire that is not read commutes with everything after it.
    assert count_live_weights(without_blocks(circuit)) == 2


def test_a_block_of_no_gates_has_nothing_to_lose():
    circuit = HeadCircuit(TASKS, ansatz=IdentityAnsatz())
    assert without_blocks(circuit) == circuit


def test_an_encoding_that_needs_its_block():
    circuit = HeadCircuit([Task.binary("a")], IQPEncoding(n_layers=1))
    with pytest.raises(InvalidInputError, match="without its block, task 'a' depends on no feat"):
        without_blocks(circuit)


def test_a_part_whose_two_qubit_gates_have_no_name():
    @dataclass(frozen=True)
    class Fixed:
        def n_weights(self, n_wires, read):
            return 0

        def gates(self, n_wires, read):
            return [Gate("CZ", (0, 1))]

    circuit = HeadCircuit([Task.binary("a")], ansatz=Fixed())
    with pytest.raises(InvalidInputError, match="keeps its two-qubit gate CZ 0,1"):
        without_entanglers(circuit)
