"""The tree of exceptions, and suggestions for names."""

import inspect
import pickle

import pytest

from qmtl import errors

FUNCTIONS = {"check_integer", "near_paths", "nearest", "missing_extra", "unknown_name"}
CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]


def test_one_root():
    own = [cls for cls in CLASSES if cls.__module__ == "qmtl.errors"]
    assert {cls.__name__ for cls in own} == set(errors.__all__) - FUNCTIONS
    assert all(issubclass(cls, errors.QmtlError) for cls in own)


@pytest.mark.parametrize(
    ("name", "parents"),
    [
        ("InvalidInputError", (ValueError,)),
        ("CircuitTooLargeError", (errors.InvalidInputError,)),
        ("RecipeError", (errors.InvalidInputError,)),
        ("ModelFileError", (errors.InvalidInputError,)),
        ("RunDirectoryError", (errors.InvalidInputError,)),
        ("MissingDependencyError", (ImportError,)),
    ],
)
def test_builtin_parents(name, parents):
    assert issubclass(getattr(errors, name), parents)


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - FUNCTIONS))
def test_survive_a_process_boundary(name):
    error = getattr(errors, name)("what came, and what was expected")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("cz_rng", ["cz_ring", "cz_line"],
         "unknown x 'cz_rng'; did you mean 'cz_ring' or 'cz_line'? Known: cz_ring, cz_line"),
        ("QuantumHed", ["QuantumHead", "LinearHead"],
         "unknown x 'QuantumHed'; did you mean 'QuantumHead'? Known: QuantumHead, LinearHead"),
        ("relu", ["ReLU"], "unknown x 'relu'; did you mean 'ReLU'? Known: ReLU"),
        ("zzz", ["a", "b"], "unknown x 'zzz'. Known: a, b"),
        (3, ["a"], "unknown x 3. Known: a"),
        (None, [], "unknown x None. Known: "),
    ],
)  # fmt: skip
def test_unknown_name(name, choices, message):
    error = errors.unknown_name("x", name, iter(choices))
    assert isinstance(error, errors.InvalidInputError)
    assert str(error) == message


def test_a_name_with_line_breaks_stays_on_one_line():
    assert "\n" not in str(errors.unknown_name("x", "a\nb", ["c"]))
