"""Recipes that say which paper they are from, against that paper's battery and space."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import shipped
from shipped import ALL
from steelman import FGSM, config
from steelman.adversaries import Adversary
from steelman.attacks.core.attack import Attack
from steelman.evaluation.battery import named_battery

BATTERIES = {
    "mma-l2_mnist_madrynet": "paper:mma-l2",
    "pgd-l2_mnist_madrynet": "paper:mma-l2",
    "*mma_*": "paper:mma",
    "pgdls_*": "paper:mma",
    "pgd-ens_*": "paper:mma",
    "pgd-eps0?_*": "paper:mma",
    "*_cnn": "paper:efficient-defenses",
    "*_convresnet": "paper:efficient-defenses",
    "*_mnist_lenet5": "paper:l2l-da",
    "*_cifar10_resnet20": "paper:l2l-da",
    "*_cifar10*_convpool": "paper:pgn",
    "*yopo*": "paper:yopo",
    "p*_mnist_smallcnn": "paper:yopo",
    "pgd-10_cifar10_preactresnet": "paper:yopo",
    "trades_*": "paper:trades",
    "madry-la_*": "paper:bilateral",
    "r-*-l?_*": "paper:bilateral",
    "pgd_mnist_madrynet": "paper:madry",
    "pgd_cifar10_wideresnet": "paper:madry",
    "free_*": "paper:madry",
    "cnn*_mnist*": "paper:tisode",
    "ode_mnist*": "paper:tisode",
    "tisode*_mnist*": "paper:tisode",
    "madry_*_small": "paper:obfuscated-gradients",
    "*_cifar10": "paper:obfuscated-gradients",
    **dict.fromkeys(
        (
            f"{name}_mnist"
            for name in ("thermometer*", "bit-depth", "jpeg", "crop", "tv", "quilting", "xie", "lid", "confidence")
        ),
        "paper:obfuscated-gradients",
    ),
}
"""The battery of the paper that a recipe repeats, by its name; the first pattern that fits counts."""

OTHERS = {
    "evaluate_*": "our own benchmark, which has a battery of its own",
    "survey_*": "our own survey, which has a battery of its own",
    "learned_*": "our own comparison of learned adversaries",
    "*_digits_mlp": "the demo",
    "attack-pgn*": "a generator against a frozen classifier: figure 3 has its own attack beside FGM and PGD",
    "attack-advgan_*": "a generator against a frozen classifier, which is evaluated by its own attack beside PGD",
    "attack-gap_*": "a generator against a frozen classifier, which is evaluated by its own attack beside PGD",
    "p*n_mnist_convpool": "PGN's battery has no MNIST: its radii are those of CIFAR-10",
    # Table 1 of Deep Defense is `deep_defense = true`, which all of these have. Its battery adds 5,000 iterations of
    # Carlini-Wagner per image, which take hours on two cores: `--battery paper:deep-defense`.
    "deep-defense*_mnist_*": "deep_defense",
    "adv-train-?_mnist_*": "deep_defense",
    "parseval_mnist_*": "deep_defense",
    "fine-tuned_mnist_*": "deep_defense",
    "reference_mnist_*": "deep_defense",
    "*_cifar10_convnet": "deep_defense",
    "*_cifar10_nin": "deep_defense",
    "*_imagenet_*": "deep_defense",
    "pgd_mnist_lenet": "deep_defense",
    "plain_*_carlini": "its attacks are those of the paper's file, towards every wrong class",
    "distillation*_carlini": "its attacks are those of Carlini and Wagner's file, towards every wrong class",
    "jacobian_*": "a paper without a battery",
    "input-gradient_*": "a paper without a battery",
    "cross-lipschitz_*": "a paper without a battery",
    "vat_mnist_mlp": "a paper without a battery",
    "awp*": "a paper without a battery",
    **dict.fromkeys(("pixelcnn_*", "gan_*", "autoencoder_*"), "no classifier, but the network of a filter"),
    **dict.fromkeys(
        ("pixel-defend*", "defense-gan_*", "autoencoder-defence_*", "purified-start_*"),
        "a reduced form, which is attacked past its filter and through it",
    ),
    "*cascade*": "a paper without a battery",
    **dict.fromkeys(
        ("undefended_mnist", "sap_mnist", "rse_mnist", "adv-bnn_mnist", "enresnet_mnist", "*orthogonal*", "dropout-*"),
        "a reduced form: PGD and EOT of PGD judge it, by `--battery` or `--attack`",
    ),
    "mart_*": "a paper without a battery",
    "fast_*": "a paper without a battery",
}
"""Recipes without a paper's battery, and why; these patterns count first."""

pytestmark = shipped.group


def first(table: dict[str, str], name: str) -> str | None:
    return next((value for pattern, value in table.items() if fnmatch(name, pattern)), None)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_recipes_of_one_paper_evaluate_with_its_battery(path: Path):
    recipe, why = shipped.shipped(path), first(OTHERS, path.stem)
    if why is not None:
        assert recipe.evaluation.deep_defense or why != "deep_defense"
        return
    battery = first(BATTERIES, path.stem)
    assert battery, "name its battery, or say why it has none"
    wanted = named_battery(battery, data=type(recipe.data).__name__)
    for name, attack in wanted.attacks.items():
        given = recipe.evaluation.attacks[name]
        # A learned adversary has the settings of the generator that the recipe trains.
        assert type(given) is type(attack) if isinstance(attack, Adversary) else given == attack, name
    assert set(wanted.probes) <= set(recipe.evaluation.probes)


def attacks_in(value: Any) -> list[Attack]:
    """Every attack that a defence trains with."""
    if isinstance(value, Attack):
        return [value]
    parts = value if isinstance(value, tuple) else vars(value).values() if hasattr(value, "__dict__") else ()
    return [attack for part in parts for attack in attacks_in(part)]


@pytest.mark.parametrize(
    "path", [path for path in ALL if first(OTHERS, path.stem) == "deep_defense"], ids=lambda path: path.stem
)
def test_deep_defenses_fgs_is_not_clipped(path: Path):
    """The paper attacks images less their mean, which have no box. `pgd_mnist_lenet` is Madry's, and attacks pixels."""
    recipe = shipped.shipped(path)
    found = [attack for part in (recipe.defence, recipe.prepare) for attack in attacks_in(part)]
    assert bool(found) == path.stem.startswith(("adv-train", "deep-defense-fgs", "pgd_"))
    if path.stem != "pgd_mnist_lenet":
        assert [attack.box for attack in found] == [None] * len(found), config.write(recipe.defence)
    if "fgs" in path.stem or "adv-train-2" in path.stem:
        assert [type(attack) for attack in found] == [FGSM]
