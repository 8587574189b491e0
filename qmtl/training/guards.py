"""What surrounds a training run: Ctrl-C as it should be, and other libraries' notes kept out."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["plain_interrupt", "quiet_libraries"]


@contextmanager
def plain_interrupt() -> Iterator[None]:
    """Let Ctrl-C be a `KeyboardInterrupt`: Lightning exits instead, and ignores it from then on."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if in_main_thread and handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Lightning's notes on devices and workers are for its own users, not for ours."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", module="lightning_fabric")
            # Nash-MTL's problem, as TorchJD poses it; the solution is right all the same.
            warnings.filterwarnings(
                "ignore", message=".*parameterized problem that is not DPP", module="torchjd"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
