"""Fixtures of the report's tests."""

import pytest

from qmtl.experiments._report import write_report
from tests.experiments.report_samples import add_hardware, train


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A quantum and a linear run with hostile names, not to be changed."""
    folder = tmp_path_factory.mktemp("<runs> & more")
    quantum = train(folder, "quantum", 'compare=["linear"]')
    add_hardware(quantum)
    noise = quantum / "noise"
    noise.mkdir()
    _write_noise(noise)
    return [quantum, train(folder, "linear <i>", "head.type=linear", "training.seed=1")]


def _write_noise(folder):
    from qmtl._io import as_csv, write_json, write_text
    from qmtl.experiments._robustness import UnderNoise
    from tests.experiments.report_samples import GRADE, PRICE, SPAM

    metrics = {SPAM: {"accuracy": 0.8}, GRADE: {"accuracy": 0.5}, PRICE: {"r2": float("nan")}}
    found = [UnderNoise(0.0, "none", metrics), UnderNoise(1.0, "none", metrics)]
    found.append(UnderNoise(1.0, "linear", metrics))
    write_text(folder / "noise.csv", as_csv(row for one in found for row in one.rows()))
    write_json(folder / "noise.json", {"noise": {"backend": "fake_fez"}, "shots": 1024})


@pytest.fixture(scope="session")
def page(runs, tmp_path_factory):
    """The report of both."""
    return write_report(runs, tmp_path_factory.mktemp("report") / "report.html")
