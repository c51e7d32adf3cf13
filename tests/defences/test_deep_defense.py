"""Deep Defense against independent formulas: full double back-propagation, explicit reverse layers, closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.defences import DeepDefense, Plain
from steelman.networks import LeNet, Preprocessed, SubtractMean
from steelman.training import Descend, MicroBatches
from steelman.types import Batch


def small_lenet(seed: int = 0) -> nn.Sequential:
    """A LeNet in small, in double precision: convolutions, max pooling without ReLU, ReLU."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.ReLU(),
        nn.Linear(12, 5),
    ).double()


def small_batch(net: nn.Module, images: int = 12, wrong: int = 4, seed: int = 1) -> Batch:
    """Images of which `wrong` are misclassified."""
    x = torch.rand(images, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = net(x).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % 5
    return Batch(x, y)


def full_jacobian(defence: DeepDefense, net: nn.Module, batch: Batch) -> Tensor:
    """The paper's loss image by image, with every Jacobian row in the graph: no class is singled out beforehand."""
    terms = []
    for x, label in zip(batch.x, batch.y, strict=True):
        x = x[None]
        logits = net(x)[0]
        own = int(logits.argmax())
        correct = own == int(label)
        order = [int(k) for k in logits.argsort(descending=True) if int(k) != own]
        total = torch.zeros_like(x)
        for _ in range(defence.steps):
            point = x + total
            if not point.requires_grad:
                point = point.requires_grad_()
            logits = net(point)[0]
            previous = own
            if not correct:
                own = int(logits.argmax())
                order = [int(label)]
            rows = {
                k: torch.autograd.grad(logits[k] - logits[own], point, create_graph=True, retain_graph=True)[0]
                for k in order
            }
            norms = {k: (row + defence.damping).norm() for k, row in rows.items()}
            nearest = min(order, key=lambda k: float((logits[k] - logits[own]).detach().abs() / norms[k].detach()))
            gap = logits[nearest] - logits[previous if defence.legacy_from_class and not correct else own]
            total = total + gap.abs() / norms[nearest] ** 2 * rows[nearest]
            after = int(net(x + (1 + defence.overshoot) * total).argmax())
            if (after != own) if correct else (after == int(label)):
                break
        rho = (1 + defence.overshoot) * total.norm() / x.norm()
        terms.append(torch.exp(-defence.c * rho) if correct else torch.exp((defence.d * rho).clamp(max=20)))
    return F.cross_entropy(net(batch.x), batch.y) + defence.weight * torch.stack(terms).sum() / len(batch)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("legacy", [False, True])
def test_equals_the_full_double_back_propagation(seed: int, legacy: bool) -> None:
    net = small_lenet(seed)
    batch = small_batch(net)
    defence = DeepDefense(c=3.0, d=1.0, legacy_from_class=legacy)
    ours, theirs = defence(net, batch), full_jacobian(defence, net, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for a, b in zip(gradients(ours, net), gradients(theirs, net), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


def test_in_single_precision_to_1e_5() -> None:
    net = small_lenet().float()
    batch = small_batch(small_lenet())
    batch = Batch(batch.x.float(), batch.y)
    defence = DeepDefense(c=3.0, d=1.0)
    ours = gradients(defence(net, batch), net)
    theirs = gradients(full_jacobian(defence, net, batch), net)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-5


def reverse_lenet(net: nn.Sequential, x: Tensor, seed: Tensor) -> Tensor:
    """d<seed, Z>/dx by explicit reverse layers that share the network's weights: transposed convolutions and products,
    ReLU masks and pooling indices as constants."""
    first, pool, second, flat, wide, _, last = net
    a = first(x)
    b, places = F.max_pool2d(a, pool.kernel_size, return_indices=True)
    c = second(b)
    mask = (wide(flat(c)) > 0).to(x.dtype)
    back = (seed @ last.weight) * mask
    back = (back @ wide.weight).reshape(c.shape)
    back = F.conv_transpose2d(back, second.weight)
    spread = torch.zeros_like(a).flatten(2).scatter(2, places.flatten(2), back.flatten(2)).reshape(a.shape)
    return F.conv_transpose2d(spread, first.weight)


def test_autograd_equals_explicit_reverse_layers() -> None:
    net = small_lenet()
    batch = small_batch(net, wrong=0)
    defence = DeepDefense(c=3.0, steps=2)
    total = torch.zeros_like(batch.x)
    going = torch.ones(len(batch), 1, 1, 1, dtype=torch.float64)
    for _ in range(2):
        logits = net(batch.x + total)
        eye = torch.eye(5, dtype=torch.float64)
        seeds = eye[:, None] - eye[batch.y][None]  # class, image, entries
        rows = torch.stack([reverse_lenet(net, batch.x + total, seed) for seed in seeds])
        norms = (rows + defence.damping).flatten(2).norm(dim=2)
        gaps = logits.T - logits.gather(1, batch.y[:, None])[:, 0]
        distance = (gaps.abs() / norms).detach().scatter(0, batch.y[None], math.inf)
        pick = distance.argmin(0)[None]
        image = torch.arange(len(batch))
        scale = gaps.gather(0, pick)[0].abs() / norms.gather(0, pick)[0] ** 2
        total = total + going * scale[:, None, None, None] * rows[pick[0], image]
        done = net(batch.x + 1.02 * total).argmax(1) != batch.y
        going = going * (~done).double()[:, None, None, None]
    rho = 1.02 * total.flatten(1).norm(dim=1) / batch.x.flatten(1).norm(dim=1)
    explicit = F.cross_entropy(net(batch.x), batch.y) + 15 * torch.exp(-3 * rho).mean()
    ours = defence(net, batch)
    torch.testing.assert_close(ours, explicit, rtol=1e-10, atol=0)
    for a, b in zip(gradients(ours, net), gradients(explicit, net), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_on_a_linear_model_rho_is_the_closed_form(p: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double()
    x = torch.rand(20, 1, 4, 4, dtype=torch.float64)
    y = net(x).argmax(1)
    defence = DeepDefense(weight=1.0, c=1.0, p=p, damping=0.0)
    q = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    weight, logits = net[1].weight, net(x)
    gap = logits.gather(1, y[:, None]) - logits
    slope = torch.linalg.vector_norm(weight[None] - weight[y][:, None], ord=q, dim=2)
    distance = (gap / slope.clamp(min=1e-9)).scatter(1, y[:, None], math.inf).amin(1)
    rho = 1.02 * distance / torch.linalg.vector_norm(x.flatten(1), ord=p, dim=1)
    closed = F.cross_entropy(logits, y) + torch.exp(-rho).mean()
    ours = defence(net, Batch(x, y))
    torch.testing.assert_close(ours, closed, rtol=1e-8, atol=0)
    for a, b in zip(gradients(ours, net), gradients(closed, net), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(("seed", "p"), [(0, 2.0), (1, 3.0), (2, 2.0)])
def test_gradient_equals_finite_differences(seed: int, p: float) -> None:
    net = small_lenet(seed)
    batch = small_batch(net)
    defence = DeepDefense(c=3.0, d=1.0, p=p)
    found = gradients(defence(net, batch), net)
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(net.parameters(), found, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                parameter += step * direction
                with torch.enable_grad():
                    values.append(defence(net, batch).item())
            parameter += 1e-6 * direction
        measured = (values[0] - values[1]) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(measured, rel=1e-4, abs=1e-6)


def test_a_capped_exponent_is_logged_and_finite(caplog: pytest.LogCaptureFixture) -> None:
    net = small_lenet()
    batch = small_batch(net)
    with caplog.at_level("WARNING"):
        loss = DeepDefense(d=1e6)(net, batch)
    assert bool(loss.isfinite())
    assert "capped" in caplog.text
    assert "4 of 12" in caplog.text


def test_layers_restrict_the_penalty_but_not_the_cross_entropy() -> None:
    net = small_lenet()
    batch = small_batch(net)
    plain = gradients(Plain()(net, batch), net)
    whole = gradients(DeepDefense(c=3.0)(net, batch), net)
    some = gradients(DeepDefense(c=3.0, layers=("4",))(net, batch), net)
    for name, a, b, c in zip([name for name, _ in net.named_parameters()], plain, whole, some, strict=True):
        torch.testing.assert_close(c, b if name.startswith("4.") else a, rtol=1e-9, atol=1e-12)
    assert all(parameter.requires_grad for parameter in net.parameters())
    with pytest.raises(ValueError, match="has no layer"):
        DeepDefense(layers=("fc9",))(net, batch)


def test_batch_normalisation_stays_frozen() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5)).double()
    batch = small_batch(net.eval(), wrong=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    DeepDefense()(net, batch).backward()
    assert net[1].weight.grad is None
    assert net[0].weight.grad is not None
    assert net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dropout_shares_its_mask_between_image_and_perturbation() -> None:
    """With the masks that it drew folded into the weights, a network without dropout has the same loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 5)).double()
    batch = small_batch(net.eval(), images=6, wrong=2)
    net.train()
    torch.manual_seed(7)
    drawn: list[Tensor] = []
    bernoulli = torch.bernoulli

    def record(p: Tensor) -> Tensor:
        drawn.append(bernoulli(p))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bernoulli", record)
        loss = DeepDefense(c=3.0, d=1.0)(net, batch)
    assert len(drawn) == 1
    alone = []
    for place in range(len(batch)):
        folded = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 5)).double()
        folded[1].load_state_dict(net[1].state_dict())
        folded[3].weight.data = net[4].weight.data * drawn[0][place] * 2
        folded[3].bias.data = net[4].bias.data
        alone.append(DeepDefense(c=3.0, d=1.0)(folded, batch[torch.tensor([place])]).item())
    assert loss.item() == pytest.approx(sum(alone) / len(alone), rel=1e-10)


def test_micro_batches_add_up() -> None:
    net = small_lenet()
    batch = small_batch(net)
    whole = gradients(DeepDefense(c=3.0)(net, batch), net)
    nets = nn.ModuleDict({"classifier": net})
    for update in MicroBatches(DeepDefense(c=3.0), size=5).updates(nets, batch):
        if isinstance(update, Descend):
            update.loss.backward(inputs=list(update.into))
    for parameter, gradient in zip(net.parameters(), whole, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_acts_in_the_preprocessed_space() -> None:
    net = small_lenet()
    batch = small_batch(net)
    layer = SubtractMean(shape=(1, 8, 8)).double()
    layer.get_buffer("mean").copy_(torch.full((1, 8, 8), 0.25))
    layer.fitted = True
    ours = DeepDefense(c=3.0)(Preprocessed(layer, net), batch)
    torch.testing.assert_close(ours, DeepDefense(c=3.0)(net, Batch(batch.x - 0.25, batch.y)))


def test_leaves_images_and_flags_alone() -> None:
    net = LeNet()
    x = torch.rand(4, 1, 28, 28)
    kept = x.clone()
    DeepDefense()(net, Batch(x, torch.tensor([1, 2, 3, 4]))).backward()
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_refuses_a_compiled_network() -> None:
    with pytest.raises(ValueError, match=r"torch\.compile"):
        DeepDefense()(torch.compile(small_lenet()), small_batch(small_lenet()))
