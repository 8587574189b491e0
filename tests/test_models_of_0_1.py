"""Models that version 0.1 saved, one of each head: they load, predict the same, save the same keys.

The files were written by 0.1 (commit ff503b2): descriptions as in ``model.json``, and weights,
inputs and predictions by ``kind|weights|key`` and ``kind|predictions|task``.
"""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import qmtl
from qmtl.errors import ModelFileError
from qmtl.heads import HEAD_TYPES

HERE = Path(__file__).parent
DESCRIPTIONS = json.loads((HERE / "models_of_0_1.json").read_text())
SIDE_BY_SIDE = ("single-task", "single-task quantum")
KINDS = [kind for kind in DESCRIPTIONS if kind not in SIDE_BY_SIDE]
TENSORS = safetensors.torch.load_file(HERE / "models_of_0_1.safetensors")


def of_kind(kind, what):
    start = f"{kind}|{what}|"
    return {key.removeprefix(start): v for key, v in TENSORS.items() if key.startswith(start)}


def write(kind, folder):
    weights = safetensors.torch.save(of_kind(kind, "weights"))
    digest = hashlib.sha256(weights).hexdigest()
    (folder / "model.safetensors").write_bytes(weights)
    description = DESCRIPTIONS[kind] | {"weights_sha256": digest}
    (folder / "model.json").write_text(json.dumps(description))


def test_every_head_type_of_that_version_is_there():
    assert {"quantum", "linear", *KINDS} <= {*HEAD_TYPES}


@pytest.mark.parametrize("kind", SIDE_BY_SIDE)
def test_models_side_by_side_say_what_took_their_place(kind, tmp_path):
    write(kind, tmp_path)
    with pytest.raises(ModelFileError, match=r"train it on data\.subset\(\[task\]\)"):
        qmtl.load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_loads_predicts_and_saves_the_same(kind, tmp_path):
    write(kind, tmp_path)
    model = qmtl.load(tmp_path)
    predictions = model.predict(TENSORS["inputs"])
    assert predictions.keys() == of_kind(kind, "predictions").keys()
    for name, expected in of_kind(kind, "predictions").items():
        torch.testing.assert_close(predictions[name], expected, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "again")
    saved = safetensors.torch.load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == of_kind(kind, "weights").keys()
    for key, expected in of_kind(kind, "weights").items():
        assert torch.equal(saved[key], expected), key
