"""The virtual adversarial direction against the Hessian of the divergence."""

from typing import Any

import pytest
import torch
from torch import Tensor

from affine import images, small_net
from steelman.attacks import VirtualAdversarial
from steelman.losses import kl_divergence
from steelman.norms import L2, Linf
from steelman.randomness import Draws

MODEL = small_net()
X = 0.3 + 0.4 * images(6)
Y = MODEL(X).argmax(1)
SEEDS = torch.arange(6)


def hessians(x: Tensor) -> list[Tensor]:
    """Of d -> KL(p(x) || p(x + d)) at 0, by J^T (diag(p) - p p^T) J."""
    found = []
    for image in x:
        logits = MODEL(image[None])[0].detach()
        jacobian = torch.autograd.functional.jacobian(lambda z: MODEL(z[None])[0], image).flatten(1)
        p = logits.softmax(0)
        found.append(jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian)
    return found


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_it_is_the_power_iteration(iterations: int) -> None:
    attack = VirtualAdversarial(eps=0.2, iterations=iterations, xi=1e-6)
    found = (attack(MODEL, X, Y, generator=SEEDS) - X).flatten(1)
    direction = Draws(SEEDS).normal(X.shape[1:], X.dtype).flatten(1)
    for row, hessian in enumerate(hessians(X)):
        d = direction[row]
        for _ in range(iterations):
            d = hessian @ d
            d = d / d.norm()
        torch.testing.assert_close(found[row], 0.2 * d, rtol=0, atol=2e-5)


def test_many_iterations_end_at_the_largest_eigenvector() -> None:
    found = (VirtualAdversarial(eps=0.2, iterations=60, xi=1e-5)(MODEL, X, Y, generator=SEEDS) - X).flatten(1)
    for row, hessian in enumerate(hessians(X)):
        values, vectors = torch.linalg.eigh(hessian)
        if values[-2] < 0.7 * values[-1]:
            assert abs(float(found[row] @ vectors[:, -1])) / 0.2 > 0.999
    assert any(values[-2] < 0.7 * values[-1] for values in map(torch.linalg.eigvalsh, hessians(X)))


def test_the_default_xi_is_as_good_in_single_precision_as_a_tiny_one_in_double() -> None:
    single, x = small_net(torch.float32), X.float()
    exact = VirtualAdversarial(eps=0.5, xi=1e-6)(MODEL, X, Y, generator=SEEDS)
    found = VirtualAdversarial(eps=0.5)(single, x, Y, generator=SEEDS)
    with torch.no_grad():
        reached = kl_divergence(MODEL(X), MODEL(exact)).mean()
        assert float(kl_divergence(single(x), single(found)).mean()) >= 0.95 * float(reached)


def test_labels_play_no_part() -> None:
    attack = VirtualAdversarial()
    assert torch.equal(attack(MODEL, X, Y, generator=SEEDS), attack(MODEL, X, (Y + 3) % 10, generator=SEEDS))


def test_in_the_box_its_step_has_the_whole_length() -> None:
    x = images(6)
    found = VirtualAdversarial(eps=1.0)(MODEL, x, Y, generator=SEEDS)
    torch.testing.assert_close(L2.size(found - x), torch.ones(6, dtype=torch.float64))


def test_it_costs_what_its_card_says() -> None:
    result = VirtualAdversarial(iterations=3).run(MODEL, X, Y)
    assert result.forwards.tolist() == [4] * 6
    assert result.gradients.tolist() == [3] * 6


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="only leaves the clean prediction"):
        VirtualAdversarial()(MODEL, X, Y, target=(Y + 1) % 10)
    with pytest.raises(ValueError, match=r"needs norm=L2; got Linf\. Use PGD"):
        VirtualAdversarial(norm=Linf)
    wrong: list[dict[str, Any]] = [{"iterations": 0}, {"xi": 0.0}, {"xi": float("nan")}]
    for settings in wrong:
        with pytest.raises(ValueError, match=r"VirtualAdversarial needs (iterations >= 1|xi (finite and )?> 0); got"):
            VirtualAdversarial(**settings)
