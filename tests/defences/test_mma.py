"""MMA against closed forms of linear models, and against its algorithm image by image."""

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import affine
from every_defence import Changeable, first, images, network
from steelman import (
    ANPGD,
    MMA,
    PGD,
    AdversarialTraining,
    Batch,
    DeepFool,
    Plain,
    Sum,
    Training,
    checkpoint,
    evaluate,
    fit,
)
from steelman.data import Digits, split_off
from steelman.defences import Objective
from steelman.defences.mma import Margins
from steelman.losses import Goal, Margin, SoftMargin
from steelman.measures import mean_margin
from steelman.networks import MLP
from steelman.norms import L2, Linf, Norm
from steelman.training import SGD

DUAL = {Linf: 1, L2: 2}
norms = pytest.mark.parametrize("norm", [Linf, L2], ids=repr)


@pytest.mark.parametrize("clean_weight", [1 / 3, 0.0])
def test_its_passes_are_those_of_its_card(clean_weight: float) -> None:
    model, batch, passed = sure(), first(24, torch.float64), []
    model.register_forward_pre_hook(lambda _, inputs: passed.append((len(inputs[0]), inputs[0].requires_grad)))
    mma = MMA(d_max=0.3, steps=4, bisections=6, clean_weight=clean_weight).setup(model, images())
    mma(model, batch)
    right = int((stored(mma)[batch.index] > 0).sum())
    assert 0 < right < 24
    assert passed == [(24, False), *4 * [(right, True)], *6 * [(right, False)], (24, False)]


# --- the objective


def changeable() -> Changeable:
    """Without dropout, sure of itself, in train mode, with running statistics that are far from a batch's."""
    torch.manual_seed(0)
    model = Changeable().double()
    model.drop.p = 0.0
    model.norm.get_buffer("running_mean").uniform_(-0.3, 0.3)
    model.norm.get_buffer("running_var").uniform_(0.1, 1)
    model.fc2.weight.data *= 12
    return model


def sure() -> nn.Module:
    """A network that gives most labels more than half of the softmax."""
    model = network().double()
    model.get_submodule("fc2").weight.data *= 8  # pyright: ignore
    return model


def wrong_and_right(model: nn.Module) -> Batch:
    batch = first(24, torch.float64)
    with torch.no_grad():
        predicted = model(batch.x).argmax(1)
    return replace(batch, y=torch.where(torch.arange(24) % 5 > 0, predicted, batch.y), index=3 * torch.arange(24) + 1)


def by_hand(mma: MMA, model: nn.Module, batch: Batch, radii: list[float]) -> tuple[Tensor, list[float]]:
    """Algorithm 2, one image after the other: the loss, and every margin."""

    def wrong(image: Tensor, row: int) -> bool:
        return bool(model(image).softmax(1)[0, batch.y[row]] <= 0.5)

    clean, points, margins = model(batch.x), [], []
    right = clean.softmax(1)[torch.arange(len(batch)), batch.y] > 0.5
    model.eval()
    for row in range(len(batch)):
        x, d = batch.x[row : row + 1], 0.0
        if right[row]:
            radius = max(mma.eps_min, radii[row])
            pgd = PGD(radius, steps=mma.steps, step_size=2.5 * radius / mma.steps, norm=mma.norm, loss=SoftMargin())
            delta = pgd(model, x, batch.y[row : row + 1], generator=batch.seeds[row : row + 1]) - x  # pyright: ignore
            size = float(delta.abs().max() if mma.norm is Linf else delta.norm())
            low, high = (0.0, size) if wrong(x + delta, row) else (size, 1.05 * mma.d_max)
            for _ in range(mma.bisections - 1):
                middle = (low + high) / 2
                low, high = (low, middle) if wrong((x + middle * delta / size).clamp(0, 1), row) else (middle, high)
            d = (low + high) / 2
            x = x + d * delta / size
        points.append(x)
        margins.append(d)
    model.train()
    shifted, total = model(torch.cat(points)), torch.zeros((), dtype=torch.float64)
    for row, d in enumerate(margins):
        at_clean, at_point = (-each[row].log_softmax(0)[batch.y[row]] for each in (clean, shifted))
        if not right[row]:
            total = total + at_clean * mma.clean_weight + at_point * (1 - mma.clean_weight)
        else:
            total = total + at_clean * mma.clean_weight + (at_point * (1 - mma.clean_weight) if d < mma.d_max else 0)
    return total / len(batch), margins


@norms
@pytest.mark.parametrize("clean_weight", [1 / 3, 0.0])
def test_it_is_the_algorithm_image_by_image(norm: Norm, clean_weight: float) -> None:
    scale = 1.0 if norm is Linf else 6.0
    mma = MMA(0.05 * scale, 0.01 * scale, norm, steps=4, bisections=7, clean_weight=clean_weight)
    model, naive = changeable(), changeable()
    batch, radii = wrong_and_right(changeable()), [0.003 * scale * (row % 9) for row in range(24)]
    mma = mma.setup(model, images())
    stored(mma)[batch.index] = torch.tensor(radii)
    ours = mma(model, batch)
    theirs, margins = by_hand(mma, naive, batch, radii)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, list(model.parameters())), torch.autograd.grad(theirs, list(naive.parameters()))
    )
    torch.testing.assert_close(stored(mma)[batch.index], torch.tensor(margins))
    torch.testing.assert_close(dict(model.named_buffers()), dict(naive.named_buffers()))
    kinds = [
        sum(d == 0 for d in margins),
        sum(0 < d < mma.d_max for d in margins),
        sum(d >= mma.d_max for d in margins),
    ]
    assert min(kinds) >= 2, kinds


def test_it_crafts_in_the_mode_of_its_setting_and_never_moves_the_running_statistics() -> None:
    batch, found = wrong_and_right(changeable()), []
    for mma in (MMA(d_max=0.3, steps=3), MMA(d_max=0.3, steps=3, crafting="train")):
        model, mma = changeable(), mma.setup(changeable(), images())
        mma(model, batch)
        assert (
            int(model.norm.get_buffer("num_batches_tracked")) == 2
        )  # of the clean pass, and of the one at the boundary
        assert model.training
        found.append(stored(mma)[batch.index])
    assert torch.equal(found[0] == 0, found[1] == 0)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_wrong_images_count_clean_and_those_beyond_d_max_in_the_clean_term_only() -> None:
    model, batch = sure(), first(24, torch.float64)
    with torch.no_grad():
        logits = model(batch.x)
    order = logits.argsort(1)
    wrong = replace(batch, y=order[:, 0])
    mma = MMA(d_max=0.1).setup(model, images())
    torch.testing.assert_close(mma(model, wrong), F.cross_entropy(model(batch.x), wrong.y))
    assert bool((stored(mma)[wrong.index] == 0).all())
    some = torch.where(logits.softmax(1).amax(1) > 0.6)[0]
    assert len(some) >= 5
    right = replace(batch, y=order[:, -1])[some]
    tiny = MMA(d_max=1e-4, eps_min=1e-5).setup(model, images())
    torch.testing.assert_close(tiny(model, right), F.cross_entropy(model(right.x), right.y) / 3)
    assert bool((stored(tiny)[right.index] >= 1e-4).all())


def stored(mma: MMA) -> Tensor:
    assert mma.memory is not None
    return mma.memory.margin


def test_the_next_radius_is_the_last_margin_and_at_least_eps_min(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[int, float]] = []
    crossing = ANPGD.crossing

    def spy(attack: ANPGD, model: nn.Module, x: Tensor, y: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        assert isinstance(attack.radius, Tensor)
        asked.append(
            {
                int((batch.x == image).flatten(1).all(1).nonzero()): float(r)
                for image, r in zip(x, attack.radius, strict=True)
            }
        )
        return crossing(attack, model, x, y, **more)

    monkeypatch.setattr(ANPGD, "crossing", spy)
    model, batch = sure(), first(24, torch.float64)
    mma = MMA(d_max=0.3, eps_min=0.05, steps=4).setup(model, images())
    mma(model, batch)
    assert list(asked[0].values()) == pytest.approx([0.05] * len(asked[0]))
    kept = stored(mma)[batch.index].tolist()
    assert [row for row in range(24) if kept[row] == 0] == [row for row in range(24) if row not in asked[0]]
    mma(model, batch)
    assert asked[1] == pytest.approx({row: max(0.05, kept[row]) for row in asked[0]})
    assert {radius > 0.0501 for radius in asked[1].values()} == {True, False}
    assert 0 < len(asked[0]) < 24


def test_however_batches_are_cut_every_image_keeps_its_own_row() -> None:
    model, batch = sure(), first(24, torch.float64)
    whole, parts = (MMA(d_max=0.3, eps_min=0.02, steps=4).setup(model, images()) for _ in range(2))
    for turn in range(3):
        noise = replace(batch, seeds=torch.arange(24) + 100 * turn)
        whole(model, noise)
        for rows in torch.randperm(24, generator=torch.Generator().manual_seed(turn)).split(7):
            parts(model, noise[rows])
    torch.testing.assert_close(stored(parts), stored(whole), rtol=0, atol=1e-6)
    assert len(stored(whole)[batch.index].unique()) > 8
    others = torch.ones_like(stored(whole), dtype=torch.bool)
    others[batch.index] = False
    assert bool((stored(whole)[others] == -1).all())


# --- the theorem: what a step does to the margin


class Halfspace(nn.Module):
    """Two classes of the 24 pixels, in double precision."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        model = affine(seed, classes=2, images=1)
        self.weight, self.bias = nn.Parameter(model.weight), nn.Parameter(model.bias)
        self.batch = Batch(model.x, model.y, torch.tensor([0]), torch.tensor([seed]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def distance(self, norm: Norm, level: float = 0.0) -> Tensor:
        """Of the image to the set where Z_rival - Z_label = level."""
        own, rival = int(self.batch.y), 1 - int(self.batch.y)
        weight = self.weight[rival] - self.weight[own]
        gap = weight @ self.batch.x.flatten() + self.bias[rival] - self.bias[own]
        return (level - gap) / torch.linalg.vector_norm(weight, ord=DUAL[norm])

    def slope(self, value: Tensor) -> Tensor:
        return torch.cat([each.flatten() for each in torch.autograd.grad(value, [self.weight, self.bias])])


@norms
@pytest.mark.parametrize("seed", range(2))
def test_a_step_goes_where_the_margin_grows_fastest(norm: Norm, seed: int) -> None:
    net = Halfspace(seed)
    margin = float(net.distance(norm).detach())
    mma = MMA(3 * margin, margin / 2, norm, steps=50, bisections=30, clean_weight=0.0).setup(net, images())
    step, best = -net.slope(mma(net, net.batch)), net.slope(net.distance(norm))
    assert float(stored(mma)[0]) == pytest.approx(margin, rel=1e-5 if norm is Linf else 0.03)
    assert float(F.cosine_similarity(step, best, dim=0)) > 1 - (1e-9 if norm is Linf else 1e-4)


@norms
@pytest.mark.parametrize("share", [0.5, 1.0, 1.6])
def test_at_a_fixed_radius_it_goes_where_a_bound_of_the_margin_grows(norm: Norm, share: float) -> None:
    """The bound is the distance to another level set: lower where the radius is below the margin, else upper."""
    net = Halfspace(0)
    margin = float(net.distance(norm).detach())
    pgd = PGD(share * margin, steps=60, step_size=share * margin / 10, norm=norm, loss=Margin())
    x_adv = pgd(net, net.batch.x, net.batch.y, generator=net.batch.seeds)
    level = float(Margin()(net(x_adv).detach(), Goal(net.batch.y)))
    bound = net.distance(norm, level)
    assert float(bound.detach()) == pytest.approx(share * margin, rel=1e-3)
    step = -net.slope(AdversarialTraining(pgd)(net, net.batch))
    assert float(F.cosine_similarity(step, net.slope(bound), dim=0)) > 1 - 1e-5
    other = Halfspace(0)
    for turn in range(20):
        torch.manual_seed(turn)
        other.weight.data = net.weight + 0.3 * torch.randn_like(net.weight)
        with torch.no_grad():
            assert float(other.distance(norm, level) - other.distance(norm)) * (share - 1) >= -1e-6


# --- in training


TRAINING = Training(epochs=8, batch_size=50, optimiser=SGD(lr=0.1, momentum=0.9), seed=1)


def test_training_widens_the_margin() -> None:
    train, test = (Digits().load(split) for split in ("train", "test"))
    train, found = train.subset(torch.arange(0, len(train), 3)), {}
    for defence in (Plain(), MMA(d_max=0.3, eps_min=0.05, steps=5)):
        torch.manual_seed(0)
        model = MLP(shape=(1, 8, 8), hidden=(32,))
        history = fit(model, train, defence, TRAINING, progress=False)
        table = evaluate(model, test.subset(torch.arange(200)), {"DeepFool": DeepFool(norm=Linf)}, progress=False)
        found[type(defence)] = mean_margin(table, Linf, 0.315).value
    assert found[MMA] > 1.2 * found[Plain]
    margins = [line["kept_margin"] for line in history.log[1:]]  # pyright: ignore
    assert margins[-1] > margins[0]


def test_margins_are_kept_in_checkpoints_and_in_the_log(tmp_path: Path) -> None:
    defence = Sum((MMA(d_max=0.2, eps_min=0.02, steps=3), Plain()))
    training = replace(TRAINING, epochs=1, batch_size=20, validation=16)
    history = fit(network(), images(), defence, training, folder=tmp_path, progress=False)
    memory = checkpoint.load(tmp_path / "last.safetensors")["memory"]
    ((_, margin),) = memory.items()
    known = margin[margin >= 0]
    assert len(known) == len(images()) - 16
    assert history.last["kept_margin"] == pytest.approx(float(known.mean()))
    assert history.last["kept_margin_50"] == pytest.approx(float(known.quantile(0.5)))


class Stopping(Objective):
    """Adds nothing to the loss, and asks for a stop at a batch."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.batches = at, 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.batches += 1
        if self.batches == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return 0 * model(batch.x).sum()


def test_a_training_that_was_stopped_goes_on_with_its_margins(tmp_path: Path) -> None:
    training = replace(TRAINING, epochs=2, batch_size=40)
    defence, whole, again = MMA(d_max=0.2, eps_min=0.02, steps=3), network(), network()
    wanted = fit(whole, images(), Sum((defence, Stopping())), training, progress=False)
    at = math.ceil(len(images()) / 40) + 1
    with pytest.raises(KeyboardInterrupt):
        fit(network(), images(), Sum((defence, Stopping(at))), training, folder=tmp_path, progress=False)
    found = fit(again, images(), Sum((defence, Stopping())), training, folder=tmp_path, progress=False)
    assert found.last["kept_margin"] == wanted.last["kept_margin"]
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), whole.parameters(), strict=True))


def test_the_best_epoch_is_that_of_the_largest_mean_margin_on_held_out_images(tmp_path: Path) -> None:
    monitor = ANPGD(0.05, eps_max=0.2, steps=3)
    training = replace(TRAINING, epochs=3, optimiser=SGD(lr=0.3), validation=40, monitor=monitor, seed=0)
    model = network()
    log = fit(model, images(), Plain(), training, folder=tmp_path, progress=False).log
    margins = [line["margin"] for line in log]
    held_out = split_off(images(), 40, training.seed)[1]
    (batch,) = held_out.in_order(40)
    result = monitor.run(model, batch.x, batch.y, generator=torch.arange(40))
    wrong = model(batch.x).argmax(1) != batch.y
    sizes = torch.where(wrong, 0, torch.where(result.success, result.linf, 0.2))
    assert margins[-1] == pytest.approx(float(sizes.mean()), rel=0.05)  # of other noise
    best = {key: max((1, 2, 3), key=lambda epoch: log[epoch][key]) for key in ("margin", "clean", "robust")}
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == best["margin"]
    assert len(set(best.values())) == 3, "the three have to be different epochs"


def test_the_summary_is_of_images_that_have_a_margin() -> None:
    kept = Margins(8, torch.device("cpu"))
    assert kept.summary() == {}
    kept.margin[2:7] = torch.tensor([0.4, 0.0, 0.1, 0.3, 0.2])
    assert kept.summary((0.25, 0.5)) == {
        "kept_margin": pytest.approx(0.2),
        "kept_margin_25": pytest.approx(0.1),
        "kept_margin_50": pytest.approx(0.2),
    }


# --- what it refuses


def test_without_indices_or_memory_the_error_has_the_remedy() -> None:
    model, batch = network(), first(4)
    with pytest.raises(ValueError, match=r"call `defence = defence\.setup\(model, data\)` first"):
        MMA()(model, batch)
    mma = MMA().setup(model, images())
    with pytest.raises(ValueError, match="the batch needs `index`"):
        mma(model, replace(batch, index=None))
    with pytest.raises(ValueError, match=r"for images 0 to \d+; the batch has 0 to 99999"):
        mma(model, replace(batch, index=torch.tensor([0, 1, 2, 99999])))
    data = images().subset(torch.arange(5))
    data.__class__ = type("Longer", (type(data),), {"__len__": lambda _: 6})
    with pytest.raises(ValueError, match="the data set needs an `index`"):
        MMA().setup(model, data)


def test_a_second_training_begins_with_fresh_memory() -> None:
    model, batch = network(), first(12)
    mma = MMA(steps=2).setup(model, images())
    mma(model, batch)
    again = mma.setup(model, images())
    assert bool((stored(again) == -1).all())
    assert bool((stored(mma)[batch.index] >= 0).all())
    assert again == mma == MMA(steps=2)
