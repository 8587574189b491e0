"""Data sets of several tasks: inputs, one target per task, missing labels allowed."""

from qmtl.data._arrays import from_arrays
from qmtl.data._chestxray import chestxray
from qmtl.data._dataset import MultiTaskData, Split
from qmtl.data._digits import digits
from qmtl.data._glue import glue
from qmtl.data._glue_files import GlueRows, glue_rows
from qmtl.data._modalities import join_modalities
from qmtl.data._mustard import mustard
from qmtl.data._mustard_files import mustard_utterances
from qmtl.data._sentences import embed_texts, pair_features
from qmtl.data._splits import label_codes
from qmtl.data._stratified import validation_cut
from qmtl.data._tables import TableColumns, from_csv, read_table

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
    "label_codes",
    "mustard",
    "mustard_utterances",
    "pair_features",
    "read_table",
    "validation_cut",
]
