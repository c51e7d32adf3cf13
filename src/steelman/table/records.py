"""What an attack in a table was, and where its rows were made: records, which nothing else in a table repeats."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from steelman import identity
from steelman.attacks.composed.eot import EOT
from steelman.attacks.composed.from_prediction import FromPrediction
from steelman.attacks.composed.within import Within
from steelman.attacks.core.attack import Attack, Reference
from steelman.files import command
from steelman.norms import Norm

CLEAN = "clean"
"""The name under which the unattacked images stand in a table."""

How: TypeAlias = Literal["white", "black", "chance", "mixed", ""]
"""By the model's gradients; by its answers or another model; by random draws; by several of these; not known."""


@dataclass(frozen=True)
class Provenance:
    """Where rows were made: versions, the device of the images, the machine, the day, and the command."""

    steelman: str = ""
    pytorch: str = ""
    python: str = ""
    device: str = ""
    hardware: str = ""
    date: str = ""
    command: str = ""

    @staticmethod
    def now(device: torch.device | None = None) -> "Provenance":
        cuda = device is not None and device.type == "cuda"
        return Provenance(
            version("steelman"),
            str(torch.__version__),
            platform.python_version(),
            torch.cuda.get_device_name(device) if cuda else str(device or "cpu"),
            f"{_processor()}, {os.cpu_count()} cores",
            date.today().isoformat(),
            command(),
        )

    @property
    def where(self) -> tuple[str, ...]:
        """All but day and command."""
        return self.steelman, self.pytorch, self.python, self.device, self.hardware

    def __str__(self) -> str:
        told = {"steelman": self.steelman, "PyTorch": self.pytorch, "Python": self.python}
        parts = [f"{name} {value}" for name, value in told.items() if value]
        return ", ".join(each for each in (self.date, *parts, self.device, self.hardware) if each)


@dataclass(frozen=True)
class Record:
    """An attack as it was run, and where. Each row of a table names its record.

    name       the attack's name in the table
    kind       its class, as "module:Class"; empty for the unattacked images
    settings   its fields as data: an attack or loss is a mapping with `kind`; a tensor, module or function has a digest
    call       the call that makes it, for readers
    digest     a hash of the settings and of every tensor, module and file in them; empty where an older version wrote
    access     what it needs of a model: gradients, scores or decisions
    how        what it goes by, itself and its parts: white box, black box, chance, or several of them (mixed)
    reference  the class that it leaves: the true label, or the model's own prediction
    norm, eps  its norm and radius; a minimal attack has no radius
    steps      0 where it has none
    core       the name of its class, or of the attack inside that only randomness, a bound or a reference is put around
    asked      about every image that it was given, or only about those that nothing before had broken (survivors)
    images     how many it was given; 0 where an older version wrote
    seed       of the evaluation
    made       where
    id         by which rows name it: equal for equal records, in every table
    """

    name: str
    kind: str = ""
    settings: Mapping[str, Any] | None = None
    call: str = ""
    digest: str = ""
    access: str = ""
    how: How = ""
    reference: Reference = "label"
    norm: str | None = None
    eps: float | None = None
    steps: int = 0
    core: str = ""
    asked: Literal["every", "survivors"] = "every"
    images: int = 0
    seed: int = 0
    made: Provenance = Provenance()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", identity.digest(asdict(self))[:12])

    def changed(self, **settings: Any) -> "Record":
        """The same but for some fields, and with an id of its own."""
        return replace(self, id="", **settings)

    @property
    def bounded(self) -> bool:
        return self.eps is not None

    @property
    def method(self) -> str:
        """The same for attacks that may be compared over models: a generator may be trained for each."""
        return self._like({"generator"}) if self.digest else self.call

    @property
    def family(self) -> str:
        """The same for attacks that differ in radius and step length alone."""
        return self._like({"eps", "radius", "step_size"})

    def _like(self, free: set[str]) -> str:
        return identity.digest([self.kind, _without(self.settings, free), self.reference])

    @property
    def attack(self) -> Mapping[str, Any]:
        """The settings of the attack, or of that which leaves the prediction."""
        settings = self.settings or {}
        return settings["attack"] if self.reference == "prediction" and "attack" in settings else settings

    def setting(self, name: str) -> Any:
        """The value of a setting, its own or else that of an attack in it; None where there is none."""
        return next((each[name] for each in _walk(self.settings) if each.get(name) is not None), None)

    def kinds(self) -> Iterator[str]:
        """The names of its class and of all attacks, losses and others in it."""
        return (each["kind"] for each in _walk(self.settings) if isinstance(each.get("kind"), str))

    def differs(self, other: "Record") -> str:
        """What tells two attacks of one name apart; empty where nothing does."""
        if self.seed != other.seed:
            return f"seed {self.seed}, now {other.seed}"
        if not self.kind:  # of an older version's attack that met no image, norm and radius are known
            return "" if (self.norm, self.eps) == (other.norm, other.eps) else f"{self.norm} {self.eps}"
        if not self.digest or not other.digest:
            return f"{self.call}, of which an older version did not write down what it held"
        if self.digest == other.digest:
            return ""
        ours, theirs = dict(_leaves(self.settings)), dict(_leaves(other.settings))
        paths = (path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path))
        told = [f"{path} {ours.get(path)}, now {theirs.get(path)}" for path in paths]
        return "; ".join(told) or "its code, or a file that it names, is another one"

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; `of` reads it, and what a newer version may have added."""
        return asdict(self)

    @staticmethod
    def of(told: Mapping[str, Any]) -> "Record":
        known = {item.name for item in fields(Record)}
        made = {item.name: told.get("made", {}).get(item.name, "") for item in fields(Provenance)}
        values = {key: value for key, value in told.items() if key in known and key != "made"}
        for key, value in values.items():
            if not isinstance(value, _KINDS.get(key, str)):
                raise ValueError(f"the {key} of a record cannot be {value!r:.40}")
        return Record(**values, made=Provenance(**{key: str(value) for key, value in made.items()}))


_KINDS: dict[str, Any] = dict.fromkeys(("steps", "images", "seed"), int) | {
    "settings": Mapping | None,
    "norm": str | None,
    "eps": int | float | None,
}
"""What the fields of a record are in a file; all others are texts."""


@cache
def _processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def record_of(
    name: str,
    attack: Attack,
    *,
    images: int = 0,
    seed: int = 0,
    survivors_only: bool = False,
    made: Provenance = Provenance(),
) -> Record:
    """The record of an attack that is about to be run."""
    norm, eps = getattr(attack, "norm", None), getattr(attack, "eps", None)
    core = _core(attack)
    return Record(
        name=name,
        kind=identity.class_name(type(attack)),
        settings=_settings(attack),
        call=shown(_settings(attack)),
        digest=identity.digest(attack),
        access=attack.access,
        how=how(attack),
        reference=attack.reference,
        norm=None if norm is None else repr(norm),
        eps=None if eps is None else float(eps),
        steps=int(getattr(core, "steps", 0)),
        core=type(core).__name__,
        asked="survivors" if survivors_only and attack.reference == "label" else "every",
        images=images,
        seed=seed,
        made=made,
    )


def how(attack: Attack) -> How:
    """What an attack goes by, itself and its parts."""
    if attack.access != "gradients":
        return "chance" if _core(attack).chance else "black"
    found: set[How] = {how(part) for part in _parts(attack)}
    return "white" if not found else found.pop() if len(found) == 1 else "mixed"


def _parts(attack: Attack) -> list[Attack]:
    values = [getattr(attack, "attacks", ()), *(getattr(attack, item.name) for item in fields(attack))]
    flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return [part for part in flat if isinstance(part, Attack)]


def _core(attack: Attack) -> Attack:
    while isinstance(attack, EOT | FromPrediction | Within):
        attack = attack.attack
    return attack


def _settings(value: Any) -> Any:
    """A value as JSON holds it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Norm():
            return repr(value)
        case Path():
            return str(value)
        case list() | tuple():
            return [_settings(each) for each in value]
        case Mapping():
            return {str(key): _settings(each) for key, each in value.items()}
        case Tensor() | nn.Module():
            return {"kind": type(value).__name__, "digest": identity.digest(value)}
        case _ if is_dataclass(value):
            told = {item.name: _settings(getattr(value, item.name)) for item in fields(value) if item.compare}
            return {"kind": type(value).__name__, **told}
    return {"kind": getattr(value, "__qualname__", type(value).__name__), "digest": identity.digest(value)}


def shown(setting: Any) -> str:
    """A setting as a reader knows it: a call, a number, a word."""
    match setting:
        case {"kind": kind, **others}:
            return (
                f"{kind}({', '.join(f'{name}={shown(value)}' for name, value in others.items() if name != 'digest')})"
            )
        case list():
            return f"({', '.join(map(shown, setting))})"
    return str(setting)


def _without(settings: Any, names: set[str]) -> Any:
    match settings:
        case dict():
            return {key: _without(value, names) for key, value in settings.items() if key not in names}
        case list():
            return [_without(each, names) for each in settings]
    return settings


def _walk(settings: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings in settings, the outermost first."""
    if isinstance(settings, Mapping):
        yield settings
    for value in settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list) else ():
        yield from _walk(value)


def _leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is no mapping and no list, by its path."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(settings, list):
        for place, value in enumerate(settings):
            yield from _leaves(value, f"{path}[{place}]")
    else:
        yield path, settings
