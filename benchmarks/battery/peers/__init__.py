"""The libraries: one file each, whose `attacks()` has a function of a `Job` per row that the library knows."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import TypeAlias

from benchmarks.battery.rows import Job
from torch import Tensor

Adapters: TypeAlias = dict[str, Callable[[Job], Tensor]]

OURS = "Steelman"
LIBRARIES = {
    OURS: "benchmarks.battery.ours",
    "adv-lib": "benchmarks.battery.peers.advlib",
    "Foolbox": "benchmarks.battery.peers.foolbox",
    "torchattacks": "benchmarks.battery.peers.torchattacks",
    "ART": "benchmarks.battery.peers.art",
    "CleverHans": "benchmarks.battery.peers.cleverhans",
    "AutoAttack": "benchmarks.battery.peers.autoattack",
}


def load(names: list[str]) -> tuple[dict[str, Adapters], dict[str, str]]:
    """The adapters of these libraries, and their versions; of one that cannot be imported, why."""
    adapters: dict[str, Adapters] = {}
    versions: dict[str, str] = {}
    for name in names:
        module = import_module(LIBRARIES[name])
        try:
            adapters[name] = module.attacks()
            versions[name] = version(module.DISTRIBUTION)
        except Exception as problem:  # a peer's import may fail in any way
            versions[name] = f"not there ({type(problem).__name__}: {str(problem).splitlines()[0]})"
    return adapters, versions
