"""Models that draw random numbers: judged over draws, attacked through their mean."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affine import images, small_net
from digits_network import trained
from steelman.attacks import (
    EOT,
    FGSM,
    FMN,
    PGD,
    DeepFool,
    HopSkipJump,
    Square,
    UniformNoise,
    UniversalPerturbation,
    WorstOf,
)
from steelman.attacks.core import Attack, AttackWrapper
from steelman.checkup import checkup
from steelman.data import Digits
from steelman.evaluation import evaluate
from steelman.evaluation.battery import Battery, named_battery
from steelman.experiments.assess import assess, attacked, look
from steelman.loading.subject import Subject
from steelman.measures import (
    accuracy,
    accuracy_of_any_draw,
    accuracy_of_most,
    clean_accuracy,
    measures,
    robust_accuracy,
    success_rate,
)
from steelman.networks import MLP, Filtered, MeanOfDraws, Normalise, Preprocessed
from steelman.networks.drawing import Drawn
from steelman.norms import Linf
from steelman.randomness import DRAWS, is_random


class Noise(nn.Module):
    """Images with Gaussian noise."""

    random = True

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


class Coin(nn.Module):
    """Class 0 with a probability, whatever the image."""

    random = True

    def __init__(self, heads: float) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        one = (torch.rand(len(x)) >= self.heads).to(x)
        return torch.stack([1 - one, one], 1) * 2 + 0 * x.flatten(1).sum(1, keepdim=True)


class Stranger(nn.Module):
    """A perceptron's answer, and one time in ten another one; it declares nothing, and draws from numpy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        slips = torch.from_numpy(np.random.rand(len(x), 1) < 0.1)  # noqa: NPY002
        return torch.where(slips, logits.roll(1, 1), logits)


def strange(tmp_path: Path, count: int = 100) -> Subject:
    """A stranger that is right 90 % of the time on each of so many images."""
    network, data = trained(), Digits().load("test")
    (batch,) = data.in_order(len(data))
    right = torch.where(network(batch.x).argmax(1) == batch.y)[0]
    data = data.subset(right[:count])
    return Subject("it", Stranger(network), data, lambda: data, tmp_path)


def test_what_is_random_says_so() -> None:
    assert is_random(nn.Sequential(Noise(0.1), small_net()))
    assert is_random(Filtered(Noise(0.1), small_net()))
    assert not is_random(small_net())
    assert not is_random(lambda x: x)


@pytest.mark.filterwarnings("ignore:the model's gradient is zero")
def test_success_is_the_most_frequent_of_twenty_answers() -> None:
    x, y = torch.rand(400, 1, 2, 2), torch.zeros(400, dtype=torch.int64)
    result = FGSM(eps=0.1).run(Coin(0.7), x, y, generator=torch.arange(400))
    for share in (result.right, result.again):
        assert set((DRAWS * share).round().long().tolist()) <= set(range(DRAWS + 1))
        assert float(share.mean()) == pytest.approx(0.7, abs=4 * (0.21 / 4000) ** 0.5)
    assert abs(np.corrcoef(result.right, result.again)[0, 1]) < 4 / 400**0.5
    both = (result.right + result.again) / 2
    more = (both - 0.5).abs() > 1e-6  # the lower class wins a tie
    assert torch.equal(result.success[more], both[more] < 0.5)
    assert not result.success[~more].any()


def test_the_same_seeds_give_the_same_answers_and_leave_torchs_generator_alone() -> None:
    x, model = images(6), nn.Sequential(Noise(0.5), small_net())
    y = model[1](x).argmax(1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = PGD(eps=0.1, steps=3).run(model, x, y, generator=torch.arange(6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = PGD(eps=0.1, steps=3).run(model, x, y, generator=torch.arange(6))
    assert torch.equal(first.x_adv, second.x_adv)
    assert torch.equal(first.right, second.right)
    other = PGD(eps=0.1, steps=3).run(model, x, y, generator=torch.arange(1, 7))
    assert not torch.equal(first.x_adv, other.x_adv)


def test_an_image_counts_by_its_probability_of_being_right() -> None:
    data = Digits().load("test").subset(torch.arange(100))
    torch.manual_seed(0)
    model = Filtered(Noise(0.6), MLP(hidden=[16], shape=(1, 8, 8), classes=10))
    table = evaluate(model, data, {"FGSM": FGSM(eps=0.05)})
    clean, after = table.only("clean"), table.only("FGSM")
    assert clean_accuracy(table).value == pytest.approx(float((clean["right"] + clean["again"]).mean()) / 2)
    lower = [np.where(after[a] <= clean[a], after[b], clean[b]) for a, b in (("right", "again"), ("again", "right"))]
    assert accuracy(table, "FGSM").value == pytest.approx(float(np.mean(lower)))
    assert success_rate(table, "FGSM").value == pytest.approx(1 - float(np.mean(lower)))
    right = clean["prediction"] == clean["label"]
    assert accuracy_of_most(table).value == pytest.approx(float(right.mean()))
    any_draw = right & (after["right"] + after["again"] > 0)
    assert accuracy_of_any_draw(table, "FGSM").value == pytest.approx(float(any_draw.mean()))
    names = measures(table)
    assert {f"accuracy of the most frequent answer, {name}" for name in ("clean", "FGSM")} <= names.keys()
    assert table.draws == 2 * DRAWS
    network = MLP(hidden=[4], shape=(1, 8, 8), classes=10)
    sure = evaluate(network, data, {"FGSM": FGSM(eps=0.05), "DeepFool": DeepFool(reference="prediction")})
    assert sure.draws == 1
    assert not any("frequent" in name for name in measures(sure))
    assert sure["right"].tolist() == sure["again"].tolist() == (sure["prediction"] == sure["label"]).tolist()


def test_a_battery_averages_what_reads_gradients_or_scores() -> None:
    attacks = {
        "PGD": PGD(eps=0.1),
        "two": WorstOf((FGSM(eps=0.1), PGD(eps=0.1))),
        "early": WorstOf((PGD(eps=0.1, stop_early=True), Square(eps=0.1))),
        "EOT": EOT(PGD(eps=0.1), samples=3),
        "noise": UniformNoise(eps=0.1),
        "HSJ": HopSkipJump(),
        "shared": UniversalPerturbation(eps=0.1),
        "prediction": PGD(eps=0.1, reference="prediction"),
    }
    model = Filtered(Noise(0.1), small_net())
    found = Battery(attacks=attacks, samples=4).against(model).attacks
    assert found["PGD"] == EOT(PGD(eps=0.1), samples=4)
    assert found["two"] == EOT(attacks["two"], samples=4)
    assert found["early"] == EOT(WorstOf((PGD(eps=0.1), Square(eps=0.1, stop_early=False))), samples=4)
    assert found["prediction"] == EOT(PGD(eps=0.1), samples=4, reference="prediction")
    assert all(found[name] is attacks[name] for name in ("EOT", "noise", "HSJ", "shared"))
    assert Battery(attacks=found, samples=4).against(model).attacks == found
    assert Battery(attacks=attacks).against(small_net()).attacks == attacks
    means = Battery(attacks=attacks, samples=4).against(MeanOfDraws(model, 3)).attacks
    assert means["PGD"] == attacks["PGD"]
    assert means["early"] == WorstOf((PGD(eps=0.1), Square(eps=0.1, stop_early=False)))


def test_an_evaluation_of_a_random_model_attacks_its_mean(tmp_path: Path) -> None:
    data = Digits().load("test").subset(torch.arange(20))
    torch.manual_seed(0)
    network = MLP(hidden=[8], shape=(1, 8, 8), classes=10)
    for model, kind in ((Filtered(Noise(0.1), network), "EOT"), (network, "PGD")):
        subject = Subject("it", model, data, lambda: data, tmp_path)
        entry = assess(subject, Battery(attacks={"PGD": PGD(eps=0.1, steps=2)}, samples=2))
        assert entry.evaluation.record("PGD").call.startswith(kind)
    assert "random = True" not in str(checkup(Filtered(Noise(0.1), network), data))


def test_a_stranger_s_random_model_is_judged_and_attacked_as_one(tmp_path: Path) -> None:
    given = strange(tmp_path, 30)
    subject, found = look(given)
    assert isinstance(subject.model, Drawn)
    (finding,) = (each for each in found.findings if each.name == "determinism")
    assert finding.level == "note"
    assert "20 answers" in finding.advice
    assert "not compared" not in str(found)  # numpy's draws follow torch's seed now
    entry = assess(subject, Battery(attacks={"PGD": PGD(eps=0.1, steps=2)}, samples=2), found, adaptive="never")
    assert entry.evaluation.record("PGD").call.startswith("EOT")
    assert entry.evaluation.draws == 20
    again = evaluate(subject.model, subject.test, {"PGD": EOT(PGD(eps=0.1, steps=2), samples=2)}, progress=False)
    assert again["right"].tolist() == entry.evaluation["right"].tolist()  # numpy's draws follow the images' seeds
    layer = Normalise(shape=(1, 8, 8), mean=[0.1], std=[0.5])
    behind, _ = look(replace(given, model=Preprocessed(layer, given.model)))
    assert isinstance(behind.model, Preprocessed)
    assert isinstance(behind.model.network, Drawn)
    declared, _ = look(replace(given, model=Filtered(Noise(0.1), given.model)))
    assert isinstance(declared.model, Filtered)
    sure, found = look(replace(given, model=trained()))
    assert not is_random(sure.model)
    assert all(each.level == "fine" for each in found.findings if each.name == "determinism")


def short(attack: Attack) -> Attack:
    """With fewer steps and queries: at such a radius none of them does anything."""
    inner = {"attack": short(attack.attack)} if isinstance(attack, AttackWrapper) else {}
    few = dict.fromkeys((name for name in ("steps", "queries", "samples") if hasattr(attack, name)), 3)
    return replace(attack, **few, **inner)


@pytest.mark.parametrize("name", ["quick", "signs", "thorough"])
def test_a_radius_that_does_nothing_takes_nothing(name: str, tmp_path: Path) -> None:
    subject, _ = look(strange(tmp_path))
    battery = named_battery(name, data="Digits", eps=1e-4)
    attacks = {name: short(attack) for name, attack in (battery.attacks | battery.black_box).items()}
    battery = replace(battery, attacks=attacks, black_box={}, samples=3)
    table = attacked(subject, battery, progress=False)["pixels"]
    measure = robust_accuracy(table, Linf, 1e-4)
    assert measure.low <= 0.9 <= measure.high
    assert measure.value == pytest.approx(0.9, abs=4 * (0.09 / 20 / 100) ** 0.5)
    assert len(table.attacks) >= 4


def test_an_image_is_attacked_until_no_answer_is_right() -> None:
    x, y = torch.rand(200, 1, 2, 2), torch.zeros(200, dtype=torch.int64)
    attacks = {name: UniformNoise(eps=0.1) for name in ("first", "second", "third")}
    table = evaluate(Coin(0.1), (x, y), attacks, survivors_only=True, progress=False)
    right = {}
    for name in ("clean", *attacks):
        found = table.only(name)
        right[name] = dict(zip(found["image"], found["right"] + found["again"], strict=True))
    left = set(range(200))
    for before, after in pairwise(("clean", *attacks)):
        left &= {image for image, share in right[before].items() if share > 0}
        assert right[after].keys() == left
    assert 0 < len(left) < 200


def test_a_minimal_attack_goes_on_until_most_answers_err() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Noise(0.05), small_net()), images(24)
    y = model[1](x).argmax(1)
    short, seeds = FMN(steps=30), torch.arange(24)
    model.eval()
    nearest = short.run(model[1], x, y, generator=seeds)
    found = EOT(short, samples=10).run(model, x, y, generator=seeds)
    share = (found.right + found.again) / 2
    moved = found.linf > 0
    assert moved.all()
    assert float(share.mean()) < 0.2  # at the boundary it would be 1/2
    assert float(found.success.double().mean()) > 0.9
    assert 1 < float((found.linf / nearest.linf).median()) < 2
    bounded = EOT(PGD(eps=0.1, steps=2), samples=2)
    assert bounded.run(model, x, y, generator=seeds).forwards.tolist() == [4] * 24


def test_noise_that_larger_images_drown_is_no_wrong_scale() -> None:
    data = Digits().load("test").subset(torch.arange(100))
    found = {each.name: each for each in checkup(Filtered(Noise(0.3), trained()), data).findings}
    assert found["accuracy"].level == "fine"
