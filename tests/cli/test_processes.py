"""The installed command in processes of its own: start-up, killing, several processes."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from tests.cli.command import fork, script, settings
from tests.test_imports import HEAVY

THREADS = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_what_commands_that_do_not_train_load(finished, tmp_path):
    """No Lightning, and a small evaluation no compiler: few rows run on torch, with equal metrics.

    To import, to read and to score data sets imports nothing slow. All in one process, in which
    torch is imported once.
    """
    calls = [
        ["recipes"],
        ["runs", str(finished)],
        ["circuits", "list"],
        ["explain", str(finished)],
        ["predict", str(finished), "none.csv"],
        ["evaluate", str(tmp_path)],
        ["report", str(tmp_path)],
        ["noise", str(tmp_path), "--two-qubit", "0.01"],
        ["export", str(tmp_path)],
    ]
    code = """
import sys, qmtl, qmtl.data
print(*(set(HEAVY) | {"scipy"}) & set(sys.modules))
assert qmtl.encoders.TextEmbedding
assert not {"sentence_transformers", "transformers"} & set(sys.modules)
from qmtl.training import baseline_metrics
data = qmtl.data.digits()
baseline_metrics(data, data.test)
print(*{"pandas", "pytorch_lightning", "scipy.stats", "sklearn"} & set(sys.modules))
from qmtl.cli import main
from qmtl.experiments import Run
from qmtl.training import evaluate
run = Run.read(sys.argv[1])
rows = run.load_data().test
found = evaluate(run.load_model(len(rows)), rows)
print("numba" in sys.modules, "matplotlib" in sys.modules, "pytorch_lightning" in sys.modules)
kept = run.results["metrics"]["test"]
print(all(abs(v - kept[t][m]) < 1e-4 for t, own in found.items() for m, v in own.items()))
print(run.load_model(10**9).head.simulator.engine)
for words in CALLS:
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        pass
    late = [name for name in ("pytorch_lightning", "torchjd", "pennylane") if name in sys.modules]
    assert not late, (words, late)
""".replace("CALLS", repr(calls)).replace("HEAVY", repr(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:5] == ["", "", "False False False", "True", "compiled"]


def test_help_is_fast():
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    took = []
    for _ in range(3):
        before = spent()
        assert script("--help").returncode == 0
        took.append(spent() - before)
    # Processor time: other processes at the same time do not count.
    assert min(took) < 0.5, took


def test_the_command_line_imports_nothing_heavy():
    heavy = ["torch", "numpy", "pennylane", "qiskit", "pytorch_lightning", "sklearn", "pydantic"]
    code = f"import sys, qmtl.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_error_is_one_line_and_status_2():
    done = script("runs", "none")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("qmtl: ")
    assert done.stderr.count("\n") == 1
    words = [sys.executable, "-m", "qmtl", "runs", "none"]
    module = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (module.returncode, module.stdout, module.stderr) == (2, "", done.stderr)


@pytest.mark.slow
def test_kill_9_and_resume_is_the_unbroken_run(qmtl, tmp_path):
    words = settings("training.max_epochs=4", "encoder.dropout=0.2", "training.schedule=cosine")
    qmtl.good("train", "digits", "--out", tmp_path / "whole", *words)
    broken = tmp_path / "broken"
    process, printed = fork("train", "digits", "--out", broken, *words)
    with printed:
        assert any(line.startswith("epoch 2/4") for line in printed)
        process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (broken / "results.json").exists()
    assert (broken / "checkpoints" / "last.ckpt").exists()
    assert "epoch 1/4" not in qmtl.good("train", "--resume", broken)
    first, second = (
        json.loads((p / "results.json").read_text()) for p in (tmp_path / "whole", broken)
    )
    assert first["metrics"] == second["metrics"]
    for name in ("model/model.safetensors", "metrics.csv", "predictions.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (broken / name).read_bytes()


@pytest.mark.slow
def test_two_processes_reach_the_loss_of_one(qmtl, tmp_path):
    """With an aggregator; `tests.methods.test_processes` trains by other combinations of losses."""
    words = settings("training.aggregator=upgrad", "training.batch_size=33")
    two = ["--set", "training.devices=2", "--set", "training.accelerator=cpu"]
    of_one = qmtl.good("train", "digits", "--out", tmp_path / "one", *words)
    done = script("train", "digits", "--out", tmp_path / "two", *words, *two, env=THREADS)
    assert done.returncode == 0, done.stderr
    for output in (of_one, done.stdout):
        assert output.count("baseline") == 1
        assert output.count("run directory") == 1
        assert output.count("epoch 2/2") == 1
    one, two_ = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two"))
    for split in ("train", "validation", "test"):
        for task, values in one["metrics"][split].items():
            assert two_["metrics"][split][task]["loss"] == pytest.approx(values["loss"], rel=1e-4)
