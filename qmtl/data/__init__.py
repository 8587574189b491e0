"""Data sets of several tasks: inputs, one target per task, missing labels allowed."""

from qmtl.data.arrays import from_arrays
from qmtl.data.dataset import MultiTaskData, Split
from qmtl.data.digits import digits
from qmtl.data.tables import TableColumns, from_csv

__all__ = ["MultiTaskData", "Split", "TableColumns", "digits", "from_arrays", "from_csv"]
