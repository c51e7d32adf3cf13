"""Training for a flow that has come to rest where the answer is read."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.objective import Objective
from steelman.forward import lent, logits_of
from steelman.losses import cross_entropy
from steelman.networks.filtered import Filtered
from steelman.networks.preprocess import Preprocessed
from steelman.networks.surgery import rehearsal
from steelman.ranges import Factor, Fraction
from steelman.types import Batch, Images, Logits

_TIMES = {"code": (0.75, 1.05), "paper": (1.0, 2.0)}


@dataclass(frozen=True)
class SteadyState(Objective):
    """TisODE's training: cross-entropy, and a penalty on what the flow still moves around the time of the answer.

    CE(x, y) + weight * mean(A), A = integral over [t1, t3] of |f(z(t))|; the mean is over images and entries of z.

    weight  lambda, default .01 (code)
    begin   share of the training before which there is no penalty, default .05 (code: epoch 5 of 100)
    form    "code" (default): [.75, 1.05], around T = 1. "paper": [T, 2T] = [1, 2]
    times   (t1, t3) in place of those of the form; the log that comes with the code has (.9, 1.5)

    The network has the method trajectory(x, t1, t3), which returns logits and A, as `ODENet` does; the paper's is
    ODENet(variant="tisode"), trained on `NoiseMixture(SteadyState())`. The weight is that of the code, whose mean it
    belongs to.
    Paper and code differ in the times. The code integrates [t1, T] twice, and calls f twice a step for |f|: 32 calls;
    here each step is taken once. Since f of these networks ends in a ReLU, |f| = f and A = z(t3) - z(t1): the penalty
    can only be small where f is, as z never falls.
    Broken by: plain gradient attacks, as every network of this family.

    Cost: 1 forward and 1 backward pass up to t3 in place of T: 21 steps of .05 in place of 20 ("paper": 40).
    Reference: Hanshu Yan, Jiawei Du, Vincent Y. F. Tan and Jiashi Feng, "On robustness of neural ordinary differential
    equations", ICLR 2020, section 4.

    Raises:
        ValueError: t1 is not before t3; a network without a trajectory, or whose steps do not meet these times.
    """

    weight: Factor = 0.01
    begin: Fraction = 0.05
    form: Literal["code", "paper"] = "code"
    times: Annotated[tuple[float, float], Ge(0)] | None = None

    def __post_init__(self) -> None:
        if self.times is not None and not self.times[0] < self.times[1]:
            raise ValueError(f"SteadyState needs times with t1 < t3; got {self.times}")

    def setup(self, model: nn.Module, data: Dataset) -> "SteadyState":
        with rehearsal(model, data) as x, torch.no_grad():
            self._along(model, x)  # raises what training would
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.progress < self.begin - 1e-9:  # 5 of 100 epochs may be just below .05 by rounding
            return cross_entropy(logits_of(model, batch.x), batch.y).mean()
        logits, area = self._along(model, batch.x)
        return cross_entropy(logits, batch.y).mean() + self.weight * area.mean()

    def _along(self, model: nn.Module, x: Images) -> tuple[Logits, Tensor]:
        """Logits and A, of a network that may stand behind filters and preprocessing."""
        network, before = model, list[nn.Module]()
        while isinstance(network, Preprocessed | Filtered):
            before.append(network.preprocess if isinstance(network, Preprocessed) else network.filter)
            network = network.network
        trajectory = getattr(network, "trajectory", None)
        if trajectory is None:
            raise ValueError(
                f"SteadyState needs a network with a trajectory, such as ODENet; {type(network).__name__} has none"
            )
        areas: list[Tensor] = []

        def answer(x: Images) -> Logits:
            z = lent(x, model)
            for layer in before:
                z = layer(z)
            logits, area = trajectory(z, *(self.times or _TIMES[self.form]))
            areas.append(area)
            return logits

        return logits_of(answer, x), areas[0]
