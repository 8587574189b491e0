"""A run that cannot start leaves no run directory behind."""

import pytest
import torch

from qmtl.errors import InvalidInputError
from qmtl.experiments._recipe import read_recipe
from qmtl.experiments._run import start_run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["accelerator=gpu"], "accelerator 'gpu'"),
        (["aggregator=nashmtl", "options.n_tasks=2"], "'n_tasks' is the number of tasks"),
        (["aggregator=constant", "options.weights=[1, 2]"], "'weights' must have one number"),
        (["scalarizer=constant", "options.weights=[1, 2]"], "'weights' must have one number"),
        (["aggregator=krum", "options.n_byzantine=9"], "needs at least 12 tasks"),
        (["aggregator=upgrad", "options.norm_eps=x"], "'upgrad'|UPGrad"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_leaves_no_run_directory(tmp_path, overrides, words):
    if overrides == ["accelerator=gpu"] and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    recipe = read_recipe("digits", [f"training.{override}" for override in overrides])
    with pytest.raises(InvalidInputError, match=words) as caught:
        start_run(recipe, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
