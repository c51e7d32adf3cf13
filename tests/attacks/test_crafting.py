"""What surrounds a search: parts, memory, time, precision, bytes and models without gradients."""

import itertools
import time
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from affine import images, small_net
from steelman.attacks import FAB, FGSM, PGD, CarliniWagner, DeepFool, WorstOf
from steelman.attacks.core.attack import Attack
from steelman.attacks.core.crafting import Execution
from steelman.losses import Margin
from steelman.norms import L0, L1, L2, Linf

X = images(12)
SEEDS = torch.arange(12)
SHORT = {"steps": 40, "search_steps": 4, "c": 2.0, "step_size": 0.1}


def labels(model: Any, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


Y = labels(small_net())


# --- parts and memory


class Small(nn.Module):
    """Runs out of memory on more than three images."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.largest = small_net(), 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(x))
        return self.net(x)


RADII = torch.linspace(0, 0.2, 12, dtype=torch.float64)


@pytest.mark.parametrize(
    "attack", [PGD(eps=0.1), PGD(eps=RADII), WorstOf((FGSM(eps=RADII), PGD(eps=RADII))), DeepFool()], ids=str
)
def test_parts_change_nothing(attack: Attack) -> None:
    whole = attack.run(small_net(), X, Y, generator=SEEDS)
    parts = attack.run(small_net(), X, Y, generator=SEEDS, batch_size=5)
    torch.testing.assert_close(parts.x_adv, whole.x_adv, rtol=0, atol=1e-7)
    assert torch.equal(parts.forwards, whole.forwards)
    assert torch.equal(parts.gradients, whole.gradients)


def test_auto_halves_until_it_fits_and_says_so() -> None:
    model = Small().eval()
    with pytest.warns(UserWarning, match="memory ran out: going on with") as heard:
        result = PGD(eps=0.1).run(model, X, Y, generator=SEEDS, batch_size="auto")
    assert [str(each.message).split()[-4] for each in heard] == ["6", "3"]
    assert model.largest == 3
    torch.testing.assert_close(result.x_adv, PGD(eps=0.1)(small_net(), X, Y, generator=SEEDS), rtol=0, atol=1e-7)
    with pytest.raises(torch.OutOfMemoryError):
        PGD(eps=0.1).run(model, X, Y, batch_size=6)


def test_settings_of_another_batch_are_refused() -> None:
    for attack in (FAB(radius=RADII), WorstOf((FGSM(eps=0.1), PGD(eps=0.1, step_size=RADII)))):
        with pytest.raises(ValueError, match=r"is one number or one per image, of shape \(5,\); got shape \(12,\)"):
            attack(small_net(), X[:5], Y[:5])


def test_execution_is_checked() -> None:
    for wrong in ({"batch_size": 0}, {"time_limit": 0.0}, {"time_limit": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Execution(**wrong)


def test_compiled_crafts_on_the_compiled_model_and_judges_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compile_(model: Any, **_: Any) -> Any:
        return lambda x: asked.append(len(x)) or model(x)

    monkeypatch.setattr(torch, "compile", compile_)
    result = PGD(eps=0.1, steps=4).run(small_net(), X, Y, generator=SEEDS, compiled=True)
    assert asked == [12] * 4
    assert torch.equal(result.x_adv, PGD(eps=0.1, steps=4)(small_net(), X, Y, generator=SEEDS))


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    PGD(eps=0.1).run(small_net(), X, Y, progress=True)
    assert capsys.readouterr() == ("", "")


# --- time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for every look at the clock, that is for every question to the model."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


@pytest.mark.usefixtures("clock")
def test_out_of_time_the_nearest_successes_so_far_are_returned() -> None:
    attack = CarliniWagner(steps=10_000, step_size=0.05, c=2.0)
    with pytest.warns(UserWarning, match="time limit was reached: the attack on 12 of 12 images was cut short"):
        result = attack.run(small_net(), X, Y, time_limit=200.0)
    assert int(result.forwards.max()) == 200
    assert float(result.success.double().mean()) > 0.8
    assert torch.equal(result.x_adv[~result.success], X[~result.success])
    optimum = DeepFool().run(small_net(), X, Y).l2
    assert float((result.l2 / optimum)[result.success].median()) < 1.5  # not merely the last one that was tried


@pytest.mark.usefixtures("clock")
def test_out_of_time_what_is_returned_is_the_nearest_of_all_that_were_asked() -> None:
    net, attack = small_net(), CarliniWagner(steps=10_000, step_size=0.2, c=2.0)
    for row in range(4):
        x, y, asked = X[row : row + 1], Y[row : row + 1], list[Tensor]()

        def model(z: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(z.detach().clone())
            return net(z)

        with pytest.warns(UserWarning, match="time limit was reached"):
            x_adv = attack.run(model, x, y, time_limit=100.0).x_adv
        tried = torch.cat(asked[:100])
        sizes = (tried - x).flatten(1).norm(dim=1)[labels(net, tried) != y]
        assert len(sizes) > 1
        assert float(sizes[-1]) > float(sizes.min())
        torch.testing.assert_close((x_adv - x).norm(), sizes.min())


@pytest.mark.usefixtures("clock")
def test_out_of_time_images_whose_turn_never_came_are_clean_and_bounds_are_kept() -> None:
    with pytest.warns(UserWarning, match="the attack on 8 of 12 images was cut short"):
        result = PGD(eps=0.2, steps=20).run(small_net(), X, Y, time_limit=30.0, batch_size=4)
    assert torch.equal(result.x_adv[8:], X[8:])
    assert bool((result.linf <= 0.2).all())
    assert bool((result.x_adv != X)[:4].flatten(1).any(1).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(eps=0.2).run(small_net(), X, Y, time_limit=60.0)


# --- bytes


BYTES = (X * 255).round().to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("attack", [DeepFool(), DeepFool(norm=Linf), CarliniWagner(**SHORT)], ids=repr)
def test_minimal_attacks_end_in_bytes_that_are_still_adversarial(attack: Attack, dtype: torch.dtype) -> None:
    model, x = small_net(dtype), BYTES.to(dtype) / 255
    y = labels(model, x)
    result = replace(attack, uint8=True).run(model, x, y)
    assert torch.equal((result.x_adv * 255).round().to(torch.uint8).to(dtype) / 255, result.x_adv)
    assert bool(result.success.all())
    assert bool(attack.run(model, x, y).success.all())
    assert float((result.l2 / attack.run(model, x, y).l2).median()) < 1.25


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 8 / 255), (L2, 0.3), (L1, 1.0), (L0, 3.0)], ids=repr)
def test_bounded_attacks_end_in_bytes_within_the_ball(norm: Any, eps: float) -> None:
    model, x = small_net(), BYTES.double() / 255
    y = labels(model, x)
    result = PGD(eps=eps, norm=norm, uint8=True).run(model, x, y, generator=SEEDS)
    levels = result.x_adv * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
    size = norm.size((levels.round() - BYTES.double()) / 255)
    assert bool((size <= eps + 1e-9).all())
    full = PGD(eps=eps, norm=norm).run(model, x, y, generator=SEEDS)
    assert int(result.success.sum()) >= int(full.success.sum()) - 1
    assert bool((result.x_adv != x).flatten(1).any(1).all())


def test_bytes_need_a_box_and_bounded_attacks_bytes_to_begin_with() -> None:
    with pytest.raises(ValueError, match="box=None; give it one"):
        DeepFool(uint8=True, box=None)(small_net(), X, Y)
    with pytest.raises(ValueError, match=r"bytes / 255 already; one is 0\.\d+ of a level off"):
        PGD(uint8=True)(small_net(), X, Y)
    assert bool(DeepFool(uint8=True).run(small_net(), X, Y).success.all())


# --- half precision


@pytest.mark.parametrize("attack", [DeepFool(), CarliniWagner(**SHORT)], ids=repr)
def test_what_bf16_finds_is_verified_and_mended_in_full_precision(attack: Attack) -> None:
    model, x = small_net(torch.float32), X.float()
    y = labels(model, x)
    half = replace(attack, precision="bf16").run(model, x, y)
    assert bool(half.success.all())
    full = attack.run(model, x, y)
    assert not torch.equal(half.x_adv, full.x_adv)  # it did run in bf16
    assert float((half.l2 / full.l2).median()) < 1.1


# --- models whose gradients say nothing


class Sure(nn.Module):
    """The same decisions, with logits so large that cross-entropy's gradient underflows."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.net, self.scale = small_net(torch.float32), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", [FGSM(eps=0.1), PGD(eps=0.1), PGD(eps=0.5, norm=L2)], ids=repr)
def test_sure_models_are_met_with_a_scale_free_loss(attack: Any, targeted: bool) -> None:
    model, x = Sure(1e4).eval(), X.float()
    y = labels(model, x)
    target = (y + 1) % 10 if targeted else None
    with torch.enable_grad():
        z = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(z), y, reduction="sum")
        lost = torch.autograd.grad(loss, z)[0].flatten(1).abs().amax(1) == 0
    assert bool(lost.any()) or targeted, "the plain gradient is there, so nothing is tested"
    result = attack.run(model, x, y, target=target, generator=SEEDS)
    margin = replace(attack, loss=Margin()).run(Sure(1.0).eval(), x, y, target=target, generator=SEEDS)
    assert int(result.success.sum()) >= int(margin.success.sum()) - 1
    assert bool((result.x_adv != x).flatten(1).any(1).all())
    if attack == FGSM(eps=0.1) and not targeted:
        assert torch.equal(result.gradients, torch.ones_like(y))  # no pass for it


class HalfFlat(nn.Module):
    """No gradient for images whose first pixel is dark."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat[:, :10] * (flat[:, :1] > 0.5) + 0 * flat[:, :1]


@pytest.mark.parametrize("attack", [PGD(eps=0.01), DeepFool()], ids=repr)
def test_images_without_a_gradient_are_named_with_their_share(attack: Attack) -> None:
    x = torch.rand(10, 1, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 0, 0, 0] = 0.9
    x[[2, 5, 7], 0, 0, 0] = 0.1
    y = labels(HalfFlat(), x)
    with pytest.warns(UserWarning, match=r"gradient is zero on 3 of 10 images \(30%; 2, 5, 7\).*HopSkipJump"):
        attack.run(HalfFlat(), x, y)
