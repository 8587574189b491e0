"""SeparateHeads: each head on its own part of the features."""

import pytest
import torch

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.heads import LinearHead, QuantumHead, SeparateHeads
from qmtl.tasks import Task

A, B = Task.binary("a"), Task.multiclass("b", 3)


def test_parts_of_the_features():
    heads = [LinearHead([A], 3, seed=0), QuantumHead(HeadCircuit([B]), seed=0)]
    head = SeparateHeads(heads)
    x = torch.randn(5, 5, requires_grad=True)
    logits = head(x)
    assert torch.equal(logits["a"], heads[0](x[:, :3])["a"])
    assert torch.equal(logits["b"], heads[1](x[:, 3:])["b"])
    (gradient,) = torch.autograd.grad(logits["a"].sum(), x)
    assert not gradient[:, 3:].any()
    assert head.shared_parameters() == [heads[1].encoding]
    assert head.task_rows() == [*heads[0].task_rows(), *heads[1].task_rows()]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([LinearHead([A, B], 3)], r"one task each, got LinearHead with \['a', 'b'\]"),
        ([torch.nn.Linear(2, 1)], r"one task each, got Linear with \[\]"),
        ([LinearHead([A], 3), LinearHead([A], 2)], "'a'"),
        ([], "task"),
    ],
)
def test_errors(heads, message):
    with pytest.raises(InvalidInputError, match=message):
        SeparateHeads(heads)


def test_unknown_type():
    with pytest.raises(InvalidInputError, match="unknown head 'LinearHed'; did you mean 'LinearH"):
        SeparateHeads.from_dict({"heads": [{"type": "LinearHed"}]})
