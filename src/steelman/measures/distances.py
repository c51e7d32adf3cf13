"""Sizes of perturbations: means, medians, and ratios to the image."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from steelman.measures.measure import Measure, Unmeasured, mean, median
from steelman.measures.rows import Attacked, rows
from steelman.norms import Norm
from steelman.table.table import Evaluation

Form: TypeAlias = Literal["paper", "code"]
"""A measure as its paper defines it, or as the authors' code computes it."""

GUARD = 1e-12
"""Added to the image's size, by which a ratio divides."""


def rho_2(evaluation: Evaluation, attack: str | None = None) -> Measure:
    """Deep Defense's robustness: the mean of |delta|_2 / |x|_2 over all images.

    `attack` is a minimal attack with `reference="prediction"`, by default the table's only one in L2. Images that are
    wrong, and those on which the attack did not converge (`failures`), count with what they have, as in the authors'
    code; where it converged on none, what they have says nothing of robustness.

    Reference: Ziang Yan, Yiwen Guo and Changshui Zhang, "Deep Defense: training DNNs with improved adversarial
    robustness", NeurIPS 2018, section 4.

    Raises:
        Unmeasured: there is no such attack, it succeeded on no image, or sizes are not finite.
    """
    run = _some_success(_from_prediction(evaluation, attack, "L2"))
    return mean(_ratio(evaluation, run, "L2"), kind="ratio", failures=_failures(run))


def l_2(evaluation: Evaluation, attack: str | None = None) -> Measure:
    """The mean of |delta|_2 over all images: `rho_2` without its denominator."""
    run = _some_success(_from_prediction(evaluation, attack, "L2"))
    return mean(_sizes(run, "L2"), failures=_failures(run))


def rho_inf(evaluation: Evaluation, attack: str | None = None, *, cap: float | None = None) -> Measure:
    """Deep Defense's robustness to FGSM: the mean of |delta|_inf / |x|_inf over all images.

    attack  a minimal attack with `reference="prediction"`, the paper's being `MinimalFGSM`; by default the table's only
            one in Linf
    cap     |delta|_inf of an image on which the attack failed, a lower bound: by default the largest radius that the
            attack tried, its `eps_max`. Failures are counted beside

    Reference: as for `rho_2`; the paper leaves the search for the radius and its end open.

    Raises:
        ValueError: a cap not above 0.
        Unmeasured: there is no such attack, it failed and has no `eps_max`, or sizes are not finite.
    """
    if cap is not None and not cap > 0:
        raise ValueError(f"cap is a size of perturbations, above 0; got {cap}")
    run = _from_prediction(evaluation, attack, "Linf")
    if _failures(run) and cap is None:
        cap = run.record.setting("eps_max")
        if cap is None:
            raise Unmeasured(f"{run.name} failed on {_failures(run)} images; give cap, with which they count")
    ratios = _ratio(evaluation, run, "Linf", np.where(_success(run), _sizes(run, "Linf"), cap or 0.0))
    return mean(ratios, kind="ratio", failures=_failures(run))


def empirical_robustness(evaluation: Evaluation, attack: str, form: Form = "paper") -> Measure:
    """The mean of |delta| / |x| of any attack.

    form  "paper" (default): L2, over all images. "code": in the attack's own norm where that is Linf, else in L2, and
          over the images whose prediction the attack changed; `failures` counts the others

    Of an attack that changed no prediction there is none: its perturbations, often 0, would read as a model that is not
    robust at all.

    The authors' code lets the attack leave the model's prediction: give it `reference="prediction"` to compare with it.

    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, equation 2.

    Raises:
        Unmeasured: the attack was not run on all images, changed no prediction, or has an L1 norm ("code"), which the
            table does not have of unattacked images.
    """
    check_form(form)
    run = rows(evaluation)[attack].whole()
    if run.bounded and not run.attacked.all():
        raise Unmeasured(
            f"{attack} was run on {int(run.attacked.sum())} of {len(run.attacked)} images, and this is of all"
        )
    changed = run.changed
    if not changed.any():
        raise Unmeasured(f"{attack} changed no prediction, so there is nothing to average over")
    if form == "paper":
        return mean(_ratio(evaluation, run, "L2"), kind="ratio", failures=int((~changed).sum()))
    if run.norm == "L1":
        raise Unmeasured(f'{attack} has an L1 norm, and the table has no |x|_1; form="paper" is in L2')
    ratios = _ratio(evaluation, run, "Linf" if run.norm == "Linf" else "L2")
    return mean(ratios[changed], kind="ratio").over(~changed)


def mean_norm(evaluation: Evaluation, attack: str, norm: Norm | None = None) -> Measure:
    """The mean size of an attack's perturbations, over the images on which it succeeded.

    `norm` is the attack's own by default. Natural errors had not to be attacked and do not count (unless the attack
    left the prediction); `rho_cw` counts them. `count` is of the images that count, `failures` of those among them that
    the attack did not break.

    Raises:
        Unmeasured: no image counts, or none was broken; sizes are not finite.
    """
    return _mean_of_successes(attack, *_attacked(evaluation, attack, norm))


def median_norm(evaluation: Evaluation, attack: str, norm: Norm | None = None) -> Measure:
    """The median size of an attack's perturbations, an image on which it failed being infinitely far.

    The images are those of `mean_norm`.
    """
    return _median(*_attacked(evaluation, attack, norm))


def rho_cw(evaluation: Evaluation, attack: str | None = None, statistic: Literal["mean", "median"] = "mean") -> Measure:
    """PGN's robustness: the mean L2 size of Carlini and Wagner's perturbations, natural errors being successes of
    size 0.

    attack     a minimal attack that leaves the label; by default the table's only `CarliniWagner`
    statistic  "mean" (default; equation 6): over the successes, with failures counted beside. "median": over all
               images, one on which the attack failed being infinitely far

    The paper says "successful examples"; in its code, natural errors are among them, which makes the mean the area
    under the curve of accuracy against norm, where no attack failed.

    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, equation 6.

    Raises:
        ValueError: the statistic is not known.
        Unmeasured: there is no such attack, or none or several to choose from; it broke none of the images that are
            right, so that the mean would be 0, of natural errors alone; sizes are not finite.
    """
    if statistic not in ("mean", "median"):
        raise ValueError(f'statistic is "mean" or "median"; got {statistic!r}')
    table = rows(evaluation)
    if attack is None:
        attack = only(
            [name for name, each in table.attacks.items() if is_carlini_wagner(each)], "rho_cw is of CarliniWagner()"
        )
    run = table[attack].whole()
    if not run.leaves_label:
        raise Unmeasured(f"{attack} left the prediction; rho_cw needs an attack that leaves the label")
    sizes, success = np.where(run.wrong, 0.0, _sizes(run, "L2")), run.wrong | _success(run)
    if statistic == "median":
        return _median(sizes, success)
    if not run.wrong.all() and not success[~run.wrong].any():
        raise Unmeasured(f"{attack} succeeded on none of {int((~run.wrong).sum())} images that are right")
    return _mean_of_successes(attack, sizes, success)


def smallest_norms(evaluation: Evaluation, norm: Norm, attacks: Sequence[str] | None = None) -> np.ndarray:
    """The size in `norm` of each image's smallest known adversarial perturbation, in order of the images.

    The minimum over the rows of `attacks` (default: all) that were misclassified; 0 for natural errors, infinity where
    no adversarial image was found. An image that one of the attacks skipped has the minimum over all.

    Raises:
        Unmeasured: an image that no attack broke has no row of one of the attacks.
    """
    table = rows(evaluation)
    chosen = table.chosen(attacks)
    smallest = np.where(table.wrong, 0.0, np.inf)
    for attack in table.attacks.values():
        size = attack.size(repr(norm))
        near = np.where(attack.misclassified & np.isfinite(size), size, np.inf)
        counts = attack in chosen or np.any([each.skipped for each in chosen], axis=0)
        smallest = np.where(counts, np.minimum(smallest, near), smallest)
    return smallest


def mean_margin(evaluation: Evaluation, norm: Norm, at_most: float, attacks: Sequence[str] | None = None) -> Measure:
    """The mean of `smallest_norms`, none above `at_most`: MMA training chooses its epoch by it, on held-out images.

    Infinite distances count as `at_most`; `failures` are these.

    Raises:
        ValueError: at_most not above 0.
        Unmeasured: as for `smallest_norms`.
    """
    if not at_most > 0:
        raise ValueError(f"at_most is the largest distance that counts, above 0; got {at_most}")
    smallest = smallest_norms(evaluation, norm, attacks)
    return mean(np.minimum(smallest, at_most), failures=int((~np.isfinite(smallest)).sum()), highest=at_most)


def is_carlini_wagner(attack: Attacked) -> bool:
    return attack.record.core == "CarliniWagner" and attack.leaves_label


def check_form(form: str) -> None:
    if form not in ("paper", "code"):
        raise ValueError(f'form is "paper" or "code"; got {form!r}')


def only(names: list[str], what: str) -> str:
    if len(names) != 1:
        raise Unmeasured(f"{what}; " + (f"name one of {', '.join(names)}" if names else "the table has none"))
    return names[0]


def _from_prediction(evaluation: Evaluation, attack: str | None, norm: str) -> Attacked:
    table = rows(evaluation)
    if attack is None:
        own = [name for name, each in table.attacks.items() if not each.leaves_label and each.norm == norm]
        what = {"L2": "rho_2 and l_2 are of DeepFool()", "Linf": "rho_inf is of MinimalFGSM()"}[norm]
        attack = only(own, f'{what}, with reference="prediction"')
    if table[attack].leaves_label:
        raise Unmeasured(f'{attack} left the label; rho_2, l_2 and rho_inf need it with reference="prediction"')
    if not table[attack].attacked.all():
        raise Unmeasured(f"{attack} was not run on all images, and rho_2, l_2 and rho_inf are of all")
    return table[attack]


def _attacked(evaluation: Evaluation, attack: str, norm: Norm | None) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and successes on the images that had to be attacked."""
    run = rows(evaluation)[attack].whole()
    part = ~run.wrong if run.leaves_label else run.attacked
    if not part.any():
        raise Unmeasured(f"no image is right unattacked, so {attack} had none to attack")
    return _sizes(run, repr(norm) if norm is not None else run.norm or "L2")[part], _success(run)[part]


def _sizes(attack: Attacked, norm: str) -> np.ndarray:
    sizes = attack.size(norm)
    if not np.isfinite(sizes).all():
        raise Unmeasured(
            f"the {norm} size of {attack.name} is not finite for {int((~np.isfinite(sizes)).sum())} images: "
            "the model or the attack overflowed there"
        )
    return sizes


def _ratio(evaluation: Evaluation, attack: Attacked, norm: str, sizes: np.ndarray | None = None) -> np.ndarray:
    x = rows(evaluation).x_linf if norm == "Linf" else rows(evaluation).x_l2
    if np.isnan(x).any():
        raise Unmeasured(f"the table lacks the images' size in {norm}: an older version wrote it")
    return (_sizes(attack, norm) if sizes is None else sizes) / (x + GUARD)


def _success(attack: Attacked) -> np.ndarray:
    return attack.column("success", 0.0)


def _failures(attack: Attacked) -> int:
    return int((~_success(attack)).sum())


def _some_success(attack: Attacked) -> Attacked:
    if not _success(attack).any():
        raise Unmeasured(
            f"{attack.name} succeeded on none of {len(attack.attacked)} images: its sizes are no distances"
        )
    return attack


def _mean_of_successes(attack: str, sizes: np.ndarray, success: np.ndarray) -> Measure:
    if not success.any():
        raise Unmeasured(f"{attack} succeeded on none of {len(sizes)} images, so its successes have no mean")
    return mean(sizes[success]).over(~success)


def _median(sizes: np.ndarray, success: np.ndarray) -> Measure:
    return median(np.where(success, sizes, np.inf), failures=int((~success).sum()))
