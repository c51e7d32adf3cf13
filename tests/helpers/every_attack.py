"""Every attack, in one table. A later attack is one more line of ATTACKS."""

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import Another, Same
from generated import learnt
from steelman.adaptive import Adaptive
from steelman.adversaries import GAP, L2LDA, PGN, AdvGAN
from steelman.attacks import (
    ALMA,
    ANPGD,
    APGD,
    DDN,
    EOT,
    FAB,
    FGSM,
    FMN,
    JSMA,
    LBFGS,
    MIM,
    PGD,
    AutoAttack,
    BestOf,
    BoundaryAttack,
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    CascadeAttack,
    DeepFool,
    GaussianNoise,
    HopSkipJump,
    Latent,
    MinimalFGSM,
    RandomFGSM,
    SaltAndPepper,
    SigmaNoise,
    SigmaZero,
    SmallestRadius,
    Square,
    Surrogate,
    UniformNoise,
    UniversalPerturbation,
    VirtualAdversarial,
    Within,
    WorstOf,
)
from steelman.losses import DLR, KL, LogitDifference, Margin
from steelman.norms import L0, L1, L2, Linf, Norm


@dataclass(frozen=True)
class Case:
    """An attack, whether it is run with targets, and whether its point is a small norm (it has no eps, nor a price)."""

    attack: Any  # an Attack; Any, since eps, norm and loss belong to subclasses
    targeted: bool = False
    random: bool = False
    """Whether another seed gives other images."""
    priced: bool = False
    """Whether it has no radius, but weighs the size of what it does against what that brings, or is noise of a size."""

    @property
    def minimal(self) -> bool:
        return not (hasattr(self.attack, "eps") or self.priced)

    @property
    def bounded(self) -> bool:
        """Whether it has a radius of its own; attacks made of others have neither, or both."""
        return any(item.name == "eps" for item in fields(self.attack))

    def target(self, y: Tensor, classes: int = 10) -> Tensor | None:
        return (y + 1) % classes if self.targeted else None

    def __repr__(self) -> str:
        return f"{self.attack}{' targeted' if self.targeted else ''}"


_SHORT = {"steps": 25, "search_steps": 2, "c": 2.0, "step_size": 0.15}
_BARE = {"delta": False, "label": False, "width": 2}
_ROUNDS = {"steps": 10, "step_size": 0.05, "c": 0.1, "c_factor": 10.0, "c_max": 100.0}

ATTACKS = [
    Case(FGSM(eps=0.1)),
    Case(FGSM(eps=0.1), targeted=True),
    Case(FGSM(eps=0.5, norm=L2)),
    Case(FGSM(eps=1.5, norm=L1)),
    Case(PGD(eps=8 / 255), random=True),
    Case(PGD(eps=1 / 3, random_start=False)),
    Case(PGD(eps=0.1), targeted=True, random=True),
    Case(PGD(eps=0.5, norm=L2), random=True),
    Case(PGD(eps=1.5, norm=L1), random=True),
    Case(PGD(eps=3.0, norm=L0), random=True),
    Case(PGD(eps=0.1, loss=Margin(50.0)), random=True),
    Case(PGD(eps=0.1, loss=DLR()), random=True),
    Case(PGD(eps=0.1, loss=DLR()), targeted=True, random=True),
    Case(PGD(eps=0.1, loss=KL()), random=True),
    Case(PGD(eps=0.1, loss=KL(), normal_start=0.001), random=True),
    Case(PGD(eps=0.1, steps=4, restarts=2), random=True),
    Case(PGD(eps=0.1, keep_best=True), random=True),
    Case(PGD(eps=0.1, stop_early=True), random=True),
    Case(PGD(eps=0.5, norm=L2, restarts=2, keep_best=True, stop_early=True), targeted=True, random=True),
    Case(PGD(eps=0.05, steps=4, targets=3, loss=LogitDifference(), stop_early=True), random=True),
    Case(PGD(eps=1.5, norm=L1, steps=4, restarts=2, targets=2, parallel_restarts=3), random=True),
    Case(FGSM(eps=3.0, norm=L0)),
    Case(RandomFGSM(eps=0.2), random=True),
    Case(RandomFGSM(eps=0.2), targeted=True, random=True),
    Case(MIM(eps=0.1)),
    Case(MIM(eps=0.1, stop_early=True), targeted=True),
    Case(MIM(eps=0.5, norm=L2)),
    Case(VirtualAdversarial(), random=True),
    Case(VirtualAdversarial(eps=1.0, iterations=3), random=True),
    Case(MinimalFGSM()),
    Case(MinimalFGSM(norm=L2, eps_max=5.0), targeted=True),
    Case(MinimalFGSM(norm=L1, eps_max=24.0)),
    Case(ANPGD(radius=0.1), random=True),
    Case(ANPGD(radius=0.5, eps_max=5.0, norm=L2), targeted=True, random=True),
    Case(APGD(eps=0.1, steps=10), random=True),
    Case(APGD(eps=0.1, steps=6, loss=DLR(), targets=3, stop_early=True), random=True),
    Case(APGD(eps=0.5, norm=L2, steps=8, restarts=2), targeted=True, random=True),
    Case(APGD(eps=1.5, norm=L1, steps=10, multi_eps=True), random=True),
    Case(APGD(eps=0.1, steps=6, loss=Margin(), adi=3, restarts=2), random=True),
    Case(APGD(eps=0.5, norm=L2, steps=5, loss=LogitDifference(), targets=2, order="linearised", adi=2), random=True),
    Case(Square(eps=0.1, queries=40), random=True),
    Case(Square(eps=0.5, norm=L2, queries=60, restarts=2, stop_early=False), random=True),
    Case(Square(eps=0.1, queries=40), targeted=True, random=True),
    Case(DeepFool()),
    Case(DeepFool(), targeted=True),
    Case(DeepFool(norm=Linf)),
    Case(DeepFool(norm=L1)),
    Case(DeepFool(p=3.0)),
    Case(UniversalPerturbation(eps=0.3, epochs=2, minibatch=5)),
    Case(UniversalPerturbation(eps=1.5, norm=L2, epochs=2), targeted=True),
    Case(FAB(steps=8)),
    Case(FAB(norm=L2, steps=8), targeted=True),
    Case(FAB(norm=L1, steps=4, targets=2)),
    Case(FAB(norm=L2, steps=3, restarts=3), random=True),
    Case(CarliniWagner(**_SHORT)),
    Case(CarliniWagner(**_SHORT, confidence=0.5)),
    Case(CarliniWagner(**_SHORT, abort_early=False), targeted=True),
    Case(CarliniWagner(**_SHORT, warm_start=False, objective="f5", encoding="projected")),
    Case(CarliniWagnerLinf(**_ROUNDS)),
    Case(CarliniWagnerLinf(**_ROUNDS), targeted=True),
    Case(CarliniWagnerL0(**_ROUNDS)),
    Case(CarliniWagnerL0(**_ROUNDS), targeted=True),
    Case(LBFGS(steps=6, search_steps=2)),
    Case(LBFGS(steps=6, search_steps=2), targeted=True),
    Case(BoundaryAttack(steps=60, starts=3), random=True),
    Case(HopSkipJump(steps=2, evaluations=12, starts=3), random=True),
    Case(HopSkipJump(norm=Linf, steps=2, evaluations=12, starts=3, tries=100), targeted=True, random=True),
    Case(WorstOf((FGSM(eps=0.05), PGD(eps=0.1, steps=5))), random=True),
    Case(BestOf((DeepFool(), CarliniWagner(**_SHORT)))),
    Case(Within(FAB(steps=4, radius=0.1), eps=0.1)),
    Case(Within(DDN(steps=20), eps=1.0), targeted=True),
    Case(AutoAttack(eps=0.1, steps=5, queries=15), random=True),
    Case(CascadeAttack(eps=0.1, steps=4), random=True),
    Case(CascadeAttack(eps=0.5, norm=L2, steps=3), targeted=True, random=True),
    Case(AutoAttack(eps=0.5, norm=L2, steps=4, queries=10), targeted=True, random=True),
    Case(EOT(PGD(eps=0.1, steps=5), samples=2), random=True),
    Case(Surrogate(PGD(eps=0.5, steps=5), Another(0)), random=True),
    Case(Adaptive(PGD(eps=0.1, steps=5), attempts=2), random=True),
    Case(Latent(None, Same(), Same(), steps=25, search_steps=2, lr=0.1, c=2.0)),
    Case(Within(Latent(None, Same(), Same(), steps=25, search_steps=2, lr=0.1, c=2.0, radius=1.0), eps=1.0)),
    Case(Latent(DDN(steps=20, box=None), Same(), Same()), targeted=True),
    Case(SmallestRadius(PGD(steps=4), eps_max=0.5), random=True),
    Case(SmallestRadius(PGD(norm=L2, random_start=False), eps_max=4.0), targeted=True),
    Case(DDN(steps=30)),
    Case(DDN(steps=30), targeted=True),
    Case(JSMA()),
    Case(JSMA(theta=-0.5, pair=False)),
    Case(JSMA(of="softmax", both=True), targeted=True),
    Case(GaussianNoise(eps=2.0, samples=4), random=True),
    Case(GaussianNoise(eps=1.0, rescale=True), targeted=True, random=True),
    Case(UniformNoise(eps=0.4, samples=4), random=True),
    Case(UniformNoise(eps=3.0, norm=L1), targeted=True, random=True),
    Case(SigmaNoise(sigma=0.3, samples=4), random=True, priced=True),
    Case(SaltAndPepper(samples=20), random=True),
    Case(FMN(steps=20)),
    Case(FMN(norm=Linf, steps=20), targeted=True),
    Case(FMN(norm=L1, steps=20)),
    Case(FMN(norm=L0, steps=20)),
    Case(SigmaZero(steps=20)),
    Case(SigmaZero(steps=20), targeted=True),
    Case(ALMA(steps=25)),
    Case(ALMA(norm=L1, steps=60), targeted=True),
    Case(learnt(L2LDA(steps=3, width=2)), random=True),
    Case(learnt(L2LDA(eps=0.2, steps=2, width=2, samples=2)), random=True),
    Case(learnt(L2LDA(steps=1, step_size=0.3, diversity=0.0, latent=0, normalise="none", **_BARE))),  # L2L*
    Case(learnt(AdvGAN(eps=0.2, width=2))),
    Case(learnt(GAP(eps=0.2, width=2, blocks=1))),
    Case(learnt(PGN(norm_weight=0.1, width=2, hidden=4)), priced=True),
    Case(learnt(PGN(norm_weight=0.01, image=False, label=False, width=2, hidden=4)), priced=True),
]

OPTIMA: list[Case] = [
    Case(CarliniWagner(steps=200, search_steps=5)),
    Case(CarliniWagner(steps=100, search_steps=5, c=1e-1, step_size=5e-3), targeted=True),
    Case(CarliniWagnerLinf(steps=50, c=0.01, c_factor=10.0)),
    Case(CarliniWagnerLinf(steps=50, c=0.01, c_factor=10.0), targeted=True),
    Case(CarliniWagnerL0(steps=50, c=0.1, c_factor=10.0, c_max=1e3, step_size=0.05)),
    Case(LBFGS(steps=20, search_steps=6)),
    Case(LBFGS(steps=20, search_steps=6), targeted=True),
    Case(DeepFool()),
    Case(DeepFool(), targeted=True),
    Case(DeepFool(norm=Linf)),
    Case(DeepFool(norm=L1)),
    Case(FGSM(eps=0.2)),
    Case(FGSM(eps=0.6, norm=L2)),
    Case(FGSM(eps=2.0, norm=L1)),
    Case(FGSM(eps=3.0, norm=L0)),
    Case(PGD(eps=0.2)),
    Case(PGD(eps=0.6, norm=L2, steps=60, step_size=0.3)),
    Case(PGD(eps=2.0, norm=L1)),
    Case(PGD(eps=0.1, targets=9, loss=LogitDifference())),
    Case(PGD(eps=0.6, norm=L2, steps=60, step_size=0.3, targets=9, loss=LogitDifference())),
    Case(PGD(eps=2.0, norm=L1, targets=9, loss=LogitDifference(), parallel_restarts=9)),
    Case(MIM(eps=0.2)),
    Case(MIM(eps=0.6, norm=L2, steps=60, step_size=0.3)),
    Case(JSMA()),
    Case(JSMA(of="softmax", both=True)),
    Case(BoundaryAttack(steps=1000), targeted=True),
    Case(HopSkipJump(steps=15), targeted=True),
    Case(HopSkipJump(norm=Linf, steps=40, evaluations=200), targeted=True),
    Case(FAB(steps=20)),
    Case(FAB(norm=L2, steps=20)),
    Case(FAB(norm=L2, steps=20), targeted=True),
    Case(FAB(norm=L1, steps=10)),
    Case(FAB(norm=L1, steps=10, targets=9)),
    Case(DDN()),
    Case(DDN(), targeted=True),
    Case(APGD(eps=0.2)),
    Case(APGD(eps=0.5, norm=L2), targeted=True),
    Case(APGD(eps=1.5, norm=L1)),
    Case(APGD(eps=1.5, norm=L1, multi_eps=True)),
    *(
        Case(APGD(eps=eps, norm=norm, loss=LogitDifference(), targets=9))
        for norm, eps in ((Linf, 0.1), (L2, 0.5), (L1, 1.5))
    ),
    *(
        Case(APGD(eps=eps, norm=norm, loss=LogitDifference(), targets=9, order="linearised", adi=7))
        for norm, eps in ((Linf, 0.1), (L2, 0.5), (L1, 1.5))
    ),
    Case(Square(eps=0.2, queries=500, stop_early=False)),
    Case(FMN()),
    Case(FMN(), targeted=True),
    Case(FMN(norm=Linf)),
    Case(FMN(norm=L1)),
    Case(FMN(norm=L0)),
    Case(FMN(norm=L0), targeted=True),
    Case(SigmaZero(steps=50)),
    Case(SigmaZero(steps=50), targeted=True),
    Case(ALMA(steps=100)),
    Case(ALMA(norm=L1, steps=100)),
    Case(ALMA(steps=100), targeted=True),
]
"""Settings strong enough to find the known optimum of affine models: see test_affine.py."""

SETTINGS = list(
    {(type(case.attack), getattr(case.attack, "norm", None), case.random): case for case in reversed(ATTACKS)}.values()
)
"""The first case of each attack and norm, random or not."""

KINDS = [
    Case(PGD(eps=0.1), random=True),
    Case(MIM(eps=0.5, norm=L2), targeted=True),
    Case(DDN(steps=10)),
    Case(JSMA()),
    Case(Square(eps=0.1, queries=20), random=True),
    Case(HopSkipJump(steps=2, evaluations=12, starts=3), random=True),
    Case(WorstOf((FGSM(eps=0.05), PGD(eps=0.1, steps=5))), random=True),
    Case(UniversalPerturbation(eps=0.3, epochs=2, minibatch=5)),
    Case(UniformNoise(eps=0.4, samples=4), random=True),
    Case(learnt(AdvGAN(eps=0.2, width=2))),
]
"""One attack of each kind: bounded, minimal, by a saliency map, by scores, by decisions, of parts, shared, by chance,
learned. What the base class does for all is asked of these."""

every = pytest.mark.parametrize("case", ATTACKS, ids=repr)
one_of_each = pytest.mark.parametrize("case", SETTINGS, ids=repr)
bounded = pytest.mark.parametrize("case", [case for case in SETTINGS if case.bounded], ids=repr)
minimal = pytest.mark.parametrize("case", [case for case in SETTINGS if case.minimal], ids=repr)
each_kind = pytest.mark.parametrize("case", KINDS, ids=repr)
each_bounded_kind = pytest.mark.parametrize("case", [case for case in KINDS if case.bounded], ids=repr)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def size(norm: Norm, x_adv: Tensor, x: Tensor) -> Tensor:
    """Measured by numpy in double precision."""
    rows = (x_adv.double() - x.double()).flatten(1).numpy()
    measure = {Linf: lambda d: abs(d).max(1), L2: lambda d: (d**2).sum(1) ** 0.5, L1: lambda d: abs(d).sum(1)}
    return torch.from_numpy(measure[norm](rows) if norm in measure else (rows != 0).sum(1))
