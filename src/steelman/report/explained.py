"""What the columns of a table are, in a line each, to stand beside it."""

from collections.abc import Iterable

LINES = {
    "accuracy": "Accuracy under an attack: right before it and after it.",
    "robust accuracy": (
        "Robust accuracy: no attack in the table found an adversarial image within the radius, image by image."
    ),
    "Min": "Min: the lowest accuracy under a single attack, as papers print it; never below the robust accuracy.",
    "worst case": "Worst case: right under every one of these attacks, image by image; never above Min.",
    "AvgAcc": "AvgAcc: mean of the clean accuracy and of the robust accuracy at each radius.",
    "AvgRobAcc": "AvgRobAcc: mean of the robust accuracy at each radius.",
}


def explained(labels: Iterable[str]) -> list[str]:
    """A line for each kind of number among labels such as "Min, Linf 0.1"."""
    kinds = {label.partition(", ")[0].lower() for label in labels}
    return [line for kind, line in LINES.items() if kind.lower() in kinds]
