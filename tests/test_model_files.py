"""MultiTaskModel: saving and loading, crashes, damaged files."""

import json
import os
import shutil
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

import qmtl
from qmtl.circuit import Angle, Gate, HeadCircuit
from qmtl.encoders import MLP, Identity
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.heads import LinearHead, LocalLinearHead, QuantumHead
from qmtl.model import MultiTaskModel, load
from qmtl.tasks import Task
from tests.model_samples import CIRCUIT, ENCODERS, HEADS, WIDTH, inputs_of, make_model


def assert_same_outputs(model, other, inputs):
    logits, again = model.eval()(inputs), other.eval()(inputs)
    assert list(logits) == list(again)
    for name in logits:
        assert logits[name].dtype == again[name].dtype
        assert torch.equal(logits[name], again[name])
    predictions, repeated = model.predict(inputs), other.predict(inputs)
    assert all(torch.equal(predictions[name], repeated[name]) for name in predictions)


@pytest.fixture
def saved(tmp_path):
    make_model().save(tmp_path / "model")
    return tmp_path / "model"


def change(folder, edit):
    path = folder / "model.json"
    description = json.loads(path.read_text())
    edit(description)
    path.write_text(json.dumps(description))


def assert_refused(folder, message, **options):
    with pytest.raises(ModelFileError) as caught:
        load(folder, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Doubled:
    """An encoding of your own."""

    def n_features(self, n_wires):
        return 2 * n_wires

    def n_weights(self, n_wires):
        return 0

    def gates(self, n_wires):
        turns = [[Gate(f"R{axis}", (i,), Angle(features=(2 * i + j,))) for i in range(n_wires)]
                 for j, axis in enumerate("YX")]  # fmt: skip
        return turns[0] + turns[1]


@dataclass(frozen=True)
class Turned:
    """A block of your own, with a setting."""

    turn: float

    def n_weights(self, n_wires, read):
        return n_wires

    def gates(self, n_wires, read):
        return [Gate("RY", (i,), Angle(weight=i, constant=self.turn)) for i in range(n_wires)]


class Square(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.factor = width, nn.Parameter(torch.randn(width))

    def forward(self, inputs):
        return self.factor * inputs**2

    def to_dict(self):
        return {"type": "Square", "width": self.width}

    @classmethod
    def from_dict(cls, description):
        return cls(description["width"])


class Loud(QuantumHead):
    """A head of your own."""

    def _joined(self, features, names):
        return 2 * super()._joined(features, names)


class TestSaveAndLoad:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("encoder", ENCODERS)
    @pytest.mark.parametrize("head", HEADS)
    def test_bit_for_bit(self, tmp_path, encoder, head, dtype):
        model = make_model(encoder, head).to(dtype)
        model.save(str(tmp_path / "a" / "b"))
        again = load(str(tmp_path / "a" / "b"))
        for key, value in model.state_dict().items():
            assert again.state_dict()[key].dtype == dtype
            assert torch.equal(again.state_dict()[key], value)
        assert_same_outputs(model, again, inputs_of(model).to(dtype))
        assert [p.requires_grad for p in again.parameters()] == [
            p.requires_grad for p in model.parameters()
        ]

    def test_options_are_kept(self, tmp_path):
        head = QuantumHead(CIRCUIT, "default.qubit", angle_map="identity", seed=0)
        MultiTaskModel(Identity(WIDTH), head).save(tmp_path)
        again = load(tmp_path).head
        assert (again.angle_map, again.simulator.device) == ("identity", "default.qubit")

    def test_again_over_the_same_folder(self, saved):
        model = make_model("identity", "local")
        model.save(saved)
        assert_same_outputs(model, load(saved), inputs_of(model))
        assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]

    def test_the_files_hold_no_pickle(self, saved):
        content = (saved / "model.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        assert set(header) == set(make_model().state_dict())
        assert json.loads((saved / "model.json").read_text())["qmtl"] == qmtl.__version__
        assert set(load_file(saved / "model.safetensors")) == set(header)
        for path in saved.iterdir():
            assert not path.read_bytes().startswith((b"\x80", b"PK"))

    def test_nothing_is_unpickled(self, saved, monkeypatch):
        import pickle

        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, None)
        assert isinstance(load(saved), MultiTaskModel)

    def test_custom_encoder(self, tmp_path):
        model = MultiTaskModel(nn.Linear(6, WIDTH), HEADS["quantum"]())
        with pytest.raises(
            InvalidInputError, match=r"the encoder Linear has no to_dict\(\), .* cannot be saved"
        ):
            model.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_custom_encoder_with_to_dict(self, tmp_path):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(WIDTH, WIDTH)
                self.second = nn.Linear(WIDTH, WIDTH)
                self.second.weight = self.first.weight
                self.first.bias.requires_grad_(False)
                self.in_features = WIDTH

            def forward(self, inputs):
                return self.second(self.first(inputs))

            def to_dict(self):
                return {"type": "Tied"}

        model = MultiTaskModel(Tied(), HEADS["quantum"]())
        model.save(tmp_path)
        assert_refused(tmp_path, "unknown encoder 'Tied'")
        encoder = Tied()
        again = load(tmp_path, encoder=encoder)
        assert again.encoder is encoder
        assert encoder.second.weight is encoder.first.weight
        assert not encoder.first.bias.requires_grad
        assert_same_outputs(model, again, inputs_of(model))

    def test_parts_of_ones_own(self, tmp_path):
        circuit = HeadCircuit([Task.binary("a")], Doubled(), Turned(0.25))
        model = MultiTaskModel(Square(4), Loud(circuit, seed=0))
        model.save(tmp_path)
        parts = [Doubled, Turned, Square, Loud]
        again = load(tmp_path, parts=parts)
        assert (type(again.encoder), type(again.head)) == (Square, Loud)
        assert again.head.circuit == circuit
        assert_same_outputs(model, again, torch.randn(3, 4))
        assert_same_outputs(
            model, MultiTaskModel.from_pretrained(tmp_path, parts=parts), torch.randn(3, 4)
        )
        for missing in parts:
            rest = [part for part in parts if part is not missing]
            with pytest.raises(ModelFileError) as caught:
                load(tmp_path, parts=rest)
            assert f"'{missing.__name__}'" in str(caught.value)
            assert "parts=[...]" in str(caught.value)

    def test_what_would_load_as_another_class_is_not_saved(self, tmp_path):
        class Deep(MLP):
            pass

        other = type("MLP", (Square,), {})
        for encoder, words in (
            (Deep(4, out_features=4), "the encoder Deep of .* described as type 'MLP'"),
            (other(4), "the encoder MLP of .* must not be one of qmtl's"),
        ):
            model = MultiTaskModel(encoder, LinearHead([Task.binary("a")], 4))
            with pytest.raises(InvalidInputError, match=words):
                model.save(tmp_path / "model")
        broken = Square(4)
        broken.to_dict = lambda: {"type": "Square", "width": torch.ones(1)}
        model = MultiTaskModel(broken, LinearHead([Task.binary("a")], 4))
        with pytest.raises(
            InvalidInputError, match=r"to_dict\(\) of the encoder Square is not valid JSON"
        ):
            model.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_a_crash_leaves_the_old_model(self, saved, monkeypatch):
        def crash(source, target):
            raise OSError("no space left")

        before = {path.name: path.read_bytes() for path in saved.iterdir()}
        monkeypatch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="no space left"):
            make_model("identity", "linear").save(saved)
        monkeypatch.undo()
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
        model = make_model()
        assert_same_outputs(model, load(saved), inputs_of(model))

    def test_a_crash_between_the_files_is_seen(self, saved, monkeypatch):
        replace = os.replace

        def crash(source, target):
            if str(target).endswith(".json"):
                raise OSError("killed")
            replace(source, target)

        monkeypatch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="killed"):
            MultiTaskModel(MLP(6, 8, out_features=WIDTH, seed=1), HEADS["quantum"]()).save(saved)
        monkeypatch.undo()
        assert_refused(saved, "was not saved together with model.json")


class TestDamage:
    @pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
    def test_missing(self, saved, name):
        (saved / name).unlink()
        assert_refused(saved, name)
        shutil.rmtree(saved)
        assert_refused(saved, f"{saved} is not a saved model: it has no model.json")
        make_model().save(saved / "model")
        assert_refused(saved, f"it has no model.json; the run's model is {saved / 'model'}")

    def test_a_file_instead_of_a_folder(self, saved):
        for name in ("model.json", "model.safetensors"):
            assert_refused(saved / name, f"{saved / name} is a file; give the folder that holds")

    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_cut_short(self, saved, keep):
        path = saved / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        assert_refused(saved, "model.safetensors is damaged or cut short")

    def test_a_flipped_bit(self, saved):
        path = saved / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        assert_refused(saved, "model.safetensors is damaged")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "cannot be read"),
            (b'{"format": "qmtl-mo', "cannot be read"),
            (b"\xff\xfe\x00", "cannot be read"),
            (b"[" * 100_000, "cannot be read"),
            (b"[]", "is not a qmtl model"),
            (b"null", "is not a qmtl model"),
            (b'{"model_type": "bert"}', "is not a qmtl model"),
            (b'{"format": "qmtl-model", "version": 99, "qmtl": "9.0"}',
             "format version 99 (written by qmtl 9.0); this qmtl reads version 1"),
            (b'{"format": "qmtl-model"}', "format version None"),
        ],
    )  # fmt: skip
    def test_json(self, saved, content, message):
        (saved / "model.json").write_bytes(content)
        assert_refused(saved, message)

    @pytest.mark.parametrize(
        "edit",
        [
            lambda d: d.pop("encoder"),
            lambda d: d.pop("head"),
            lambda d: d.update(encoder=None),
            lambda d: d.update(encoder=[]),
            lambda d: d.update(head="QuantumHead"),
            lambda d: d["encoder"].update(type="MPL"),
            lambda d: d["encoder"].update(type=["MLP"]),
            lambda d: d["encoder"].update(hidden=3),
            lambda d: d["encoder"].update(hidden=["8"]),
            lambda d: d["encoder"].update(dropout="a\nb"),
            lambda d: d["encoder"].update(in_features=10**15),
            lambda d: d["encoder"].pop("activation"),
            lambda d: d["head"].update(type="os.system"),
            lambda d: d["head"].update(angle_map="x"),
            lambda d: d["head"].update(circuit=None),
            lambda d: d["head"]["circuit"].update(tasks=3),
            lambda d: d["head"]["circuit"].update(tasks=["a"]),
            lambda d: d["head"]["circuit"]["tasks"][0].update(name="other"),
            lambda d: d["head"]["circuit"]["encoding"].update(n_layers=99, more=1),
            lambda d: d.pop("weights_sha256"),
        ],
    )
    def test_descriptions(self, saved, edit):
        change(saved, edit)
        assert_refused(saved, str(saved))

    @pytest.mark.parametrize(
        "edit",
        [
            lambda d: d["encoder"].update(hidden=[9]),
            lambda d: d["encoder"].update(hidden=[8, 8]),
            lambda d: d["encoder"].update(in_features=7),
            lambda d: d["head"]["circuit"]["encoding"].update(n_layers=3),
            lambda d: d.update(head=HEADS["linear"]().to_dict()),
        ],
    )
    def test_weights_that_do_not_fit(self, saved, edit):
        change(saved, edit)
        assert_refused(saved, "weights do not fit the model")

    @pytest.mark.parametrize("edit", ["missing", "more", "integers", "shape"])
    def test_other_weights(self, saved, edit):
        path = saved / "model.safetensors"
        state = load_file(path)
        if edit == "missing":
            del state["head.encoding"]
        elif edit == "more":
            state["head.more"] = torch.zeros(1)
        elif edit == "integers":
            state["head.encoding"] = state["head.encoding"].long()
        else:
            state["head.encoding"] = state["head.encoding"][:-1].clone()
        save_file(state, path)
        assert_refused(saved, "was not saved together")
        import hashlib

        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        change(saved, lambda d: d.update(weights_sha256=digest))
        assert_refused(saved, "weights do not fit the model")

    def test_local_columns(self, tmp_path):
        make_model("identity", "local").save(tmp_path)
        for columns in ([], {"keys": ["a"]}, None):
            change(tmp_path, lambda d, columns=columns: d["head"].update(columns=columns))
            assert_refused(tmp_path, "model.json: ")


@pytest.mark.parametrize("kind", ["quantum", "linear", "local"])
def test_names_with_dots(tmp_path, kind):
    names = ["y", "y.1", "y%2E1", "y_1", "rest_y", ".", "row", "a:b"]
    tasks = [Task.regression(name) for name in names]
    circuit = HeadCircuit(tasks)
    head = {
        "quantum": lambda: QuantumHead(circuit, seed=0),
        "linear": lambda: LinearHead(tasks, circuit.n_features, seed=0),
        "local": lambda: LocalLinearHead.on_cones(circuit, seed=0),
    }[kind]()
    model = MultiTaskModel(Identity(circuit.n_features), head)
    for i, name in enumerate(names):
        model.set_target_scale(name, torch.tensor(float(i)), torch.tensor(i + 1.0))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert_same_outputs(model, again, torch.randn(3, circuit.n_features))
    zeros = again.predictions({name: torch.zeros(1, 1) for name in names})
    assert [float(value) for value in zeros.values()] == list(range(len(names)))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").write_text("mine")
    for save in (make_model().save, make_model().save_pretrained):
        with pytest.raises(InvalidInputError, match=r"saved to a folder; .*taken is a file"):
            save(tmp_path / "taken")
        with pytest.raises(InvalidInputError, match="saved to a folder"):
            save(tmp_path / "taken" / "model")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("part", ["head", "head.blocks", "encoder.layers.0"])
def test_pruned_weights_are_refused_until_they_are_permanent(part, tmp_path):
    model = make_model()
    module = model.get_submodule(part)
    name, _ = next(module.named_parameters(recurse=False))
    prune.random_unstructured(module, name, amount=1)
    with pytest.raises(InvalidInputError, match="pruned or parametrised, and would not load"):
        model.save(tmp_path / "model")
    prune.remove(module, name)
    model.save(tmp_path / "model")
    assert_same_outputs(load(tmp_path / "model"), model, inputs_of(model))


def test_parametrised_heads_are_refused(tmp_path):
    model = make_model()
    register_parametrization(model.head, "encoding", nn.Tanh())
    with pytest.raises(InvalidInputError, match="are pruned or parametrised"):
        model.save(tmp_path / "model")


def test_a_part_that_torch_compile_wraps_says_how_to_compile_it(tmp_path):
    model = make_model()
    encoder = model.encoder
    model.encoder = torch.compile(encoder, backend="eager")
    with pytest.raises(InvalidInputError, match=r"compile it in place by model\.encoder\.compile"):
        model.save(tmp_path / "wrapped")
    model.encoder = encoder
    model.encoder.compile(backend="eager")
    model.save(tmp_path / "model")
    assert qmtl.load(tmp_path / "model").tasks == model.tasks
