"""Penalties on gradients against double loops over images, classes and pixels, closed forms, and averages of chance."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import (
    FGSM,
    AdversarialTraining,
    Batch,
    CrossLipschitz,
    DeepDefense,
    InputGradientRegularisation,
    Plain,
    Sum,
    fit,
)
from steelman import JacobianRegularisation as Jacobian
from steelman.data import InMemory
from steelman.defences.gradient_penalty import GradientPenalty
from steelman.networks import Preprocessed, SubtractMean

EVERY: dict[str, GradientPenalty] = {
    "jacobian": Jacobian(weight=0.3),
    "jacobian, one root": Jacobian(weight=0.3, root="batch"),
    "jacobian, squared": Jacobian(weight=0.3, root="none"),
    "input gradient": InputGradientRegularisation(weight=0.7),
    "cross-Lipschitz": CrossLipschitz(weight=0.4),
}
every = pytest.mark.parametrize("name", EVERY)


def smooth() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.Softplus(), nn.Linear(7, 4)).double()


def pooling() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)
    ).double()


def images(count: int = 5) -> Batch:
    chance = torch.Generator().manual_seed(3)
    x = torch.rand(count, 1, 4, 4, dtype=torch.float64, generator=chance)
    return Batch(x, torch.arange(count) % 4, seeds=torch.arange(count))


def derivative(of: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(of, x, create_graph=True)[0]


def naive(name: str, net: nn.Module, batch: Batch) -> Tensor:
    """The printed formula, one image, class and pixel after the other."""
    weight, terms = EVERY[name].weight, []
    for pixels, label in zip(batch.x, batch.y, strict=True):
        x = pixels[None].clone().requires_grad_()
        logits = net(x)[0]
        classes, total = len(logits), torch.zeros((), dtype=x.dtype)
        loss = logits.exp().sum().log() - logits[label]
        if name.startswith("jacobian"):
            for k in range(classes):
                for entry in derivative(logits[k], x).flatten():
                    total = total + entry**2
        elif name == "input gradient":
            for entry in derivative(loss, x).flatten():
                total = total + entry**2
        else:
            for j in range(classes):
                for k in range(classes):
                    for a, b in zip(
                        derivative(logits[j], x).flatten(), derivative(logits[k], x).flatten(), strict=True
                    ):
                        total = total + (a - b) ** 2 / classes**2
        terms.append((loss, total))
    loss = sum(loss for loss, _ in terms) / len(terms)
    if name == "jacobian":
        return loss + weight * sum(total**0.5 for _, total in terms) / len(terms)
    mean = sum(total for _, total in terms) / len(terms)
    return loss + weight * (mean**0.5 if name == "jacobian, one root" else mean)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True))


@every
@pytest.mark.parametrize("make", [smooth, pooling])
def test_equals_the_double_loop(name: str, make):
    net, batch = make(), images()
    ours, theirs = EVERY[name](net, batch), naive(name, net, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients(ours, net), gradients(theirs, net), rtol=1e-7, atol=1e-9)
    assert float(ours.detach() - Plain()(net, batch).detach()) > 1e-3


@every
def test_on_a_linear_model_it_is_the_closed_form(name: str):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double()
    batch, weight = images(), net[1].weight
    rates = net(batch.x).softmax(1) - F.one_hot(batch.y, 4)
    pairs = (weight[:, None] - weight[None]).square().sum()
    closed = {
        "jacobian": weight.norm(),
        "jacobian, one root": weight.norm(),
        "jacobian, squared": weight.square().sum(),
        "input gradient": (rates @ weight).square().sum(1).mean(),
        "cross-Lipschitz": pairs / 16,
    }[name]
    wanted = F.cross_entropy(net(batch.x), batch.y) + EVERY[name].weight * closed
    ours = EVERY[name](net, batch)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(ours, net), gradients(wanted, net))


@every
def test_its_gradient_equals_finite_differences(name: str):
    net, batch = smooth(), images()
    chance = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(net.parameters(), gradients(EVERY[name](net, batch), net), strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=chance)
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter += step * direction
            values.append(EVERY[name](net, batch).item())
        with torch.no_grad():
            parameter += 1e-5 * direction
        assert (gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-8)


SQUARES = (Jacobian(weight=1.0, root="none"), CrossLipschitz(weight=1.0))
squares = pytest.mark.parametrize("exact", SQUARES, ids=lambda each: type(each).__name__)


@squares
def test_projections_are_unbiased_for_the_square(exact: GradientPenalty):
    net, batch = smooth(), images()
    wanted, drawn = exact(net, batch).item(), []
    for turn in range(40):
        seeds = torch.arange(len(batch)) + 1000 * turn
        drawn.append(replace(exact, projections=10)(net, Batch(batch.x, batch.y, seeds=seeds)).item())
    found = torch.tensor(drawn)
    error = float(found.std() / len(drawn) ** 0.5)
    assert 0 < error < 0.03 * wanted
    assert abs(float(found.mean()) - wanted) < 3 * error


@squares
def test_projections_are_on_the_sphere_and_belong_to_images(exact: GradientPenalty):
    """With logits that are the pixels every unit vector has the same square, so that no chance is left: |J|^2 = 16, and
    30 / 16 for differences, also where all logits have one term in common."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16, bias=False)).double()
    differences = isinstance(exact, CrossLipschitz)
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(16) + 0.5 * differences)
    batch, wanted = images(), torch.tensor(30 / 16 if differences else 16.0, dtype=torch.float64)
    for defence in (exact, replace(exact, projections=1)):
        torch.testing.assert_close(defence(net, batch) - Plain()(net, batch), wanted)
    net, defence = smooth(), replace(exact, projections=2)
    alone = [defence(net, batch[torch.tensor([place])]).item() for place in range(len(batch))]
    assert defence(net, batch).item() == pytest.approx(sum(alone) / len(alone), rel=1e-12)
    other = Batch(batch.x, batch.y, seeds=torch.arange(len(batch)) + 7)
    assert defence(net, other).item() != pytest.approx(defence(net, batch).item(), rel=1e-6)


def test_two_classes_have_one_difference():
    torch.manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.Softplus(), nn.Linear(7, 2)).double()
    batch = Batch(images().x, images().y % 2, seeds=images().seeds)
    ours, exact = (each(net, batch) for each in (CrossLipschitz(weight=1.0, projections=1), CrossLipschitz(weight=1.0)))
    torch.testing.assert_close(ours, exact)
    torch.testing.assert_close(gradients(ours, net), gradients(exact, net))


@squares
def test_projections_take_a_gradient_pass_each_whatever_the_number_of_classes(exact: GradientPenalty):
    batch, taken = images(), []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, slope: Tensor) -> Tensor:
            taken.append(len(slope))
            return slope

    class Count(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Counted.apply(x)

    for classes in (4, 100):
        net = nn.Sequential(Count(), nn.Flatten(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, classes)).double()
        for defence, passes in (
            (replace(exact, projections=3), 3),
            (exact, classes - isinstance(exact, CrossLipschitz)),
        ):
            taken.clear()
            defence(net, batch)
            assert len(taken) == passes


def test_one_root_for_the_batch_is_no_mean_of_roots():
    net, batch = smooth(), images()
    halves = [batch[:2], batch[2:]]
    for root, equal in (("image", True), ("none", True), ("batch", False)):
        defence = Jacobian(root=root)
        parts = sum(len(part) / len(batch) * defence(net, part).item() for part in halves)
        assert (parts == pytest.approx(defence(net, batch).item(), rel=1e-12)) is equal


@every
def test_a_network_that_answers_the_same_everywhere_has_finite_gradients(name: str):
    net, batch = smooth(), images()
    with torch.no_grad():
        net[3].weight.zero_()
    assert all(bool(each.isfinite().all()) for each in gradients(EVERY[name](net, batch), net))


@every
def test_derivatives_are_with_respect_to_pixels(name: str):
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    net, batch = smooth(), images()
    doubled = nn.Sequential(Double(), net)
    torch.testing.assert_close(EVERY[name](doubled, batch), naive(name, doubled, batch), rtol=1e-9, atol=0)
    layer = SubtractMean(shape=(1, 4, 4)).double()
    layer.get_buffer("mean").fill_(0.25)
    layer.fitted = True
    shifted = Batch(batch.x - 0.25, batch.y)
    torch.testing.assert_close(EVERY[name](Preprocessed(layer, net), batch), EVERY[name](net, shifted))


@every
def test_a_sum_adds_them_up(name: str):
    net, batch = smooth(), images()
    attacked = AdversarialTraining(FGSM(eps=0.1))
    parts = (EVERY[name], attacked, DeepDefense(c=3.0))
    ours = Sum(parts, (1.0, 0.5, 2.0))(net, batch)
    wanted = EVERY[name](net, batch) + 0.5 * attacked(net, batch) + 2 * parts[2](net, batch)
    torch.testing.assert_close(gradients(ours, net), gradients(wanted, net))


TWICE = [*EVERY.values(), DeepDefense()]


def labelled(classes: int = 4) -> InMemory:
    batch = images()
    return InMemory("made", batch.x.float(), batch.y % classes, tuple("0123"[:classes]))


@pytest.mark.parametrize("defence", TWICE)
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_compiled_networks_are_refused(defence: GradientPenalty):
    net = smooth().float()
    in_place, inner = smooth().float(), smooth().float()
    in_place.compile()
    for wrong in (torch.compile(net), in_place, nn.Sequential(nn.Identity(), torch.compile(inner))):
        with pytest.raises(ValueError, match=r"before torch\.compile"):
            defence.setup(wrong, labelled())
        with pytest.raises(ValueError, match=r"before torch\.compile"):
            defence(wrong, images())
    assert defence.setup(net, labelled()) is defence


@pytest.mark.parametrize("defence", TWICE)
def test_one_class_is_refused(defence: GradientPenalty):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    batch = Batch(images().x.float(), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least two classes"):
        fit(net, labelled(1), defence, progress=False)
    with pytest.raises(ValueError, match="at least two classes"):
        defence(net, batch)


def test_one_root_in_two_processes_and_unknown_layers_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="train in one process"):
        Jacobian(root="batch").setup(smooth().float(), labelled())
    assert Jacobian().setup(smooth().float(), labelled()) == Jacobian()
    with pytest.raises(ValueError, match="has no layer"):
        DeepDefense(layers=("conv9",)).setup(smooth().float(), labelled())
