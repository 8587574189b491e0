"""Predictions, decisions and the constant baseline."""

import pytest
import torch

from qmtl.errors import InvalidInputError
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


class TestPredictions:
    def test_shapes(self):
        for task, predicted, decided in [
            (BINARY, (5,), (5,)),
            (MULTICLASS, (5, 4), (5,)),
            (MULTILABEL, (5, 3), (5, 3)),
            (REGRESSION, (5,), (5,)),
            (SEVERAL, (5, 2), (5, 2)),
        ]:
            predictions = task.activation(random_logits(task, 5))
            assert predictions.shape == predicted
            assert task.decision(predictions).shape == decided
        assert MULTICLASS.activation(torch.zeros(1, 4)).sum() == 1
        assert BINARY.decision(torch.tensor([0.5, 0.49])).tolist() == [1, 0]
        with pytest.raises(InvalidInputError, match="logits have shape"):
            BINARY.activation(torch.zeros(5))

    def test_baseline(self):
        assert BINARY.baseline([1, 0, 0, 0, None]) == 0.25
        assert MULTICLASS.baseline([3, 3, 0, 1, -100]).tolist() == [0.25, 0.25, 0, 0.5]
        rates = MULTILABEL.baseline([[1, 0, None], [0, 0, None]])
        assert rates.tolist() == [0.5, 0.0, 0.5]
        assert REGRESSION.baseline([1.0, 3.0, NAN]) == 2
        assert SEVERAL.baseline([[1.0, NAN], [3.0, 5.0]]).tolist() == [2, 5]
        with pytest.raises(InvalidInputError, match="target 1 has none"):
            SEVERAL.baseline([[1.0, NAN]])
        with pytest.raises(InvalidInputError, match="at least one training label"):
            BINARY.baseline([None])

    @pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
    def test_baseline_goes_through_evaluate(self, task):
        labels = random_labels(task, 40, missing=0.1)
        row = task.baseline(labels)
        scores = task.evaluate(row.expand(40, *row.shape), labels)
        if task.kind == "regression":
            assert scores["r2"] == pytest.approx(0, abs=1e-6)
        if task.kind == "binary":
            assert scores["accuracy"] == pytest.approx(max(float(row), 1 - float(row)))
            assert scores["auroc"] == 0.5
