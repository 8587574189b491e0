"""Training: Lightning module and data module, TorchJD's aggregators and scalarizers, `fit`."""

from qmtl.training.combine import aggregators, make_aggregator, make_scalarizer, scalarizers
from qmtl.training.datamodule import MultiTaskDataModule
from qmtl.training.evaluate import baseline_metrics, evaluate
from qmtl.training.fit import fit
from qmtl.training.loggers import log_to
from qmtl.training.module import MultiTaskModule
from qmtl.training.result import Result
from qmtl.training.settings import TrainingSettings

__all__ = [
    "MultiTaskDataModule",
    "MultiTaskModule",
    "Result",
    "TrainingSettings",
    "aggregators",
    "baseline_metrics",
    "evaluate",
    "fit",
    "log_to",
    "make_aggregator",
    "make_scalarizer",
    "scalarizers",
]
