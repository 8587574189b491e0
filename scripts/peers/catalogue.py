"""Which peers there are, what they need, and in which precisions they can compute."""

import importlib.util
from dataclasses import dataclass

from peers.limits import output_of


@dataclass(frozen=True)
class Peer:
    """One line of the table.

    Attributes:
        name: as given to ``--peers``.
        label: as printed and drawn.
        build: ``module:function`` in this folder.
        needs: packages that must be importable.
        pip: what to install for them.
        group: ``ours``, ``rival`` (our idea, another engine) or ``peer``.
        dtypes: precisions that it offers; the first one is timed, being the fastest or the only.
        fresh_cache: whether its compiled code may not come from disk, as in a new environment.
    """

    name: str
    label: str
    build: str
    needs: tuple[str, ...]
    pip: str
    group: str = "peer"
    dtypes: tuple[str, ...] = ("float32", "float64")
    fresh_cache: bool = False

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
        """Whether its cost per task is bounded, so that many tasks are no matter."""
        return self.group != "peer"


DOUBLE = ("float64",)
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
    ),
)


def importable(peer, python=None):
    """Whether what `peer` needs is installed for an interpreter; None for this one."""
    if python is None:
        return all(importlib.util.find_spec(name) is not None for name in peer.needs)
    found = f"all(importlib.util.find_spec(name) for name in {peer.needs!r})"
    return output_of([python, "-c", f"import importlib.util; print({found})"]) == "True"


def install_hint():
    """What to install for the peers, as pip names."""
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
