"""MUStARD, Extended MUStARD and MUStARD++: real files, folds, modalities, and the messages."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from qmtl.data import mustard, mustard_utterances
from qmtl.data._mustard import authors_folds
from qmtl.errors import InvalidInputError

EXTENDED = {
    "sarcasm": [345, 345],
    "sentiment_implicit": [391, 89, 210],
    "sentiment_explicit": [246, 119, 325],
    "emotion_implicit": [87, 17, 12, 117, 28, 52, 141, 198, 38],
    "emotion_explicit": [47, 27, 5, 115, 34, 21, 203, 228, 10],
}


def embed(texts):
    return np.array([[len(t), t.count(" ") + 1, sum(map(ord, t)) % 97] for t in texts])


@pytest.fixture
def folder(data_folder):
    return data_folder / "mustard"


@pytest.fixture
def small(tmp_path):
    """MUStARD in small, in the layout of its repository: 40 entries, folds as a pickle."""
    data = tmp_path / "data"
    data.mkdir()
    entries = {
        f"1_{i}": {
            "utterance": f"line {i}",
            "speaker": "A",
            "context": [] if i % 4 == 0 else [f"before {i}", "yes"],
            "context_speakers": [] if i % 4 == 0 else ["A", "B"],
            "show": "FRIENDS" if i >= 30 else "BBT",
            "sarcasm": i % 2 == 0,
        }
        for i in range(40)
    }
    (data / "sarcasm_data.json").write_text(json.dumps(entries))
    header = "id,sarcasm,sentiment_implicit,sentiment_explicit,emotion_implicit,emotion_explicit"
    lines = [f"1_{i},{1 - i % 2},{i % 3 - 1},{i % 3 - 1},{i % 9 + 1},9" for i in range(40)]
    # In another order than the JSON's: rows are found by id.
    (data / "se_mustard_utterances.csv").write_text("\n".join([header, *lines[::-1]]) + "\n")
    tests = np.arange(40).reshape(8, 5).T
    folds = [(np.setdiff1d(np.arange(40), test), test) for test in tests]
    (data / "split_indices.p").write_bytes(pickle.dumps(folds, protocol=2))
    return tmp_path


def counts(labels):
    return np.unique(np.asarray(labels), return_counts=True)[1].tolist()


class TestRealLabels:
    def test_extended(self, folder):
        utterances = mustard_utterances(folder)
        assert len(utterances) == 690
        assert {name: counts(labels) for name, labels in utterances.labels.items()} == EXTENDED
        first = utterances.labels
        # The sheet: 1_60 is sarcastic, -1, 1, 9, 2.
        assert [first[name][0] for name in EXTENDED] == [1, 0, 2, 8, 1]
        assert utterances.texts[0] == "It's just a privilege to watch your mind at work."
        assert utterances.contexts[0][1] == "SHELDON: My apologies. What's your plan?"
        assert sum(map(len, utterances.contexts)) == 2261
        # As found: a few texts have the apostrophe of another encoding.
        assert utterances.texts[utterances.ids.index("2_115")].startswith("I am sorry, we donÕt")

    def test_sarcasm_only(self, folder):
        utterances = mustard_utterances(folder, "sarcasm")
        assert [task.name for task in utterances.tasks] == ["sarcasm"]
        assert counts(utterances.labels["sarcasm"]) == [345, 345]

    def test_plus_plus(self, folder):
        utterances = mustard_utterances(folder, "plus_plus")
        assert len(utterances) == len(set(utterances.ids)) == 1202
        assert sum(map(len, utterances.contexts)) == 4839
        tasks = {task.name: task for task in utterances.tasks}
        labels = utterances.labels
        assert counts(labels["sarcasm"]) == [601, 601]
        assert tasks["sarcasm_type"].class_names == ("NONE", "PRO", "ILL", "EMB", "LIK")
        assert counts(labels["sarcasm_type"]) == [601, 333, 178, 87, 3]
        assert tasks["emotion_implicit"].class_names[9] == "Ridicule"
        assert counts(labels["emotion_implicit"])[9] == 226
        assert (tasks["emotion_implicit"].n_outputs, tasks["emotion_explicit"].n_outputs) == (10, 9)
        assert counts(labels["valence"]) == [1, 82, 384, 380, 172, 127, 52, 4]
        # One utterance has an emotion where its key should be.
        odd = utterances.ids.index("1_S11E03_067")
        assert utterances.texts[odd] == "I'm not setting her up with Raj."
        # Line breaks inside quotes stay in their texts.
        assert (
            utterances.contexts[0][2] == "PERSON: His name is Ron.\nI met him at my prayer group."
        )
        assert sum("\n" in line for lines in utterances.contexts for line in lines) == 148
        assert utterances.index[:2] == [5, 14]


class TestSplits:
    def test_the_authors_folds(self, folder):
        folds = authors_folds(folder, 690)
        given = json.loads((folder / "split_indices.json").read_text())
        assert [(len(train), len(test)) for train, test in folds] == [(552, 138)] * 5
        tests = []
        for number in range(5):
            data = mustard(folder, split=f"fold {number}", embed=embed)
            test = given["speaker_dependent_folds"][number]["test"]
            assert data.test.index.tolist() == sorted(test)
            both = torch.cat([data.train.index, data.validation.index]).sort().values
            assert both.tolist() == sorted(given["speaker_dependent_folds"][number]["train"])
            tests += data.test.index.tolist()
        assert sorted(tests) == list(range(690))

    def test_speaker_independent(self, folder):
        data = mustard(folder, split="speaker-independent", embed=embed)
        given = json.loads((folder / "split_indices.json").read_text())["speaker_independent"]
        assert data.test.index.tolist() == sorted(given["test"])
        assert len(data.train) + len(data.validation) == 334

    def test_validation_follows_the_seed_and_is_stratified(self, folder):
        one, two = (mustard(folder, embed=embed, seed=seed) for seed in (0, 1))
        assert not torch.equal(one.validation.index, two.validation.index)
        assert torch.equal(one.test.index, two.test.index)
        assert [len(split) for split in one.splits.values()] == [469, 83, 138]
        share = float(one.validation.targets["sarcasm"].mean())
        assert share == pytest.approx(271 / 552, abs=1 / 83)

    def test_fractions(self, folder):
        data = mustard(folder, "plus_plus", embed=embed)
        assert [len(split) for split in data.splits.values()] == [842, 180, 180]
        for split in data.splits.values():
            assert float(split.targets["sarcasm"].mean()) == pytest.approx(0.5, abs=0.01)
            assert (split.targets["sarcasm_type"] == 3).any()
        again = mustard(folder, "plus_plus", embed=embed, split=(0.5, 0.25, 0.25), seed=1)
        assert [len(split) for split in again.splits.values()] == [602, 300, 300]
        friends = mustard(folder, "plus_plus", embed=embed, split="speaker-independent")
        assert len(friends.test) == 354

    def test_a_pickle_of_arrays_and_of_nothing_else(self, small):
        data = mustard(small, split="fold 1", embed=embed)
        assert data.test.index.tolist() == [1, 6, 11, 16, 21, 26, 31, 36]

        class Code:
            def __reduce__(self):
                return (open, (str(small / "ran"), "w"))

        (small / "data" / "split_indices.p").write_bytes(pickle.dumps([Code()]))
        with pytest.raises(InvalidInputError, match="not only arrays"):
            mustard(small, embed=embed)
        assert not (small / "ran").exists()

    @pytest.mark.parametrize(
        ("folds", "message"),
        [
            ([{"train": [0, 1], "test": [2]}], "a fold is not a partition of the 40"),
            ([{"train": list(range(39)), "test": [39]}], "the test parts of its 1 folds are no"),
            ([{"train": list(range(39)), "test": [39.5]}], "expected pairs of row numbers"),
            ([{"train": [0]}], "expected speaker_dependent_folds"),
            ([], "the test parts of its 0 folds"),
        ],
    )
    def test_bad_folds(self, small, folds, message):
        file = small / "data" / "split_indices.json"
        file.write_text(json.dumps({"speaker_dependent_folds": folds}))
        with pytest.raises(InvalidInputError, match=message):
            mustard(small, embed=embed)


class TestModalities:
    def test_text_alone_is_plain(self, small):
        data = mustard(small, embed=embed)
        assert data.n_inputs == 3
        assert data.modalities is None
        assert data.notes == ()

    def test_context_audio_and_visual(self, small):
        random = np.random.default_rng(0)
        audio = {f"1_{i}": random.normal(1e4, 50, size=4) for i in range(40) if i % 5}
        np.savez(small / "audio.npz", **audio)
        torch.save({f"1_{i}": torch.full((2, 2), float(i)) for i in range(40)}, small / "v.pt")
        data = mustard(small, embed=embed, context=True, audio=small / "audio.npz",
                       visual=small / "v.pt", split="fold 3")  # fmt: skip
        assert data.modalities == {"text": 3, "context": 3, "audio": 4, "visual": 2}
        assert data.n_inputs == 4 + 3 + 3 + 4 + 2
        assert data.notes == ("audio: 8 of 40 utterances have no features",)
        for split in data.splits.values():
            flags = split.inputs[:, :4]
            assert flags[:, 0].all()
            assert flags[:, 3].all()
            assert torch.equal(flags[:, 1] == 1, split.index % 4 != 0)
            assert torch.equal(flags[:, 2] == 1, split.index % 5 != 0)
            assert not split.inputs[flags[:, 1] == 0, 7:10].any()
            assert not split.inputs[flags[:, 2] == 0, 10:14].any()
        there = data.train.inputs[data.train.inputs[:, 2] == 1, 10:14]
        assert torch.allclose(there.mean(dim=0), torch.zeros(4), atol=1e-4)
        assert torch.allclose(there.std(dim=0, correction=0), torch.ones(4), atol=1e-4)

    def test_one_call_embeds_everything(self, small):
        calls = []
        mustard(small, embed=lambda texts: calls.append(texts) or embed(texts), context=True)
        assert len(calls) == 1
        assert "A: before 1\nB: yes" in calls[0]

    def test_no_features_to_learn_from(self, small):
        test = mustard(small, embed=embed).test.index.tolist()
        np.savez(small / "a.npz", **{f"1_{i}": [1.0] for i in test})
        with pytest.raises(InvalidInputError, match="audio: no utterance of the train split has"):
            mustard(small, embed=embed, audio=small / "a.npz")


class TestErrors:
    def test_missing_files_are_all_listed(self, tmp_path):
        with pytest.raises(InvalidInputError) as caught:
            mustard(tmp_path, embed=embed)
        message = str(caught.value)
        assert "lacks 2 of 2 files: sarcasm_data.json or data/sarcasm_data.json, se_mus" in message
        assert "the MUStARD repository" in message
        with pytest.raises(
            InvalidInputError, match=r"mustard_pp\.csv or .* MUStARD\+\+ repository"
        ):
            mustard(tmp_path, "plus_plus", embed=embed)
        with pytest.raises(InvalidInputError, match="there is no folder"):
            mustard(tmp_path / "no", embed=embed)

    def test_no_folds(self, small):
        (small / "data" / "split_indices.p").unlink()
        with pytest.raises(InvalidInputError, match=r"MUStARD's folds: .* lacks 1 of 1 files"):
            mustard(small, embed=embed)
        assert len(mustard(small, embed=embed, split="speaker-independent").test) == 10

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"labels": "extnded"}, "unknown labels of MUStARD 'extnded'; did you mean 'extended'"),
            ({"split": "fold 5"}, "unknown split of MUStARD 'fold 5'"),
            ({"split": (0.5, 0.5)}, "expected three fractions"),
            ({"tasks": ["sentiment"]}, "unknown task of these labels 'sentiment'; did you mean"),
            ({"tasks": "sarcasm"}, "tasks must be a sequence of names"),
            ({"validation": 1}, "validation: expected the share"),
            ({"seed": True}, "seed: expected"),
        ],
    )
    def test_arguments(self, small, arguments, message):
        with pytest.raises(InvalidInputError, match=message):
            mustard(small, embed=embed, **arguments)

    def test_plus_plus_has_no_folds(self, folder):
        with pytest.raises(InvalidInputError, match=r"MUStARD\+\+ has no published folds"):
            mustard(folder, "plus_plus", embed=embed, split="fold 0")

    def test_chosen_tasks(self, small):
        data = mustard(small, tasks=["emotion_implicit", "sarcasm"], embed=embed)
        assert [task.name for task in data.tasks] == ["emotion_implicit", "sarcasm"]
        assert data.tasks[0].metric_names == ("weighted_f1", "macro_f1", "accuracy")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("1_7,", "1_99,", "its ids are not those of sarcasm_data.json; 2 differ: 1_7, 1_99"),
            ("1_7,0", "1_7,1", "sarcasm is not that of sarcasm_data.json for 1 ids, such as '1_7'"),
            (
                "1_7,0,0",
                "1_7,0,-2",
                "column 'sentiment_implicit': expected one of -1, 0, 1, got '-",
            ),
            ("1_7,0,0", "1_7,0,", "column 'sentiment_implicit': expected one of -1, 0, 1, got ''"),
            ("emotion_implicit", "emotion", "unknown column 'emotion_implicit'"),
        ],
    )
    def test_bad_sheet(self, small, old, new, message):
        file = small / "data" / "se_mustard_utterances.csv"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(InvalidInputError) as caught:
            mustard(small, embed=embed)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "expected JSON"),
            ("[]", "expected a dict of id"),
            ('{"1": {"utterance": "a"}}', "entry '1': expected str show"),
            ('{"1": 3}', "entry '1': expected str utterance"),
        ],
    )
    def test_bad_json(self, small, content, message):
        (small / "data" / "sarcasm_data.json").write_text(content)
        with pytest.raises(InvalidInputError, match=message):
            mustard(small, "sarcasm", embed=embed)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (",NONE,Anger,", ",none,Anger,", "column 'Sarcasm_Type': expected one of NONE, PRO"),
            (
                "Anger,Anger,2,7",
                "Anger,Anger,0,7",
                "'Valence': expected a whole number from 1 to 9",
            ),
            ("Implicit_Emotion", "Implicit", "unknown column 'Implicit_Emotion'; did you mean"),
        ],
    )
    def test_bad_plus_plus(self, folder, tmp_path, old, new, message):
        shutil.copy(folder / "mustard_pp.csv", tmp_path / "mustard++_text.csv")
        file = tmp_path / "mustard++_text.csv"
        file.chmod(0o644)
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(InvalidInputError) as caught:
            mustard(tmp_path, "plus_plus", embed=embed)
        assert message in str(caught.value)
