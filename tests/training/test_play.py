"""One batch of a game."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import Batch, Plain
from steelman.training import Descend, Diverged, Game, Processes, Step, play


def players() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"classifier": nn.Linear(4, 3), "generator": nn.Linear(4, 4)}).double()


def batch(count: int = 6) -> Batch:
    chance = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(count, 4, generator=chance, dtype=torch.float64), torch.randint(3, (count,), generator=chance)
    )


def descent(nets: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.SGD(net.parameters(), lr=0.1) for name, net in nets.items()}


def attacked_loss(nets: nn.ModuleDict, batch: Batch) -> Tensor:
    return F.cross_entropy(nets["classifier"](batch.x + nets["generator"](batch.x)), batch.y)


class MinMax(Game):
    """The generator climbs the loss that the classifier descends."""

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
        yield Descend(attacked_loss(nets, batch), nets["classifier"].parameters())
        yield Descend(-attacked_loss(nets, batch), nets["generator"].parameters())
        yield Step("generator")
        yield Step("classifier")


def test_two_players_do_not_cancel():
    nets, data = players(), batch()
    loss = attacked_loss(nets, data)
    wanted = {}
    for name, sign in (("classifier", -1), ("generator", 1)):
        slopes = torch.autograd.grad(loss, list(nets[name].parameters()), retain_graph=True)
        wanted[name] = [p + sign * 0.1 * slope for p, slope in zip(nets[name].parameters(), slopes, strict=True)]
    losses = play(MinMax(), nets, data, descent(nets))
    for name, net in nets.items():
        torch.testing.assert_close(list(net.parameters()), wanted[name])
    assert losses == pytest.approx({"classifier": loss.item(), "generator": -loss.item()})
    assert all(parameter.grad is None for parameter in nets.parameters())


def test_a_descent_touches_exactly_its_tensors():
    nets, data = players(), batch()
    bias = nets["classifier"].bias
    seen = []

    class Some(Game):
        def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
            yield Descend(attacked_loss(nets, batch), [bias])
            seen.extend(key for key, value in nets.named_parameters() if value.grad is not None)
            yield Step()

    before = {key: value.clone() for key, value in nets.state_dict().items()}
    play(Some(), nets, data, descent(nets))
    moved = [key for key, value in nets.state_dict().items() if not torch.equal(value, before[key])]
    assert seen == ["classifier.bias"] == moved


def test_a_step_moves_only_its_network_and_clears_only_its_gradients():
    nets, data = players(), batch()

    class Half(Game):
        def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
            yield Descend(attacked_loss(nets, batch), nets.parameters())
            yield Step("generator")
            assert all(p.grad is None for p in nets["generator"].parameters())
            assert all(p.grad is not None for p in nets["classifier"].parameters())

    before = {key: value.clone() for key, value in nets.state_dict().items()}
    losses = play(Half(), nets, data, descent(nets))
    moved = {key.split(".")[0] for key, value in nets.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"generator"} == set(losses)


def test_gradients_that_were_lying_about_take_no_part():
    one, two = players(), players()
    for parameter in two.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    for nets in (one, two):
        play(Plain(), nets, batch(), descent(nets))
    torch.testing.assert_close(list(one.parameters()), list(two.parameters()))


def test_shares_of_processes_add_up_to_the_whole_batch():
    """What two processes with 4 and 2 of 6 images descend averages to what one does."""
    whole, shared = players(), []
    play(Plain(), whole, batch(), descent(whole))
    for part, share in ((slice(0, 4), 2 * 4 / 6), (slice(4, 6), 2 * 2 / 6)):
        nets = players()
        play(Plain(), nets, batch()[part], descent(nets), share=share)
        shared.append(list(nets["classifier"].parameters()))
    middle = [(a + b) / 2 for a, b in zip(*shared, strict=True)]
    torch.testing.assert_close(middle, list(whole["classifier"].parameters()))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(number: float):
    nets, data = players(), batch()
    data.x[2, 1] = number
    before = {key: value.clone() for key, value in nets.state_dict().items()}
    with pytest.raises(Diverged, match="the loss of the classifier is nan"):
        play(Plain(), nets, data, descent(nets))
    assert all(torch.equal(value, before[key]) for key, value in nets.state_dict().items())


def test_a_gradient_that_is_not_finite_moves_nothing():
    nets, data = players(), batch()

    class Root(Game):
        def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
            weight = nets["classifier"].weight
            yield Descend((weight - weight.detach()).abs().sum().sqrt(), [weight])  # 0, with an infinite slope
            yield Step()

    before = nets["classifier"].weight.clone()
    with pytest.raises(Diverged, match="gradient of the classifier is not finite, though its loss is 0"):
        play(Root(), nets, data, descent(nets))
    assert torch.equal(nets["classifier"].weight, before)


@dataclass(frozen=True)
class Clipped(Game):
    clip: float

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
        yield Descend(F.cross_entropy(nets["classifier"](batch.x), batch.y), nets["classifier"].parameters())
        yield Step("classifier", self.clip)


@dataclass(frozen=True)
class Halving(Processes):
    """As with another process whose gradients are all 0."""

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad /= 2


@pytest.mark.parametrize("factor", [0.2, 0.7, 3.0])
@pytest.mark.parametrize("processes", [Processes(), Halving()])
def test_a_step_clips_the_averaged_gradient_of_the_whole_network(factor: float, processes: Processes):
    """The norm over all parameters together, after averaging: a gradient within it stays."""
    nets, data = players(), batch()
    loss = F.cross_entropy(nets["classifier"](data.x), data.y)
    slopes = torch.autograd.grad(loss, list(nets["classifier"].parameters()))
    size = torch.cat([slope.flatten() for slope in slopes]).norm()
    share = 0.5 if isinstance(processes, Halving) else 1.0
    clip = factor * size.item()
    scale = min(clip, share * size.item()) / size
    wanted = [p - 0.1 * scale * slope for p, slope in zip(nets["classifier"].parameters(), slopes, strict=True)]
    play(Clipped(clip), nets, data, descent(nets), processes)
    torch.testing.assert_close(list(nets["classifier"].parameters()), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("keep", [True, False])
def test_a_graph_is_kept_for_another_descent_where_it_is_asked_for(keep: bool):
    nets, data = players(), batch()

    class Both(Game):
        def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
            loss = attacked_loss(nets, batch)
            yield Descend(loss, nets["classifier"].parameters(), keep=keep)
            yield Descend(-loss, nets["generator"].parameters())
            yield Step("generator")
            yield Step("classifier")

    if not keep:
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            play(Both(), nets, data, descent(nets))
        return
    other = players()
    play(Both(), nets, data, descent(nets))
    play(MinMax(), other, data, descent(other))
    torch.testing.assert_close(list(nets.parameters()), list(other.parameters()))


@pytest.mark.parametrize(
    ("slopes", "fine"), [((3e38, 3e38), True), ((3e38, float("inf")), False), ((float("inf"), -float("inf")), False)]
)
def test_slopes_whose_sum_is_too_large_for_their_type_are_finite(slopes: tuple[float, float], fine: bool):
    net, data = nn.Linear(4, 3), Batch(batch().x.float(), batch().y)
    given = torch.cat([torch.tensor(slopes), torch.zeros(10)]).reshape(3, 4)
    net.weight.register_hook(lambda slope: given)
    before = net.weight.detach().clone()
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-38)
    if not fine:
        with pytest.raises(Diverged, match="gradient of the classifier is not finite"):
            play(Plain(), net, data, optimiser)
        return
    play(Plain(), net, data, optimiser)
    torch.testing.assert_close(net.weight.detach(), before - 1e-38 * given)
