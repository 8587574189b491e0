"""qmtl: quantum heads for multi-task learning.

The public names of the package. Each is imported when it is first used, so that ``qmtl --help``
answers at once and a program that only builds circuits does not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
