"""Modalities side by side, and feature files."""

import json
import pickle

import numpy as np
import pytest
import torch

from qmtl.data import join_modalities
from qmtl.data._files import features_by_id
from qmtl.errors import InvalidInputError

NAN = float("nan")


class TestJoin:
    def test_layout(self):
        text = np.array([[1.0, 2.0], [NAN, NAN], [3.0, 4.0]])
        audio = [None, [5.0, 6.0, 7.0], torch.tensor([8.0, 9.0, 10.0]).bfloat16().requires_grad_()]
        inputs, widths = join_modalities({"text": text, "audio": audio})
        assert widths == {"text": 2, "audio": 3}
        assert list(widths) == ["text", "audio"]
        assert inputs.dtype == torch.float32
        assert inputs.tolist() == [
            [1, 0, 1, 2, 0, 0, 0],
            [0, 1, 0, 0, 5, 6, 7],
            [1, 1, 3, 4, 8, 9, 10],
        ]
        assert np.isnan(text[1]).all(), "the caller's array is not touched"
        half = torch.tensor(text).bfloat16()
        assert torch.equal(join_modalities({"text": half, "audio": audio})[0], inputs)

    def test_a_present_row_of_zeros_is_present(self):
        assert join_modalities({"a": torch.zeros(1, 2)})[0].tolist() == [[1, 0, 0]]

    @pytest.mark.parametrize(
        ("modalities", "message"),
        [
            ({}, "expected a dict of name"),
            ([[1.0]], "expected a dict of name"),
            ({"a": [[1.0]], "b": [[1.0], [2.0]]}, r"numbers of rows differ: {'a': 1, 'b': 2}"),
            ({"a": [1.0, 2.0]}, "modality 'a': expected numbers"),
            ({"a": np.ones(3)}, r"modality 'a': expected shape \(N, width\), got \(3,\)"),
            ({"a": [[1.0], [1.0, 2.0]]}, r"vectors of one width, got the widths \[1, 2\]"),
            ({"a": [None, None]}, "got only missing rows"),
            ({"a": [[1.0, 2.0], [1.0, NAN]]}, "row 1 holds infinity, or NaN in some columns"),
            ({"a": [[np.inf]]}, "row 0 holds infinity"),
            ({"a": [[1.0], None], "b": [[1.0], None]}, "row 1 has none of a, b"),
            ({"a": [["x"]]}, "modality 'a': expected numbers"),
        ],
    )
    def test_errors(self, modalities, message):
        with pytest.raises(InvalidInputError, match=message):
            join_modalities(modalities)


class TestFeatureFiles:
    @pytest.fixture(params=["npz", "json", "pt"])
    def file(self, request, tmp_path):
        path = tmp_path / f"audio.{request.param}"
        features = {"1_60": [1.0, 2.0], "1_70": [[1.0, 2.0], [3.0, 6.0]], "1_60_c": [0.0, 0.0]}
        if request.param == "npz":
            np.savez(path, **features)
        elif request.param == "json":
            path.write_text(json.dumps(features))
        else:
            torch.save(
                {key: torch.tensor(value).bfloat16() for key, value in features.items()}, path
            )
        return path

    def test_by_id_with_missing_ones(self, file):
        values, missing = features_by_id(file, ["1_70", "1_80", "1_60"], "audio")
        assert missing == 1
        assert values.dtype == np.float32
        assert np.array_equal(values, [[2, 4], [NAN, NAN], [1, 2]], equal_nan=True)
        with pytest.raises(InvalidInputError, match="none of the 1 ids, such as '9'; it has"):
            features_by_id(file, ["9"], "audio")

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_nothing_is_unpickled(self, tmp_path):
        class Code:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        for name in ("a.p", "a.pkl", "a.npz", "a.pt"):
            (tmp_path / name).write_bytes(pickle.dumps({"1": Code()}))
            with pytest.raises(InvalidInputError, match=r"audio: .*"):
                features_by_id(tmp_path / name, ["1"], "audio")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"a": [1], "b": [1, 2]}', r"vectors of different widths: \[1, 2\]"),
            ('{"a": [1], "b": [NaN]}', r"'b': expected finite numbers \(d,\) or \(frames, d\)"),
            ('{"a": [], "b": []}', r"'a': expected finite numbers"),
            ('{"a": "x", "b": [1]}', "'a': expected numbers"),
            ("[1, 2]", "expected id → vector, got list"),
            ("{", "cannot be read"),
        ],
    )
    def test_errors(self, tmp_path, content, message):
        (tmp_path / "f.json").write_text(content)
        with pytest.raises(InvalidInputError, match=message):
            features_by_id(tmp_path / "f.json", ["a", "b"], "visual")

    def test_no_file(self, tmp_path):
        with pytest.raises(InvalidInputError, match=r"visual: there is no file .*v\.npz"):
            features_by_id(tmp_path / "v.npz", ["a"], "visual")
