"""`Task`: its name, kind and number of outputs; its labels, loss, activation and metrics.

Missing labels are NaN in float targets and -100 in integer targets. They never reach a loss, a
gradient or a metric.
"""

from qmtl.tasks._kinds import METRICS, MISSING, Kind, metric_names
from qmtl.tasks._layout import TaskLayout, labelled_rows, task_layout
from qmtl.tasks._scores import evaluate_all, evaluate_joined
from qmtl.tasks._sequence import check_tasks, chosen_tasks
from qmtl.tasks._task import Task

__all__ = [
    "METRICS", "MISSING", "Kind", "Task", "TaskLayout", "check_tasks", "chosen_tasks",
    "evaluate_all", "evaluate_joined", "labelled_rows", "metric_names", "task_layout",
]  # fmt: skip
