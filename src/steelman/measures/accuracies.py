"""Shares of images that are right: unattacked, under one attack, under all of them, within a radius.

An image is *right under an attack* when it was classified right before and after it: a natural error counts as an error
under every attack, also where noise happens to heal it. So the accuracy under Gaussian or uniform noise, as papers
print it, is `accuracy` of `GaussianNoise` or `UniformNoise` with one sample.

Of a random model, an image counts by its probability of being right over 20 draws: what a user who asks once meets.
Under an attack, that is the lower of the probabilities before and after it; under several, the lowest. The interval is
over images and draws. `steelman.measures.rows` says how it is estimated without a bias that grows with the attacks.
"""

from collections.abc import Sequence

import numpy as np

from steelman.measures.measure import Measure, Unmeasured, mean, share
from steelman.measures.rows import mean_of, rows
from steelman.norms import Norm
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation


def clean_accuracy(evaluation: Evaluation) -> Measure:
    """The share of unattacked images that are classified right."""
    return mean_of(rows(evaluation).right())


def rejection_rate(evaluation: Evaluation, attack: str = CLEAN) -> Measure:
    """The share of images that the model rejects, unattacked or under an attack.

    An unattacked image that is rejected counts as an error in `clean_accuracy`, and in every accuracy under attack. An
    image that was right and is rejected under attack counts as right there.

    Raises:
        Unmeasured: as for `accuracy`.
    """
    return share(rows(evaluation)[attack].whole().rejected)


def accuracy(evaluation: Evaluation, attack: str) -> Measure:
    """The share of images that are right under one attack.

    Raises:
        Unmeasured: the attack skipped images that are right unattacked.
    """
    return mean_of(_under(evaluation, attack))


def accuracy_of_most(evaluation: Evaluation, attack: str = CLEAN) -> Measure:
    """The share of images of which a random model's most frequent answer is right: unattacked, or before and after an
    attack.

    It is that of a vote over twenty answers. Attacks were not made for a vote: `MeanOfDraws` is a model that takes one.

    Raises:
        Unmeasured: as for `accuracy`.
    """
    return share(rows(evaluation)[attack].whole().correct)


def accuracy_of_any_draw(evaluation: Evaluation, attack: str) -> Measure:
    """The share of images that are right most often unattacked, and under an attack in one draw of the model at least.

    Raises:
        Unmeasured: as for `accuracy`.
    """
    run = rows(evaluation)[attack].whole()
    return share(~run.wrong & (np.maximum(*run.shares) > 0))


def success_rate(evaluation: Evaluation, attack: str) -> Measure:
    """The share of images that are wrong under one attack: 1 - `accuracy`, natural errors among them.

    Deep Defense draws it against FGSM's eps.

    Raises:
        Unmeasured: as for `accuracy`.
    """
    return mean_of(1 - _under(evaluation, attack))


def worst_case(evaluation: Evaluation, attacks: Sequence[str] | None = None) -> Measure:
    """The share of images that are right under every one of the attacks; by default, of the bounded ones.

    An image that an attack skipped, since another attack had broken it within this one's norm and radius, counts as
    wrong.

    Raises:
        Unmeasured: no attacks; an image that no attack broke has no row of one of them.
    """
    chosen = rows(evaluation).chosen(_bounded(evaluation) if attacks is None else attacks)
    if not chosen:
        raise Unmeasured("a worst case needs at least one bounded attack; there is none")
    return mean_of(rows(evaluation).right(chosen))


def minimum(evaluation: Evaluation, attacks: Sequence[str] | None = None) -> Measure:
    """The lowest of the accuracies, the column `Min` of papers; never below `worst_case`, which is by image.

    By default of the bounded attacks. Of a random model, the worst case where draws make an accuracy lower than that.

    Raises:
        Unmeasured: no attacks, or one that has no accuracy of its own.
    """
    names = _bounded(evaluation) if attacks is None else attacks
    if not names:
        raise Unmeasured("Min needs at least one bounded attack; there is none")
    lowest = min((accuracy(evaluation, name) for name in names), key=lambda measure: measure.value)
    return max(lowest, worst_case(evaluation, names), key=lambda measure: measure.value)


def robust_accuracy(evaluation: Evaluation, norm: Norm, eps: float, attacks: Sequence[str] | None = None) -> Measure:
    """The share of images for which no attack in the table found an adversarial image within `eps`.

    Every attack counts (by default, all) whose image came out within `eps`, whatever its own goal: one that is bounded
    by a smaller radius, one without a radius.

    Raises:
        ValueError: a negative radius.
        Unmeasured: no images; an image that no attack broke has no row of one of the attacks.
    """
    return mean_of(right_within(evaluation, norm, eps, attacks))


def average_accuracy(
    evaluation: Evaluation, norm: Norm, radii: Sequence[float] | None = None, *, clean: bool = True
) -> Measure:
    """The mean over radii of `robust_accuracy`: MMA's AvgAcc, and without the clean accuracy its AvgRobAcc.

    norm   of the radii
    radii  by default those of the table's bounded attacks of this norm; MMA's are 4, 8, ..., 32 of 255 for Linf on
           CIFAR-10
    clean  count the clean accuracy as one more radius, 0 (default; AvgAcc). False: AvgRobAcc

    Each image has the share of the radii within which it is still correct; the interval is Wilson's of the
    effective number of images (`intervals.of_shares`).

    Reference: Gavin Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space
    margin maximization through adversarial training", ICLR 2020, section 4.

    Raises:
        Unmeasured: no radii; as for `robust_accuracy`.
    """
    chosen = radii_of(evaluation, norm) if radii is None else list(radii)
    if not chosen:
        raise Unmeasured(f"an average over radii needs bounded attacks in {norm}; the table has none")
    right = [right_within(evaluation, norm, eps) for eps in chosen]
    if clean:
        right.append(rows(evaluation).right())
    return mean(np.mean(right, axis=0), kind="share")


def radii_of(evaluation: Evaluation, norm: Norm) -> list[float]:
    """The radii of the bounded attacks in this norm, rising."""
    return sorted(eps for name, eps in threats(evaluation) if name == repr(norm))


def threats(evaluation: Evaluation) -> dict[tuple[str, float], list[str]]:
    """The names of the bounded attacks, by norm and radius."""
    found: dict[tuple[str, float], list[str]] = {}
    for name, attack in rows(evaluation).attacks.items():
        if attack.bounded and attack.norm is not None:
            found.setdefault((attack.norm, attack.eps), []).append(name)
    return found


def right_within(evaluation: Evaluation, norm: Norm, eps: float, attacks: Sequence[str] | None = None) -> np.ndarray:
    """By image, in order, the probability of being right under the worst of what was found within `eps`.

    0 or 1 of a model that is not random; see `robust_accuracy`.
    """
    if not eps >= 0:
        raise ValueError(f"eps is a radius, at least 0; got {eps}")
    table = rows(evaluation)
    return table.right(table.chosen(attacks), repr(norm), eps)


def still_correct(evaluation: Evaluation, norm: Norm, eps: float, attacks: Sequence[str] | None = None) -> np.ndarray:
    """The images, in order, for which no attack found an adversarial image within `eps`; see `robust_accuracy`.

    Of a random model, those that are right more often than not under the worst of what was found.
    """
    return right_within(evaluation, norm, eps, attacks) > 0.5


def _under(evaluation: Evaluation, attack: str) -> np.ndarray:
    """By image, the probability of being right before and after an attack."""
    run = rows(evaluation)[attack].whole()
    return rows(evaluation).right([] if attack == CLEAN else [run])


def _bounded(evaluation: Evaluation) -> list[str]:
    return [name for name, attack in rows(evaluation).attacks.items() if attack.bounded]
