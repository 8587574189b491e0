"""Help with examples that parse, shell completion, and names that are nearly right."""

import os
import shlex
import subprocess
import sys

import pytest
import typer

from qmtl.cli import app
from qmtl.cli._options import complete_design, complete_recipe
from tests.cli.command import SCRIPT

ROOT = typer.main.get_command(app)


def commands(command=ROOT, path=()):
    """Every command that does something, with the words that call it."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))
    else:
        yield path, command


COMMANDS = dict(commands())


def examples(command):
    lines = [line.strip().removeprefix("Example: ") for line in (command.help or "").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("qmtl ")]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_parse(path):
    command = COMMANDS[path]
    found = examples(command)
    assert found, f"give an example in the help of qmtl {' '.join(path)}"
    for words in found:
        assert tuple(words[: len(path)]) == path
        # Unknown options, missing arguments and values of a wrong type raise.
        command.make_context(" ".join(path), words[len(path) :])


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=" ".join)
def test_help_shows_the_examples(qmtl, path):
    shown = qmtl.good(*path, "--help")
    assert "Usage" in shown
    assert "Example" in shown


def completion(*words: str) -> dict[str, str]:
    """What the shell puts into the environment to ask for words."""
    asked = {"COMP_WORDS": " ".join(("qmtl", *words)), "COMP_CWORD": str(len(words))}
    return {"_QMTL_COMPLETE": "complete_bash", **asked}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("train", "digits", "--compare", "local"), {"local-register", "local-cone"}),
        (("bench", "digits", "--heads", "linear,shared"), {"linear,shared-vqc"}),
    ],
)
def test_words_are_completed(qmtl, monkeypatch, words, found):
    for name, value in completion(*words).items():
        monkeypatch.setenv(name, value)
    assert set(qmtl().out.split()) == found


def test_the_shell_completes():
    environment = {**os.environ, **completion("tra")}
    done = subprocess.run(
        [SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert set(done.stdout.split()) == {"train", "trainability"}


def test_what_is_completed_is_what_is_there():
    from qmtl.circuit import list_designs
    from qmtl.experiments import built_in_recipes

    assert complete_recipe("") == built_in_recipes()
    assert complete_design("") == list_designs()


def test_completion_imports_nothing_heavy():
    code = (
        "import sys; from qmtl.cli._options import *; complete_recipe(''); complete_design('');"
        "print([m for m in ('torch', 'numpy', 'pytorch_lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["trian"], "train"),
        (["circuits", "shwo"], "show"),
        (["train", "digits", "--copmare", "linear"], "--compare"),
    ],
)
def test_commands_and_options_that_are_nearly_right(qmtl, words, nearest):
    answer = qmtl(*words)
    assert answer.code == 2
    assert nearest in answer.err


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["train", "digit"], "digits"),
        (["train", "digits", "--set", 'data.tasks=["partiy"]'], "parity"),
        (["train", "digits", "--set", "circuit.design=cz-rign"], "cz-ring"),
        (["train", "digits", "--set", "encoder.type=MPL"], "MLP"),
        (["train", "digits", "--set", "head.type=linaer"], "linear"),
        (["train", "digits", "--set", "head.simulator=defualt.qubit"], "default.qubit"),
        (["train", "digits", "--set", "training.aggregator=pcgard"], "PCGrad"),
        (["train", "digits", "--set", "training.scalarizer=dawa"], "DWA"),
        (["train", "digits", "--set", 'logging.loggers=["tensorbord"]'], "tensorboard"),
        (["train", "digits", "--compare", "low-rnak"], "low-rank"),
        (["circuits", "show", "iqpp"], "iqp"),
    ],
)
def test_names_that_are_nearly_right(qmtl, words, nearest):
    assert f"did you mean '{nearest}'" in qmtl.bad(*words)


def test_a_backend_that_is_nearly_right(qmtl, run):
    pytest.importorskip("qiskit_ibm_runtime")
    assert "did you mean 'fake_fez'" in qmtl.bad("noise", run, "--backend", "fake_fex")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "'train'"),
        (["--fast"], "--fast"),
        (["ibm", "submitt"], "'submit'"),
        (["predict"], "'run'"),
        (["train", "digits", "--out"], "'--out'"),
        (["train", "digits", "--epochs", 3], "--set training.max_epochs=3"),
        (["bench", "digits", "--seeds", 0], "'--seeds'"),
        (["bench", "digits", "--seeds", "many"], "'--seeds'"),
        (["evaluate", "one", "two", "three"], "three"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value)),
)
def test_a_wrong_call_is_told_in_one_line_with_where_to_look(qmtl, words, expected):
    told = qmtl.bad(*words)
    assert expected in told
    assert "--help" in told


@pytest.mark.parametrize("words", [(), ("ibm",), ("circuits",)], ids=" ".join)
def test_a_group_without_a_command_shows_its_help(qmtl, words):
    answer = qmtl(*words)
    assert "Usage" in answer.out + answer.err
