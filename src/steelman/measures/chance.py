"""Whether an accuracy is above that of a model that ignores the images."""

import numpy as np

LEVEL = 0.05


def chance_level(label: np.ndarray, classes: int | None = None) -> float:
    """The accuracy of a model that ignores the image: the share of the most frequent class, at least 1 / classes.

    classes  of the data set (default: those that the labels have)
    """
    _, counts = np.unique(label, return_counts=True)
    return max(float(counts.max()) / len(label), 1 / max(classes or len(counts), 1))


def above_chance(right: int, count: int, level: float) -> float:
    """The p-value of so many hits among `count` images or more, were each a hit with probability `level`: one-sided."""
    from scipy.stats import binomtest

    return float(binomtest(right, count, level, alternative="greater").pvalue) if level < 1 else 1.0


def more_hits(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The p-value of the hits that ours alone has, were either as likely: McNemar's test by mid-p, one-sided.

    ours, theirs  by image, whether the prediction is right
    """
    return mid_p(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), two_sided=False)


def mid_p(more: int, less: int, *, two_sided: bool = True) -> float:
    """The probability of a more uneven split of a fair coin's throws, and half of that of one as uneven; 1 of none.

    two_sided  uneven in either direction (default); False: towards `more`

    Reference: as for `Paired`.
    """
    from scipy.special import bdtr, bdtrc

    throws = more + less
    if not throws:
        return 1.0
    fewer = min(more, less)
    at_most, below = (float(bdtr(k, throws, 0.5)) if k >= 0 else 0.0 for k in (fewer, fewer - 1))
    if not two_sided:
        beyond = float(bdtrc(more, throws, 0.5))
        return beyond + (at_most - below) / 2
    return at_most + below if more != less else 1 - (at_most - below) / 2
