"""The square attack: where its squares lie, what they hold, and what it finds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from every_attack import generator, size
from steelman.attacks import Square
from steelman.attacks.bounded.square import _bump
from steelman.losses import CrossEntropy, Goal, Margin
from steelman.norms import L1, L2, Linf, Norm


class Recording:
    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.asked = model, []

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


def accepted(model: Recording, label: Tensor) -> list[Tensor]:
    """The image that was held when each question but the first was asked, by a plain loop over the questions."""
    held, highest, before = model.asked[0], -math.inf, []
    for x in model.asked:
        before.append(held)
        value = float(Margin()(model.model(x).detach(), Goal(label)))
        if value > highest:
            held, highest = x, value
    return before[1:]


def stubborn(x: Tensor) -> Tensor:
    """Colour images of which class 0 is certain, with some slope."""
    return torch.stack([x.flatten(1).sum(1) * 0 + 100, (x - 0.3).square().flatten(1).sum(1)], 1)


def halvings(query: int, queries: int) -> int:
    return sum((query - 1) * 10_000 // queries > after for after in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))


def test_linf_questions_differ_from_what_is_held_in_one_square_at_the_ends() -> None:
    torch.manual_seed(0)
    x, eps, queries = 0.2 + 0.6 * torch.rand(1, 3, 9, 12, dtype=torch.float64), 0.1, 200
    model, label = Recording(stubborn), torch.tensor([0])
    Square(eps=eps, queries=queries)(model, x, label, generator=torch.tensor([3]))
    assert len(model.asked) == queries
    stripes = (model.asked[0] - x).sign()
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    corners = set()
    for query, (held, asked) in enumerate(zip(accepted(model, label), model.asked[1:], strict=True), 1):
        torch.testing.assert_close((asked - x).abs(), torch.full_like(x, eps))
        changed = (asked != held)[0]
        rows, columns = torch.where(changed.any(0))
        side = min(max(round(math.sqrt(0.8 / 2 ** halvings(query, queries) * 108)), 1), 9)
        assert int(rows.max() - rows.min()) < side
        assert int(columns.max() - columns.min()) < side
        for channel in range(3):  # one sign for each channel's square
            inside = (asked - x)[0, channel][changed[channel]]
            assert len(inside.sign().unique()) <= 1
        corners |= set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert {max(rows) for rows in zip(*corners, strict=True)} == {8, 11}  # the last row and column too


def test_every_linf_question_is_new() -> None:
    model, label = Recording(lambda x: stubborn(x)), torch.tensor([0])
    x = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64)
    Square(eps=0.1, queries=150)(model, x, label, generator=torch.tensor([3]))
    for held, asked in zip(accepted(model, label), model.asked[1:], strict=True):
        assert not torch.equal(held, asked)


def test_l2_questions_have_the_whole_norm_and_change_two_windows() -> None:
    torch.manual_seed(0)
    x, eps, queries = 0.4 + 0.2 * torch.rand(1, 3, 15, 11, dtype=torch.float64), 0.5, 120
    model, label = Recording(stubborn), torch.tensor([0])
    Square(eps=eps, norm=L2, queries=queries)(model, x, label, generator=torch.tensor([3]))
    small = 0
    for query, (held, asked) in enumerate(zip(accepted(model, label), model.asked[1:], strict=True), 1):
        assert float((asked - x).norm()) == pytest.approx(eps)
        side = max(round(math.sqrt(0.8 / 2 ** halvings(query, queries) * 165)), 3)
        if side > 5:  # the windows may cover most of the image
            continue
        before, after = (held - x)[0], (asked - x)[0]
        outside = (after / before)[before.abs() > 1e-9].median()  # all entries there are scaled alike
        changed = ((after - outside * before).abs() > 1e-9).any(0)
        assert int(changed.sum()) <= 2 * (side + 1 - side % 2) ** 2
        small += bool(changed.any())  # two windows that hold nothing have nothing to give
    assert small > 50


def indifferent(x: Tensor) -> Tensor:
    """The same answer for all images, so that no question is ever accepted."""
    return torch.tensor([[100.0, 0.0]], dtype=x.dtype).expand(len(x), 2)


@pytest.mark.parametrize("rescale", [True, False])
def test_linf_squares_have_the_side_of_the_schedule(rescale: bool) -> None:
    """Against stripes that stay, a changed column of a square is changed over the whole side."""
    model, queries = Recording(indifferent), 200
    x = torch.full((1, 3, 9, 12), 0.5, dtype=torch.float64)
    Square(eps=0.1, queries=queries, rescale=rescale)(model, x, torch.tensor([0]), generator=torch.tensor([3]))
    for query, asked in enumerate(model.asked[1:], 1):
        rows = torch.where((asked != model.asked[0])[0].any(0).any(1))[0]
        share = 0.8 / 2 ** halvings(query, queries if rescale else 10_000)
        assert int(rows.max() - rows.min()) + 1 == min(max(round(math.sqrt(share * 108)), 1), 9)


def test_l2_questions_empty_one_window_into_another_and_leave_the_rest() -> None:
    """Also where the box has cut the perturbation, whose lost norm goes into the window, too."""
    model, queries, emptied = Recording(indifferent), 100, 0
    x = 0.02 + 0.1 * torch.rand(1, 3, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    Square(eps=3.0, norm=L2, queries=queries)(model, x, torch.tensor([0]), generator=torch.tensor([3]))
    before = (model.asked[0] - x)[0]
    assert float(before.norm()) < 2.9
    for query, asked in enumerate(model.asked[1:], 1):
        after = (asked - x)[0]
        side = max(round(math.sqrt(0.8 / 2 ** halvings(query, queries) * 225)), 3)
        assert int(((after - before).abs() > 1e-9).any(0).sum()) <= 2 * (side + 1 - side % 2) ** 2
        emptied += bool((after.abs() < 1e-12).all(0).any())
    assert emptied > 50


def naive_bump(side: int) -> Tensor:
    """The authors' construction, frame by frame."""

    def pyramid(height: int, width: int) -> Tensor:
        delta = torch.zeros(height, width, dtype=torch.float64)
        top, left = height // 2, width // 2
        for frame in range(max(height // 2 + 1, width // 2 + 1)):
            high = (max(top, 0), min(top + 2 * frame + 1, height))
            wide = (max(left, 0), min(left + 2 * frame + 1, width))
            delta[slice(*high), slice(*wide)] += 1 / (frame + 1) ** 2
            top, left = top - 1, left - 1
        return delta / delta.norm()

    whole = torch.zeros(side, side, dtype=torch.float64)
    if side > 1:
        whole[: side // 2] = pyramid(side // 2, side)
    whole[side // 2 :] = -pyramid(side - side // 2, side)
    return whole / whole.norm()


@pytest.mark.parametrize("side", [1, 3, 4, 5, 9, 23])
def test_the_bump_is_the_authors(side: int) -> None:
    torch.testing.assert_close(_bump(side, torch.zeros(1, dtype=torch.float64)), naive_bump(side))


def test_linf_reaches_the_worst_corner_of_affine_models() -> None:
    model = affine(1, images=24, classes=2, edge=True)
    x_adv = Square(eps=0.2, queries=500, stop_early=False)(model, model.x, model.y, generator=generator())
    reached = Margin()(model(x_adv), Goal(model.y))
    torch.testing.assert_close(reached, model.worst_margin(Linf, 0.2), rtol=1e-9, atol=1e-9)


def test_success_grows_with_queries_and_restarts_and_images_leave() -> None:
    model, x = small_net(), images(60)
    y = model(x).argmax(1).detach()
    few, many, again = (
        Square(eps=0.1, queries=queries, restarts=restarts).run(model, x, y, generator=generator())
        for queries, restarts in ((20, 1), (200, 1), (20, 3))
    )
    assert int(few.success.sum()) < int(many.success.sum())
    assert (again.success >= few.success).all()
    for result, most in ((few, 20), (many, 200), (again, 60)):
        assert (result.forwards[~result.success] == most).all()
        assert (result.forwards[result.success] < most).any()
        assert int(result.gradients.sum()) == 0


def test_without_early_leave_the_margin_goes_on_rising() -> None:
    model, x = small_net(), images(40)
    y = model(x).argmax(1).detach()
    early, late = (
        Square(eps=0.15, queries=100, stop_early=leave).run(model, x, y, generator=generator())
        for leave in (True, False)
    )
    assert torch.equal(early.success, late.success)
    goal = Goal(y)
    rise = Margin()(model(late.x_adv).detach(), goal) - Margin()(model(early.x_adv).detach(), goal)
    assert (rise >= 0).all()
    assert float(rise[early.success].median()) > 0


def test_a_target_is_reached_by_cross_entropy() -> None:
    model, x = small_net(), images(40)
    y = model(x).argmax(1).detach()
    target = (y + 1) % 10
    recording = Recording(model)
    x_adv = Square(eps=0.2, queries=50)(recording, x[:1], y[:1], target=target[:1], generator=torch.tensor([1]))
    values = [float(CrossEntropy()(model(asked).detach(), Goal(y[:1], target[:1]))) for asked in recording.asked]
    assert float(CrossEntropy()(model(x_adv).detach(), Goal(y[:1], target[:1]))) == pytest.approx(max(values))


@pytest.mark.parametrize("shape", [(4, 6), (3, 2, 9), (1, 1, 1), (2, 5, 5), (1, 6, 1)])
@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_images_of_any_sides_and_without_channels(shape: tuple[int, ...], norm: Norm) -> None:
    torch.manual_seed(1)
    x = torch.rand(5, *shape, dtype=torch.float64)
    weight = torch.randn(math.prod(shape), 3, dtype=torch.float64)
    y = (x.flatten(1) @ weight).argmax(1)
    attack = Square(eps=0.3, norm=norm, queries=60, stop_early=False)
    x_adv = attack(lambda z: z.flatten(1) @ weight, x, y, generator=generator())
    assert x_adv.shape == x.shape
    assert (size(norm, x_adv, x) <= 0.3).all()
    before, after = (Margin()(z.flatten(1) @ weight, Goal(y)) for z in (x, x_adv))
    assert (after > before).double().mean() >= 0.8


def test_flat_images_and_wrong_settings_are_refused() -> None:
    x, y = torch.rand(2, 24), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"height, width.*\(2, 24\).*Reshape"):
        Square()(lambda z: z[:, :3] * 5, x, y)
    for wrong, message in (
        ({"norm": L1}, "norm=Linf or L2; got L1"),
        ({"queries": 0}, "queries >= 1"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"p_init": 0.0}, "p_init"),
        ({"p_init": 1.5}, "p_init"),
    ):
        with pytest.raises(ValueError, match=message):
            Square(**wrong)
