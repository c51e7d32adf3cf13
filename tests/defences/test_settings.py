"""The range of every setting of a defence: its ends, what is beyond them, and the words of the refusal."""

import re
from typing import Any

import pytest

from steelman import (
    AWP,
    DDN,
    FGSM,
    MART,
    MIM,
    MMA,
    PGD,
    TRADES,
    VAT,
    YOPO,
    AdversarialTraining,
    Bilateral,
    CrossLipschitz,
    DeepDefense,
    DeepFool,
    Distillation,
    Free,
    GaussianAugmentation,
    InputGradientRegularisation,
    JacobianRegularisation,
    LabelSmoothing,
    Parseval,
    TradesYOPO,
    UniformAugmentation,
    UniversalPerturbation,
)
from steelman.adversaries import GAP, L2LDA, PGN, AdvGAN
from steelman.losses import KL, CrossEntropy
from steelman.norms import L0, L1

RANGES: dict[type, dict[str, str]] = {
    AWP: {">= 0": "gamma", "in [0, 1]": "warmup"},
    MART: {">= 0": "weight"},
    MMA: {"> 0": "d_max eps_min", ">= 1": "steps bisections", "in [0, 1)": "clean_weight"},
    TRADES: {">= 0": "beta"},
    VAT: {">= 0": "eps weight", ">= 1": "iterations", "> 0": "xi"},
    YOPO: {">= 1": "m n", ">= 0": "eps step_size"},
    TradesYOPO: {">= 1": "m n", ">= 0": "eps step_size beta"},
    AdversarialTraining: {"in [0, 1]": "clean_weight"},
    Bilateral: {"in [0, 1)": "eps_y", "> 0": "beta gamma"},
    CrossLipschitz: {">= 0": "weight", ">= 1": "projections"},
    DeepDefense: {">= 0": "weight c d overshoot damping", ">= 1": "steps", ">= 2": "classes"},
    Distillation: {"> 0": "temperature"},
    Free: {">= 0": "eps step_size", ">= 1": "replays"},
    GaussianAugmentation: {">= 0": "sigma", ">= 1": "copies"},
    InputGradientRegularisation: {">= 0": "weight"},
    JacobianRegularisation: {">= 0": "weight", ">= 1": "projections"},
    LabelSmoothing: {"in [0, 1)": "smoothing"},
    Parseval: {">= 0": "beta", "in (0, 1]": "rows"},
    UniformAugmentation: {">= 0": "eps", ">= 1": "copies"},
    AdvGAN: {
        ">= 0": "eps adv_weight gan_weight norm_weight norm_bound",
        "in [0, 1]": "clean_weight",
        ">= 1": "width",
    },
    GAP: {">= 0": "eps blocks", "in [0, 1]": "clean_weight", ">= 1": "width"},
    L2LDA: {
        ">= 0": "eps step_size latent diversity",
        "in [0, 1]": "clean_weight",
        ">= 1": "steps samples width",
    },
    PGN: {">= 0": "norm_weight", "in [0, 1)": "clean_weight", "> 0": "grad_scale", ">= 1": "width hidden"},
}
OTHERS: dict[str, dict[str, Any]] = {"latent": {"diversity": 0.0}}
"""What else a setting needs at the end of its range."""
COUNTS = {"latent", "blocks"}
"""Whole numbers, as all that are at least 1 or 2."""


def ends(words: str, step: float) -> tuple[list[float], list[float]]:
    """Numbers at the ends of a range, and beyond them."""
    inside, outside = [], []
    for sign, bound in re.findall(r"(>=|>|\[|\(|, )\s*([\d.]+)", words):
        end, down = float(bound), -1 if sign != ", " else 1
        closed = sign in (">=", "[") or (sign == ", " and words.endswith("]"))
        (inside if closed else outside).append(end)
        outside.append(end + down * step)
    return inside, outside


@pytest.mark.parametrize("kind", RANGES, ids=lambda kind: kind.__name__)
def test_every_range_is_held_at_its_ends_and_named(kind: type) -> None:
    for words, name in ((words, name) for words, names in RANGES[kind].items() for name in names.split()):
        count = name in COUNTS or words in (">= 1", ">= 2")
        inside, outside = ends(words, 1 if count else 1e-6)
        for value in map(int if count else float, inside):
            assert getattr(kind(**{name: value, **OTHERS.get(name, {})}), name) == value
        for value in map(int if count else float, outside):
            with pytest.raises(ValueError, match=re.escape(f"{kind.__name__} needs {name} {words}; got {value}")):
                kind(**{name: value})
        for value in () if count else (float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"{kind.__name__} needs {name} finite and .*; got {value}"):
                kind(**{name: value})


CHOICES: dict[type, str] = {
    AdversarialTraining: "crafting",
    Bilateral: "target labels",
    JacobianRegularisation: "root",
    L2LDA: "ratio total normalise",
    MART: "crafting",
    MMA: "crafting",
    TRADES: "crafting",
    YOPO: "variant first_layer_grad",
}


@pytest.mark.parametrize("kind", CHOICES, ids=lambda kind: kind.__name__)
def test_an_unknown_choice_is_refused(kind: type) -> None:
    for name in CHOICES[kind].split():
        method = kind()
        object.__setattr__(method, name, "slide")  # the tests' type checks refuse it as an argument
        with pytest.raises(ValueError, match=f"{kind.__name__} needs {name} to be .*; got 'slide'"):
            method.__post_init__()


def test_settings_that_may_be_infinite() -> None:
    assert DeepDefense(p=1.0).p == 1
    assert DeepDefense(p=float("inf")).p == L2LDA(clip_norm=float("inf")).clip_norm
    for wrong in (0.99, float("nan")):
        with pytest.raises(ValueError, match=f"DeepDefense needs p >= 1; got {wrong}"):
            DeepDefense(p=wrong)
    with pytest.raises(ValueError, match="L2LDA needs clip_norm > 0; got 0"):
        L2LDA(clip_norm=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Free(norm=L1), "Free needs norm=Linf or L2; got L1"),
        (lambda: Free(eps=8.0), r"Free: eps 8 in Linf is larger than the width 1 .* did you mean 8/255\?"),
        (lambda: YOPO(eps=8.0), "YOPO: eps 8 in Linf is larger"),
        (lambda: TradesYOPO(eps=8.0), "TradesYOPO: eps 8 in Linf is larger"),
        (lambda: YOPO(variant="paper", first_layer_grad="hamiltonian"), 'switch of variant="code"; with "paper" leave'),
        (lambda: MMA(norm=L0), "MMA needs norm=Linf or L2 or L1; got L0"),
        (lambda: MMA(d_max=8.0), "eps 8 in Linf is larger"),
        (lambda: MMA(d_max=0.1, eps_min=0.106), r"at most 1\.05 d_max = 0\.105; got 0\.106"),
        (lambda: MMA(loss=CrossEntropy()), "CrossEntropy is never 0"),
        (lambda: MMA(loss=KL()), "KL compares with the clean logits"),
        (lambda: L2LDA(latent=0), "without a latent vector all draws are the same: set diversity=0, or latent"),
        (lambda: PGN(box=None), r"tanh.*needs a box.*\(0\.0, 1\.0\).*None"),
        (lambda: PGN(norm_term_to_classifier=True, detach_adv=True), "reaches the classifier through the gradient"),
        (lambda: PGN(norm_term_to_classifier=True, gradient=False), "reaches the classifier through the gradient"),
        (lambda: TRADES(PGD(random_start=False)), r"no gradient at the clean image: give PGD\(.*\) random_start=True"),
        (lambda: TRADES(PGD(targets=3)), "no targeted form"),
        (lambda: TRADES(FGSM()), "no gradient at the clean image, where FGSM starts; use PGD"),
        (lambda: TRADES(MIM()), "where MIM starts; use PGD"),
        *(
            (lambda kind=kind: kind(UniversalPerturbation()), "UniversalPerturbation finds one answer for all images")
            for kind in (AdversarialTraining, Bilateral, TRADES, MART)
        ),
        *(
            (lambda kind=kind, attack=attack: kind(attack), f"{type(attack).__name__} has no radius: it looks for")
            for kind in (Bilateral, TRADES, MART)
            for attack in (DeepFool(), DDN())
        ),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
