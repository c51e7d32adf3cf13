"""Bilateral adversarial training: the label step against the printed formula, the image step by hand."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from steelman import PGD, Batch, Bilateral
from steelman.data import InMemory

MODEL = small_net()
X = images(12)
Y = torch.arange(12) % 10
BATCH = Batch(X, Y, seeds=torch.arange(12))
STILL = PGD(eps=0.0, steps=1, step_size=0.0)
Kind = Literal["adversarial", "smooth", "hard"]


def printed(
    probability: list[float], c: int, kind: Kind, eps_y: float | None, beta: float, gamma: float
) -> list[float]:
    """y' of one image as the paper prints it: eps_y / (n - 1) times (v_k - v_MC + gamma) / (mean v - v_MC + gamma)."""
    n = len(probability)
    wrong = [k for k in range(n) if k != c]
    v = {k: -math.log(probability[k]) for k in wrong}
    nearest, furthest = min(v.values()), max(v.values())
    mean = sum(v.values()) / (n - 1)
    if kind == "smooth":
        eps = 1 / (1 + beta / (n - 1)) if eps_y is None else eps_y
        return [1 - eps if k == c else eps / (n - 1) for k in range(n)]
    eps = eps_y
    if eps is None:
        eps = 1 / (1 + beta * (furthest - nearest + gamma) / ((n - 1) * (mean - nearest + gamma)))
    return [
        1 - eps if k == c else eps / (n - 1) * (v[k] - nearest + gamma) / (mean - nearest + gamma) for k in range(n)
    ]


def labels(defence: Bilateral, model: nn.Module, batch: Batch) -> Tensor:
    """y', read off the gradient of the loss in the logits, which is (softmax - y') / batch."""
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(model(x))
            return seen[-1]

    loss = defence(Watched(), batch)
    (gradient,) = torch.autograd.grad(loss, seen[-1])
    return seen[-1].softmax(1).detach() - gradient * len(batch)


@pytest.mark.parametrize("kind", ["adversarial", "smooth"])
@pytest.mark.parametrize("eps_y", [None, 0.0, 0.4])
@pytest.mark.parametrize(("beta", "gamma"), [(9.0, 0.01), (81.0, 0.5)])
def test_the_labels_are_the_printed_closed_form(
    kind: Literal["adversarial", "smooth"], eps_y: float | None, beta: float, gamma: float
) -> None:
    defence = Bilateral(STILL, labels=kind, eps_y=eps_y, beta=beta, gamma=gamma)
    found = labels(defence, MODEL, BATCH)
    probabilities = MODEL(X).softmax(1).tolist()
    wanted = [printed(p, int(c), kind, eps_y, beta, gamma) for p, c in zip(probabilities, Y, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_labels_sum_to_one_and_favour_the_least_likely() -> None:
    beta = 9.0
    found = labels(Bilateral(STILL, beta=beta), MODEL, BATCH)
    own = F.one_hot(Y, 10).bool()
    torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=torch.float64))
    wrong = found.masked_fill(own, 0.0)
    likelihood = MODEL(X)
    assert torch.equal(wrong.argmax(1), likelihood.masked_fill(own, torch.inf).argmin(1))
    assert torch.equal(found.masked_fill(own, torch.inf).argmin(1), likelihood.masked_fill(own, -torch.inf).argmax(1))
    torch.testing.assert_close(found[own], beta * wrong.amax(1))
    lost = 1 - found[own]
    assert (lost > 1 / (1 + beta)).all()
    assert (lost <= 1 / (1 + beta / 9) + 1e-12).all()
    assert lost.std() > 0.01


def test_the_share_of_the_wrong_classes_reaches_both_ends_of_its_range() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            slope = 1e-9 * x.flatten(1).sum(1)[:, None] * torch.arange(10)
            return torch.stack([torch.zeros(10), torch.tensor([0.0] * 9 + [-1e7])]) + slope

    batch = Batch(torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    made = Bilateral(STILL).craft(Fixed(), batch)
    assert made.soft is not None
    assert (1 - made.soft[:, 0]).tolist() == pytest.approx([0.5, 0.1], abs=1e-6)


def by_hand(targeted: bool, kind: Kind, eps: float) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradient, with R-FGSM or R-MC written out, from the random start that the attack has."""
    start = PGD(eps=eps, steps=0)(MODEL, X, Y, generator=BATCH.seeds).requires_grad_()
    assert not torch.equal(start, X)
    clean = MODEL(X).detach()
    rival = clean.masked_fill(F.one_hot(Y, 10).bool(), -torch.inf).argmax(1)
    goal = -F.cross_entropy(MODEL(start), rival) if targeted else F.cross_entropy(MODEL(start), Y)
    (slope,) = torch.autograd.grad(goal, start)
    x_adv = (X + (start + eps * slope.sign() - X).clamp(-eps, eps)).clamp(0, 1).detach()
    soft = F.one_hot(Y, 10).double()
    if kind != "hard":
        rows = [printed(p, int(c), kind, None, 9.0, 0.01) for p, c in zip(clean.softmax(1).tolist(), Y, strict=True)]
        soft = torch.tensor(rows, dtype=torch.float64)
    loss = -(soft * MODEL(x_adv).log_softmax(1)).sum(1).mean()
    return loss, list(torch.autograd.grad(loss, list(MODEL.parameters())))


@pytest.mark.parametrize("targeted", [False, True], ids=["r-fgsm", "r-mc"])
@pytest.mark.parametrize("kind", ["hard", "smooth", "adversarial"])
def test_it_is_its_two_steps_in_value_and_gradient(targeted: bool, kind: Kind) -> None:
    MODEL.requires_grad_(True)
    wanted, slope = by_hand(targeted, kind, 0.1)
    other, _ = by_hand(not targeted, kind, 0.1)
    assert float((wanted - other).detach().abs()) > 1e-4
    attack = PGD(eps=0.1, steps=1, step_size=0.1)
    found = Bilateral(attack, target="most confusing" if targeted else None, labels=kind)(MODEL, BATCH)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(list(torch.autograd.grad(found, list(MODEL.parameters()))), slope, rtol=0, atol=1e-9)


def test_the_clean_pass_is_in_evaluation_mode_and_only_where_it_is_needed() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modes: list[bool] = []

        def forward(self, x: Tensor) -> Tensor:
            self.modes.append(self.training)
            return MODEL(x)

    attack = PGD(eps=0.1, steps=1)
    for defence, passes in (
        (Bilateral(attack), 1),
        (Bilateral(attack, labels="hard"), 1),
        (Bilateral(attack, target=None), 1),
        (Bilateral(attack, target=None, labels="smooth"), 0),
        (Bilateral(attack, target=None, labels="hard"), 0),
    ):
        model = Counting()
        defence(model, BATCH)
        assert model.modes == [False] * (passes + 1) + [True]


def test_soft_labels_of_the_data_are_not_used() -> None:
    soft = torch.full((12, 10), 0.1, dtype=torch.float64)
    for kind in ("adversarial", "smooth", "hard"):
        defence = Bilateral(PGD(eps=0.1, steps=1), labels=kind)
        torch.testing.assert_close(defence(MODEL, replace(BATCH, soft=soft)), defence(MODEL, BATCH))


def test_with_two_classes_adversarial_and_smooth_labels_are_the_same() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    batch = Batch(torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 2, seeds=torch.arange(6))
    smooth, adversarial = (
        Bilateral(PGD(eps=0.1, steps=1), labels=kind)(model, batch) for kind in ("smooth", "adversarial")
    )
    torch.testing.assert_close(smooth, adversarial)
    found = labels(Bilateral(STILL, beta=4.0), model, batch)
    assert found.gather(1, batch.y[:, None])[:, 0].tolist() == pytest.approx([0.8] * 6)


@pytest.mark.parametrize("kind", ["hard", "smooth", "adversarial"])
def test_one_class_is_refused(kind: Kind) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    data = InMemory("one", torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64), ("all",))
    with pytest.raises(ValueError, match="Bilateral needs at least two classes, with a logit for each; got 1"):
        Bilateral().setup(model, data)
    for target in ("most confusing", None):
        with pytest.raises(ValueError, match="at least two classes"):
            Bilateral(target=target, labels=kind)(model, Batch(torch.rand(4, 1, 4, 4), torch.zeros(4).long()))
