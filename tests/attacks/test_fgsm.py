"""FGSM and Random + FGSM against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import FGSM, PGD, RandomFGSM
from steelman.losses import KL
from steelman.norms import L0, L1, L2, Linf, Norm

MODEL = small_net()
X = images(6)
Y = MODEL(X).argmax(1)


def slope(x: Tensor, target: Tensor | None) -> Tensor:
    x = x.detach().clone().requires_grad_()
    loss = F.cross_entropy(MODEL(x), Y if target is None else target, reduction="sum")
    return torch.autograd.grad(loss if target is None else -loss, x)[0]


@pytest.mark.parametrize("target", [None, (Y + 1) % 10], ids=["untargeted", "targeted"])
def test_it_is_its_formula(target: Tensor | None) -> None:
    gradient = slope(X, target)
    eps = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    wide, flat = eps.reshape(-1, 1, 1, 1), gradient.flatten(1)
    length = flat.norm(dim=1).reshape(-1, 1, 1, 1)
    single = torch.zeros_like(flat).scatter(1, flat.abs().argmax(1, keepdim=True), 1.0).reshape(X.shape)
    for norm, step in (
        (Linf, gradient.sign()),
        (L2, gradient / length),
        (L1, gradient.sign() * single),
    ):
        found = FGSM(eps=eps, norm=norm, box=None)(MODEL, X, Y, target=target)
        torch.testing.assert_close(found, X + wide * step, rtol=0, atol=1e-9)
    found = FGSM(eps=eps)(MODEL, X, Y, target=target)
    torch.testing.assert_close(found, (X + wide * gradient.sign()).clamp(0, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("norm", "eps"), [(L2, 0.6), (L1, 2.0), (L0, 3.0)], ids=repr)
def test_in_the_box_its_step_is_as_long_as_it_may_be_and_further_up_than_the_clipped_one(
    norm: Norm, eps: float
) -> None:
    gradient = slope(X, None)
    found = FGSM(eps=eps, norm=norm)(MODEL, X, Y)
    torch.testing.assert_close(norm.size(found - X), torch.full((6,), eps, dtype=torch.float64))
    clipped = (X + eps * norm.steepest(gradient)).clamp(0, 1)
    gain = ((found - X) * gradient).flatten(1).sum(1)
    short = ((clipped - X) * gradient).flatten(1).sum(1)
    assert (gain >= short - 1e-12).all()
    assert float((gain > short * 1.01).double().mean()) >= 0.5


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.3), (L2, 0.6)], ids=repr)
def test_the_papers_step_is_clipped_and_as_long_as_it_comes(norm: Norm, eps: float) -> None:
    gradient = slope(X, None)
    length = 1.0 if norm is Linf else gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    direction = gradient.sign() if norm is Linf else gradient / length
    found = FGSM(eps=eps, norm=norm, exact=False)(MODEL, X, Y)
    torch.testing.assert_close(found, (X + eps * direction).clamp(0, 1), rtol=0, atol=1e-9)
    same = bool(torch.isclose(found, FGSM(eps=eps, norm=norm)(MODEL, X, Y)).all())
    assert same == (norm is Linf)


def test_in_l0_there_is_no_step_to_clip() -> None:
    with pytest.raises(ValueError, match=r"L0.*exact=True"):
        FGSM(eps=3.0, norm=L0, exact=False)


def test_it_is_one_step_of_pgd() -> None:
    one = PGD(eps=0.1, steps=1, step_size=0.1, random_start=False)
    torch.testing.assert_close(FGSM(eps=0.1)(MODEL, X, Y), one(MODEL, X, Y), rtol=0, atol=1e-12)


def test_its_passes_are_one_and_one() -> None:
    result = FGSM(eps=0.1).run(MODEL, X, Y)
    assert result.forwards.tolist() == result.gradients.tolist() == [1] * 6


@pytest.mark.parametrize("target", [None, (Y + 1) % 10], ids=["untargeted", "targeted"])
def test_random_fgsm_is_its_formula(target: Tensor | None) -> None:
    """The noise is read off a run whose eps leaves nothing for the gradient."""
    seeds = torch.arange(6)
    noise = RandomFGSM(eps=0.05)(MODEL, X, Y, generator=seeds, target=target)
    assert set((noise - X).abs().mul(1e6).round().flatten().tolist()) <= {0.0, 5e4} | {
        round(float(room) * 1e6) for room in torch.cat([X.flatten(), 1 - X.flatten()])
    }
    signs = (noise - X).sign()
    assert 0.3 < float((signs[signs != 0] > 0).double().mean()) < 0.7
    expected = (noise + 0.15 * slope(noise, target).sign()).clamp(0, 1)
    found = RandomFGSM(eps=0.2)(MODEL, X, Y, generator=seeds, target=target)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_random_fgsm_is_only_noise_where_eps_is_no_more_than_alpha() -> None:
    eps = torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04, 0.05], dtype=torch.float64)
    grey = 0.3 + 0.4 * X
    noise = RandomFGSM(eps=eps)(MODEL, grey, Y, generator=torch.arange(6)) - grey
    assert (noise.flatten(1).abs().amax(1) <= eps + 1e-12).all()
    torch.testing.assert_close(noise.abs(), eps.reshape(-1, 1, 1, 1).expand_as(noise), rtol=0, atol=1e-9)


def test_random_fgsm_without_noise_is_fgsm_and_takes_kl() -> None:
    model = affine(0)
    plain = FGSM(eps=0.1)(model, model.x, model.y)
    assert torch.equal(RandomFGSM(eps=0.1, alpha=0.0)(model, model.x, model.y), plain)
    found = RandomFGSM(eps=0.1, loss=KL())(model, model.x, model.y)
    assert float((found - model.x).abs().max()) <= 0.1


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"KL has no gradient at the clean image.*use PGD"):
        FGSM(loss=KL())(MODEL, X, Y)
    with pytest.raises(ValueError, match=r"RandomFGSM needs alpha >= 0; got -0\.1"):
        RandomFGSM(alpha=-0.1)
    with pytest.raises(ValueError, match=r"RandomFGSM needs norm=Linf; got L2\. Use PGD\(steps=1\)"):
        RandomFGSM(norm=L2)
