"""Functions that ``torch.compile`` must not compile; import this only while it compiles.

The decorator imports the compiler, which takes seconds unless the program compiles already. While
Dynamo traces a function, it runs the import of this module, and then does not trace into the
functions here.
"""

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable
def uncompiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function as if nothing was compiled.

    Example:
        >>> uncompiled(max, 2, 3)
        3
    """
    return function(*arguments, **options)
