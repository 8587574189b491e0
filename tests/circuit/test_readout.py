import numpy as np
import pytest

from qmtl.circuit import ExpectationZ, PauliStrings, Probabilities
from qmtl.errors import InvalidInputError


@pytest.mark.parametrize("k", [1, 2, 3])
def test_expectation_z_rows_are_signs_of_one_wire(k):
    readout = ExpectationZ(k)
    for size in (k, k + 1):
        for i, row in enumerate(readout.matrix(size)):
            assert row == [1 - 2 * (state >> (size - 1 - i) & 1) for state in range(2**size)]
    assert (readout.n_outputs, readout.min_wires, readout.is_probability) == (k, k, False)
    assert readout.read_wires(k + 1) == tuple(range(k))


def test_expectation_z_may_skip_wires():
    readout = ExpectationZ(3, step=2)
    assert (readout.n_outputs, readout.min_wires) == (3, 5)
    assert readout.read_wires(6) == (0, 2, 4)
    assert readout.matrix(5) == PauliStrings(("ZIIII", "IIZII", "IIIIZ")).matrix(5)


def test_pauli_strings():
    readout = PauliStrings(["ZI", "ZZ"])
    assert readout == PauliStrings(("ZI", "ZZ"))
    assert (readout.n_outputs, readout.min_wires, readout.is_probability) == (2, 2, False)
    assert readout.matrix(2) == [[1, 1, -1, -1], [1, -1, -1, 1]]
    # On a wider register the strings stand on its first wires.
    wide = np.array(readout.matrix(3))
    np.testing.assert_array_equal(wide, np.repeat(readout.matrix(2), 2, axis=1))
    assert PauliStrings(("IZI", "IIZ")).read_wires(3) == (1, 2)


@pytest.mark.parametrize(("n", "least"), [(2, 1), (3, 2), (4, 2), (5, 3), (9, 4), (16, 4)])
def test_probabilities(n, least):
    readout = Probabilities(n)
    assert (readout.n_outputs, readout.min_wires, readout.is_probability) == (n, least, True)
    np.testing.assert_array_equal(readout.matrix(least + 1), np.eye(2 ** (least + 1))[:n])
    assert readout.read_wires(least + 1) == tuple(range(least + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpectationZ(0), "n must be an integer >= 1, got 0"),
        (lambda: ExpectationZ(2, step=0), "step must be an integer >= 1, got 0"),
        (lambda: Probabilities(1), "n must be an integer >= 2, got 1"),
        (lambda: PauliStrings(()), "at least one string"),
        (lambda: PauliStrings(("Z", "ZI")), "must have one length"),
        (lambda: PauliStrings(("ZI", "ZI")), "must differ"),
        (lambda: PauliStrings(("XI",)), "letters I and Z"),
        (lambda: PauliStrings(("II",)), "at least one Z"),
    ],
)
def test_bad_readouts(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
