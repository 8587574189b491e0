"""The report's content: complete, escaped, and without anything to fetch."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from qmtl._html import hardware_facts
from qmtl.errors import InvalidInputError, RunDirectoryError
from qmtl.experiments._report import render_report, write_report
from qmtl.experiments._report_content import metric_table, read_runs, recipe_rows
from tests.experiments.report_samples import CLASSES, GRADE, PRICE, SPAM, train

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Tags with their attributes, text, ids, and whether tags are closed in order."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.text, self.headings = [], [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3", "h4"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def reader(page):
    return Reader(page.read_text(encoding="utf-8"))


def test_well_formed_with_unique_ids(reader):
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        link = attributes.get("href") or attributes.get("xlink:href") or ""
        if link.startswith("#"):
            assert link[1:] in ids


def test_nothing_is_fetched_and_no_script_runs(page, reader):
    content = page.read_text(encoding="utf-8")
    assert "://" not in content
    assert "@import" not in content
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png")), value
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", content))


def test_names_are_shown_as_they_are(reader):
    text = " ".join(reader.text)
    for name in (SPAM, GRADE, PRICE, CLASSES[1], "linear <i>", "fake_<fez>", "0.4321"):
        assert name in text
    # What matplotlib drew, too.
    assert f"{SPAM}: ROC" in text
    assert f"{GRADE}: calibration" in text


def test_all_sections(reader):
    sections = [a["id"] for tag, a in reader.tags if tag == "section"]
    assert sections == [
        "summary", "metrics", "curves", "predictions", "circuit", "plan", "noise", "hardware",
        "reproduce",
    ]  # fmt: skip
    links = [a["href"] for tag, a in reader.tags if tag == "a"]
    assert links == [f"#{name}" for name in sections]
    assert f"{SPAM} (binary)" in reader.headings
    labels = [a["aria-label"] for tag, a in reader.tags if "aria-label" in a and tag == "svg"]
    for run in ("quantum", "linear <i>"):
        for what in ("roc", "confusion", "calibration"):
            assert f"{run}: {what} of {SPAM}" in labels
        assert f"{run}: regression of {PRICE}" in labels
        assert f"{run}: loss on the validation split" in labels
    assert "first: measured against predicted" in labels
    assert f"accuracy of {SPAM} under noise" in labels


def test_metrics_are_those_of_the_results(runs):
    contents = read_runs(runs)
    groups, rows = metric_table(contents, "test")
    assert groups == [
        ("quantum", ["model", "linear", "constant"]),
        ("linear <i>", ["model", "constant"]),
    ]
    for task, metric, cells in rows:
        results = contents[0].run.results
        assert cells[0][0] == f"{results['metrics']['test'][task][metric]:.4f}"
        assert cells[2][0] == f"{results['baselines']['test'][task][metric]:.4f}"
        best = [text for text, is_best in cells if is_best]
        rivals = [float(cells[i][0]) for i in (0, 1, 3)]
        wanted = min(rivals) if metric in ("mae", "mse") else max(rivals)
        assert best
        assert float(best[0]) == wanted
        assert not cells[2][1]


def test_what_differs_between_recipes(runs):
    rows = {row["key"]: row for row in recipe_rows(read_runs(runs))}
    assert set(rows) == {"compare", "head.type", "training.seed"}
    assert (rows["head.type"]["quantum"], rows["head.type"]["linear <i>"]) == ("quantum", "linear")


def test_hardware_facts_count_what_is_far_off(runs):
    (record,) = read_runs(runs)[0].hardware
    facts = hardware_facts(record)
    assert facts["shots per sample"] == 4096
    assert facts["layout (device's qubits)"] == "3, 4, 5"
    expected = "4 means over samples, mean deviation 2.00 standard errors, 1 beyond 4"
    assert facts["against the prediction"] == expected


def test_a_single_run_without_extras_and_twice_the_same(runs, tmp_path):
    copy = shutil.copytree(runs[1], tmp_path / "run")
    (copy / "predictions.csv").unlink()
    page, again = (write_report([copy], tmp_path / name) for name in ("one.html", "two.html"))
    assert page.read_bytes() == again.read_bytes()
    reader = Reader(page.read_text(encoding="utf-8"))
    sections = [a["id"] for tag, a in reader.tags if tag == "section"]
    assert sections == ["summary", "metrics", "curves", "reproduce"]


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    (tmp_path / "a").mkdir()
    twin = shutil.copytree(runs[1], tmp_path / "a" / "linear <i>")
    labels = [content.label for content in read_runs([runs[1], twin])]
    assert labels == [str(runs[1]), str(twin)]


@pytest.mark.parametrize("head", ["local-cone", "vqc-per-task"])
def test_other_heads(head, tmp_path):
    run = train(tmp_path, "run", f"head.type={head}", "training.max_epochs=1")
    (run / "predictions.csv").unlink()
    reader = Reader(write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "circuit" not in [a["id"] for tag, a in reader.tags if tag == "section"]
    assert reader.open == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", "epoch,split\n0,train\n", "its columns must be epoch, split, task"),
        ("metrics.csv", "epoch,split,task,metric,value\nx,train,a,loss,1\n", "invalid literal"),
        ("metrics.csv", "", "its columns must be epoch, split, task"),
        ("predictions.csv", "row\n1\n", "there is no column"),
        ("predictions.csv", "row,a\n1\n", "not every row has 2 columns"),
        ("environment.json", "[]", "it holds no table"),
        ("environment.json", "{", "cannot be read"),
        ("environment.json", '{"data_notes": 5}', "data_notes must be a list of texts"),
        ("noise/noise.csv", "scale\n1\n", "its columns must be scale"),
        ("hardware/first.json", "", "cannot be read"),
        ("hardware/first.json", '{"table": null}', "table must be a list"),
        ("hardware/first.json", '{"table": [1]}', "table must be a list"),
        ("hardware/first.json", '{"metrics": []}', "metrics must be by source"),
        ("hardware/first.json", '{"metrics": {"exact": {"a": 1}}}', "metrics must be by source"),
        ("results.json", "{}", "is damaged"),
    ],
)
def test_damaged_files_are_named(runs, tmp_path, name, content, message):
    copy = shutil.copytree(runs[0], tmp_path / "run")
    (copy / name).write_text(content)
    with pytest.raises(RunDirectoryError, match=message) as caught:
        read_runs([copy])
    assert str(copy / name) in str(caught.value)


def test_predictions_without_rows(runs, tmp_path):
    copy = shutil.copytree(runs[1], tmp_path / "run")
    header = (copy / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    (copy / "predictions.csv").write_text(header + "\n", encoding="utf-8")
    assert write_report([copy], tmp_path / "report.html").is_file()


def test_no_run_and_a_run_twice(runs):
    with pytest.raises(InvalidInputError, match="at least one"):
        read_runs([])
    with pytest.raises(InvalidInputError, match="given twice"):
        read_runs([runs[0], runs[0]])


def test_the_recipe_is_shown_without_the_keys_that_are_not_set(runs, page):
    text = page.read_text(encoding="utf-8")
    assert "# " in (runs[0] / "recipe.toml").read_text()
    assert not re.search(r"^# [a-z_]+ =$", text, re.MULTILINE)


def test_plots_that_do_not_weigh_rows_say_so(runs, page):
    assert "every row counts once" not in page.read_text(encoding="utf-8")
    (content,) = read_runs(runs[1:])
    recipe = content.run.recipe.with_values({"data.weights": "size"})
    weighted = replace(content, run=replace(content.run, recipe=recipe))
    assert "every row counts once" in render_report([weighted])
