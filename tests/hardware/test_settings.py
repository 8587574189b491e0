"""HardwareSettings: whatever does not fit is told when it is set, and not when it is sent."""

import json
import pickle
import re

import numpy as np
import pytest

from qmtl.errors import InvalidInputError
from qmtl.hardware import HardwareSettings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layout", "abc", "layout: expected a list, got 'abc'"),
        ("layout", 3, "layout"),
        ("layout", [1.5, 2], "layout.0: Input should be a valid integer, got 1.5"),
        ("layout", [-1, 2], "layout.0"),
        ("layout", {3, 1}, "layout"),
        ("twirl_gates", "yes", "twirl_gates: Input should be a valid boolean, got 'yes'"),
        ("twirl_readout", 1, "twirl_readout"),
        ("cache", None, "cache"),
        ("seed", True, "seed takes numbers"),
        ("seed", -1, "seed"),
        ("mode", 1, "'job', 'batch' or 'session', got 1"),
        ("mode", "jobs", "did you mean 'job'?"),
        ("shots", True, "shots takes numbers"),
        ("shots", 0, "shots: Input should be greater than or equal to 1, got 0"),
        ("shots", 1e3, "shots: Input should be a valid integer"),
        ("shotz", 3, "did you mean 'shots'?"),
        ("max_shots", 1.5, "max_shots"),
        ("max_qpu_seconds", float("nan"), "max_qpu_seconds: Input should be a finite number"),
        ("max_qpu_seconds", float("inf"), "max_qpu_seconds"),
    ],
)
def test_values_that_do_not_fit(name, value, expected):
    with pytest.raises(InvalidInputError, match=re.escape(expected)):
        HardwareSettings.of({name: value})


def test_numbers_may_be_those_of_numpy():
    given = HardwareSettings(shots=np.int64(20), seed=np.int32(3), layout=np.arange(2).tolist())
    assert given == HardwareSettings(shots=20, seed=3, layout=(0, 1))
    assert json.dumps(given.to_dict())
    assert HardwareSettings(layout=tuple(np.arange(2))).layout == (0, 1)
    assert HardwareSettings(layout=np.arange(2), predict=np.bool_(True)).layout == (0, 1)
    assert type(HardwareSettings(max_qpu_seconds=np.float32(3)).max_qpu_seconds) is float


def test_budgets_may_be_large():
    assert HardwareSettings(max_shots=10**10, max_job_bytes=4 * 10**9).max_shots == 10**10
    with pytest.raises(InvalidInputError, match="max_shots: expected whole numbers up to"):
        HardwareSettings(max_shots=2**63)


def test_copies_are_checked():
    settings = HardwareSettings(shots=8).model_copy(update={"layout": [1, 0]})
    assert settings == HardwareSettings(shots=8, layout=(1, 0))
    for update, words in (({"shots": 0}, "shots: "), ({"shotz": 3}, "did you mean 'shots'")):
        with pytest.raises(InvalidInputError, match=words):
            settings.model_copy(update=update)


def test_what_are_no_settings():
    with pytest.raises(InvalidInputError, match="HardwareSettings takes keywords only, got 1000"):
        HardwareSettings(1000)
    assert HardwareSettings(layout=range(2)).layout == (0, 1)


def test_pickles_of_dataclasses_are_read():
    settings, old = HardwareSettings(shots=8), object.__new__(HardwareSettings)
    old.__setstate__(settings.to_dict())
    assert old == settings == pickle.loads(pickle.dumps(settings))


def test_settings_survive_json():
    settings = HardwareSettings(layout=(3, 1), seed=0, twirl_gates=True)
    assert HardwareSettings.of(settings.to_dict()) == settings
