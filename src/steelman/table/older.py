"""Tables of version 1: an attack was the text of its call, and one table had two spaces."""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelman import attacks, config
from steelman.attacks.core import Attack
from steelman.files import decoding, parse_json
from steelman.identity import class_name
from steelman.table.records import CLEAN, Knowledge, Provenance, Record, record_of
from steelman.table.schema import COLUMNS, completed
from steelman.table.table import ABOUT, Evaluation

if TYPE_CHECKING:
    import pyarrow

TRANSFER = b"steelman-transfer"
"""The key of a saved transfer's metadata."""
OF_ATTACK = ["attack", "parameters", "away_from", "norm", "eps"]
"""Columns that are fields of a record now."""
RENAMED = {
    "early_leave": "stop_early",
    "copies": "parallel_restarts",
    "doubt": "slack",
    "second_look": "retry_target",
}
"""Settings of attacks that have other names now."""


def tables(table: "pyarrow.Table") -> tuple[dict[str, Evaluation], list[str]]:
    """The tables by space, and the columns that they lack."""
    import pyarrow
    from pyarrow import compute

    about: dict[str, str] = parse_json((table.schema.metadata or {}).get(ABOUT, b"{}"))
    where: dict[str, Any] = {"seed": int(about.get("seed", 0)), "made": _made(about)}
    found, lacking = {}, dict[str, None]()
    for space in table["space"].unique().to_pylist():
        rows = table.filter(compute.field("space") == space)
        kinds = rows.group_by(OF_ATTACK, use_threads=False).aggregate([])
        records = {each["attack"]: _record(each).changed(**where) for each in kinds.to_pylist()}
        ids = pyarrow.array([records[name].id for name in rows["attack"].to_pylist()], pyarrow.string())
        rows, missing = completed(rows.drop_columns(["space", *OF_ATTACK[1:]]).append_column("record", ids))
        lacking |= dict.fromkeys(name for name in missing if name != "pixels")
        for name, of, norm, eps in parse_json(about.get("unmet", "[]")):
            if of == space and name not in records:
                records[name] = Record(name, norm=norm, eps=eps, asked="survivors", **where)
        probes = [
            field.name
            for field in rows.schema
            if field.name not in COLUMNS and field.name.endswith(")") and pyarrow.types.is_floating(field.type)
        ]
        more = {"space": space, "probes": probes, "data": about.get("data", "")}
        found[space] = Evaluation.of(rows.replace_schema_metadata(), records.values(), **more)
    return found, list(lacking)


def transfer(path: Path) -> tuple[str, dict[str, Evaluation]]:
    """The attack's name and the tables by target of a transfer, which version 1 saved in one file.

    Raises:
        ValueError: the file is not whole, or not of a transfer.
    """
    from pyarrow import compute, parquet

    with decoding(path, "a saved transfer"):
        whole = parquet.read_table(path, page_checksum_verification=True)
        saved = parse_json((whole.schema.metadata or {})[TRANSFER])
        attack, white = saved["attack"], {tuple(pair) for pair in saved["white"]}
        found = {}
        for target, about in saved["targets"].items():
            rows = whole.filter(compute.field("target") == target).drop_columns("target")
            table = tables(rows.replace_schema_metadata({ABOUT: json.dumps(about).encode()}))[0]["pixels"]
            changes = {
                f"{attack} from {source}": _crafted(attack, source, (source, target) in white)
                for source in saved["sources"]
            }
            found[target] = table.recorded(
                lambda record, changes=changes: record.changed(**changes.get(record.name, {}))
            )
        return attack, found


def _crafted(attack: str, source: str, white_box: bool) -> dict[str, Any]:
    settings = {"kind": "CraftedOnSource", "source": source, "called": attack, "white_box": white_box}
    return {"settings": settings, "knowledge": "white" if white_box else "black", "access": ""}


def _record(row: Mapping[str, Any]) -> Record:
    """An attack, made again from the text of its call where that has plain values only."""
    name, text, away = row["attack"], row["parameters"], row["away_from"] == "prediction"
    if name == CLEAN:
        return Record(CLEAN)
    try:
        attack = config.read(Attack, _value(ast.parse(text, mode="eval").body))
        return record_of(name, replace(attack, reference="prediction") if away else attack)
    except (ValueError, TypeError, SyntaxError):
        return _of_class(row)


def _value(node: ast.expr) -> Any:
    """A call as in TOML: its class as `kind`, its arguments as settings."""
    match node:
        case ast.Call(func=ast.Name(id=kind)):
            return {"kind": kind} | {
                RENAMED.get(each.arg or "", each.arg): _value(each.value) for each in node.keywords
            }
        case ast.Tuple() | ast.List():
            return [_value(each) for each in node.elts]
        case ast.Name(id=word):
            return float(word) if word in ("inf", "nan") else word
    return ast.literal_eval(node)


def _of_class(row: Mapping[str, Any]) -> Record:
    """What is known of an attack by its class, where the text of its call had more than plain values."""
    word = re.split(r"\W", row["parameters"], maxsplit=1)[0]
    found = getattr(attacks, word, None)
    access = getattr(found, "access", "")
    access = access if isinstance(found, type) and isinstance(access, str) else ""
    guides: dict[str, Knowledge] = {"gradients": "white", "scores": "black", "decisions": "black"}
    return Record(
        name=row["attack"],
        kind=class_name(found) if isinstance(found, type) else "",
        settings={"kind": word},
        call=row["parameters"],
        access=access,
        knowledge="black" if word == "Surrogate" else guides.get(access, ""),
        reference="prediction" if row["away_from"] == "prediction" else "label",
        norm=row["norm"],
        eps=None if row["eps"] != row["eps"] else row["eps"],
        core=word,
    )


def _made(about: Mapping[str, str]) -> Provenance:
    versions = dict(re.findall(r"(\w+) ([^\s,]+)", about.get("versions", "")))
    steelman, pytorch, python = (versions.get(name, "") for name in ("steelman", "PyTorch", "Python"))
    return Provenance(steelman, pytorch, python, about.get("device", ""), date=about.get("date", ""))
