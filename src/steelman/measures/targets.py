"""Best, average and worst case over the targets of an attack that was run towards every wrong class."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np

from steelman.measures.measure import Measure, Unmeasured, mean, share
from steelman.measures.rows import Rows, rows
from steelman.norms import Norm
from steelman.table.records import Record
from steelman.table.table import Evaluation

Case: TypeAlias = Literal["best", "average", "worst"]
"""The easiest target of each image; all pairs of an image and a target; the hardest target of each image."""

NAME = re.compile(r"(.+), target \+\d+")


@dataclass(frozen=True, eq=False)
class OverTargets:
    """Sizes and successes of an attack by image (rows) and target (columns), of images that are right unattacked."""

    attack: str
    norm: str
    size: np.ndarray
    success: np.ndarray

    def successes(self, case: Case) -> np.ndarray:
        """By image: whether any target is reached, the share of targets, or whether all are."""
        return {"best": self.success.any, "average": self.success.mean, "worst": self.success.all}[case](axis=1)

    def sizes(self, case: Case) -> np.ndarray:
        """By image: the smallest size that succeeded, the sum of those, or the largest; failures count 0."""
        if case == "best":
            nearest = np.where(self.success, self.size, np.inf).min(axis=1)
            return np.where(np.isfinite(nearest), nearest, 0.0)
        found = np.where(self.success, self.size, 0.0)
        return found.sum(axis=1) if case == "average" else found.max(axis=1)


def is_towards(record: Record) -> bool:
    """Whether an attack has a target that follows from the label."""
    return record.kind.endswith(":Towards")


def over_targets(evaluation: Evaluation, attack: str, norm: Norm | None = None) -> OverTargets:
    """What "ATTACK, target +1", "ATTACK, target +2" and so on did to each image.

    norm  in which sizes are taken; default the attack's own, or L2

    Raises:
        Unmeasured: no such attacks, images that one of them skipped, no image that is right unattacked.
    """
    table = rows(evaluation)
    names = groups(table).get(attack, [])
    if not names:
        raise Unmeasured(f"the table has no attack {attack} towards every wrong class; run `every_target`")
    runs = [table[name].whole() for name in names]
    right = ~runs[0].wrong
    if not right.any():
        raise Unmeasured(f"no image is right unattacked, so {attack} had none to attack")
    label = repr(norm) if norm is not None else runs[0].norm or "L2"
    size, success = (
        np.stack([each[right] for each in found], axis=1)
        for found in ([run.size(label) for run in runs], [run.column("success", 0.0) > 0 for run in runs])
    )
    if not np.isfinite(size[success]).all():
        raise Unmeasured(f"a {label} size of {attack} is not finite: the model or the attack overflowed")
    return OverTargets(attack, label, size, success)


def success(evaluation: Evaluation, attack: str) -> Measure:
    """The share of the images that are right unattacked on which an attack succeeds.

    Raises:
        Unmeasured: images that it skipped, no image that is right unattacked.
    """
    run = rows(evaluation)[attack].whole()
    return share((run.column("success", 0.0) > 0)[~run.wrong])


def target_success(evaluation: Evaluation, attack: str, case: Case) -> Measure:
    """The share of images whose easiest target is reached, of pairs of image and target, or of images whose targets all
    are. The interval is over images: the targets of one image are not independent.

    Reference: Nicholas Carlini and David Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017,
    section III-D.
    """
    found = over_targets(evaluation, attack).successes(case)
    return mean(found, kind="share") if case == "average" else share(found)


def target_size(evaluation: Evaluation, attack: str, case: Case, norm: Norm | None = None) -> Measure:
    """The mean size of the perturbations that succeed: of the easiest target of each image, of all pairs, or of the
    hardest target where all are reached. The interval is over images.

    Reference: as for `target_success`.

    Raises:
        Unmeasured: as for `over_targets`; nothing succeeded.
    """
    every = over_targets(evaluation, attack, norm)
    sizes, success = every.sizes(case), every.successes(case)
    if not success.any():
        raise Unmeasured(f"{attack} succeeded on none of {len(success)} images in the {case} case")
    if case != "average":
        return mean(sizes[success.astype(bool)]).over(~success.astype(bool))
    return mean(sizes, weights=every.success.sum(axis=1)).over(~every.success.ravel())


def groups(table: Rows) -> dict[str, list[str]]:
    """The attacks that were run towards several targets, each with their names in the table."""
    found: dict[str, list[str]] = {}
    for name, attack in table.attacks.items():
        if is_towards(attack.record) and (match := NAME.fullmatch(name)):
            found.setdefault(match[1], []).append(name)
    return found


def of_targets(table: Rows) -> Iterator[tuple[str, Callable[[Evaluation], Measure]]]:
    """The measures of every such attack, by name: "best mean L2, NAME", "best success, NAME" and so on."""
    for attack, names in groups(table).items():
        norm = table[names[0]].norm or "L2"
        for case in get_args(Case):
            yield f"{case} mean {norm}, {attack}", partial(target_size, attack=attack, case=case)
            yield f"{case} success, {attack}", partial(target_success, attack=attack, case=case)
