"""What the check-up finds at the scale of the radius, and after the last layer."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from digits_network import trained
from steelman.checkup import Checkup, checkup
from steelman.checkup.reach import Reach, many
from steelman.data import Digits
from steelman.norms import L0, L1, L2, Linf, Norm

NET = trained()
TEST = Digits().load("test")
X = next(TEST.batches([torch.arange(40)])).x


def look(model: Callable[[Tensor], Tensor], norm: Norm = Linf, eps: float | None = 0.15) -> Checkup:
    return checkup(model, TEST, norm=norm, eps=eps)


def warned(found: Checkup) -> set[str]:
    return {each.name for each in found.warnings}


class Behind(nn.Module):
    """Something done to the images, and something to the logits, of the network."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda z: z
    ):
        super().__init__()
        self.net, self.before, self.after = NET, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.15), (Linf, 0.01), (Linf, 0.5), (L2, 0.8), (L1, 5.0)])
def test_an_honest_network_is_fine_there(norm: Norm, eps: float) -> None:
    found = look(NET, norm, eps)
    assert not warned(found)
    assert {"noise", "radius"} <= {each.name for each in found.findings}


def test_without_a_radius_or_in_l0_it_is_not_asked() -> None:
    for found in (checkup(NET, TEST), look(NET, L0, 5.0)):
        assert not {"noise", "radius"} & {each.name for each in found.findings}
    with pytest.raises(ValueError, match="radius above 0; got 0"):
        look(NET, eps=0.0)


class Flipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return -slope


class Empty(Flipped):
    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return 0 * slope


def only_near(x: Tensor) -> Tensor:
    """A gradient on the images, in sixteenths and up to a hundredth from there, and nowhere else."""
    near = ((16 * x).round() / 16 - x).flatten(1).abs().amax(1) <= 0.012
    return torch.where(near.reshape(-1, 1, 1, 1), x, x.detach() + 0 * x)


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x + 0.05 * torch.sin(500 * x),  # slopes are true, and of no use at the radius
        Flipped.apply,
        Empty.apply,
        only_near,
    ],
)
def test_gradients_that_do_not_help_at_the_radius(before: Callable[[Tensor], Tensor]) -> None:
    found = look(Behind(before))
    assert "radius" in warned(found)
    assert "HopSkipJump" in {each.name: each for each in found.findings}["radius"].advice


def test_such_gradients_may_be_fine_on_the_images() -> None:
    assert not {"slopes", "gradient"} & warned(checkup(Behind(only_near), TEST))


def test_predictions_that_jump() -> None:
    def jump(z: Tensor) -> Tensor:
        """The next class where the last digits of a logit say so."""
        odd = (z[:, :1] * 1e3).long() % 2 == 1
        return torch.where(odd, z.roll(1, 1), z)

    found = look(Behind(after=jump))
    assert "noise" in warned(found)
    assert "noise" not in warned(look(Behind()))


def test_a_linear_model_in_closed_form() -> None:
    """The best step is up the gradient, which is the same everywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    reach = Reach.of(model, X, model(X).argmax(1), Linf, 0.1, 0)
    assert reach is not None
    assert not (reach.useless | reach.flat | reach.along | reach.across).any()
    assert reach.tested.all()
    assert float((reach.attacked - X).abs().max()) <= 0.1 + 0.01 + 1e-6


def test_many_is_a_binomial_test() -> None:
    # P(X >= 5), X ~ B(32, .03), is .0028, and P(X >= 4) .0150
    assert many(torch.arange(32) < 5)
    assert not many(torch.arange(32) < 4)
    assert not many(torch.zeros(0, dtype=torch.bool))


# After the last layer


@pytest.mark.parametrize(
    "after",
    [
        lambda z: z,
        lambda z: z / 20,
        lambda z: 1000 * z,
        lambda z: z - z.mean(1, keepdim=True),
        lambda z: z.log_softmax(1),
        lambda z: z.softmax(1),
        lambda z: torch.cat([z, -z.amax(1, keepdim=True)], 1),  # one class more
    ],
)
def test_softmax_scale_and_shift_are_no_finding(after: Callable[[Tensor], Tensor]) -> None:
    assert "head" not in {each.name for each in look(Behind(after=after)).findings}


def test_a_mean_of_two_networks_has_two_heads() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = NET, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + 0.1 * self.two(x)

    assert "head" not in {each.name for each in look(Mean()).findings}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda z: (20 * z).softmax(1).softmax(1), "saturated or rounded"),
        (lambda z: torch.sigmoid(5 * z), "saturated or rounded"),
        (lambda z: 1 + 1e-5 * z, "the answer's differences are"),
        (lambda z: torch.where((z.amax(1) % 0.1 < 0.02)[:, None], z.roll(1, 1), z), "the class differs"),
    ],
)
def test_logits_that_the_answer_hides(after: Callable[[Tensor], Tensor], said: str) -> None:
    found = {each.name: each for each in look(Behind(after=after)).findings}
    assert found["head"].level == "warning"
    assert said in found["head"].found
    assert not NET[-1]._forward_hooks


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_take_no_hooks() -> None:
    assert look(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))).access == "gradients"
