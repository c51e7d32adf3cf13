"""Adversarial training in the papers' forms, each against a plain loop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from every_defence import changeable, first
from steelman import (
    ANPGD,
    APGD,
    AWP,
    DDN,
    FGSM,
    MIM,
    PGD,
    AdversarialTraining,
    Batch,
    Bilateral,
    DeepFool,
    RandomFGSM,
    Square,
    UniformNoise,
    WorstOf,
)
from steelman.attacks.core.attack import Attack
from steelman.defences import Game
from steelman.losses import Margin
from steelman.norms import L2, Linf, Norm
from steelman.schedules import Cosine, Linear, Schedule, Steps
from steelman.training import play

MODEL = small_net().requires_grad_(True)
X = images(12)
Y = torch.arange(12) % 10
BATCH = Batch(X, Y, seeds=torch.arange(12))


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def length(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


def hinge(logits: Tensor) -> Tensor:
    """Madry's CW+ loss."""
    own = F.one_hot(Y, 10).bool()
    return (logits.masked_fill(own, -torch.inf).amax(1) - logits[own]).clamp(max=50).sum()


def entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, Y, reduction="sum")


def climbed(
    x: Tensor, eps: float, steps: int, step: float, norm: Norm = Linf, loss: Callable[[Tensor], Tensor] = entropy
) -> Tensor:
    """The inner loop of Madry's training, from `x` on; for L2 without a box."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(MODEL(x)), x)
        x = x + step * (slope.sign() if norm is Linf else slope / length(slope))
        delta = x - X
        delta = delta.clamp(-eps, eps) if norm is Linf else delta * (eps / length(delta)).clamp(max=1)
        x = (X + delta).clamp(0, 1) if norm is Linf else X + delta
    return x.detach()


def start(attack: PGD) -> Tensor:
    """Where an attack begins with the noise of the batch."""
    x = replace(attack, steps=0)(MODEL, X, Y, generator=BATCH.seeds)
    assert not torch.equal(x, X)
    return x


FGM = FGSM(eps=0.5, norm=L2, exact=False)
BALL = PGD(eps=0.5, steps=4, step_size=0.2, norm=L2, box=None)
MADRY = PGD(eps=0.1, steps=4, step_size=0.04)
FAST = PGD(eps=0.1, steps=1, step_size=0.125)
FORMS: dict[str, tuple[Attack, Callable[[], Tensor]]] = {
    "fgsm": (FGSM(eps=0.1), lambda: climbed(X, 0.1, 1, 0.1)),
    "fgm": (FGM, lambda: climbed(X, 0.5, 1, 0.5, L2).clamp(0, 1)),
    "pgd": (MADRY, lambda: climbed(start(MADRY), 0.1, 4, 0.04)),
    "pgd in l2": (BALL, lambda: climbed(start(BALL), 0.5, 4, 0.2, L2)),
    "pgd on the margin": (replace(MADRY, loss=Margin(50.0)), lambda: climbed(start(MADRY), 0.1, 4, 0.04, loss=hinge)),
    "fast": (FAST, lambda: climbed(start(FAST), 0.1, 1, 0.125)),
    "deepfool": (DeepFool(), lambda: DeepFool()(MODEL, X, Y)),
}


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", FORMS)
def test_it_is_its_form_in_value_and_gradient(name: str, share: float) -> None:
    attack, by_hand = FORMS[name]
    x_adv = by_hand()
    own, logits = torch.arange(12), MODEL(x_adv).log_softmax(1)
    wanted = -(1 - share) * logits[own, Y].mean() - share * MODEL(X).log_softmax(1)[own, Y].mean()
    found = AdversarialTraining(attack, clean_weight=share)(MODEL, BATCH)
    assert float((found - entropy(MODEL(X)) / 12).detach().abs()) > 1e-6
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
    torch.testing.assert_close(gradients(found, MODEL), gradients(wanted, MODEL), rtol=0, atol=1e-8)


def test_what_it_trains_on_is_what_the_attack_returns_and_the_rest_of_the_batch_stays() -> None:
    made = AdversarialTraining(FGSM(eps=0.1)).craft(MODEL, BATCH)
    assert torch.equal(made.x, FGSM(eps=0.1)(MODEL, X, Y))
    assert not made.x.requires_grad
    assert replace(made, x=X) == BATCH
    assert AdversarialTraining(clean_weight=1.0).craft(MODEL, BATCH) is BATCH


SCALED = {
    "fgsm": (FGSM(eps=0.1), FGSM(eps=0.025)),
    "pgd": (PGD(eps=0.1, steps=2), PGD(eps=0.025, steps=2)),
    "pgd, given step": (MADRY, PGD(eps=0.025, steps=4, step_size=0.01)),
    "mim": (MIM(eps=0.1, steps=2), MIM(eps=0.025, steps=2)),
    "apgd": (APGD(eps=0.1, steps=3), APGD(eps=0.025, steps=3)),
    "square": (Square(eps=0.1, queries=3), Square(eps=0.025, queries=3)),
    "random fgsm": (RandomFGSM(eps=0.4), RandomFGSM(eps=0.1)),
    "noise": (UniformNoise(eps=0.1), UniformNoise(eps=0.025)),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_schedule_shortens_eps_and_the_step(name: str) -> None:
    attack, quarter = SCALED[name]
    growing = AdversarialTraining(attack, schedule=Linear())
    for progress, same in ((0.25, quarter), (1.0, attack)):
        batch = replace(BATCH, progress=progress)
        assert torch.equal(growing.craft(MODEL, batch).x, AdversarialTraining(same).craft(MODEL, BATCH).x)
    torch.testing.assert_close(growing.craft(MODEL, replace(BATCH, progress=0.0)).x, X, rtol=0, atol=0)


@pytest.mark.parametrize("schedule", [Linear(start=0.3, by=0.5), Cosine(), Steps()])
def test_any_schedule_is_read_at_the_progress_of_the_batch(schedule: Schedule) -> None:
    for progress in (0.1, 0.6, 0.9):
        made = AdversarialTraining(PGD(eps=0.1, steps=3), schedule=schedule).craft(
            MODEL, replace(BATCH, progress=progress)
        )
        widest = float((made.x - X).abs().max())
        assert widest == pytest.approx(0.1 * schedule(progress), rel=1e-6)


@pytest.mark.parametrize(
    "attack", [DeepFool(), DDN(), ANPGD(), WorstOf((FGSM(), PGD()))], ids=lambda a: type(a).__name__
)
def test_an_attack_without_a_radius_of_its_own_has_no_schedule(attack: Attack) -> None:
    AdversarialTraining(attack)
    with pytest.raises(ValueError, match=r"Linear.* changes the attack's eps, and .* has none of its own"):
        AdversarialTraining(attack, schedule=Linear())


@pytest.mark.parametrize("inner", [AdversarialTraining(FGSM(eps=0.1), clean_weight=0.5), Bilateral(FAST)])
def test_weights_may_be_perturbed_around_it(inner: AdversarialTraining | Bilateral) -> None:
    """AWP crafts once, so at gamma = 0 its update is that of the objective alone."""
    moved = []
    games: tuple[Game, ...] = (inner, AWP(inner, gamma=0.0))
    for game in games:
        model = small_net().requires_grad_(True)
        play(game, model, BATCH, torch.optim.SGD(model.parameters(), lr=1.0))
        moved.append(list(model.parameters()))
    torch.testing.assert_close(*moved)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_it_crafts_in_the_mode_of_its_setting(mode: Literal["eval", "train"]) -> None:
    batch = first(12, torch.float64)
    x_adv, wrong = (
        fast_gradient_sign(changeable(training), batch.x, batch.y, 0.1)
        for training in (mode == "train", mode != "train")
    )
    assert not torch.equal(x_adv, wrong)
    model = changeable()
    wanted = gradients(F.cross_entropy(model(x_adv), batch.y), model)
    model = changeable()
    ours = gradients(AdversarialTraining(FGSM(eps=0.1), crafting=mode)(model, batch), model)
    torch.testing.assert_close(ours, wanted)


def fast_gradient_sign(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()
