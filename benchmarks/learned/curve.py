"""The points of PGN's robustness curve: rho_cw against clean accuracy, one for each classifier that was trained."""

from typing import Any

from benchmarks.learned.networks import Networks, name

from steelman import CarliniWagner
from steelman.data.dataset import Dataset
from steelman.evaluation import evaluate
from steelman.measures import clean_accuracy, rho_cw

SWEEP = (
    *(
        ("naive", 0.0),
        ("FGM", 1.0),
        ("PGD", 1.0),
        ("PGN", 0.2),
        ("PGN", 0.05),
        ("PGN", 1.0),
        ("PGN", 0.1),
        ("PGN", 0.5),
    ),
    *(("FGM", 0.5), ("PGD", 0.5), ("PGN", 2.0), ("FGM", 1.5), ("PGD", 1.5), ("PGN", 0.3), ("PGN", 0.7), ("PGN", 1.5)),
)
"""Methods with their radii, and of PGN c, a hundredth of 5 to 200: an image of MNIST is about ten times as far from its
boundary as one of CIFAR, and c goes with the square. What teaches most comes first."""


def point(networks: Networks, test: Dataset, few: Dataset, method: str, strength: float) -> dict[str, Any]:
    """Clean accuracy of all test images, rho_cw of a few."""
    net = networks.classifier(method, strength)
    attack = {"C&W": CarliniWagner(steps=100, search_steps=5)}
    table = evaluate(net, few, attack, progress=False)
    mean = rho_cw(table, "C&W")
    median = rho_cw(table, "C&W", "median")
    clean = clean_accuracy(evaluate(net, test, {}, progress=False))
    return {
        "method": method,
        "strength": strength,
        "name": name(method, strength),
        "rho_cw": mean.value,
        "rho_cw interval": [mean.low, mean.high],
        "failures": mean.failures,
        "median": median.value,
        "clean": clean.value,
        "clean interval": [clean.low, clean.high],
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "images": table.images,
    }
