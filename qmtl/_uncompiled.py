"""Functions that ``torch.compile`` must not compile; import this only while it compiles.

The decorator imports the compiler, which takes seconds; a program that compiles has it anyway.
Dynamo runs such an import when it traces a function. It then finds a function that it must not
enter, and what is called within runs without its checks.
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
