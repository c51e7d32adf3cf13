"""The table as a file: versions, flipped bytes, and what it says of itself."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from steelman.attacks import FGSM, PGD, DeepFool
from steelman.data import Digits
from steelman.evaluation import LossSensitivity, evaluate
from steelman.measures import Transfer, clean_accuracy, measures, probed, rho_2, rho_inf, signs
from steelman.networks import MLP
from steelman.report import Document, paper_table
from steelman.report.entry import Entry
from steelman.table import Evaluation
from steelman.table.places import tables_in
from steelman.table.records import Provenance
from steelman.table.schema import COLUMNS, Column
from steelman.table.table import ABOUT, read_spaces

OLD = Path(__file__).parents[1] / "data" / "old"


@pytest.fixture(scope="module")
def table() -> Evaluation:
    torch.manual_seed(0)
    test = Digits().load("test").subset(torch.arange(12))
    attacks = {"FGSM": FGSM(eps=0.1), "PGD": PGD(eps=0.1, steps=3), "away": DeepFool(steps=5, reference="prediction")}
    return evaluate(MLP(shape=test.shape).eval(), test, attacks, probes=[LossSensitivity()], progress=False)


def same(ours: Evaluation, theirs: Evaluation) -> bool:
    np.testing.assert_equal(theirs.table.to_pydict(), ours.table.to_pydict())
    return ours.records == theirs.records


def test_a_table_comes_back_with_its_records(table: Evaluation, tmp_path: Path):
    table.save(tmp_path / "t.parquet")
    back = Evaluation.load(tmp_path / "t.parquet")
    assert same(table, back)
    assert back.about == table.about
    (tmp_path / "plain").touch()
    assert (tmp_path / "t.parquet").stat().st_mode == (tmp_path / "plain").stat().st_mode, "as of any file of the user"


def test_a_flipped_byte_is_refused_by_name(table: Evaluation, tmp_path: Path):
    path = tmp_path / "t.parquet"
    table.save(path)
    whole = path.read_bytes()
    places = random.Random(0).sample(range(len(whole)), 400)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"t\.parquet is not a whole evaluation table"):
            Evaluation.load(path)


@pytest.mark.parametrize(
    "column", [name for name, column in COLUMNS.items() if column.default is not None and not callable(column.default)]
)
def test_a_table_without_a_column_opens_and_says_so(table: Evaluation, tmp_path: Path, column: str):
    path = tmp_path / "old.parquet"
    parquet.write_table(table.table.drop_columns(column), path)
    with pytest.warns(UserWarning, match=f"no {column}: what needs that is not measured"):
        found = Evaluation.load(path)
    assert clean_accuracy(found) == clean_accuracy(table)
    assert set(measures(found)) <= set(measures(table))
    if column == "x_l2":
        assert "rho_2, away" in measures(table)
        assert "rho_2, away" not in measures(found)


def test_one_answer_is_right_or_not_in_a_table_without_that_column(table: Evaluation, tmp_path: Path):
    path = tmp_path / "old.parquet"
    parquet.write_table(table.table.drop_columns("right"), path)
    found = Evaluation.load(path)
    assert found["right"].tolist() == (table["prediction"] == table["label"]).tolist()
    assert measures(found) == measures(table)


@pytest.mark.parametrize("column", [name for name, column in COLUMNS.items() if column.default is None])
def test_a_table_without_a_required_column_is_refused(table: Evaluation, tmp_path: Path, column: str):
    path = tmp_path / "old.parquet"
    parquet.write_table(table.table.drop_columns(column), path)
    with pytest.raises(ValueError, match=rf"old.parquet is not a whole evaluation table: .*column {column} is missing"):
        Evaluation.load(path)


@pytest.mark.parametrize("values", [["x"], [0.5], [3], [None]], ids=str)
def test_a_column_of_a_later_version_is_kept_and_is_no_probe(table: Evaluation, tmp_path: Path, values: list):
    path, further = tmp_path / "new.parquet", tmp_path / "further.parquet"
    rows = table.table.append_column("access", pa.array(values * len(table)))
    about = table.about | {"format": 7, "later": {"what": 1}}
    about["records"] = [record | {"temper": "mild"} for record in about["records"]]
    parquet.write_table(rows.replace_schema_metadata({ABOUT: json.dumps(about).encode()}), path)
    found = Evaluation.load(path)
    assert found.probes == ("LossSensitivity()",)
    assert measures(found) == measures(table)
    found.only(["clean", "PGD"]).renamed({"PGD": "strong"}).save(further)
    again = Evaluation.load(further)
    assert again.table["access"].to_pylist() == values * 24
    assert again.about["later"] == {"what": 1}
    assert again.attacks == ("strong",)


def test_a_new_column_is_one_entry(tmp_path: Path, table: Evaluation, monkeypatch: pytest.MonkeyPatch):
    """It is written, extended, saved and read, and has its default in a table that lacks it, without another edit."""
    old = tmp_path / "old.parquet"
    table.save(old)
    column = Column(
        "float64", "the brightest pixel after the attack", lambda rows: rows.result.x_adv.amax((1, 2, 3)), -1.0
    )
    monkeypatch.setitem(COLUMNS, "brightest", column)
    test = Digits().load("test").subset(torch.arange(12))
    model, attacks = MLP(shape=test.shape).eval(), {"FGSM": FGSM(eps=0.1)}
    some = evaluate(model, test.subset(torch.arange(5)), attacks, progress=False)
    made = evaluate(model, test, attacks, progress=False, known=some)
    (batch,) = test.batches([torch.arange(12)])
    clean, attacked = made.only("clean"), made.only("FGSM")
    np.testing.assert_allclose(clean["brightest"], batch.x.amax((1, 2, 3)))
    assert ((attacked["brightest"] > 0) & (attacked["brightest"] <= 1)).all()
    assert (attacked["brightest"] != clean["brightest"]).any()
    made.save(tmp_path / "new.parquet")
    assert same(made, Evaluation.load(tmp_path / "new.parquet"))
    with pytest.warns(UserWarning, match="no brightest: what needs that is not measured"):
        assert (Evaluation.load(old)["brightest"] == -1).all()


def test_a_record_describes_its_attack(table: Evaluation):
    record = table.record("PGD")
    assert (record.kind, record.core, record.knowledge, record.access) == (
        "steelman.attacks:PGD",
        "PGD",
        "white",
        "gradients",
    )
    assert (record.norm, record.eps, record.steps, record.asked, record.images) == ("Linf", 0.1, 3, "every", 12)
    assert record.settings is not None
    assert (record.settings["steps"], record.settings["loss"]) == (3, {"kind": "CrossEntropy"})
    away = table.record("away")
    assert (away.reference, away.core, away.eps, away.steps) == ("prediction", "DeepFool", None, 5)
    assert set(table["record"]) == {each.id for each in table.records}
    assert all(each.made.command and each.made.steelman and each.made.date for each in table.records)


OTHER = dict.fromkeys(("name", "kind", "call", "digest", "access", "core"), "other") | {
    "settings": {"kind": "PGD"},
    "knowledge": "black",
    "reference": "prediction",
    "norm": "L2",
    "eps": None,
    "steps": 4,
    "asked": "survivors",
    "images": 7,
    "seed": 1,
    "channels_last": False,
}


def test_changing_a_records_parts_changes_its_id(table: Evaluation):
    record = table.record("PGD")
    others = {record.changed(**{name: value}).id for name, value in OTHER.items()}
    others.add(record.changed(made=dataclasses.replace(record.made, date="1999-01-01")).id)
    assert len(others) == len(dataclasses.fields(record)) - 1
    assert record.id not in others
    assert record.changed() == record


def test_where_a_table_was_made_is_recorded(table: Evaluation):
    long_ago = Provenance("0.0.1", "2.6", "3.11", "an old card", "an old machine", "2001-01-01", "steelman evaluate x")
    grown = table.recorded(lambda record: record.changed(made=long_ago) if record.name == "FGSM" else record)
    assert grown.made[long_ago] == ["FGSM"]
    assert len(grown.made) == 2
    entry = Entry("model", grown)
    from steelman.report.document import evaluated

    told = evaluated(entry)
    assert "an old card" in told["part 2 (FGSM)"]
    assert told["command of part 2"] == "steelman evaluate x"
    assert "The table was made in parts, by 2 different versions or machines." in Document([entry]).verdict.limits
    assert not any("in parts" in line for line in Document([Entry("model", table)]).verdict.limits)


def test_tables_of_two_spaces_that_version_1_wrote_are_read(tmp_path: Path):
    """Written by the version before records; its printed measures are these."""
    found = read_spaces(OLD / "two-spaces.parquet")
    assert list(found) == ["pixels", "preprocessed"]
    pixels, behind = found.values()
    said = {name: f"{measure}" for name, measure in measures(pixels, behind).items()}
    assert said["clean accuracy"] == "33.33 % [13.8, 60.9]"
    assert said["accuracy, FGSM"] == "16.67 % [4.7, 44.8]"
    assert said["robust accuracy, Linf 1"] == "0.00 % [0.0, 24.2]"
    assert said["rho_2, DeepFool"] == "0.1143 [0.0641, 0.199], 1 of 12 failed"
    assert said["median rho_cw, CW"] == "0 [0, 0.283]"
    assert said["LossSensitivity"] == "0.3243 [0.251, 0.389]"
    assert said["rho_2, DeepFool 5 (preprocessed)"] == "0.1912 [0.0991, 0.46]"
    assert len(said) == 20
    records = {record.name: record for record in pixels.records}
    assert {name: record.knowledge for name, record in records.items() if name != "clean"} == {
        **dict.fromkeys(("FGSM", "PGD .1", "DeepFool", "CW"), "white"),
        "from itself": "black",
        **dict.fromkeys(("far", "further"), ""),
    }
    assert set(pixels.without_rows) == {"far", "further"}
    assert records["DeepFool"].reference == "prediction"
    assert records["PGD .1"].made.date == "2026-11-29"
    assert not records["PGD .1"].differs(_record("PGD .1", PGD(eps=0.1, steps=5)))
    assert "eps 0.1, now 0.2" in records["PGD .1"].differs(_record("PGD .1", PGD(eps=0.2, steps=5)))
    assert "older version did not write down" in records["from itself"].differs(records["PGD .1"])
    paper_table([Entry("old", pixels, preprocessed=behind)], "all")
    signs(pixels)
    shutil.copy(OLD / "two-spaces.parquet", tmp_path / "table.parquet")
    assert list(tables_in(tmp_path)) == ["pixels", "preprocessed"]


def _record(name: str, attack: object):
    from steelman.table.records import record_of

    return record_of(name, attack)  # pyright: ignore[reportArgumentType]


def test_a_transfer_that_version_1_wrote_is_read(tmp_path: Path):
    found = Transfer.load(OLD / "transfer.parquet")
    name = "PGD(eps=0.1, steps=5)"
    assert (found.attack, found.sources, found.targets) == (name, ("net", "other"), ("net", "other"))
    assert [[measure.value for measure in row] for row in found.accuracy] == [[pytest.approx(2 / 12), 0], [0.25, 0]]
    assert found.white == {("net", "net"), ("other", "other")}
    assert found.tables["net"].record(f"{name} from other").knowledge == "black"
    found.save(tmp_path / "new")
    assert Transfer.load(tmp_path / "new").accuracy == found.accuracy


@pytest.mark.parametrize("damage", [lambda raw: raw[:-100], lambda raw: b""])
def test_a_damaged_transfer_is_refused_by_name(tmp_path: Path, damage):
    path = tmp_path / "transfer.parquet"
    path.write_bytes(damage((OLD / "transfer.parquet").read_bytes()))
    with pytest.raises(ValueError, match=r"transfer\.parquet is not a saved transfer"):
        Transfer.load(path)


def test_rho_inf_and_probes_of_a_table_that_lacks_them(table: Evaluation, tmp_path: Path):
    path = tmp_path / "old.parquet"
    parquet.write_table(table.table.drop_columns("linf"), path)
    with pytest.warns(UserWarning, match="no linf"):
        found = Evaluation.load(path)
    with pytest.raises(ValueError, match="not finite"):
        rho_inf(found, "away", cap=1.0)
    assert rho_2(found, "away") == rho_2(table, "away")
    assert probed(found, "LossSensitivity") == probed(table, "LossSensitivity")
