"""Hardware runs as a notebook shows them: results, and the state of their jobs."""

from typing import TYPE_CHECKING

from qmtl._html import facts, hardware_facts, panel, table

if TYPE_CHECKING:
    from qmtl.hardware._result import HardwareResult
    from qmtl.hardware._status import RunStatus

__all__ = ["result_html", "status_html"]

MOST_ROWS = 40


def result_html(result: "HardwareResult") -> str:
    """What ``HardwareResult._repr_html_`` returns."""
    record = result.to_dict()
    about = hardware_facts(record)
    if result.missing:
        about["samples without a result yet"] = result.missing
    rows = [{k.replace("_", " "): v for k, v in row.items()} for row in record["table"]]
    title = f"Hardware run {result.run} on {result.backend}"
    return panel(title, facts(about), table(rows[:MOST_ROWS], len(rows)))


def status_html(status: "RunStatus") -> str:
    """What ``RunStatus._repr_html_`` returns: a row per job."""
    rows: list[dict[str, object]] = [
        {
            "job": one.chunk.job or "–",
            "state": str(one),
            "attempt": one.chunk.attempt,
            "sent at": one.chunk.sent_at or "–",
        }
        for one in status.chunks
    ]
    return panel(str(status), table(rows[:MOST_ROWS], len(rows)))
