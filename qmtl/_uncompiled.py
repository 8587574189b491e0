"""Functions that ``torch.compile`` must not compile. Import this module only during compilation.

The decorator imports the compiler, which takes seconds if nothing has imported it yet. While
Dynamo traces a function, it runs the import of this module, and then does not trace into the
functions here.
"""

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable(
    reason="heads run kernels of their own; use fullgraph=False to compile, strict=False to export"
)
def uncompiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function as if nothing was compiled."""
    return function(*arguments, **options)
