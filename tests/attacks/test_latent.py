"""Attacks in a latent space, against the attacks and closed forms that they come down to."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import Same, images, small_net
from steelman import DDN, EOT, PGD, CarliniWagner, DefenseGAN, Latent, Training, Within, config, fit
from steelman.attacks.composed.latent import _Rest
from steelman.attacks.core.attack import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.defences.generative import WassersteinGAN
from steelman.losses import Goal
from steelman.networks import Filtered, MLPGenerator, build
from steelman.networks.building import described
from steelman.norms import L2
from steelman.randomness import Draws

X = images(6)
SHAPE = (1, 4, 6)
SEEDS = torch.arange(6)


def tanh(w: Tensor) -> Tensor:
    return (1 + w.tanh()) / 2


def back(x: Tensor) -> Tensor:
    return torch.atanh((2 * x - 1) * 0.999999)


@pytest.mark.parametrize(
    "attack", [DDN(steps=15), PGD(eps=0.3, steps=8), CarliniWagner(steps=10, search_steps=2, c=2.0)]
)
def test_with_the_identity_it_is_the_attack(attack: Attack) -> None:
    net = small_net()
    y = net(X).argmax(1)
    wanted = attack.run(net, X, y, generator=SEEDS)
    assert wanted.success.all()
    found = Latent(attack, Same(), Same()).run(net, X, y, generator=SEEDS)
    assert torch.equal(found.x_adv, wanted.x_adv)
    assert torch.equal(found.gradients, wanted.gradients)


def test_with_tanh_it_is_a_change_of_variable() -> None:
    """By torch's Adam and autograd; and as near as `CarliniWagner`, which bisects between its success and the image."""
    net, c, steps = small_net(), 1.0, 40
    y = net(X).argmax(1)
    w = back(X).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.05)
    nearest, size = X.clone(), torch.full((6,), torch.inf, dtype=X.dtype)
    for _ in range(steps):
        image = tanh(w)
        logits = net(image)
        distance = (image - X).square().flatten(1).sum(1)
        gap = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
        better = (logits.argmax(1) != y) & (distance < size)
        nearest[better], size[better] = image.detach()[better], distance.detach()[better]
        adam.zero_grad()
        (distance + c * F.relu(gap)).sum().backward()
        adam.step()
    assert bool(size.isfinite().any())
    latent = Latent(decode=tanh, encode=back, steps=steps, search_steps=1, lr=0.05, c=c)
    torch.testing.assert_close(latent(net, X, y), nearest, rtol=0, atol=1e-9)
    plain = {"warm_start": False, "retry_target": False, "polish": 0, "abort_early": False}
    cold = CarliniWagner(steps=30, search_steps=3, step_size=0.05, c=c, **plain)
    ratio = Latent(decode=tanh, encode=back, steps=30, search_steps=3, lr=0.05, c=c).run(net, X, y).l2
    ratio = ratio / cold.run(net, X, y).l2
    assert ratio.min() > 1 - 2e-5
    assert ratio.max() < 1.05


class Linear(nn.Module):
    """x = .5 + W z, or `scale` times that."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer, self.latent, self.scale = nn.Linear(3, 24).double(), 3, scale
        nn.init.constant_(self.layer.bias, 0.5)

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self.layer(z).view(-1, *SHAPE)


def test_an_inversion_is_the_least_squares() -> None:
    decode, net = Linear(), small_net()
    goal = Goal(net(X).argmax(1))
    seen = []

    class Seen(Attack):
        def search(self, oracle: Oracle, x: Tensor, goal: Goal, draws: Draws) -> Tensor:
            seen.append(x)
            return x

    Latent(Seen(box=None), decode, starts=3, inversion_steps=400, lr=0.05)(net, X, goal.labels, generator=SEEDS)
    weight = decode.layer.weight.detach()
    best = torch.linalg.lstsq(weight, (X.flatten(1) - 0.5).T).solution.T
    torch.testing.assert_close(seen[0], best, rtol=0, atol=1e-4)


def test_more_starts_and_steps_invert_no_worse() -> None:
    torch.manual_seed(0)
    decode, net, found = MLPGenerator(shape=SHAPE, latent=3, hidden=8).double(), small_net(), []
    for starts, steps in ((1, 0), (6, 0), (6, 40)):
        latent = Latent(decode=decode, starts=starts, inversion_steps=steps)
        rest = _Rest(X, Goal(SEEDS), SEEDS, Draws(SEEDS))
        with torch.no_grad():
            z = latent._start(decode, decode, rest, None)
            found.append(L2.size(decode(z) - X))
    assert (found[0] >= found[1]).all()
    assert (found[1] > found[2]).all()
    with pytest.warns(UserWarning, match="time limit"):
        assert torch.equal(latent.run(net, X, net(X).argmax(1), generator=SEEDS, time_limit=1e-9).x_adv, X)


class Erased(nn.Module):
    """A filter after which all images are alike."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)


def test_success_is_the_whole_models() -> None:
    """Behind a filter that takes every change away none is adversarial, whatever the network says."""
    net = small_net()
    whole = Filtered(Erased(), net).eval()
    y = whole(X).argmax(1)
    latent = Latent(decode=tanh, encode=back, steps=10, search_steps=2, lr=0.05, c=10.0, past_filter=True)
    result = latent.run(whole, X, y)
    assert not result.success.any()
    assert torch.equal(result.x_adv, X)
    assert (result.gradients == 20).all()
    y = net(X).argmax(1)
    bare = Latent(decode=tanh, encode=back, steps=30, search_steps=2, lr=0.05, c=10.0)
    through = Filtered(nn.Identity(), net).eval()
    found = Latent(decode=tanh, encode=back, steps=30, search_steps=2, lr=0.05, c=10.0, past_filter=True)
    first, second = bare.run(through, X, y), found.run(through, X, y)
    assert first.success.all()
    assert second.success.all()
    assert (second.forwards == first.forwards + 4).all(), "2 for each search step, which the whole model answers"


def test_images_that_are_wrong_come_back_as_they_are() -> None:
    net = small_net()
    y = (net(X).argmax(1) + 1) % 10
    result = Latent(decode=tanh, encode=back, steps=3, search_steps=1).run(net, X, y)
    assert torch.equal(result.x_adv, X)
    assert (result.gradients == 0).all()


def test_confidence_is_a_margin_in_logits() -> None:
    net = small_net()
    y = net(X).argmax(1)
    how = {"decode": tanh, "encode": back, "steps": 60, "search_steps": 2, "lr": 0.05, "c": 20.0}
    sure = Latent(**how, confidence=2.0)(net, X, y)  # pyright: ignore[reportArgumentType]
    logits = net(sure).detach()
    gap = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]
    moved = (sure != X).flatten(1).any(1)
    assert moved.any()
    assert (gap[moved] >= 2 - 1e-9).all()


def test_a_constant_that_is_too_small_grows_tenfold_until_there_is_a_success() -> None:
    net = small_net()
    y = net(X).argmax(1)
    how = {"decode": tanh, "encode": back, "steps": 40, "lr": 0.05, "c": 1e-3}
    first, last = (Latent(**how, search_steps=steps).run(net, X, y) for steps in (1, 5))  # pyright: ignore[reportArgumentType]
    assert not first.success.any()
    assert last.success.all()


def test_targets_radii_and_random_models() -> None:
    net = small_net()
    y = net(X).argmax(1)
    target = (y + 1) % 10
    how = {"decode": tanh, "encode": back, "steps": 25, "search_steps": 2, "lr": 0.1, "c": 5.0}
    latent = Latent(**how)  # pyright: ignore[reportArgumentType]
    result = latent.run(net, X, y, target=target)
    assert torch.equal(result.prediction[result.success], target[result.success])
    assert result.success.any()
    sizes = latent.run(net, X, y).l2
    middle = float(sizes.median()) + 1e-9
    within = Within(latent, middle).run(net, X, y)
    assert torch.equal(within.success, sizes <= middle)
    assert EOT(latent, samples=2).run(net, X, y).gradients.max() == 2 * 2 * 25


def test_with_a_radius_images_further_away_are_moved_back() -> None:
    net = small_net()
    y = net(X).argmax(1)
    how = {"decode": tanh, "encode": back, "steps": 25, "search_steps": 2, "lr": 0.1, "c": 5.0}
    far = Latent(**how)(net, X, y)  # pyright: ignore[reportArgumentType]
    size = L2.size(far - X)
    radius = float(size.median())
    near = Latent(**how, radius=radius)(net, X, y)  # pyright: ignore[reportArgumentType]
    share = (radius / size.clamp(min=1e-9)).clamp(max=1)[:, None, None, None]
    assert ((size > radius).any(), (size < radius).any()) == (True, True)
    torch.testing.assert_close(near, X + share * (far - X), rtol=0, atol=1e-9)
    assert (L2.size(near - X) <= radius).all()


def test_behind_a_projection_half_the_way_is_enough() -> None:
    """A filter that takes the nearest of a few images errs beyond the middle between two of them, not before it."""
    images = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)]).double()

    class Nearest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return images[(x[:, None] - images).flatten(2).norm(dim=2).argmin(1)]

    class Which(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            size = x.flatten(1).sum(1, keepdim=True) - 12
            return torch.cat([-size, size], 1)

    model, x, whole = Filtered(Nearest(), Which()).eval(), images[:1], 24**0.5

    def all_alike(z: Tensor) -> Tensor:
        return z.view(-1, 1, 1, 1).expand(-1, *SHAPE)

    def to_z(x: Tensor) -> Tensor:
        return x[:, 0, 0, :1]

    how = {"decode": all_alike, "encode": to_z, "steps": 20, "search_steps": 2, "c": 10.0, "past_filter": True}
    for share, broken in ((0.45, False), (0.52, True)):
        attack = Latent(**how, confidence=15.0, radius=share * whole)  # pyright: ignore[reportArgumentType]
        result = attack.run(model, x, torch.tensor([0]))
        assert bool(result.success) is broken
        assert float(result.l2) == pytest.approx(share * whole, abs=1e-6)


def test_it_takes_the_generator_of_the_models_own_filter_or_of_a_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (1, 4, 4)
    made = {"kind": "MLPGenerator", "latent": 2, "hidden": 8}
    generator = build(shape=shape, **made)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model = Filtered(DefenseGAN(generator, steps=2, restarts=1), network).eval()
    x = torch.rand(4, *shape)
    y = model(x).argmax(1)
    how = {"starts": 2, "inversion_steps": 3, "steps": 5, "search_steps": 1, "past_filter": True}
    own = Latent(**how)(model, x, y, generator=SEEDS[:4])
    twice = EOT(Latent(**how), samples=2).run(model, x, y, generator=SEEDS[:4])
    assert twice.gradients.max() == 5, "the network behind the filter is not random"
    assert torch.equal(own, Latent(decode=generator, **how)(model, x, y, generator=SEEDS[:4]))
    trained, data = described(build(shape=shape, **made), made, shape, 3), (torch.rand(8, *shape), torch.arange(8) % 3)
    gan = WassersteinGAN(critic="MLPCritic", width=4)
    fit(trained, data, gan, Training(epochs=1), folder=tmp_path / "run", progress=False)
    by_path = Latent(decode=str(tmp_path / "run"), **how)(model, x, y, generator=SEEDS[:4])
    assert torch.equal(by_path, Latent(decode=trained, **how)(model, x, y, generator=SEEDS[:4]))
    attack = Latent(PGD(box=None), decode="runs/gan_mnist")
    assert config.read(Attack, config.write(attack)) == attack


def nan(x: Tensor) -> Tensor:
    return x + torch.nan


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Latent(), "Latent needs decode, from z to images: this model has no DefenseGAN"),
        (Latent(decode=tanh), "decode has no attribute `latent`"),
        (
            Latent(decode=Same(), encode=tanh, past_filter=True),
            "past_filter needs a Filtered model; SmallNet has no filter",
        ),
        (
            Latent(decode=Linear(2.0), inversion_steps=0, starts=1),
            r"decode gives images from .*, and the box is \(0.0, 1",
        ),
        (Latent(PGD(), tanh, back), r"beyond the box \(0\.0, 1\.0\) of the attack on it: give that one box=None"),
        (Latent(decode=Same(), encode=nan), "encode gives NaN"),
        (Latent(decode=nn.Flatten(), encode=Same()), r"decode gives images of \(24,\); these are \(1, 4, 6\)"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else type(each).__name__,
)
def test_what_cannot_be_attacked_is_refused(attack: Any, message: str) -> None:
    net = small_net()
    with pytest.raises(ValueError, match=message):
        attack(net, X, net(X).argmax(1), generator=SEEDS)


def test_one_attack_in_it() -> None:
    with pytest.raises(ValueError, match="give reference, uint8 and precision to Latent itself, not to PGD in it"):
        Latent(PGD(uint8=True), tanh, back)
    assert Latent(PGD()).budget is None
    assert (Latent(PGD()).access, Latent().measured_in) == ("gradients", L2)
