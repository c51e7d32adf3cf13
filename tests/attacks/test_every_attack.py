"""What differs by method, for every attack and norm of the table in `every_attack.py`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from every_attack import ATTACKS, SETTINGS, Case, bounded, generator, minimal, one_of_each, precisions, size
from steelman.adversaries import Adversary
from steelman.attacks import JSMA, CarliniWagner, VirtualAdversarial
from steelman.losses import DLR, Goal, Margin
from steelman.norms import L0, L1, L2, Linf

SEEDS = torch.arange(100, 112)


def aims(attack: Any) -> bool:
    """Whether an attack looks at several of the other classes, which may be fewer."""
    return bool(getattr(attack, "targets", 0)) or isinstance(getattr(attack, "loss", None), DLR)


def takes_targets(attack: Any) -> bool:
    """Whether a few steps bring most images nearer to targets of their own."""
    slow = isinstance(attack, Adversary | VirtualAdversarial | JSMA) or attack.access == "decisions"
    return not (slow or attack.shared)


def predict(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


@precisions
@one_of_each
def test_inside_the_box_to_the_last_bit_and_of_the_same_kind(case: Case, dtype: torch.dtype) -> None:
    x = images(8, dtype)
    model = small_net(dtype)
    y = predict(model, x)
    x_adv = case.attack(model, x, y, target=case.target(y), generator=generator())
    assert x_adv.dtype == dtype
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1


@pytest.mark.parametrize(("dtype", "scaled"), [(torch.float32, 8 / 255), (torch.float64, 1 / 3)])
@bounded
def test_inside_the_ball_to_the_last_bit(case: Case, dtype: torch.dtype, scaled: float) -> None:
    x = images(8, dtype)
    model = small_net(dtype)
    y = predict(model, x)
    norm = case.attack.norm
    scalar = {Linf: scaled, L2: 3 * scaled, L1: 10 * scaled, L0: 10 * scaled}[norm]
    several = scalar * torch.linspace(0, 1, 8, dtype=torch.float64)
    for eps, box in ((scalar, None), (several.to(dtype), (0.0, 1.0))):
        attack = replace(case.attack, eps=eps, box=box)
        x_adv = attack(model, x, y, target=case.target(y), generator=generator())
        assert (size(norm, x_adv, x) <= torch.as_tensor(eps, dtype=torch.float64)).all()


@one_of_each
def test_another_box(case: Case) -> None:
    affine_model = affine(0)
    shift, stretch = -0.3, 1.7
    x = images(12, torch.float32) * stretch + shift
    x = x.clamp(shift, stretch + shift)
    attack = replace(case.attack, box=(shift, shift + stretch))
    y = predict(affine_model, x)
    x_adv = attack(affine_model, x, y, target=case.target(y), generator=generator())
    assert bool((x_adv >= shift).all() & (x_adv <= shift + stretch).all())
    assert not torch.equal(x_adv, x)


class Counting(nn.Module):
    """Counts the images that pass forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.gradients = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


@one_of_each
def test_passes_are_counted(case: Case) -> None:
    model, x = Counting(small_net()).eval(), images(12)
    y = predict(model, x)
    model.forwards = 0
    result = case.attack.run(model, x, y, target=case.target(y), generator=generator())
    assert int(result.forwards.sum()) == model.forwards - 12  # without the verification
    assert int(result.gradients.sum()) == model.gradients
    assert (model.gradients > 0) == (case.attack.access == "gradients")


@pytest.mark.parametrize("case", [case for case in ATTACKS if not case.attack.shared], ids=repr)
def test_one_image_at_a_time_and_batched_agree(case: Case) -> None:
    model, x = small_net(), images(12)
    y = predict(model, x)
    target = case.target(y)
    together = case.attack(model, x, y, target=target, generator=SEEDS)
    for row in (0, 7):
        part = slice(row, row + 1)
        alone = case.attack(
            model, x[part], y[part], target=None if target is None else target[part], generator=SEEDS[part]
        )
        within = 1e-6 if isinstance(case.attack, Adversary) else 1e-7  # generators count in float32
        torch.testing.assert_close(alone, together[part], rtol=0, atol=within)


@one_of_each
def test_same_seed_same_bits(case: Case) -> None:
    model, x = small_net(torch.float32), images(6, torch.float32)
    y = predict(model, x)

    def go(seed: int) -> Tensor:
        return case.attack(model, x, y, target=case.target(y), generator=torch.Generator().manual_seed(seed))

    first = go(1)
    assert torch.equal(first, go(1))
    assert torch.equal(first, go(2)) == (not case.random)


@bounded
def test_eps_0_is_the_identity(case: Case) -> None:
    model, x = small_net(torch.float32), images(4, torch.float32)
    y = predict(model, x)
    zeros = torch.zeros(4)
    for eps in (0.0, zeros):
        x_adv = replace(case.attack, eps=eps)(model, x, y, target=case.target(y), generator=generator())
        assert torch.equal(x_adv, x)


@bounded
def test_scalar_and_per_image_eps_agree(case: Case) -> None:
    model, x = small_net(), images(6)
    y = predict(model, x)
    eps = torch.full((6,), float(case.attack.eps), dtype=torch.float64)
    go = {"target": case.target(y), "generator": generator()}
    scalar = case.attack(model, x, y, **go)
    go["generator"] = generator()
    assert torch.equal(scalar, replace(case.attack, eps=eps)(model, x, y, **go))


@pytest.mark.parametrize("case", [*SETTINGS, *(case for case in ATTACKS if aims(case.attack))], ids=repr)
def test_two_classes(case: Case) -> None:
    model = affine(2, classes=2)
    target = case.target(model.y, 2)
    if isinstance(getattr(case.attack, "loss", None), DLR):
        with pytest.raises(ValueError, match="DLR needs at least"):
            case.attack(model, model.x, model.y, target=target)
        return
    result = case.attack.run(model, model.x, model.y, target=target, generator=generator())
    assert bool(result.success.any())
    assert not case.minimal or bool(result.success.all())


@pytest.mark.parametrize("case", [case for case in SETTINGS if takes_targets(case.attack)], ids=repr)
def test_attacks_move_towards_their_target(case: Case) -> None:
    model = affine(0)
    target = (model.y + 1) % 10
    result = case.attack.run(model, model.x, model.y, target=target, generator=generator())
    before, after = (Margin()(model(x), Goal(model.y, target)) for x in (model.x, result.x_adv))
    assert torch.equal(result.success, model(result.x_adv).argmax(1) == target)
    assert float((after > before).double().mean()) > 0.9
    assert float(result.success.double().mean()) > 0.9 or not case.minimal


@minimal
def test_minimal_attacks_leave_what_is_already_misclassified(case: Case) -> None:
    model, x = small_net(), images(12)
    right = predict(model, x)
    y = right.clone()
    y[slice(None) if case.targeted else slice(0, None, 2)] += 1
    y %= 10
    target = right if case.targeted else None  # every image is where it should go
    attack = replace(case.attack, confidence=0.0) if isinstance(case.attack, CarliniWagner) else case.attack
    x_adv = attack(model, x, y, target=target)
    done = torch.ones_like(y, dtype=torch.bool) if case.targeted else y != right
    assert torch.equal(x_adv[done], x[done])
    assert case.targeted or bool((x_adv != x)[~done].flatten(1).any(1).all())
