"""Tasks of two cues: what a label is, which pairs are trained, which are tested."""

import numpy as np
import pytest
import torch

from qmtl.data import cue_pairs
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments import build_data, recipe_from


def pairs(split, n):
    """Which pairs of cue and task have labels, bool (cues, tasks), from inputs and targets."""
    cues = split.inputs[:, 2 * n :].argmax(1).numpy()
    found = np.zeros((n, n), bool)
    for task in range(n):
        known = ~split.targets[f"rule_{task}"].isnan().numpy()
        found[cues[known], task] = True
    return found


def components(edges):
    """Parts of the bipartite graph that are not connected with each other."""
    n = len(edges)
    near = np.block([[np.eye(n), edges], [edges.T, np.eye(n)]])
    return len({tuple(row) for row in np.linalg.matrix_power(near, 2 * n) > 0})


@pytest.mark.parametrize(
    ("n", "degree", "structure", "parts"),
    [
        (4, 1, "ring", 4),
        (4, 2, "ring", 1),
        (4, 2, "blocks", 2),
        (6, 3, "blocks", 2),
        (6, 5, "ring", 1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_graphs(n, degree, structure, parts, seed):
    data = cue_pairs(n_cues=n, degree=degree, structure=structure, n_rows=300, seed=seed)
    trained = pairs(data.train, n)
    assert (trained.sum(0) == degree).all()
    assert (trained.sum(1) == degree).all()
    assert components(trained) == parts
    assert (pairs(data.validation, n) == trained).all()
    assert (pairs(data.test, n) == ~trained).all()


def test_labels_follow_cue_and_rule():
    data = cue_pairs(n_cues=4, degree=2, n_rows=200)
    for split in data.splits.values():
        for inputs, number in zip(split.inputs, range(len(split)), strict=True):
            cue = int(inputs[8:].argmax())
            x, y = inputs[2 * cue : 2 * cue + 2].tolist()
            for task in range(4):
                label = float(split.targets[f"rule_{task}"][number])
                side = x * np.cos(np.pi * task / 4) + y * np.sin(np.pi * task / 4)
                assert np.isnan(label) or label == (side > 0)
    labels = torch.stack(list(data.train.targets.values()))
    assert ((~labels.isnan()).sum(0) == 1).all()


def test_seeds():
    first, again, other = (cue_pairs(n_rows=40, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_recipes():
    section = {"source": "cue-pairs", "n_cues": 4, "degree": 2, "n_rows": 50, "seed": 3}
    data = build_data(recipe_from({"data": section}))
    assert torch.equal(
        data.train.inputs, cue_pairs(n_cues=4, degree=2, n_rows=50, seed=3).train.inputs
    )
    chosen = build_data(recipe_from({"data": section | {"tasks": ["rule_1"]}}))
    assert [task.name for task in chosen.tasks] == ["rule_1"]
    with pytest.raises(RecipeError, match="structure"):
        recipe_from({"data": section | {"structure": "tree"}})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_cues": 1}, "n_cues must be an integer >= 2, got 1"),
        ({"degree": 6}, "degree must be between 1 and 5"),
        ({"degree": 4, "structure": "blocks"}, "multiple of 4 cues, got 6"),
        ({"structure": "rnig"}, "did you mean 'ring'"),
        ({"n_rows": 17}, "one per trained pair, 18, got 17"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(InvalidInputError, match=words):
        cue_pairs(**options)
