"""What an evaluation does once all blocks are done: a sample for an audit, and all images where something is amiss."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import FGSM, PGD, Attack, CascadeAttack, DeepFool, Square
from steelman.data import Digits
from steelman.evaluation import evaluate
from steelman.evaluation.battery import named_battery
from steelman.measures import robust_accuracy
from steelman.measures.audits import audits, in_turn, overtaken, sample_size, suspicions
from steelman.measures.rows import rows
from steelman.norms import Linf, Norm
from steelman.table import Evaluation
from zoo import ENTRIES

EPS = 0.06
FIRST = {"weak": FGSM(eps=EPS / 2)}
QUIET: dict[str, Any] = {"survivors_only": True, "progress": False}


LOG = SimpleNamespace(calls=[], fails=[])
"""How many images `Breaks` was run on, call by call, and which calls fail; no part of its identity."""


@dataclass(frozen=True)
class Breaks(Attack):
    """An attack that knows which images it may break: those whose label is among these, by PGD; others stay."""

    eps: float = EPS
    norm: Norm = Linf
    labels: tuple[int, ...] = ()

    def search(self, oracle: Any, x: Tensor, goal: Any, draws: Any) -> Tensor:
        LOG.calls.append(len(x))
        if len(LOG.calls) in LOG.fails:
            raise KeyboardInterrupt
        found = PGD(self.eps, steps=20).search(oracle, x, goal, draws)
        mine = (
            torch.isin(goal.labels, torch.tensor(self.labels)) if self.labels else torch.zeros(len(x), dtype=torch.bool)
        )
        return torch.where(mine.reshape(-1, 1, 1, 1), found, x)


NONE, SOME = Breaks(), Breaks(labels=(0, 1, 2, 3))
STRONG = PGD(eps=EPS, steps=20)


@pytest.fixture(autouse=True)
def counted() -> None:
    LOG.calls.clear()
    LOG.fails.clear()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    (train,) = Digits().load("train").batches([torch.arange(600)])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(train.x), train.y).backward()
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def digits():
    return Digits().load("test").subset(torch.arange(150))


def standing(table: Evaluation, *names: str) -> np.ndarray:
    """The indices of the images that are right and that none of the attacks broke."""
    found = rows(table)
    left = ~found.wrong
    for name in names:
        left &= ~found[name].misclassified
    return found.images[left]


def same(ours: Evaluation, theirs: Evaluation) -> None:
    for column in ours.table.column_names:
        if column != "seconds":
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-5) if (
                ours[column].dtype == float
            ) else np.testing.assert_array_equal(ours[column], theirs[column], err_msg=column)


def test_a_sample_of_the_images_that_stand_is_audited(model, digits) -> None:
    table = evaluate(model, digits, FIRST, audit={"audit": NONE}, suspicion={"strong": STRONG}, **QUIET)
    left = standing(table, "weak")
    assert 61 < len(left) < 140
    assert set(table.attacks) == {"weak", "audit"}, "nothing was amiss"
    assert table.record("audit").asked == "sample"
    drawn = left[in_turn(left, 0)[: sample_size(len(left))]]
    assert set(table.only("audit")["image"]) == set(drawn.tolist())
    assert sum(LOG.calls) == len(drawn) == 30
    assert robust_accuracy(table, Linf, EPS).value == len(left) / 150
    (found,) = audits(table)
    assert (found.standing, found.sampled) == (len(left), 30)


def test_where_one_falls_all_that_stand_are_attacked(model, digits) -> None:
    table = evaluate(model, digits, FIRST, audit={"audit": SOME}, suspicion={"strong": STRONG}, **QUIET)
    left = standing(table, "weak")
    assert set(table.attacks) == {"weak", "audit", "strong"}
    assert audits(table) == (), "nothing is left to chance"
    after = set(left[np.isin(left, standing(table, "strong"))].tolist())
    tried = set(table.only("audit")["image"].tolist())
    assert after <= tried
    assert tried <= set(left.tolist())
    assert {each.asked for each in table.records if each.name == "audit"} == {"sample", "survivors"}
    whole = evaluate(model, digits, FIRST | {"strong": STRONG, "audit": SOME}, **QUIET)
    assert robust_accuracy(table, Linf, EPS).value == robust_accuracy(whole, Linf, EPS).value
    alone = evaluate(model, digits, FIRST, audit={"audit": SOME}, **QUIET)
    assert set(alone.only("audit")["image"]) == set(left.tolist()), "also where no other attack follows"


def test_the_order_is_that_of_the_suspicion(model, digits) -> None:
    table = evaluate(
        model,
        digits,
        FIRST,
        audit={"audit": NONE},
        suspicion={"strong": STRONG, "audit": NONE},
        suspected=True,
        **QUIET,
    )
    assert table.attacks == ("weak", "strong", "audit")
    assert set(table.only("strong")["image"]) == set(standing(table, "weak").tolist())
    assert set(table.only("audit")["image"]) == set(standing(table, "weak", "strong").tolist())
    assert {each.asked for each in table.records if each.name == "audit"} == {"survivors"}


def test_few_images_are_attacked_whole(model, digits) -> None:
    some = digits.subset(torch.arange(50))
    table = evaluate(model, some, FIRST, audit={"audit": NONE}, **QUIET)
    assert set(table.only("audit")["image"]) == set(standing(table, "weak").tolist())
    assert audits(table) == ()


@pytest.mark.parametrize("how", [{"batch_size": 16}, {"batch_size": 1000}, {"executor": 2}])
def test_the_table_is_the_same_in_any_blocks(model, digits, how: dict[str, Any]) -> None:
    from steelman.workers import workers

    steps = {"audit": {"audit": STRONG}, "suspicion": {"minimal": DeepFool(steps=5)}}
    whole = evaluate(model, digits, FIRST, **steps, **QUIET)
    assert set(whole.attacks) == {"weak", "audit", "minimal"}
    if "executor" in how:
        with workers(2) as executor:
            parts = evaluate(model, digits, FIRST, **steps, executor=executor, batch_size=40, **QUIET)
    else:
        parts = evaluate(model, digits, FIRST, **steps, **how, **QUIET)
    same(parts, whole)


@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_evaluation_that_was_stopped_in_between_goes_on(model, digits, call: int, tmp_path: Path) -> None:
    """In the audit of the sample, then in the attacks on all images, some blocks of which were done."""
    how = {**QUIET, "batch_size": 10, "audit": {"audit": SOME}, "suspicion": {"strong": STRONG, "audit": SOME}}
    whole = evaluate(model, digits, FIRST, **how)
    calls = len(LOG.calls)
    assert calls > 4
    LOG.calls.clear()
    LOG.fails.append(call)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, digits, FIRST, folder=tmp_path, **how)
    assert not (tmp_path / "table.parquet").exists()
    LOG.fails.clear()
    same(evaluate(model, digits, FIRST, folder=tmp_path, **how), whole)
    assert calls < len(LOG.calls) <= calls + 4, "no more than the block of four batches is begun twice"


def test_a_table_is_extended_by_images_and_by_the_attacks_that_follow(model, digits) -> None:
    how: dict[str, Any] = {**QUIET, "audit": {"audit": NONE}}
    some = evaluate(model, digits.subset(torch.arange(70)), FIRST, **how)
    more = evaluate(model, digits, FIRST, known=some, **how)
    left = standing(more, "weak")
    drawn = left[in_turn(left, 0)[:30]]
    assert set(drawn.tolist()) <= set(more.only("audit")["image"].tolist())
    (found,) = audits(more)
    assert found.standing == len(left)
    assert 30 <= found.sampled < 40, "the images of the first draw that are no chance in the second do not count"
    every = evaluate(model, digits, FIRST | {"audit": NONE}, known=more, **QUIET)
    assert set(every.only("audit")["image"]) == set(left.tolist())
    assert audits(every) == ()
    again = evaluate(model, digits, FIRST, known=every, **how)
    same(again, every)


def test_every_image_is_attacked_where_that_is_asked_for(model, digits) -> None:
    table = evaluate(
        model, digits, FIRST, audit={"audit": NONE}, suspicion={"strong": STRONG}, suspected=True, progress=False
    )
    assert all(table.whole(name) for name in ("weak", "audit", "strong"))
    assert {each.asked for each in table.records} == {"every"}


class Rounded(nn.Module):
    """Whose gradient is zero wherever there is one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((8 * x).round() / 8 + 0 * x)


def test_a_gradient_that_is_zero_brings_the_attacks_of_a_suspicion(model, digits) -> None:
    cascade = {"cascade": CascadeAttack(eps=EPS, steps=3), "short": Square(EPS, queries=20)}
    how: dict[str, Any] = {**QUIET, "audit": {"audit": NONE}, "suspicion": {"strong": STRONG}}
    few = digits.subset(torch.arange(40))
    with pytest.warns(UserWarning, match="gradient is zero"):
        masked = evaluate(Rounded(model).eval(), few, cascade, **how)
    assert "strong" in masked.attacks
    assert any("zero everywhere" in each for each in suspicions(masked))
    honest = evaluate(model, few, cascade, **how)
    assert suspicions(honest) == ()
    assert set(honest.attacks) == {"cascade", "short", "audit"}


@pytest.fixture(scope="module")
def overtaken_images():
    """A network trained by TRADES, and 70 digits; on one of them Square finds a margin that the cascade does not."""
    digits = Digits().load("test")
    (every,) = digits.batches([torch.arange(len(digits))])
    assert every.index is not None
    where = int((every.index == 725).nonzero())
    places = torch.cat([torch.tensor([where]), torch.arange(69)])
    return ENTRIES["trades"].build().eval(), digits.subset(places)


def test_where_square_is_ahead_on_few_images_all_stages_of_the_cascade_decide(overtaken_images) -> None:
    robust, images = overtaken_images
    battery = named_battery("standard", norm=Linf, eps=0.15)
    again = "Cascade Linf 0.15, all stages"
    first = evaluate(robust, images, battery.attacks, **QUIET)
    assert overtaken(first).tolist() == [725]
    assert len(suspicions(first)) == 1
    table = evaluate(robust, images, battery.attacks, **battery.afterwards, **QUIET)
    assert table.only(again)["image"].tolist() == [725]
    assert table.attacks == (*battery.attacks, again, *battery.audit)
    assert suspicions(table) == ()
    assert [each.attack for each in audits(table)] in ([], list(battery.audit))
    standing = robust_accuracy(table, Linf, 0.15)
    assert standing.value == robust_accuracy(first, Linf, 0.15).value
    some = evaluate(robust, images.subset(torch.arange(20)), battery.attacks, **battery.afterwards, **QUIET)
    more = evaluate(robust, images, battery.attacks, **battery.afterwards, known=some, **QUIET)
    assert more.only(again)["image"].tolist() == [725]
    assert suspicions(more) == ()
    assert robust_accuracy(more, Linf, 0.15).value == standing.value
    whole = evaluate(robust, images.subset(torch.arange(2)), battery.attacks, **battery.afterwards, progress=False)
    assert again not in whole.attacks, "every attack meets every image"


def test_where_square_stays_ahead_all_attacks_follow(overtaken_images) -> None:
    """One step from a start that is far from the best does not reach the margin that Square has found."""
    robust, images = overtaken_images
    weak = {"cascade": CascadeAttack(eps=0.15, steps=1), "short": Square(0.15, queries=200, rescale=False)}
    table = evaluate(robust, images, weak, suspicion={"strong": PGD(eps=0.15, steps=5)}, **QUIET)
    assert 0 < len(table.only("cascade, all stages")) < 10
    assert "reached a higher margin" in " ".join(suspicions(table))
    assert "strong" in table.attacks


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"audit": {"weak": NONE}}, "two attacks are called weak; give the one in audit another name"),
        ({"audit": {"audit": DeepFool()}}, "an audit needs a radius"),
        ({"audit": {"audit": PGD(eps=EPS, reference="prediction")}}, "leaves the label"),
        ({"suspicion": {"weak": STRONG}, "suspected": True}, "two attacks are called weak; give the one in suspicion"),
    ],
)
def test_what_cannot_be_run_so_is_refused(model, digits, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(model, digits, FIRST, **how, **QUIET)
