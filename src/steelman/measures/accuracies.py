"""Shares of images that are right: unattacked, under one attack, under all of them, within a radius.

An image is *right under an attack* when it was classified right before and after it: a natural error counts as an error
under every attack, also where noise happens to heal it. So the accuracy under Gaussian or uniform noise, as papers
print it, is `accuracy` of `GaussianNoise` or `UniformNoise` with one sample.
"""

from collections.abc import Sequence

import numpy as np

from steelman.measures.measure import Measure, Unmeasured, bootstrap, share
from steelman.measures.rows import Attacked, rows
from steelman.norms import Norm
from steelman.table.table import Evaluation


def clean_accuracy(evaluation: Evaluation) -> Measure:
    """The share of unattacked images that are classified right."""
    return share(~rows(evaluation).wrong)


def accuracy(evaluation: Evaluation, attack: str) -> Measure:
    """The share of images that are right under one attack.

    Raises:
        Unmeasured: the attack was spared images that are right unattacked.
    """
    return share(right(rows(evaluation)[attack].whole()))


def success_rate(evaluation: Evaluation, attack: str) -> Measure:
    """The share of images that are wrong under one attack: 1 - `accuracy`, natural errors among them.

    Deep Defense draws it against FGSM's eps.

    Raises:
        Unmeasured: the attack was spared images that are right unattacked.
    """
    return share(~right(rows(evaluation)[attack].whole()))


def worst_case(evaluation: Evaluation, attacks: Sequence[str] | None = None) -> Measure:
    """The share of images that are right under every one of the attacks; by default, of the bounded ones.

    An image that an attack was spared, since something else in the table felled it within that attack's norm and
    radius, counts as wrong.

    Raises:
        Unmeasured: no attacks; an image has no row of one of them, and nothing else felled it.
    """
    found = rows(evaluation)
    chosen = found.chosen(_bounded(evaluation) if attacks is None else attacks)
    if not chosen:
        raise Unmeasured("a worst case needs at least one bounded attack; there is none")
    return share(np.all([right(attack) & ~attack.spared for attack in chosen], axis=0))


def minimum(evaluation: Evaluation, attacks: Sequence[str] | None = None) -> Measure:
    """The lowest of the accuracies, the column `Min` of papers; never below `worst_case`, which is by image.

    By default of the bounded attacks.

    Raises:
        Unmeasured: no attacks, or one that has no accuracy of its own.
    """
    names = _bounded(evaluation) if attacks is None else attacks
    if not names:
        raise Unmeasured("Min needs at least one bounded attack; there is none")
    return min((accuracy(evaluation, name) for name in names), key=lambda found: found.value)


def robust_accuracy(evaluation: Evaluation, norm: Norm, eps: float, attacks: Sequence[str] | None = None) -> Measure:
    """The share of images for which nothing in the table lies within `eps`: the worst case over all of its attacks.

    Every attack counts (by default, all) whose image came out within `eps`, whatever it was after: one that is bounded
    by a smaller radius, one without a radius.

    Raises:
        ValueError: a negative radius.
        Unmeasured: no images; an image that nothing felled has no row of one of the attacks.
    """
    return share(standing(evaluation, norm, eps, attacks))


def average_accuracy(
    evaluation: Evaluation, norm: Norm, radii: Sequence[float] | None = None, *, clean: bool = True
) -> Measure:
    """The mean over radii of `robust_accuracy`: MMA's AvgAcc, and without the clean accuracy its AvgRobAcc.

    norm   of the radii
    radii  by default those of the table's bounded attacks of this norm; MMA's are 4, 8, ..., 32 of 255 for Linf on
           CIFAR-10
    clean  count the clean accuracy as one more radius, 0 (default; AvgAcc). False: AvgRobAcc

    Each image has the share of the radii at which it stands, and the interval is the bootstrap over images.

    Reference: Gavin Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space
    margin maximization through adversarial training", ICLR 2020, section 4.

    Raises:
        Unmeasured: no radii; as for `robust_accuracy`.
    """
    chosen = radii_of(evaluation, norm) if radii is None else list(radii)
    if not chosen:
        raise Unmeasured(f"an average over radii needs bounded attacks in {norm}; the table has none")
    stood = [standing(evaluation, norm, eps) for eps in chosen]
    if clean:
        stood.append(~rows(evaluation).wrong)
    return bootstrap(np.mean(stood, axis=0), kind="share")


def radii_of(evaluation: Evaluation, norm: Norm) -> list[float]:
    """The radii of the bounded attacks in this norm, rising."""
    return sorted(eps for name, eps in threats(evaluation) if name == repr(norm))


def met(evaluation: Evaluation) -> list[str]:
    """The attacks that the images met, and those that had none left to meet."""
    return list(rows(evaluation).attacks)


def threats(evaluation: Evaluation) -> dict[tuple[str, float], list[str]]:
    """The bounded attacks, by what they were allowed: (norm, eps)."""
    found: dict[tuple[str, float], list[str]] = {}
    for name in _bounded(evaluation):
        attack = rows(evaluation)[name]
        if attack.norm is not None:
            found.setdefault((attack.norm, attack.eps), []).append(name)
    return found


def standing(evaluation: Evaluation, norm: Norm, eps: float, attacks: Sequence[str] | None = None) -> np.ndarray:
    """The images, in order, for which nothing in the table lies within `eps`; see `robust_accuracy`."""
    if not eps >= 0:
        raise ValueError(f"eps is a radius, at least 0; got {eps}")
    found = rows(evaluation)
    chosen = found.chosen(attacks)
    fallen = found.fallen(repr(norm), eps, chosen)
    spared = np.any([attack.spared for attack in chosen], axis=0) if chosen else False
    return ~(fallen | (spared & found.fallen(repr(norm), eps, found.attacks.values())))


def right(attack: Attacked) -> np.ndarray:
    """The images, in order, that are right before the attack and, where they met it, after it."""
    return ~attack.wrong & ~attack.found


def _bounded(evaluation: Evaluation) -> list[str]:
    return [name for name, attack in rows(evaluation).attacks.items() if attack.bounded]
