"""What is measured after every epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.mode import evaluation_mode
from steelman.attacks.minimal.an_pgd import ANPGD
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.data.dataset import Dataset
from steelman.data.sample import sampled
from steelman.defences.objective import Objective
from steelman.networks.preprocess import Preprocessed
from steelman.norms import L0, L1, L2, Linf
from steelman.randomness import combine

Space = Literal["pixels", "preprocessed"]
AT_ONCE = 250
GUARD = 1e-12
"""As in `measures.distances`."""


SHORT = {
    "clean": "clean",
    "robust": "robust",
    "generated": "generated",
    "test_clean": "test",
    "test_rho_2": "rho_2",
    "held_out": "held out",
}
"""What the progress bar calls the numbers that are measured after an epoch."""


class _Result(NamedTuple):
    correct: Tensor
    success: Tensor
    size: Tensor


@dataclass(frozen=True)
class Validation:
    """Accuracies on held-out images ("clean", "robust", and "generated": under the attack that a game's networks are
    by now), and on test images for curves ("test_clean", "test_rho_2").

    With ANPGD as monitor also the mean "margin" of held-out images, 0 where wrong and eps_max where nothing is found.
    Only what is held out may choose a checkpoint. rho_2 is Deep Defense's: DeepFool of 5 steps, unclipped, in the
    preprocessed space, away from the prediction.
    """

    validation: Dataset | None
    monitor: Attack | None
    test: Dataset | None
    test_images: int
    seed: int

    def __call__(self, model: nn.Module, own: Attack | None = None) -> dict[str, float]:
        line: dict[str, float] = {}
        if self.validation is not None:
            wanted = {"robust": self.monitor, "generated": own}
            attacks = {name: attack for name, attack in wanted.items() if attack is not None}
            clean, results, _ = self._attacked(model, self.validation, attacks)
            line["clean"] = _mean(clean)
            line |= {name: _mean(clean & result.correct) for name, result in results.items()}
            if isinstance(self.monitor, ANPGD):
                found = results["robust"]
                margin = torch.where(found.success, found.size, self.monitor.eps_max).clamp(max=self.monitor.eps_max)
                line["margin"] = _mean(torch.where(clean, margin, 0.0))
        if self.test is not None and self.test_images:
            away = {"rho_2": DeepFool(steps=5, box=None, reference="prediction")}
            space = "preprocessed" if isinstance(model, Preprocessed) else "pixels"
            clean, results, length = self._attacked(model, sampled(self.test, self.test_images), away, space)
            line["test_clean"] = _mean(clean)
            if results["rho_2"].success.any():  # else its sizes, often 0, are no distances
                line["test_rho_2"] = _mean(results["rho_2"].size / (length + GUARD))
        return line

    def held_out(self, model: nn.Module, objective: Objective | None) -> dict[str, float]:
        """The mean on held-out images of the objective of a network that does not classify, where it has one."""
        if self.validation is None or objective is None:
            return {}
        total = 0.0
        with torch.no_grad(), evaluation_mode(model):
            for batch in self.validation.batches(torch.arange(len(self.validation)).split(AT_ONCE)):
                assert batch.index is not None
                seeds = combine(torch.full_like(batch.index, self.seed), batch.index)
                total += float(objective(model, replace(batch, seeds=seeds))) * len(batch)
        return {"held_out": total / len(self.validation)}

    def _attacked(
        self, model: nn.Module, images: Dataset, attacks: Mapping[str, Attack], space: Space = "pixels"
    ) -> tuple[Tensor, dict[str, _Result], Tensor]:
        """Whether images are correct without an attack, what each attack found, and the images' lengths in L2.

        The numbers are those of `evaluate`, with the same noise; no table is made, which would need more packages.
        """
        from steelman.evaluation.task import answers, seeds_of, space_of

        parts: list[tuple[Tensor, dict[str, _Result], Tensor]] = []
        parameter = next(model.parameters(), None)
        with space_of(model, space) as (preprocess, network):
            for batch in images.batches(torch.arange(len(images)).split(AT_ONCE)):
                x, y = (each if parameter is None else each.to(parameter.device) for each in (batch.x, batch.y))
                x = preprocess(x)
                found = {}
                for name, attack in attacks.items():
                    seeds = seeds_of(self.seed, attack.noise or name, batch.index)
                    result = attack.run(network, x, y, generator=seeds)
                    size = {L0: result.l0, L1: result.l1, Linf: result.linf}.get(getattr(attack, "norm", L2), result.l2)
                    found[name] = _Result(result.prediction == y, result.success, size)
                parts.append((answers(network, x, y)[0] == y, found, L2.size(x.double())))
        clean, found, length = zip(*parts, strict=True)
        results = {
            name: _Result(*map(torch.cat, zip(*(each[name] for each in found), strict=True))) for name in attacks
        }
        return torch.cat(clean), results, torch.cat(length)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def shown(numbers: dict[str, float]) -> str:
    """Named numbers on the progress bar."""
    return "".join(f"  {name} {number:.4f}" for name, number in numbers.items())
