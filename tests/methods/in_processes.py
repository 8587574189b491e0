"""A program that trains by every method that takes several processes; Lightning starts it again."""

import os
import sys
from typing import Any

import torch

import qmtl
from tests.encoders.test_calibration import KINDS, data_and_model
from tests.training.samples import QUIET, tiny_model, with_missing

METHODS: list[dict[str, Any]] = [
    {"agreement": 0.5},
    {"flatness": 0.1},
    {"flatness": 0.1, "aggregator": "upgrad"},
    {"isolation": True},
    {"isolation": True, "aggregator": "upgrad"},
    {"loss": "unified"},
    {"scalarizer": "igb"},
]


def trained(devices: int) -> list[dict[str, torch.Tensor]]:
    """The states of models after two epochs in so many processes."""
    data = with_missing(0.3)
    runs = [(data, tiny_model(data).double(), options) for options in METHODS]
    runs += [(*data_and_model(kind, True), {}) for kind in KINDS]
    for rows, model, options in runs:
        given = {"max_epochs": 2, "accelerator": "cpu", "devices": devices}
        qmtl.fit(model, rows, **given, **options, **QUIET)
    return [model.double().state_dict() for _, model, _ in runs]


if __name__ == "__main__":
    states = trained(2)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        torch.save(states, sys.argv[1])
