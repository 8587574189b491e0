"""Chest X-rays: policies, patients, image files and .npz, the real files, and the messages."""

import numpy as np
import pytest
import torch
from PIL import Image

from qmtl.data import chestxray
from qmtl.data._chestxray import load_images, read_chestxray_labels
from qmtl.data._splits import patient_split
from qmtl.errors import InvalidInputError

NAN = float("nan")
HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Effusion"
# Of the real files, train, valid and test together.
NIH_POSITIVES = {"No Finding": 499, "Atelectasis": 95, "Cardiomegaly": 83, "Consolidation": 42,
                 "Edema": 31, "Effusion": 170, "Emphysema": 37, "Fibrosis": 32, "Hernia": 9,
                 "Infiltration": 162, "Mass": 35, "Nodule": 39, "Pleural_Thickening": 29,
                 "Pneumonia": 11, "Pneumothorax": 40}  # fmt: skip


def row(patient, study=1, view="Frontal", cells=("1.0", "0.0", ""), root="CheXpert-v1.0-small"):
    path = f"{root}/train/patient{patient:05d}/study{study}/view1_{view.lower()}.jpg"
    return ",".join([path, "Female", "68", view, "AP", *cells])


@pytest.fixture
def folder(tmp_path):
    """CheXpert in small: 30 patients, two studies each, as .jpg files under the folder's name."""
    root = tmp_path / "CheXpert-v1.0-small"
    lines = []
    for patient in range(30):
        for study in (1, 2):
            cells = [("1.0", "0.0", "-1.0", "")[(patient * k + study) % 4] for k in (1, 2, 3)]
            lines.append(row(patient, study, cells=cells))
            file = tmp_path / lines[-1].split(",")[0]
            file.parent.mkdir(parents=True)
            pixels = np.full((90, 120), 4 * patient + study, dtype=np.uint8)
            Image.fromarray(pixels).save(file, quality=95)
    (root / "train.csv").write_text("\n".join([HEADER, *lines[:50]]) + "\n")
    (root / "valid.csv").write_text("\n".join([HEADER, *lines[50:]]) + "\n")
    return root


def write(folder, *rows, header=HEADER, name="train.csv"):
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder


def patients(data, table):
    of_row = dict(zip(table.index.tolist(), table.patients, strict=True))
    return [{of_row[i] for i in split.index.tolist()} for split in data.splits.values()]


class TestLabels:
    @pytest.mark.parametrize(
        ("uncertain", "blank", "expected"),
        [
            ("ignore", "ignore", [1, 0, NAN, NAN]),
            ("zeros", "ignore", [1, 0, 0, NAN]),
            ("ones", "ignore", [1, 0, 1, NAN]),
            ("ignore", "zeros", [1, 0, NAN, 0]),
            ("ones", "zeros", [1, 0, 1, 0]),
        ],
    )
    def test_policies(self, tmp_path, uncertain, blank, expected):
        cells = [("1.0",) * 3, ("0",) * 3, ("-1.0",) * 3, ("",) * 3]
        write(tmp_path, *(row(i, cells=c) for i, c in enumerate(cells)))
        table = read_chestxray_labels(tmp_path, uncertain=uncertain, blank=blank)
        assert table.findings == ("No Finding", "Edema", "Effusion")
        for column in table.values.T:
            assert np.array_equal(column, expected, equal_nan=True)

    def test_a_policy_per_finding(self, tmp_path):
        write(tmp_path, row(1, cells=("-1", "-1", "-1")))
        table = read_chestxray_labels(tmp_path, uncertain={"Edema": "ones", "Effusion": "zeros"})
        assert np.array_equal(table.values, [[NAN, 1, 0]], equal_nan=True)
        with pytest.raises(InvalidInputError, match="unknown finding in uncertain: 'edema'; did"):
            read_chestxray_labels(tmp_path, uncertain={"edema": "ones"})

    def test_files_are_joined_and_rows_numbered_over_all(self, folder):
        table = read_chestxray_labels(folder)
        assert len(table) == 60
        assert np.array_equal(table.index, np.arange(60))
        assert table.patients[-1] == "29"
        assert len(read_chestxray_labels(folder, "valid.csv")) == 10
        assert list(read_chestxray_labels(folder, ["valid.csv", "train.csv"]).patients[:1]) == [
            "25"
        ]

    def test_views(self, tmp_path):
        write(tmp_path, row(1), row(1, view="Lateral"), row(2))
        assert read_chestxray_labels(tmp_path, views="lateral").index.tolist() == [1]
        assert read_chestxray_labels(tmp_path, views="frontal").index.tolist() == [0, 2]
        write(tmp_path, row(1))
        with pytest.raises(InvalidInputError, match="has no lateral image"):
            read_chestxray_labels(tmp_path, views="lateral")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([row(1, cells=("2", "0", ""))], "row 2, finding 'No Finding': expected 1, 0, -1 or b"),
            ([row(1), row(2, cells=("", "?", ""))], "row 3, finding 'Edema': expected 1, 0, -1"),
            ([row(1).replace("patient00001", "p1")], "row 2: expected a Path with a folder pat"),
            ([row(1), row(1)], "patient00001/study1/view1_frontal.jpg' twice"),
        ],
    )
    def test_bad_rows(self, tmp_path, rows, message):
        with pytest.raises(InvalidInputError) as caught:
            read_chestxray_labels(write(tmp_path, *rows))
        assert message in str(caught.value)

    def test_other_errors(self, folder, tmp_path):
        with pytest.raises(InvalidInputError, match=r"lacks 2 of 3 files: a\.csv, b\.csv; get the"):
            read_chestxray_labels(folder, ["a.csv", "train.csv", "b.csv"])
        with pytest.raises(InvalidInputError, match=r"lacks 1 of 1 files: train\.csv; get them from"
                           " Stanford's CheXpert page"):  # fmt: skip
            read_chestxray_labels(tmp_path)
        for name, value in (("uncertain", "one"), ("blank", "ones"), ("views", "front")):
            with pytest.raises(InvalidInputError, match=f"unknown .*{value}"):
                read_chestxray_labels(folder, **{name: value})
        with pytest.raises(InvalidInputError, match="unknown finding 'Edma'; did you mean 'Edema'"):
            read_chestxray_labels(folder, tasks=["Edma"])
        write(folder, row(1).rsplit(",", 1)[0], header=HEADER.rsplit(",", 1)[0], name="valid.csv")
        with pytest.raises(InvalidInputError, match=r"columns are not those of train\.csv: Effusi"):
            read_chestxray_labels(folder)
        write(tmp_path, "a,1", header="Image,Edema", name="train.csv")
        with pytest.raises(InvalidInputError, match=r"Age, Frontal/Lateral, .* missing: Path$"):
            read_chestxray_labels(tmp_path)


class TestPatientSplit:
    def test_no_patient_twice_and_rare_labels_everywhere(self):
        random = np.random.default_rng(0)
        patients = random.integers(0, 100, size=400)
        rare = np.isin(patients, [3, 14, 15, 92, 65])
        labels = np.stack([rare, random.random(400) < 0.4], axis=1)
        for seed in range(5):
            parts = patient_split(patients, labels, (0.6, 0.2, 0.2), seed)
            sides = [set(patients[part].tolist()) for part in parts]
            assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
            assert sorted(torch.cat(parts).tolist()) == list(range(400))
            n = len(np.unique(patients))
            assert [len(side) for side in sides] == pytest.approx(
                [0.6 * n, 0.2 * n, 0.2 * n], abs=1
            )
            assert [len(side & {3, 14, 15, 92, 65}) for side in sides] == [3, 1, 1]
        assert not torch.equal(parts[0], patient_split(patients, labels, (0.6, 0.2, 0.2), 0)[0])

    def test_too_few_patients(self):
        with pytest.raises(InvalidInputError, match=r"would be empty: 2 patients \(9 rows\)"):
            patient_split(np.arange(9) % 2, np.ones((9, 1), bool), (0.6, 0.2, 0.2), 0)


class TestImages:
    def test_files_under_the_name_of_the_folder(self, folder):
        data = chestxray(folder, uncertain="ones", blank="zeros")
        assert data.n_inputs == (1, 64, 64)
        for split in data.splits.values():
            number = split.index // 2 * 4 + split.index % 2 + 1
            assert torch.allclose(split.inputs.mean(dim=(1, 2, 3)) * 255, number.float(), atol=1.01)
        inside = chestxray(folder, uncertain="ones", blank="zeros", image_size=8, flat=True,
                           images=folder.parent)  # fmt: skip
        assert inside.n_inputs == 64

    def test_official_test_labels(self, folder):
        """They have no sex, age and view, and their paths do not name the folder."""
        name = "test/patient64741/study1/view1_frontal.jpg"
        file = folder / name
        file.parent.mkdir(parents=True)
        Image.fromarray(np.full((9, 9), 255, dtype=np.uint8)).save(file)
        header = ",".join(["Path", *HEADER.split(",")[5:]])
        write(folder, f"{name},1.0,0.0,1.0", header=header, name="test_labels.csv")
        labels = ["train.csv", "test_labels.csv"]
        data = chestxray(folder, labels, uncertain="ones", blank="zeros", image_size=8)
        place = [(s, row) for s in data.splits.values() for row in (s.index == 50).nonzero()]
        ((split, row),) = place
        assert split.inputs[row].mean() > 0.99
        assert [split.targets[t.name][row].item() for t in data.tasks] == [1, 0, 1]
        with pytest.raises(
            InvalidInputError, match=r"test_labels\.csv: .*missing: Frontal/Lateral"
        ):
            read_chestxray_labels(folder, labels, views="frontal")

    def test_files_beside_the_table(self, tmp_path):
        """Paths that start in the folder itself."""
        write(tmp_path, row(1, root="."))
        file = tmp_path / "train/patient00001/study1/view1_frontal.jpg"
        file.parent.mkdir(parents=True)
        # Dark margins, bright centre: the central square is what is kept.
        pixels = np.zeros((20, 60), dtype=np.uint8)
        pixels[:, 20:40] = 200
        Image.fromarray(pixels).save(file, format="PNG")
        grey = load_images(tmp_path, ["train/patient00001/study1/view1_frontal.jpg"], image_size=5)
        assert grey.shape == (1, 1, 5, 5)
        assert np.allclose(grey, 200 / 255)

    @pytest.mark.parametrize(("mode", "most"), [("L", 255), ("I;16", 65535), ("RGB", 255)])
    def test_modes(self, tmp_path, mode, most):
        pixels = np.full((8, 8), most // 5, dtype=np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(np.stack([pixels] * 3, axis=2) if mode == "RGB" else pixels)
        image.save(tmp_path / "a.png")
        assert np.allclose(load_images(tmp_path, ["a.png"], image_size=4), 0.2, atol=2e-3)

    def test_npz(self, tmp_path):
        images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
        np.savez(tmp_path / "images.npz", images=images, paths=["c", "a", "b"])
        grey = load_images(tmp_path, ["a", "c"])
        assert np.array_equal(grey[:, 0], images[[1, 0]].astype(np.float32) / 255)
        assert load_images(tmp_path, ["a"], image_size=2).shape == (1, 1, 2, 2)
        with pytest.raises(InvalidInputError, match=r"2 of 3 images are not in .*npz: d, e"):
            load_images(tmp_path, ["d", "a", "e"])

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": np.zeros((2, 4, 4))}, "expected the arrays 'images' and 'paths'"),
            ({"images": np.zeros((2, 4)), "paths": ["a", "b"]}, r"expected images \(N, H, W\)"),
            ({"images": np.full((1, 4, 4), 7.0), "paths": ["a"]}, "floats in [0, 1], got float64"),
            ({"images": np.zeros((1, 4, 4)), "paths": np.array(["a"], object)}, "cannot be read"),
        ],
    )
    def test_bad_npz(self, tmp_path, arrays, message):
        np.savez(tmp_path / "images.npz", **arrays)
        with pytest.raises(InvalidInputError) as caught:
            load_images(tmp_path, ["a"])
        assert message.replace("\\", "") in str(caught.value)

    def test_missing_files(self, folder, tmp_path):
        (folder / "train/patient00003/study1/view1_frontal.jpg").unlink()
        (folder / "train/patient00004/study2/view1_frontal.jpg").unlink()
        with pytest.raises(
            InvalidInputError, match=r"2 of .* images are not in the folder .*00003"
        ):
            chestxray(folder, uncertain="ones", blank="zeros")
        with pytest.raises(InvalidInputError, match=r"images: 'no/patient1/a\.png' is not under"):
            load_images(folder, ["no/patient1/a.png"])
        with pytest.raises(InvalidInputError, match="there is no file or folder"):
            load_images(folder, ["a"], images=tmp_path / "x.npz")
        (tmp_path / "a.png").write_text("no image")
        with pytest.raises(InvalidInputError, match=r"a\.png: cannot be read as an image"):
            load_images(tmp_path, ["a.png"])


class TestData:
    def test_official_folders_are_joined_and_split_by_patient(self, data_folder):
        folder = data_folder / "chestxray" / "nih1000"
        files = [read_chestxray_labels(folder, f"{n}.csv") for n in ("train", "valid", "test")]
        own = [set(table.patients) for table in files]
        assert [len(own[0] & own[1]), len(own[0] & own[2]), len(own[1] & own[2])] == [15, 8, 9]
        table = read_chestxray_labels(folder)
        for seed in (0, 1):
            data = chestxray(folder, seed=seed)
            sides = patients(data, table)
            assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
            assert sum(len(split) for split in data.splits.values()) == 1000
            assert [len(side) for side in sides] == [184, 40, 40]
        assert data.notes == ()

    def test_real_labels_and_images(self, data_folder):
        folder = data_folder / "chestxray" / "nih1000"
        data = chestxray(folder)
        positives = {
            task.name: sum(int((s.targets[task.name] == 1).sum()) for s in data.splits.values())
            for task in data.tasks
        }
        assert positives == NIH_POSITIVES
        # Findings of three patients or more are on all sides; Hernia has two patients.
        for name in set(NIH_POSITIVES) - {"Hernia"}:
            assert all((split.targets[name] == 1).any() for split in data.splits.values()), name
        assert data.n_inputs == (1, 64, 64)
        assert 0 <= float(data.train.inputs.min()) < float(data.train.inputs.max()) <= 1
        stored = np.load(folder / "images.npz", allow_pickle=False)
        at = int(data.test.index[7])
        assert np.array_equal(np.rint(data.test.inputs[7, 0].numpy() * 255), stored["images"][at])
        assert data.task("Edema").metric_names == ("auroc", "average_precision")

    def test_real_uncertain_and_blank_labels(self, data_folder):
        folder = data_folder / "chestxray" / "covid"
        table = read_chestxray_labels(folder, "labels.csv")
        assert len(set(table.patients)) == 194
        counts = {
            name: [int((column == 1).sum()), int((column == 0).sum())]
            for name, column in zip(table.findings, table.values.T, strict=True)
        }
        assert counts["Intubated"] == [71, 45]
        assert counts["COVID-19"] == [210, 83]
        ones = read_chestxray_labels(folder, "labels.csv", uncertain="ones")
        assert int((ones.values[:, table.findings.index("Intubated")] == 1).sum()) == 71 + 24
        data = chestxray(folder, "labels.csv", kind="multilabel", flat=True)
        assert data.tasks[0].n_outputs == 13
        assert data.tasks[0].class_names == table.findings
        assert data.n_inputs == 4096
        assert data.notes == ("56 of 389 images left out: no label",)
        assert all(
            data.tasks[0].labelled(s.targets["findings"]).all() for s in data.splits.values()
        )

    def test_findings_of_one_class(self, tmp_path):
        write(tmp_path, *(row(i, cells=("1", str(i % 2), "")) for i in range(20)))
        paths = read_chestxray_labels(tmp_path).paths
        np.savez(tmp_path / "images.npz", images=np.zeros((20, 4, 4), np.uint8), paths=paths)
        data = chestxray(tmp_path)
        assert [task.name for task in data.tasks] == ["Edema"]
        assert data.notes == (
            "finding left out, one class only in the train split: 'No Finding' (14 positive, "
            "0 negative)",
            "finding left out, one class only in the train split: 'Effusion' (0 positive, "
            "0 negative)",
        )
        with pytest.raises(InvalidInputError, match=r"'Effusion' \(0 positive, 0 negative\)"):
            chestxray(tmp_path, tasks=["Edema", "Effusion"])
        assert [task.name for task in chestxray(tmp_path, tasks=["Edema"]).tasks] == ["Edema"]

    def test_rows_without_labels_are_left_out(self, tmp_path):
        cells = [("", str(i % 2), "") if i < 16 else ("1", "", "") for i in range(20)]
        write(tmp_path, *(row(i, cells=c) for i, c in enumerate(cells)), row(20, cells=[""] * 3))
        paths = read_chestxray_labels(tmp_path).paths
        np.savez(tmp_path / "images.npz", images=np.zeros((21, 4, 4), np.uint8), paths=paths)
        data = chestxray(tmp_path)
        assert sum(len(split) for split in data.splits.values()) == 16
        assert data.notes[0] == "1 of 21 images left out: no label"
        write(tmp_path, *(row(i, cells=[""] * 3) for i in range(20)))
        with pytest.raises(InvalidInputError, match="has a label"):
            chestxray(tmp_path)

    def test_max_patients(self, data_folder):
        folder = data_folder / "chestxray" / "nih1000"
        table = read_chestxray_labels(folder)
        one, two = (chestxray(folder, max_patients=60, tasks=["Effusion"], seed=s) for s in (0, 1))
        assert len(set.union(*patients(one, table))) == 60
        assert set.union(*patients(one, table)) == set.union(*patients(two, table))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kind": "multiclass"}, "unknown kind 'multiclass'"),
            ({"splits": (0.5, 0.5)}, "expected three fractions"),
            ({"seed": 1.5}, "seed: expected"),
            ({"tasks": "Edema"}, "tasks must be a sequence of names"),
            ({"labels": []}, "labels: expected different file names"),
            ({"image_size": 0}, "image_size: expected"),
            ({"max_patients": 2}, "max_patients: expected"),
        ],
    )
    def test_errors(self, folder, arguments, message):
        with pytest.raises(InvalidInputError, match=message):
            chestxray(folder, **arguments)


def test_splits_of_one_row(tmp_path):
    paths = [f"train/patient{i:05d}/study1/view1.jpg" for i in range(10)]
    rows = [f"{path},F,50,Frontal,AP,{i % 2},{i // 2 % 2},0" for i, path in enumerate(paths)]
    write(tmp_path, *rows)
    np.savez(tmp_path / "images.npz", images=np.zeros((10, 8, 8), np.uint8), paths=np.array(paths))
    data = chestxray(tmp_path, labels="train.csv", splits=(0.8, 0.1, 0.1))
    assert [len(split) for split in data.splits.values()] == [8, 1, 1]
