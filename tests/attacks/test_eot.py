"""Random models and filters without gradients: EOT and BPDA."""

import pytest
import torch
from torch import Tensor, nn

from affine import images, small_net
from steelman.attacks import EOT, PGD, DeepFool
from steelman.attacks.core.oracle import Oracle
from steelman.filters import BPDA
from steelman.losses import CrossEntropy, Goal

X = images(12)
with torch.no_grad():
    Y = small_net()(X).argmax(1)
SEEDS = torch.arange(12)


class Noisy(nn.Module):
    """Draws noise at every call, also in evaluation mode."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma = small_net(), sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.sigma * torch.randn_like(x))


def test_the_gradient_is_that_of_the_mean_loss_over_the_draws() -> None:
    model, goal = Noisy(0.3).eval(), Goal(Y)
    torch.manual_seed(0)
    with Oracle(model, goal) as oracle, oracle.part(torch.arange(12), goal, samples=5) as part:
        logits, value, gradient = part.gradient(X, lambda z: CrossEntropy()(z, goal))
    torch.manual_seed(0)
    x = X.clone().requires_grad_()
    answers = [model(x) for _ in range(5)]
    mean = torch.stack([CrossEntropy()(answer, goal) for answer in answers]).mean(0)
    torch.testing.assert_close(gradient, torch.autograd.grad(mean.sum(), x)[0])
    torch.testing.assert_close(value, mean.detach())
    torch.testing.assert_close(logits, torch.stack(answers).mean(0).detach())
    assert oracle.forwards.tolist() == oracle.gradients.tolist() == [5] * 12


def test_an_answer_is_the_mean_over_the_draws_and_costs_as_many_passes() -> None:
    model, goal = Noisy(0.3).eval(), Goal(Y)
    torch.manual_seed(0)
    with Oracle(model, goal) as oracle, oracle.part(torch.arange(12), goal, samples=5) as part:
        logits = part.logits(X)
    torch.manual_seed(0)
    torch.testing.assert_close(logits, torch.stack([model(X) for _ in range(5)]).mean(0).detach())
    assert oracle.forwards.tolist() == [5] * 12
    assert oracle.gradients.tolist() == [0] * 12


def expected_loss(model: nn.Module, x: Tensor) -> float:
    torch.manual_seed(99)
    with torch.no_grad():
        return float(torch.stack([CrossEntropy()(model(x), Goal(Y)) for _ in range(200)]).mean())


def test_it_finds_worse_images_of_a_random_model_than_single_draws_do() -> None:
    model, attack = Noisy(0.5).eval(), PGD(eps=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = expected_loss(model, attack(model, X, Y, generator=SEEDS))
        averaged = EOT(attack, samples=30).run(model, X, Y, generator=SEEDS)
        assert expected_loss(model, averaged.x_adv) > alone
    assert averaged.gradients.tolist() == [300] * 12


def test_same_seed_same_bits_and_the_global_state_stays() -> None:
    model, before = Noisy(0.3).eval(), torch.get_rng_state()
    one, same, other = (EOT(DeepFool(), samples=3)(model, X, Y, generator=seeds) for seeds in (SEEDS, SEEDS, SEEDS + 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="EOT needs samples >= 1; got 0"):
        EOT(PGD(), samples=0)


def depth(x: Tensor) -> Tensor:
    return (4 * x).round() / 4


def test_forwards_the_filter_itself_backwards_its_stand_in() -> None:
    x = X.clone().requires_grad_()
    assert torch.equal(BPDA(depth)(x), depth(X))
    weight = torch.randn_like(X)
    (gradient,) = torch.autograd.grad((weight * BPDA(depth)(x)).sum(), x)
    assert torch.equal(gradient, weight)
    (gradient,) = torch.autograd.grad((weight * BPDA(depth, torch.sin)(x)).sum(), x)
    torch.testing.assert_close(gradient, weight * X.cos())
    nothing = BPDA(lambda z: z)(x)
    assert torch.equal(nothing, X)


def test_attacks_pass_a_filter_that_has_no_gradient() -> None:
    net = small_net()
    blind, seeing = nn.Sequential(nn.Identity(), net), nn.Sequential(BPDA(depth), net)
    y = net(depth(X)).argmax(1)
    attack = PGD(eps=0.15)
    with pytest.warns(UserWarning, match=r"gradient is zero on 12 of 12 images \(100%"):
        alone = attack.run(lambda x: blind(depth(x)), X, y, generator=SEEDS)
    through = attack.run(seeing.eval(), X, y, generator=SEEDS)
    assert int(through.success.sum()) > int(alone.success.sum()) + 2
    assert torch.equal(through.prediction, net(depth(through.x_adv)).argmax(1))


def test_random_filters_are_met_with_both() -> None:
    model = nn.Sequential(BPDA(lambda x: depth(x + 0.1 * torch.rand_like(x))), small_net()).eval()
    result = EOT(PGD(eps=0.2), samples=10).run(model, X, Y, generator=SEEDS)
    assert int(result.success.sum()) >= 6
    assert result.gradients.tolist() == [100] * 12


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"makes \(12, 24\) of \(12, 1, 4, 6\).*give stand_in"):
        BPDA(lambda x: x.flatten(1))(X)
    x = X.clone().requires_grad_()
    with pytest.raises(ValueError, match="stand_in gives"):
        torch.autograd.grad(BPDA(lambda x: x.flatten(1), lambda x: x)(x).sum(), x)
