"""Cascade adversarial training: its loss in a plain loop, its two kinds of images by hand, and where gradients go."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from every_defence import first, network
from every_defence import images as digits
from steelman import FGSM, PGD, AdversarialTraining, Batch, Cascade, CraftedPairs, fit
from steelman.attacks.core import evaluation_mode
from steelman.data import InMemory
from steelman.networks import MLP
from steelman.training import SGD, Training

Pivot = Literal["code", "detach"]
MODEL = small_net()
X = images(40)
Y = torch.arange(40) % 10
VERSIONS = torch.stack([torch.full_like(X, (k + 1) / 8) for k in range(4)], 1)
"""Of which each is known by its pixels."""
BATCH = Batch(X, Y, seeds=torch.arange(40), crafted=VERSIONS)


def written(clean: Tensor, adversarial: Tensor, y: Tensor, factor: float, similarity: float) -> Tensor:
    """The code's sums: cross-entropies over what their weights sum to, and similarity / (2 B) of the distances."""
    total = torch.zeros((), dtype=clean.dtype)
    for z, z_adv, label in zip(clean, adversarial, y.tolist(), strict=True):
        total = total - z.log_softmax(0)[label] - factor * z_adv.log_softmax(0)[label]
    apart = sum(((z_adv - z) ** 2).sum() for z, z_adv in zip(clean, adversarial, strict=True))
    return total / (len(y) + factor * len(y)) + similarity / (2 * len(y)) * apart


@pytest.mark.parametrize("pivot", ["code", "detach"])
@pytest.mark.parametrize(("factor", "similarity"), [(0.3, 64e-4), (1.0, 0.0), (0.0, 0.5), (2.5, 3.0)])
def test_the_loss_in_a_loop(factor: float, similarity: float, pivot: Pivot) -> None:
    defence = Cascade(factor=factor, similarity=similarity, pivot=pivot)
    made = defence.craft(MODEL, BATCH)
    wanted = written(MODEL(X), MODEL(made.x), Y, factor, similarity)
    torch.testing.assert_close(defence.loss(MODEL, BATCH, made), wanted)
    torch.testing.assert_close(defence(MODEL, BATCH), wanted)


def test_the_weights_sum_to_one() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.arange(10.0, dtype=torch.float64).expand(len(x), 10)

    wanted = F.cross_entropy(Constant()(X), Y)
    for factor in (0.0, 0.3, 7.0):
        torch.testing.assert_close(Cascade(factor=factor, stored=1.0)(Constant(), BATCH), wanted)


def test_without_similarity_and_with_equal_weights_it_is_mixed_adversarial_training() -> None:
    defence = Cascade(factor=1.0, similarity=0.0)
    made = defence.craft(MODEL, BATCH)
    assert (made.x != X).flatten(1).any(1).all()
    mixed = AdversarialTraining(clean_weight=0.5).loss(MODEL, BATCH, made)
    ours = defence.loss(MODEL, BATCH, made)
    torch.testing.assert_close(ours, mixed)
    parameters = list(MODEL.parameters())
    found, expected = (torch.autograd.grad(each, parameters) for each in (ours, mixed))
    torch.testing.assert_close(found, expected)


def test_the_pivot_decides_about_the_clean_side_only() -> None:
    slopes: dict[str, tuple[Tensor, Tensor]] = {}

    class Watched(nn.Module):
        logits: Tensor

        def forward(self, x: Tensor) -> Tensor:
            self.logits = MODEL(x)
            return self.logits

    made = Cascade().craft(MODEL, BATCH)
    for pivot in ("detach", "code"):
        model = Watched()
        loss = Cascade(similarity=0.5, pivot=pivot).loss(model, BATCH, made)
        adversarial, clean = torch.autograd.grad(loss, model.logits)[0].chunk(2)
        slopes[pivot] = adversarial, clean
    torch.testing.assert_close(slopes["detach"][0], slopes["code"][0])
    apart = (MODEL(made.x) - MODEL(X)).detach()
    torch.testing.assert_close(slopes["detach"][1] - slopes["code"][1], 0.5 / 40 * apart)
    entropy = F.cross_entropy(clean_logits := MODEL(X), Y) / 1.3
    torch.testing.assert_close(slopes["detach"][1], torch.autograd.grad(entropy, clean_logits)[0])
    assert float(apart.abs().max()) > 0.1


# --- images


def test_radii_are_half_normal_and_clipped() -> None:
    """Read off the one-step images, which move interior pixels by exactly the radius."""
    count = 3000
    x = torch.full((count, 1, 4, 6), 0.5, dtype=torch.float64) + 0.01 * torch.arange(24).reshape(1, 4, 6)
    made = Cascade(eps=0.2, stored=0.0).craft(MODEL, Batch(x, torch.arange(count) % 10, seeds=torch.arange(count)))
    moved = (made.x - x).abs().flatten(1)
    radius = moved.amax(1)
    torch.testing.assert_close(moved, radius[:, None].expand_as(moved))
    assert float(radius.max()) == pytest.approx(0.2)
    share = math.erfc(2 / math.sqrt(2))  # beyond two deviations
    at_the_end = float((radius > 0.2 - 1e-9).double().mean())
    assert abs(at_the_end - share) < 4 * math.sqrt(share / count)
    below = float((radius < 0.1).double().mean())
    assert abs(below - math.erf(1 / math.sqrt(2))) < 4 * math.sqrt(0.22 / count)


def test_one_step_images_go_to_the_least_likely_wrong_class() -> None:
    made = Cascade(eps=0.1, stored=0.0).craft(MODEL, BATCH)
    logits = MODEL(X)
    pairs = zip(logits.tolist(), Y.tolist(), strict=True)
    target = torch.tensor([min((k for k in range(10) if k != y), key=z.__getitem__) for z, y in pairs])
    assert (target == logits.argmin(1)).any()
    raw = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(MODEL(raw), target, reduction="sum"), raw)
    radius = (made.x - X).abs().flatten(1).amax(1)[:, None, None, None]
    torch.testing.assert_close(made.x, (X - radius * slope.sign()).clamp(0, 1))
    assert float(radius.min()) > 0


def test_the_label_is_no_target_where_it_is_the_least_likely() -> None:
    y = MODEL(X).argmin(1)
    made = Cascade(eps=0.1, stored=0.0).craft(MODEL, replace(BATCH, y=y))
    target = MODEL(X).scatter(1, y[:, None], math.inf).argmin(1)
    torch.testing.assert_close(
        FGSM(eps=(made.x - X).abs().flatten(1).amax(1))(MODEL, X, y, target=target), made.x, rtol=0, atol=1e-12
    )


def test_stored_images_are_those_of_the_radius_and_half_of_all() -> None:
    count = 2000
    x = torch.full((count, 1, 4, 6), 0.5, dtype=torch.float64)
    versions = torch.stack([torch.full_like(x, (k + 1) / 8) for k in range(4)], 1)
    batch = Batch(x, torch.arange(count) % 10, seeds=torch.arange(count), crafted=versions)
    defence = Cascade(eps=0.2, stored=1.0)
    level = defence.craft(MODEL, batch).x[:, 0, 0, 0] * 8 - 1
    one_step = replace(defence, stored=0.0).craft(MODEL, batch)
    radius = (one_step.x - x).abs().flatten(1).amax(1)
    wanted = torch.tensor([min(int(r / 0.05), 3) for r in radius.tolist()], dtype=torch.float64)
    assert torch.equal(level, wanted)
    assert set(level.tolist()) == {0.0, 1.0, 2.0, 3.0}
    half = replace(defence, stored=0.5).craft(MODEL, batch).x
    stored = (half == half[:, :, :1, :1]).flatten(1).all(1)
    assert abs(float(stored.double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(count)
    torch.testing.assert_close(half[~stored], one_step.x[~stored])
    few = replace(defence, stored=0.3).craft(MODEL, batch).x
    stored = (few == few[:, :, :1, :1]).flatten(1).all(1)
    apart = radius[stored].mean() - radius[~stored].mean()
    error = radius.std() / math.sqrt(0.3 * 0.7 * count)
    assert float(apart.abs() / error) < 4, "whether an image is stored has nothing to do with its radius"


def test_an_image_has_the_same_perturbation_alone_and_in_a_batch() -> None:
    defence = Cascade(eps=0.2)
    whole = defence.craft(MODEL, BATCH)
    parts = [defence.craft(MODEL, BATCH[place : place + 3]).x for place in range(0, 40, 3)]
    torch.testing.assert_close(torch.cat(parts), whole.x)
    other = defence.craft(MODEL, replace(BATCH, seeds=torch.arange(40) + 40))
    assert not torch.equal(other.x, whole.x)


def test_both_halves_share_the_batch_statistics() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[tuple[int, bool]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.sizes.append((len(x), self.training))
            return MODEL(x)

    model = Counting()
    Cascade(stored=0.0)(model, BATCH)
    assert model.sizes == [(40, False), (40, False), (80, True)]
    model = Counting()
    Cascade(stored=1.0)(model, BATCH)
    assert model.sizes == [(80, True)]


# --- data


def test_the_chain_trains_on_what_was_made_of_the_same_images() -> None:
    """Versions of an image stay with it through the loop's batches, shuffled and held out."""
    met: list[Batch] = []

    class Watching(Cascade):
        def craft(self, model: nn.Module, batch: Batch) -> Batch:
            met.append(batch)
            return super().craft(model, batch)

    attacks = tuple(PGD(eps=eps, steps=2, random_start=False) for eps in (0.05, 0.1))
    reference = network()
    training = Training(epochs=1, batch_size=20, validation=16, optimiser=SGD(lr=0.01))
    model = MLP(shape=(1, 8, 8), hidden=(24,))
    prepare = CraftedPairs(attacks)
    fit(
        *(model, digits(), Watching(eps=0.1), training),
        prepare=lambda data: prepare(data, reference, progress=False),
        progress=False,
    )
    assert sum(map(len, met)) == 113 - 16
    with evaluation_mode(reference):
        for batch in met:
            assert batch.crafted is not None
            for attack, version in zip(attacks, batch.crafted.unbind(1), strict=True):
                torch.testing.assert_close(attack(reference, batch.x, batch.y), version)


def test_data_without_stored_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Cascade\(stored=0\.5\) needs images .*CraftedPairs.*stored = 0"):
        Cascade().setup(network(), digits())
    with pytest.raises(ValueError, match=r"Cascade\(stored=1\) needs images"):
        Cascade(stored=1.0)(network(), first(3))
    assert Cascade(stored=0.0).setup(network(), digits()) == Cascade(stored=0.0)


def test_one_class_is_refused() -> None:
    data = InMemory("one", torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64), ("all",))
    with pytest.raises(ValueError, match="Cascade needs at least two classes"):
        Cascade(stored=0.0).setup(nn.Flatten(), data)
