"""TOML to dataclasses: right values arrive, wrong ones are named by their path."""

import tomllib
from dataclasses import dataclass, field
from typing import Literal

import pytest
import tomli_w

from steelman import FGSM, L0, L1, L2, PGD, CarliniWagner, DeepFool, Linf, Training, config
from steelman.attacks import Attack
from steelman.data import CIFAR10, MNIST, Digits, Flip, PadCrop, Source
from steelman.defences import AdversarialTraining, DeepDefense, Objective, Plain, Sum
from steelman.losses import DLR, KL, CrossEntropy, Margin
from steelman.training import SGD, Adam, Cosine, Steps


@dataclass(frozen=True)
class Everything:
    """One field of every kind there is."""

    attack: Attack
    defence: Objective = Plain()
    number: float = 1.0
    count: int = 1
    flag: bool = False
    text: str = "a"
    either: Literal["left", "right"] = "left"
    maybe: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    attacks: dict[str, Attack] = field(default_factory=dict)
    training: Training = Training()


def everything(text: str) -> Everything:
    return config.read(Everything, tomllib.loads(text))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Attack, FGSM(eps=0.3, norm=L2, loss=Margin(50.0), box=None)),
        (Attack, PGD(eps=0.1, steps=3, step_size=0.01, norm=L1, loss=DLR(), restarts=2, early_leave=True)),
        (Attack, PGD(norm=L0, loss=KL())),
        (Attack, PGD(norm=Linf, loss=CrossEntropy(), box=(-1.0, 1.0))),
        (Attack, DeepFool(steps=3)),
        (Attack, CarliniWagner()),
        (Objective, Sum((AdversarialTraining(PGD(), 0.5, "train"), DeepDefense(layers=("fc1", "b.c"))), (1.0, 2.0))),
        (Source, MNIST()),
        (Source, CIFAR10()),
        (
            Training,
            Training(
                optimiser=Adam(betas=(0.5, 0.9)), schedule=Steps((0.1, 0.2)), augment=(PadCrop(2, "reflect"), Flip()),
                ema=0.9, validation=0.1, monitor=FGSM(), micro_batch=3, tensorboard=True,
            ),
        ),
        (Training, Training(optimiser=SGD(nesterov=True), schedule=Cosine(0.1), validation=1000)),
        (Everything, Everything(DeepFool(), attacks={"PGD .1": PGD(), 'a "quoted" name': FGSM()}, maybe=3)),
    ],
)  # fmt: skip
def test_what_is_written_is_read(kind: type, value: object):
    text = tomli_w.dumps({"value": config.write(value)})
    assert config.read(kind, tomllib.loads(text)["value"]) == value


def test_a_bare_name_is_a_kind_without_settings():
    assert config.read(Source, "Digits") == Digits()
    assert everything('attack = "PGD"').attack == PGD()


def test_a_whole_number_may_stand_for_a_float():
    found = everything('attack = { kind = "FGSM", eps = 1 }\nnumber = 2\ntraining = { validation = 100 }')
    assert (found.attack, found.number, found.training.validation) == (FGSM(eps=1.0), 2.0, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "attack: Everything needs it"),
        ('atack = "PGD"', r"atack: Everything has no such setting; did you mean attack\?"),
        ('attack = "PDG"', r"attack\.kind: there is no Attack 'PDG'; did you mean PGD\?"),
        ("attack = { eps = 0.1 }", "attack: needs a kind; there are .*DeepFool.*PGD"),
        ("attack = { kind = 3 }", r"attack\.kind: there is no Attack 3"),
        ("attack = { kind = [] }", r"attack\.kind: there is no Attack \[\]"),
        ("attack = 3", "attack: needs a table; got 3"),
        ('attack = { kind = "PGD", epps = 0.1 }', r"attack\.epps: PGD has no such setting; did you mean eps\?"),
        ('attack = { kind = "PGD", eps = "big" }', r"attack\.eps: Input should be a valid number; got 'big'"),
        ('attack = { kind = "PGD", eps = "0.1" }', r"attack\.eps: .*valid number; got '0\.1'"),
        ('attack = { kind = "PGD", eps = true }', r"attack\.eps: .*valid number; got True"),
        ('attack = { kind = "PGD", steps = true }', r"attack\.steps: .*valid integer; got True"),
        ('attack = { kind = "PGD", steps = 2.5 }', r"attack\.steps: .*valid integer; got 2\.5"),
        ('attack = { kind = "PGD", steps = -1 }', r"attack: PGD needs steps >= 0"),
        ('attack = { kind = "PGD", early_leave = 1 }', r"attack\.early_leave: .*valid boolean; got 1"),
        ('attack = { kind = "PGD", norm = "Linff" }', r"attack\.norm: there is no norm 'Linff'; did you mean Linf\?"),
        ('attack = { kind = "PGD", norm = [] }', r"attack\.norm: there is no norm \[\]"),
        ('attack = { kind = "PGD", loss = "Marginn" }', r"attack\.loss\.kind: .*did you mean Margin\?"),
        ('attack = { kind = "PGD", loss = { kind = "Margin", confidence = [] } }', r"attack\.loss\.confidence: "),
        ('attack = { kind = "PGD", box = [0] }', r"attack\.box: needs 2 values; got 1"),
        ('attack = { kind = "PGD", box = [0, "x"] }', r"attack\.box\[1\]: .*valid number; got 'x'"),
        ('attack = "PGD"\npair = 3', "pair: needs a list; got 3"),
        ('attack = "PGD"\nmany = "1"', "many: needs a list; got '1'"),
        ('attack = "PGD"\nmany = [1, true]', r"many\[1\]: .*valid integer"),
        ('attack = "PGD"\neither = "middle"', "either: Input should be 'left' or 'right'; got 'middle'"),
        ('attack = "PGD"\ntext = 3', "text: .*valid string; got 3"),
        ('attack = "PGD"\nmaybe = "x"', "maybe: .*valid integer; got 'x'"),
        ('attack = "PGD"\nattacks = 3', "attacks: needs a table; got 3"),
        ('attack = "PGD"\n[attacks]\n"PGD .1" = "PGDD"', r'attacks\."PGD \.1"\.kind: .*did you mean PGD\?'),
        ('attack = "PGD"\ndefence = { kind = "Sum", objectives = "Plain" }', r"defence\.objectives: needs a list"),
        (
            'attack = "PGD"\n[defence]\nkind = "Sum"\n'
            'objectives = ["Plain", { kind = "AdversarialTraining", attack = "FGMS" }]',
            r"defence\.objectives\[1\]\.attack\.kind: there is no Attack 'FGMS'; did you mean FGSM\?",
        ),
        ('attack = "PGD"\ntraining = { kind = "Training" }', r"training\.kind: Training has no such setting"),
        ('attack = "PGD"\n[training.optimiser]\nkind = "Adam"\nbetas = [0.9]', r"training\.optimiser\.betas: "),
        ('attack = "PGD"\ntraining = { validation = "half" }', r"training\.validation: .*got 'half'"),
    ],
)  # fmt: skip
def test_every_error_begins_with_its_path(text: str, message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        everything(text)


def test_differences_are_paths():
    ours, theirs = config.write(Everything(PGD(), attacks={"a b": FGSM()})), config.write(Everything(PGD(steps=3)))
    assert config.differences(ours, theirs) == ["attack.steps", 'attacks."a b"']
    assert config.differences(ours, ours) == []
