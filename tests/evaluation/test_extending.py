"""A table that grows: nothing is attacked twice, nothing damaged is read, and the worst case costs less."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from steelman.attacks import FGSM, PGD, DeepFool, HopSkipJump, UniformNoise
from steelman.data import Digits
from steelman.evaluation import Probe, evaluate
from steelman.table import Evaluation
from steelman.workers import each, workers

WEAK, STRONG, MINIMAL = FGSM(eps=0.1), PGD(eps=0.1, steps=5), DeepFool(steps=10)
BATTERY = {"weak": WEAK, "minimal": MINIMAL, "strong": STRONG}


@dataclass(frozen=True)
class Size(Probe):
    """The perturbation's largest change."""

    def __call__(self, model, x, y, x_adv, seeds):
        return (x_adv - x).flatten(1).abs().amax(1)


@dataclass(frozen=True)
class Draw(Probe):
    of_clean = True

    def __call__(self, model, x, y, x_adv, seeds):
        return (seeds % 1000).float()


ASKED: list[int] = []
"""How many images a network was asked about, call by call."""
WATCHED: list[Callable[[], None]] = []


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """A module that counted itself would be another model whenever it was asked."""
    forward = nn.Linear.forward

    def counting(self, x):
        ASKED.append(len(x))
        for look in WATCHED:
            look()
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counting)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def model():
    model = network()
    (train,) = Digits().load("train").batches([torch.arange(500)])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train.x), train.y).backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def digits():
    return Digits().load("test").subset(torch.arange(40))


@pytest.fixture(scope="module")
def whole(model, digits):
    return evaluate(model, digits, BATTERY, batch_size=16)


def same(ours: Evaluation, theirs: Evaluation, besides: tuple[str, ...] = ("seconds",)) -> None:
    assert ours.table.column_names == theirs.table.column_names
    for column in ours.table.column_names:
        if column in besides:
            continue
        if ours[column].dtype == float:  # an image's place in its batch changes a model's rounding
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-5, err_msg=column)
        else:
            np.testing.assert_array_equal(ours[column], theirs[column], err_msg=column)


def test_rows_in_the_table_are_not_attacked_again(model, digits, whole):
    first = evaluate(model, digits, {"weak": WEAK}, batch_size=16)
    ASKED.clear()
    again = evaluate(model, digits, {"weak": WEAK}, known=first, batch_size=16)
    assert sum(ASKED) == 40, "it is asked about the unattacked images, and about nothing else"
    same(again, first, besides=())
    more = evaluate(model, digits, BATTERY, known=first, batch_size=16)
    same(more, whole)
    assert (more.only("weak")["seconds"] == first.only("weak")["seconds"]).all()


def test_more_images_are_added(model, digits, whole):
    some = evaluate(model, digits.subset(torch.arange(10)), BATTERY)
    ASKED.clear()
    more = evaluate(model, digits, BATTERY, known=some)
    same(more, whole, besides=("seconds", "record"))
    assert sum(ASKED) < 40 * 60
    asked = {record.id: record.images for record in more.records}
    of_some = np.isin(more["image"], some["image"])
    assert [asked[each] for each in more["record"]] == np.where(of_some, 10, 40).tolist()


def test_survivors_only_attacks_images_that_are_still_correct(model, digits, whole):
    cascade = evaluate(model, digits, BATTERY, batch_size=16, survivors_only=True)
    clean = whole.only("clean")
    right = clean["prediction"] == clean["label"]
    weak, minimal = whole.only("weak"), whole.only("minimal")
    assert 0 < right.sum() < 40
    assert set(cascade.only("weak")["image"]) == set(clean["image"][right])
    near = (minimal["prediction"] != minimal["label"]) & (minimal["linf"] <= 0.1 * (1 + 1e-6))
    correct = right & (weak["prediction"] == weak["label"]) & ~near
    assert set(cascade.only("strong")["image"]) == set(clean["image"][correct])
    assert len(cascade.only("strong")) < len(cascade.only("weak"))
    for name in BATTERY:  # the attacked images have the same results
        rows, kept = whole.only(name), np.isin(whole.only(name)["image"], cascade.only(name)["image"])
        np.testing.assert_array_equal(cascade.only(name)["l2"], rows["l2"][kept])
    assert cascade.whole("clean")
    assert not cascade.whole("strong")
    # Without `survivors_only`, the images that were left out are attacked too.
    both = evaluate(model, digits, BATTERY, known=cascade, batch_size=16)
    same(both, whole, ("seconds", "record"))
    asked = {record.id: record.asked for record in both.records}
    strong = both.only("strong")
    attacked = [asked[record] == "survivors" for record in strong["record"]]
    assert set(strong["image"][attacked]) == set(cascade.only("strong")["image"])


def test_an_attack_from_the_prediction_is_run_on_all_images(model, digits):
    away = replace(MINIMAL, reference="prediction")
    table = evaluate(model, digits, [away], survivors_only=True)
    assert table.whole(str(away))


def test_probes_are_columns_and_are_added_to_a_table(model, digits, whole):
    probes = (Size(), Draw())
    table = evaluate(model, digits, BATTERY, probes=probes, batch_size=16)
    assert table.probes == ("Size()", "Draw()")
    strong = table.only("strong")
    np.testing.assert_allclose(strong["Size()"], strong["linf"], rtol=1e-6)
    assert np.isnan(table.only("clean")["Size()"]).all()
    assert np.isnan(strong["Draw()"]).all()
    assert len(set(table.only("clean")["Draw()"])) > 30
    same(
        evaluate(model, digits, BATTERY, probes=probes, known=whole, batch_size=7),
        table,
        ("seconds", "forwards", "l1", "l2"),
    )
    joined = whole + evaluate(model, digits, {"noise": UniformNoise(eps=0.1)}, probes=[Size()])
    assert np.isnan(joined.only("weak")["Size()"]).all()
    assert not np.isnan(joined.only("noise")["Size()"]).any()


def test_another_model_or_attack_or_other_images_are_refused(model, digits, whole):
    with pytest.raises(ValueError, match="another model, with other weights"):
        evaluate(network(), digits, BATTERY, known=whole)
    with pytest.raises(ValueError, match=r"another attack called weak: eps 0\.1, now 0\.2"):
        evaluate(model, digits, {"weak": FGSM(eps=0.2)}, known=whole)
    with pytest.raises(ValueError, match="another attack called weak: seed 0, now 1"):
        evaluate(model, digits, BATTERY, known=whole, seed=1)
    (batch,) = digits.batches([torch.arange(40)])
    with pytest.raises(ValueError, match=r"of other images: image \d+ has other pixels or another label"):
        evaluate(model, (batch.x.flip(0), batch.y.flip(0)), {"other": WEAK}, known=whole)
    known = evaluate(model, (batch.x, batch.y), {"weak": WEAK})
    one = torch.arange(40)[:, None, None, None] == 7
    for x, y in (
        (torch.where(one, 1 - batch.x, batch.x), batch.y),
        (torch.where(one, batch.x + 1e-5, batch.x).clamp(max=1), batch.y),
        (batch.x, torch.where(one.flatten(), (batch.y + 1) % 10, batch.y)),
    ):
        with pytest.raises(ValueError, match="of other images: image 7 has other pixels or another label"):
            evaluate(model, (x, y), {"other": WEAK}, known=known)
    other = network()
    functions = [evaluate(lambda x, net=net: net(x), digits, {}) for net in (model, other)]
    with pytest.raises(ValueError, match="another model, with other code"):
        functions[0] + functions[1]
    unnamed = whole.replaced(model={})  # a table without the model's digests is compared by the answers
    with pytest.raises(ValueError, match=r"another model: unattacked, it answered otherwise to \d+ of 40 images"):
        evaluate(other, digits, {"other": WEAK}, known=unnamed)


def test_a_killed_evaluation_goes_on(model, digits, whole, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def look() -> None:
        if len(list((tmp_path / "parts").glob("*.parquet"))) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setitem(globals(), "WATCHED", [look])
        with pytest.raises(Killed):
            evaluate(model, digits, BATTERY, batch_size=10, folder=tmp_path)
    parts = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert parts == ["pixels-000001.parquet", "pixels-000002.parquet"]
    # One of the two parts is cut off, as by a full disk: it is reported, and made again.
    part = tmp_path / "parts" / "pixels-000002.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    ASKED.clear()
    with pytest.warns(UserWarning, match=r"000002\.parquet is not a whole evaluation table.*attacked again"):
        table = evaluate(model, digits, BATTERY, batch_size=10, folder=tmp_path)
    same(table, whole)
    attacked = sum(ASKED) - 40
    assert {path.name for path in tmp_path.iterdir()} == {"table.parquet", ".lock"}
    same(Evaluation.load(tmp_path / "table.parquet"), table, besides=())
    ASKED.clear()
    evaluate(model, digits, BATTERY, folder=tmp_path, batch_size=10)
    assert sum(ASKED) == 40
    ASKED.clear()
    evaluate(model, digits, BATTERY, folder=tmp_path, batch_size=10, fresh=True)
    assert attacked < sum(ASKED) - 40, "the whole part was not made again"


def test_blocks_of_another_model_are_not_used(model, digits, whole, tmp_path):
    part = evaluate(network(), digits.subset(torch.arange(10)), {"weak": WEAK})
    part.save(tmp_path / "parts" / "pixels-000001.parquet")
    with pytest.warns(UserWarning, match="has blocks of another model: they are removed"):
        same(evaluate(model, digits, BATTERY, folder=tmp_path, batch_size=16), whole)
    assert {path.name for path in tmp_path.iterdir()} == {"table.parquet", ".lock"}


def test_a_table_that_is_cut_off_is_refused_by_name(model, digits, whole, tmp_path):
    whole.save(tmp_path / "table.parquet")
    path = tmp_path / "table.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"table\.parquet is not a whole evaluation table"):
        evaluate(model, digits, BATTERY, folder=tmp_path)


def test_the_table_describes_model_data_and_attacks(model, digits, whole, tmp_path):
    whole.save(tmp_path / "table.parquet")
    about = Evaluation.load(tmp_path / "table.parquet").about
    assert about["data"] == digits.name
    assert set(about["model"]) == {"classes", "code", "weights", "buffers", "attributes"}
    assert about == whole.about
    assert whole.only(["clean", "weak"]).about == about | {"records": about["records"][:2]}
    assert [each["name"] for each in about["records"]] == ["clean", *BATTERY]


def test_a_model_that_answers_with_classes_alone(model, digits):
    table = evaluate(lambda x: model(x).argmax(1), digits, [HopSkipJump(steps=2)], survivors_only=True)
    assert np.isnan(table.only("clean")["loss"]).all()
    assert table.only("HopSkipJump(steps=2)")["success"].any()


@dataclass(frozen=True)
class Slow:
    number: int = field(default=0)


def double(job: Slow) -> int:
    return 2 * job.number


def test_two_processes_make_the_same_table(digits):
    with workers(2) as pool:
        assert sorted(each(double, map(Slow, range(40)), pool, ahead=4)) == list(range(0, 80, 2))
        with pytest.raises(ValueError, match="cannot be sent to another process"):
            evaluate(lambda x: x, digits, [WEAK], executor=pool)
        net = network()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = evaluate(net, digits, BATTERY, batch_size=10, executor=pool, survivors_only=True)
    same(ours, evaluate(net, digits, BATTERY, batch_size=10, survivors_only=True))


def test_threads_would_disturb_each_other(model, digits):
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="processes"):
        evaluate(model, digits, [WEAK], executor=pool)


def test_workers_are_counted_from_one():
    assert workers(1) is None
    with pytest.raises(ValueError, match="got 0"):
        workers(0)
