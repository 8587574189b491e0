"""What the compiled kernel does around its tiles: cosines and sines, and sums over angles."""

import threading

import numpy as np
import pytest
import torch

from qmtl.simulators.pauli.polynomials import Polynomials
from qmtl.simulators.pauli.tape import Tape

DTYPES = [torch.float32, torch.float64]


def cosines(rows):
    """A tape over rows in pairs: cos(a) of the first times sin(b) of the second."""
    ops = np.array([[0, 1, 4, 0, 0]], np.int64)
    polynomials = Polynomials(
        n_angles=2, ops=ops, outputs=np.array([5], np.int64), signs=np.ones(1)
    )
    return Tape(polynomials, rows)


def run(angles, rows=None):
    rows = np.array([[0, len(angles) - 1]], np.int64) if rows is None else rows
    values = cosines(rows).values(angles, angles.new_empty((2, len(rows), 0)))
    values.call.run()
    return values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1, 10, 5e3, 1e7, 1e12])
def test_cosines_and_sines_are_as_exact_as_their_precision(dtype, scale):
    # Rows of moderate and of large angles take different ways.
    angles = torch.from_numpy(np.random.default_rng(0).uniform(-scale, scale, (37, 133))).to(dtype)
    cosine, sine = run(angles, np.arange(36).reshape(18, 2)).sampled.numpy()[:, :36]
    exact = angles.numpy()[:36].astype(np.longdouble)
    assert np.abs(cosine - np.cos(exact)).max() < 1.5 * torch.finfo(dtype).eps
    assert np.abs(sine - np.sin(exact)).max() < 1.5 * torch.finfo(dtype).eps
    small = np.abs(exact) < 0.1
    np.testing.assert_allclose(
        sine[small], np.sin(exact)[small].astype(sine.dtype), rtol=4 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiples_of_a_right_angle_keep_what_they_lack(dtype):
    angles = (torch.arange(-40, 41, dtype=torch.float64) * torch.pi / 2).to(dtype)[None]
    cosine, sine = run(angles).sampled.numpy()[:, 0]
    exact = angles[0].numpy().astype(np.longdouble)
    np.testing.assert_allclose(cosine, np.cos(exact).astype(cosine.dtype), rtol=1e-5, atol=1e-22)
    np.testing.assert_allclose(sine, np.sin(exact).astype(sine.dtype), rtol=1e-5, atol=1e-22)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_a_number_stays_at_its_place(dtype, bad):
    angles = torch.zeros(3, 40, dtype=dtype)
    angles[1, 17] = bad
    found = run(angles, np.array([[0, 1], [1, 2]])).sampled
    wrong = ~found.isfinite()
    assert wrong[:, 1, 17].all()
    assert wrong.sum() == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_of_any_strides(dtype):
    whole = torch.randn(7, 50, 2, dtype=dtype)
    expected = run(whole[:, 3:, 1].contiguous())
    for angles in (whole[:, 3:, 1], whole[:, 3:, 1].T.contiguous().T):
        assert torch.equal(run(angles).found, expected.found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("samples", [1, 5, 32, 300])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_gradients_are_summed_over_the_places_of_a_row(dtype, samples, n_threads):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        # Row 3 is in no place, row 40 in many, and the last ones in none.
        rows = np.random.default_rng(0).choice([0, 1, 2, *range(4, 40), *[40] * 9], (60, 2))
        angles = torch.randn(samples, 50, dtype=dtype).T.requires_grad_()
        fixed = angles.new_empty((2, len(rows), 0))
        tape, values = cosines(rows), run(angles, rows)
        gradient = torch.randn(values.found.shape, dtype=dtype)
        work = tape.pull_back(None, values.sampled, fixed, gradient, like=angles)
        work.call.run()
    finally:
        torch.set_num_threads(before)
    first, second = angles[torch.from_numpy(rows)].unbind(1)
    (first.cos() * second.sin() * gradient[:, 0]).sum().backward()
    torch.testing.assert_close(work.by_row, angles.grad)
    assert work.by_row.T.is_contiguous()


@pytest.mark.parametrize("place", ["before the tiles", "after the tiles"])
def test_a_thread_does_not_wait_for_ever(place):
    """One item is another thread's, which is not running: more threads than cores."""
    from qmtl.simulators.pauli.kernel import BEFORE

    angles, rows = torch.randn(3, 40), np.array([[0, 1], [1, 2]])
    values = run(angles, rows)
    if place == "before the tiles":
        call = cosines(rows).values(angles, angles.new_empty((2, 2, 0))).call
        call.table[BEFORE] = 1
    else:
        fixed, gradient = angles.new_empty((2, 2, 0)), torch.ones_like(values.found)
        call = cosines(rows).pull_back(None, values.sampled, fixed, gradient, like=angles).call
        call.table[1] = 1
    thread = threading.Thread(target=call.run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
