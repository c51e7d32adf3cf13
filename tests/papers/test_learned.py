"""Learned attacks of an evaluation: a generator is trained against each network, and then attacks it like others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steelman import L2LDA, AttackTraining
from steelman.checkpoint import trained_weights
from steelman.evaluation.evaluation import evaluate
from steelman.evaluation.transferability import transfer
from steelman.experiments.run import Run
from steelman.measures import accuracy
from steelman.papers.costs import seconds_of
from steelman.papers.jobs import Jobs, Trained
from steelman.papers.paper import Cell, load_paper
from steelman.papers.reproduce import missing, reproduce
from steelman.papers.results import Reader, Results

PLAIN = """
data = "Digits"
network = { kind = "MLP", hidden = [16] }
defence = "Plain"
training = { epochs = 2, batch_size = 64, optimiser = { kind = "Adam", lr = 0.02 }, seed = 7 }
"""
DEFENDED = """
base = "plain.toml"
defence = { kind = "L2LDA", eps = 0.2, steps = 2, width = 2, normalise = "rms" }
training.images = 100
"""
ATTACK = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
start = "plain.toml"

[defence]
kind = "AttackTraining"

[defence.adversary]
kind = "L2LDA"
eps = 0.4
steps = 2
step_size = 0.2
width = 2
normalise = "rms"
optimiser = { kind = "Adam", lr = 0.02 }

[training]
epochs = 1
images = 100
validation = 40
batch_size = 10
"""
PAPER = """
[paper]
title = "A small paper"
authors = ["A. Nonymous"]

[scale.night]
what = "no training of generators"
training = [{ recipes = "attack", set = ["training.epochs=0"] }]

[evaluation.white]
images = 60
attacks."FGSM" = { kind = "FGSM", eps = 0.2 }
learned."own" = "ROOT/attack.toml"
learned."begun" = { recipe = "ROOT/attack.toml", begin = "ROOT/defended.toml", attack = { step_size = 0.1 } }

[evaluation.black]
images = 60
source = { recipe = "ROOT/plain.toml", set = ["training.seed=8"] }
learned."own" = "ROOT/attack.toml"

[table.1]
caption = "Two networks."
columns = ["FGSM", "own", "begun"]
unit = "%"
evaluation = "white"
measures = ["accuracy, FGSM", "accuracy, own", "accuracy, begun"]
extra_columns = [{ name = "black", unit = "%", measure = "accuracy, own", evaluation = "black" }]

[[table.1.rows]]
name = "Plain"
values = [1, 2, 3]
recipe = "ROOT/plain.toml"

[[table.1.rows]]
name = "Defended"
values = [1, 2, 3]
recipe = "ROOT/defended.toml"
measures = ["accuracy, FGSM", "accuracy, own", "", ""]
"""
NAMES = {"plain", "defended", "plain,training.seed=8"}


def make(root: Path, **more):
    return reproduce(str(root / "small.toml"), runs=root / "runs", folder=root / "pages", say=lambda text: None, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("learned")
    for name, text in (("plain", PLAIN), ("defended", DEFENDED), ("attack", ATTACK), ("small", PAPER)):
        (root / f"{name}.toml").write_text(text.replace("ROOT", str(root)))
    found = make(root)
    assert not found.failed
    assert found.results.networks.keys() == NAMES | {
        *(f"attack-on-{name}" for name in NAMES),
        "attack-from-defended-on-plain",
        "attack-from-defended-on-defended",
    }
    return root


def reader(root: Path) -> Reader:
    paper = load_paper(str(root / "small.toml"))
    return Reader(paper, Results.load(root / "pages", paper.name))


def value(root: Path, row: int, column: int) -> float:
    found = reader(root)
    cell: Cell = found.paper.tables["1"].rows[row].cells[column]
    number = found.value(cell)
    assert number is not None
    assert number.images == 60
    return number.value


def by_hand(root: Path, generator: str, crafted_on: str, tested_on: str, name: str, step_size: float = 0.2) -> float:
    """Accuracy under the generator of a run, from its weights; an attack's noise is its name's."""
    source, target = (Run.open(root / "runs" / each).subject(None) for each in (crafted_on, tested_on))
    test = target.sample(60)
    adversary = L2LDA(eps=0.4, steps=2, step_size=step_size, width=2, normalise="rms")
    attack = adversary.with_generator(Run.open(root / "runs" / generator).player("generator", test))
    if crafted_on == tested_on:
        return accuracy(evaluate(target.model, test, {name: attack}, progress=False), name).value
    found = transfer({"source": source.model}, {"target": target.model}, test, attack, name=name, progress=False)
    return found.accuracy[0][0].value


def test_a_generator_is_trained_against_the_network_of_its_cell(root: Path):
    for name in NAMES:
        run = Run.open(root / "runs" / f"attack-on-{name}")
        assert isinstance(run.recipe.defence, AttackTraining)
        assert run.recipe.network["hidden"] == [16]  # the cell's, not the recipe's own
        victim = trained_weights(root / "runs" / name)
        frozen = trained_weights(run.folder)
        assert all(torch.equal(frozen[key], victim[key]) for key in victim)


def test_a_cell_is_the_accuracy_under_its_own_generator(root: Path):
    assert value(root, 0, 1) == by_hand(root, "attack-on-plain", "plain", "plain", "own")
    assert value(root, 1, 1) == by_hand(root, "attack-on-defended", "defended", "defended", "own")
    assert value(root, 0, 2) == by_hand(root, "attack-from-defended-on-plain", "plain", "plain", "begun", 0.1)


def test_a_black_box_generator_is_trained_against_the_source(root: Path):
    source = "plain,training.seed=8"
    assert value(root, 0, 3) == by_hand(root, f"attack-on-{source}", source, "plain", "own")


def test_a_row_has_measures_of_its_own_for_the_columns_of_ours_too(root: Path):
    cells = reader(root).paper.tables["1"].rows[1].cells
    assert [cell.measure for cell in cells] == ["accuracy, FGSM", "accuracy, own", "", ""]
    assert [cell.network is None for cell in cells] == [False, False, True, True]


def test_training_goes_on_from_the_generator_that_is_named(root: Path):
    """Without a batch of training it is that generator."""
    found = make(root, scale="night")
    assert not found.failed
    name = "attack-night-from-defended-on-plain"
    assert found.results.networks[name]["reduced"] == "no training of generators"
    assert found.results.evaluations["plain / white-night"]["reduced"] == "no training of generators"
    begun, own = (trained_weights(root / "runs" / each, net="generator") for each in ("defended", name))
    assert begun.keys() == own.keys()
    assert all(torch.equal(begun[key], own[key]) for key in begun)
    best = reader(root).value(found.paper.tables["1"].rows[0].cells[1])
    assert best is not None
    assert best.scale == "paper"


def left(root: Path, old: str, new: str) -> list[str]:
    path = root / "other.toml"
    path.write_text((root / "small.toml").read_text().replace(old, new))
    results = Results.load(root / "pages", "small")
    return [job.name for job in missing(load_paper(str(path)), results, "paper", 1, root / "runs")]


def test_only_what_changes_is_done_again(root: Path):
    assert left(root, "", "") == []
    evaluations = ["plain / white", "defended / white"]
    assert left(root, "step_size = 0.1", "step_size = 0.15") == evaluations
    (root / "longer.toml").write_text('base = "attack.toml"\ntraining.epochs = 2\n')
    found = left(root, f'"own" = "{root}/attack.toml"', f'"own" = "{root}/longer.toml"')
    assert sorted(found) == sorted([*(f"longer-on-{name}" for name in NAMES), *evaluations, "plain / black"])
    paper = load_paper(str(root / "small.toml"))
    network = paper.tables["1"].rows[0].cells[0].network
    assert network is not None
    jobs = Jobs(paper, "paper", 0, root / "runs")
    victim = jobs.trained(network)
    others = [victim, replace(victim, digest="of other weights")]
    for learned in paper.evaluations["white"].learned.values():
        assert len({jobs.generator(learned, each).digest for each in others}) == 2


def test_jobs_come_after_what_they_need(root: Path):
    jobs = missing(load_paper(str(root / "small.toml")), Results("small"), "paper", 1, root / "runs")
    names = [job.name for job in jobs]
    for job in jobs:
        needs = job.needs
        assert all(names.index(need.name) < names.index(job.name) for need in needs)
    assert sum(isinstance(job, Trained) for job in jobs) == len(jobs) - 3


def test_the_cost_of_a_generator_is_known_before_its_network_is_trained(root: Path, tmp_path: Path):
    """Of ten times the epochs it is more; the absolute number is the machine's."""
    paper = load_paper(str(root / "small.toml"))
    network = paper.tables["1"].rows[0].cells[2].network
    assert network is not None
    job = Jobs(paper, "paper", 0, tmp_path).measured(network, paper.evaluations["white"]).learned[1]
    assert job.name == "attack-from-defended-on-plain"
    longer = replace(job, recipe=replace(job.recipe, training=replace(job.recipe.training, epochs=10)))
    one, ten = seconds_of(job, tmp_path, None), seconds_of(longer, tmp_path, None)
    assert one is not None
    assert ten is not None
    assert 0 < one < ten


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"own" = "ROOT/attack.toml"', '"own" = "ROOT/plain.toml"', "does not attack a classifier"),
        ("step_size = 0.1", "step_sise = 0.1", "step_sise"),
        ("begin =", "began =", r"evaluation\.white\.learned\.began: there is no such key.*begin"),
        ('"accuracy, own", "", ""]', '"", "", "", ""]', "5 entries for 4"),
    ],
)
def test_a_wrong_attack_is_refused(old: str, new: str, message: str, root: Path):
    path = root / "wrong.toml"
    text = PAPER.replace(old, new).replace("ROOT", str(root))
    assert old in PAPER
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        _measured(path)


def _measured(path: Path) -> None:
    paper = load_paper(str(path))
    network = paper.tables["1"].rows[0].cells[1].network
    assert network is not None
    Jobs(paper, "paper", 0, path.parent / "runs").measured(network, paper.evaluations["white"])
