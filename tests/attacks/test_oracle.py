"""The model as an attack sees it."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from affine import images, small_net
from steelman.attacks.core.mode import evaluation_mode, warn_if_mode_matters
from steelman.attacks.core.oracle import NearestSuccess, Oracle
from steelman.losses import CrossEntropy, Goal
from steelman.norms import L2

X = images(4)
Y = torch.arange(4)


def test_gradients_are_those_of_finite_differences() -> None:
    model, goal = small_net(), Goal(Y)
    with Oracle(model, goal) as oracle:
        logits, value, gradient = oracle.gradient(X, lambda z: CrossEntropy()(z, goal))
    assert not any(result.requires_grad for result in (logits, value, gradient))
    direction = torch.randn(X.shape, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
    with torch.no_grad():
        ahead, behind = (CrossEntropy()(model(X + sign * 1e-6 * direction), goal) for sign in (1, -1))
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(value, CrossEntropy()(model(X).detach(), goal))


def test_passes_are_counted_per_image() -> None:
    with Oracle(small_net(), Goal(Y)) as oracle:
        oracle.logits(X)
        which = torch.tensor([2, 0])
        oracle.gradient(X[which], lambda z: z[:, 0], which)
    assert oracle.forwards.tolist() == [2, 1, 2, 1]
    assert oracle.gradients.tolist() == [1, 0, 1, 0]


def test_inside_nothing_wants_a_gradient_and_after_all_is_as_it_was() -> None:
    model = small_net()
    model.dropout.train()
    model.output.bias.requires_grad_(False)
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert [name for name, module in model.named_modules() if module.training] == ["dropout"]
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["output.bias"]


class Sum(nn.Module):
    """Its gradient is one number seen at every pixel: a view that cannot be written to."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def test_expanded_gradients_do_no_harm() -> None:
    from steelman.attacks import FGSM, PGD, CarliniWagner, DeepFool

    x = images(4) / 2 + 0.25
    y = torch.zeros(4, dtype=torch.int64)
    for attack in (FGSM(eps=0.1), PGD(eps=0.1), PGD(eps=0.1, random_start=False)):
        torch.testing.assert_close(attack(Sum(), x, y), x - 0.1)
    for attack in (DeepFool(box=None), CarliniWagner(steps=5, search_steps=1)):
        attack(Sum(), x, y)


def test_batch_normalisation_of_one_image_warns_instead_of_failing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5)).double()
    with pytest.warns(UserWarning, match="train mode"):
        warn_if_mode_matters(model, X[:1])


def test_looking_at_the_mode_leaves_statistics_and_random_state() -> None:
    model = small_net().train()
    before, random = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warn_if_mode_matters(model, X)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_the_nearest_success_is_kept() -> None:
    x = torch.zeros(3, 4)
    kept = NearestSuccess.nothing(x, L2)
    kept.update(x + 0.5, torch.tensor([True, True, False]), None)
    kept.update(torch.stack([x[0] + 0.1, x[1] + 0.9]), torch.tensor([True, True]), torch.tensor([0, 1]))
    kept.update(torch.stack([x[0] + 0.3, x[0] + 0.05]), torch.tensor([True, True]), torch.tensor([0, 0]))
    torch.testing.assert_close(kept.image[:, 0], torch.tensor([0.05, 0.5, 0.0]))
    assert kept.size[2] == torch.inf
