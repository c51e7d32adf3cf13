"""FGSM against its formula."""

import pytest
import torch
import torch.nn.functional as F

from affine import images, small_net
from steelman.attacks import FGSM, PGD
from steelman.losses import KL
from steelman.norms import L0, L1, L2

MODEL = small_net()
X = images(6)
Y = MODEL(X).argmax(1)


@pytest.mark.parametrize("target", [None, (Y + 1) % 10], ids=["untargeted", "targeted"])
def test_it_is_its_formula(target: torch.Tensor | None) -> None:
    x = X.clone().requires_grad_()
    loss = F.cross_entropy(MODEL(x), Y if target is None else target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss if target is None else -loss, x)
    eps = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    wide, flat = eps.reshape(-1, 1, 1, 1), gradient.flatten(1)
    length = flat.norm(dim=1).reshape(-1, 1, 1, 1)
    single = torch.zeros_like(flat).scatter(1, flat.abs().argmax(1, keepdim=True), 1.0).reshape(X.shape)
    for attack, step in (
        (FGSM(eps=eps), gradient.sign()),
        (FGSM(eps=eps, norm=L2), gradient / length),
        (FGSM(eps=eps, norm=L1), gradient.sign() * single),
    ):
        expected = (X + wide * step).clamp(0, 1)
        torch.testing.assert_close(attack(MODEL, X, Y, target=target), expected, rtol=0, atol=1e-12)


def test_it_is_one_step_of_pgd() -> None:
    one = PGD(eps=0.1, steps=1, step_size=0.1, random_start=False)
    torch.testing.assert_close(FGSM(eps=0.1)(MODEL, X, Y), one(MODEL, X, Y), rtol=0, atol=1e-12)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"PGD\(norm=L0\)"):
        FGSM(norm=L0)
    with pytest.raises(ValueError, match="KL has no gradient at the clean image; use PGD"):
        FGSM(loss=KL())(MODEL, X, Y)
