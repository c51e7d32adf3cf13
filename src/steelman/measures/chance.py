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
    """The p-value of the hits that ours alone has, were either as likely: McNemar's exact test, one-sided.

    ours, theirs  by image, whether the prediction is right
    """
    from scipy.stats import binomtest

    alone, others = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(binomtest(alone, alone + others, alternative="greater").pvalue) if alone + others else 1.0
