"""Train image classifiers that resist adversarial attack, and find out honestly whether they do."""


def _search_installed_only() -> None:
    """Under `python -m steelman`, leave out the working directory, which Python searches first.

    A file there that is called like one of the modules below would be run in its place.
    """
    import os
    import sys

    called = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv) :][:1] in (["steelman"], ["-msteelman"])
    if called and not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]


_search_installed_only()

from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from steelman import adversaries, attacks, defences, filters
    from steelman.adversaries import *
    from steelman.attacks import *
    from steelman.defences import *
    from steelman.evaluation import evaluate
    from steelman.filters import *
    from steelman.norms import L0, L1, L2, Linf
    from steelman.training import Crafted, CraftedPairs, NoisyCopies, SoftLabels, Training, fit
    from steelman.types import Batch

    __all__ = ["L0", "L1", "L2", "Batch", "Crafted", "CraftedPairs", "Linf", "NoisyCopies", "SoftLabels", "Training"]
    __all__ += ["evaluate", "fit"]
    __all__ += adversaries.__all__
    __all__ += attacks.__all__
    __all__ += defences.__all__
    __all__ += filters.__all__

__version__ = "0.1.0"

_PUBLIC: dict[str, tuple[str, ...]] = {
    "adversaries": (),
    "attacks": (),
    "defences": (),
    "filters": (),
    "norms": ("L0", "L1", "L2", "Linf"),
    "training": ("Crafted", "CraftedPairs", "NoisyCopies", "SoftLabels", "Training", "fit"),
    "types": ("Batch",),
}
"""The modules whose names are public here too, and which names; () for all that a module exports."""


def __getattr__(name: str) -> Any:
    """Imports on first use, so that the command's help does not wait for torch.

    A module is imported alone; any other name brings all public names, except `evaluate`, which draws in reports.
    """
    from importlib import import_module
    from importlib.util import find_spec

    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    if name == "evaluate":
        from steelman.evaluation import evaluate

        return evaluate
    if name == "__all__" or not name.startswith("_"):
        _load()
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    _load()
    return sorted({*globals(), *globals()["__all__"]})


def _load() -> None:
    """Import the public names, in place of which `__getattr__` stood."""
    import gc
    from importlib import import_module

    collecting = gc.isenabled()
    gc.disable()  # one collection, over all that torch has made, is a quarter of the time that these imports take
    try:
        rooms = [(import_module(f"{__name__}.{room}"), names) for room, names in _PUBLIC.items()]
    finally:
        if collecting:
            gc.enable()
    found = {name: getattr(room, name) for room, names in rooms for name in names or room.__all__}
    globals().update(found, __all__=sorted({*found, "evaluate"}))
