"""Tables as version 1 of the schema had them: an attack was the text of its call, and two spaces stood in one table."""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelman import attacks, config
from steelman.attacks.composed.from_prediction import FromPrediction
from steelman.attacks.core.attack import Attack
from steelman.decoding import decoding, parse_json
from steelman.identity import class_name
from steelman.table.records import CLEAN, Provenance, Record, record_of
from steelman.table.schema import COLUMNS, completed
from steelman.table.table import ABOUT, Evaluation

if TYPE_CHECKING:
    import pyarrow

TRANSFER = b"steelman-transfer"
"""Where a saved transfer said what it was of."""
GONE = ("space", "parameters", "away_from", "norm", "eps")
"""Columns that are records now."""


def tables(table: "pyarrow.Table") -> tuple[dict[str, Evaluation], list[str]]:
    """The tables by space, and the columns that they lack."""
    import pyarrow
    from pyarrow import compute

    about: dict[str, str] = parse_json((table.schema.metadata or {}).get(ABOUT, b"{}"))
    seed, made = int(about.get("seed", 0)), _made(about)
    found, lacking = {}, list[str]()
    for space in table["space"].unique().to_pylist():
        rows = table.filter(compute.field("space") == space)
        kinds = rows.group_by(["attack", "parameters", "away_from", "norm", "eps"], use_threads=False).aggregate([])
        records = {each["attack"]: _record(each).changed(seed=seed, made=made) for each in kinds.to_pylist()}
        ids = pyarrow.array([records[name].id for name in rows["attack"].to_pylist()], pyarrow.string())
        rows, missing = completed(rows.drop_columns(list(GONE)).append_column("record", ids))
        lacking += [name for name in missing if name != "pixels" and name not in lacking]
        for name, of, norm, eps in parse_json(about.get("unmet", "[]")):
            if of == space and name not in records:
                records[name] = Record(name, norm=norm, eps=eps, asked="survivors", seed=seed, made=made)
        probes = [
            field.name
            for field in rows.schema
            if field.name not in COLUMNS and field.name.endswith(")") and pyarrow.types.is_floating(field.type)
        ]
        more = {"data": about.get("data", "")}
        found[space] = Evaluation.of(
            rows.replace_schema_metadata(), records.values(), space=space, probes=probes, **more
        )
    return found, lacking


def transfer(path: Path) -> tuple[str, dict[str, Evaluation]]:
    """The attack's name and the tables by target of a transfer, which version 1 saved in one file.

    Raises:
        ValueError: the file is not whole, or not of a transfer.
    """
    from pyarrow import compute, parquet

    with decoding(path, "a saved transfer"):
        whole = parquet.read_table(path, page_checksum_verification=True)
        told = parse_json((whole.schema.metadata or {})[TRANSFER])
        attack, white = told["attack"], {tuple(pair) for pair in told["white"]}
        found = {}
        for target, about in told["targets"].items():
            rows = whole.filter(compute.field("target") == target).drop_columns("target")
            table = tables(rows.replace_schema_metadata({ABOUT: json.dumps(about).encode()}))[0]["pixels"]
            found[target] = table.recorded(
                lambda record, to=target: _crafted(record, attack, to, told["sources"], white)
            )
        return attack, found


def _crafted(record: Record, attack: str, target: str, sources: list[str], white: set[tuple[str, ...]]) -> Record:
    for source in sources:
        if record.name == f"{attack} from {source}":
            knows = (source, target) in white
            settings = {"kind": "Crafted", "source": source, "called": attack, "knows": knows}
            return record.changed(settings=settings, how="white" if knows else "black", access="")
    return record


def _record(row: Mapping[str, Any]) -> Record:
    """An attack, made again from the text of its call where that holds plain values only."""
    name, text, away = row["attack"], row["parameters"], row["away_from"] == "prediction"
    if name == CLEAN:
        return Record(CLEAN)
    try:
        attack = config.read(Attack, _value(ast.parse(text, mode="eval").body))
        return record_of(name, FromPrediction(attack) if away else attack)
    except (ValueError, TypeError, SyntaxError):
        return _of_class(row)


def _value(node: ast.expr) -> Any:
    """A call as TOML has it: its class as `kind`, its arguments as settings."""
    match node:
        case ast.Call(func=ast.Name(id=kind)):
            return {"kind": kind} | {each.arg or "": _value(each.value) for each in node.keywords}
        case ast.Tuple() | ast.List():
            return [_value(each) for each in node.elts]
        case ast.Name(id=word):
            return float(word) if word in ("inf", "nan") else word
    return ast.literal_eval(node)


def _of_class(row: Mapping[str, Any]) -> Record:
    """What the name of its class tells of an attack that held more than plain values."""
    word = re.split(r"\W", row["parameters"], maxsplit=1)[0]
    found = getattr(attacks, word, None)
    access = getattr(found, "access", None) if isinstance(found, type) else None
    how = (
        "black"
        if word == "Surrogate"
        else {"gradients": "white", "scores": "black", "decisions": "black"}.get(
            access if isinstance(access, str) else "", ""
        )
    )
    return Record(
        name=row["attack"],
        kind=class_name(found) if isinstance(found, type) else "",
        settings={"kind": word},
        call=row["parameters"],
        access=access if isinstance(access, str) else "",
        how=how,  # pyright: ignore[reportArgumentType]
        reference="prediction" if row["away_from"] == "prediction" else "label",
        norm=row["norm"],
        eps=None if row["eps"] != row["eps"] else row["eps"],
        core=word,
    )


def _made(about: Mapping[str, str]) -> Provenance:
    versions = dict(re.findall(r"(\w+) ([^\s,]+)", about.get("versions", "")))
    return Provenance(
        versions.get("steelman", ""),
        versions.get("PyTorch", ""),
        versions.get("Python", ""),
        about.get("device", ""),
        date=about.get("date", ""),
    )
