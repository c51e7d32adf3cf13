"""What docs/streaming.md projects ImageNet from: passes beside a training step, and the passes of `thorough`,
which is what `standard` runs on more than 21 classes.

`OMP_NUM_THREADS=1 python -m benchmarks.projection` times, on one core, a forward pass, a step of PGD (forward, and
backward to the image) and a training step (forward, and backward to image and weights) of ResNet-18 on 224 x 224
images, each the best of five in processor time; and counts the passes of `thorough` for an image of Digits that
stays correct, and for one that is broken, on a network that was trained by PGD. A minute, no data.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from steelman import PGD, AdversarialTraining, Training, evaluate, fit
from steelman.data import Digits
from steelman.evaluation.battery import named_battery
from steelman.networks import MLP, ResNet18

BATCH, TIMES, EPS = 4, 5, 0.1


def best(work: Callable[[], object]) -> float:
    """Processor seconds of the fastest of some calls; the first is not counted."""
    work()
    found = []
    for _ in range(TIMES):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def passes() -> tuple[float, float]:
    """A forward pass and a step of PGD, as parts of a training step."""
    torch.manual_seed(0)
    model, x = ResNet18(shape=(3, 224, 224), classes=1000).train(), torch.rand(BATCH, 3, 224, 224)
    weights = list(model.parameters())

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def attack() -> None:
        image = x.clone().requires_grad_()
        torch.autograd.grad(model(image).logsumexp(1).sum(), image)

    def train() -> None:
        torch.autograd.grad(model(x).logsumexp(1).sum(), weights)

    whole = best(train)
    for each in weights:
        each.requires_grad_(False)
    step = best(attack)
    return best(forward) / whole, step / whole


def thorough() -> dict[str, tuple[float, float]]:
    """Mean forward and backward passes of `thorough` for an image that stays correct, and one that is broken."""
    torch.manual_seed(0)
    train, test = Digits().load("train"), Digits().load("test")
    model = MLP(shape=train.shape, classes=10)
    fit(model, train, AdversarialTraining(PGD(eps=EPS)), Training(epochs=20), progress=False)
    attacks = named_battery("thorough", eps=EPS).attacks
    table = evaluate(model, test.subset(torch.arange(100)), attacks, survivors_only=True, progress=False)
    images, clean = table["image"], table.only("clean")
    wrong = set(clean["image"][clean["prediction"] != clean["label"]])
    broken = set(images[table["success"] & (table["linf"] <= EPS)])
    groups = {"stays correct": set(images) - wrong - broken, "is broken": broken - wrong}
    found = {}
    for name, group in groups.items():
        rows = np.isin(images, list(group))
        found[name] = tuple(float(table[each][rows].sum()) / len(group) for each in ("forwards", "gradients"))
    return found


def main() -> None:
    forward, step = passes()
    print(f"a forward pass is {forward:.3f} of a training step, a step of PGD {step:.3f}")
    for name, (forwards, gradients) in thorough().items():
        print(f"`thorough`, an image that {name}: {forwards:.0f} forward and {gradients:.0f} backward passes")


if __name__ == "__main__":
    main()
