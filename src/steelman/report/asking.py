"""The command that asks what a table leaves open, ready to paste."""

import shlex
from dataclasses import replace

from steelman.measures.masking import Sign, threats_of
from steelman.report.entry import Entry

BLACK_BOX = "black-box"
REPLACED = ("--battery", "--norm", "--eps")
SWITCHES = ("--fresh", "--survivors-only", "--every-image", "--tensorboard", "--mlflow")
"""Options of the earlier command that are left out: the first have values."""


def with_command(sign: Sign, entry: Entry) -> Sign:
    """A sign that was not asked, with the command that asks it, or with the reason why none can: it takes gradients."""
    gives = None if entry.checkup is None else entry.checkup.access
    threats = threats_of(entry.evaluation)
    if not sign.open:
        return sign
    if gives not in (None, "gradients"):
        return replace(sign, numbers=f"{sign.numbers}; it takes gradients, and attacks see {gives} alone")
    if BLACK_BOX in sign.question and threats and threats[0][0] == "L1":  # no black box of the battery acts in L1
        return sign
    return replace(sign, ask=command(entry, threats[0] if threats else None))


def command(entry: Entry, threat: tuple[str, float] | None) -> str:
    """The evaluation of an entry again, with the battery of the signs at a norm and radius.

    The earlier command where there was one, else that of its run; a call of `evaluate` for tables that were made
    without a command.
    """
    words = _earlier(entry) or shlex.split(entry.again)
    norm, eps = threat or ("Linf", None)
    if not words:
        at = f"norm={norm}" + ("" if eps is None else f", eps={eps:.4g}")
        return f"table = evaluate(model, dataset, sign_attacks({at}), known=table)"
    drawn = entry.evaluation.about.get("sample")
    if drawn and not any(word.partition("=")[0] == "--images" for word in words):
        words += ["--images", str(drawn["images"])]
    seeds = {record.seed for record in entry.evaluation.records}
    if len(seeds) == 1 and seeds != {0} and not any(word.partition("=")[0] == "--seed" for word in words):
        words += ["--seed", str(seeds.pop())]
    words += ["--battery", "signs"] + ([] if norm == "Linf" else ["--norm", norm])
    return shlex.join(words if eps is None else [*words, "--eps", _written(eps)])


def _earlier(entry: Entry) -> list[str]:
    """The last `steelman evaluate` that made rows of the table, without what is asked otherwise now."""
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
