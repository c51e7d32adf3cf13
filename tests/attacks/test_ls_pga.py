"""The attack in the levels of thermometer codes."""

from itertools import product

import pytest
import torch
from torch import nn

from affine import images, small_net
from steelman import AdversarialTraining
from steelman.attacks import LSPGA, PGD
from steelman.data import Digits
from steelman.filters import BitDepth, Thermometer
from steelman.losses import CrossEntropy, Goal
from steelman.networks import MLP, Filtered
from steelman.norms import Linf


def network(
    levels: int = 4, shape: tuple[int, ...] = (1, 3, 3), classes: int = 3, kind: str = "thermometer"
) -> Filtered:
    torch.manual_seed(0)
    inner = MLP(hidden=(64,), shape=(shape[0] * levels, *shape[1:]), classes=classes)
    return Filtered(Thermometer(levels, kind), inner).eval()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["thermometer", "one_hot"])
@pytest.mark.parametrize("eps", [0.05, 0.31, 1.0])
def test_every_value_has_a_level_that_it_can_reach_and_is_the_nearest_of_it(eps: float, kind: str):
    torch.manual_seed(1)
    x, model = torch.rand(40, 1, 3, 3), network(kind=kind)
    y = model(x).argmax(1)
    code = Thermometer(4)
    x_adv = LSPGA(eps)(model, x, y)
    before, after = code.level(x), code.level(x_adv)
    low, high = (code.level(each) for each in Linf.bounds(x, eps, (0.0, 1.0)))
    assert ((after >= low) & (after <= high)).all()
    assert torch.equal(x_adv[before == after], x[before == after])
    up, down = after > before, after < before
    torch.testing.assert_close(x_adv[up], after[up] / 4, atol=1e-4, rtol=0)
    torch.testing.assert_close(x_adv[down], (after[down] + 1) / 4, atol=1e-4, rtol=0)
    assert (up | down).any()


def test_of_a_linear_network_it_finds_the_best_levels():
    """Against all of them: every bit counts by itself, so the best level of each value is known."""
    torch.manual_seed(2)
    levels, eps = 4, 0.4
    linear = nn.Sequential(nn.Flatten(), nn.Linear(levels * 2, 2))
    model = Filtered(Thermometer(levels), linear)
    x = torch.rand(30, 1, 1, 2)
    y = model(x).argmax(1)
    attack = LSPGA(eps, steps=60, step_size=0.5)
    found = CrossEntropy()(model(attack(model, x, y)), Goal(y)).detach()
    code = Thermometer(levels)
    low, high = (code.level(each) for each in Linf.bounds(x, eps, (0.0, 1.0)))
    for row in range(30):
        ranges = [range(int(a), int(b) + 1) for a, b in zip(low[row].flatten(), high[row].flatten(), strict=True)]
        every = torch.tensor(list(product(*ranges))).reshape(-1, 1, 1, 2)
        losses = CrossEntropy()(linear(code.encoded(every)), Goal(y[row].expand(len(every)))).detach()
        assert float(found[row]) == pytest.approx(float(losses.max()), rel=1e-4)


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("kind", ["thermometer", "one_hot"])
def test_steps_by_hand(kind: str, sign: bool):
    torch.manual_seed(1)
    x, model = torch.rand(30, 1, 3, 3, dtype=torch.float64), network(kind=kind).double()
    y, code, places = model(x).argmax(1), Thermometer(4), torch.arange(4)[:, None, None]
    low, high = (code.level(each)[:, :, None] for each in Linf.bounds(x, 0.4, (0.0, 1.0)))
    reached = (low <= places) & (places <= high)
    u, step_size = torch.zeros(30, 1, 4, 3, 3, dtype=torch.float64), 1.0 if sign else 20.0
    for step in range(4):
        u.requires_grad_()
        weight = (1.3**step * u).exp() * reached
        p = weight / weight.sum(2, keepdim=True)
        bits = p if kind == "one_hot" else torch.stack([p[:, :, k:].sum(2) for k in range(4)], 2)
        loss = nn.functional.cross_entropy(model.network(bits.flatten(1, 2)), y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, u)
        u = u.detach() + step_size * (slope.sign() if sign else slope)
    expected = u.masked_fill(~reached, -torch.inf).argmax(2)
    attack = LSPGA(0.4, steps=4, step_size=step_size, growth=1.3, sign=sign)
    assert torch.equal(code.level(attack(model, x, y)), expected)
    assert not torch.equal(code.level(x), expected)


def test_it_is_stronger_than_pgd_through_the_authors_ramp_and_trains():
    data = Digits().load("train").subset(torch.arange(500))
    model = Filtered(Thermometer(8), MLP(hidden=(32,), shape=(8, 8, 8), classes=10))
    batch = next(data.in_order(500))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    right = (model(batch.x).argmax(1) == batch.y).float().mean()
    ours = (model(LSPGA(0.2)(model, batch.x, batch.y)).argmax(1) == batch.y).float().mean()
    weak = Filtered(Thermometer(8, width=0.5), model.network)
    theirs = (model(PGD(0.2, steps=7)(weak, batch.x, batch.y)).argmax(1) == batch.y).float().mean()
    assert right > 0.9
    assert ours < theirs
    loss = AdversarialTraining(LSPGA(0.2))(model, batch)
    assert float(loss.detach()) > float(nn.functional.cross_entropy(model(batch.x), batch.y).detach())


def test_the_codes_gradient_from_a_random_start_moves_nothing():
    torch.manual_seed(1)
    x, model = torch.rand(20, 1, 3, 3), network()
    y = model(x).argmax(1)
    seeds = torch.arange(20)
    code = LSPGA(0.4, step_size=0.01, sign=False, random_start=True)
    none = LSPGA(0.4, steps=0, random_start=True)
    same = code(model, x, y, generator=seeds) == none(model, x, y, generator=seeds)
    assert float(same.float().mean()) > 0.9


def test_passes_are_counted():
    x, model = torch.rand(5, 1, 3, 3), network()
    result = LSPGA(0.3, steps=4).run(model, x, torch.zeros(5, dtype=torch.int64))
    assert result.gradients.tolist() == [4] * 5


@pytest.mark.parametrize(
    ("model", "attack", "message"),
    [
        (small_net(), LSPGA(0.1), "needs a network behind a thermometer code"),
        (Filtered(BitDepth(1), small_net()), LSPGA(0.1), "got a Filtered"),
        (network(), LSPGA(0.1, box=None), "needs the box"),
    ],
)
def test_other_models_and_boxes_are_refused(model: nn.Module, attack: LSPGA, message: str):
    x = torch.rand(2, 1, 3, 3) if isinstance(attack.box, type(None)) else images(2)
    with pytest.raises(ValueError, match=message):
        attack(model, x, torch.zeros(2, dtype=torch.int64))
