"""QuantumHead as a torch module: copies, dtypes, torch.func, simulators, processes."""

import copy
import os
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding
from qmtl.errors import InvalidInputError
from qmtl.heads import HeadOptions, QuantumHead, build_head
from qmtl.simulators import Explanation, LightConeSimulator
from qmtl.tasks import Task
from tests.heads.quantum_samples import CIRCUIT, TASKS, assert_equal, features


class TestTorch:
    def test_state_dict_round_trip(self):
        head, other = QuantumHead(CIRCUIT, seed=0), QuantumHead(CIRCUIT, seed=1)
        other.load_state_dict(head.state_dict())
        assert_equal(head(features()), other(features()))

    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))]
    )
    def test_copies(self, duplicate):
        head = QuantumHead(CIRCUIT, seed=0)
        before = head(features())
        other = duplicate(head)
        assert_equal(other(features()), before)
        with torch.no_grad():
            other.encoding.add_(1)
        assert_equal(head(features()), before)

    def test_float64(self):
        head = QuantumHead(CIRCUIT, seed=0)
        single = head(features())
        double = copy.deepcopy(head).to(torch.float64)(features(dtype=torch.float64))
        for name, logits in double.items():
            assert logits.dtype == torch.float64
            torch.testing.assert_close(logits.float(), single[name], rtol=1e-3, atol=1e-4)

    def test_meta(self):
        logits = QuantumHead(CIRCUIT, seed=0).to("meta")(features().to("meta"))
        assert all(v.is_meta for v in logits.values())
        assert [tuple(v.shape) for v in logits.values()] == [(5, 1), (5, 3), (5, 1), (5, 2)]

    def test_sequential(self):
        head = QuantumHead(CIRCUIT, seed=0)
        linear = nn.Linear(7, CIRCUIT.n_features)
        x = torch.randn(3, 7)
        assert_equal(nn.Sequential(linear, head)(x), head(linear(x)))

    def test_vmap(self):
        head = QuantumHead(CIRCUIT, seed=0)
        rows = vmap(lambda row: head(row[None]))(features())
        for name, logits in head(features()).items():
            torch.testing.assert_close(rows[name][:, 0], logits)

    def test_jacrev_over_parameters_and_features(self):
        head = QuantumHead(CIRCUIT, seed=0).double()
        x = features(dtype=torch.float64).requires_grad_()
        parameters = dict(head.named_parameters())
        jacobians = jacrev(lambda p, x: functional_call(head, p, (x,)), argnums=(0, 1))(
            parameters, x
        )
        for name, logits in head(x).items():
            of_parameters, of_x = jacobians[name]
            assert list(of_parameters) == list(parameters)
            for index in ((0, 0), (4, -1)):
                expected = torch.autograd.grad(
                    logits[index], [*parameters.values(), x], retain_graph=True, allow_unused=True
                )
                got = [*of_parameters.values(), of_x]
                for want, jacobian in zip(expected, got, strict=True):
                    want = torch.zeros_like(jacobian[index]) if want is None else want
                    torch.testing.assert_close(jacobian[index], want, rtol=1e-9, atol=1e-12)

    def test_gradients_per_sample(self):
        head = QuantumHead(CIRCUIT, seed=0).double()
        x = features(dtype=torch.float64)
        parameters = {name: p.detach() for name, p in head.named_parameters()}

        def loss(parameters, row):
            logits = functional_call(head, parameters, (row[None],))
            return sum(value.square().sum() for value in logits.values())

        rows = vmap(jacrev(loss), in_dims=(None, 0))(parameters, x)
        sum(value.square().sum() for value in head(x).values()).backward()
        for name, parameter in head.named_parameters():
            torch.testing.assert_close(rows[name].sum(0), parameter.grad, rtol=1e-9, atol=1e-12)

    def test_ensembles(self):
        heads = [QuantumHead(CIRCUIT, seed=seed) for seed in (0, 1)]
        stacked, _ = torch.func.stack_module_state(heads)
        x = features()
        logits = vmap(lambda p: functional_call(heads[0], p, (x,)))(stacked)
        for i, head in enumerate(heads):
            for name, value in head(x).items():
                torch.testing.assert_close(logits[name][i], value)

    def test_optimiser_state_of_the_others_survives_a_new_task(self):
        fewer, more = (
            QuantumHead(HeadCircuit(tasks), seed=0) for tasks in (TASKS, [*TASKS, Task.binary("n")])
        )
        missing, unexpected = more.load_state_dict(
            {k: v for k, v in fewer.state_dict().items() if k != "encoding"}, strict=False
        )
        assert set(missing) == {"encoding", "blocks.task_n", "scales.task_n"}
        assert not unexpected


class TestSimulators:
    def test_shares_parameters(self):
        head = QuantumHead(CIRCUIT, seed=0)
        twin = head.with_simulator("default.qubit")
        assert isinstance(head.simulator, LightConeSimulator)
        for mine, other in zip(head.parameters(), twin.parameters(), strict=True):
            assert mine is other
        for _ in range(2):
            for name, logits in twin(features()).items():
                torch.testing.assert_close(logits, head(features())[name], rtol=1e-3, atol=1e-4)
            with torch.no_grad():
                head.encoding.add_(0.3)
        twin(features())["cola"].sum().backward()
        assert head.encoding.grad is not None

    def test_explain(self):
        head = QuantumHead(CIRCUIT, seed=0)
        assert isinstance(head.explain(batch_size=8), Explanation)
        assert isinstance(head.with_simulator("default.qubit").explain(), Explanation)

    def test_repr(self):
        assert "LightConeSimulator" in repr(QuantumHead(CIRCUIT, seed=0))

    @pytest.mark.parametrize("simulator", ["lightcone", "default.qubit"])
    def test_description(self, simulator):
        head = QuantumHead(CIRCUIT, simulator, angle_map="identity", seed=0)
        again = QuantumHead.from_dict(head.to_dict())
        assert again.circuit == head.circuit
        assert again.to_dict() == head.to_dict()
        assert repr(again.simulator) == repr(head.simulator)


def _distributed_gradients(rank, folder, encodings):
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    x = torch.load(f"{folder}/x.pt")[rank::2]
    for i, encoding in enumerate(encodings):
        circuit = HeadCircuit(TASKS, encoding)
        model = nn.Sequential(
            nn.Linear(6, circuit.n_features), QuantumHead(circuit, seed=rank)
        ).double()
        if rank == 0:  # the ranks begin apart: the first one's parameters must win
            model.load_state_dict(torch.load(f"{folder}/start{i}.pt"))
        parallel = DistributedDataParallel(model)
        for _ in range(2):  # the second step fails if a parameter was left out of the first
            parallel.zero_grad()
            sum(v.square().mean() for v in parallel(x).values()).backward()
        if rank == 0:
            torch.save({n: p.grad for n, p in model.named_parameters()}, f"{folder}/grads{i}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    # Without Python's own end: a thread of Gloo that asks for the interpreter lock then aborts.
    os._exit(0)


@pytest.mark.slow
def test_distributed_gradients_are_those_of_the_joint_batch(tmp_path):
    """Of both encodings in the same two processes, which are forks: others would import torch."""
    encodings, models = [AngleEncoding(), IQPEncoding()], []
    x = torch.randn(8, 6, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    for i, encoding in enumerate(encodings):
        circuit = HeadCircuit(TASKS, encoding)
        layers = nn.Linear(6, circuit.n_features), QuantumHead(circuit, seed=0)
        models.append(nn.Sequential(*layers).double())
        torch.save(models[i].state_dict(), tmp_path / f"start{i}.pt")
    torch.multiprocessing.start_processes(
        _distributed_gradients, (str(tmp_path), encodings), nprocs=2, start_method="fork"
    )
    for i, model in enumerate(models):
        sum(v.square().mean() for v in model(x).values()).backward()
        gradients = torch.load(tmp_path / f"grads{i}.pt")
        for name, parameter in model.named_parameters():
            if parameter.numel():
                torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_compiled_says_what_can():
    head = QuantumHead(HeadCircuit(TASKS), seed=0)
    x = torch.zeros(2, head.n_features)
    words = "fullgraph=False to compile, strict=False to export"
    with pytest.raises(RuntimeError, match=words):
        torch.compile(head, backend="eager", fullgraph=True)(x)
    with pytest.raises(RuntimeError, match=words):
        torch.export.export(head, (x,), strict=True)


def test_parameters_can_be_resized_after_a_step():
    """As torch's FSDP does, which frees parameters that other processes store."""
    head = QuantumHead(HeadCircuit(TASKS), seed=0)
    head(torch.zeros(2, head.n_features), joined=True).sum().backward()
    assert all(p.untyped_storage().resizable() for p in head.parameters())


CHAIN = HeadCircuit([Task.binary(f"t{i}") for i in range(6)], AngleEncoding(entangler="cnot_ring"))
TWO = [Task.binary("a"), Task.multiclass("b", 3)]
DENSE = HeadCircuit(TWO, AngleEncoding(entangler="all_to_all"))


class TestCompilers:
    """What torch's own compilers and mixed precision make of a head."""

    class Model(nn.Module):
        def __init__(self, head):
            super().__init__()
            torch.manual_seed(0)
            layers = (nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, head.n_features))
            self.encoder, self.head = nn.Sequential(*layers), head

        def forward(self, x):
            return self.head(self.encoder(x))

    @pytest.mark.parametrize("device", [None, "cpu"])
    def test_compile_takes_the_encoder_and_leaves_the_head_as_it_is(self, device):
        graphs = []

        def backend(graph, inputs):
            graphs.append([n for n in graph.graph.nodes if n.op.startswith("call")])
            return graph.forward

        model, x = self.Model(QuantumHead(CIRCUIT, seed=0)), torch.randn(5, 7)
        torch.set_default_device(device)
        try:
            compiled = torch.compile(model, backend=backend)
            found = compiled(x)
            sum(value.sum() for value in found.values()).backward()
        finally:
            torch.set_default_device(None)
        assert_equal(found, model(x))
        assert len([nodes for nodes in graphs if nodes]) == 1
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_a_compiled_step_decides_nothing_anew(self, monkeypatch):
        """What stays uncompiled is decided while it compiles: steps of a new size or without
        gradients compile nothing of the head and make no wrapper."""
        model = self.Model(QuantumHead(CIRCUIT, seed=0))
        compiled = torch.compile(model, backend="eager", dynamic=True)
        sum(value.sum() for value in compiled(torch.randn(5, 7)).values()).backward()
        monkeypatch.setattr(torch.compiler, "disable", None)
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch in (5, 6, 9):
                x = torch.randn(batch, 7)
                assert_equal(compiled(x), model(x))

    # The default is exported in the next test, a shared register in tests/test_export.py.
    @pytest.mark.parametrize("circuit", [CHAIN, DENSE])
    def test_an_exported_head_gives_the_same_and_the_head_still_runs(self, circuit):
        head = QuantumHead(circuit, seed=0)
        x = torch.randn(3, head.n_features)
        exported = torch.export.export(head, (x,)).module()
        for name, value in head(x).items():
            torch.testing.assert_close(exported(x)[name], value, rtol=1e-4, atol=1e-4)

    def test_an_exported_head_takes_any_batch(self):
        head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        batch, x = torch.export.Dim("batch", min=2), torch.randn(5, head.n_features)
        program = torch.export.export(head, (x,), dynamic_shapes={"features": {0: batch}})
        for size in (2, 11):
            x = torch.randn(size, head.n_features)
            for name, value in program.module()(x).items():
                torch.testing.assert_close(value, head(x)[name], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("precision", [torch.float32, torch.float64])
    def test_autocast_before_the_head(self, dtype, precision):
        head = QuantumHead(CIRCUIT, seed=0).to(precision)
        model, x = self.Model(head).to(precision), torch.randn(5, 7, dtype=precision)
        with torch.autocast("cpu", dtype=dtype):
            rounded = model.encoder(x)
            found = model(x)
            loss = sum(value.square().sum() for value in found.values())
        assert rounded.dtype == (dtype if precision == torch.float32 else precision)
        assert {value.dtype for value in found.values()} == {precision}
        assert_equal(found, head(rounded.to(precision)))
        loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())

    @pytest.mark.parametrize("kind", ["mixture", "hyper", "linear", "local-cone", "vqc-per-task"])
    def test_every_head_computes_in_its_own_precision(self, kind):
        head = build_head(kind, CIRCUIT, HeadOptions(seed=0))
        x = torch.randn(5, head.n_features).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = head(x)
        assert_equal(found, head(x.float()))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_weights_of_half_precision_are_refused(self, dtype):
        head = QuantumHead(CIRCUIT, seed=0).to(dtype)
        with pytest.raises(InvalidInputError, match=r"its weights are torch\.\w+; .*autocast"):
            head(features().to(dtype))

    @pytest.mark.parametrize("size", [0, "a"])
    def test_explain_takes_a_number_of_samples(self, size):
        with pytest.raises(InvalidInputError, match="batch_size must be an integer >= 1"):
            QuantumHead(CIRCUIT, seed=0).explain(batch_size=size)

    def test_half_precision_without_autocast_is_refused(self):
        head = QuantumHead(CIRCUIT, seed=0)
        with pytest.raises(InvalidInputError, match=r"must be torch\.float32.*got torch\.bfloat16"):
            head(features().bfloat16())
