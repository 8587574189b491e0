"""How the kernels are compiled by numba."""

from typing import Any

import numba.np.arraymath  # noqa: F401  (the first call of a kernel would import it, for 0.3 s)
from numba import njit

__all__ = ["kernel", "part"]

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
_OPTIONS: Any = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}
# Parts are joined before compilation: optimising each alone and joined again takes much longer.
part = njit(inline="always", **_OPTIONS)


def kernel(function: Any) -> Any:
    """A compiled function, kept on disk if there is a place for it."""
    try:
        return njit(cache=True, nogil=True, **_OPTIONS)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's can be written: compile in every process.
        return njit(nogil=True, **_OPTIONS)(function)
