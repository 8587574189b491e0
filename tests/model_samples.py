"""Models with every head and encoder, and inputs for them."""

import torch

from qmtl.circuit import HeadCircuit, IdentityAnsatz, IQPEncoding
from qmtl.encoders import MLP, Identity
from qmtl.heads import LinearHead, LocalLinearHead, QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task

TASKS = [
    Task.binary("keys"),
    Task.multiclass("emotion", 3),
    Task.multilabel("finding", 2),
    Task.regression("STS-B"),
    Task.regression("two targets", 2),
]
CIRCUIT = HeadCircuit(TASKS)
WIDTH = CIRCUIT.n_features
HEADS = {
    "quantum": lambda: QuantumHead(CIRCUIT, seed=0),
    "quantum without weights": lambda: QuantumHead(
        HeadCircuit(TASKS, IQPEncoding(), IdentityAnsatz()), angle_map="identity", seed=0
    ),
    "linear": lambda: LinearHead(TASKS, WIDTH, seed=0),
    "local": lambda: LocalLinearHead.on_cones(CIRCUIT, seed=0),
}
ENCODERS = {
    "identity": lambda: Identity(WIDTH),
    "mlp": lambda: MLP(6, 8, out_features=WIDTH, activation="tanh", dropout=0.3, seed=0),
}


def make_model(encoder="mlp", head="quantum"):
    model = MultiTaskModel(ENCODERS[encoder](), HEADS[head]())
    model.set_target_scale("STS-B", torch.tensor(2.5), torch.tensor(0.5))
    model.set_target_scale("two targets", torch.tensor([1.0, -7.0]), torch.tensor([3.0, 10.0]))
    return model


def inputs_of(model, batch=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, model.encoder.in_features, generator=generator)
