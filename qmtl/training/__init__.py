"""Training: `fit`, recipes and runs, TorchJD's aggregators and scalarizers, Lightning modules."""

from qmtl.training._batches import Batch, MultiTaskDataModule
from qmtl.training._combine import aggregators, make_aggregator, make_scalarizer, scalarizers
from qmtl.training._fit import check_fit, fit
from qmtl.training._jacobian import SharedJacobian
from qmtl.training._module import MultiTaskModule
from qmtl.training._optimizers import RowAdam, RowAdamW, RowSGD
from qmtl.training.build import build_circuit, build_data, build_model
from qmtl.training.curves import plot_curves
from qmtl.training.evaluate import baseline_metrics, evaluate, score
from qmtl.training.fit_rows import fit_rows
from qmtl.training.loggers import log_to
from qmtl.training.noise_section import NoiseSection, with_noise
from qmtl.training.predictions import (
    TaskPredictions,
    class_labels,
    prediction_rows,
    read_predictions,
)
from qmtl.training.progress import StepTimes
from qmtl.training.recipe import Recipe, built_in_recipes, parse_grid, read_recipe, recipe_from
from qmtl.training.result import Result
from qmtl.training.run import Run, as_csv, is_first_process, resume_run, start_run
from qmtl.training.settings import TrainingSettings, settings_from
from qmtl.training.single_task import is_separate

__all__ = [
    "Batch", "MultiTaskDataModule", "MultiTaskModule", "NoiseSection", "Recipe", "Result",
    "RowAdam", "RowAdamW", "RowSGD", "Run", "SharedJacobian", "StepTimes", "TaskPredictions",
    "TrainingSettings", "aggregators", "as_csv", "baseline_metrics", "build_circuit", "build_data",
    "build_model", "built_in_recipes", "check_fit", "class_labels", "evaluate", "fit", "fit_rows",
    "is_first_process", "is_separate", "log_to", "make_aggregator", "make_scalarizer",
    "parse_grid", "plot_curves", "prediction_rows", "read_predictions", "read_recipe",
    "recipe_from", "resume_run", "scalarizers", "score", "settings_from", "start_run", "with_noise",
]  # fmt: skip
