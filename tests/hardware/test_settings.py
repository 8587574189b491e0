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
        ("layout", "abc", "number of a qubit for each wire"),
        ("layout", 3, "number of a qubit for each wire"),
        ("layout", [1.5, 2], "number of a qubit for each wire"),
        ("layout", [-1, 2], "number of a qubit for each wire"),
        ("twirl_gates", "yes", "twirl_gates must be true or false, got 'yes'"),
        ("twirl_readout", 1, "true or false"),
        ("predict", "no", "true or false"),
        ("cache", None, "true or false"),
        ("seed", True, "integer >= 0"),
        ("seed", -1, "integer >= 0"),
        ("mode", 1, "unknown mode 1"),
        ("shots", True, "positive whole number"),
        ("shots", 0, "positive whole number"),
        ("layout", {3, 1}, "a qubit for each wire"),
        ("shots", 1e3, "positive whole number"),
        ("max_shots", 1.5, "positive whole number"),
        ("max_qpu_seconds", float("nan"), "positive number"),
        ("max_qpu_seconds", float("inf"), "positive number"),
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
