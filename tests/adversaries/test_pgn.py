"""PGN against its formulas, differentiated by autograd from end to end."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pgn_players import CLASSES, SHAPE, SMALL, batch, moved, nets
from steelman import PGN, AttackTraining, Batch, Training, fit
from steelman.adversaries.generators.pgn_generator import PGNGenerator
from steelman.data import InMemory
from steelman.defences.game import Descend
from steelman.networks import ConvPoolCNN
from steelman.training import play


def by_hand(pgn: PGN, players: nn.ModuleDict, part: Batch, constant: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Both losses and the images, in one graph; gradients image by image. `constant`: g has no graph."""
    classifier, generator = players["classifier"], players["generator"]
    asked = [{name: value.clone() for name, value in classifier.named_buffers()} for _ in part.x]  # before they move
    mode = classifier.training
    classifier.eval()
    slopes = []
    for image, label, buffers in zip(part.x, part.y, asked, strict=True):
        image = image[None].clone().requires_grad_()
        likely = functional_call(classifier, {**dict(classifier.named_parameters()), **buffers}, (image,)).exp()[0]
        slopes.append(torch.autograd.grad(likely[label] / likely.sum(), image, create_graph=not constant)[0])
    classifier.train(mode)
    generator.grad_scale = 1.0
    shift = generator(2 * part.x - 1, torch.cat(slopes) / 128, part.y)
    generator.grad_scale = 1 / 128
    edge = 0.999999 * (2 * part.x - 1)
    x_adv = (torch.tanh(0.5 * torch.log((1 + edge) / (1 - edge)) + shift) + 1) / 2
    adversarial = F.cross_entropy(classifier(x_adv), part.y)
    clean = F.cross_entropy(classifier(part.x), part.y)
    size = sum((((made - image) ** 2).sum() for made, image in zip(x_adv, part.x, strict=True)), torch.zeros(()))
    first = pgn.clean_weight * clean + (1 - pgn.clean_weight) * adversarial
    return first, -adversarial + pgn.norm_weight * size / len(part), x_adv


def slopes(first: Tensor, second: Tensor, players: nn.ModuleDict, share: float = 1.0) -> dict[str, Tensor]:
    wanted = {}
    for loss, name in ((first, "classifier"), (second, "generator")):
        named = dict(players[name].named_parameters(prefix=name))
        found = torch.autograd.grad(loss * share, list(named.values()), retain_graph=True)
        wanted |= dict(zip(named, found, strict=True))
    return wanted


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("detach_adv", [False, True])
@pytest.mark.parametrize("clean_weight", [0.0, 0.6])
def test_both_updates_are_those_of_full_autograd(clean_weight: float, detach_adv: bool, share: float):
    pgn = replace(SMALL, clean_weight=clean_weight, detach_adv=detach_adv)
    players, part = nets(), batch()
    first, second, x_adv = by_hand(pgn, players, part, constant=False)
    wanted = slopes(first, second, players, share)
    if detach_adv:
        players = nets()
        classifier = players["classifier"]
        first = (1 - clean_weight) * F.cross_entropy(classifier(x_adv.detach()), part.y)
        first = first + clean_weight * F.cross_entropy(classifier(part.x), part.y)
        wanted |= {f"classifier.{name}": share * value for name, value in grads(first, classifier).items()}
    torch.testing.assert_close(moved(pgn, nets(), part, share), wanted)


@pytest.mark.parametrize("clean_weight", [0.0, 0.6])
def test_the_classifier_descends_the_norm_term_where_it_is_asked_for(clean_weight: float):
    pgn = replace(SMALL, clean_weight=clean_weight, grad_scale=1 / 128)
    players, part = nets(), batch()
    first, second, x_adv = by_hand(pgn, players, part, constant=False)
    term = pgn.norm_weight * (x_adv - part.x).square().sum() / len(part)
    wanted = slopes(first - (1 - clean_weight) * term, second, players, 0.7)
    given = moved(replace(pgn, norm_term_to_classifier=True), nets(), part, 0.7)
    torch.testing.assert_close(given, wanted)
    without = moved(pgn, nets(), part, 0.7)
    same = [torch.allclose(given[name], without[name], rtol=1e-9, atol=0) for name in given]
    assert same == [name.startswith("generator") for name in given]


def grads(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_the_two_graphs_differ_where_the_classifier_learns_and_nowhere_else():
    through, constant = (moved(replace(SMALL, detach_adv=detach), nets(), batch()) for detach in (False, True))
    for name, value in through.items():
        same = torch.allclose(value, constant[name], rtol=1e-6, atol=0)
        assert same == name.startswith("generator"), name


def test_the_classifier_descends_the_total_derivative():
    """Finite differences of the loss, images made anew for each weight. Modes would hide the mean of the norm."""
    players, part, step = nets(training=False), batch(), 1e-5
    given = moved(SMALL, nets(training=False), part)
    for name in ("conv.weight", "norm.bias", "fc.weight"):
        value = players["classifier"].get_parameter(name)
        for place in (0, value.numel() - 1):
            losses = []
            for shift in (step, -step):
                with torch.no_grad():
                    value.view(-1)[place] += shift
                losses.append(float(by_hand(SMALL, players, part, constant=True)[0].detach()))
                with torch.no_grad():
                    value.view(-1)[place] -= shift
            wanted = (losses[0] - losses[1]) / (2 * step)
            assert float(given[f"classifier.{name}"].view(-1)[place]) == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def leaves(tensor: Tensor) -> set[int]:
    """The parameters in a graph."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [each for each, _ in node.next_functions]
    return {id(node.variable) for node in found if hasattr(node, "variable")}


@pytest.mark.parametrize("detach_adv", [False, True])
def test_the_classifier_is_in_the_generators_graph_unless_detached(detach_adv: bool):
    players = nets()
    own = {id(each) for each in players["classifier"].parameters()}
    steps = replace(SMALL, detach_adv=detach_adv).updates(players, batch())
    descents = []
    for update in steps:
        if not isinstance(update, Descend):
            break
        descents.append(update)
        update.loss.backward(inputs=list(update.into), retain_graph=True)
    assert len(descents) == (2 if detach_adv else 3)
    assert (own & leaves(descents[-1].loss) == set()) == detach_adv


@pytest.mark.parametrize("training", [False, True])
def test_against_a_frozen_classifier_all_is_in_evaluation_mode(training: bool):
    players = nets(training=False)
    _, second, x_adv = by_hand(SMALL, players, batch(), constant=True)
    wanted = slopes(second, second, players)
    players = nets(training=training)
    before = {name: value.clone() for name, value in players["classifier"].state_dict().items()}
    given = moved(AttackTraining(SMALL), players, batch())
    for name, value in given.items():
        expected = wanted[name] if name.startswith("generator") else torch.zeros_like(value)
        torch.testing.assert_close(value, expected, msg=name)
    torch.testing.assert_close(dict(players["classifier"].state_dict()), before, rtol=0, atol=0)
    learning, made = SMALL.learn(nets(training=training), batch()), None
    try:
        while True:
            update = next(learning)
            if isinstance(update, Descend):
                update.loss.backward()
    except StopIteration as end:
        made = end.value
    torch.testing.assert_close(made.x, x_adv.detach())
    assert torch.equal(made.y, batch().y)


# --- what the generator sees


class Watched(nn.Module):
    """Keeps its inputs, and answers with a constant."""

    def __init__(self, shift: float | Tensor = 0.0) -> None:
        super().__init__()
        self.shift: Any
        self.shift, self.weight, self.seen = shift, nn.Parameter(torch.zeros((), dtype=torch.float64)), []

    def forward(self, images: Tensor, gradients: Tensor | None, y: Tensor) -> Tensor:
        self.seen.append((images, gradients, y))
        return torch.zeros_like(images) + self.shift + self.weight


def test_what_the_generator_sees_does_not_depend_on_the_batch_size():
    whole, model = batch(6), nets(training=False)["classifier"]
    for count in (1, 2, 6):
        watched = Watched()
        PGN(generator=watched)(model, whole.x[:count], whole.y[:count])
        images, gradients, labels = watched.seen[0]
        for row in range(count):
            image = whole.x[row : row + 1].clone().requires_grad_()
            truth = F.softmax(model(image), 1)[0, whole.y[row]]
            torch.testing.assert_close(gradients[row], torch.autograd.grad(truth, image)[0][0])
        assert torch.equal(images, 2 * whole.x[:count] - 1)
        assert torch.equal(labels, whole.y[:count])


def test_it_is_the_gradient_of_the_mean_over_the_codes_batch():
    part, players, watched = batch(128), nets(training=False), Watched()
    model, generator = players["classifier"], players["generator"]
    PGN(generator=watched)(model, part.x, part.y)
    x = part.x.clone().requires_grad_()
    F.softmax(model(x), 1)[torch.arange(128), part.y].mean().backward()
    torch.testing.assert_close(generator.grad_scale * watched.seen[0][1], x.grad)
    assert SMALL.network(SHAPE, CLASSES).grad_scale == 1 / 128
    assert replace(SMALL, grad_scale=3.0).network(SHAPE, CLASSES).grad_scale == 3.0


@pytest.mark.parametrize("detach_adv", [False, True])
def test_in_training_it_sees_what_it_sees_as_an_attack(detach_adv: bool):
    players, part, watched = nets(), batch(), Watched()
    PGN(generator=watched)(players["classifier"].eval(), part.x, part.y)
    players = nn.ModuleDict({"classifier": players["classifier"].train(), "generator": watched})
    moved(PGN(detach_adv=detach_adv), players, part)
    for shown, expected in zip(watched.seen[1], watched.seen[0], strict=True):
        torch.testing.assert_close(shown, expected)


@pytest.mark.parametrize("hidden", ["gradient", "image", "label"])
def test_an_ablated_input_changes_nothing(hidden: str):
    pgn = replace(SMALL, **{hidden: False})
    model, part = nets(pgn).eval(), batch()
    generator, count = model["generator"], sum(each.numel() for each in nets()["generator"].parameters())
    saved = {"gradient": 2 * 9 * 2, "image": 2 * 9 * 2, "label": 2 * 3 + 2 * 4 + 2 * 2 * 2 * 9}[hidden]
    assert sum(each.numel() for each in generator.parameters()) == count - saved
    shown = {"image": part.x, "gradient": part.x.square(), "label": part.y}
    answers = {
        name: generator(*(value.flip(0) if key == name else value for key, value in shown.items()))
        for name in (*shown, "nothing")
    }
    for name in shown:
        assert torch.equal(answers[name], answers["nothing"]) == (name == hidden)
    attack = pgn.with_generator(generator)
    result = attack.run(model["classifier"], part.x, part.y)
    assert result.gradients.tolist() == [int(hidden != "gradient")] * len(part)
    torch.testing.assert_close(PGN(generator=generator)(model["classifier"], part.x, part.y), result.x_adv)


def test_a_generator_trained_with_the_gradient_needs_it():
    with pytest.raises(ValueError, match="set gradient=True"):
        PGN(gradient=False, generator=nets()["generator"])(nets().eval()["classifier"], batch().x, batch().y)


# --- the encoding, and its price


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_shift_an_image_is_itself(dtype: torch.dtype):
    x = torch.linspace(0, 1, 256, dtype=dtype)[None]
    x_adv = PGN(generator=Watched())(nn.Linear(256, 3).to(dtype), x, torch.tensor([1]))
    assert x_adv.dtype == dtype
    assert float((x_adv - x).abs().max()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_and_white_pixels_have_finite_slopes_and_can_be_moved(dtype: torch.dtype):
    shift, x = torch.zeros(2, 3, dtype=dtype, requires_grad=True), torch.tensor([[0.0, 0.5, 1.0]] * 2, dtype=dtype)
    x_adv = PGN()._perturbed(Watched(shift).to(dtype), x, x, torch.tensor([0, 1]))
    (slope,) = torch.autograd.grad(x_adv.sum(), shift)
    assert bool(slope.isfinite().all())
    torch.testing.assert_close(slope[0], torch.tensor([1e-6, 0.5, 1e-6], dtype=dtype), rtol=0.2, atol=0)
    far = PGN()._perturbed(Watched(torch.tensor([20.0, 0, -20]).to(dtype)), x, x, torch.tensor([0, 1]))
    torch.testing.assert_close(far, x.flip(1), rtol=0, atol=1e-5)


def test_the_penalty_is_of_the_change_and_not_of_the_shift():
    model, part = nets(training=False)["classifier"], batch(3)
    part.x.zero_()
    generator = Watched(-9.0)  # blacker than black
    players = nn.ModuleDict({"classifier": model, "generator": generator})
    optimisers = {"generator": torch.optim.SGD(generator.parameters(), 0.0)}
    paid = play(AttackTraining(PGN(norm_weight=1e4)), players, part, optimisers)["generator"]
    assert paid == pytest.approx(-float(F.cross_entropy(model(part.x), part.y).detach()), abs=1e-4)
    generator.shift = 9.0
    size = float((torch.tanh(torch.atanh(torch.tensor(-0.999999, dtype=torch.float64)) + 9) + 1) / 2) ** 2 * 64
    one, two = (play(AttackTraining(PGN(norm_weight=c)), players, part, optimisers)["generator"] for c in (1.0, 3.0))
    assert two - one == pytest.approx(2 * size, rel=1e-6)


def test_another_box_is_scaled_to_0_to_1():
    model, part, players = nets(training=False)["classifier"], batch(), nets(training=False)
    low, high = -0.5, 1.5
    inner = nn.Sequential(Rescaled(low, high), model)
    plain = PGN(generator=players["generator"])
    wide = replace(plain, box=(low, high))
    x_adv = wide(inner, low + (high - low) * part.x, part.y)
    torch.testing.assert_close(x_adv, low + (high - low) * plain(model, part.x, part.y))
    players = nn.ModuleDict({"classifier": inner, "generator": players["generator"]})
    given = moved(replace(SMALL, box=(low, high)), players, replace(part, x=low + (high - low) * part.x))
    wanted = moved(SMALL, nets(training=False), part)
    for name, value in wanted.items():
        torch.testing.assert_close(given[name.replace("classifier", "classifier.1")], value)


class Rescaled(nn.Module):
    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.low) / (self.high - self.low)


def pushed(pgn: PGN, steps: int = 30) -> tuple[list[float], list[float]]:
    """Cross-entropy and mean size of what the generator makes, along its training."""
    players, part = nets(training=False), batch()
    optimisers = {"generator": torch.optim.Adam(players["generator"].parameters(), 0.01)}
    losses, sizes = [], []
    for _ in range(steps):
        with torch.no_grad():
            x_adv = pgn.with_generator(players["generator"])(players["classifier"], part.x, part.y)
            losses.append(float(F.cross_entropy(players["classifier"](x_adv), part.y)))
            sizes.append(float((x_adv - part.x).square().flatten(1).sum(1).mean()))
        play(AttackTraining(pgn), players, part, optimisers)
    return losses, sizes


def test_without_a_penalty_the_generator_raises_the_loss_and_a_large_one_shrinks_its_changes():
    losses, _ = pushed(replace(SMALL, norm_weight=0.0))
    assert losses[-1] > losses[0] + 0.3
    _, sizes = pushed(replace(SMALL, norm_weight=1e3))
    assert sizes[-1] < 0.3 * sizes[0]


# --- cost, weights, and what is refused


class Counting(nn.Module):
    """Counts the passes of a network, forwards and backwards."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, *arguments: Tensor | None) -> Tensor:
        self.forwards += 1
        answer = self.inner(*arguments)
        if answer.requires_grad:
            answer.register_hook(self._count)
        return answer

    def _count(self, slope: Tensor) -> None:
        self.backwards += 1


@pytest.mark.parametrize(
    ("game", "classifier", "generator"),
    [
        (replace(SMALL, detach_adv=True), (2, 2), (1, 1)),
        (replace(SMALL, detach_adv=True, clean_weight=0.5), (3, 3), (1, 1)),
        (replace(SMALL, gradient=False), (1, 1), (1, 1)),
        (SMALL, (2, 3), (1, 2)),  # and one through the gradient, which no hook of the logits sees whole
        (AttackTraining(SMALL), (2, 2), (1, 1)),
    ],
)
def test_the_cost_is_that_of_the_card(game, classifier: tuple[int, int], generator: tuple[int, int]):
    players = nets(game.adversary if isinstance(game, AttackTraining) else game)
    players = nn.ModuleDict({name: Counting(net) for name, net in players.items()})
    moved(game, players, batch())
    assert (players["classifier"].forwards, players["classifier"].backwards) == classifier
    assert (players["generator"].forwards, players["generator"].backwards) == generator


def test_an_average_of_the_classifiers_weights_is_handed_out():
    torch.manual_seed(0)
    data = InMemory("made", torch.rand(8, 1, 8, 8), torch.arange(8) % 3, tuple("abc"))
    raw, kept = ConvPoolCNN(shape=(1, 8, 8), classes=3, width=2), {}
    average = copy.deepcopy(raw)
    fit(average, data, SMALL, Training(epochs=3, batch_size=8, ema=0.998), progress=False)
    for epochs in (1, 2, 3):
        model = copy.deepcopy(raw)
        fit(model, data, SMALL, Training(epochs=epochs, batch_size=8), progress=False)
        for name, value in model.state_dict().items():
            kept[name] = value if epochs == 1 else 0.998 * kept[name] + 0.002 * value
    torch.testing.assert_close(dict(average.state_dict()), kept)
    assert not torch.equal(kept["conv1.weight"], model.state_dict()["conv1.weight"])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="has no generator yet"):
        PGN()(nets().eval()["classifier"], batch().x, batch().y)
    with pytest.raises(ValueError, match="sides are multiples of 4; got 10x8"):
        PGNGenerator((1, 10, 8), 10)
    with pytest.raises(ValueError, match="width is a number of channels, at least 1; got 0"):
        ConvPoolCNN(width=0)
