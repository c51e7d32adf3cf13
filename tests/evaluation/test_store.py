"""Tables that grow: no row of another model, attack or image is returned, and no row is relabelled."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.adversaries import L2LDA
from steelman.attacks import FGSM, PGD, Attack, Surrogate, WorstOf
from steelman.data import Digits, InMemory
from steelman.evaluation import evaluate
from steelman.measures import accuracy
from steelman.networks import MLP, BlackBox, Preprocessed, SubtractMean
from steelman.norms import Linf, Norm
from steelman.table import Evaluation
from steelman.table.places import table_path, tables_in
from steelman.table.records import CLEAN, Provenance

TEST = Digits().load("test").subset(torch.arange(40))
QUIET = {"progress": False, "batch_size": 15}
"""Several blocks."""


class Net(nn.Module):
    """Answers by a plain attribute, a buffer that is no part of its state, and its code."""

    def __init__(self, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = MLP(shape=TEST.shape)
        self.shift = shift
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x - self.shift) * self.scale)


class Repaired(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x + self.shift) * self.scale).flip(1)


Repaired.__name__, Repaired.__qualname__ = Net.__name__, Net.__qualname__


def hooked() -> Net:
    net = Net()
    net.inner.register_forward_hook(lambda module, x, logits: -logits)
    return net


OTHERS = {
    "weights": lambda: Net(seed=1),
    "attributes": lambda: Net(shift=0.5),
    "buffers": lambda: Net(scale=-1.0),
    "code": lambda: Repaired(),
    "hooks": hooked,
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_models_rows_are_refused_with_what_differs(tmp_path: Path, name: str):
    attacks = {"FGSM": FGSM(eps=0.1)}
    more = attacks | {"PGD": PGD(eps=0.1, steps=2)}
    before = evaluate(Net().eval(), TEST, attacks, folder=tmp_path, **QUIET)
    theirs, part = OTHERS[name]().eval(), "attributes" if name == "hooks" else name
    for asked in (attacks, more):
        with pytest.raises(ValueError, match=rf"another model, with other (\w+ and )*{part}"):
            evaluate(theirs, TEST, asked, folder=tmp_path, **QUIET)
    assert evaluate(Net().eval(), TEST, attacks, folder=tmp_path, **QUIET).table == before.table
    fresh = evaluate(theirs, TEST, more, folder=tmp_path, fresh=True, **QUIET)
    assert fresh["prediction"].tolist() == evaluate(theirs, TEST, more, **QUIET)["prediction"].tolist()


class Unseen:
    """A model of which Python sees nothing: the answers come from elsewhere."""

    __slots__ = ("_where",)

    def __init__(self, where: list[Callable[[Tensor], Tensor]]) -> None:
        self._where = where

    def __call__(self, x: Tensor) -> Tensor:
        return self._where[0](x)

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("cannot be taken apart")


@pytest.mark.parametrize("wrap", [lambda model: model, BlackBox], ids=["callable", "black box"])
def test_an_opaque_model_is_known_by_its_answers(tmp_path: Path, wrap: Callable):
    where: list[Callable[[Tensor], Tensor]] = [Net().eval()]
    model, attacks = wrap(Unseen(where)), {"noise": FGSM(eps=0.1) if wrap is not BlackBox else _noise()}
    evaluate(model, TEST, attacks, folder=tmp_path, **QUIET)
    evaluate(model, TEST, attacks, folder=tmp_path, **QUIET)
    where[0] = Net(shift=0.5).eval()
    with pytest.raises(ValueError, match="unattacked, it answered otherwise"):
        evaluate(model, TEST, attacks, folder=tmp_path, **QUIET)


def _noise() -> Attack:
    from steelman.attacks import UniformNoise

    return UniformNoise(eps=0.1, samples=2)


class Random(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.net = trained()
        self.say = [sigma]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.say[0] * torch.randn_like(x))


def trained() -> nn.Module:
    torch.manual_seed(0)
    net = MLP(shape=TEST.shape)
    (train,) = Digits().load("train").batches([torch.arange(400)])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(train.x), train.y).backward()
        optimiser.step()
    return net.eval()


def test_an_evaluation_that_was_stopped_attacks_no_image_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, attacks, search = Net().eval(), {"FGSM": FGSM(eps=0.1)}, FGSM.search
    whole, attacked, blocks = evaluate(model, TEST, attacks, progress=False, batch_size=10), [], 2

    def spy(self: FGSM, oracle: Any, x: Tensor, *rest: Any) -> Tensor:
        if len(attacked) == blocks:
            raise ArithmeticError("stopped")
        attacked.append(len(x))
        return search(self, oracle, x, *rest)

    monkeypatch.setattr(FGSM, "search", spy)
    with pytest.raises(ArithmeticError, match="stopped"):
        evaluate(model, TEST, attacks, folder=tmp_path, progress=False, batch_size=10)
    blocks = 4
    found = evaluate(model, TEST, attacks, folder=tmp_path, progress=False, batch_size=10)
    assert attacked == [10] * 4
    for column in ("image", "prediction", "linf", "loss"):
        np.testing.assert_array_equal(found[column], whole[column])


def test_a_random_model_may_contradict_itself_and_no_more():
    model = Random(0.3).eval()
    attacks = {"FGSM": FGSM(eps=0.05)}
    first, again = (evaluate(model, TEST, {}, batch_size=40, progress=False) for _ in range(2))
    for column in ("prediction", "loss"):
        np.testing.assert_array_equal(again[column], first[column], err_msg="the same seed draws the same")
    other = evaluate(model, TEST, {}, batch_size=20, progress=False)
    assert (other["loss"] != first["loss"]).any(), "a random model, whose draws are another batch's"
    grown = evaluate(model, TEST, attacks, batch_size=20, known=first, progress=False)  # other draws
    assert (grown.only(CLEAN)["prediction"] == first["prediction"]).all()
    model.net = nn.Sequential(model.net, Flip())
    with pytest.raises(ValueError, match="another model"):
        evaluate(model, TEST, attacks, batch_size=20, known=first, progress=False)
    unnamed = first.replaced(model={})
    with pytest.raises(ValueError, match="answered otherwise"):
        evaluate(model, TEST, attacks, batch_size=20, known=unnamed, progress=False)


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


def pixels(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    (batch,) = TEST.batches([torch.arange(40)])
    return change(batch.x).contiguous(), batch.y


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x.flip(3),
        lambda x: torch.cat([x[:20], x[20:].roll(1, 3)]),
        lambda x: x.where(torch.arange(40)[:, None, None, None] != 39, 1 - x),
        lambda x: (x * 0.9999).clamp(0, 1),
    ],
    ids=["transposed", "mirrored", "half", "one image", "a little"],
)
def test_other_pixels_are_refused(tmp_path: Path, change: Callable[[Tensor], Tensor]):
    model, attacks = Net().eval(), {"FGSM": FGSM(eps=0.1)}
    evaluate(model, pixels(lambda x: x), attacks, folder=tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"of other images: image \d+ has other pixels"):
        evaluate(model, pixels(change), attacks, folder=tmp_path, **QUIET)


def test_other_labels_and_another_order_are_refused():
    model, (x, y) = Net().eval(), pixels(lambda x: x)
    known = evaluate(model, (x, y), {}, **QUIET)
    for other in ((x, (y + 1) % 10), (x.flip(0), y.flip(0))):
        with pytest.raises(ValueError, match="of other images"):
            evaluate(model, other, {"FGSM": FGSM(eps=0.1)}, known=known, **QUIET)
    with pytest.raises(ValueError, match="not the same images"):
        known + evaluate(model, (x, (y + 1) % 10), {}, **QUIET)


def test_a_table_grows_by_images_whatever_their_names(tmp_path: Path):
    model, attacks = Net().eval(), {"PGD": PGD(eps=0.1, steps=2)}
    evaluate(model, TEST.subset(torch.arange(20)), attacks, folder=tmp_path, **QUIET)
    (batch,) = TEST.batches([torch.arange(40)])
    renamed = InMemory("another name", batch.x, batch.y, TEST.classes, index=TEST.index)
    grown = evaluate(model, renamed, attacks, folder=tmp_path, **QUIET)
    whole = evaluate(model, TEST, attacks, **QUIET)
    for column in ("image", "attack", "prediction", "l2", "pixels"):
        np.testing.assert_array_equal(grown[column], whole[column])


@dataclass(frozen=True)
class Mine(Attack):
    """A user's own gradient attack, which holds a direction."""

    step: Tensor
    eps: float = 0.1
    norm: Norm = Linf

    def search(self, oracle, x, goal, draws):
        return (x + self.eps * self.step.sign()).clamp(0, 1)


def generator(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return L2LDA(width=2).network(TEST.shape, len(TEST.classes))


def net(seed: int) -> nn.Module:
    return Net(seed=seed).eval()


def through(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x)


HOLDERS: dict[str, Callable[[int], Attack]] = {
    "surrogate": lambda seed: Surrogate(PGD(eps=0.3, steps=2), net(seed)),
    "surrogate, a function": lambda seed: Surrogate(FGSM(eps=0.3), through(net(seed))),
    "inside others": lambda seed: WorstOf((FGSM(eps=0.1), Surrogate(FGSM(eps=0.3), net(seed)))),
    "learned adversary": lambda seed: L2LDA(eps=0.3, steps=1, width=2, generator=generator(seed)),
    "a user's own": lambda seed: Mine(torch.full((1, 8, 8), float(2 * seed - 1))),
    "leaves the prediction": lambda seed: Mine(torch.full((1, 8, 8), float(2 * seed - 1)), reference="prediction"),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_an_attack_that_holds_something_else_is_another_one(tmp_path: Path, name: str):
    make, model = HOLDERS[name], Net().eval()
    first = evaluate(model, TEST, {"attack": make(0)}, folder=tmp_path, **QUIET)
    again = evaluate(model, TEST, {"attack": make(0)}, folder=tmp_path, **QUIET)
    assert again.table == first.table, "the same attack made anew is the same"
    with pytest.raises(ValueError, match=r"another attack called attack: .*digest"):
        evaluate(model, TEST, {"attack": make(1)}, folder=tmp_path, **QUIET)
    both = evaluate(model, TEST, {"attack": make(0), "other": make(1)}, folder=tmp_path, **QUIET)
    truth = evaluate(model, TEST, {"other": make(1)}, **QUIET)
    assert accuracy(both, "other") == accuracy(truth, "other")
    np.testing.assert_array_equal(both.only("other")["linf"], truth.only("other")["linf"])


def test_other_settings_and_another_seed_are_reported():
    model, attacks = Net().eval(), {"PGD": PGD(eps=0.1, steps=3)}
    known = evaluate(model, TEST, attacks, **QUIET)
    with pytest.raises(ValueError, match=r"called PGD: eps 0.1, now 0.2; steps 3, now 4\. Give it another name"):
        evaluate(model, TEST, {"PGD": PGD(eps=0.2, steps=4)}, known=known, **QUIET)
    with pytest.raises(ValueError, match="called PGD: seed 0, now 1"):
        evaluate(model, TEST, attacks, known=known, seed=1, **QUIET)
    with pytest.raises(ValueError, match=r"called PGD: loss.kind CrossEntropy, now Margin"):
        known + evaluate(model, TEST, {"PGD": _with_margin(attacks["PGD"])}, **QUIET)


def _with_margin(attack: Attack) -> Attack:
    from steelman.losses import Margin

    return dataclasses.replace(attack, loss=Margin())


def test_rows_keep_the_place_where_they_were_made(tmp_path: Path):
    model, old = Net().eval(), Provenance(steelman="0.0.1", device="an old card", date="2001-01-01")
    first = evaluate(model, TEST.subset(torch.arange(20)), {"FGSM": FGSM(eps=0.1)}, **QUIET)
    first.recorded(lambda record: record.changed(made=old)).save(table_path(tmp_path))
    grown = evaluate(model, TEST, {"FGSM": FGSM(eps=0.1), "PGD": PGD(eps=0.1, steps=2)}, folder=tmp_path, **QUIET)
    of_old = {record.id for record in grown.records if record.made == old}
    mine = np.isin(grown["record"], list(of_old))
    there = np.isin(grown["image"], TEST.index[:20].numpy())
    assert mine.tolist() == (there & (grown["attack"] != "PGD")).tolist()
    assert set(grown.made) == {old, grown.record("PGD").made}
    assert grown.attacks == ("FGSM", "PGD")
    assert grown.whole("FGSM"), "in two records"


def test_fresh_deletes_nothing_before_the_new_table_is_there(tmp_path: Path):
    model, attacks = Net().eval(), {"FGSM": FGSM(eps=0.1)}
    old = evaluate(model, TEST, attacks, folder=tmp_path, **QUIET)

    class Broken(FGSM):
        def search(self, oracle, x, goal, draws):
            if int(goal.labels[0]) == int(TEST.labels[30]):
                raise KeyboardInterrupt
            return super().search(oracle, x, goal, draws)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, TEST, {"other": Broken(eps=0.2)}, folder=tmp_path, fresh=True, **QUIET)
        assert Evaluation.load(table_path(tmp_path)).table == old.table
    new = evaluate(model, TEST, {"other": FGSM(eps=0.2)}, folder=tmp_path, fresh=True, **QUIET)
    assert new.attacks == Evaluation.load(table_path(tmp_path)).attacks == ("other",)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock")] == ["table.parquet"]


def test_spaces_have_tables_of_their_own_in_one_folder(tmp_path: Path):
    layer = SubtractMean(shape=TEST.shape).fit(TEST)
    model, attacks = Preprocessed(layer, Net()).eval(), {"FGSM": FGSM(eps=0.1)}
    pixel = evaluate(model, TEST, attacks, folder=tmp_path, **QUIET)
    behind = evaluate(model, TEST, attacks, folder=tmp_path, space="preprocessed", **QUIET)
    found = tables_in(tmp_path)
    assert list(found) == ["pixels", "preprocessed"]
    assert [found[space].table for space in found] == [pixel.table, behind.table]
    for known, space in ((pixel, "preprocessed"), (behind, "pixels")):
        with pytest.raises(ValueError, match=f"is in {known.space}, and this is in {space}"):
            evaluate(model, TEST, attacks, known=known, space=space, **QUIET)
    with pytest.raises(ValueError, match="a table has one space"):
        pixel + behind


def test_blocks_of_another_model_are_removed(tmp_path: Path):
    model, attacks = Net().eval(), {"FGSM": FGSM(eps=0.1)}
    part = evaluate(Net(seed=3).eval(), TEST.subset(torch.arange(15)), attacks, **QUIET)
    for number in (1, 2):
        part.save(tmp_path / "parts" / f"pixels-00000{number}.parquet")
    with pytest.warns(UserWarning, match="has blocks of another model: they are removed") as told:
        found = evaluate(model, TEST, attacks, folder=tmp_path, **QUIET)
    assert len(told) == 1
    assert found["prediction"].tolist() == evaluate(model, TEST, attacks, **QUIET)["prediction"].tolist()
    assert not (tmp_path / "parts").exists()


def test_an_attack_without_remaining_images_is_a_record_without_rows():
    """After a bounded attack whose ball is the whole box, another attack in it has no image left to meet."""
    model = trained()
    attacks = {"far": PGD(eps=1.0, steps=20, random_start=False), "further": FGSM(eps=1.0), "near": FGSM(eps=0.01)}
    found = evaluate(model, TEST, attacks, survivors_only=True, **QUIET)
    assert found.without_rows == ("further",), "the first attack breaks every image"
    assert "further" not in set(found["attack"])
    record = found.record("further")
    assert (record.eps, record.asked, record.images) == (1.0, "survivors", 40)
    again = evaluate(model, TEST, attacks, survivors_only=True, known=found, **QUIET)
    assert again.table == found.table
    assert again.records == found.records


def test_of_two_records_of_an_attack_that_of_its_rows_is_kept():
    model = trained()
    attacks = {"far": PGD(eps=1.0, steps=20, random_start=False), "FGSM": FGSM(eps=1.0)}
    found = evaluate(model, TEST, attacks, survivors_only=True, **QUIET)
    assert len(found.only("FGSM")) == 0
    grown = evaluate(model, TEST, attacks, known=found, **QUIET)
    assert set(grown.table["record"].unique().to_pylist()) == {record.id for record in grown.records}
    assert grown.record("FGSM").asked == "every"


def test_a_random_models_first_answers_decide_what_is_attacked():
    model, attacks = Random(1.0).eval(), {"FGSM": FGSM(eps=0.05)}
    first = evaluate(model, TEST, {}, batch_size=40, progress=False)
    right = first["image"][first["prediction"] == first["label"]]
    other = evaluate(model, TEST, {}, batch_size=20, progress=False)
    assert (other["prediction"] != first["prediction"]).any()
    grown = evaluate(model, TEST, attacks, survivors_only=True, batch_size=20, known=first, progress=False)
    assert set(grown.only("FGSM")["image"].tolist()) == set(right.tolist())
