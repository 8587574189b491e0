"""The command line in this process, and a small recipe for it."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pytest

from qmtl.cli import main

TINY = [
    "training.max_epochs=2",
    "encoder.hidden=[6]",
    "data.splits=[0.2,0.1,0.7]",
    'data.tasks=["parity","digit","ink"]',
]
SCRIPT = Path(sys.executable).parent / "qmtl"


class Answer(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """Calls `main` with a command line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "120")

    def __call__(self, *arguments: object) -> Answer:
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["qmtl", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self.capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    def good(self, *arguments: object) -> str:
        answer = self(*arguments)
        assert answer.code == 0, answer.err
        return answer.out

    def bad(self, *arguments: object) -> str:
        """The one line on standard error, after the checks that hold for every bad input."""
        answer = self(*arguments)
        assert answer.code == 2, answer
        assert answer.err.startswith("qmtl: "), answer.err
        assert answer.err.endswith("\n")
        assert answer.err.count("\n") == 1, answer.err
        assert "Traceback" not in answer.err
        return answer.err


def settings(*overrides: str) -> list[str]:
    return [word for override in (*TINY, *overrides) for word in ("--set", override)]


def script(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    words = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, **options)


def fork(*arguments: object) -> tuple[multiprocessing.process.BaseProcess, TextIO]:
    """The command line in a process to be killed, and what it prints.

    It is a fork, which need not import anything again. It may run one thread only: a fork has no
    other thread of OpenMP's.
    """
    reading, writing = os.pipe()

    def run() -> None:
        sys.stdout = sys.stderr = os.fdopen(writing, "w", buffering=1)
        sys.argv[1:] = map(str, arguments)
        main()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    os.close(writing)
    return process, os.fdopen(reading)


def write_table(path: Path, n: int = 60) -> Path:
    """Numbers and words to four kinds of targets, with blanks among inputs and labels."""
    rng = np.random.default_rng(0)
    lines = ["size,colour,weight,sold,grade,price"]
    for i in range(n):
        size, colour = rng.normal(5, 2), ["red", "blue", "green"][i % 3]
        sold = "yes" if size > 5 else "no"
        grade = ["low", "mid", "high"][int(size // 3) % 3]
        cells = [f"{size:.3f}", colour, f"{rng.random():.3f}", sold, grade, f"{2 * size + 1:.3f}"]
        cells[3 + i % 3] = "" if i % 5 == 0 else cells[3 + i % 3]
        cells[1] = "" if i == 7 else cells[1]
        cells[2] = "NA" if i == 9 else cells[2]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n")
    return path


TABLE_RECIPE = """
name = "shop"
[data]
source = "csv"
path = "shop.csv"
targets = { sold = "binary", grade = "multiclass", price = "regression" }
[encoder]
hidden = [6]
[training]
max_epochs = 3
"""
