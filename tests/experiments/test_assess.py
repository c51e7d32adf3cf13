"""From a subject to an entry: the check-up, the battery, the table that grows, and the verb over all of it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steelman import FGSM, HopSkipJump, Square
from steelman.data import Digits, InMemory
from steelman.evaluation.battery import Battery, named_battery
from steelman.experiments.assess import assess, attacked, battery_of, look, reference_of
from steelman.loading.subject import Subject
from steelman.networks import MLP, BlackBox, LogOfProbabilities, Normalise, Preprocessed
from steelman.norms import L2
from steelman.table.places import tables_in
from steelman.table.table import Evaluation

BATTERY = Battery(
    {"FGSM": FGSM(eps=0.1), "Square": Square(eps=0.1, queries=5)},
    {"HopSkipJump": HopSkipJump(norm=L2, steps=1, evaluations=5)},
    images=12,
)


def nearest_mean() -> MLP:
    """The class whose mean image is nearest, as a linear model: right on nine digits of ten."""
    train = next(Digits().load("train").in_order(2000))
    means = torch.stack([train.x[train.y == label].flatten(1).mean(0) for label in range(10)])
    network = MLP(shape=(1, 8, 8), hidden=[])
    with torch.no_grad():
        network.fc1.weight.copy_(means)
        network.fc1.bias.copy_(-means.square().sum(1) / 2)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> MLP:
    return nearest_mean()


@pytest.fixture
def subject(network: MLP, tmp_path: Path) -> Subject:
    digits = Digits()
    return Subject(
        "model", network, digits.load("test"), lambda: digits.load("train"), tmp_path / "evaluation", data="Digits"
    )


def of(subject: Subject, model: nn.Module) -> Subject:
    return replace(subject, model=model)


def test_attacks_ask_no_more_than_the_check_up_found(subject: Subject, network: MLP, recwarn):
    seen, found = look(subject)
    assert (seen.model, found.access) == (network, "gradients")
    seen, found = look(of(subject, BlackBox(network)))
    assert found.access == "scores"
    entry = assess(seen, BATTERY, found, adaptive="never", progress=False)
    assert entry.evaluation.attacks == ("Square", "HopSkipJump")
    assert (entry.checkup, entry.name, entry.evaluation.images) == (found, "model", 12)
    assert repr(entry).startswith("Entry('model', Evaluation(12 images, pixels, accuracy: clean ")
    assert "| clean accuracy |" in entry._repr_markdown_()
    assert found._repr_html_().count("<tr>") == len(found.findings)
    seen, found = look(subject, "decisions")
    entry = assess(seen, BATTERY, found, adaptive="never", progress=False)
    assert entry.evaluation.attacks == ("HopSkipJump",)
    assert found.access == "decisions"
    assert found.findings[-1].found == "attacks see decisions alone, as requested"
    x = next(subject.test.in_order(9)).x
    assert torch.equal(seen.model(x), network(x).argmax(1))
    seen, found = look(subject, "scores")
    entry = assess(seen, BATTERY, found, progress=False)
    records = [record for record in entry.evaluation.records if record.kind]
    assert len(records) > 2  # what is suspected is attacked, by what was allowed
    assert {record.access for record in records} == {"scores", "decisions"}
    assert torch.equal(seen.model(x), network(x))
    assert not seen.model(x).requires_grad
    with pytest.raises(ValueError, match=r"--access gradients: the check-up found that model gives scores and no more"):
        look(of(subject, BlackBox(network)), "gradients")


def test_probabilities_are_attacked_through_their_logs(subject: Subject, network: MLP):
    plain = assess(*_looked(subject), progress=False).evaluation
    for before in (nn.Identity(), Normalise(shape=(1, 8, 8), mean=[0.0], std=[1.0])):
        certain = nn.Sequential(network, nn.Softmax(1)).eval()
        model = Preprocessed(before, certain).eval() if isinstance(before, Normalise) else certain
        seen, battery, found = _looked(of(subject, model))
        inner = seen.model.network if isinstance(seen.model, Preprocessed) else seen.model
        assert isinstance(inner, LogOfProbabilities)
        assert found.findings[-1].found == "log p of its probabilities p is what attacks see"
        assert seen.space == ("preprocessed" if isinstance(before, Normalise) else "pixels")
        table = assess(seen, battery, found, progress=False).evaluation
        assert (table["prediction"] == plain["prediction"]).all()


def _looked(subject: Subject):
    seen, found = look(subject)
    return seen, replace(BATTERY, attacks={"FGSM": FGSM(eps=0.1)}, black_box={}), found


class Odd(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            RuntimeError("mat1 and mat2"),
            r"model fails on images of shape \(100, 1, 8, 8\): RuntimeError: mat1 and mat2",
        ),
        ("seven", r"model fails on images of .*the model returns a str\. It must return logits"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused(answer: object, message: str, subject: Subject):
    with pytest.raises(ValueError, match=message):
        look(of(subject, Odd(answer)))


class Few(nn.Module):
    def __init__(self, network: nn.Module, logits: int) -> None:
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[:, : self.logits]


def test_labels_that_cannot_be_right_are_refused_before_anything_is_attacked(subject: Subject, network: MLP):
    with pytest.raises(ValueError, match=r"model answers with 5 logits, .* label 9 has no class"):
        look(of(subject, Few(network, 5)))
    test = next(subject.test.in_order(2000))
    first = InMemory("from 1", test.x, test.y + 1, tuple(map(str, range(11))))
    with pytest.raises(ValueError, match=r"label 10 has no class among them\. Labels begin with 1: subtract it"):
        look(replace(subject, test=first))


def test_the_battery_is_the_subjects_own_or_quick(subject: Subject):
    assert battery_of(subject) == named_battery("quick", data="Digits")
    assert battery_of(subject, "standard", L2, 0.5, survivors_only=False) == replace(
        named_battery("standard", norm=L2, eps=0.5), survivors_only=False
    )
    own = replace(subject, battery=BATTERY)
    assert battery_of(own) == BATTERY
    assert battery_of(own, "quick", eps=0.1) == named_battery("quick", eps=0.1)
    for words in ({"norm": L2}, {"eps": 0.1}):
        with pytest.raises(
            ValueError, match=r"model has attacks of its own, with their norms and radii: give --battery"
        ):
            battery_of(own, **words)


def test_a_table_is_extended_and_never_made_again(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    folder, asked = subject.results, []
    search = FGSM.search
    monkeypatch.setattr(
        FGSM, "search", lambda self, oracle, x, *rest: asked.append(len(x)) or search(self, oracle, x, *rest)
    )

    def table(images: int, **how) -> Evaluation:
        attacks = {"FGSM": FGSM(eps=0.1), **how.pop("more", {})}
        found = attacked(subject, Battery(attacks, images=images), folder=folder, progress=False, **how)
        assert list(found) == ["pixels"]
        return found["pixels"]

    first = table(8)
    assert asked == [8]
    assert table(8).table.equals(first.table)
    assert asked == [8]
    more = table(12, more={"half": FGSM(eps=0.05)})
    assert (asked, more.images, more.attacks) == ([8, 4, 12], 12, ("FGSM", "half"))
    with pytest.raises(ValueError, match=r"table\.parquet holds 12 images, and 8 are to be evaluated: .*--fresh"):
        table(8)
    with pytest.raises(ValueError, match=r"of another model, with other classes.*--fresh"):
        attacked(of(subject, BlackBox(subject.model)), Battery({}, images=12), folder=folder, progress=False)
    with pytest.raises(ValueError, match=r"another attack called FGSM: eps 0\.1, now 0\.2.*--fresh"):
        attacked(subject, Battery({"FGSM": FGSM(eps=0.2)}, images=12), folder=folder, progress=False)
    assert table(8, fresh=True).images == 8


def test_what_a_killed_evaluation_left_is_repaired_or_refused_by_name(subject: Subject):
    folder = subject.results
    battery = Battery({"FGSM": FGSM(eps=0.1)}, images=8)
    whole = attacked(subject, battery, folder=folder, progress=False)["pixels"]
    content = (folder / "table.parquet").read_bytes()
    (folder / "table.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"table\.parquet is not a whole evaluation table.*--fresh begins a new one"):
        attacked(subject, battery, folder=folder, progress=False)
    (folder / "parts").mkdir()
    (folder / "table.parquet").rename(folder / "parts" / "000001.parquet")
    with pytest.warns(UserWarning, match=r"000001\.parquet is not a whole evaluation table.*attacked again"):
        again = attacked(subject, battery, folder=folder, progress=False)["pixels"]
    assert (again["prediction"] == whole["prediction"]).all()
    assert not (folder / "parts").exists()


def test_deep_defenses_measures_have_a_table_of_the_space_of_their_model(subject: Subject, network: MLP):
    normalised = of(subject, Preprocessed(Normalise(shape=(1, 8, 8), mean=[0.5], std=[0.5]), network).eval())
    battery = Battery({"FGSM": FGSM(eps=0.1)}, images=20, deep_defense=True)
    own = {
        "DeepFool 5",
        "DeepFool 50",
        "minimal FGSM",
        *(f"FGSM({share} eps_ref)" for share in ("0.2", "0.5", "1.0")),
    }
    for folder in (None, subject.results / "normalised"):
        tables = attacked(normalised, battery, folder=folder, progress=False)
        assert {space: (set(table.attacks), table.space) for space, table in tables.items()} == {
            "pixels": ({"FGSM"}, "pixels"),
            "preprocessed": (own, "preprocessed"),
        }
    found = tables_in(subject.results / "normalised")
    assert list(found) == ["pixels", "preprocessed"]
    assert all(found[space].table.equals(tables[space].table) for space in tables)
    entry = assess(normalised, battery, folder=subject.results / "normalised", progress=False)
    assert entry.spaces.keys() == {"pixels", "preprocessed"}
    assert {"accuracy, FGSM", "rho_2, DeepFool 5 (preprocessed)"} <= set(entry.measures)
    for folder in (None, subject.results):
        tables = attacked(subject, battery, folder=folder, progress=False)
        assert list(tables) == ["pixels"]
        assert set(tables["pixels"].attacks) == {"FGSM", *own}
    given = attacked(subject, battery, eps_ref=0.5, progress=False)["pixels"]
    assert given.record("FGSM(0.5 eps_ref)").eps == 0.25
    eps_ref = reference_of(replace(subject, battery=battery))
    assert tables["pixels"].record("FGSM(1.0 eps_ref)").eps == eps_ref


MODULE = """
import torch

def linear(classes):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
"""


def test_any_model_goes_from_the_command_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call):
    name = f"any_{tmp_path.parent.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "own.toml").write_text('images = 9\n[attacks.FGSM]\nkind = "FGSM"\neps = 0.1\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ("--data", "Digits", "--battery", "own.toml", "--mean", "0.5", "--std", "0.5")
    code, out, err = call("evaluate", f"{name}:linear", *words)
    assert (code, err) == (0, "")
    for part in ("logits of 10 classes", "accuracy, FGSM", "report: evaluations/linear/report.html"):
        assert part in out
    told = json.loads((tmp_path / "evaluations" / "linear" / "results.json").read_text())["models"]["linear"]
    assert (told["images"], told["checkup"]["access"]) == (9, "gradients")
    assert told["info"]["input"] == "normalised by mean 0.5, std 0.5"
    (made,) = told["about"]["made"]
    assert made["command"] == f"steelman evaluate {name}:linear {' '.join(words)}"
    code, _, err = call("evaluate", f"{name}:linear", *words[:4], "--folder", "evaluations/linear")
    assert code == 2
    assert re.search(r"steelman: the table is of another model, with other .*\(--fresh, or another --folder\)", err)
