"""Processes that are forks of this one: they need not import torch again, which takes seconds."""

import asyncio
import functools
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any


class Forked(subprocess.Popen):
    """To put in the place of `subprocess.Popen` where code starts another Python.

    Other programs are started. The child takes its streams, variables and folder from the
    arguments, and runs the module, file or text that the command names. It may run one thread
    only: a fork has no other thread of OpenMP's. It has no open files of this process.
    """

    def __init__(self, args: Sequence[Any], **options: Any) -> None:
        if args[0] == sys.executable:
            words = [str(word) for word in args[1:]]
            options["preexec_fn"] = functools.partial(_run, words, options.get("env"))
        super().__init__(args, **options)


def _run(words: list[str], variables: dict[str, str] | None) -> None:
    """What the child does instead of starting the program, and then it ends."""
    # One of the open files tells `Popen`, when it is closed, that the program has started.
    os.closerange(3, 2**16)
    status = 1
    asyncio.set_event_loop_policy(None)  # not the loop of the code that has started this process
    try:
        sys.stdin = os.fdopen(0)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        if variables is not None:
            os.environ.clear()
            os.environ.update(variables)
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(words[1], {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without Python's own end, which would end pytest.
        os._exit(status)
