"""YOPO against its formulas, written out without hooks or games."""

from collections import Counter, OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import PGD, YOPO, AdversarialTraining, Batch, TradesYOPO
from steelman.data import InMemory
from steelman.defences import Game
from steelman.networks import Preprocessed, SmallCNN
from steelman.randomness import Draws
from steelman.training import play

EPS, STEP = 0.2, 0.07


def network(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    layers: dict[str, nn.Module] = {"conv": nn.Conv2d(1, 4, 3), "relu": nn.Tanh()}
    if norm:
        layers["norm"] = nn.BatchNorm2d(4)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(64, 9), "tanh": nn.Tanh(), "fc2": nn.Linear(9, 5)}
    return nn.Sequential(OrderedDict(layers)).double()


def batch(count: int = 7) -> Batch:
    chance = torch.Generator().manual_seed(1)
    x = torch.rand(count, 1, 6, 6, generator=chance, dtype=torch.float64)
    return Batch(x, torch.randint(5, (count,), generator=chance), seeds=torch.arange(count) + 10)


def data() -> InMemory:
    return InMemory("made", batch().x.float(), batch().y, tuple("abcde"))


def clip(x: Tensor, x_adv: Tensor, eps: float = EPS) -> Tensor:
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)


def start(part: Batch) -> Tensor:
    noise = Draws.start(part.seeds, len(part), torch.device("cpu")).uniform(part.x.shape[1:], torch.float64)
    return clip(part.x, part.x + EPS * (2 * noise - 1))


def climbed(x: Tensor, x_adv: Tensor, n: int, front: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
    """One image, one step and the whole inner product at a time."""
    rows = []
    for image, row, push in zip(x, x_adv, p, strict=True):
        for _ in range(n):
            row = row.detach().requires_grad_()
            (slope,) = torch.autograd.grad((front(row[None])[0] * push).sum(), row)
            row = clip(image, row + STEP * slope.sign())
        rows.append(row.detach())
    return torch.stack(rows)


def by_hand(m: int, n: int, variant: str, grad: str, net: nn.Sequential, part: Batch) -> dict[str, Tensor]:
    """The gradient of every parameter: each term on its own, and added up."""
    front, back, first = net[:2], net[2:], list(net[:2].parameters())
    total = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    names = {value: name for name, value in net.named_parameters()}

    def add(value: Tensor, into: list[nn.Parameter]) -> None:
        for each, slope in zip(into, torch.autograd.grad(value, into), strict=True):
            total[names[each]] += slope

    x_adv, everything, rest = start(part), list(net.parameters()), list(back.parameters())
    for turn in range(m):
        h = front(x_adv).detach().requires_grad_()
        (p,) = torch.autograd.grad(F.cross_entropy(back(h), part.y), h)
        if variant == "code":
            add(F.cross_entropy(net(x_adv), part.y), everything if grad == "both" else rest)
        elif variant == "paper" and turn == m - 1:
            add(F.cross_entropy(net(x_adv), part.y), rest)
        x_adv = climbed(part.x, x_adv, n, front, p)
        if variant == "gradient":
            add(F.cross_entropy(net(x_adv), part.y), everything)
        else:
            add((p * front(x_adv)).sum() / (m if variant == "paper" else 1), first)
    assert not torch.equal(x_adv, start(part))
    return total


def gradients(defence: Game, net: nn.Module, part: Batch, share: float = 1.0) -> dict[str, Tensor]:
    """What the optimiser was given, from a step of length 1."""
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    play(
        defence,
        nn.ModuleDict({"classifier": net}),
        part,
        {"classifier": torch.optim.SGD(net.parameters(), 1.0)},
        share=share,
    )
    return {name: before[name] - value.detach() for name, value in net.named_parameters()}


VARIANTS = [("code", "both"), ("code", "hamiltonian"), ("paper", "both"), ("gradient", "both")]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 2)])
@pytest.mark.parametrize(("variant", "grad"), VARIANTS)
def test_every_variant_is_its_formula(variant, grad, m: int, n: int):
    defence = YOPO(m, n, eps=EPS, step_size=STEP, variant=variant, first_layer_grad=grad)
    defence = defence.setup(network().float(), data())
    assert defence.first_layer == "relu"
    ours, wanted = gradients(defence, network(), batch()), by_hand(m, n, variant, grad, network(), batch())
    for name, value in wanted.items():
        assert value.abs().max() > 1e-5
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-9)


def test_the_variants_differ():
    found = [gradients(YOPO(3, 2, EPS, STEP, *each), network(), batch()) for each in VARIANTS]
    for place, one in enumerate(found):
        for other in found[:place]:
            assert not torch.allclose(one["conv.weight"], other["conv.weight"], rtol=1e-2)


@pytest.mark.parametrize(("variant", "grad"), VARIANTS)
def test_shares_of_processes_add_up(variant, grad):
    """The second term is not weighted twice; an image of weight 0 takes no part."""
    defence, parts = YOPO(2, 2, EPS, STEP, variant, grad), (batch()[:5], batch()[5:], batch()[:1])
    whole = gradients(defence, network(), batch())
    shared = [
        gradients(defence, network(), part, share=3 * count / 7) for part, count in zip(parts, (5, 2, 0), strict=True)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(sum(each[name] for each in shared) / 3, value, rtol=1e-6, atol=1e-9)


def test_what_is_reported_is_the_linearised_loss():
    net, part = network(), batch()
    front, back, x_adv, wanted = net[:2], net[2:], start(batch()), 0.0
    for _ in range(2):
        h = front(x_adv).detach().requires_grad_()
        loss = F.cross_entropy(back(h), part.y)
        (p,) = torch.autograd.grad(loss, h)
        x_adv = climbed(part.x, x_adv, 2, front, p)
        wanted += (loss + (p * (front(x_adv) - h)).sum()).item()
    optimiser = torch.optim.SGD(net.parameters(), 0.0)
    assert play(YOPO(2, 2, EPS, STEP), net, part, optimiser)["classifier"] == pytest.approx(wanted)


def test_with_an_affine_first_layer_n_steps_are_one():
    one, three = (
        gradients(YOPO(2, n, EPS, step, first_layer="conv"), network(), batch()) for n, step in ((1, 0.12), (3, 0.04))
    )
    for name, value in one.items():
        torch.testing.assert_close(three[name], value)


def test_a_filter_in_front_belongs_to_the_first_layer():
    class Gain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    net = network()
    with torch.no_grad():
        net.conv.weight /= 2
    ours = gradients(YOPO(2, 2, EPS, STEP), Preprocessed(Gain(), net), batch())
    wanted = gradients(YOPO(2, 2, EPS, STEP), network(), batch())
    torch.testing.assert_close(ours["network.conv.weight"], 2 * wanted["conv.weight"])
    torch.testing.assert_close(ours["network.fc1.weight"], wanted["fc1.weight"])


def test_a_frozen_first_layer_stays():
    net = network()
    net.conv.requires_grad_(False)
    ours, wanted = gradients(YOPO(2, 2, EPS, STEP), net, batch()), gradients(YOPO(2, 2, EPS, STEP), network(), batch())
    assert not ours["conv.weight"].any()
    torch.testing.assert_close(ours["fc1.weight"], wanted["fc1.weight"])


def counted(defence: Game, net: nn.Sequential) -> Counter[str]:
    """How often the first layer ran, and the last one, forwards and backwards."""
    seen: Counter[str] = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad and module is net.fc2:
            output.register_hook(lambda slope: seen.update(["backward"]))
        seen.update(["full" if module is net.fc2 else "first"])

    for module in (net.conv, net.fc2):
        module.register_forward_hook(count)
    play(defence, net, batch(), torch.optim.SGD(net.parameters(), 0.1))
    return seen


@pytest.mark.parametrize(("m", "n"), [(5, 3), (2, 4)])
def test_passes(m: int, n: int):
    """m full passes and m n of the first layer; one of these more for each term that only the first layer learns."""
    for variant, full, alone in (("code", m, m * (n + 1)), ("paper", m, m * (n + 1)), ("gradient", m + 1, m * n)):
        found = counted(YOPO(m, n, EPS, STEP, variant, first_layer="relu"), network())
        assert found == {"full": full, "backward": full, "first": full + alone}, variant
    found = counted(TradesYOPO(m, n, EPS, STEP, first_layer="relu"), network())
    assert found == {"full": m + 3, "backward": m + 2, "first": m + 3 + m * n}


@pytest.mark.parametrize("steps", [3, 10])
def test_pgd_takes_a_full_pass_per_step_and_one_to_learn(steps: int):
    found = counted(AdversarialTraining(PGD(EPS, steps)), network())
    assert found == {"full": steps + 1, "backward": steps + 1, "first": steps + 1}


def test_only_full_passes_move_running_statistics():
    net = network(norm=True)
    for first, variant, wanted in (("relu", "code", 3), ("norm", "code", 3), ("norm", "gradient", 4)):
        net.norm.reset_running_stats()
        play(YOPO(3, 2, EPS, STEP, variant, first_layer=first), net, batch(), torch.optim.SGD(net.parameters(), 0.1))
        assert int(net.norm.num_batches_tracked) == wanted


def trades_by_hand(m: int, n: int, beta: float, net: nn.Sequential, part: Batch) -> Tensor:
    noise = Draws.start(part.seeds, len(part), torch.device("cpu")).normal(part.x.shape[1:], torch.float64)
    x_adv = (part.x + 0.001 * noise).clamp(0, 1)
    net.eval()
    front, back, target = net[:2], net[2:], net(part.x).softmax(1).detach()
    for _ in range(m):
        h = front(x_adv).detach().requires_grad_()
        (p,) = torch.autograd.grad(F.kl_div(back(h).log_softmax(1), target, reduction="sum"), h)
        x_adv = climbed(part.x, x_adv, n, front, p)
    net.train()
    clean = net(part.x)
    divergence = F.kl_div(net(x_adv).log_softmax(1), clean.softmax(1), reduction="batchmean")
    return F.cross_entropy(clean, part.y) + beta * divergence


def test_trades_yopo_is_its_formula():
    nets = [network(norm=True), network(norm=True)]
    for net in nets:
        net.norm.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(5))
    defence = TradesYOPO(2, 3, EPS, STEP, beta=2.5).setup(network(norm=True).float(), data())
    ours, wanted = defence(nets[0], batch()), trades_by_hand(2, 3, 2.5, nets[1], batch())
    torch.testing.assert_close(ours, wanted)
    for a, b in zip(
        torch.autograd.grad(ours, list(nets[0].parameters())),
        torch.autograd.grad(wanted, list(nets[1].parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert int(nets[0].norm.num_batches_tracked) == 2


@pytest.mark.parametrize("defence", [YOPO(first_layer="conv9"), TradesYOPO(first_layer="conv9")])
def test_a_network_that_cannot_be_cut_is_refused_before_training(defence: Game):
    with pytest.raises(ValueError, match=r"no layer 'conv9'; did you mean conv\?"):
        defence.setup(network().float(), data())


def test_its_first_layer_in_the_networks_of_the_paper():
    shape = InMemory("made", torch.rand(2, 1, 28, 28), torch.arange(2), tuple("ab"))
    assert YOPO().setup(SmallCNN(), shape).first_layer == "relu1"
