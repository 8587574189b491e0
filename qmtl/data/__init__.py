"""Data sets of several tasks: inputs, one target per task, missing labels allowed."""

from qmtl.data._arrays import as_samples as as_samples
from qmtl.data._arrays import from_arrays as from_arrays
from qmtl.data._chestxray import chestxray as chestxray
from qmtl.data._chestxray import read_chestxray_labels as read_chestxray_labels
from qmtl.data._columns import TableColumns as TableColumns
from qmtl.data._columns import column_differences as column_differences
from qmtl.data._csv import read_table as read_table
from qmtl.data._cue_pairs import cue_pairs as cue_pairs
from qmtl.data._dataset import AnyDataSection as AnyDataSection
from qmtl.data._dataset import DataSection as DataSection
from qmtl.data._dataset import MultiTaskData as MultiTaskData
from qmtl.data._dataset import Split as Split
from qmtl.data._digits import digits as digits
from qmtl.data._glue import GlueRows as GlueRows
from qmtl.data._glue import glue as glue
from qmtl.data._glue import glue_rows as glue_rows
from qmtl.data._modalities import join_modalities as join_modalities
from qmtl.data._mustard import mustard as mustard
from qmtl.data._mustard import mustard_utterances as mustard_utterances
from qmtl.data._sentences import embed_texts as embed_texts
from qmtl.data._sentences import pair_features as pair_features
from qmtl.data._splits import label_codes as label_codes
from qmtl.data._splits import validation_cut as validation_cut
from qmtl.data._tables import from_csv as from_csv
from qmtl.data._tables import from_frame as from_frame
from qmtl.data._wine import wine as wine
