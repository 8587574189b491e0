"""GLUE: the nine layouts with their quirks, real files, pairs, splits, and what is missing."""

import numpy as np
import pytest
import torch

from qmtl.data import embed_texts, glue, glue_rows, pair_features
from qmtl.data._glue import GLUE_TASKS
from qmtl.errors import InvalidInputError

# Rows and label counts (class 0, class 1, ...) of the real files; None: a score.
TRAIN = {"CoLA": (2528, 6023), "SST-2": (1747, 2253), "MRPC": (1194, 2473), "STS-B": 5749,
         "QQP": (2528, 1472), "MNLI": (1374, 1294, 1332), "QNLI": (2004, 1996),
         "RTE": (1241, 1249), "WNLI": (323, 312)}  # fmt: skip
DEV = {"CoLA": (322, 721), "SST-2": (428, 444), "MRPC": (129, 279), "STS-B": 1500,
       "QQP": (623, 377), "MNLI": (347, 333, 320), "QNLI": (2761, 2702), "RTE": (131, 146),
       "WNLI": (40, 31)}  # fmt: skip


def embed(texts):
    """Vectors that tell texts apart: length, words, and a hash of the characters."""
    return np.array([[len(t), t.count(" ") + 1, sum(map(ord, t)) % 97] for t in texts])


@pytest.fixture
def folder(tmp_path):
    """A small GLUE in the official layouts: 40 training and 10 development rows per task."""
    rows = {
        "CoLA": (None, "s{i}\t{b}\t{m}\tA \"quoted sentence {i}."),
        "SST-2": ("sentence\tlabel", "lower cased {i} \t{b}"),
        "MRPC": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                 "{b}\t{i}\t{i}\tHe said \" {i}\tShe \"\"said\"\" {i}"),
        "STS-B": ("index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\t"
                  "sentence2\tscore", "{i}\tg\tf\ty\t0\tnone\tnone\tone {i}\ttwo {i}\t{s:.3f}"),
        "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                "{i}\t\t\twhy {i}?\thow?\t{b}"),
        "MNLI": ("index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
                 "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
                 "{i}\t\t\t\t\t\t\t\tp {i}\th {i}\t{n}\t{n}"),
        "QNLI": ("index\tquestion\tsentence\tlabel", "{i}\tq {i}\ta {i}\t{e}"),
        "RTE": ("index\tsentence1\tsentence2\tlabel", "{i}\tt {i}\th {i}\t{e}"),
        "WNLI": ("index\tsentence1\tsentence2\tlabel", "{i}\tt {i}\th {i}\t{b}"),
    }  # fmt: skip
    for task, (header, row) in rows.items():
        (tmp_path / task).mkdir()
        for name, n in (("train.tsv", 40), (GLUE_TASKS[task].dev, 10)):
            lines = [] if header is None else [header]
            for i in range(n):
                lines.append(row.format(
                    i=i, b=i % 2, m="*" if i % 3 else "", s=i % 51 / 10,
                    n=("neutral", "entailment", "contradiction")[i % 3],
                    e=("entailment", "not_entailment")[i % 2]))  # fmt: skip
            # Without a newline at the end, as in CoLA's dev.tsv.
            (tmp_path / task / name).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


class TestRows:
    @pytest.mark.parametrize("task", GLUE_TASKS)
    def test_counts_and_labels_of_the_real_files(self, data_folder, task):
        for split, expected in (("train", TRAIN[task]), ("dev", DEV[task])):
            rows = glue_rows(data_folder / "glue", task, split)
            assert not rows.skipped
            assert [len(side) for side in rows.texts] == [len(rows)] * len(rows.texts)
            assert all(all(side) for side in rows.texts)
            assert np.array_equal(rows.index, np.arange(len(rows)))
            if task == "STS-B":
                assert len(rows) == expected
                assert rows.labels.mean() == pytest.approx(
                    2.701 if split == "train" else 2.364, abs=1e-3
                )
                assert (rows.labels.min(), rows.labels.max()) == (0.0, 5.0)
            else:
                assert tuple(np.bincount(rows.labels.astype(int))) == expected

    def test_real_texts(self, data_folder):
        def first(task):
            return [side[0] for side in glue_rows(data_folder / "glue", task).texts]

        assert first("CoLA") == [
            "Our friends won't buy this analysis, let alone the next one we propose."
        ]
        assert first("MRPC")[0].startswith('Amrozi accused his brother , whom he called " the w')
        assert first("STS-B") == ["A plane is taking off.", "An air plane is taking off."]
        assert first("MNLI")[0] == "yeah or working in the system"
        quoted = glue_rows(data_folder / "glue", "QQP").texts[1][1]
        assert quoted == '"""Marriage is an institution."" What does this mean?"'

    @pytest.mark.parametrize("task", GLUE_TASKS)
    def test_every_layout(self, folder, task):
        rows = glue_rows(folder, task)
        layout = GLUE_TASKS[task]
        assert len(rows) == 40
        assert len(rows.texts) == len(layout.texts)
        assert len(glue_rows(folder, task, "dev")) == 10
        if layout.words is not None:
            assert set(rows.labels) == set(map(float, range(len(layout.words))))

    def test_words_become_the_right_classes(self, folder):
        # Row 0 is entailment in RTE's file and neutral in MNLI's.
        assert GLUE_TASKS["RTE"].task.class_names[int(glue_rows(folder, "RTE").labels[0])] == (
            "entailment"
        )
        assert GLUE_TASKS["MNLI"].task.class_names[int(glue_rows(folder, "MNLI").labels[0])] == (
            "neutral"
        )

    def test_a_lone_carriage_return_stays_in_its_sentence(self, folder):
        path = folder / "SST-2" / "train.tsv"
        path.write_bytes("sentence\tlabel\r\none\rtwo\u2028three\t1\r\n".encode())
        assert glue_rows(folder, "SST-2").texts[0] == ["one\rtwo\u2028three"]

    def test_few_broken_rows_are_skipped_and_noted(self, folder):
        lines = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"]
        lines += [f"{i}\t\t\ta {i}\tb {i}\t{i % 2}" for i in range(2000)]
        lines[1001] = "1000\t\t\tbroken"
        (folder / "QQP" / "train.tsv").write_text("\n".join(lines))
        rows = glue_rows(folder, "QQP")
        assert rows.skipped == (1000,)
        assert len(rows) == 1999
        assert 1000 not in rows.index
        assert rows.index[1000] == 1001
        data = glue(folder, ["QQP", "RTE"], embed)
        assert data.notes == ("QQP/train.tsv: 1 broken rows left out, the first is row 1000",)
        lines[3:6] = ["broken"] * 3
        (folder / "QQP" / "train.tsv").write_text("\n".join(lines))
        with pytest.raises(InvalidInputError, match="4 of 2000 rows do not have 6 cells between"):
            glue_rows(folder, "QQP")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "unknown column 'sentence'"),
            ("index\tsentence\n0\ta", "unknown column 'label'"),
            ("sentence\tlabel\n", "there is no row"),
            ("sentence\tlabel\na\t2\n", "row 0, label 'label': expected 0 or 1, got '2'"),
            ("sentence\tlabel\na\t1\nb\t\n", "row 1, label 'label': expected 0 or 1, got ''"),
            ("sentence\tlabel\na 1\n", "1 of 1 rows do not have 2 cells"),
        ],
    )
    def test_errors(self, folder, text, message):
        (folder / "SST-2" / "train.tsv").write_text(text)
        with pytest.raises(InvalidInputError) as caught:
            glue_rows(folder, "SST-2")
        assert message in str(caught.value)
        assert "train.tsv" in str(caught.value)

    def test_other_errors(self, folder):
        with pytest.raises(InvalidInputError, match="unknown GLUE task 'cola'; did you mean 'CoLA"):
            glue_rows(folder, "cola")
        with pytest.raises(InvalidInputError, match="unknown split of GLUE: 'test'"):
            glue_rows(folder, "CoLA", "test")
        (folder / "RTE" / "train.tsv").write_bytes("index\tsentence1\té".encode("latin-1"))
        with pytest.raises(InvalidInputError, match="expected UTF-8 text"):
            glue_rows(folder, "RTE")
        path = folder / "STS-B" / "train.tsv"
        path.write_text(path.read_text().replace("\t0.100", "\t5.1"))
        with pytest.raises(InvalidInputError, match="row 1, label 'score': expected a number from"):
            glue_rows(folder, "STS-B")


class TestMissingFiles:
    def test_all_are_listed_at_once(self, folder):
        (folder / "RTE" / "dev.tsv").unlink()
        (folder / "MNLI" / "dev_matched.tsv").rename(folder / "MNLI" / "dev.tsv")
        (folder / "WNLI" / "train.tsv").unlink()
        with pytest.raises(InvalidInputError) as caught:
            glue(folder, embed=embed)
        assert "lacks 3 of 18 files: MNLI/dev_matched.tsv, RTE/dev.tsv, WNLI/train.tsv" in str(
            caught.value
        )
        assert "the GLUE benchmark's site" in str(caught.value)
        assert glue(folder, ["CoLA", "QQP"], embed).n_inputs == 12

    def test_no_folder(self, folder):
        with pytest.raises(InvalidInputError, match=r"GLUE: there is no folder .*nowhere"):
            glue(folder / "nowhere", embed=embed)
        with pytest.raises(InvalidInputError, match=r"train\.tsv is a file, not a folder"):
            glue(folder / "CoLA" / "train.tsv", ["CoLA"], embed)


class TestEmbeddings:
    def test_length_is_the_root_of_the_width_and_zero_stays_zero(self):
        vectors = embed_texts(["a", "b"], lambda texts: [[3.0, 4.0], [0.0, 0.0]])
        assert vectors.dtype == np.float32
        assert np.allclose(vectors, [[0.6 * 2**0.5, 0.8 * 2**0.5], [0, 0]])

    def test_each_text_is_embedded_once(self):
        calls = []

        def counting(texts):
            calls.append(list(texts))
            return torch.tensor([[float(len(t)), 1.0] for t in texts])

        vectors = embed_texts(["aa", "b", "aa"], counting)
        assert calls == [["aa", "b"]]
        assert np.array_equal(vectors[0], vectors[2])

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ("all-MiniLM", "expected a callable, list of texts"),
            (lambda texts: [1.0, 2.0], r"expected shape \(2, d\) for 2 texts, got \(2,\)"),
            (lambda texts: [[1.0]], r"expected shape \(2, d\) for 2 texts, got \(1, 1\)"),
            (lambda texts: [[1.0], [np.inf]], "NaN or infinity"),
            (lambda texts: [["x"], ["y"]], "expected an array of numbers"),
        ],
    )
    def test_errors(self, bad, message):
        with pytest.raises(InvalidInputError, match=message):
            embed_texts(["a", "b"], bad)

    def test_one_text_is_no_list_of_letters(self):
        with pytest.raises(InvalidInputError, match="texts must be a list of strings, got one str"):
            embed_texts("ab", lambda texts: [[1.0]] * len(texts))

    def test_vectors_of_a_model_in_bfloat16(self):
        vectors = embed_texts(["a"], lambda texts: torch.tensor([[3.0, 4.0]]).bfloat16())
        assert np.allclose(vectors, np.array([[3.0, 4.0]]) * 2**0.5 / 5)

    def test_pairs_are_symmetric_but_for_their_halves(self):
        u, v = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
        one, two = pair_features(u, v), pair_features(v, u)
        assert np.array_equal(one[:, :4], two[:, 4:8])
        assert np.array_equal(one[:, 8:], two[:, 8:])
        assert not pair_features(u)[:, 4:].any()
        with pytest.raises(InvalidInputError, match="two arrays of one shape"):
            pair_features(u, v[:, :3])


class TestData:
    def test_disjoint_with_the_official_dev_sets_as_test(self, folder):
        data = glue(folder, embed=embed)
        assert [task.name for task in data.tasks] == list(GLUE_TASKS)
        assert data.is_disjoint
        assert [len(split) for split in data.splits.values()] == [9 * 36, 9 * 4, 9 * 10]
        for split in data.splits.values():
            labels = sum(t.labelled(split.targets[t.name]).int() for t in data.tasks)
            assert (labels == 1).all()
        assert data.task("CoLA").main_metric == "matthews"
        assert data.task("STS-B").metric_names == ("spearman", "pearson")
        assert data.task("MRPC").metric_names == ("f1", "accuracy")

    def test_index_finds_the_row_again(self, folder):
        data = glue(folder, ["RTE", "CoLA"], embed)
        for name, task in (("train", "CoLA"), ("validation", "RTE"), ("test", "CoLA")):
            split = data.splits[name]
            rows = glue_rows(folder, task, "dev" if name == "test" else "train")
            mine = data.task(task).labelled(split.targets[task])
            at = split.index[mine].numpy()
            vectors = [embed_texts([side[i] for i in at], embed) for side in rows.texts]
            assert np.array_equal(split.inputs[mine].numpy(), pair_features(*vectors))
            assert np.array_equal(split.targets[task][mine].numpy(), rows.labels[at])

    def test_validation_is_stratified_and_follows_the_seed(self, data_folder):
        first, again, other = (
            glue(data_folder / "glue", ["CoLA", "MNLI"], embed, seed=seed) for seed in (0, 0, 1)
        )
        assert torch.equal(first.validation.index, again.validation.index)
        assert not torch.equal(first.validation.index, other.validation.index)
        assert torch.equal(first.test.index, other.test.index)
        cola = first.validation.targets["CoLA"]
        assert [int((cola == c).sum()) for c in (0, 1)] == [253, 602]
        mnli = first.validation.targets["MNLI"]
        assert [int((mnli == c).sum()) for c in (0, 1, 2)] == pytest.approx([137, 129, 133], abs=1)
        train, held_out = (
            set(split.index[split.targets["MNLI"] >= 0].tolist())
            for split in (first.train, first.validation)
        )
        assert not train & held_out
        assert len(train | held_out) == 4000

    def test_all_nine_real_tasks(self, data_folder):
        data = glue(data_folder / "glue", embed=embed)
        assert len(data.train) + len(data.validation) == 37092
        assert len(data.test) == 11634

    def test_max_rows(self, data_folder):
        one, two = (
            glue(data_folder / "glue", ["CoLA", "STS-B"], embed, seed=seed, max_rows=100,
                 max_test_rows=50)
            for seed in (0, 1)
        )  # fmt: skip
        assert [len(split) for split in one.splits.values()] == [180, 20, 100]
        assert torch.equal(one.test.index, two.test.index)
        assert not torch.equal(one.train.index, two.train.index)
        share = float(one.train.targets["CoLA"].nanmean())
        assert share == pytest.approx(6023 / 8551, abs=0.02)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tasks": "CoLA"}, "must be a sequence of names"),
            ({"tasks": ["Cola"]}, "unknown GLUE task 'Cola'; did you mean 'CoLA'"),
            ({"tasks": []}, "tasks must be at least 1"),
            ({"tasks": ["RTE", "RTE"]}, "tasks must be distinct"),
            ({"validation": 0}, "validation: expected the share of the training rows"),
            ({"validation": 0.999}, "leaves none to train on"),
            ({"seed": -1}, "seed: expected a whole number"),
            ({"max_rows": 1}, "max_rows: expected a whole number of at least 2"),
            ({"max_test_rows": 0.5}, "max_test_rows: expected a whole number of at least 1"),
        ],
    )
    def test_errors(self, folder, arguments, message):
        with pytest.raises(InvalidInputError, match=message):
            glue(folder, embed=embed, **arguments)
