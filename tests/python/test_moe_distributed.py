"""`grouped_gemm.nn.MoE` under DDP and FSDP2: two Gloo processes on the CPU train as one does.

Rank 1's tokens never visit expert 0. Both ranks' mean loss, step by step, and the trained
parameters must equal those of one process that sees both halves of the batch.
"""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from grouped_gemm.nn import MoE
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

H, FFN, E, TOP_K = 16, 24, 4, 2
TOKENS_PER_RANK, WORLD_SIZE, STEPS = 24, 2, 5
WAYS = [(wrapper, aux_loss_coef) for wrapper in ("ddp", "fsdp2") for aux_loss_coef in (0.0, 0.1)]

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed, Gloo"
)


class Model(nn.Module):
    """One MoE layer with a residual, and a linear head."""

    def __init__(self, aux_loss_coef):
        super().__init__()
        torch.manual_seed(3)
        self.moe = MoE(H, FFN, E, TOP_K, normalize_topk=True, aux_loss_coef=aux_loss_coef)
        self.head = nn.Linear(H, H)
        with torch.no_grad():  # feature 0 decides about expert 0
            self.moe.gate.weight[0] = F.one_hot(torch.tensor(0), H) * 2.0
            self.moe.gate.weight[1:, 0] = 0.0

    def forward(self, x):
        y, stats = self.moe(x, return_stats=True)
        return self.head(x + y), stats


def make_batch():
    """Tokens [rank, T, h] and targets; feature 0 is +2 on rank 0 and -2 on rank 1."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(WORLD_SIZE, TOKENS_PER_RANK, H, generator=generator)
    x[0, :, 0], x[1, :, 0] = 2.0, -2.0
    return x, torch.randn(WORLD_SIZE, TOKENS_PER_RANK, H, generator=generator)


def train(model, parts):
    """Mean losses over `parts` ([(x, target)]), step by step, and the last tokens per expert."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for x, target in parts:
            y, stats = model(x)
            loss = (F.mse_loss(y, target) + stats.aux_loss) / len(parts)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        losses.append(total)
    return torch.stack(losses), stats.tokens_per_expert


def train_wrapped(wrapper, aux_loss_coef, rank):
    """Trains on this rank's half under DDP or FSDP2; adds the whole parameters to the result."""
    x, target = (half[rank] for half in make_batch())
    model = Model(aux_loss_coef)
    if wrapper == "ddp":
        return *train(DistributedDataParallel(model), [(x, target)]), model.state_dict()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD_SIZE,))
    fully_shard(model.moe, mesh=mesh)
    fully_shard(model, mesh=mesh)
    trained = train(model, [(x, target)])
    return *trained, {name: weight.full_tensor() for name, weight in model.state_dict().items()}


def worker(rank, folder):
    """One of two processes: trains in every way and writes what came out."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    try:
        results = {way: train_wrapped(*way, rank) for way in WAYS}
        torch.save(results, f"{folder}/rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The results of rank 0 and rank 1, by way of training."""
    folder = tmp_path_factory.mktemp("distributed")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD_SIZE)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


def train_in_one_process(aux_loss_coef):
    """The whole batch at once; the auxiliary loss is each rank's own, so with it the two halves."""
    x, target = make_batch()
    whole = [(x.flatten(0, 1), target.flatten(0, 1))]
    halves = list(zip(x, target, strict=True))
    model = Model(aux_loss_coef)
    losses, _ = train(model, halves if aux_loss_coef else whole)
    return losses, model.state_dict()


@pytest.mark.parametrize(("wrapper", "aux_loss_coef"), WAYS)
def test_two_processes_have_the_losses_of_one(two_processes, wrapper, aux_loss_coef):
    losses = [results[wrapper, aux_loss_coef][0] for results in two_processes]
    expected, _ = train_in_one_process(aux_loss_coef)
    torch.testing.assert_close(torch.stack(losses).mean(0), expected, rtol=1e-5, atol=0)
    assert expected[-1] < 0.9 * expected[0]


@pytest.mark.parametrize(("wrapper", "aux_loss_coef"), WAYS)
def test_two_processes_train_the_parameters_of_one(two_processes, wrapper, aux_loss_coef):
    _, expected = train_in_one_process(aux_loss_coef)
    for results in two_processes:
        for name, weight in results[wrapper, aux_loss_coef][2].items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("wrapper", "aux_loss_coef"), WAYS)
def test_the_empty_expert_was_empty_on_one_rank_only(two_processes, wrapper, aux_loss_coef):
    first, second = (results[wrapper, aux_loss_coef][1] for results in two_processes)
    assert first[0] == TOKENS_PER_RANK and second[0] == 0
    assert first.sum() == second.sum() == TOKENS_PER_RANK * TOP_K


def test_training_moved_every_experts_weights_and_the_auxiliary_loss_moved_the_router():
    before = Model(0.0).state_dict()
    _, after = train_in_one_process(0.0)
    for name, weight in after.items():
        moved = (weight - before[name]).abs().flatten(1 if weight.dim() > 1 else 0)
        assert (moved.amax(-1) > 1e-4).all(), name
    _, balanced = train_in_one_process(0.1)
    assert not torch.allclose(balanced["moe.gate.weight"], after["moe.gate.weight"], atol=1e-3)
