"""Records: the attacks of a table with their settings, and where their rows were made."""

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
from steelman.attacks import EOT, Within
from steelman.attacks.core import Attack, Reference
from steelman.files import command
from steelman.naming import identifying
from steelman.norms import Norm
from steelman.workers import cores

CLEAN = "clean"
"""The name of the unattacked images in a table."""

Knowledge: TypeAlias = Literal["white", "black", "chance", "mixed", ""]
"""What guides an attack: the gradients; answers or another model; random draws; several of these; not known."""


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
            f"{_processor()}, {cores()} cores",
            date.today().isoformat(),
            command(),
        )

    @property
    def where(self) -> tuple[str, ...]:
        """All but day and command."""
        return self.steelman, self.pytorch, self.python, self.device, self.hardware

    def __str__(self) -> str:
        versions = {"steelman": self.steelman, "PyTorch": self.pytorch, "Python": self.python}
        parts = [f"{name} {value}" for name, value in versions.items() if value]
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
    knowledge  what guides it and its parts: white box, black box, chance (random draws), or several of them (mixed)
    reference  the class that it leaves: the true label, or the model's own prediction
    norm, eps  its norm and radius; a minimal attack has no radius
    steps      0 where it has none
    core       the name of its class, or of the attack inside that only randomness or a bound is put around
    asked      run on every image, or only on those that no attack before it had broken (survivors), or on a sample of
               these
    images     of the evaluation; 0 where an older version wrote
    seed       of the evaluation
    made       where
    channels_last  whether it could be crafted with convolutions in that layout, on which rounding depends
    id         by which rows name it: equal for equal records, in every table
    """

    name: str
    kind: str = ""
    settings: Mapping[str, Any] | None = None
    call: str = ""
    digest: str = ""
    access: str = ""
    knowledge: Knowledge = ""
    reference: Reference = "label"
    norm: str | None = None
    eps: float | None = None
    steps: int = 0
    core: str = ""
    asked: Literal["every", "survivors", "sample"] = "every"
    images: int = 0
    seed: int = 0
    made: Provenance = Provenance()
    channels_last: bool = False
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
        """Equal for attacks that may be compared over models: a generator may be trained for each."""
        return self._like({"generator"}) if self.digest else self.call

    @property
    def family(self) -> str:
        """Equal for attacks that differ in radius and step length alone."""
        return self._like({"eps", "radius", "step_size"})

    @property
    def kin(self) -> str:
        """Equal for attacks that differ in their length alone: steps, restarts, and the step length that follows."""
        return self._like({"steps", "restarts", "step_size", "parallel_restarts"})

    def _like(self, free: set[str]) -> str:
        kept = [(path, value) for path, value in _leaves(self.settings) if free.isdisjoint(path.split("."))]
        return identity.digest([self.kind, kept, self.reference])

    def setting(self, name: str) -> Any:
        """A number or text among its settings, of itself or else of an attack in it; None where there is none."""
        found = [(path.count("."), value) for path, value in _leaves(self.settings) if path.split(".")[-1] == name]
        return min((each for each in found if each[1] is not None), key=lambda each: each[0], default=(0, None))[1]

    def kinds(self) -> Iterator[str]:
        """The names of its class and of all attacks, losses and others in it."""
        return (value for path, value in _leaves(self.settings) if path.split(".")[-1] == "kind")

    def differs(self, other: "Record") -> str:
        """How an attack of the same name differs from this one; empty where it does not."""
        if self.seed != other.seed:
            return f"seed {self.seed}, now {other.seed}"
        if not self.kind:  # of an older version's attack without rows, norm and radius are known
            return "" if (self.norm, self.eps) == (other.norm, other.eps) else f"{self.norm} {self.eps}"
        if not self.digest or not other.digest:
            return f"{self.call}, of which an older version did not write down what it held"
        if self.digest == other.digest:
            return ""
        ours, theirs = dict(_leaves(self.settings)), dict(_leaves(other.settings))
        paths = (path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path))
        changes = [f"{path} {ours.get(path)}, now {theirs.get(path)}" for path in paths]
        return "; ".join(changes) or "its code, or a file that it names, has changed"

    def plain(self) -> dict[str, Any]:
        """As JSON; `of` reads it, and skips fields that a newer version has added."""
        return asdict(self)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "Record":
        known = {item.name for item in fields(Record)}
        made = {item.name: str(plain.get("made", {}).get(item.name, "")) for item in fields(Provenance)}
        values = {"knowledge" if key == "how" else key: value for key, value in plain.items() if key != "made"}
        values = {key: value for key, value in values.items() if key in known}
        for key, value in values.items():
            if not isinstance(value, _TYPES.get(key, str)):
                raise ValueError(f"the {key} of a record cannot be {value!r:.40}")
        return Record(**values, made=Provenance(**made))


_TYPES: dict[str, Any] = dict.fromkeys(("steps", "images", "seed"), int) | {
    "channels_last": bool,
    "settings": Mapping | None,
    "norm": str | None,
    "eps": int | float | None,
}
"""Of a record's fields in a file; all others are texts."""


@cache
def _processor() -> str:
    """The processor's name, where the system has it."""
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
    sample: bool = False,
    channels_last: bool = False,
    made: Provenance = Provenance(),
) -> Record:
    """The record of an attack that is about to be run."""
    norm, eps = attack.budget or (attack.measured_in, None)
    core, settings = _unwrapped(attack), _settings(attack)
    return Record(
        name=name,
        kind=identity.class_name(type(attack)),
        settings=settings,
        call=shown(settings),
        digest=identity.digest(attack),
        access=attack.access,
        knowledge=knowledge_of(attack),
        reference=attack.reference,
        norm=None if norm is None else repr(norm),
        eps=None if eps is None else float(eps),
        steps=int(getattr(core, "steps", 0)),
        core=type(core).__name__,
        asked="every" if not survivors_only or attack.reference != "label" else "sample" if sample else "survivors",
        images=images,
        seed=seed,
        channels_last=channels_last,
        made=made,
    )


def knowledge_of(attack: Attack) -> Knowledge:
    """What guides an attack and its parts."""
    if attack.access != "gradients":
        return "chance" if _unwrapped(attack).chance else "black"
    found: set[Knowledge] = {knowledge_of(part) for part in attack.parts}
    return "white" if not found else found.pop() if len(found) == 1 else "mixed"


def _unwrapped(attack: Attack) -> Attack:
    """The attack inside randomness and bounds, by which it is known."""
    while isinstance(attack, EOT | Within):
        attack = attack.attack
    return attack


def _settings(value: Any) -> Any:
    """A value as JSON."""
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
            inner = {item.name: _settings(getattr(value, item.name)) for item in identifying(value) if item.compare}
            return {"kind": type(value).__name__, **inner}
    return {"kind": getattr(value, "__qualname__", type(value).__name__), "digest": identity.digest(value)}


def shown(setting: Any) -> str:
    """A setting for readers: a call, a number, a word."""
    match setting:
        case {"kind": kind, **others}:
            inner = (f"{name}={shown(value)}" for name, value in others.items() if name != "digest")
            return f"{kind}({', '.join(inner)})"
        case list():
            return f"({', '.join(map(shown, setting))})"
    return str(setting)


def _leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in settings that are no mapping and no list, by their paths."""
    if isinstance(settings, Mapping):
        inner = [(f"{path}.{key}" if path else key, value) for key, value in settings.items()]
    elif isinstance(settings, list):
        inner = [(f"{path}[{place}]", value) for place, value in enumerate(settings)]
    else:
        yield path, settings
        return
    for below, value in inner:
        yield from _leaves(value, below)
