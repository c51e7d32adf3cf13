"""Free adversarial training against its algorithm in a plain loop, and its cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from affine import images
from steelman import Batch, Free
from steelman.defences.game import Descend, Step
from steelman.norms import L2, Linf, Norm
from steelman.randomness import Draws
from steelman.training import play
from steelman.types import Box

X = images(6)
Y = torch.arange(6) % 10
BATCH = Batch(X, Y, seeds=torch.arange(6))
LR = 0.3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 16), nn.Tanh(), nn.Linear(16, 10)).double()


@pytest.mark.parametrize(
    ("norm", "eps", "step", "box"),
    [(Linf, 0.1, None, (0.0, 1.0)), (Linf, 0.1, 0.04, None), (L2, 0.6, None, None), (L2, 0.6, 0.25, None)],
)
def test_each_replay_moves_the_network_and_then_the_images(
    norm: Norm, eps: float, step: float | None, box: Box | None
) -> None:
    model, total = network(), 0.0
    low, high = box or (-torch.inf, torch.inf)
    x = (X + norm.sample(X, eps, Draws(torch.arange(6)).split(0xF4EE))).clamp(low, high)
    for _ in range(3):
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(model(x), Y)
        image, *weights = torch.autograd.grad(loss, [x, *model.parameters()])
        total += loss.item()
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), weights, strict=True):
                parameter -= LR * slope
            length = image.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            delta = x + (step or eps) * (image.sign() if norm is Linf else image / length) - X
            length = delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            delta = delta.clamp(-eps, eps) if norm is Linf else delta * (eps / length).clamp(max=1)
            x = (X + delta).clamp(low, high)
    ours = network()
    losses = play(
        Free(eps, replays=3, step_size=step, norm=norm, box=box), ours, BATCH, torch.optim.SGD(ours.parameters(), lr=LR)
    )
    assert losses["classifier"] == pytest.approx(total)
    torch.testing.assert_close(ours.state_dict(), model.state_dict(), rtol=0, atol=1e-9)


def test_it_costs_a_forward_and_a_backward_pass_for_each_replay() -> None:
    model, forwards = network(), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    kinds = []
    for update in Free(replays=5).updates(nn.ModuleDict({"classifier": model}), BATCH):
        kinds.append(type(update))
        if isinstance(update, Descend):
            update.loss.backward(inputs=[each for each in update.into if each.requires_grad])
    assert kinds == [Descend, Step] * 5
    assert len(forwards) == 5
