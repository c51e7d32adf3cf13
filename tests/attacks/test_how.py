"""What a record says that an attack goes by, and which attacks are of one family: of attacks, not of their names."""

from dataclasses import dataclass

import pytest
from torch import nn

from made_up import Own
from steelman.adversaries import GAP, L2LDA, PGN, AdvGAN
from steelman.attacks import (
    EOT,
    FAB,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    BestOf,
    DeepFool,
    GaussianNoise,
    HopSkipJump,
    IgnoringFilter,
    Square,
    Surrogate,
    UniformNoise,
    Within,
    WorstOf,
)
from steelman.identity import class_name
from steelman.norms import L2
from steelman.table.records import record_of


@dataclass(frozen=True)
class Drawn(Own):
    """Chance, and no more."""

    access = "decisions"
    chance = True


WHITE = [
    (FGSM(), "FGSM", 0),
    (PGD(steps=3), "PGD", 3),
    (Own(), "Own", 7),
    (L2LDA(), "L2LDA", L2LDA().steps),
    (PGN(), "PGN", 0),
    (EOT(Within(FAB(steps=9), 0.1)), "FAB", 9),
    (EOT(DeepFool(steps=5), reference="prediction"), "DeepFool", 5),
    (EOT(Own(steps=2)), "Own", 2),
    (IgnoringFilter(PGD()), "IgnoringFilter", 0),
    (WorstOf((FGSM(), PGD())), "WorstOf", 0),
    (BestOf((DeepFool(), FAB())), "BestOf", 0),
    (AutoAttack(version="rand"), "AutoAttack", 100),
]
BLACK = [
    (Square(), "Square", 0),
    (HopSkipJump(steps=3), "HopSkipJump", 3),
    (AdvGAN(), "AdvGAN", 0),
    (GAP(), "GAP", 0),
    (Surrogate(PGD(steps=3), nn.Flatten()), "Surrogate", 0),
    (Surrogate(HopSkipJump(), nn.Flatten()), "Surrogate", 0),
    (Surrogate(UniformNoise(), nn.Flatten()), "Surrogate", 0),
    (Surrogate(PGD(), nn.Flatten(), reference="prediction"), "Surrogate", 0),
    (WorstOf((Square(), HopSkipJump())), "WorstOf", 0),
    (WorstOf((Surrogate(PGD(), nn.Flatten()), Square())), "WorstOf", 0),
]
CHANCE = [
    (UniformNoise(), "UniformNoise", 0),
    (EOT(GaussianNoise()), "GaussianNoise", 0),
    (Drawn(), "Drawn", 7),
]
MIXED = [
    (AutoAttack(), "AutoAttack", 100),
    (WorstOf((PGD(), Square())), "WorstOf", 0),
    (EOT(WorstOf((PGD(), Square()))), "WorstOf", 0),
    (WorstOf((PGD(), UniformNoise())), "WorstOf", 0),
    (WorstOf((PGD(), Surrogate(PGD(), nn.Flatten()))), "WorstOf", 0),
    (WorstOf((EOT(AutoAttack()), PGD())), "WorstOf", 0),
]
KINDS = [
    (how, *each)
    for how, found in (("white", WHITE), ("black", BLACK), ("chance", CHANCE), ("mixed", MIXED))
    for each in found
]


@pytest.mark.parametrize(("how", "attack", "core", "steps"), KINDS, ids=[str(attack) for _, attack, *_ in KINDS])
def test_a_record_knows_what_an_attack_goes_by(how: str, attack: Attack, core: str, steps: int) -> None:
    found = record_of("called PGD(steps=99), after Square()", attack)
    assert (found.knowledge, found.core, found.steps) == (how, core, steps)
    assert found.kind == class_name(type(attack))
    assert found.access == attack.access


def test_a_family_differs_in_radius_and_step_length_alone() -> None:
    def family(attack: Attack) -> str:
        return record_of(str(attack), attack).family

    alike = [
        [PGD(eps=0.1), PGD(eps=0.2), PGD(eps=0.2, step_size=0.03)],
        [PGD(eps=0.1, norm=L2), PGD(eps=0.2, norm=L2)],
        [PGD(eps=0.1, steps=7)],
        [Own(), Own(eps=0.3)],
        [Own(steps=8)],
        [EOT(PGD(eps=0.1)), EOT(PGD(eps=0.2))],
        [EOT(PGD(), samples=7)],
        [Within(FAB(radius=0.1), 0.1), Within(FAB(radius=0.2), 0.2)],
        [PGD(eps=0.1, reference="prediction"), PGD(eps=0.2, reference="prediction")],
        [WorstOf((FGSM(eps=0.1), PGD(eps=0.1))), WorstOf((FGSM(eps=0.2), PGD(eps=0.2)))],
    ]
    families = [{family(attack) for attack in some} for some in alike]
    assert [len(each) for each in families] == [1] * len(alike)
    assert len(set.union(*families)) == len(alike)
