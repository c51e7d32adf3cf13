"""Transfer: matrices against a plain loop over the models, and brute-force transfer of one target against another."""

import pickle
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affine import Another, images, small_net
from steelman.attacks import FGSM, PGD, Surrogate, WorstOf
from steelman.data.memory import InMemory
from steelman.evaluation import evaluate, transfer
from steelman.evaluation.task import seeds_of
from steelman.evaluation.transferability import MeanLogits
from steelman.measures import Transfer, worst_case
from steelman.norms import Linf

VICTIM = small_net()
X = images(16, seed=4)
Y = VICTIM(X).argmax(1)
ATTACK = PGD(eps=0.1, steps=3)


def nets(count: int) -> dict[str, nn.Module]:
    """Near relatives, so that images transfer between them; each is wrong somewhere."""
    found = {}
    for seed in range(count):
        net = small_net(torch.float32)
        with torch.no_grad():
            noise = torch.Generator().manual_seed(seed)
            for value in net.parameters():
                value += 0.05 * torch.randn(value.shape, generator=noise)
        found["ABCD"[seed]] = net
    return found


NETS = nets(4)
DATA = (X.float(), Y)


@pytest.fixture(scope="module")
def matrix() -> Transfer:
    a, b, c, _ = NETS.values()
    return transfer({"A": a, "B": b, "A and B": [a, b]}, {"A": a, "B": b, "C": c}, DATA, ATTACK, batch_size=6)


def by_hand(source: nn.Module, target: nn.Module) -> np.ndarray:
    """Whether each image is right on the target before and after."""
    x, y = DATA
    x_adv = ATTACK(source, x, y, generator=seeds_of(0, str(ATTACK), torch.arange(len(x))))
    return ((target(x).argmax(1) == y) & (target(x_adv).argmax(1) == y)).numpy()


class Mean(nn.Module):
    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(x) + self.two(x)) / 2


def test_every_pair_is_what_a_loop_over_models_finds(matrix: Transfer):
    a, b, *_ = NETS.values()
    sources = {"A": a, "B": b, "A and B": Mean(a, b)}
    assert matrix.sources == tuple(sources)
    assert matrix.targets == ("A", "B", "C")
    right = {(s, t): by_hand(one, NETS[t]) for s, one in sources.items() for t in "ABC"}
    assert len({values.tobytes() for values in right.values()}) > 4, "all pairs are alike: nothing was tested"
    for i, source in enumerate(sources):
        for j, target in enumerate("ABC"):
            assert matrix.accuracy[i][j].value == right[source, target].mean()
    for j, target in enumerate("ABC"):
        assert matrix.clean[j].value == float((NETS[target](DATA[0]).argmax(1) == Y).double().mean())


def test_several_models_answer_with_the_mean_of_their_logits():
    a, b, *_ = NETS.values()
    torch.testing.assert_close(MeanLogits([a, b])(DATA[0]), Mean(a, b)(DATA[0]))


def test_white_boxes_are_marked_and_equal_evaluate(matrix: Transfer):
    assert matrix.white == {("A", "A"), ("B", "B"), ("A and B", "A"), ("A and B", "B")}
    assert [matrix.black(target) for target in "ABC"] == [("B",), ("A",), ("A", "B", "A and B")]
    right = [by_hand(NETS[s], NETS["C"]) for s in "AB"] + [by_hand(Mean(NETS["A"], NETS["B"]), NETS["C"])]
    for target, table in matrix.tables.items():
        black = [name for name in table.attacks if table.record(name).knowledge == "black"]
        assert black == [matrix.from_source(source) for source in matrix.black(target)]
    assert matrix.worst[0] == matrix.accuracy[1][0]
    assert matrix.worst[2].value == np.all(right, axis=0).mean()
    for name in "AB":
        white = evaluate(NETS[name], DATA, [ATTACK]).only(str(ATTACK))
        ours = matrix.tables[name].only(f"{ATTACK} from {name}")
        for column in (
            "image",
            "prediction",
            "clean_prediction",
            "success",
            "l0",
            "l2",
            "linf",
            "x_l2",
            "pixels",
            "forwards",
        ):
            assert np.array_equal(ours[column], white[column]), column
        records = [ours.record(f"{ATTACK} from {name}"), white.record(str(ATTACK))]
        assert [(each.norm, each.eps, each.knowledge, each.reference) for each in records] == [
            ("Linf", 0.1, "white", "label")
        ] * 2
        np.testing.assert_allclose(ours["loss"], white["loss"], rtol=1e-5)


def test_a_copy_of_the_target_is_a_white_box():
    a, b, *_ = NETS.values()
    found = transfer({"copy": deepcopy(a), "A and B": [deepcopy(a), b]}, {"A": a}, DATA, FGSM(eps=0.1))
    assert found.white == {("copy", "A"), ("A and B", "A")}


def test_a_targets_own_table_takes_the_transfer_in(matrix: Transfer):
    own = evaluate(NETS["C"], DATA, [ATTACK])
    both = own + matrix.tables["C"]
    white, black = by_hand(NETS["C"], NETS["C"]), [by_hand(NETS[name], NETS["C"]) for name in "AB"]
    names = [str(ATTACK), matrix.from_source("A"), matrix.from_source("B")]
    assert worst_case(both, names).value == np.all([white, *black], axis=0).mean()


def test_a_saved_matrix_is_extended_and_no_image_is_crafted_twice(matrix: Transfer, tmp_path: Path, monkeypatch):
    a, b, c, d = NETS.values()
    crafted = []
    search = PGD.search
    monkeypatch.setattr(
        PGD, "search", lambda self, oracle, x, *more: crafted.append(len(x)) or search(self, oracle, x, *more)
    )
    folder = tmp_path / "transfer"
    small = transfer({"A": a, "B": b}, {"A": a, "C": c}, DATA, ATTACK, folder=folder)
    assert sum(crafted) == 2 * len(X)
    small.save(tmp_path / "small")
    for place in (folder, tmp_path / "small"):
        loaded = Transfer.load(place)
        assert (loaded.attack, loaded.sources, loaded.targets, loaded.white) == (
            small.attack,
            ("A", "B"),
            ("A", "C"),
            {("A", "A")},
        )
        assert loaded.accuracy == small.accuracy
    wide = {"A": a, "B": b, "C": c, "D": d}
    more = transfer({"A": a, "B": b, "D": d}, wide, DATA, ATTACK, folder=folder, batch_size=5)
    assert sum(crafted) == 3 * len(X), "only D's images are new"
    anew = transfer({"A": a, "B": b, "D": d}, wide, DATA, ATTACK)
    assert more.white == anew.white == {(name, name) for name in "ABD"}
    for name in "ABCD":
        ours, theirs = more.tables[name], anew.tables[name]
        assert ours.about["model"] == theirs.about["model"]
        assert ours.records == theirs.records
        for column in ("image", "attack", "record", "pixels", "prediction", "l2", "gradients", "forwards"):
            assert ours[column].tolist() == theirs[column].tolist()
    turned = transfer({"D": d, "A": a}, {"C": c}, DATA, ATTACK, folder=folder)
    assert (turned.sources, turned.accuracy) == (("D", "A"), (more.accuracy[2][2:3], more.accuracy[0][2:3]))
    crafted.clear()
    assert transfer({"A": a}, {"C": c}, DATA, ATTACK, known=more).accuracy == ((small.accuracy[0][1],),)
    assert crafted == []
    with pytest.raises(ValueError, match=r"another attack called .* from A: attack.eps 0\.1, now 0\.2"):
        transfer({"A": a}, {"C": c}, DATA, PGD(eps=0.2, steps=3), name=str(ATTACK), known=more)
    with pytest.raises(ValueError, match=r"another attack called .* from A: model"):
        transfer({"A": d}, {"C": c}, DATA, ATTACK, known=more)
    with pytest.raises(ValueError, match="is of another model"):
        transfer({"A": a}, {"C": d}, DATA, ATTACK, known=more)
    with pytest.raises(ValueError, match="known or folder, not both"):
        transfer({"A": a}, {"C": c}, DATA, ATTACK, known=more, folder=folder)
    fewer = replace(small, tables={"C": small.tables["C"].of_images(range(5))})
    whole = transfer({"A": a}, {"C": c}, DATA, ATTACK, known=fewer, batch_size=4)
    assert whole.accuracy == ((small.accuracy[0][1],),)
    assert sum(crafted) == len(X) - 5
    part = transfer({"A": a}, {"C": c}, (X[:5].float(), Y[:5]), ATTACK, known=more)
    assert part.tables["C"].images == 5


def test_a_source_that_was_killed_goes_on(tmp_path: Path, monkeypatch):
    a, _, c, _ = NETS.values()
    crafted, search = [], PGD.search

    def searched(self, oracle, x, *more):
        if len(crafted) == 2:
            raise KeyboardInterrupt
        crafted.append(len(x))
        return search(self, oracle, x, *more)

    monkeypatch.setattr(PGD, "search", searched)
    with pytest.raises(KeyboardInterrupt):
        transfer({"A": a}, {"A": a, "C": c}, DATA, ATTACK, batch_size=4, folder=tmp_path)
    crafted.append(-sum(crafted))
    found = transfer({"A": a}, {"A": a, "C": c}, DATA, ATTACK, batch_size=4, folder=tmp_path)
    assert crafted == [4, 4, -8, 4, 4]
    anew = transfer({"A": a}, {"A": a, "C": c}, DATA, ATTACK, batch_size=4)
    assert (found.accuracy, found.clean, found.worst) == (anew.accuracy, anew.clean, anew.worst)


class Elsewhere(Executor):
    """Sends the work away, as far as that can be told here: it is pickled."""

    def submit(self, fn, /, *args, **kwargs):
        sent = pickle.loads(pickle.dumps((fn, args, kwargs)))
        future: Future = Future()
        future.set_result(sent[0](*sent[1], **sent[2]))
        return future


def test_other_workers_and_a_part_of_a_data_set_change_nothing():
    """Places in the data set are not places in the part, and work is sent away and comes back in any order."""
    sources, targets = {"A": NETS["A"]}, {"C": NETS["C"]}
    whole = InMemory("some", *DATA, tuple("abcdefghij"))
    part = whole.subset(torch.tensor([11, 5, 14, 7, 2]))
    plain = transfer(sources, targets, part, ATTACK, batch_size=5)
    other = transfer(sources, targets, part, ATTACK, batch_size=2, executor=Elsewhere())
    assert plain.tables["C"].only(f"{ATTACK} from A")["image"].tolist() == [2, 5, 7, 11, 14]
    everything = transfer(sources, targets, whole, ATTACK).tables["C"].only(f"{ATTACK} from A")
    same = plain.tables["C"].only(f"{ATTACK} from A")
    assert same["prediction"].tolist() == everything["prediction"][same["image"]].tolist()
    for column in ("image", "attack", "clean_prediction", "prediction", "linf"):
        assert plain.tables["C"][column].tolist() == other.tables["C"][column].tolist()


def test_each_source_may_have_an_attack_of_its_own():
    a, b, c, _ = NETS.values()
    other = FGSM(eps=0.1)
    found = transfer({"A": a, "B": b}, {"C": c}, DATA, {"A": ATTACK, "B": other}, name=str(ATTACK))
    records = [found.tables["C"].record(f"{ATTACK} from {source}") for source in "AB"]
    assert [(record.settings or {})["attack"]["kind"] for record in records] == ["PGD", "FGSM"]
    x_adv = other(b, *DATA)
    fallen = (c(DATA[0]).argmax(1) == Y) & (c(x_adv).argmax(1) == Y)
    assert found.accuracy[1][0].value == float(fallen.double().mean())
    with pytest.raises(ValueError, match="no attack for the source B"):
        transfer({"A": a, "B": b}, {"C": c}, DATA, {"A": ATTACK})


def test_impossible_transfers_are_refused():
    a, b = NETS["A"], NETS["B"]
    with pytest.raises(ValueError, match="threads would change"):
        transfer({"A": a}, {"B": b}, DATA, ATTACK, executor=ThreadPoolExecutor(1))
    with pytest.raises(ValueError, match="at least one source and one target"):
        transfer({}, {"A": a}, DATA, ATTACK)
    with pytest.raises(ValueError, match="source and the target called A are different models"):
        transfer({"A": a}, {"A": b}, DATA, ATTACK)
    with pytest.raises(ValueError, match="A answers for 10 classes and B for 12: only models of the same data"):
        transfer({"A": a}, {"B": small_net(torch.float32, classes=12)}, DATA, ATTACK)
    with pytest.raises(ValueError, match=r"B cannot take images of shape \(1, 4, 6\), so it is of other data"):
        transfer({"A": a}, {"B": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, DATA, ATTACK)


def test_a_folder_or_table_that_is_no_transfer_is_refused(matrix: Transfer, tmp_path: Path):
    evaluate(NETS["A"], DATA, []).save(tmp_path / "table.parquet")
    with pytest.raises(ValueError, match=r"table\.parquet is not a saved transfer"):
        Transfer.load(tmp_path / "table.parquet")
    with pytest.raises(FileNotFoundError, match=r"has no transfer\.json: `transfer` and `save` write one"):
        Transfer.load(tmp_path)
    matrix.save(tmp_path)
    index = tmp_path / "transfer.json"
    for text in (index.read_text()[:-9], "{}", "[]"):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"transfer\.json is not what a transfer writes"):
            Transfer.load(tmp_path)


def test_targets_whose_names_are_no_folders_have_folders_of_their_own(tmp_path: Path):
    names = ("a b", "a-b", "../a b", "ä/b")
    found = transfer({"A": NETS["A"]}, dict.fromkeys(names, NETS["B"]), DATA, FGSM(eps=0.1), folder=tmp_path / "in")
    assert len(list((tmp_path / "in").glob("*/table.parquet"))) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert Transfer.load(tmp_path / "in").accuracy == found.accuracy


def test_a_model_that_answers_with_classes_alone_can_be_a_target():
    found = transfer({"A": NETS["A"]}, {"hard": lambda x: NETS["B"](x).argmax(1)}, DATA, FGSM(eps=0.1))
    soft = transfer({"A": NETS["A"]}, {"soft": NETS["B"]}, DATA, FGSM(eps=0.1))
    assert found.accuracy == soft.accuracy


def test_an_image_is_broken_if_any_surrogate_fools_the_target() -> None:
    attack = PGD(eps=0.15, steps=6, random_start=False)
    surrogates = [Another(seed) for seed in range(1, 6)]
    crafted = [attack(each, X, Y) for each in surrogates]
    falls = torch.stack([VICTIM(image).argmax(1) != Y for image in crafted])
    assert bool((falls.any(0) & ~falls[0]).any()), "more surrogates were of no use: nothing was tested"
    assert not bool(falls.any(0).all())
    for count in (1, 3, 5):
        brute = WorstOf(tuple(Surrogate(attack, each) for each in surrogates[:count]))
        result = brute.run(VICTIM, X, Y)
        assert torch.equal(result.success, falls[:count].any(0))
        assert (Linf.size(result.x_adv - X) <= 0.15).all()
        for row in torch.where(result.success)[0].tolist():
            assert any(torch.equal(result.x_adv[row], image[row]) for image in crafted)
