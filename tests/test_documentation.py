"""Documents hold what they promise: blocks run, links lead somewhere, docstrings' examples run.

Blocks of one document run in order, in one namespace and in one empty folder, as a reader would
paste them: `python` is executed, `pycon` compared with what it prints, `console` executed line by
line after the `$`, `toml` read (as a recipe, and saved as NAME.toml, where it begins with a name);
for `sh` the commands and their options must exist. Real data sets (QMTL_DATA) appear in that folder
under the names of `DATA_SETS`; without them the blocks that name one are skipped.
"""

import contextlib
import csv
import doctest
import functools
import importlib
import io
import os
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import typer
import yaml
from markdown_it import MarkdownIt

import qmtl
from qmtl.cli import app, main
from qmtl.data import DataSection
from qmtl.experiments import recipe_from

ROOT = Path(__file__).parents[1]
FOLDERS = ("qmtl", "circuits", "scripts", "tests", "notebooks")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
MODULES = [m.name for m in pkgutil.walk_packages(qmtl.__path__, "qmtl.")]

DATA_SETS = {"glue_data": "glue", "MUStARD": "mustard", "covid_xrays": "chestxray/covid"}
FIELDS = [section.model_fields["source"] for section in DataSection.__subclasses__()]
SOURCES = [field.default for field in FIELDS if not field.is_required()]
EXECUTED = {"python", "pycon", "console"}
ONLY_READ = {"toml", "sh", "text", "csv", "bibtex", ""}
SHELL = {"cd", "git", "jupyter", "source"}  # commands that are not ours
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    failures = []
    for test in finder.find(module, name, globs=dict(vars(module)) | {"torch": torch}):
        result = runner.run(test, out=failures.append)
        assert result.failed == 0, "".join(failures)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the document where it begins."""

    language: str
    text: str
    line: int


@functools.cache
def tokens(path):
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def blocks(path):
    fences = [token for token in tokens(path) if token.type == "fence"]
    return [Block(t.info.strip(), t.content, t.map[0] + 1) for t in fences]


def inline(path, *kinds):
    """Tokens within paragraphs, headings and table cells."""
    outer = [token for token in tokens(path) if token.type == "inline"]
    return [token for parent in outer for token in parent.children if token.type in kinds]


def tables(path):
    """Rows of each table, by the first two cells of its header, and then by their own first."""
    found, name = {}, None
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            name = None
        elif name is None:
            name = " | ".join(cells[:2])
            found[name] = {}
        elif not line.startswith("|--"):
            found[name][cells[0]] = cells[1:]
    return found


# --- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_blocks_run(name, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "default.sqlite"))
    namespace, needed = {"__name__": "document"}, set()
    for block in blocks(ROOT / name):
        assert block.language in EXECUTED | ONLY_READ, f"{name}:{block.line}: {block.language}"
        here = {data for data in DATA_SETS if re.search(rf"\b{data}\b", block.text)}
        if here and block.language in EXECUTED and not link_data(here, tmp_path, request):
            needed |= here
            continue
        where = f"{name}:{block.line}"
        if block.language == "python":
            lines = "\n" * block.line + block.text  # so that a traceback names the document's line
            exec(compile(lines, where, "exec"), namespace)
        elif block.language == "pycon":
            compare(block, namespace, where)
        elif block.language == "console":
            for command in re.findall(r"^\$ (.+)$", block.text, re.MULTILINE):
                run(command, where)
        elif block.language == "toml":
            read_toml(block.text, tmp_path)
    if needed:
        pytest.skip(f"all but the blocks that read {sorted(needed)} ran: set QMTL_DATA")


def link_data(names, folder, request):
    """Put the data sets into the folder under the documents' names; whether they are there."""
    try:
        data = request.getfixturevalue("data_folder")
    except pytest.skip.Exception:
        return False
    for name in names:
        if not (folder / name).exists():
            (folder / name).symlink_to(data / DATA_SETS[name], target_is_directory=True)
    return True


def compare(block, namespace, where):
    """The interactive session prints what the document says."""
    test = doctest.DocTestParser().get_doctest(block.text, namespace, where, where, block.line)
    failures = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(
        test, out=failures.append, clear_globs=False
    )
    assert result.failed == 0, "".join(failures)
    namespace.update(test.globs)


def run(command, where):
    """A line of a console block; all of them call `qmtl`, in this process."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "qmtl", f"{where}: a console block runs qmtl; {program} belongs into `sh`"
    status, shown = as_program(main, program, *arguments)
    assert not status, f"{where}: {command}\n{shown}"


def as_program(function, *words):
    """Exit status and output of a function that reads the command line."""
    shown, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            try:
                function()
            except SystemExit as end:
                status = end.code
    return status, shown.getvalue()


def read_toml(text, folder):
    content = tomllib.loads(text)
    if "name" in content and "data" in content:
        (folder / f"{content['name']}.toml").write_text(text, encoding="utf-8")
        recipe_from(content)


# --- commands, paths and links -----------------------------------------------------------------


def commands(path):
    """Command lines in `sh` blocks and in running text that name our program or a script."""
    lines = [line for b in blocks(path) if b.language == "sh" for line in b.text.splitlines()]
    texts = [token.content for token in inline(path, "code_inline")]
    lines += [text for text in texts if re.match(r"qmtl [\w-]|scripts/\w+( |$)", text)]
    return [line for line in lines if line.split("#")[0].strip() and not re.search("[…|]", line)]


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist_and_take_these_options(name):
    for line in commands(ROOT / name):
        program, *words = shlex.split(line, comments=True)
        if program == "qmtl":
            parse(words)
        elif program.startswith("scripts/"):
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= set(re.findall(r"--[\w-]+", script_help(program))), line
        elif program == "pip":
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            extras = {extra for part in re.findall(r"\[(.+)\]", line) for extra in part.split(",")}
            assert extras <= set(known["optional-dependencies"]), line
        else:
            assert program in SHELL, f"{name}: {line}"


def parse(words):
    """Unknown commands and options, missing arguments and values of a wrong type raise."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words[0]
        command, words = command.commands[words[0]], words[1:]
    if words and not hasattr(command, "commands"):  # a name alone is a mention
        command.make_context("qmtl", words)


@functools.cache
def script_help(name):
    """What a script says to --help; a shell script has no more than its first lines."""
    path = ROOT / name
    assert os.access(path, os.X_OK), f"there is no program {name}"
    if "python" not in path.read_text().splitlines()[0]:
        return path.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        run_it = functools.partial(runpy.run_path, str(path), run_name="__main__")
        status, shown = as_program(run_it, path, "--help")
    assert not status, f"{name} --help ends with status {status}"
    return shown


def slug(heading):
    """The anchor that GitHub gives to a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.lower().strip())
    return text.replace(" ", "-")


@functools.cache
def anchors(path):
    stream = tokens(path)
    headings = [stream[i + 1] for i, token in enumerate(stream) if token.type == "heading_open"]
    texts = ["".join(child.content for child in heading.children) for heading in headings]
    found, seen = set(), {}
    for text in map(slug, texts):
        seen[text] = seen.get(text, -1) + 1
        found.add(f"{text}-{seen[text]}" if seen[text] else text)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', path.read_text()))


def links(path):
    found = [t.attrs["href"] for t in inline(path, "link_open")]
    found += [t.attrs["src"] for t in inline(path, "image")]
    return found + re.findall(r'<[^>]*(?:href|src|srcset)="([^"]+)"', path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    path = ROOT / name
    for link in links(path):
        if re.match("https?:|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_no_path_leads_out_of_the_repository(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w./:>-])/(?:root|work|home|tmp|mnt|Users)\b", text)
    upwards = re.findall(r"(?<![\w/])(?:\.\./)+[\w./-]*", text)
    folder = (ROOT / name).parent
    assert [p for p in upwards if not (folder / p).resolve().is_relative_to(ROOT)] == []


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name):
    texts = [token.content for token in inline(ROOT / name, "code_inline")]
    paths = [text for text in texts if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]+", text)]
    assert [path for path in paths if not list(ROOT.glob(path))] == []


def test_the_places_where_the_package_grows_are_named():
    rows = tables(ROOT / "tests" / "README.md")["to add | open"]
    assert len(rows) == 11
    for change, (place, tests) in rows.items():
        files = re.findall("`(.+?)`", place)
        assert all((ROOT / file).is_file() and file.startswith("qmtl/") for file in files), change
        assert (ROOT / tests.strip("`")).is_file(), change


# --- the project's own data --------------------------------------------------------------------


def test_there_are_documents():
    wanted = {"README.md", "CHANGELOG.md", "circuits/README.md"}
    assert wanted <= set(NAMES)
    assert {block.language for block in blocks(ROOT / "README.md")} >= {"python", "console", "sh"}


@pytest.mark.parametrize(
    ("document", "members"),
    [
        ("qmtl/data/README.md", SOURCES),
        ("qmtl/encoders/README.md", list(qmtl.encoders.ENCODERS)),
        ("qmtl/heads/README.md", list(qmtl.heads.HEAD_TYPES)),
    ],
)
def test_every_member_of_a_family_is_named(document, members):
    named = {token.content for token in inline(ROOT / document, "code_inline")}
    assert [member for member in members if member not in named] == []


def test_the_first_page_is_short():
    assert (ROOT / "README.md").stat().st_size <= 12_500


def test_version_is_that_of_the_project_file_and_of_the_citation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == qmtl.__version__
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2604.13560"


def test_package_is_typed():
    assert (ROOT / "qmtl" / "py.typed").is_file()


# --- measured tables ---------------------------------------------------------------------------

RESULTS = ROOT / "scripts" / "results"


@pytest.mark.parametrize(("family", "column"), [("glue", 0), ("mustard", 3), ("chestxray", 6)])
def test_scores_of_the_heads_are_those_of_the_csv_file(family, column):
    labels = {
        "quantum": "quantum", "linear": "linear, dense", "local-cone": "linear on cones",
        "local-register": "linear on registers", "low-rank": "low-rank linear",
        "fixed-width": "linear, fixed width of 8", "single-task": "single-task models",
        "vqc-per-task": "circuit per task, linear layers",
        "shared-vqc": "one shared circuit, linear layers",
        "quantum-no-block": "quantum, no block", "quantum-frozen": "quantum, weights frozen",
        "quantum-no-entangler": "quantum, no entangler",
    }  # fmt: skip
    table = tables(RESULTS / "README.md")["head | GLUE, 9 tasks: score"]
    shown = {k: v[column : column + 3] for k, v in table.items() if v[column] != "–"}
    measured = {}
    for row in csv.DictReader((RESULTS / f"bench_{family}.csv").open()):
        score = f"{float(row['mean']):.1f} ± {float(row['mean_interval']):.1f}"
        cells = [score, row["head_parameters"], f"{float(row['ece']):.1f}"]
        measured[labels[row["head"]]] = cells
    assert shown == measured


def test_times_of_the_peers_are_those_of_the_csv_file():
    table = tables(RESULTS / "README.md")["ms per step | T = 2"]
    sizes = ("2", "4", "6", "8", "12", "256")
    for row in csv.DictReader((RESULTS / "peers.csv").open()):
        shown = table[row["label"]][sizes.index(row["tasks"])].replace(",", "")
        if row["step_ms"]:
            assert float(shown) == pytest.approx(float(row["step_ms"]), rel=6e-3), row["label"]
        else:
            assert shown in row["status"], row
