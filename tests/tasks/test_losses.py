"""Losses against torch, with missing labels."""

import pytest
import torch
from torch.nn import functional as nnf

from qmtl.errors import InvalidInputError
from qmtl.tasks import MISSING, Task
from tests.tasks.task_samples import (
    ALL,
    BINARY,
    MULTICLASS,
    MULTILABEL,
    NAN,
    REGRESSION,
    SEVERAL,
    random_labels,
    random_logits,
)


class TestLoss:
    def test_against_torch(self):
        for task, reference in [
            (BINARY, lambda x, y: nnf.binary_cross_entropy_with_logits(x[:, 0], y)),
            (MULTICLASS, nnf.cross_entropy),
            (MULTILABEL, nnf.binary_cross_entropy_with_logits),
            (REGRESSION, lambda x, y: nnf.mse_loss(x[:, 0], y)),
            (SEVERAL, nnf.mse_loss),
        ]:
            logits, targets = random_logits(task, 20), random_labels(task, 20)
            value = task.loss(logits, targets)
            targets = targets.float() if targets.is_floating_point() else targets
            torch.testing.assert_close(value, reference(logits, targets))

    def test_weighted(self):
        weights = (0.5, 1.0, 3.0, 2.0)
        task = Task.multiclass("m", 4, class_weights=weights)
        logits, targets = random_logits(task, 30), random_labels(task, 30, missing=0.3)
        torch.testing.assert_close(
            task.loss(logits, targets),
            nnf.cross_entropy(logits, targets, weight=torch.tensor(weights)),
        )
        task = Task.multilabel("l", 3, class_weights=weights[:3])
        logits, targets = random_logits(task, 30), random_labels(task, 30)
        torch.testing.assert_close(
            task.loss(logits, targets),
            nnf.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=torch.tensor(weights[:3])
            ),
        )
        task = Task.binary("b", class_weights=(2.0, 3.0))
        logits, targets = random_logits(task, 30), random_labels(task, 30)
        weight = torch.where(targets == 1, 3.0, 2.0)
        torch.testing.assert_close(
            task.loss(logits, targets),
            nnf.binary_cross_entropy_with_logits(logits[:, 0], targets, weight=weight),
        )

    @pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
    def test_missing_entries_change_nothing(self, task):
        logits, targets = random_logits(task, 40), random_labels(task, 40, missing=0.5)
        with torch.no_grad():
            unlabelled = ~task.labelled(targets)
            logits[unlabelled] = NAN  # not even a broken logit may leak from a missing label
        total, count = task.loss_terms(logits, targets)
        total.backward()
        assert logits.grad.isfinite().all()
        assert (logits.grad[unlabelled] == 0).all()
        kept = ~unlabelled
        total_kept, count_kept = task.loss_terms(logits[kept], targets[kept])
        torch.testing.assert_close((total, count), (total_kept, count_kept))
        present = targets != MISSING if task.kind == "multiclass" else ~targets.isnan()
        assert count == present.sum()

    @pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
    def test_no_label(self, task):
        logits, targets = random_logits(task, 5), random_labels(task, 5, missing=1.0)
        total, count = task.loss_terms(logits, targets)
        total.backward()
        assert (total, count) == (0, 0)
        assert (logits.grad == 0).all()
        with pytest.raises(InvalidInputError, match="needs at least one label"):
            task.loss(logits, targets)
        empty = task.loss_terms(logits[:0], targets[:0])
        assert empty == (0, 0)

    def test_float64_follows_the_logits(self):
        total, count = BINARY.loss_terms(torch.zeros(2, 1).double(), torch.tensor([1.0, NAN]))
        assert total.dtype == count.dtype == torch.float64

    def test_shapes(self):
        with pytest.raises(InvalidInputError, match=r"\(3, 2\), expected \(batch, 1\)"):
            BINARY.loss(torch.zeros(3, 2), torch.zeros(3))
        with pytest.raises(InvalidInputError, match=r"logits \(3, 1\) .* shape \(3,\), got \(2,\)"):
            BINARY.loss(torch.zeros(3, 1), torch.zeros(2))
        with pytest.raises(InvalidInputError, match=r"got \(3,\) torch.float32"):
            MULTICLASS.loss(torch.zeros(3, 4), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_of_more_rows_than_half_precision_can_count(dtype):
    n = 70_000
    logits = torch.zeros(n, 1, dtype=dtype)
    loss = Task.binary("a").loss(logits, torch.ones(n))
    assert loss.dtype is dtype
    assert float(loss) == pytest.approx(0.6931, rel=4e-3)
