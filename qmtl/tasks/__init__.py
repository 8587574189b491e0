"""`Task`: its name, kind and number of outputs; its labels, loss, activation and metrics.

Missing labels are NaN in float targets and -100 in integer targets. They never affect losses,
gradients or metrics.
"""

from qmtl.tasks._definition import METRICS as METRICS
from qmtl.tasks._definition import MISSING as MISSING
from qmtl.tasks._definition import Kind as Kind
from qmtl.tasks._definition import metric_names as metric_names
from qmtl.tasks._infer import infer_task as infer_task
from qmtl.tasks._infer import may_be_classes as may_be_classes
from qmtl.tasks._labels import check_varied as check_varied
from qmtl.tasks._labels import rounding as rounding
from qmtl.tasks._layout import TaskLayout as TaskLayout
from qmtl.tasks._layout import labelled_rows as labelled_rows
from qmtl.tasks._layout import task_layout as task_layout
from qmtl.tasks._metrics import as_numpy as as_numpy
from qmtl.tasks._metrics import row_weights as row_weights
from qmtl.tasks._scores import evaluate_all as evaluate_all
from qmtl.tasks._scores import evaluate_joined as evaluate_joined
from qmtl.tasks._task import Task as Task
from qmtl.tasks._task import check_tasks as check_tasks
from qmtl.tasks._task import chosen_tasks as chosen_tasks
from qmtl.tasks._texts import MISSING_WORDS as MISSING_WORDS
from qmtl.tasks._texts import is_date as is_date
from qmtl.tasks._texts import is_missing as is_missing
from qmtl.tasks._texts import number_in as number_in
from qmtl.tasks._texts import number_text as number_text
from qmtl.tasks._texts import plain_text as plain_text
from qmtl.tasks._texts import shown as shown
from qmtl.tasks._texts import truth_word as truth_word
