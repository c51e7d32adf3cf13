"""What a sample of the images says of the others, and what makes all of them worth the attacks that a sample got."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from steelman.attacks.core import Attack
from steelman.measures.accuracies import still_correct
from steelman.measures.evidence import any_of, is_adaptive
from steelman.measures.rows import Attacked, rows
from steelman.norms import NORMS
from steelman.randomness import combine
from steelman.table.table import Evaluation

SURE = 0.95
SHORT = 200
"""Queries of a Square whose margins are compared with those of gradient attacks: on robust images of unmasked networks
it is rarely ahead (none of 728; of one network 1 in 200), on masked ones often; with more queries it may be on any."""
AHEAD = 1e-3
"""A margin is higher where it is nearer to an error by more than this share."""
FEW = 10
"""So many images, or a fiftieth of those that are left, are too few to doubt the gradients before more is tried."""


@dataclass(frozen=True)
class Audit:
    """An attack that was run on a sample of the images that are right and that nothing in the table has broken.

    attack     its name
    norm, eps  its norm and radius
    standing   so many images there are
    sampled    so many of these it was run on, those with the lowest hashes of their indices, and broke none
    """

    attack: str
    norm: str
    eps: float
    standing: int
    sampled: int

    @property
    def at_most(self) -> int:
        """How many of the standing images would be broken, at most, with a probability of 95 %."""
        return most_unseen(self.standing, self.sampled)

    @property
    def sentence(self) -> str:
        share = f"{100 * self.at_most / self.standing:.1f} %"
        return (
            f"{self.attack} was run on {self.sampled} of the {self.standing:,} images that nothing has broken, drawn "
            f"by chance, and broke none: at most {share} more of these would fall to it (95 %)."
        )


def most_unseen(count: int, sampled: int, sure: float = SURE) -> int:
    """The largest number of images with a property, of `count`, that a sample without any of them still allows.

    That is the largest K with C(count - K, sampled) / C(count, sampled) > 1 - sure: the exact upper end of a one-sided
    interval, by the hypergeometric distribution of a sample drawn without replacement.
    """
    none, found = 1.0, 0
    while found < count - sampled:
        none *= (count - sampled - found) / (count - found)
        if none <= 1 - sure:
            break
        found += 1
    return found


def sample_size(standing: int) -> int:
    """Of so many standing images: all up to 60, then 30, from 350 on 60."""
    return standing if standing <= 60 else 30 if standing < 350 else 60


def in_turn(images: np.ndarray, seed: int) -> np.ndarray:
    """The places of images in the order in which a sample takes them: by a hash of the index, so that images that are
    added or removed change no other's turn."""
    seeds = torch.full((len(images),), seed, dtype=torch.int64)
    return np.argsort(combine(seeds, torch.from_numpy(images), zlib.crc32(b"audit")).numpy(), kind="stable")


def sample_of(evaluation: Evaluation, attack: Attack, before: Iterable[str], seed: int) -> np.ndarray:
    """The indices of the images on which an attack audits others, in order.

    They are of those that the attacks `before` were run on, as far as their norm and radius ask for that, and did not
    break within the attack's: what other attacks in the table did changes no sample, so that an evaluation that goes
    on draws the one that it had drawn.
    """
    assert attack.budget is not None
    table, (norm, eps) = rows(evaluation), (repr(attack.budget[0]), float(attack.budget[1]))
    runs = [table.attacks[name] for name in before]
    standing = ~table.wrong_within(norm, eps, runs)
    for run in runs:
        standing &= run.attacked | ((run.norm, run.eps) != (norm, eps))
    images = table.images[standing]
    return np.sort(images[in_turn(images, seed)[: sample_size(len(images))]])


def audits(evaluation: Evaluation) -> tuple[Audit, ...]:
    """The attacks that were run on a sample alone, each with what that sample says of the other images.

    Of the images that nothing has broken, in the order of the draw, those count that were attacked before the first
    that was not: a sample by chance, also where images were added or broken since.
    """
    table, found = rows(evaluation), []
    for run in table.attacks.values():
        if not run.sampled or run.norm is None or _again(run):
            continue
        standing = still_correct(evaluation, NORMS[run.norm], run.eps)
        images, attacked = table.images[standing], run.attacked[standing]
        attacked = attacked[in_turn(images, run.record.seed)]
        if attacked.any() and not attacked.all():
            found.append(Audit(run.name, run.norm, run.eps, len(images), int(attacked.argmin())))
    return tuple(each for each in found if each.sampled)


def suspicions(evaluation: Evaluation) -> tuple[str, ...]:
    """Why the gradients that a `CascadeAttack` followed may mislead, in sentences; none where nothing says so.

    Of the images that it left: Square broke some that the gradient attacks of its norm and radius before it had left;
    Square with at most 200 queries reached a higher margin than all of these, and than the cascade with all its stages
    where that was tried afterwards; a gradient was zero everywhere.
    """
    found = []
    for cascade, left, there in _cascades(evaluation):
        for square, white, stood in _squares(there, left):
            of = f"of the {int(stood.sum())} images that gradient attacks had left"
            if broken := int((stood & square.broken).sum()):
                found.append(f"{square.name} broke {broken} {of}.")
            elif ahead := int(_ahead(square, white, stood).sum()):
                found.append(f"{square.name} reached a higher margin on {ahead} {of}.")
        if flat := int(_flat(cascade, left).sum()):
            found.append(
                f"A gradient was zero everywhere on {flat} of the {int(left.sum())} images that {cascade.name} left."
            )
    return tuple(found)


def overtaken(evaluation: Evaluation) -> np.ndarray:
    """The indices of the images on which Square's margin is higher than that of gradient attacks, where these are few
    and nothing else is suspicious: more steps and restarts may find the better margin."""
    images, none = rows(evaluation).images, np.array([], int)
    found = np.zeros(len(images), bool)
    for cascade, left, there in _cascades(evaluation):
        for square, white, stood in _squares(there, left):
            ahead = _ahead(square, white, stood)
            if (stood & square.broken).any() or ahead.sum() > max(FEW, stood.sum() / 50):
                return none
            found |= ahead
        if _flat(cascade, left).any():
            return none
    return images[found]


def _cascades(evaluation: Evaluation) -> Iterator[tuple[Attacked, np.ndarray, list[Attacked]]]:
    """Every cascade, the images that it left, and the attacks within its norm and radius."""
    runs = [run for run in rows(evaluation).attacks.values() if run.bounded and not is_adaptive(run.record)]
    for cascade in runs:
        if cascade.record.core == "CascadeAttack" and cascade.attacked.any() and not cascade.sampled:
            there = [run for run in runs if (run.norm, run.eps) == (cascade.norm, cascade.eps)]
            yield cascade, cascade.attacked & ~cascade.wrong & ~cascade.broken, there


def _squares(there: list[Attacked], left: np.ndarray) -> Iterator[tuple[Attacked, list[Attacked], np.ndarray]]:
    """Every Square, the gradient attacks before it, and the images that these left."""
    for place, square in enumerate(there):
        white = [run for run in there[:place] if run.record.knowledge == "white"]
        if square.record.core == "Square" and white:
            yield square, white + [run for run in there[place:] if _again(run)], left & ~any_of(white)


def _ahead(square: Attacked, white: list[Attacked], stood: np.ndarray) -> np.ndarray:
    if (square.record.setting("queries") or 0) > SHORT:
        return np.zeros_like(stood)
    highest = np.fmax.reduce([run.column("margin", np.nan) for run in white])
    higher = square.column("margin", np.nan) > highest + AHEAD * np.abs(highest)  # False where one is not known
    return stood & higher


def _flat(cascade: Attacked, left: np.ndarray) -> np.ndarray:
    return left & (cascade.column("flat", 0.0) > 0)


def _again(run: Attacked) -> bool:
    """Whether it is a cascade that was run once more, on the images on which Square had a higher margin."""
    return run.sampled and run.record.core == "CascadeAttack"
