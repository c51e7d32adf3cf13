"""Which signs of masked gradients a battery asks, and which battery asks those that are open."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from steelman.attacks.core import Access
from steelman.evaluation.battery import BUILT, Battery, named_battery
from steelman.measures.masking import Sign, signs
from steelman.norms import NORMS
from steelman.table.records import CLEAN, Record, record_of
from steelman.table.schema import COLUMNS, completed
from steelman.table.table import Evaluation


def asked_by(battery: Battery, access: Access = "gradients") -> tuple[str, ...]:
    """The names of the signs that a battery answers on a model that gives this access, and hides nothing.

    They are read from a table of one image, which every attack has broken.
    """
    import pyarrow

    attacks = battery.within(access).attacks
    records = [Record(CLEAN), *(record_of(name, attack) for name, attack in attacks.items())]
    rows: list[dict[str, Any]] = [
        {"image": 0, "attack": each.name, "record": each.id, "label": 0, "clean_prediction": 0, "loss": 1.0}
        | {"prediction": int(each.name != CLEAN), "success": each.name != CLEAN, "forwards": 1, "gradients": 1}
        | dict.fromkeys(("l0", "l1", "l2", "linf"), 0.0)
        for each in records
    ]
    table = completed(pyarrow.Table.from_pylist(rows))[0].select(list(COLUMNS))
    return tuple(sign.name for sign in signs(Evaluation.of(table, records)) if sign.present is not None)


def further(
    found: Sequence[Sign],
    norm: str = "Linf",
    eps: float | None = None,
    access: Access = "gradients",
    run: Iterable[Record] = (),
) -> dict[str, tuple[Sign, ...]]:
    """By battery, those of the signs that are open and that it would answer; batteries that answer none are left out.

    norm, eps  the threat of the table whose signs these are
    run        the records of that table: a battery of which it has every attack answers nothing more
    """
    answered, had = {}, {each.method for each in run}
    for name in BUILT:
        with suppress(ValueError):  # a battery that does not exist in this norm, or has nothing for this access
            asked, methods = _asked_by(name, norm, eps, access)
            if methods <= had:
                continue
            if open_now := tuple(sign for sign in found if sign.open and sign.name in asked):
                answered[name] = open_now
    return answered


@lru_cache(maxsize=64)
def _asked_by(name: str, norm: str, eps: float | None, access: Access) -> tuple[tuple[str, ...], frozenset[str]]:
    """The signs that a battery asks, and the methods of its attacks."""
    battery = named_battery(name, norm=NORMS[norm], eps=eps)
    methods = frozenset(record_of(each, attack).method for each, attack in battery.within(access).attacks.items())
    return asked_by(battery, access), methods


def would_ask(
    found: Sequence[Sign],
    norm: str = "Linf",
    eps: float | None = None,
    access: Access = "gradients",
    run: Iterable[Record] = (),
) -> str:
    """The same in words: "standard would ask chance, signs chance and radii"; "" where nothing is open that one asks.

    A battery is named only where it asks more than those before it.
    """
    parts, most = [], 0
    for name, each in further(found, norm, eps, access, run).items():
        if len(each) > most:
            names, most = [sign.name for sign in each], len(each)
            listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
            parts.append(f"{name}{'' if parts else ' would ask'} {listed}")
    return ", ".join(parts)
