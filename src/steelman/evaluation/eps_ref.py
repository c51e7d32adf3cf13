"""The radius against which Deep Defense compares models."""

import torch

from steelman.attacks import FGSM
from steelman.data.dataset import Data
from steelman.evaluation.evaluation import batches_of
from steelman.evaluation.task import answers, space_of
from steelman.forward import answer_of
from steelman.losses import CrossEntropy, Loss
from steelman.norms import Linf
from steelman.table.places import Space
from steelman.types import Model


def reference_epsilon(
    model: Model,
    dataset: Data,
    *,
    space: Space = "pixels",
    loss: Loss = CrossEntropy(),  # noqa: B008 (frozen)
    batch_size: int = 250,
    tolerance: float = 1e-4,
) -> float:
    """eps_ref: the smallest radius at which FGSM leaves at most half of the images correct.

    FGSM's direction is fixed, so only its length is searched: by doubling or halving until half is crossed, then by
    bisection to a relative `tolerance`; FGSM at the returned radius is past the half. An image that is misclassified
    unattacked is so at every radius. In the preprocessed space nothing is clipped. `loss` is FGSM's.

    The error need not grow with the radius; where it crosses one half twice within a factor of two, the bisection finds
    one of the crossings.

    Cost: one gradient pass, and about 25 forward passes.
    Reference: Ziang Yan, Yiwen Guo and Changshui Zhang, "Deep Defense: training DNNs with improved adversarial
    robustness", NeurIPS 2018, table 1.

    Raises:
        ValueError: half of the images are misclassified without any attack, or fewer with the longest step; a tolerance
            below 1e-9, which bisection in double precision might never reach.
    """
    if not tolerance >= 1e-9:
        raise ValueError(f"tolerance is relative, and at least 1e-9; got {tolerance}")
    box = (0.0, 1.0) if space == "pixels" else None
    with space_of(model, space) as (preprocess, network):
        held, count = [], 0
        for batch in batches_of(dataset, batch_size)[0]:
            x = preprocess(batch.x)
            right = answers(network, x, batch.y)[0] == batch.y
            count += len(batch)
            if bool(right.any()):
                x, y = x[right], batch.y[right]
                direction = (FGSM(eps=1.0, loss=loss, box=None)(network, x, y) - x).sign()
                held.append((x, direction.to(torch.int8), y))

        def broken(eps: float) -> bool:
            with torch.no_grad():
                # bit for bit what `FGSM(eps)` returns
                moved = ((Linf.contain(x, x + sign.to(x.dtype) * eps, eps, box), y) for x, sign, y in held)
                correct = sum(int((answer_of(network, x_adv).argmax(1) == y).sum()) for x_adv, y in moved)
            return 2 * correct <= count

        if broken(0.0):
            raise ValueError("the model misclassifies half of the images without any attack, so eps_ref is 0")
        longest = 1.0 if box else 2 * max(float(x.abs().max()) for x, _, _ in held)
        high = longest / 16
        while not broken(high):
            if high >= longest:
                raise ValueError(f"FGSM breaks less than half of the images even at eps {high:g}: there is no eps_ref")
            high *= 2
        while broken(high / 2):
            high /= 2
        low = high / 2
        while high > low * (1 + tolerance):
            middle = (low + high) / 2
            low, high = (low, middle) if broken(middle) else (middle, high)
        return high


def reference_attacks(epsilon: float) -> dict[str, FGSM]:
    """FGSM at 0.2, 0.5 and 1.0 of eps_ref: Deep Defense's three columns, for `evaluate`."""
    return {f"FGSM({share} eps_ref)": FGSM(eps=share * epsilon) for share in (0.2, 0.5, 1.0)}
