"""The table as measures read it: image by image, with what is known of an image that an attack skipped.

An attack may lack rows (`evaluate(survivors_only=True)`): those of natural errors, which had not to be attacked, and,
where it is bounded, those of images that another attack had broken within its norm and radius: it *skipped* these. An
attack for which no image was left has no row. One that was run on a sample (`audits`) also lacks rows of images that
nothing has broken, which were *not sampled*.

Of a random model, an image counts by the probability of being right, which two sets of answers estimate: the columns
`right` and `again`. The attack that leaves it lowest is chosen by one set, and the other says how low that is; then the
other way round, and the mean of the two counts. The lowest of k noisy shares would be below all k probabilities, the
more so the more attacks there are. What is left is an error upwards where attacks differ by less than ten answers
show, and a smaller one downwards, since draws by which a further attack would raise the mean do not count. An image is
skipped only after an attack under which no answer was right. Flags (`wrong`, `misclassified`, `correct`) are those of
the most frequent answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from steelman.forward import REJECTED
from steelman.measures.measure import Measure, Unmeasured, mean, share
from steelman.naming import nearest
from steelman.table.records import CLEAN, Record
from steelman.table.schema import ROUNDING, misclassified, never_right
from steelman.table.table import Evaluation

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, eq=False)
class Attacked:
    """One attack's rows; `row` is the place in the table of each image's, in order of the images, -1 where none is.

    `wrong` marks natural errors: images that are misclassified unattacked; `hopeless` those among them that are so in
    every answer of a random model. `sampled` says that it was run on a sample of the images that nothing had broken:
    the others of these were not sampled, and no error that it would have found there counts.
    """

    table: "pyarrow.Table"
    record: Record
    row: np.ndarray
    label: np.ndarray
    wrong: np.ndarray
    hopeless: np.ndarray
    sampled: bool = False

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def norm(self) -> str | None:
        return self.record.norm

    @property
    def eps(self) -> float:
        """NaN where the attack has no radius."""
        return float("nan") if self.record.eps is None else self.record.eps

    @property
    def leaves_label(self) -> bool:
        return self.record.reference == "label"

    @property
    def bounded(self) -> bool:
        return self.record.bounded

    @cached_property
    def attacked(self) -> np.ndarray:
        return self.row >= 0

    @cached_property
    def skipped(self) -> np.ndarray:
        """Images that are right unattacked, in one answer at least, and that the attack was not run on."""
        return ~self.attacked & ~self.hopeless

    @cached_property
    def misclassified(self) -> np.ndarray:
        """Images that were attacked and are misclassified after it; to be rejected is no error there."""
        return self.attacked & misclassified(self.column("prediction", -1.0), self.label)

    @cached_property
    def rejected(self) -> np.ndarray:
        """Images that the model rejects after the attack, or unattacked in the rows of those."""
        return self.attacked & (self.column("prediction", 0.0) == REJECTED)

    @cached_property
    def broken(self) -> np.ndarray:
        """Images that were right unattacked and are misclassified after it."""
        return self.misclassified & ~self.wrong

    def broken_in(self, share: float) -> np.ndarray:
        """Images that were right unattacked and are wrong after it in more than this share of a random model's answers;
        of one answer, `broken`."""
        return self.attacked & ~self.wrong & (1 - np.mean(self.shares, axis=0) > share)

    @cached_property
    def changed(self) -> np.ndarray:
        """Images that were attacked and whose prediction changed."""
        return self.attacked & (self.column("prediction", -1.0) != self.column("clean_prediction", -1.0))

    @property
    def correct(self) -> np.ndarray:
        """Images that are right before the attack and, where they were attacked, right or rejected after it."""
        return ~self.wrong & ~self.misclassified

    @cached_property
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the first answers, and of as many further ones, the share that is right; a rejection after an attack is.

        Of one answer, 0 or 1 by the prediction: older tables have other values there for images that are rejected.
        """
        wrong = self.wrong if self.name == CLEAN else self.misclassified
        right, again = self.column("right", 1.0), self.column("again", 1.0)
        one = (right == again) & (right % 1 == 0)
        return np.where(one, ~wrong, right), np.where(one, ~wrong, again)

    def near(self, norm: str, eps: float) -> np.ndarray:
        """Images that were attacked and are at most `eps` from where they were."""
        return self.attacked & (self.size(norm) <= eps * ROUNDING)

    def within(self, norm: str, eps: float) -> np.ndarray:
        """Images that are misclassified after the attack, at most `eps` from where they were."""
        return self.misclassified & self.near(norm, eps)

    def column(self, name: str, missing: float) -> np.ndarray:
        if not len(self.table):
            return np.full(len(self.row), missing)
        values = self.table[name].to_numpy()[self.row]
        return np.where(self.attacked, values, np.asarray(missing, values.dtype))

    def size(self, norm: str) -> np.ndarray:
        """The size of each image's perturbation; 0 where there was none."""
        return self.column(norm.lower(), 0.0)

    def whole(self) -> "Attacked":
        """The same, where no image was skipped.

        Raises:
            Unmeasured: some were, or were not sampled; the message says how many.
        """
        if self.skipped.any():
            right = int((~self.hopeless).sum())
            raise Unmeasured(
                f"{self.name} was run on {right - int(self.skipped.sum())} of the {right} images that are right "
                "unattacked, so it has no numbers of its own; robust accuracy and the worst case count it"
            )
        return self


@dataclass(frozen=True, eq=False)
class Rows:
    """All images and attacks of a table of one space."""

    images: np.ndarray
    label: np.ndarray
    wrong: np.ndarray
    pixels: np.ndarray
    x_l2: np.ndarray
    x_linf: np.ndarray
    clean: Attacked
    attacks: dict[str, Attacked]

    @property
    def random(self) -> bool:
        """Whether any image got different answers."""
        return any((each % 1 > 0).any() for run in (self.clean, *self.attacks.values()) for each in run.shares)

    def __getitem__(self, name: str) -> Attacked:
        if name == CLEAN:
            return self.clean
        if name not in self.attacks:
            raise ValueError(f"no rows of attack {name!r}; {nearest(name, self.attacks)}")
        return self.attacks[name]

    def chosen(self, names: Sequence[str] | None) -> list[Attacked]:
        """The attacks of these names, by default all, once it is sure that the images that they skipped were broken.

        Raises:
            ValueError: there is no such attack.
            Unmeasured: an image that no attack has broken within the attack's norm and radius has no row of it.
        """
        attacks = [self[name] for name in (self.attacks if names is None else names)]
        for attack in attacks:
            if attack.skipped.any():
                if not attack.bounded or attack.norm is None:
                    attack.whole()
                left = attack.skipped & ~self.wrong_within(attack.norm or "", attack.eps, self.attacks.values())
                if left.any() and not attack.sampled:
                    raise Unmeasured(
                        f"{attack.name} was not run on {int(left.sum())} images that no other attack in the table "
                        f"broke within {attack.norm} {attack.eps:.4g} (image {self.images[left][0]}): run it on "
                        "these too"
                    )
        return attacks

    def wrong_within(self, norm: str, eps: float, attacks: Iterable[Attacked]) -> np.ndarray:
        """Images that are wrong unattacked or after one of the attacks, at most `eps` from where they were."""
        return np.logical_or.reduce([self.wrong, *(attack.within(norm, eps) for attack in attacks)])

    def right(self, attacks: Sequence[Attacked] = (), norm: str | None = None, eps: float = np.inf) -> np.ndarray:
        """By image, the probability of being right, unattacked or under the attack that leaves it lowest: 0 or 1 of a
        model that is not random.

        norm, eps  only images that are so near count; default all

        An image that one of the attacks skipped counts under all attacks in the table within its norm and radius.
        """
        counted = {id(attack): np.zeros(len(self.wrong), bool) for attack in self.attacks.values()}
        for attack in attacks:
            counted[id(attack)] |= attack.attacked if norm is None else attack.near(norm, eps)
            if attack.skipped.any():
                where = (attack.norm or "", attack.eps) if norm is None else (norm, eps)
                for other in self.attacks.values():
                    counted[id(other)] |= attack.skipped & other.near(*where)
        found = [self.clean.shares]
        for attack in self.attacks.values():
            if (at := counted[id(attack)]).any():
                first, second = attack.shares
                found.append((np.where(at, first, np.inf), np.where(at, second, np.inf)))
        return lowest(*zip(*found, strict=True))


def lowest(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """By image, the probability in the row where it is lowest, from two independent estimates of each row.

    The row is chosen by one estimate and read from the other, and the other way round; the mean of the two. Of rows
    that are as low, the last: attacks come from weak to strong. Where more rows make the mean over images higher, as
    draws may, those rows do not count: an attack that is added never raises it.
    """
    choosers, readings = [first[0], second[0]], [second[0], first[0]]
    found = np.mean(readings, axis=0)
    for one, other in zip(first[1:], second[1:], strict=True):
        for way, (chooser, reader) in enumerate(((one, other), (other, one))):
            lower = chooser <= choosers[way]
            choosers[way] = np.where(lower, chooser, choosers[way])
            readings[way] = np.where(lower, reader, readings[way])
        further = np.mean(readings, axis=0)
        found = further if further.sum() <= found.sum() else found
    return found


def mean_of(right: np.ndarray) -> Measure:
    """The mean over images of the probability of being right: a share of images where each is 0 or 1.

    The interval is over images and draws, as each image has draws of its own. A model that draws once for all images of
    a call makes it too narrow.

    Raises:
        Unmeasured: no images.
    """
    return share(right == 1) if ((right == 0) | (right == 1)).all() else mean(right, kind="share")


# An evaluation's rows hold its table and not the evaluation, so that they go when it goes.
_CACHE: "WeakKeyDictionary[Evaluation, Rows]" = WeakKeyDictionary()


def rows(evaluation: Evaluation) -> Rows:
    """The table's rows, sorted once."""
    if evaluation not in _CACHE:
        _CACHE[evaluation] = _sorted(evaluation)
    return _CACHE[evaluation]


def _sorted(evaluation: Evaluation) -> Rows:
    table = evaluation.table
    images, first, place = np.unique(evaluation["image"], return_index=True, return_inverse=True)
    label = evaluation["label"][first]
    wrong = evaluation["clean_prediction"][first] != label
    clean = evaluation.only(CLEAN)
    hopeless = wrong.copy()
    if len(clean):
        at = np.searchsorted(images, clean["image"])
        hopeless[at] = never_right(wrong[at], clean["right"], clean["again"])
    codes = table["attack"].combine_chunks().dictionary_encode()
    numbers = {name: number for number, name in enumerate(codes.dictionary.to_pylist())}
    of_row = codes.indices.to_numpy()

    def attacked(record: Record) -> Attacked:
        own = np.flatnonzero(of_row == numbers.get(record.name, -1))
        row = np.full(len(images), -1)
        row[place[own]] = own
        return Attacked(table, record, row, label, wrong, hopeless, record.name in samples)

    samples = {record.name for record in evaluation.records if record.asked == "sample"}
    attacks = {name: attacked(evaluation.record(name)) for name in evaluation.attacks}
    pixels, x_l2, x_linf = (evaluation[name][first] for name in ("pixels", "x_l2", "x_linf"))
    return Rows(images, label, wrong, pixels, x_l2, x_linf, attacked(Record(CLEAN)), attacks)
