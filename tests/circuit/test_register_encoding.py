"""RegisterEncoding: the inner encoding on each register, and no gate between two."""

import pytest

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding, RegisterEncoding
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task


@pytest.mark.parametrize(
    "inner", [AngleEncoding(), AngleEncoding(2, axes="XY", trainable="YZ"), IQPEncoding()]
)
def test_is_the_inner_encoding_on_each_register(inner):
    sizes = (2, 1, 4)
    encoding = RegisterEncoding(sizes, inner)
    gates = encoding.gates(7)
    start = feature = weight = 0
    for size in sizes:
        own = [gate for gate in gates if gate.wires[0] in range(start, start + size)]
        for gate, alone in zip(own, inner.gates(size), strict=True):
            assert gate.name == alone.name
            assert gate.wires == tuple(start + w for w in alone.wires)
            if alone.angle is not None:
                assert gate.angle.features == tuple(feature + i for i in alone.angle.features)
                expected = None if alone.angle.weight is None else weight + alone.angle.weight
                assert gate.angle.weight == expected
        start += size
        feature += inner.n_features(size)
        weight += inner.n_weights(size)
    assert (encoding.n_features(7), encoding.n_weights(7)) == (feature, weight)


def test_cones_stay_in_their_registers():
    tasks = [Task.binary("a"), Task.multiclass("b", 5), Task.regression("c")]
    circuit = HeadCircuit(tasks, RegisterEncoding((2, 3, 2), AngleEncoding(3)))
    for name, register in circuit.registers.items():
        assert circuit.light_cone(name).wires == register.wires


@pytest.mark.parametrize("sizes", [(), (2, 0), (True, 2), (1.5,)])
def test_bad_sizes(sizes):
    with pytest.raises(InvalidInputError, match="sizes must be one or more integers >= 1, got"):
        RegisterEncoding(sizes, AngleEncoding())


def test_other_wires():
    with pytest.raises(InvalidInputError, match=r"\(2, 2\) wires need 4 wires, got 5"):
        RegisterEncoding((2, 2), AngleEncoding()).gates(5)
