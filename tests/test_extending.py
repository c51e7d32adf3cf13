"""A table that grows: nothing is attacked twice, nothing is read by halves, the worst case costs what it needs."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from steelman.attacks import FGSM, PGD, DeepFool, HopSkipJump, UniformNoise
from steelman.data import Digits
from steelman.evaluation import Evaluation, FromPrediction, Probe, evaluate
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


class Counting(nn.Module):
    """Counts the images that it has answered for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.count = 0

    def forward(self, x):
        self.count += len(x)
        return self.inner(x)


@pytest.fixture(scope="module")
def model():
    model = Counting()
    (train,) = Digits().load("train").batches([torch.arange(500)])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train.x), train.y).backward()
        optimiser.step()
    return model.eval()


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


def test_what_stands_is_not_attacked_again(model, digits, whole):
    first = evaluate(model, digits, {"weak": WEAK}, batch_size=16)
    model.count = 0
    again = evaluate(model, digits, {"weak": WEAK}, known=first, batch_size=16)
    assert model.count == 0
    same(again, first, besides=())
    more = evaluate(model, digits, BATTERY, known=first, batch_size=16)
    same(more, whole)
    assert (more.only("weak")["seconds"] == first.only("weak")["seconds"]).all()


def test_more_images_and_another_space_are_added(model, digits, whole):
    some = evaluate(model, digits.subset(torch.arange(10)), BATTERY)
    model.count = 0
    same(evaluate(model, digits, BATTERY, known=some), whole)
    assert model.count < 40 * 60


def test_only_what_still_stands_is_attacked_where_the_worst_case_is_asked_for(model, digits, whole):
    cascade = evaluate(model, digits, BATTERY, batch_size=16, columns=False)
    clean = whole.only("clean")
    right = clean["prediction"] == clean["label"]
    weak, minimal = whole.only("weak"), whole.only("minimal")
    assert 0 < right.sum() < 40
    assert set(cascade.only("weak")["image"]) == set(clean["image"][right])
    near = (minimal["prediction"] != minimal["label"]) & (minimal["linf"] <= 0.1 * (1 + 1e-6))
    standing = right & (weak["prediction"] == weak["label"]) & ~near
    assert set(cascade.only("strong")["image"]) == set(clean["image"][standing])
    assert len(cascade.only("strong")) < len(cascade.only("weak"))
    for name in BATTERY:  # what was attacked came out the same
        rows, kept = whole.only(name), np.isin(whole.only(name)["image"], cascade.only(name)["image"])
        np.testing.assert_array_equal(cascade.only(name)["l2"], rows["l2"][kept])
    assert cascade.whole("clean")
    assert not cascade.whole("strong")
    # Asked for the columns after all, the images that were left out are attacked.
    same(evaluate(model, digits, BATTERY, known=cascade, batch_size=16), whole)


def test_an_attack_from_the_prediction_meets_all_images(model, digits):
    table = evaluate(model, digits, [FromPrediction(MINIMAL)], columns=False)
    assert table.whole(str(FromPrediction(MINIMAL)))


def test_probes_are_columns_and_are_added_to_what_stands(model, digits, whole):
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
    with pytest.raises(ValueError, match="another model"):
        evaluate(Counting().eval(), digits, BATTERY, known=whole)
    with pytest.raises(ValueError, match=r"another attack called weak: FGSM.*0\.1.* now FGSM.*0\.2"):
        evaluate(model, digits, {"weak": FGSM(eps=0.2)}, known=whole)
    with pytest.raises(ValueError, match="another seed"):
        evaluate(model, digits, BATTERY, known=whole, seed=1)
    (batch,) = digits.batches([torch.arange(40)])
    with pytest.raises(ValueError, match=r"other images|not of this model and these images"):
        evaluate(model, (batch.x.flip(0), batch.y.flip(0)), {"other": WEAK}, known=whole)
    other = Counting().eval()  # a function has no fingerprint: its answers tell it
    with pytest.raises(ValueError, match="not of this model"):
        evaluate(lambda x: other(x), digits, {"other": WEAK}, known=whole)


def test_a_killed_evaluation_goes_on(model, digits, whole, tmp_path):
    class Killed(Exception):
        pass

    def until(blocks: int):
        def model_(x):
            if len(list((tmp_path / "parts").glob("*.parquet"))) == blocks:
                raise Killed
            return model(x)

        return model_

    with pytest.raises(Killed):
        evaluate(until(2), digits, BATTERY, batch_size=10, folder=tmp_path)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    # One of the two parts is cut off, as by a full disk: it is told, and made anew.
    part = tmp_path / "parts" / "000002.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"000002\.parquet is not a whole evaluation table.*attacked anew"):
        table = evaluate(lambda x: model(x), digits, BATTERY, batch_size=10, folder=tmp_path)
    same(table, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]
    same(Evaluation.load(tmp_path / "table.parquet"), table, besides=())
    model.count = 0
    evaluate(model, digits, BATTERY, folder=tmp_path, batch_size=10)
    assert model.count == 40  # the functions had no fingerprint, so their answers were asked for once more
    model.count = 0
    evaluate(model, digits, BATTERY, folder=tmp_path, batch_size=10)
    assert model.count == 0


def test_a_table_that_is_cut_off_is_refused_by_name(model, digits, whole, tmp_path):
    whole.save(tmp_path / "table.parquet")
    path = tmp_path / "table.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"table\.parquet is not a whole evaluation table"):
        evaluate(model, digits, BATTERY, folder=tmp_path)


def test_the_table_says_what_it_is_of(model, digits, whole, tmp_path):
    whole.save(tmp_path / "table.parquet")
    about = Evaluation.load(tmp_path / "table.parquet").about
    assert about["data"] == digits.name
    assert len(about["model"]) == 16
    assert about == whole.only("weak").about == whole.about


def test_a_model_that_answers_with_classes_alone(model, digits):
    table = evaluate(lambda x: model(x).argmax(1), digits, [HopSkipJump(steps=2)], columns=False)
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
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = evaluate(network, digits, BATTERY, batch_size=10, executor=pool, columns=False)
    same(ours, evaluate(network, digits, BATTERY, batch_size=10, columns=False))


def test_threads_would_disturb_each_other(model, digits):
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="processes"):
        evaluate(model, digits, [WEAK], executor=pool)


def test_workers_are_counted_from_one():
    assert workers(1) is None
    with pytest.raises(ValueError, match="got 0"):
        workers(0)
