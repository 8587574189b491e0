"""The tables of a benchmark as CSV, in full precision."""

from qmtl._io import as_csv
from qmtl.experiments._statistics import estimate
from qmtl.experiments._summary import BenchSummary, HeadScores

__all__ = ["metrics_csv", "seeds_csv", "summary_csv"]


def summary_csv(summary: BenchSummary) -> str:
    """One row per head, in full precision."""
    comparisons, transfer = summary.compare(), summary.transfer()
    rows = []
    for scores in summary.heads:
        mean, ece = estimate(scores.means()), estimate(scores.calibration())
        found, change = comparisons.get(scores.head), transfer.get(scores.head)
        rows.append(
            {
                "head": scores.head,
                "head_parameters": scores.some.head_parameters,
                "total_parameters": scores.some.total_parameters,
                "mean": mean.mean,
                "mean_interval": mean.half_width,
                "difference": found.test.difference.mean if found else "",
                "difference_interval": found.test.difference.half_width if found else "",
                "t_test_p": found.test.t_test if found else "",
                "t_test_p_holm": found.corrected if found else "",
                "wilcoxon_p": found.test.wilcoxon if found else "",
                "delta_m_percent": change.mean if change else "",
                "delta_m_interval": change.half_width if change else "",
                "ece": ece.mean,
                "ece_interval": ece.half_width,
                "step_seconds": scores.step_seconds,
                "best_epoch": scores.best_epoch,
                "seeds": mean.n,
                "setting": "; ".join(f"{key}={value}" for key, value in scores.setting.items()),
            }
        )
    return as_csv(rows)


def metrics_csv(summary: BenchSummary) -> str:
    """One row per head, task and metric: mean and interval of the test scores."""
    return as_csv(
        {
            "head": scores.head,
            "task": task,
            "metric": metric,
            "main": metric == summary.tasks[task],
            "mean": (found := estimate(scores.scores(task, metric))).mean,
            "interval": found.half_width,
            "seeds": found.n,
        }
        for scores in _all(summary)
        for task in summary.tasks
        for metric in scores.metrics[task]
    )


def seeds_csv(summary: BenchSummary) -> str:
    """One row per head, task, metric and seed, for statistics of one's own."""
    return as_csv(
        {"head": scores.head, "task": task, "metric": metric, "seed": seed, "test": value}
        for scores in _all(summary)
        for task in summary.tasks
        for metric in scores.metrics[task]
        for seed, value in enumerate(scores.scores(task, metric))
    )


def _all(summary: BenchSummary) -> list[HeadScores]:
    return [*summary.heads, *([summary.probe] if summary.probe else [])]
