"""MART against its formula written out, the authors' guarded one, and where that gives way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every_defence import first, network
from steelman import MART, PGD
from steelman.defences.mart import boosted_cross_entropy

ATTACK = PGD(eps=0.1, steps=4, step_size=0.04, normal_start=0.001)


def by_hand(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, weight: float) -> Tensor:
    """The formula, image by image and class by class."""
    total = torch.zeros((), dtype=x.dtype)
    for clean, attacked, label in zip(model(x), model(x_adv), y, strict=True):
        p, q = clean.exp() / clean.exp().sum(), attacked.exp() / attacked.exp().sum()
        wrong = torch.stack([q[k] for k in range(len(q)) if k != label]).max()
        kl = sum(p[k] * (p[k] / q[k]).log() for k in range(len(p)))
        total = total - q[label].log() - (1 - wrong).log() + weight * kl * (1 - p[label])
    return total / len(x)


def guarded(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, weight: float) -> Tensor:
    """As the authors' code has it."""
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    two = q.topk(2, dim=1)
    rival = torch.where(two.indices[:, 0] == y, two.values[:, 1], two.values[:, 0])
    boosted = F.cross_entropy(model(x_adv), y, reduction="none") - (1.0001 - rival + 1e-12).log()
    kl = F.kl_div((q + 1e-12).log(), p, reduction="none").sum(1)
    return (boosted + weight * kl * (1.0000001 - p.gather(1, y[:, None])[:, 0])).mean()


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_it_is_the_formula():
    model, batch = network().double(), first(20, torch.float64)
    x_adv = ATTACK(model, batch.x, batch.y, generator=batch.seeds)
    wrong = (model(batch.x).argmax(1) != batch.y, model(x_adv).argmax(1) != batch.y)
    assert all(0 < int(each.sum()) < 20 for each in wrong)
    ours, wanted = MART(ATTACK, weight=3.0)(model, batch), by_hand(model, batch.x, x_adv, batch.y, 3.0)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, model), gradients(wanted, model))


def test_it_is_the_authors_to_within_their_guards():
    model, batch = network().double(), first(20, torch.float64)
    made = MART(ATTACK).craft(model, batch)
    ours, theirs = MART(ATTACK).loss(model, batch, made), guarded(model, batch.x, made.x, batch.y, 5.0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    torch.testing.assert_close(gradients(ours, model), gradients(theirs, model), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("fixed", ["clean", "adversarial", "doubt"])
def test_the_gradient_flows_through_the_divergence_and_its_factor(fixed: str):
    model, batch = network().double(), first(20, torch.float64)
    made = MART(ATTACK).craft(model, batch)
    clean, attacked = model(batch.x), model(made.x)
    p = (clean.detach() if fixed == "clean" else clean).softmax(1)
    q = (attacked.detach() if fixed == "adversarial" else attacked).softmax(1)
    doubt = 1 - (clean.detach() if fixed == "doubt" else clean).softmax(1).gather(1, batch.y[:, None])[:, 0]
    detached = (boosted_cross_entropy(attacked, batch.y) + 5 * (p * (p / q).log()).sum(1) * doubt).mean()
    ours = MART(ATTACK)(model, batch)
    torch.testing.assert_close(ours, detached)
    apart = [(a - b).abs().max() for a, b in zip(gradients(ours, model), gradients(detached, model), strict=True)]
    assert max(apart) > 1e-3


def test_it_is_exact_where_the_network_is_sure_of_a_wrong_class():
    logits = torch.tensor([[0.0, 200.0, 3.0], [0.0, -5.0, 90.0], [40.0, 0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 0])
    ours = boosted_cross_entropy(logits, labels)
    torch.testing.assert_close(
        ours, torch.tensor([200 + 200 - math.log1p(math.exp(3)), 90 + 90 - math.log1p(math.exp(-5)), 0.0])
    )
    (slope,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(slope[0, 1], torch.tensor(2.0))
    assert bool(slope.isfinite().all())


def test_the_attack_keeps_its_own_loss():
    model, batch = network(), first(8)
    assert torch.equal(MART(ATTACK).craft(model, batch).x, ATTACK(model, batch.x, batch.y, generator=batch.seeds))


def test_with_two_classes_the_boosted_term_is_the_cross_entropy_again():
    logits, labels = torch.randn(9, 2, dtype=torch.float64), torch.tensor([0, 1, 1] * 3)
    torch.testing.assert_close(
        boosted_cross_entropy(logits, labels), 2 * F.cross_entropy(logits, labels, reduction="none")
    )
