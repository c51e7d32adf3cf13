"""Detectors: their scores against closed forms, the threshold, and what breaks them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from steelman.attacks import FGSM, PGD, CarliniWagner, Naive
from steelman.data import Digits
from steelman.detectors import LID, Confidence, Detector, FeatureSqueezing, Rejecting
from steelman.detectors.lid import _nearest_error, lid
from steelman.evaluation import evaluate
from steelman.experiments.run import train
from steelman.filters import BitDepth, MedianSmoothing
from steelman.losses import Margin
from steelman.measures import accuracy, clean_accuracy, rejection_rate
from steelman.networks import MLP
from steelman.types import Batch

TRAIN, TEST = Digits().load("train"), Digits().load("test")
THREES = TRAIN.subset((next(TRAIN.in_order(len(TRAIN))).y == 3).nonzero()[:, 0])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = MLP(hidden=(32, 32), shape=(1, 8, 8), classes=10)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    batch = next(TRAIN.in_order(len(TRAIN)))
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    return model.eval()


def own_lid() -> LID:
    return LID(10, 60, 0.2, shape=(1, 8, 8))


DETECTORS = [Confidence, FeatureSqueezing, own_lid]
each = pytest.mark.parametrize("make", DETECTORS, ids=["Confidence", "FeatureSqueezing", "LID"])


@pytest.mark.parametrize("dimension", [1, 3, 10])
def test_lid_is_the_dimension_where_the_distances_are_those_of_one(dimension: int):
    """r_i = (i / k)^(1/m) gives m k / log(k^k / k!)."""
    k = 20
    distances = (torch.arange(1, k + 1, dtype=torch.float64) / k) ** (1 / dimension)
    references = torch.cat([distances, torch.full((5,), 9.0, dtype=torch.float64)])[torch.randperm(25), None]
    found = float(lid(torch.zeros(1, 1, dtype=torch.float64), references, k))
    expected = dimension * k / (k * math.log(k) - math.lgamma(k + 1))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("dimension", "low", "high"), [(2, 1.8, 2.2), (5, 4.6, 5.8)])
def test_lid_of_a_uniform_cube(dimension: int, low: float, high: float):
    torch.manual_seed(0)
    references = torch.rand(20_000, dimension, dtype=torch.float64)
    x = 0.5 + 0.1 * torch.rand(60, dimension, dtype=torch.float64)
    assert low < float(lid(x, references, 100).mean()) < high
    turned, _ = torch.linalg.qr(torch.randn(dimension, dimension, dtype=torch.float64))
    torch.testing.assert_close(
        lid(3 * x @ turned, 3 * references @ turned, 100), lid(x, references, 100), rtol=1e-3, atol=0
    )


def test_lid_of_copies_is_finite():
    x = torch.rand(3, 4)
    for references in (x.repeat(10, 1), x[:1].expand(10, -1)):
        assert lid(x, references, 5).isfinite().all()
    x.requires_grad_()
    lid(x, torch.rand(10, 4), 5).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@each
def test_it_rejects_its_rate_of_clean_images_and_scores_decide(make, network: nn.Module):
    model = Rejecting(network, make(), rate=0.2).fit(TRAIN, 1000).eval()
    batch = next(TRAIN.batches([torch.arange(len(TRAIN))]))
    answer = model(batch.x).detach()
    logits, score = model.detector.score(network, batch.x)
    assert answer.shape[1] == 11
    torch.testing.assert_close(answer[:, :10], logits)
    rejected = answer.argmax(1) == 10
    assert torch.equal(rejected, score > model.get_buffer("threshold"))
    assert torch.equal(answer.argmax(1)[~rejected], network(batch.x).argmax(1)[~rejected])
    assert 0.1 < float(rejected.float().mean()) < 0.3


def test_the_threshold_is_the_quantile_of_images_that_were_not_measured(network: nn.Module):
    seen = {"measured": torch.zeros(0, 64), "scored": torch.zeros(0, 64)}

    class Watched(Confidence):
        def measure(self, network: nn.Module, batch: Batch) -> None:
            seen["measured"] = batch.x.flatten(1)

        def score(self, network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen["scored"] = torch.cat([seen["scored"], x.flatten(1)])
            return super().score(network, x)

    model = Rejecting(network, Watched(), rate=0.2).fit(TRAIN, 601)
    assert [len(each) for each in seen.values()] == [300, 301]
    assert float(torch.cdist(seen["measured"], seen["scored"]).min()) > 0
    scores = np.sort(-network(seen["scored"]).softmax(1).amax(1).log().detach().numpy())
    assert float(model.get_buffer("threshold")) == pytest.approx(scores[240], rel=1e-4)  # 60 of 301 are above


def test_confidence_is_the_highest_probability_and_squeezing_the_furthest_filter(network: nn.Module):
    x = next(TEST.in_order(20)).x
    p = network(x).softmax(1)
    torch.testing.assert_close(Confidence().score(network, x)[1], -p.amax(1).log())
    filters = (BitDepth(2), MedianSmoothing(2))
    expected = np.max([(p - network(f(x)).softmax(1)).abs().sum(1).detach().numpy() for f in filters], axis=0)
    found = FeatureSqueezing(filters).score(network, x)[1].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_lid_tells_adversarial_images_from_noise(network: nn.Module):
    model = Rejecting(network, own_lid()).fit(TRAIN, 1000).eval()
    batch = next(TEST.in_order(200))
    attack = FGSM(0.2).run(network, batch.x, batch.y)
    noise = 0.2 * torch.randint(0, 2, batch.x.shape).float().mul(2).sub(1)
    scores = [
        model.detector.score(network, x)[1].detach()
        for x in (attack.x_adv[attack.success], (batch.x + noise).clamp(0, 1))
    ]
    above = (scores[0][:, None] > scores[1]).float().mean()
    assert float(above) > 0.56  # the area under the curve
    features = model.detector.features(network, batch.x)[1]  # pyright: ignore[reportCallIssue]
    assert features.shape == (200, 1 + 6)


def test_lid_is_fitted_on_adversarial_clean_and_as_noisy_images(network: nn.Module, monkeypatch: pytest.MonkeyPatch):
    """The mean probability of a logistic regression with an intercept is the share of positives."""
    seen = []
    features = LID.features

    def watched(self: LID, network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(x)
        return features(self, network, x)

    monkeypatch.setattr(LID, "features", watched)
    detector, batch = own_lid(), next(TRAIN.batches([torch.arange(160)]))
    detector.measure(network, batch)
    positive, negative = seen
    assert torch.equal(detector.get_buffer("references"), batch.x[:60])
    clean, noisy = negative[: -len(positive)], negative[-len(positive) :]
    right = network(batch.x[60:]).argmax(1) == batch.y[60:]
    assert torch.equal(clean, batch.x[60:][right])
    origin = torch.cdist(positive.flatten(1), clean.flatten(1), p=torch.inf).argmin(1)
    far, near = ((each - clean[origin]).flatten(1).norm(dim=1) for each in (positive, noisy))
    assert (near <= far * (1 + 1e-5)).all()  # clipping shortens it
    assert (near > 0.5 * far).all()
    share = torch.cat([detector.score(network, each)[1].sigmoid() for each in (positive, negative)]).mean().detach()
    assert float(share) == pytest.approx(len(positive) / len(torch.cat(seen[:2])), abs=1e-3)


def test_an_image_moves_to_the_first_error_along_its_gradients_sign(network: nn.Module):
    batch = next(TRAIN.in_order(100))
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(network(x), batch.y, reduction="sum"), x)
    moved = torch.stack([(batch.x + 0.2 * step / 20 * slope.sign()).clamp(0, 1) for step in range(1, 21)])
    wrong = torch.stack([network(each).argmax(1) != batch.y for each in moved])
    first = torch.where(wrong.any(0), wrong.int().argmax(0), 19)
    assert len(first.unique()) > 5
    torch.testing.assert_close(_nearest_error(network, batch, 0.2), moved[first, torch.arange(100)])


@each
def test_the_attack_that_knows_breaks_what_the_naive_one_does_not(make, network: nn.Module):
    data = TEST.subset(torch.arange(100))
    model = Rejecting(network, make(), rate=0.1).fit(TRAIN, 1000).eval()
    weak = CarliniWagner(steps=60, search_steps=3)
    table = evaluate(
        model,
        data,
        {
            "naive": Naive(weak),
            "sure": Naive(PGD(0.3, steps=40, loss=Margin())),
            "knowing": PGD(0.3, steps=40, loss=Margin(), stop_early=True),
        },
    )
    right = {name: accuracy(table, name).value for name in ("naive", "sure", "knowing")}
    assert clean_accuracy(table).value > 0.7
    assert 0 < rejection_rate(table).value < 0.3
    assert right["knowing"] < 0.15
    if make is Confidence:
        assert right["naive"] > 0.5
        assert right["sure"] < 0.2


def test_a_checkpoint_has_all_of_it(network: nn.Module):
    model = Rejecting(network, own_lid()).fit(TRAIN, 600).eval()
    again = Rejecting(MLP(hidden=(32, 32), shape=(1, 8, 8), classes=10), own_lid()).eval()
    with pytest.raises(ValueError, match="no threshold yet"):
        again(torch.rand(1, 1, 8, 8))
    again.load_state_dict(network.state_dict())  # the network alone
    assert not again.fitted
    again.load_state_dict(model.state_dict())
    x = next(TEST.in_order(20)).x
    torch.testing.assert_close(again(x), model(x))
    assert torch.equal(again.train()(x), again.network(x))


class Nothing(Detector):
    def score(self, network, x):
        return network(x), x.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: Rejecting(net, Confidence(), rate=0.0), "rate above 0"),
        (lambda net: Rejecting(net, Confidence()).fit(TRAIN, 10), "needs 20 images"),
        (
            lambda net: Rejecting(net, Nothing()).fit(TRAIN.subset((TRAIN.labels == 3).nonzero()[:, 0])),
            "are of class 3",
        ),
        (lambda net: LID(20, 20), "2 <= neighbours < references"),
        (lambda net: Rejecting(net, LID(shape=(1, 8, 8))).fit(TRAIN, 100), "LID needs 100 references"),
        (lambda net: LID(shape=(1, 8, 8)).score(net, torch.rand(2, 1, 8, 8)), "not fitted"),
        (lambda net: LID(layers=("nine",), shape=(1, 8, 8)).features(net, torch.rand(2, 1, 8, 8)), "no module 'nine'"),
        (lambda net: FeatureSqueezing(()), "one filter"),
    ],
)
def test_bad_settings(make, message: str, network: nn.Module):
    with pytest.raises(ValueError, match=message):
        make(network)


def test_a_recipe_names_a_detector_for_a_trained_network(tmp_path):
    plain = 'data = "Digits"\nnetwork = { kind = "MLP", hidden = [16] }\ndefence = "Plain"\ntraining.epochs = 1\n'
    (tmp_path / "plain.toml").write_text(plain)
    more = 'network.detector = { kind = "Confidence", rate = 0.1 }\ntraining.epochs = 0\n'
    (tmp_path / "rejecting.toml").write_text('base = "plain.toml"\nstart = "plain.toml"\n' + more)
    run = train(str(tmp_path / "rejecting.toml"), tmp_path / "runs", None)
    model = run.subject(None).model
    assert isinstance(model, Rejecting)
    assert model.fitted
    assert model.rate == 0.1
    x = next(TRAIN.in_order(500)).x
    assert 0.03 < float((model.eval()(x).argmax(1) == 10).float().mean()) < 0.2
    (tmp_path / "alone.toml").write_text('base = "plain.toml"\nnetwork.detector = "Confidence"\n')
    with pytest.raises(ValueError, match="a detector is fitted to a network that is trained"):
        train(str(tmp_path / "alone.toml"), tmp_path / "runs", None)
    (tmp_path / "other.toml").write_text('base = "plain.toml"\nnetwork.detector = "Confidense"\n')
    with pytest.raises(ValueError, match=r"network\.detector: there is no detector 'Confidense'"):
        train(str(tmp_path / "other.toml"), tmp_path / "runs", None)
