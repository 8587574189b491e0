"""Optimisers and schedules by name."""

import pytest
import torch

from qmtl.training import TrainingSettings
from qmtl.training.gradients import set_gradients
from qmtl.training.optimizers import make_optimizer, make_schedule


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_one_kernel_where_torch_has_one(name):
    settings = TrainingSettings(optimizer=name, learning_rate=0.3)
    real = torch.nn.Parameter(torch.zeros(2))
    for other, fused in (
        (torch.zeros(0), True),
        (torch.zeros(1, dtype=torch.float64), True),
        (torch.zeros(1, dtype=torch.complex64), None),
        (torch.zeros(1, device="meta"), None),
        (torch.zeros(2, 3).T, None),
        (torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), None),
    ):
        groups = [{"params": [real]}, {"params": [torch.nn.Parameter(other)], "lr": 0.1}]
        optimizer = make_optimizer(settings, groups)
        assert optimizer.defaults["fused"] is fused
        assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.1]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_layout_of_parameters_does_not_matter(name):
    start, gradient = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(start.clone().to(memory_format=layout))
        settings = TrainingSettings(optimizer=name, learning_rate=0.1)
        optimizer = make_optimizer(settings, [{"params": [weight]}])
        for _ in range(3):
            set_gradients([weight], [gradient])
            optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(*found)


def test_schedules():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))])
    kinds = {"constant": "NoneType", "cosine": "CosineAnnealingLR", "plateau": "ReduceLROnPlateau"}
    for name, kind in kinds.items():
        made = make_schedule(TrainingSettings(schedule=name), optimizer)
        assert type(made).__name__ == kind
