"""DeviceNoise: what follows which gate, strengths, and the JSON form."""

import json
import math

import pytest
from hypothesis import given

from qmtl.circuit import Angle, Gate
from qmtl.errors import InvalidInputError
from qmtl.noise import Channel, CoherentError, DeviceNoise, Relaxation, Timing
from tests.noise.reference import gate_channels, noises

RX, RY = (Gate(name, (w,), Angle(constant=1.0)) for name, w in (("RX", 0), ("RY", 2)))
DAMPING, FLIP = Channel.amplitude_damping(0.1), Channel.pauli({"X": 0.2})
PAIR = Channel.pauli({"XZ": 0.1})


@given(noises())
def test_json_round_trip(noise):
    assert DeviceNoise.from_dict(json.loads(json.dumps(noise.to_dict()))) == noise


@pytest.mark.parametrize("name", ["one_qubit", "two_qubit", "readout"])
def test_uniform_names_what_is_no_probability(name):
    with pytest.raises(InvalidInputError, match=rf"^{name} must be in \[0, 1\], got 1.5$"):
        DeviceNoise.uniform(**{name: 1.5})


def test_save_and_load(tmp_path):
    noise = DeviceNoise.uniform(0.001, 0.01, 0.02)
    noise.save(tmp_path / "noise.json")
    assert DeviceNoise.load(tmp_path / "noise.json") == noise


@given(noises())
def test_channels_of_gates(noise):
    for gate in (Gate("CZ", (0, 1)), Gate("CZ", (4, 2)), Gate("CNOT", (1, 3)), RY):
        expected = [(c, tuple(w)) for c, w in gate_channels(noise, gate) if not c.is_identity]
        assert noise.after(gate) == expected


def test_particular_gates_replace_the_default():
    noise = DeviceNoise(
        FLIP, PAIR, {("CZ", (0, 1)): ((DAMPING, (1,)), (PAIR, (0, 1))), ("RX", (0,)): ()}
    )
    assert noise.after(RX) == []
    assert noise.after(Gate("RX", (1,), Angle(constant=1.0))) == [(FLIP, (1,))]
    assert noise.after(Gate("CZ", (0, 1))) == [(DAMPING, (1,)), (PAIR, (0, 1))]
    # CZ is the same gate from both sides; the noise stays on its wires.
    assert noise.after(Gate("CZ", (1, 0))) == noise.after(Gate("CZ", (0, 1)))
    assert noise.after(Gate("CNOT", (0, 1))) == [(PAIR, (0, 1))]


def test_a_cnot_is_not_the_same_from_both_sides():
    noise = DeviceNoise(gates={("CNOT", (0, 1)): ((DAMPING, (0,)),)})
    assert noise.after(Gate("CNOT", (0, 1))) == [(DAMPING, (0,))]
    assert noise.after(Gate("CNOT", (1, 0))) == []


def test_reading():
    noise = DeviceNoise(readout=(0.01, 0.02), readouts={3: (0.1, 0.2)})
    assert noise.reading(0) == Channel.readout(0.01, 0.02)
    assert noise.reading(3) == Channel.readout(0.1, 0.2)


def test_scaled():
    noise = DeviceNoise(
        FLIP, PAIR, {("CZ", (0, 1)): ((DAMPING, (1,)),)}, (0.01, 0.3), {1: (0.1, 0.4)}
    )
    twice = noise.scaled(2)
    assert twice.one_wire == FLIP.scaled(2)
    assert twice.gates["CZ", (0, 1)] == ((DAMPING.scaled(2), (1,)),)
    assert twice.readout == (0.02, 0.6)
    assert twice.readouts == {1: (0.2, 0.8)}
    # A bit that says nothing is the worst: beyond that, its errors would say the opposite.
    assert noise.scaled(4).reading(0).factors[3] == pytest.approx(0)
    assert noise.scaled(4).readout == pytest.approx((0.01 / 0.31, 0.3 / 0.31))
    assert DeviceNoise.uniform(readout=0.3).scaled(9).reading(0).factors[3] == 0
    assert DeviceNoise(readout=(0.6, 0.8)).scaled(2).readout == (0.6, 0.8)
    none = noise.scaled(0)
    assert none.after(Gate("CZ", (0, 1))) == none.after(RX) == []
    assert none.reading(1).is_identity


@pytest.mark.parametrize("scale", [-1, float("nan"), "2"])
def test_bad_scale(scale):
    with pytest.raises(InvalidInputError, match="scale must be a number that is not neg"):
        DeviceNoise().scaled(scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a qmtl noise file: format 'other'"),
        ({"readout": [0.1]}, "a part is missing or wrong"),
        ({"gates": [{"name": "CZ"}]}, "a part is missing or wrong"),
        ({"one_wire": {"factors": [1, 2, 1, 1], "shift": 0}}, r"must be in \[-1, 1\]"),
        ({"one_wire": {"shift": 0}}, "a part is missing or wrong"),
    ],
)
def test_bad_descriptions(change, message):
    with pytest.raises(InvalidInputError, match=message):
        DeviceNoise.from_dict(DeviceNoise.uniform(0.1).to_dict() | change)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            lambda: DeviceNoise(one_wire=0.1),
            "one_wire must be a Channel on 1 wire or None, got 0.1",
        ),
        (
            lambda: DeviceNoise(one_wire=PAIR),
            "must be a Channel on 1 wire or None, got C",
        ),
        (
            lambda: DeviceNoise(two_wire=FLIP),
            "two_wire must be a Channel on 2 wires or None, got C",
        ),
        (lambda: DeviceNoise(gates=3), "gates must be a Mapping, got int"),
        (
            lambda: DeviceNoise(gates={("CZ", (0, 1)): PAIR}),
            r"gates must have .*, \(0, 1\)\): C",
        ),
        (lambda: DeviceNoise(gates={("CZ", (0, 1)): ((PAIR, (0,)),)}), "gates must have channels"),
        (lambda: DeviceNoise(gates={("RX", (4,)): ((FLIP, (4,)),)}), "gates must have channels"),
        (lambda: DeviceNoise(gates={"CZ": ((PAIR, (0, 1)),)}), "gates must have .* got 'CZ'"),
        (lambda: DeviceNoise(gates={"RX": ((FLIP, (0,)),)}), "gates must have .* got 'RX'"),
        (lambda: DeviceNoise(gates={("CZ", (0, 1)): ((PAIR, (0, 0)),)}), "gates must have chan"),
        (lambda: DeviceNoise(readouts=[(0, 0)]), "readouts must be a Mapping, got list"),
        (lambda: DeviceNoise(coherent={"RX": 0.1}), "error of RX must be a CoherentError, got flo"),
        (lambda: DeviceNoise(timing=3), "timing must be a Timing, got int"),
        (lambda: DeviceNoise(readout=(2, 0)), r"readout must be in \[0, 1\], got 2"),
        (lambda: DeviceNoise(readout=0.1), "readout must be two probabilities, got 0.1"),
        (lambda: DeviceNoise(readouts={3: (0.1, "x")}), r"readout of wire 3 must be in .* got 'x'"),
        (lambda: CoherentError(relative="x"), "relative must be a number, got 'x'"),
        (lambda: CoherentError(math.nan), "relative must be a number, got nan"),
        (lambda: CoherentError(rotations=3), "rotations must be a Sequence, got int"),
        (lambda: CoherentError(rotations=(("RZ", 0.1),)), r"an angle, got \('RZ', 0.1\)"),
        (lambda: CoherentError(rotations=(("RZ", (0,), math.inf),)), "angle of RZ .* got inf"),
        (lambda: Timing({"CZ": "a"}), "durations must be seconds, not negative, got 'a' for CZ"),
        (lambda: Timing([1]), "durations must be a Mapping, got list"),
        (lambda: Timing({}, {0: 3}), "relaxation of wire 0 must be a Relaxation, got int"),
        (lambda: Timing({}, others=3), "others must be a Relaxation, got int"),
        (lambda: Relaxation("a", 1), "t1 and t2 must be positive .* got t1='a', t2=1"),
    ],
)
def test_bad_arguments(made, words):
    with pytest.raises(InvalidInputError, match=words):
        made()


def test_bad_files(tmp_path):
    path = tmp_path / "noise.json"
    with pytest.raises(InvalidInputError, match="cannot be read"):
        DeviceNoise.load(path)
    path.write_text("{")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        DeviceNoise.load(path)
    path.write_text("{}")
    with pytest.raises(InvalidInputError, match="missing or wrong"):
        DeviceNoise.load(path)


def test_a_coherent_error_of_a_symmetric_gate_holds_for_both_orders():
    error = CoherentError(rotations=(("RZ", (1,), 0.3), ("IsingZZ", (0, 1), 0.1)))
    noise = DeviceNoise(coherent={("CZ", (0, 1)): error, ("CNOT", (0, 1)): error})
    turned = noise.coherent_error("CZ", (1, 0))
    after = [(gate.name, set(gate.wires)) for gate in turned.after((1, 0))]
    assert after == [(gate.name, set(gate.wires)) for gate in error.after((0, 1))]
    assert noise.coherent_error("CNOT", (1, 0)) is None
