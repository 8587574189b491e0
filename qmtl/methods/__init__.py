"""Methods of multi-task learning, each switched on by one option of the section ``[training]``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
