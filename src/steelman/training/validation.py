"""What is measured after every epoch."""

from dataclasses import dataclass

from torch import nn

from steelman.attacks.core.attack import Attack
from steelman.attacks.minimal.an_pgd import ANPGD
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.data.dataset import Dataset
from steelman.data.sample import sampled
from steelman.networks.preprocess import Preprocessed


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
        from steelman.evaluation import evaluate
        from steelman.measures import accuracy, mean_margin, rho_2

        line: dict[str, float] = {}
        if self.validation is not None:
            wanted = {"robust": self.monitor, "generated": own}
            attacks = {name: attack for name, attack in wanted.items() if attack is not None}
            table = evaluate(model, self.validation, attacks, seed=self.seed, progress=False)
            line["clean"] = accuracy(table, "clean").value
            line |= {name: accuracy(table, name).value for name in attacks}
            if isinstance(self.monitor, ANPGD):
                line["margin"] = mean_margin(table, self.monitor.norm, self.monitor.eps_max).value
        if self.test is not None and self.test_images:
            some = sampled(self.test, self.test_images)
            away = {"rho_2": DeepFool(steps=5, box=None, reference="prediction")}
            space = "preprocessed" if isinstance(model, Preprocessed) else "pixels"
            table = evaluate(model, some, away, seed=self.seed, space=space, progress=False)
            line["test_clean"] = accuracy(table, "clean").value
            line["test_rho_2"] = rho_2(table, "rho_2").value
        return line
