"""Attacks made of attacks: WorstOf, BestOf, Surrogate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from affine import Another, images, small_net
from steelman import config
from steelman.attacks import FGSM, PGD, BestOf, CarliniWagner, DeepFool, Surrogate, WorstOf
from steelman.attacks.core.attack import Attack
from steelman.norms import L2, Linf

MODEL, X = small_net(), images(24)
with torch.no_grad():
    Y = MODEL(X).argmax(1)
SEEDS = torch.arange(24)
WEAK, STRONG = FGSM(eps=0.03), PGD(eps=0.1, random_start=False)


def test_the_worst_case_is_a_minimum_per_image() -> None:
    y = Y.clone()
    y[0] = (y[0] + 1) % 10  # wrong to begin with
    both = WorstOf((WEAK, STRONG)).run(MODEL, X, y)
    weak, strong = WEAK.run(MODEL, X, y), STRONG.run(MODEL, X, y)
    assert 0 < int(weak.success.sum()) < int((weak.success | strong.success).sum()) < 24
    assert torch.equal(both.success, weak.success | strong.success)
    assert torch.equal(both.x_adv[0], X[0])
    first = weak.success.clone()
    first[0] = False
    torch.testing.assert_close(both.x_adv[first], weak.x_adv[first])
    torch.testing.assert_close(both.x_adv[~weak.success], strong.x_adv[~weak.success])


def test_only_what_stands_is_attacked_further() -> None:
    result = WorstOf((WEAK, STRONG)).run(MODEL, X, Y)
    weak = WEAK.run(MODEL, X, Y).success
    # the clean image; FGSM and its verdict; PGD's ten steps and its verdict
    assert torch.equal(result.forwards, torch.where(weak, 3, 14))
    assert torch.equal(result.gradients, torch.where(weak, 1, 11))


def test_norm_and_radius_are_those_that_all_share() -> None:
    assert WorstOf((WEAK, STRONG)).norm is Linf
    assert WorstOf((WEAK, STRONG)).eps is None
    assert WorstOf((STRONG, replace(STRONG, steps=3))).eps == 0.1
    assert WorstOf((WEAK, PGD(norm=L2))).norm is None


def test_the_smallest_perturbation_is_taken_image_by_image() -> None:
    one, other = DeepFool(), CarliniWagner(steps=60, search_steps=3, c=2.0, step_size=0.1)
    sizes = torch.stack([attack.run(MODEL, X, Y).l2 for attack in (one, other)])
    assert 0 < int((sizes[0] < sizes[1]).sum()) < 24
    best = BestOf((one, other)).run(MODEL, X, Y)
    assert bool(best.success.all())
    torch.testing.assert_close(best.l2, sizes.amin(0))


def test_a_failure_is_not_taken_for_a_small_perturbation() -> None:
    failing = DeepFool(steps=1, overshoot=0.0)
    failed = ~failing.run(MODEL, X, Y).success
    assert int(failed.sum()) > 0
    best = BestOf((DeepFool(), failing)).run(MODEL, X, Y)
    assert bool(best.success.all())
    torch.testing.assert_close(best.x_adv[failed], DeepFool()(MODEL, X, Y)[failed])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WorstOf(()), "WorstOf needs at least one attack"),
        (lambda: BestOf((DeepFool(), PGD())), "minimal-norm attacks, and PGD.* has a radius; use WorstOf"),
        (lambda: WorstOf((PGD(uint8=True),)), "give reference, uint8 and precision to WorstOf itself"),
        (lambda: Surrogate(PGD(), 3), "a surrogate is a model or the path of a run; got 3"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_transfer_is_the_attack_on_the_surrogate() -> None:
    surrogate = Another(3)
    result = Surrogate(STRONG, surrogate).run(MODEL, X, Y)
    assert torch.equal(result.x_adv, STRONG(surrogate, X, Y))
    assert int(result.gradients.sum()) == 0
    assert 0 < int(result.success.sum()) < int(STRONG.run(MODEL, X, Y).success.sum())
    several = WorstOf(tuple(Surrogate(STRONG, Another(seed)) for seed in (3, 4, 5))).run(MODEL, X, Y)
    assert int(several.success.sum()) > int(result.success.sum())


def test_a_surrogate_may_be_a_run(tmp_path: Path) -> None:
    from steelman.data import Digits
    from steelman.experiments.run import train

    run = train("plain_digits_mlp", tmp_path, None, ["training.epochs=1"])
    test = Digits().load("test", None)
    batch = next(iter(test.batches([torch.arange(20)])))
    attack = Surrogate(PGD(eps=0.2, random_start=False), str(run.folder))
    expected = PGD(eps=0.2, random_start=False)(run.network(test), batch.x, batch.y)
    shape = batch.x.shape[1:].numel()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape, 10))
    assert torch.equal(attack(model, batch.x, batch.y), expected)
    with pytest.raises(FileNotFoundError, match="is no run"):
        Surrogate(PGD(), str(tmp_path / "nothing"))(model, batch.x, batch.y)


@pytest.mark.parametrize("attack", [WorstOf((WEAK, STRONG)), Surrogate(STRONG, "runs/one")], ids=repr)
def test_attacks_of_attacks_go_through_toml(attack: Attack) -> None:
    assert config.read(Attack, config.write(attack)) == attack
