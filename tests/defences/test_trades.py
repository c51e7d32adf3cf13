"""TRADES against its formula written out, and against the authors' loop."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every_defence import Changeable, first, network
from steelman import EOT, MART, PGD, TRADES, Batch, GaussianNoise
from steelman.attacks import Attack
from steelman.losses import KL, CrossEntropy
from steelman.norms import L2
from steelman.randomness import Draws, combine

ATTACK = PGD(eps=0.1, steps=4, step_size=0.04, normal_start=0.001)


def crafted_by_hand(model: nn.Module, batch: Batch) -> Tensor:
    """The authors' loop, image by image, with our noise."""
    made = []
    assert batch.seeds is not None
    for x, seed in zip(batch.x, batch.seeds, strict=True):
        noise = Draws(combine(seed[None], 0)).normal(x.shape, x.dtype)[0]
        x_adv = (x + 0.001 * noise).clamp(0, 1)
        p = model(x[None]).softmax(1).detach()
        for _ in range(4):
            x_adv = x_adv.detach().requires_grad_()
            kl = F.kl_div(model(x_adv[None]).log_softmax(1), p, reduction="sum")
            (slope,) = torch.autograd.grad(kl, x_adv)
            moved = x_adv.detach() + 0.04 * slope.sign()
            x_adv = torch.min(torch.max(moved, x - 0.1), x + 0.1).clamp(0, 1)
        made.append(x_adv)
    return torch.stack(made)


def by_hand(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """The formula, image by image and class by class."""
    total = torch.zeros((), dtype=x.dtype)
    for clean, attacked, label in zip(model(x), model(x_adv), y, strict=True):
        p, q = clean.exp() / clean.exp().sum(), attacked.exp() / attacked.exp().sum()
        total = total - p[label].log() + beta * sum(p[k] * (p[k] / q[k]).log() for k in range(len(p)))
    return total / len(x)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_it_is_the_formula_at_the_authors_images():
    model, batch = network().double(), first(12, torch.float64)
    x_adv = crafted_by_hand(model, batch)
    defence = TRADES(ATTACK, beta=3.0)
    torch.testing.assert_close(defence.craft(model, batch).x, x_adv, rtol=0, atol=1e-9)
    assert float((x_adv - batch.x).abs().max()) == pytest.approx(0.1)
    ours, wanted = defence(model, batch), by_hand(model, batch.x, x_adv, batch.y, 3.0)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, model), gradients(wanted, model))


@pytest.mark.parametrize("fixed", ["clean", "adversarial"])
def test_the_gradient_flows_into_both_arguments(fixed: str):
    model, batch = network().double(), first(12, torch.float64)
    made = TRADES(ATTACK).craft(model, batch)
    clean, attacked = model(batch.x), model(made.x)
    p, q = (clean.detach(), attacked) if fixed == "clean" else (clean, attacked.detach())
    detached = F.cross_entropy(clean, batch.y) + 6 * F.kl_div(
        q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True
    )
    ours = TRADES(ATTACK)(model, batch)
    torch.testing.assert_close(ours, detached)
    apart = [(a - b).abs().max() for a, b in zip(gradients(ours, model), gradients(detached, model), strict=True)]
    assert max(apart) > 1e-3


def test_without_weight_it_is_the_cross_entropy():
    model, batch = network().double(), first(12, torch.float64)
    torch.testing.assert_close(TRADES(ATTACK, beta=0.0)(model, batch), F.cross_entropy(model(batch.x), batch.y))


def test_the_divergence_is_what_the_attack_climbs():
    model, batch = network().double(), first(40, torch.float64)

    def divergence(x_adv: Tensor) -> float:
        p, q = model(batch.x).log_softmax(1), model(x_adv).log_softmax(1)
        return F.kl_div(q, p, reduction="batchmean", log_target=True).item()

    ours = TRADES(ATTACK).craft(model, batch).x
    assert divergence(ours) > divergence(ATTACK(model, batch.x, batch.y, generator=batch.seeds))


def test_any_loss_of_the_attack_is_replaced():
    assert TRADES(PGD(eps=0.1)) == TRADES(PGD(eps=0.1, loss=KL()))
    assert TRADES(PGD(eps=0.1)).attack == PGD(eps=0.1, loss=KL())
    assert TRADES(PGD(eps=0.1, loss=CrossEntropy()), beta=1.0) == replace(TRADES(PGD(eps=0.1)), beta=1.0)


@pytest.mark.parametrize("attack", [GaussianNoise(), EOT(PGD(), samples=2)], ids=repr)
def test_an_attack_without_a_loss_is_used_as_it_is(attack: Attack):
    assert TRADES(attack).attack == attack
    model, batch = network(), first(4)
    x_adv = attack(model, batch.x, batch.y, generator=batch.seeds)
    assert torch.equal(TRADES(attack).craft(model, batch).x, x_adv)


def test_batch_normalisation_sees_the_clean_and_then_the_adversarial_batch():
    torch.manual_seed(0)
    model, other = Changeable(), Changeable()
    other.load_state_dict(model.state_dict())
    batch = first(12)
    defence = TRADES(PGD(eps=0.1, norm=L2, steps=2))
    made = defence.craft(model, batch)
    assert torch.equal(dict(model.named_buffers())["norm.running_mean"], torch.zeros(16))
    defence(model, batch)
    other(batch.x)
    other(made.x)
    torch.testing.assert_close(dict(model.named_buffers()), dict(other.named_buffers()))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", [TRADES, MART])
def test_it_crafts_in_the_mode_of_its_setting(kind: type[TRADES | MART], mode: Literal["eval", "train"]):
    model, batch = changeable(), first(12)
    defence = kind(PGD(eps=0.1, steps=3), crafting=mode)
    fixed = changeable().train(mode == "train")
    wanted = defence.attack(lambda x: fixed(x), batch.x, batch.y, generator=batch.seeds)
    other = defence.attack(lambda x: fixed.train(mode != "train")(x), batch.x, batch.y, generator=batch.seeds)
    assert torch.equal(defence.craft(model, batch).x, wanted)
    assert not torch.equal(other, wanted)


def changeable() -> Changeable:
    """Always the same one, without dropout, and with running statistics that are far from a batch's."""
    torch.manual_seed(0)
    model = Changeable()
    model.drop.p = 0.0
    for name, buffer in model.named_buffers():
        if name != "norm.num_batches_tracked":
            buffer.uniform_(0.1, 3)
    return model
