"""Every attack on affine models, where the answer is known."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from affine import Affine, affine
from every_attack import ATTACKS, OPTIMA, Case, generator, minimal, precisions, size
from steelman.attacks import FGSM, PGD, CarliniWagner, DeepFool
from steelman.losses import DLR, Margin
from steelman.norms import L0, L1, L2, Linf, Norm


@minimal
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_minimal_attacks_never_beat_the_optimum_and_always_succeed(case: Case, scale: float) -> None:
    model = affine(3, images=8, scale=scale)
    target = case.target(model.y)
    attack = replace(case.attack, confidence=0.0) if isinstance(case.attack, CarliniWagner) else case.attack
    result = attack.run(model, model.x, model.y, target=target, generator=generator())
    assert bool(result.success.all())
    optimum = model.nearest_in_box(attack.norm)
    assert (size(attack.norm, result.x_adv, model.x) >= optimum * (1 - 1e-9)).all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
@precisions
def test_deepfool_finds_the_optimum_of_affine_models(seed: int, norm: Norm, dtype: torch.dtype) -> None:
    model = affine(seed)
    x = model.x.to(dtype)
    result = DeepFool(norm=norm).run(model, x, model.y)
    assert bool(result.success.all())
    rounding = 1e-12 if dtype == torch.float64 else 1e-6
    assert (size(norm, result.x_adv, x) <= 1.02 * model.nearest(norm) + rounding).all()


def test_carlini_wagner_finds_the_optimum_of_affine_models() -> None:
    """Towards the nearest rival, and untargeted from DeepFool's image."""
    model = affine(0, images=8)
    limit = 1.02 * model.nearest(L2) + 2e-5
    attack = CarliniWagner(steps=150, search_steps=5, c=1e-2, step_size=4e-3)
    towards = attack.run(model, model.x, model.y, target=model.nearest_rival(L2))
    assert bool(towards.success.all())
    assert (towards.l2 <= limit).all()
    untargeted = attack.run(model, model.x, model.y)
    assert bool(untargeted.success.all())
    assert (untargeted.l2 <= limit).all()


def test_a_cold_search_is_tried_again_towards_deepfools_class() -> None:
    """f6 follows the highest rival, which need not be the nearest."""
    model = affine(0, images=24)
    limit = 1.02 * model.nearest(L2) + 2e-5
    attack = CarliniWagner(steps=60, search_steps=4, c=0.1, step_size=0.01, warm_start=False)
    once, again = (replace(attack, retry_target=retry).run(model, model.x, model.y) for retry in (False, True))
    assert bool((again.l2 <= limit).all())
    assert 0.5 <= float((once.l2 <= limit).double().mean()) < 1


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_deepfool_comes_near_the_optimum_within_the_box(norm: Norm) -> None:
    model = affine(0, images=40, edge=True)
    optimum = model.nearest_in_box(norm)
    ratio = size(norm, DeepFool(norm=norm)(model, model.x, model.y), model.x) / optimum
    assert float(ratio.median()) <= 1.0201
    assert float(ratio.max()) <= 1.1
    assert float(ratio.min()) >= 1 - 1e-9


def test_carlini_wagner_comes_near_the_optimum_within_the_box() -> None:
    model = affine(0, images=8, edge=True)
    result = CarliniWagner(steps=200, search_steps=5, c=0.1, step_size=0.05).run(model, model.x, model.y)
    assert bool(result.success.all())
    ratio = result.l2 / model.nearest_in_box(L2)
    assert float(ratio.median()) <= 1.02
    assert float(ratio.min()) >= 1 - 1e-9


WITHIN = {L2: 1.02, Linf: 1.02, L1: 1.05, L0: 1.05}


@cache
def grey(seed: int, norm: Norm) -> tuple[Affine, Tensor, Tensor]:
    """A model, its images' smallest perturbations in the box, and the classes that these lead to."""
    model = affine(seed, images=12)
    return model, model.nearest_in_box(norm), model.nearest_rival_in_box(norm)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", [case for case in OPTIMA if case.minimal], ids=repr)
def test_minimal_attacks_find_the_optimum_of_every_image(case: Case, seed: int) -> None:
    norm = case.attack.norm
    model, optimum, rival = grey(seed, norm)
    target = rival if case.targeted else None
    result = case.attack.run(model, model.x, model.y, target=target, generator=generator())
    assert bool(result.success.all())
    ratio = size(norm, result.x_adv, model.x) / optimum
    assert float(ratio.min()) >= 1 - 1e-9
    assert float(ratio.max()) <= WITHIN[norm] + 2e-5


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", [case for case in OPTIMA if not case.minimal], ids=repr)
def test_bounded_attacks_reach_the_worst_margin_in_ball_and_box(case: Case, seed: int) -> None:
    """Of two classes; of four where the attack takes every rival as a target."""
    norm, eps = case.attack.norm, case.attack.eps
    targets = bool(getattr(case.attack, "targets", 0))
    model = affine(seed, images=4 if targets else 12, classes=4 if targets else 2, edge=True)
    x_adv = case.attack(model, model.x, model.y, target=case.target(model.y, 2), generator=generator())
    logits = model(x_adv)
    own = logits.gather(1, model.y[:, None])[:, 0]
    reached = logits.scatter(1, model.y[:, None], -torch.inf).amax(1) - own
    torch.testing.assert_close(reached, model.worst_margin(norm, eps), rtol=1e-6, atol=1e-6)


@cache
def on_edge(norm: Norm) -> tuple[Affine, Tensor]:
    model = affine(0, images=16, edge=True)
    return model, model.nearest_in_box(norm)


@pytest.mark.parametrize("case", [case for case in ATTACKS if case.bounded], ids=repr)
def test_bounded_attacks_never_claim_what_is_ruled_out(case: Case) -> None:
    norm = case.attack.norm
    model, nearest = on_edge(norm)
    for eps in (0.01, 0.05, 0.2) if norm is not L0 else (0.0, 1.0, 2.0):
        allowed = nearest <= eps
        attack = replace(case.attack, eps=eps)
        result = attack.run(model, model.x, model.y, target=case.target(model.y), generator=generator())
        assert not bool((result.success & ~allowed).any())


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.05), (Linf, 0.3), (L2, 0.1), (L2, 0.3)], ids=repr)
@pytest.mark.parametrize("seed", range(2))
def test_pgd_on_the_margin_reaches_the_worst_of_two_classes(norm: Norm, eps: float, seed: int) -> None:
    model = affine(seed, classes=2, edge=norm is Linf)
    for attack in (
        PGD(eps=eps, norm=norm, steps=60, step_size=eps / 3, loss=Margin()),
        PGD(eps=eps, norm=norm, steps=60, step_size=eps / 3),
        FGSM(eps=eps, norm=norm),
    ):
        x_adv = attack(model, model.x, model.y, generator=generator())
        logits = model(x_adv)
        reached = logits.gather(1, 1 - model.y[:, None]) - logits.gather(1, model.y[:, None])
        torch.testing.assert_close(reached[:, 0], model.worst_margin(norm, eps), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_pgd_with_a_target_per_rival_reaches_the_worst_of_ten_classes(norm: Norm) -> None:
    """One margin per rival is linear, so each is climbed to its top; the best of them is the closed form."""
    model, eps = affine(4), 0.1 if norm is L2 else 0.02
    margins = []
    for turn in range(1, 10):
        target = (model.y + turn) % 10
        logits = model(
            PGD(eps=eps, norm=norm, steps=40, step_size=eps / 3, loss=DLR())(model, model.x, model.y, target=target)
        )
        margins.append(logits.gather(1, target[:, None]) - logits.gather(1, model.y[:, None]))
    worst = torch.cat(margins, 1).amax(1)
    assert (worst <= model.worst_margin(norm, eps) + 1e-9).all()
    untargeted = PGD(eps=eps, norm=norm, steps=40, step_size=eps / 3, loss=Margin(), restarts=5)
    logits = model(untargeted(model, model.x, model.y, generator=generator()))
    own = logits.gather(1, model.y[:, None])[:, 0]
    reached = logits.scatter(1, model.y[:, None], -torch.inf).amax(1) - own
    assert (reached <= model.worst_margin(norm, eps) + 1e-9).all()
    assert float((reached >= model.worst_margin(norm, eps) - 1e-3).double().mean()) >= 0.75


def test_affine_optima_agree_with_each_other() -> None:
    """The references of this table: the box is not active on grey images, and never helps."""
    for norm in (L2, Linf):
        grey, edge = affine(0, scale=1.0), affine(0, edge=True)
        torch.testing.assert_close(grey.nearest_in_box(norm), grey.nearest(norm), rtol=1e-6, atol=1e-9)
        assert (edge.nearest_in_box(norm) >= edge.nearest(norm) * (1 - 1e-9)).all()
        assert isinstance(grey, Affine)


@pytest.mark.parametrize("norm", [L2, Linf, L1], ids=repr)
def test_worst_margins_and_smallest_perturbations_are_each_other_s_inverse(norm: Norm) -> None:
    model = affine(0, images=12, edge=True)
    nearest = model.nearest_in_box(norm)
    for row in range(12):
        at = float(model.worst_margin(norm, float(nearest[row]))[row])
        assert abs(at) < 1e-6


def test_the_closed_forms_of_sparse_norms_agree_with_linear_programmes() -> None:
    from scipy.optimize import linprog

    model = affine(1, images=4, edge=True)
    for row in range(4):
        x, sizes = model.x[row].flatten().numpy(), []
        for weight, gap in (model.slopes(row, k) for k in model.rivals(row)):
            w = weight.numpy()
            solved = linprog(  # d = up - down
                [1.0] * 48, A_ub=[[*-w, *w]], b_ub=[gap], bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x]
            )
            sizes.append(solved.fun if solved.success else float("inf"))
        assert float(model.nearest_in_box(L1)[row]) == pytest.approx(min(sizes), rel=1e-6)
    count = model.nearest_in_box(L0)  # by brute force over one and two pixels
    for row in range(4):
        x = model.x[row].flatten()
        best = 3
        for weight, gap in (model.slopes(row, k) for k in model.rivals(row)):
            gains = torch.maximum(weight * (1 - x), -weight * x)
            pairs = (gains[:, None] + gains[None, :]).fill_diagonal_(0)
            best = min(best, 1 if float(gains.max()) + gap >= 0 else 2 if float(pairs.max()) + gap >= 0 else 3)
        assert min(int(count[row]), 3) == best
