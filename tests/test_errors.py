"""The tree of exceptions, and suggestions for names."""

import inspect
import pickle

import numpy as np
import pytest

from qmtl import AngleEncoding, errors

FUNCTIONS = {"as_path", "check_integer", "check_type", "missing_extra", "near_paths", "nearest"}
FUNCTIONS |= {"unknown_name"}
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
        (None, [], "unknown x None. Known: none"),
        # The same text in two forms of Unicode.
        ("m\u00e4nnlich", ["ma\u0308nnlich"],
         "unknown x 'm\\xe4nnlich'; did you mean 'ma\\u0308nnlich'? Known: ma\u0308nnlich"),
    ],
)  # fmt: skip
def test_unknown_name(name, choices, message):
    error = errors.unknown_name("x", name, iter(choices))
    assert isinstance(error, errors.InvalidInputError)
    assert str(error) == message


def test_a_name_with_line_breaks_stays_on_one_line():
    assert "\n" not in str(errors.unknown_name("x", "a\nb", ["c"]))


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_check_integer_returns_an_int(value):
    found = errors.check_integer("n", value)
    assert (found, type(found)) == (3, int)
    assert type(AngleEncoding(n_layers=value).n_layers) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None, 0, np.array([3])])
def test_check_integer_refuses(value):
    with pytest.raises(errors.InvalidInputError, match="n must be an integer >= 1"):
        errors.check_integer("n", value)
