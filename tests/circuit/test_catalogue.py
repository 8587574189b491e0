"""Circuits and designs as files, the rank of every design, and the drift of generated files."""

import json
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import (
    Angle,
    AngleEncoding,
    Design,
    ExpectationZ,
    Gate,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    Probabilities,
    RealAmplitudes,
    RotationAnsatz,
    circuit_from_dict,
    list_designs,
    load_design,
    to_toml,
)
from qmtl.circuit._catalogue import design_from_toml
from qmtl.errors import InvalidInputError
from qmtl.simulators import LightConeSimulator
from qmtl.tasks import Task

ROOT = Path(__file__).parents[2]
TASKS = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c")]
NAMES = [
    "cz-ring",
    "dense-angle",
    "hardware-lean",
    "iqp",
    "paper",
    "re-uploading",
    "shared-register",
]


@dataclass(frozen=True)
class Fixed:
    """A user's encoding: RX by a scaled feature, and a field of nested tuples."""

    scale: float = 0.5
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    label: str | None = None

    def n_features(self, n_wires: int) -> int:
        return n_wires

    def n_weights(self, n_wires: int) -> int:
        return 0

    def gates(self, n_wires: int) -> list[Gate]:
        gates = [Gate("RX", (i,), Angle((i,), constant=self.scale)) for i in range(n_wires)]
        return gates + [Gate("CZ", pair) for pair in self.pairs]


def roundtrip(circuit, custom=None):
    text = json.dumps(circuit.to_dict(), allow_nan=False)
    return circuit_from_dict(json.loads(text), custom=custom or {})


def error(call, *args, **kwargs):
    with pytest.raises(InvalidInputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


encodings = st.one_of(
    st.builds(
        AngleEncoding,
        n_layers=st.integers(1, 3),
        axes=st.sampled_from(["Y", "YZ", "XYZ"]),
        features_per_wire=st.sampled_from([None, 1]),
        trainable=st.sampled_from(["", "Z", "ZY"]),
        entangler=st.sampled_from(["cz_ring", "cz_line", "none", "cnot_ring"]),
    ),
    st.builds(IQPEncoding, n_layers=st.integers(1, 2)),
)
ansatze = st.one_of(
    st.builds(RotationAnsatz, n_layers=st.integers(1, 3)),
    st.builds(RealAmplitudes, entangler=st.sampled_from(["cz_line", "cnot_line"])),
    st.just(IdentityAnsatz()),
)


@given(encodings, ansatze, ansatze, st.sampled_from(["partitioned", "shared"]), st.integers(3, 5))
def test_roundtrip(encoding, first, second, layout, size):
    tasks = [*TASKS, Task.multilabel("type", 2, class_names=("p", "q"), class_weights=(1, 2))]
    wires = {"wires_per_task": {"a": size}} if layout == "partitioned" else {"n_wires": size}
    readouts = {"a": PauliStrings(("Z" * size,)), "type": Probabilities(2), "c": ExpectationZ(1)}
    blocks = {"a": first, "type": second}
    circuit = HeadCircuit(tasks, encoding, blocks, layout=layout, readouts=readouts, **wires)
    again = roundtrip(circuit)
    assert again == circuit
    assert [str(g) for g in again.gates("type")] == [str(g) for g in circuit.gates("type")]


def test_equal_blocks_are_written_once():
    description = HeadCircuit(TASKS).to_dict()
    assert description["ansatz"]["type"] == "RotationAnsatz"
    different = HeadCircuit(TASKS, ansatz={"a": IdentityAnsatz()}).to_dict()
    assert "ansatz" not in different
    assert different["ansatz_per_task"]["a"] == {"type": "IdentityAnsatz", "turned": False}


def test_a_task_named_type_is_no_class():
    circuit = HeadCircuit([Task.binary("type"), TASKS[0]], ansatz={"type": IdentityAnsatz()})
    assert roundtrip(circuit) == circuit


def test_custom_classes_are_read_only_if_given():
    circuit = HeadCircuit([TASKS[0]], Fixed(scale=2.0, pairs=((1, 0),), label=None))
    assert roundtrip(circuit, {"Fixed": Fixed}) == circuit
    assert "unknown encoding type 'Fixed'" in error(circuit_from_dict, circuit.to_dict())
    assert "rename yours" in error(roundtrip, HeadCircuit(TASKS), {"AngleEncoding": Fixed})
    data = circuit.to_dict()
    data["encoding"]["scale"] = "1"
    assert "scale must be float, got '1'" in error(circuit_from_dict, data, custom={"Fixed": Fixed})


def test_what_cannot_be_written():
    class Plain(Fixed):
        pass

    namesake = dataclass(frozen=True)(type("AngleEncoding", (Fixed,), {}))
    undeclared = type(
        "Odd", (), {k: getattr(Fixed, k) for k in ("n_features", "n_weights", "gates")}
    )
    for encoding, expected in [
        (Fixed(scale=float("nan")), "Fixed.scale cannot be written"),
        (Fixed(label=object()), "Fixed.label cannot be written"),
        (namesake(), "qmtl has a class of that name"),
        (undeclared(), "must be a (frozen) dataclass"),
    ]:
        circuit = HeadCircuit.__new__(HeadCircuit)
        circuit.__dict__ = HeadCircuit(TASKS).__dict__ | {"encoding": encoding}
        assert expected in error(circuit.to_dict)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("version",), 2, "version 1 was expected, got 2"),
        (("layout",), "sharde", "did you mean 'shared'"),
        (("encodign",), {}, "did you mean 'encoding'"),
        (("tasks",), "a", "tasks must be a list"),
        (("tasks",), [], "at least one Task"),
        (("encoding",), [], "expected a table"),
        (("encoding", "type"), "AngelEncoding", "did you mean 'AngleEncoding'"),
        (("encoding", "type"), "RotationAnsatz", "unknown encoding type"),
        (("encoding", "type"), ["AngleEncoding"], "unknown encoding type"),
        (("encoding", "n_layer"), 1, "did you mean 'n_layers'"),
        (("encoding", "n_layers"), "2", "n_layers must be int, got '2'"),
        (("encoding", "n_layers"), True, "n_layers must be int, got True"),
        (("encoding", "n_layers"), 0, "n_layers must be an integer >= 1, got 0"),
        (("encoding", "features_per_wire"), 1.5, "features_per_wire must be int | None"),
        (("encoding", "axes"), 3, "axes must be str, got 3"),
        (("readouts", "d"), {}, "unknown key in circuit: readouts"),
        (("readouts", "a"), {"type": "Probabilities"}, "n"),
        (("readouts", "b", "n"), 4, "has 3 outputs"),
        (("wires_per_task", "a"), "2", "wires must be an integer"),
        (("wires_per_task", "a"), 0, "wires must be an integer >= 1"),
    ],
)
def test_errors_of_circuit_descriptions(path, value, expected):
    data = json.loads(json.dumps(HeadCircuit(TASKS).to_dict()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert expected in error(circuit_from_dict, data)


def test_every_key_is_needed():
    data = HeadCircuit(TASKS).to_dict()
    for key in data:
        assert "missing" in error(circuit_from_dict, {k: v for k, v in data.items() if k != key})
    for what in (None, [], "text"):
        assert "expected a table" in error(circuit_from_dict, what)
    shared = HeadCircuit(TASKS, layout="shared").to_dict()
    assert "n_wires must be an integer" in error(circuit_from_dict, shared | {"n_wires": None})
    assert "n_wires" in error(circuit_from_dict, data | {"n_wires": 4})


def test_names():
    assert list_designs() == NAMES
    assert [load_design(name).name for name in NAMES] == NAMES
    assert "did you mean 'cz-ring'" in error(load_design, "cz-rng")
    assert HeadCircuit.load("cz-ring", TASKS) == HeadCircuit(TASKS)


def test_installed_designs_come_first(monkeypatch, tmp_path):
    (tmp_path / "circuits").mkdir()
    text = to_toml(load_design("iqp")).replace('"iqp"', '"mine"')
    (tmp_path / "circuits" / "mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("qmtl._io.files", lambda package: tmp_path)
    assert list_designs() == ["mine"]
    assert load_design("mine").encoding == IQPEncoding()


@pytest.mark.parametrize("name", NAMES)
def test_toml_roundtrip(name, tmp_path):
    design = load_design(name)
    text = to_toml(design)
    assert design_from_toml(text) == design
    assert to_toml(design_from_toml(text)) == text
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    assert load_design(str(file)) == load_design(file) == design_from_toml(file) == design
    assert roundtrip(design.circuit(TASKS)) == design.circuit(TASKS)


def test_toml_of_any_text_and_of_a_users_encoding():
    design = Design('q"\\\n', "Umlaut ü 𝜓 \x7f", "partitioned", Fixed(), RotationAnsatz(), 3)
    assert design_from_toml(to_toml(design), custom={"Fixed": Fixed}) == design


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("layout", "layuot", "did you mean 'layout'"),
        ('"partitioned"', '"partitionde"', "layout must be"),
        ('"partitioned"', '"partitioned"\nwires_per_task = "two"', "wires_per_task must be int"),
        ('"partitioned"', '"partitioned"\nn_wires = 4', "n_wires is for the shared layout"),
        ('"partitioned"', '"shared"\nwires_per_task = 2', "the shared layout takes n_wires"),
        ("n_layers = 2", 'n_layers = "2"', "n_layers must be int, got '2'"),
        ("n_layers = 2", "n_lawyers = 2", "did you mean 'n_layers'"),
        ('"cz_ring"', '"cz_rng"', "did you mean 'cz_ring'"),
        ("[encoding]", "[encodings]", "did you mean 'encoding'"),
        ("[encoding]", "[encoding", "not valid TOML"),
        ('name = "cz-ring"', "name = 3", "name must be str, got 3"),
        ('name = "cz-ring"', "", "'name' is missing"),
    ],
)
def test_errors_of_design_files(old, new, expected, tmp_path):
    text = to_toml(load_design("cz-ring"))
    assert old in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    message = error(load_design, file)
    assert expected in message
    assert "mine" in message or "design" in message


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'name = "\xfc"')
    (tmp_path / "folder.toml").mkdir()
    for name in ("none.toml", "latin.toml", "folder.toml"):
        assert "cannot be read as a design" in error(load_design, str(tmp_path / name))


def jacobian(circuit: HeadCircuit, samples: int = 16) -> torch.Tensor:
    """Outputs over many random inputs with respect to all circuit weights at a random point."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"encoding": circuit.n_encoding_weights}
    sizes |= {name: circuit.n_weights(name) for name in circuit.registers}
    weights = torch.randn(sum(sizes.values()), generator=generator, dtype=torch.float64)
    shape = (samples, circuit.n_features)
    angles = 6 * torch.rand(shape, generator=generator, dtype=torch.float64) - 3
    simulator = LightConeSimulator()

    def outputs(flat):
        parts = dict(zip(sizes, flat.split(list(sizes.values())), strict=True))
        values = simulator.expectation_values(circuit, angles, parts)
        return torch.cat([values[name] for name in circuit.registers], dim=1).flatten()

    return torch.autograd.functional.jacobian(outputs, weights)


@pytest.mark.parametrize("tasks", [TASKS, TASKS[:1], TASKS[::-1]], ids=["abc", "a", "cba"])
@pytest.mark.parametrize("name", NAMES)
def test_full_rank_and_no_dead_weight(name, tasks):
    circuit = load_design(name).circuit(tasks)
    matrix = jacobian(circuit)
    singular = torch.linalg.svdvals(matrix)
    rank = int((singular > 1e-9 * singular[0]).sum())
    count = circuit.count_parameters().circuit
    print(f"\n{name:16} {len(tasks)} tasks: rank {rank} of {count} weights", end="")
    assert matrix.abs().amax(dim=0).min() > 1e-4
    assert rank == count == matrix.shape[1]


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 4])
def test_default_has_eight_weights_per_binary_task(n_tasks):
    circuit = load_design("cz-ring").circuit([Task.binary(f"t{i}") for i in range(n_tasks)])
    assert torch.linalg.matrix_rank(jacobian(circuit)) == 8 * n_tasks
    assert circuit.count_parameters().circuit == 8 * n_tasks


def test_generated_files_are_up_to_date(tmp_path):
    """The .qasm files are as the installed Qiskit writes them: regenerate them when it moves."""
    pytest.importorskip("qiskit")
    runpy.run_path(str(ROOT / "scripts" / "regenerate_circuits"))["main"](tmp_path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    kept = {f.name: f.read_bytes() for f in (ROOT / "circuits").iterdir() if f.suffix != ".toml"}
    assert sorted(written) == sorted(kept)
    differing = [name for name in written if written[name] != kept[name]]
    assert not differing, f"run scripts/regenerate_circuits and review: {differing}"
