"""The ensemble: its parts, its order, and what it does with few classes."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from affine import affine, images, small_net
from every_attack import generator, size
from steelman.attacks import APGD, EOT, FAB, AutoAttack, Square
from steelman.losses import DLR, CrossEntropy
from steelman.norms import L0, L1, L2, Linf, Norm


def parts(attack: AutoAttack) -> list[str]:
    names = []
    for part in attack.attacks:
        inner = getattr(part, "attack", part)
        names.append(type(part).__name__ + (f"({type(inner).__name__})" if inner is not part else ""))
    return names


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_standard_is_the_papers(norm: Norm) -> None:
    attack = AutoAttack(eps=0.3, norm=norm)
    assert parts(attack) == ["APGD", "APGD", "Within(FAB)", "Square"]
    entropy, towards, near, square = attack.attacks
    common: dict[str, Any] = {"eps": 0.3, "norm": norm, "steps": 100, "restarts": 1, "stop_early": True}
    assert entropy == APGD(**common, loss=CrossEntropy())
    assert towards == APGD(**common, loss=DLR(or_margin=True), targets=9)
    assert near.attack == FAB(norm=norm, steps=100, restarts=1, targets=9, radius=0.3)
    assert square == Square(eps=0.3, norm=norm, queries=5000, p_init=0.8, restarts=1, rescale=False)


def test_other_versions_are_those_of_the_authors_code() -> None:
    plus = AutoAttack(version="plus").attacks
    assert parts(AutoAttack(version="plus")) == ["APGD", "APGD", "Within(FAB)", "Square", "APGD", "Within(FAB)"]
    assert [getattr(getattr(part, "attack", part), "restarts", 1) for part in plus] == [5, 5, 5, 1, 1, 1]
    assert [getattr(getattr(part, "attack", part), "targets", None) or 0 for part in plus] == [0, 0, 0, 0, 9, 9]
    rand = AutoAttack(version="rand").attacks
    assert parts(AutoAttack(version="rand")) == ["EOT(APGD)", "EOT(APGD)"]
    assert [(part.samples, part.attack.loss) for part in rand if isinstance(part, EOT)] == [
        (20, CrossEntropy()),
        (20, DLR(or_margin=True)),
    ]
    sparse = AutoAttack(norm=L1).attacks
    assert parts(AutoAttack(norm=L1)) == ["APGD", "APGD", "Within(FAB)"]
    assert [(part.restarts, part.targets, part.multi_eps) for part in sparse if isinstance(part, APGD)] == [
        (5, 0, True),
        (1, 5, True),
    ]


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.05), (L2, 0.3), (L1, 1.0)], ids=repr)
def test_it_succeeds_exactly_where_affine_models_allow_it(norm: Norm, eps: float) -> None:
    model = affine(2, images=4, edge=True)
    nearest = model.nearest_in_box(norm)
    radius = nearest * torch.tensor([0.99, 1.01]).repeat(2)
    result = AutoAttack(eps=radius, norm=norm, steps=20, queries=10).run(model, model.x, model.y, generator=generator())
    assert torch.equal(result.success, nearest <= radius)
    assert (size(norm, result.x_adv, model.x) <= radius).all()


def test_each_part_attacks_only_images_that_are_still_correct() -> None:
    model, x = small_net(), images(20)
    y = model(x).argmax(1).detach()
    y[3] = (y[3] + 1) % 10
    whole = AutoAttack(eps=0.07, steps=10, queries=50)
    result = whole.run(model, x, y, generator=generator())
    assert torch.equal(result.x_adv[3], x[3])
    assert int(result.forwards[3]) == 1
    entropy = whole.attacks[0].run(model, x, y, generator=generator())
    assert int(result.success.sum()) >= int(entropy.success.sum()) > 1
    robust = ~result.success
    assert bool(robust.any())
    assert (result.gradients[robust] >= 100).all()  # of APGD alone
    assert (result.gradients[result.success].double().mean()) < 20
    assert (result.x_adv != x)[robust].flatten(1).any(1).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("norm", "version"), [(Linf, "plus"), (L2, "standard"), (L1, "standard")])
def test_few_classes_fall_back_to_the_margin(classes: int, norm: Norm, version: Literal["standard", "plus"]) -> None:
    model = affine(5, images=4, classes=classes, edge=True)
    nearest = model.nearest_in_box(norm)
    attack = AutoAttack(eps=nearest * 1.01, norm=norm, version=version, steps=12, queries=10)
    assert bool(attack.run(model, model.x, model.y, generator=generator()).success.all())
    attack = replace(attack, eps=nearest * 0.99)
    assert not bool(attack.run(model, model.x, model.y, generator=generator()).success.any())


def test_random_models_are_attacked_in_expectation() -> None:
    net, x = small_net(), images(12)
    y = net(x).argmax(1).detach()
    attack = AutoAttack(eps=0.3, version="rand", steps=5)
    result = attack.run(lambda z: net(z + 0.05 * torch.randn_like(z)), x, y, generator=generator())
    assert float(result.success.double().mean()) > 0.5
    assert (result.gradients % 20 == 0).all()


def test_a_part_of_it_has_parts_of_its_attacks() -> None:
    eps, which = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2, 0])
    for version in ("plus", "rand"):
        for each in AutoAttack(eps=eps, version=version)[which].attacks:
            assert torch.equal(each.eps, eps[which])
            assert not isinstance(getattr(each, "attack", None), FAB) or torch.equal(each.attack.radius, eps[which])


def test_wrong_settings_are_refused() -> None:
    for wrong, message in (
        ({"norm": L0}, "norm=Linf or L1 or L2; got L0|norm=Linf or L2 or L1; got L0"),
        ({"steps": 0}, "steps >= 1"),
        ({"queries": 0}, "queries >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            AutoAttack(**wrong)
