"""Methods of a user's own, outside of the package: `kind = "module:Class"`, and runs whose module is gone."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelman import FGSM, AttackTraining, config
from steelman.adversaries import Adversary
from steelman.attacks import Attack
from steelman.classes import Unresolved, concrete
from steelman.data import Augmentation
from steelman.defences import Game
from steelman.evaluation import Probe
from steelman.evaluation.battery import load_battery
from steelman.experiments.assess import assess, battery_of, look
from steelman.experiments.attack_train import attack_train
from steelman.experiments.compare import compare
from steelman.experiments.recipe import load_recipe, to_toml
from steelman.experiments.run import Run, train
from steelman.loading import source
from steelman.optimisers import Optimiser
from steelman.report.export import write
from steelman.schedules import Schedule
from steelman.training.prepare import Preparation
from steelman.trust import Untrusted, trusting, written

MODULE = '''
import pathlib
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from steelman import FGSM, L2LDA
from steelman.data import Flip
from steelman.defences import Objective
from steelman.evaluation.probes import LossSensitivity
from steelman.optimisers import Optimiser
from steelman.schedules import Schedule
from steelman.training.prepare import NoisyCopies

pathlib.Path(__file__).with_name("RAN").touch()


@dataclass(frozen=True)
class Scaled(Objective):
    """A loss times a number."""

    factor: float = 1.0

    def __call__(self, model, batch):
        return self.factor * cross_entropy(model(batch.x), batch.y)


@dataclass(frozen=True)
class Halving(Schedule):
    def __call__(self, progress):
        return 0.5**progress


@dataclass(frozen=True)
class Small(Optimiser):
    lr: float = 0.01

    def build(self, parameters):
        return torch.optim.SGD(parameters, lr=self.lr)


@dataclass(frozen=True)
class Weak(FGSM):
    """FGSM under another name."""


@dataclass(frozen=True)
class Turned(Flip):
    """An augmentation."""


@dataclass(frozen=True)
class Noisy(NoisyCopies):
    """A preparation."""


@dataclass(frozen=True)
class Steep(LossSensitivity):
    """A probe."""


@dataclass(frozen=True)
class Learned(L2LDA):
    """A learned adversary."""


class Bare:
    pass


def made():
    return Scaled()
'''
RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = { kind = "mine:Scaled", factor = 2.0 }
prepare = [{ kind = "mine:Noisy", copies = 1 }]
[training]
epochs = 1
images = 100
validation = 50
optimiser = "mine:Small"
schedule = "mine:Halving"
augment = ["mine:Turned"]
monitor = { kind = "mine:Weak", eps = 0.1 }
[evaluation]
images = 20
[evaluation.attacks]
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a module of the user's own and a recipe that names it."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "own.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("steelman.report.document.charts_of", lambda *_: {})  # they take most of a report's time
    yield tmp_path
    forget()


def forget() -> None:
    """The module as if it had never been imported: its classes are known by no name."""
    module = sys.modules.pop("mine", None)
    for each in vars(module).values() if module else ():
        if isinstance(each, type) and each.__module__ == "mine":
            each.__name__ = f"_{each.__name__}"
            each.__qualname__ = f"forgotten.{each.__qualname__}"
    importlib.invalidate_caches()


@pytest.fixture
def run(place: Path) -> Path:
    """A run whose defence, preparation, optimiser, schedule, augmentation and monitor are the user's own."""
    with trusting("mine"):
        return train("own.toml", place / "runs", None).folder


def evaluated(folder: Path) -> None:
    run = Run.open(folder)
    subject, found = look(run.subject(None))
    write(run.results, [assess(subject, battery_of(subject), found, folder=run.results, progress=False)])


KINDS = {"Scaled": Game, "Halving": Schedule, "Small": Optimiser, "Weak": Attack, "Turned": Augmentation}
KINDS |= {"Noisy": Preparation, "Steep": Probe, "Learned": Adversary}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_method_is_read_and_written_by_its_module(name: str, place: Path):
    base, text = KINDS[name], f"mine:{name}"
    with pytest.raises(Untrusted, match=rf"here\.kind names '{text}', which would import .*mine\.py: .* --trust mine"):
        config.read(base, {"kind": text}, "here")
    assert not (place / "RAN").exists()
    with trusting("mine"):
        made = config.read(base, text)
    assert type(made).__name__ == name
    assert isinstance(made, base)
    assert config.write(made)["kind"] == text
    assert config.read(base, config.write(made)) == made  # it is imported now


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mine:Nothing", r"defence\.kind: 'mine:Nothing': 'Nothing' is not there"),
        ("mine:Halving", r"defence\.kind: 'mine:Halving' is not a Game that can be made"),
        ("mine:Bare", r"defence\.kind: 'mine:Bare' is not a Game that can be made"),
        ("mine:made", r"defence\.kind: 'mine:made' is not a Game that can be made"),
        (
            "mine:Objective",
            r"defence\.kind names 'mine:Objective', which leads to steelman.defences.objective:Objective",
        ),
        ("mine:", r"defence\.kind: 'mine:' is not of the form 'module:name'"),
        ("subprocess:Popen", r"defence\.kind names 'subprocess:Popen', of Python's standard library"),
        ("mine:pathlib.Path", r"defence\.kind names 'mine:pathlib\.Path', which leads to pathlib:Path"),
        (
            "mine:torch.nn.Linear",
            r"defence\.kind names 'mine:torch\.nn\.Linear', which leads to torch.*you do not trust",
        ),
        ("steelman.defences.plain:Plain", r"which is part of steelman|what is part of steelman"),
        ("gone:Scaled", r"defence\.kind names 'gone:Scaled', which would import gone, which is not found"),
    ],
)
def test_what_cannot_be_a_defence_is_refused(kind: str, message: str, place: Path):
    with trusting("mine"), pytest.raises(ValueError, match=message):
        config.read(Game, {"kind": kind}, "defence")


def test_a_setting_that_the_class_lacks_is_named(place: Path):
    with trusting("mine"), pytest.raises(ValueError, match=r"own\.toml: defence\.factr: Scaled has no such setting"):
        load_recipe(place / "own.toml", ["defence={ kind = 'mine:Scaled', factr = 1.0 }"])


def test_a_file_is_not_enough_and_what_the_user_has_written_is(place: Path):
    with pytest.raises(Untrusted, match=r"^own\.toml: defence\.kind names 'mine:Scaled', which would import"):
        train("own.toml", place / "runs", None)
    assert not (place / "RAN").exists()
    assert not (place / "runs").exists()
    (place / "plain.toml").write_text('base = "own.toml"\nwithout = ["prepare"]\ndefence = "Plain"')
    with pytest.raises(Untrusted, match=r"own\.toml: training\.optimiser\.kind names 'mine:Small'"):
        load_recipe(place / "plain.toml")
    more = ["training.augment=[]", "training.schedule=Cosine", "training.monitor=FGSM"]
    changes = ["training.optimiser={ kind = 'mine:Small', lr = 0.5 }", *more]
    with written(*changes):
        optimiser: Any = load_recipe(place / "plain.toml", changes).training.optimiser
    assert optimiser.lr == 0.5


def test_a_program_s_own_classes_do_not_hide_those_of_the_package(place: Path):
    (place / "mine.py").write_text(MODULE.replace("class Weak(FGSM)", "class FGSM(FGSM)"))
    with trusting("mine"):
        made = config.read(Attack, "mine:FGSM")
    assert config.read(Attack, "FGSM") == FGSM()
    assert type(made) is not FGSM
    assert concrete(Attack)["FGSM"] is FGSM


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from steelman.defences import Robust", r"mine\.py, line 1: ImportError: cannot import name 'Robust'"),
        ("import no_such_package", r"mine\.py, line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("PGD = FGSN", r"mine\.py, line 1: NameError: name 'FGSN' is not defined"),
        ("def (", r"its module cannot be imported: SyntaxError: invalid syntax \(mine\.py, line 1\)"),
    ],
)
def test_a_module_that_fails_is_an_error_that_names_its_line(place: Path, line: str, message: str):
    (place / "mine.py").write_text(f"{line}\n{MODULE}")
    with trusting("mine"), pytest.raises(ValueError, match=f"attack.kind: 'mine:Weak': .*{message}"):
        config.read(Attack, "mine:Weak", "attack")


def test_a_run_is_evaluated_and_compared_without_its_defence(run: Path, place: Path):
    """As a newcomer would: a file of one's own, a recipe, `train`, `evaluate`, `compare`; then the file is gone."""
    evaluated(run)
    assert "\nScaled: " in compare([run], None, place / "report").document.cited
    before = to_toml(Run.open(run).recipe)
    forget()
    (place / "mine.py").unlink()
    found = Run.open(run)
    assert isinstance(found.recipe.defence, Unresolved)
    assert to_toml(found.recipe) == before
    assert str(found.recipe.defence) == "mine:Scaled (not imported)"
    evaluated(run)  # again, and anew by another battery
    subject, _ = look(found.subject(None))
    assert assess(subject, battery_of(subject, "quick"), images=20, progress=False).evaluation.images == 20
    document = compare([run], None, place / "report").document
    assert "mine:Scaled (not imported)" in document.entries[0].info["defence"]
    assert "\nScaled: " not in document.cited, "it would have to be imported"
    with trusting("mine"), pytest.raises(ValueError, match=r"defence\.kind: 'mine:Scaled': no module named 'mine'"):
        train("own.toml", place / "runs", None)
    with pytest.raises(
        Untrusted, match=r"defence\.kind names 'mine:Scaled', which would import mine, which is not found"
    ):
        train(str(run / "recipe.toml"), place / "runs", None, called="own")


def test_a_run_that_is_not_trusted_is_evaluated_and_its_code_not_run(run: Path, place: Path):
    forget()
    (place / "RAN").unlink()
    evaluated(run)
    (place / "more.toml").write_text(
        f'{RECIPE.split("defence")[0]}\ndefence = "Plain"\nstart = "{run}/best.safetensors"'
    )
    assert train("more.toml", place / "runs", None, ["training.epochs=0"]).recipe.starts  # only the network is needed
    assert not (place / "RAN").exists()


def test_an_attack_that_is_gone_is_refused_when_it_is_to_attack(run: Path, place: Path):
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text + '\n[evaluation.attacks.Gone]\nkind = "gone:Attack"\n')
    subject, _ = look(Run.open(run).subject(None))
    with pytest.raises(
        ValueError, match=r"own: evaluation\.attacks\.Gone\.kind names 'gone:Attack'.*another --battery"
    ):
        battery_of(subject)
    assert battery_of(subject, "quick").attacks


HOSTILE = {
    "attack": '[attacks]\nA = { kind = "mine:Weak" }',
    "attack in an attack": '[attacks]\nA = { kind = "EOT", attack = { kind = "mine:Weak" } }',
    "loss": '[attacks]\nA = { kind = "PGD", loss = "mine:Scaled" }',
    "probe": 'probes = ["mine:Steep"]\n[attacks]\nA = "FGSM"',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_battery_from_somebody_else_runs_no_code(text: str, place: Path):
    (place / "theirs.toml").write_text(text)
    with pytest.raises(Untrusted, match=r"theirs\.toml: .*kind names 'mine:\w+', which would import .*--trust mine"):
        load_battery(place / "theirs.toml")
    assert not (place / "RAN").exists()


def test_use_of_what_is_not_imported_says_what_is_missing(run: Path):
    forget()
    defence: Any = Run.open(run).recipe.defence
    for use in (lambda: defence.factor, lambda: next(defence.updates(None, None))):
        with pytest.raises(ValueError, match=r"defence\.kind names 'mine:Scaled', which would import"):
            use()


def test_an_adversary_and_an_attack_of_one_s_own_are_named_on_the_command_line(run: Path, place: Path):
    with trusting("mine"):
        plain = train("own.toml", place / "runs", None, called="other")
    made = attack_train(plain.folder, "mine:Learned", place / "runs", None, ["training.epochs=0"])
    assert made.folder.name == "Learned-on-other"
    assert isinstance(made.recipe.defence, AttackTraining)
    for folder in (run, plain.folder):
        evaluated(folder)
    found = compare(
        [run, plain.folder], None, place / "report", attacks=["mine:Weak", "{ kind = 'mine:Weak', eps = 0.2 }"]
    )
    assert [each.attack for each in found.document.transfers] == ["Weak()", "Weak(eps=0.2)"]


def test_a_data_set_of_one_s_own_class(place: Path):
    (place / "sets.py").write_text(
        "from dataclasses import dataclass\nfrom steelman.data import Digits\n\n\n"
        "@dataclass(frozen=True)\nclass Few(Digits):\n    number: int = 5\n"
    )
    found: Any = source('{ kind = "sets:Few", number = 7 }')
    assert (type(found).__name__, found.number) == ("Few", 7)
    sys.modules.pop("sets")
