"""What is measured: one row per attack, with the settings that every library gets."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from steelman.norms import L0, L1, L2, Linf, Norm


@dataclass(frozen=True)
class Row:
    """An attack with its settings. `images` is the most that are attacked; slow attacks get fewer (plan.py)."""

    name: str
    norm: Norm
    bounded: bool
    steps: int = 0
    images: int = 1000
    targeted: bool = False
    reach: float = 1.0
    """Times the network's radius."""
    settings: str = ""
    """What the page says of them."""


@dataclass(frozen=True)
class Job:
    """A row on one batch: what an adapter is called with. `eps` is 0 for minimal attacks."""

    model: nn.Module
    x: Tensor
    y: Tensor
    norm: Norm
    eps: float
    steps: int
    seed: int = 0

    @property
    def step_size(self) -> float:
        """A tenth of the radius, as .01 at .1: with 40 steps, four radii of way."""
        return self.eps / 10

    @property
    def target(self) -> Tensor:
        return (self.y + 1) % 10

    def at(self, some: slice) -> "Job":
        return replace(self, x=self.x[some].clone(), y=self.y[some].clone())


CARLINI_WAGNER = {"search_steps": 5, "c": 1e-2, "step_size": 0.01}
QUERIES = 1000
NORMS = {"L0": L0, "L1": L1, "L2": L2, "Linf": Linf}
THETA, GAMMA = 1.0, 0.15


def _each(name: str, norms: str, bounded: bool, steps: int, settings: str) -> list[Row]:
    return [Row(f"{name} {norm}", NORMS[norm], bounded, steps, settings=settings) for norm in norms.split()]


ROWS = [
    *_each("FGSM", "Linf L2 L1", True, 1, "one step of length eps"),
    *_each("R+FGSM", "Linf", True, 1, "a random corner of eps / 2, then a step of eps / 2"),
    *_each("Fast FGSM", "Linf", True, 1, "a random start, then a step of eps, back into the ball"),
    *_each("BIM", "Linf", True, 10, "10 steps of eps / 10 from the image"),
    *_each("PGD", "Linf", True, 40, "40 steps of eps / 10 from a random start"),
    *_each("PGD", "L2 L1", True, 40, "40 steps of eps / 10 from a random start"),
    *_each("MIM", "Linf L2", True, 10, "10 steps of eps / 10, decay 1"),
    *_each("VAT", "L2", True, 1, "1 power iteration"),
    *_each("APGD-CE", "Linf L2 L1", True, 100, "100 steps, 1 restart"),
    *_each("APGD-DLR", "Linf L2", True, 100, "100 steps, 1 restart"),
    *_each("APGD-T", "Linf L2", True, 50, "50 steps, 9 targets"),
    *_each("Square", "Linf L2", True, QUERIES, f"{QUERIES} queries"),
    *_each("AutoAttack", "Linf L2", True, 100, "standard: APGD-CE, APGD-T, FAB-T, Square with 5,000 queries"),
    *_each("Uniform noise", "Linf", True, 1, "one sample"),
    *_each("Gaussian noise", "L2", True, 1, "one sample, of length eps"),
    Row("Universal Linf", Linf, True, 5, 25, reach=3, settings="3 eps, DeepFool inside, at most 5 epochs, rate .8"),
    *_each("Minimal FGSM", "Linf", False, 1, "the smallest eps along the sign"),
    *_each("DeepFool", "L2 Linf", False, 50, "50 steps, overshoot .02, ten classes"),
    *_each("Carlini-Wagner", "L2", False, 200, "5 search steps of 200, c .01 at first, learning rate .01"),
    *_each("Carlini-Wagner", "Linf L0", False, 200, "200 iterations per constant, learning rate .01"),
    Row("JSMA L0", L0, False, targeted=True, settings=f"theta {THETA:g}, gamma {GAMMA:g}, target label + 1"),
    *_each("L-BFGS", "L2", False, 100, "5 search steps of 100"),
    *_each("Salt and pepper", "L0", False, 100, "100 shares of pixels"),
    *_each("FAB", "Linf L2 L1", False, 20, "20 steps, 1 restart"),
    *_each("FAB-T", "Linf L2", False, 20, "20 steps towards each of 9 targets"),
    *_each("DDN", "L2", False, 100, "100 steps"),
    *_each("FMN", "Linf L2 L1 L0", False, 100, "100 steps"),
    *_each("ALMA", "L2 L1", False, 200, "200 steps"),
    *_each("Sigma-zero", "L0", False, 200, "200 steps"),
    *_each("Boundary", "L2", False, 1000, "1,000 steps"),
    *_each("AN-PGD", "Linf", False, 10, "10 steps in a ball of eps, 10 bisections"),
    *_each("Best of", "L2", False, 50, "DeepFool, DDN and FMN of 50 steps"),
    *_each("Worst of", "Linf", True, 40, "FGSM, then PGD of 40 steps, then APGD of 40, with early leave"),
    *_each("EOT", "Linf", True, 10, "PGD of 10 steps, 4 draws per gradient (of a model that is not random)"),
    *_each("HopSkipJump", "L2 Linf", False, 10, "10 steps, 100 queries at first, 1,000 at most"),
]
