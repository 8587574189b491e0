"""Which peers there are, what they need, and in which precisions they can compute."""

import hashlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from peers.limits import output_of


@dataclass(frozen=True)
class Peer:
    """A peer, which is one line of the table.

    Attributes:
        name: as given to ``--peers``.
        label: as printed and drawn.
        build: ``module:function`` in this folder.
        needs: packages that must be importable.
        pip: what to install for them.
        group: ``ours``, ``rival`` (another peer whose cost per task is bounded) or ``peer``.
        dtypes: precisions that it offers; the first, which is the fastest, is timed.
        fresh_cache: whether it compiles without a cache on disk, as in a new environment.
        environment: pinned packages of an environment of its own; empty for none.
        truncated: whether it leaves out small terms, so that its results may differ.
    """

    name: str
    label: str
    build: str
    needs: tuple[str, ...]
    pip: str
    group: str = "peer"
    dtypes: tuple[str, ...] = ("float32", "float64")
    fresh_cache: bool = False
    environment: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def timed(self):
        """The precision that is timed."""
        return self.dtypes[0]

    @property
    def checked(self):
        """The precision in which it is compared with the reference before timing."""
        return "float64" if "float64" in self.dtypes else "float32"

    @property
    def bounded(self):
        """Whether its cost per task is bounded, so that it can run many tasks."""
        return self.group != "peer"


DOUBLE = ("float64",)
JAX = ("tensorcircuit-ng==1.10.0", "jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6")
PEERS = (
    Peer("qmtl", "qmtl", "ours:build", ("qmtl",), "qmtl", "ours"),
    Peer("qmtl-double", "qmtl, double precision", "ours:build", ("qmtl",), "qmtl", "ours", DOUBLE),
    Peer(
        "qmtl-cold",
        "qmtl, empty kernel cache",
        "ours:build",
        ("qmtl",),
        "qmtl",
        "ours",
        ("float32",),
        fresh_cache=True,
    ),
    Peer("qmtl-eager", "qmtl, torch engine", "ours:build_eager", ("qmtl",), "qmtl", "ours"),
    Peer("torch-cone", "plain torch on cones", "torch_cone:build", ("torch",), "torch", "rival"),
    Peer(
        "pennylane-cone",
        "PennyLane default.qubit on cones",
        "pennylane_cone:build",
        ("pennylane",),
        "pennylane",
        "rival",
        DOUBLE,
    ),
    Peer(
        "pennylane",
        "PennyLane default.qubit",
        "pennylane_all:build",
        ("pennylane",),
        "pennylane",
        dtypes=DOUBLE,
    ),
    Peer(
        "lightning",
        "PennyLane lightning.qubit",
        "pennylane_all:build_lightning",
        ("pennylane", "pennylane_lightning"),
        "pennylane-lightning",
    ),
    Peer(
        "qiskit",
        "Qiskit Machine Learning, reverse gradient",
        "qiskit_peer:build",
        ("qiskit_machine_learning", "qiskit_algorithms"),
        "qiskit-machine-learning qiskit-algorithms",
        dtypes=DOUBLE,
    ),
    Peer(
        "torchquantum",
        "torchquantum",
        "torchquantum_peer:build",
        ("torchquantum",),
        "torchquantum 'qiskit<1'",
        dtypes=("float32",),
    ),
    Peer("deepquantum", "DeepQuantum", "deepquantum_peer:build", ("deepquantum",), "deepquantum"),
    Peer("pyqtorch", "PyQTorch", "pyqtorch_peer:build", ("pyqtorch",), "pyqtorch"),
    Peer(
        "tensorcircuit-torch",
        "tensorcircuit-ng, torch, light cone",
        "tensorcircuit_peer:build",
        ("tensorcircuit", "torch"),
        "tensorcircuit-ng",
    ),
    Peer(
        "tensorcircuit-jax",
        "tensorcircuit-ng, jax jit, light cone",
        "tensorcircuit_peer:build_jax",
        ("tensorcircuit", "jax"),
        "tensorcircuit-ng jax",
        environment=("tencirpauli==0.5.0", *JAX),
    ),
)


def _of_2026(name, label, build, needs, *environment, dtypes=DOUBLE, **options):
    pip = " ".join(environment)
    return Peer(name, label, build, needs, pip, dtypes=dtypes, environment=environment, **options)


PEERS += (
    Peer("linear", "nn.Linear, dense", "linear:build", ("torch",), "torch", "rival"),
    _of_2026(
        "tencirpauli",
        "TenCirPauli, Pauli propagation",
        "pauli_peer:build_tencirpauli",
        ("tencirpauli",),
        "tencirpauli==0.5.0",
        *JAX,
    ),
    _of_2026(
        "monoprop",
        "monoprop, Pauli propagation",
        "pauli_peer:build_monoprop",
        ("monoprop",),
        "monoprop==0.9.2",
        "numpy==2.4.6",
    ),
    _of_2026(
        "tensorcircuit-pauliprop",
        "tensorcircuit-ng, pauliprop on jax, three wires",
        "pauli_peer:build_tensorcircuit",
        ("tensorcircuit", "jax"),
        "tencirpauli==0.5.0",
        *JAX,
        dtypes=("float32",),
        truncated=True,
    ),
    _of_2026(
        "quimb",
        "quimb, reverse light cones, torch",
        "quimb_peer:build",
        ("quimb", "torch"),
        "quimb==1.16.0",
        "cotengra==0.8.3",
        "torch==2.13.0",
        dtypes=("float32", "float64"),
    ),
    _of_2026(
        "maestro",
        "PennyLane maestro.qubit, matrix-product states",
        "pennylane_all:build_maestro",
        ("pennylane_maestro", "torch"),
        "pennylane-maestro==0.6.0",
        "pennylane==0.45.1",
        "torch==2.13.0",
    ),
)
NOT_RUN = {
    "PennyLane lightning.tensor": "needs an NVIDIA GPU and cuTensorNet, gigabytes of CUDA packages",
    "padopauli": (
        "its licence (NORMA Binary License 1.0, section 7.8) asks that a person obtains and runs "
        "it, and lets no automated process do so; it also wants torch below 2.13"
    ),
}
"""Peers of 2026 that are not run, and why."""


def importable(peer, python=None):
    """Return whether an interpreter (None: this one) has the packages that `peer` needs."""
    if python is None:
        return all(importlib.util.find_spec(name) is not None for name in peer.needs)
    found = f"all(importlib.util.find_spec(name) for name in {peer.needs!r})"
    return output_of([python, "-c", f"import importlib.util; print({found})"]) == "True"


def own_environment(peer, folder):
    """Return the interpreter of a peer's environment, made if missing; None if that fails."""
    name = hashlib.sha256(" ".join(peer.environment).encode()).hexdigest()[:12]
    python = Path(folder) / name / "bin" / "python"
    ready = python.parent.parent / "ready"
    if ready.is_file():
        return str(python)
    print(f"{peer.name}: making an environment with {peer.pip} ...", flush=True)
    install = [python, "-m", "pip", "install", "--quiet", *peer.environment]
    for command in ([sys.executable, "-m", "venv", "--clear", python.parent.parent], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{peer.name}: cannot be installed: {reason[:200]}")
            return None
    ready.touch()
    return str(python)


def install_hint():
    """Return the pip names of the packages that the peers need."""
    lines = ["peer                  pip install"]
    lines += [f"{peer.name:20}  {peer.pip}" for peer in PEERS if peer.group == "peer"]
    return "\n".join(
        [
            *lines,
            "",
            "Peers may disagree about versions of what they share (torchquantum wants Qiskit below",
            "1.0): give such a peer an environment of its own, with torch of the same version,",
            "and name its interpreter: --python torchquantum=PATH/bin/python",
        ]
    )
