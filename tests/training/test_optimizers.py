"""Optimisers by row against torch's own on a parameter per row; schedules by name."""

import io

import pytest
import torch

from qmtl.training import RowAdam, RowAdamW, RowSGD, TrainingSettings
from qmtl.training._jacobian import set_gradients
from qmtl.training._optimizers import make_optimizer, make_schedule

CASES = [
    (RowAdam, torch.optim.Adam, {}),
    (RowAdam, torch.optim.Adam, {"weight_decay": 0.1, "maximize": True}),
    (RowAdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    (RowSGD, torch.optim.SGD, {}),
    (RowSGD, torch.optim.SGD, {"weight_decay": 0.1, "momentum": 0.9}),
    (RowSGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}),
    (RowSGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
]
ROW_OF = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 4])


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES)
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("whole", [0, 4])
def test_equals_torch_on_a_parameter_per_row(ours, theirs, options, fused, shape, whole):
    """Steps in which all rows are present come first, if there are any, and now and then."""
    generator = torch.Generator().manual_seed(0)

    def numbers():
        return torch.randn(len(ROW_OF), *shape, generator=generator, dtype=torch.float64)

    rows, dense = torch.nn.Parameter(numbers()), torch.nn.Parameter(numbers())
    each = [torch.nn.Parameter(rows.detach()[i == ROW_OF].clone()) for i in range(5)]
    alone = torch.nn.Parameter(dense.detach().clone())
    options = {"lr": 0.07, "fused": fused, **options}
    groups = [{"params": [dense]}, {"params": [rows], "row_of": [ROW_OF], "lr": 0.05}]
    optimizer = ours(groups, **options)
    others = [theirs([row], **options | {"lr": 0.05}) for row in each] + [
        theirs([alone], **options)
    ]
    for step in range(30):
        gradient, dense.grad = numbers(), numbers()
        alone.grad = dense.grad.clone()
        present = torch.rand(5, generator=generator) < 0.5
        if step < whole or step % 7 == 0:
            present = torch.ones(5, dtype=torch.bool)
        for i, row in enumerate(each):
            row.grad = gradient[i == ROW_OF] if present[i] else None
        before = rows.detach().clone()
        rows.grad = gradient
        optimizer.step(present=None if bool(present.all()) and step % 2 else present)
        for other in others:
            other.step()
        absent = ~present[ROW_OF]
        assert torch.equal(rows.detach()[absent], before[absent])
        if step == 15:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = ours(groups, **options)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(dense, alone, rtol=0, atol=0)
    for i, row in enumerate(each):
        torch.testing.assert_close(rows.detach()[i == ROW_OF], row.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES)
def test_state_of_absent_rows_stays_bit_for_bit(ours, theirs, options):
    weights = torch.nn.Parameter(torch.randn(len(ROW_OF)))
    optimizer = ours([{"params": [weights], "row_of": [ROW_OF]}], lr=0.1, **options)
    present = torch.tensor([True, False, True, True, False])
    for step in range(4):
        weights.grad = torch.randn(len(ROW_OF))
        before = {k: v.clone() for k, v in optimizer.state[weights].items()}
        optimizer.step(present=None if step < 2 else present)
        for name, value in optimizer.state[weights].items():
            if step > 1 and name in before:
                absent = ~present if name == "step" else ~present[ROW_OF]
                assert torch.equal(value[absent], before[name].expand_as(value)[absent])


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
        made = make_schedule(TrainingSettings(schedule=name), optimizer, 5)
        assert type(made).__name__ == kind


@pytest.mark.parametrize(
    ("monitor", "better"),
    [("validation_loss", -1), ("validation/a/ece", -1), ("validation/a/f1", 1)],
)
def test_plateau_knows_which_way_is_better(monitor, better):
    for direction, halved in ((better, 0), (-better, 2)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
        settings = TrainingSettings(schedule="plateau", monitor=monitor)
        schedule = make_schedule(settings, optimizer, 14)
        for epoch in range(14):
            schedule.step(torch.tensor(0.5 + 0.01 * direction * epoch))
        assert optimizer.param_groups[0]["lr"] == 0.5**halved
