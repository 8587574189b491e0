"""Other processes: forks of one small process, which has imported what they need.

To start a process and to import Qiskit takes seconds; so does a fork of a worker of pytest, which
is large.
"""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["tests.hardware.test_kill", "qiskit_ibm_runtime", "qiskit_aer", "tenacity", "platformdirs"]
)
