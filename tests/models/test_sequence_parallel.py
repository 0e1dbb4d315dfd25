"""An ldru on several workers is the ldru on one: logits, gradients, dropout, noise."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
from tests.models.test_models import build, strings
from torch.nn import functional as F

WORLD = 2
CASES = {
    f"{rule}, dropout {dropout}, noise {node_noise}": {
        "kind": "ldru",
        "width": 8,
        "lone_node": rule,
        "dropout": dropout,
        "node_noise": node_noise,
    }
    for rule, dropout, node_noise in (
        ("zero_left", 0.0, 0.0),
        ("identity", 0.3, 0.0),
        ("left_fold", 0.3, 0.2),
        ("carry", 0.0, 0.2),
    )
}


def case(config):
    # a norm of small numbers would blow up what float32 rounds
    model = build(config).double().train()
    tokens, lengths = strings(21, 3, 16, 1)
    labels = torch.tensor([0, 1, 2, 3])
    gradients, logits = [], []
    for group in (None, dist.group.WORLD):
        model.sequence_parallel(group)
        model.zero_grad()
        torch.manual_seed(3)
        logits.append(model(tokens, lengths))
        F.cross_entropy(logits[-1], labels).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(logits[1], logits[0], atol=1e-9, rtol=1e-9)
    for name, mine in gradients[1].items():
        dist.all_reduce(mine)
        torch.testing.assert_close(mine / WORLD, gradients[0][name], atol=1e-9, rtol=1e-9, msg=name)
    model.sequence_parallel(None)
    torch.manual_seed(3)
    assert torch.equal(model(tokens, lengths), logits[0])


def work(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    found = {}
    for name, config in CASES.items():
        try:
            case(config)
        except AssertionError as error:
            found[name] = str(error)
    with open(f"{out}.{rank}", "w") as file:
        json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    arguments = str(folder / "store"), str(folder / "out")
    torch.multiprocessing.start_processes(work, arguments, WORLD, start_method="spawn")
    return [json.loads((folder / f"out.{rank}").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_workers_of_a_group_are_one(wrong, name):
    for rank, found in enumerate(wrong):
        assert name not in found, f"worker {rank}: {found[name]}"
