"""Parameters for tests: a small network, few and large steps."""

from typing import Any

QUICK: dict[str, Any] = {
    "hidden": (16,),
    "max_epochs": 10,
    "batch_size": 100,
    "learning_rate": 0.05,
    "random_state": 0,
}
