"""Batch normalisation of generators against torch's, by hand, and in two processes.

Run as a script, this file is one of the two processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from steelman.adversaries.generators.batchnorm import GlobalBatchNorm

LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 2, 2])


def layer(classes: int | None) -> GlobalBatchNorm:
    torch.manual_seed(0)
    norm = GlobalBatchNorm(3, classes).double()
    for value in norm.parameters():
        nn.init.normal_(value)
    return norm


def data() -> tuple[Tensor, Tensor]:
    """Images, and the weights of their answers in a loss."""
    chance = torch.Generator().manual_seed(1)
    return tuple(torch.randn(8, 3, 4, 5, generator=chance, dtype=torch.float64) * 3 + 2 for _ in range(2))


def passed(norm: GlobalBatchNorm, x: Tensor, weights: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    """Answers, gradients and statistics of two batches in train mode, the second one scaled."""
    found = {}
    for turn, scale in enumerate((1.0, 0.2)):
        leaf = (scale * x).requires_grad_()
        answer = norm(leaf, y)
        norm.zero_grad()
        (answer.square() * weights).sum().backward()
        found |= {f"answer {turn}": answer.detach(), f"slope {turn}": leaf.grad}
        found |= {f"{name} {turn}": value.grad.clone() for name, value in norm.named_parameters()}
    return found | {name: value.clone() for name, value in norm.named_buffers()}


def test_without_classes_it_is_torch_s() -> None:
    (x, weights), ours, theirs = data(), layer(None), nn.BatchNorm2d(3).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.scale)
        theirs.bias.copy_(ours.shift)
    assert ours.eps == theirs.eps
    for scale in (1.0, 0.2):
        slopes = []
        for norm in (ours, theirs):
            leaf = (scale * x).requires_grad_()
            slopes.append(torch.autograd.grad((norm(leaf).square() * weights).sum(), [leaf, *norm.parameters()]))
        torch.testing.assert_close(*slopes)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(ours.get_buffer(name), theirs.get_buffer(name))
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("training", [True, False])
def test_scale_and_shift_are_the_shared_ones_plus_those_of_the_class(training: bool) -> None:
    (x, _), norm = data(), layer(3).train(training)
    norm.running_var.uniform_(0.5, 2)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    answer = norm(x, LABELS)
    for image in range(8):
        for channel in range(3):
            if training:
                mean[channel] = x[:, channel].mean()
                var[channel] = (x[:, channel] - mean[channel]).square().mean()
            normal = (x[image, channel] - mean[channel]) / (var[channel] + 1e-5).sqrt()
            scale = norm.class_scale[LABELS[image], channel] + norm.scale[channel]
            shift = norm.class_shift[LABELS[image], channel] + norm.shift[channel]
            torch.testing.assert_close(answer[image, channel], normal * scale + shift)


@pytest.mark.parametrize("classes", [None, 3])
def test_two_processes_with_uneven_shares_are_as_one(classes: int | None, pair: Path) -> None:
    x, weights = data()
    one = passed(layer(classes), x, weights, LABELS if classes else None)
    halves = [torch.load(pair / f"{classes}-{rank}") for rank in range(2)]
    for name, value in one.items():
        if name.startswith(("answer", "slope")):
            ours = torch.cat([half[name] for half in halves])
        elif name.startswith("running"):
            assert torch.equal(halves[0][name], halves[1][name])
            ours = halves[0][name]
        else:  # gradients of the parameters, which the trainer adds up
            ours = halves[0][name] + halves[1][name]
        torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-12, msg=name)
    assert len(one) == 2 * (4 if classes is None else 6) + 2


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


def _main(folder: Path) -> None:
    from steelman.training.distributed import processes

    rank = processes().rank
    mine = slice(0, 5) if rank == 0 else slice(5, 8)
    x, weights = data()
    for classes in (None, 3):
        found = passed(layer(classes), x[mine], weights[mine], LABELS[mine] if classes else None)
        torch.save(found, folder / f"{classes}-{rank}")
        norm = layer(classes).eval()
        if rank == 0:  # in evaluation mode no process waits for another
            norm(x, LABELS)
    dist.barrier()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
