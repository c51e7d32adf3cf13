"""TOML to dataclasses: right values arrive, wrong ones are named by their path."""

import math
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest
import tomli_w
import torch

from every_attack import ATTACKS
from every_defence import DEFENCES
from steelman import FGSM, L0, L1, L2, PGD, CarliniWagner, DeepFool, Linf, Training, config
from steelman.attacks import Attack
from steelman.data import CIFAR10, MNIST, Augmentation, Digits, Flip, PadCrop, Source
from steelman.defences import AdversarialTraining, DeepDefense, Free, Game, Objective, Plain, Sum
from steelman.evaluation import Probe
from steelman.experiments.recipe_file import changed, parts_of
from steelman.experiments.sweep import _values
from steelman.losses import DLR, KL, CrossEntropy, Loss, Margin
from steelman.optimisers import Optimiser
from steelman.schedules import Schedule
from steelman.training import SGD, Adam, Cosine, Steps
from steelman.training.prepare import Preparation


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


@dataclass(frozen=True)
class WithNetwork:
    network: dict[str, Any]


def everything(text: str) -> Everything:
    return config.read(Everything, tomllib.loads(text))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Attack, FGSM(eps=0.3, norm=L2, loss=Margin(50.0), box=None)),
        (Attack, PGD(eps=0.1, steps=3, step_size=0.01, norm=L1, loss=DLR(), restarts=2, stop_early=True)),
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
        ('attack = { kind = "PGD", stop_early = 1 }', r"attack\.stop_early: .*valid boolean; got 1"),
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


def test_a_class_that_is_no_dataclass_is_refused():
    """Not by a TypeError of dataclasses."""

    class Bare(Objective):
        def __call__(self, *_: Any) -> Any: ...

    with pytest.raises(ValueError, match=r"^defence: test_config:.*Bare is no dataclass, so nothing says"):
        everything('attack = "PGD"\ndefence = "Bare"')


def test_differences_are_paths():
    ours, theirs = config.write(Everything(PGD(), attacks={"a b": FGSM()})), config.write(Everything(PGD(steps=3)))
    assert config.differences(ours, theirs) == ["attack.steps", 'attacks."a b"']
    assert config.differences(ours, ours) == []


ALLOWED = {
    ("DeepDefense", "p"): (math.inf,),
    ("DeepFool", "p"): (math.inf,),
    ("DeepFool", "slack"): (math.inf,),  # every rival class is considered
    ("FAB", "slack"): (math.inf,),
    ("L2LDA", "clip_norm"): (math.inf,),  # gradients are not clipped
    ("Margin", "confidence"): (math.inf,),  # never switches the gradient off, the default
    ("JSMA", "theta"): (-1,),  # darkens instead of brightening
    ("Sum", "weights"): (-1,),  # ascends an objective
    ("Training", "seed"): (-1,),
}
"""Numbers that are right, though not finite or negative."""


def methods() -> Iterator[tuple[type, Any]]:
    """Of everything that a recipe may name, one with the settings it has by itself, and those of the tests' tables."""
    for base in (Attack, Game, Source, Augmentation, Optimiser, Schedule, Preparation, Loss, Probe):
        for kind in config.concrete(base).values():
            if kind.__module__.startswith("steelman."):
                with suppress(TypeError):  # it has settings without a default; the tables below have it
                    yield base, kind()
    yield from ((Attack, case.attack) for case in ATTACKS)
    yield from ((Game, game) for game in DEFENCES.values())
    yield Training, Training()


def numbers(hint: Any) -> bool:
    """Whether a setting is a number, or several."""
    return bool({float, int} & {hint, *get_args(hint), *(part for each in get_args(hint) for part in get_args(each))})


def test_no_setting_is_nan_infinite_or_negative_by_mistake() -> None:
    tried, let_through = set(), set()
    for base, method in methods():
        written = config.write(method)
        try:
            config.read(base, written)
        except ValueError:  # it holds a network, which no file does
            continue
        for item in fields(method):
            hint = get_type_hints(type(method))[item.name]
            setting = (type(method).__name__, item.name)
            if not item.init or not numbers(hint) or setting in tried:
                continue
            tried.add(setting)
            for value in (math.nan, math.inf, -1):
                now = written.get(item.name)  # None where a setting that came later has its default
                several = isinstance(now, list) or (item.name, now) == ("weights", "none")
                values = [value] * 2 if several else value
                try:
                    config.read(base, written | {item.name: values})
                except ValueError as error:
                    assert "\n" not in str(error)  # noqa: PT017
                else:
                    let_through.add((*setting, value))
    assert len(tried) > 200
    assert let_through == {(*setting, value) for setting, values in ALLOWED.items() for value in values}


@pytest.mark.parametrize("box", [(1.0, 0.0), (0.5, 0.5), (0.0, math.nan), (-math.inf, 1.0)])
def test_a_box_in_a_call_is_two_numbers_in_order(box: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="box is the range of the images, two finite numbers"):
        FGSM(eps=0.1, box=box)(lambda x: x, torch.rand(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="box is the range of the images"):
        Free(box=box)


@pytest.mark.parametrize("text", ['network = { kind = "MLP", hidden = [nan] }', "network = { dropout = inf }"])
def test_a_network_s_settings_are_finite(text: str) -> None:
    with pytest.raises(ValueError, match=r"network.*: needs a finite number; got (nan|inf)"):
        config.read(WithNetwork, tomllib.loads(text))


DEEP = {
    "array": "a = " + "[" * 3000 + "]" * 3000,
    "unclosed array": "a = " + "[" * 100_000,
    "table": "a = " + "{ a = " * 3000 + "1" + " }" * 3000,
    "dotted key": ".".join(["a"] * 3000) + " = 1",
    "header": "[" + ".".join(["a"] * 3000) + "]",
    "digits": "a = " + "9" * 10_000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_toml_that_is_nested_deep_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(DEEP[kind])
    with pytest.raises(ValueError, match=r"deep\.toml is not TOML: ") as caught:
        config.read_file(tmp_path / "deep.toml", "recipe", lambda settings: settings)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_change_that_is_nested_deep_is_a_word() -> None:
    assert _values("a=" + "[" * 3000 + ",2") == ("a", ["[" * 3000, "2"])
    assert changed({}, ["a=" + "[" * 3000])["a"] == "[" * 3000
    assert parts_of(".".join(["a"] * 3000)) == []


def test_what_is_no_text_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ValueError, match=r"a\.toml is not TOML: UnicodeDecodeError"):
        config.read_file(tmp_path / "a.toml", "recipe", lambda settings: settings)
