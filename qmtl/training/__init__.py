"""Training: `fit`, TorchJD's aggregators and scalarizers, Lightning modules."""

import os

import lazy_loader

from qmtl.errors import InvalidInputError

# Lightning reads these when it is imported, and raises an error that does not name them.
for _name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
    try:
        int(os.environ.get(_name, "0"))
    except ValueError:
        raise InvalidInputError(
            f"the environment variable {_name}, the number of this process among those of one "
            f"training, must be a whole number, got {os.environ[_name]!r}; unset it for one process"
        ) from None

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
