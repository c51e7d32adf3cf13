"""A model's signs of masked gradients, with the command that measures what its table lacks, ready to paste."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from steelman.evaluation.asking import further
from steelman.measures.masking import Sign, signs, threats_of
from steelman.measures.transfer import Transfer
from steelman.report.entry import Entry

BATTERIES = ("signs", "standard", "thorough", "quick")
"""The first of these that asks a sign is named."""

REPLACED = ("--battery", "--norm", "--eps")
SWITCHES = ("--fresh", "--survivors-only", "--every-image", "--tensorboard", "--mlflow")
"""Options of the earlier command that are left out: the first have values."""


def signs_of(entry: Entry, transfers: Sequence[Transfer] = ()) -> tuple[Sign, ...]:
    """The signs of masked gradients, with what images crafted on other models do to this one, where that is known.

    One that was not measured has the command that measures it, or the reason why none can.
    """
    transfer = next((each for each in transfers if entry.name in each.targets), None)
    found = signs(entry.evaluation, transfer, name=None if transfer is None else entry.name)
    if not any(sign.open for sign in found):
        return found
    access = "gradients" if entry.checkup is None else entry.checkup.access
    threat = next(iter(threats_of(entry.evaluation)), None)
    asked = further(found, *(threat or ("Linf", 1.0)), run=entry.evaluation.records)
    more = f"; it takes gradients, and attacks get {access} alone" if access != "gradients" else ""

    def completed(sign: Sign) -> Sign:
        battery = next((name for name in BATTERIES if sign in asked.get(name, ())), None)
        if not sign.open or more or battery is None:
            return replace(sign, numbers=sign.numbers + more) if sign.open else sign
        return replace(sign, command=command(entry, threat, battery))

    return tuple(map(completed, found))


def command(entry: Entry, threat: tuple[str, float] | None, battery: str = "signs") -> str:
    """The evaluation of an entry again, with another battery at a norm and radius.

    The earlier command where there was one, else that of its run; a call of `evaluate` for tables that were made
    without a command.
    """
    words = _earlier(entry) or shlex.split(entry.again)
    norm, eps = threat or ("Linf", None)
    if not words:
        at = f"norm={norm}" + ("" if eps is None else f", eps={eps:.4g}")
        attacks = f"sign_attacks({at})" if battery == "signs" else f'named_battery("{battery}", {at}).attacks'
        return f"table = evaluate(model, dataset, {attacks}, known=table)"
    given = {word.partition("=")[0] for word in words}
    sample = entry.evaluation.about.get("sample")
    if sample and "--images" not in given:
        words += ["--images", str(sample["images"])]
    seeds = {record.seed for record in entry.evaluation.records}
    if len(seeds) == 1 and seeds != {0} and "--seed" not in given:
        words += ["--seed", str(seeds.pop())]
    words += ["--battery", battery] + ([] if norm == "Linf" else ["--norm", norm])
    return shlex.join(words if eps is None else [*words, "--eps", _written(eps)])


def _earlier(entry: Entry) -> list[str]:
    """The last `steelman evaluate` that made rows of the table, without the options that are set anew."""
    for place in reversed(entry.evaluation.made):
        name, *words = shlex.split(place.command) or [""]
        if name in ("steelman", "__main__.py") and words[:1] == ["evaluate"]:
            return ["steelman", *_kept(words)]
    return []


def _kept(words: list[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        option = word.partition("=")[0]
        if not skip and option not in REPLACED and option not in SWITCHES:
            kept.append(word)
        skip = not skip and word in REPLACED
    return kept


def _written(eps: float) -> str:
    levels = round(eps * 255)
    return f"{levels}/255" if 0 < levels < 255 and levels / 255 == eps and eps < 0.2 else repr(float(eps))
