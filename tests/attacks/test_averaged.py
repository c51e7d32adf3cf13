"""What attacks become on random models: the mean over draws where they read one, and no early stop."""

import pytest

from steelman.attacks import (
    APGD,
    EOT,
    FGSM,
    PGD,
    DeepFool,
    HopSkipJump,
    Latent,
    Naive,
    Square,
    UniformNoise,
    UniversalPerturbation,
    Within,
    WorstOf,
)
from steelman.attacks.composed.eot import averaged
from steelman.attacks.core import Attack

EARLY, LATE = PGD(0.2, steps=3, stop_early=True), PGD(0.2, steps=3, stop_early=False)


@pytest.mark.parametrize(
    ("attack", "inner"),
    [
        (EARLY, LATE),
        (FGSM(0.1), FGSM(0.1)),
        (Square(0.1), Square(0.1, stop_early=False)),  # which stops early by default
        (Within(DeepFool(), 0.5), Within(DeepFool(), 0.5)),
        (Latent(EARLY, decode="runs/gan"), Latent(LATE, decode="runs/gan")),
        (WorstOf((FGSM(0.1), EARLY)), WorstOf((FGSM(0.1), LATE))),
        (WorstOf((WorstOf((APGD(0.1, stop_early=True), EARLY)),)), WorstOf((WorstOf((APGD(0.1), LATE)),))),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_reads_gradients_or_scores_gets_their_mean_and_goes_on_to_the_end(attack: Attack, inner: Attack) -> None:
    assert averaged(attack, 7) == EOT(inner, samples=7)
    assert averaged(attack, 1) == inner


@pytest.mark.parametrize(
    "attack",
    [
        EOT(EARLY, samples=2),
        WorstOf((FGSM(0.1), EOT(EARLY, samples=2))),
        Naive(EARLY),
        HopSkipJump(),
        UniformNoise(0.1),
        UniversalPerturbation(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_knows_of_draws_or_must_not_stays_as_it_is(attack: Attack) -> None:
    assert averaged(attack, 7) is attack
    assert averaged(attack, 1) is attack


def test_settings_of_the_whole_attack_are_those_of_the_mean() -> None:
    attack = PGD(0.2, box=(-1.0, 1.0), uint8=False, precision="bf16", reference="prediction")
    found = averaged(attack, 7)
    assert isinstance(found, EOT)
    assert (found.box, found.precision, found.reference) == ((-1.0, 1.0), "bf16", "prediction")
    assert (found.attack.precision, found.attack.reference) == ("full", "label")
    bytes_ = averaged(PGD(0.2, uint8=True), 7)
    assert bytes_.uint8
    assert isinstance(bytes_, EOT)
    assert not bytes_.attack.uint8
