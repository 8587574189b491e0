"""A small prepared run, and the service that it is sent to."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from qmtl.hardware import Client, Estimate, Patience, PreparedRun
from qmtl.hardware._prepared_run import (
    Chunk,
    Decoding,
    Observable,
    Pub,
    TaskReading,
    chunk_hash,
)
from qmtl.hardware._qiskit import fingerprint

BACKEND = "ibm_manila"
# As the default, in a time that suits tests.
QUICK = Patience(
    sends=4, lookups=4, first_wait=0.01, longest_wait=0.05, outage=5.0, first_poll=0.01,
    longest_poll=0.05,
)  # fmt: skip


def quick(service=None, **changes):
    """A client of a service (None: of the account's) that waits as long as suits tests."""
    return Client(service, replace(QUICK, **changes))


def backend_files(name="manila") -> tuple[Path, Path]:
    from qiskit_ibm_runtime import fake_provider

    folder = Path(fake_provider.__file__).parent / "backends" / name
    return folder / f"conf_{name}.json", folder / f"props_{name}.json"


def impatient():
    """A service whose client tries again without waiting."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    service = QiskitRuntimeService()
    for client in service._api_clients.values():
        for adapter in client._session.adapters.values():
            adapter.max_retries = adapter.max_retries.new(backoff_factor=0)
    return service


def small_run(chunks=1, *, shots=20, mode=None, backend=BACKEND, seed=0, options=None, request=""):
    """Two samples a chunk of one task on two wires."""
    from qiskit import ClassicalRegister, QuantumCircuit
    from qiskit.circuit import Parameter

    circuit = QuantumCircuit(5)
    register = ClassicalRegister(2, "a")
    circuit.add_register(register)
    circuit.rz(Parameter("x"), 1)
    circuit.x(1)
    circuit.cx(1, 2)
    circuit.measure([1, 2], register)
    values = (np.random.default_rng(seed).normal(size=(2 * chunks, 1)),)
    pubs = [(Pub(0, (2 * i, 2 * i + 2), shots),) for i in range(chunks)]
    reading = TaskReading(
        "a", 0, "a", (1, 2), (Observable((0,), ((1.0, -1.0),), (0,)),), 1, False, 5.0
    )
    options = options or {}
    return PreparedRun(
        backend=backend,
        primitive="sampler",
        mode=mode or ("job" if chunks == 1 else "batch"),
        circuits=(circuit,),
        values=values,
        chunks=tuple(
            Chunk(
                i, pub, 2 * shots,
                chunk_hash(backend, pub, (fingerprint(circuit),), values, options),
            )
            for i, pub in enumerate(pubs)
        ),
        decoding=Decoding((reading,), 2 * chunks, ((0,),)),
        options=options,
        estimate=Estimate(2, 3, 1, 1, 0, 0.9, {}, 1, 2 * shots * chunks, chunks, 10.0, 0, (1, 2)),
        execution="whole circuit" if backend == "aer" else "device",
        request=request,
    )  # fmt: skip
