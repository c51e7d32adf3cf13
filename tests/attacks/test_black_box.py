"""Models that answer with classes alone, as behind an API: what attacks them, and what says that it cannot."""

import pytest
import torch
from torch import Tensor

from affine import affine, images
from every_attack import ATTACKS, Case, generator
from steelman.attacks import FGSM, PGD, BoundaryAttack, CarliniWagner, DeepFool, HopSkipJump, Square

NET = affine(3, images=6)
X, Y = NET.x, NET.y


def classes(x: Tensor) -> Tensor:
    assert not torch.is_grad_enabled(), "a graph that nobody reads"
    return NET(x).argmax(1)


@pytest.mark.parametrize("case", [case for case in ATTACKS if case.attack.access == "decisions"], ids=repr)
def test_classes_alone_are_enough_and_lead_to_the_same_images(case: Case) -> None:
    go = {"target": case.target(Y), "generator": generator()}
    hard = case.attack.run(classes, X, Y, **go)
    go["generator"] = generator()
    soft = case.attack.run(NET, X, Y, **go)
    assert torch.equal(hard.x_adv, soft.x_adv)
    assert torch.equal(hard.success, soft.success)
    assert torch.equal(hard.prediction, NET(hard.x_adv).argmax(1))
    assert torch.equal(hard.forwards, soft.forwards)
    assert hard.gradients.tolist() == [0] * 6
    assert bool(hard.loss.isnan().all())  # classes have no cross-entropy
    assert not case.minimal or bool(hard.success.all())


def test_the_table_has_the_attacks_that_need_decisions_only() -> None:
    names = {type(case.attack).__name__ for case in ATTACKS if case.attack.access == "decisions"}
    assert names >= {"BoundaryAttack", "HopSkipJump", "GaussianNoise", "UniformNoise", "SaltAndPepper"}


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=2), DeepFool(), CarliniWagner(steps=3), Square()], ids=repr)
def test_other_attacks_say_what_they_miss_and_what_to_use(attack) -> None:
    with pytest.raises(ValueError, match=r"classes alone.*needs logits.*HopSkipJump or BoundaryAttack"):
        attack(lambda x: NET(x).argmax(1), X, Y)


@pytest.mark.parametrize("attack", [BoundaryAttack(steps=10), HopSkipJump(steps=1)], ids=repr)
def test_answers_that_are_not_one_class_per_image_are_refused(attack) -> None:
    with pytest.raises(ValueError, match=r"one class per image; got torch.int64 \(6, 1\)"):
        attack(lambda x: NET(x).argmax(1, keepdim=True), X, Y)
    as_bytes = attack(lambda x: NET(x).argmax(1).to(torch.uint8), X, Y, generator=generator())
    assert torch.equal(as_bytes, attack(NET, X, Y, generator=generator()))


@pytest.mark.parametrize("attack", [BoundaryAttack(steps=200), HopSkipJump(steps=4, evaluations=50)], ids=repr)
def test_a_step_function_has_no_gradient_and_is_attacked_all_the_same(attack) -> None:
    def stripes(x: Tensor) -> Tensor:
        """Class 1 where the mean, cut to eighths, is above a half."""
        return ((x.flatten(1).mean(1) * 8).floor() > 4).long()

    x = images(6) / 2
    result = attack.run(stripes, x, torch.zeros(6, dtype=torch.int64), generator=generator())
    assert bool(result.success.all())
    mean = result.x_adv.flatten(1).mean(1)
    assert bool((mean >= 5 / 8).all())
    assert bool((mean < 5 / 8 + 1e-5).all())
    shortest = (5 / 8 - x.flatten(1).mean(1)) * 24**0.5  # without the box
    assert bool((result.l2 >= shortest).all())
    assert float((result.l2 / shortest).median()) < 1.5
