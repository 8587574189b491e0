"""Data sets of several tasks: inputs, one target per task, missing labels allowed."""

from qmtl.data.arrays import from_arrays
from qmtl.data.chestxray import chestxray
from qmtl.data.dataset import MultiTaskData, Split
from qmtl.data.digits import digits
from qmtl.data.glue import glue
from qmtl.data.glue_files import GlueRows, glue_rows
from qmtl.data.modalities import join_modalities
from qmtl.data.mustard import mustard
from qmtl.data.mustard_files import mustard_utterances
from qmtl.data.sentences import embed_texts, pair_features
from qmtl.data.tables import TableColumns, from_csv

__all__ = [
    "GlueRows",
    "MultiTaskData",
    "Split",
    "TableColumns",
    "chestxray",
    "digits",
    "embed_texts",
    "from_arrays",
    "from_csv",
    "glue",
    "glue_rows",
    "join_modalities",
    "mustard",
    "mustard_utterances",
    "pair_features",
]
