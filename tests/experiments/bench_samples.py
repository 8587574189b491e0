"""Benchmarks that take a moment, and results that no training made."""

from qmtl.experiments._bench_summary import BenchSummary, CellResult, HeadScores
from qmtl.experiments._recipe import read_recipe

TINY = [
    "training.max_epochs=1",
    "encoder.hidden=[4]",
    "data.splits=[0.2,0.1,0.7]",
    'data.tasks=["parity","five_or_more","ink"]',
    "bench.seeds=2",
    "bench.search_seeds=1",
    'bench.heads=["linear","local-register"]',
    "bench.probe=false",
    'bench.grid={"training.learning_rate"=[0.001,0.03]}',
]


def tiny(*overrides):
    return read_recipe("digits", [*TINY, *overrides])


def result(test=None, validation=None, **changes):
    """A cell's result from task → main score in [0, 1]."""
    test = test or validation or {"a": 0.5, "b": 0.7}

    def metrics(scores):
        return {task: {"accuracy": value, "ece": 0.1} for task, value in scores.items()}

    content = {
        "metrics": {"validation": metrics(validation or test), "test": metrics(test)},
        "baselines": {"test": metrics(dict.fromkeys(test, 0.5))},
        "main_metrics": dict.fromkeys(test, "accuracy"),
        "head_parameters": 10,
        "total_parameters": 100,
        "best_epoch": 3,
        "seconds": 1.0,
        "step_seconds": 0.002,
        "rows": dict.fromkeys(test, 50),
        "environment": {
            "packages": {"qmtl": "0", "torch": "2"},
            "threads": 1,
            "processor": "x86_64",
        },
    }
    return CellResult(**content | changes)


def summary(heads, failures=(), probe=None):
    """A summary from head → one dict of test scores per seed (None: failed)."""
    scores = []
    for head, seeds in heads.items():
        results = [None if test is None else result(test) for test in seeds]
        scores.append(HeadScores(head, {"training.learning_rate": 0.01}, tuple(results)))
    n = len(next(iter(heads.values()))) if heads else 1
    return BenchSummary("sample", tuple(scores), probe, tuple(failures), n, 4, min(2, n))
