"""HardwareSettings: whatever does not fit is told when it is set, and not when it is sent."""

import json
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


def test_settings_survive_json():
    settings = HardwareSettings(layout=(3, 1), seed=0, twirl_gates=True)
    assert HardwareSettings.of(settings.to_dict()) == settings
