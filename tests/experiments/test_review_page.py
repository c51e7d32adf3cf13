"""The commands of docs/review.md, in order, on a small claim; and the claims that it says are refused."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import typer

from steelman.adaptive import adaptation
from steelman.cli import main as cli
from steelman.report import export
from steelman.table import Evaluation

pytestmark = pytest.mark.xdist_group("review page")  # its commands follow one another
PAGE = (Path(__file__).parents[2] / "docs/review.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.S | re.M)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
COMPARED, REPEATED = (block for kind, block in BLOCKS if kind == "python")
IMAGES = 4


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory that the page supposes.

    For speed the claim is soon broken, the pupil learns from few images, and no pictures are drawn.
    """
    home = tmp_path_factory.mktemp("there")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(export.Document, "pictures", property(lambda _: {}))
        patch.setattr("steelman.adaptive.adaptation", partial(adaptation, examples=100))
        run("steelman train plain_digits_mlp --set training.epochs=8 --runs . --name claim")
        run("steelman evaluate claim --battery quick")
        yield home


def run(command: str) -> None:
    """A line of the page, on fewer images, with fewer epochs."""
    words = shlex.split(re.sub(r"--images \d+", "", command))
    if words[0] != "steelman":
        subprocess.run(words, check=True)
        return
    words += ["--images", str(IMAGES)] if words[1] == "evaluate" else []
    words += ["--set", "training.epochs=2"] if "plain_digits_mlp" in words and "--set" not in words else []
    with pytest.MonkeyPatch.context() as patch:
        if "signs" in words:  # as far as the check-up: its attacks take as long as all the rest
            patch.setattr("steelman.experiments.assess.assess", end)
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, command


def end(*_: object, **__: object) -> None:
    raise typer.Exit(0)


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_of_the_page(there: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(command)
    if "--explain" in command:
        (there / "printed.py").write_text(python_in(capsys.readouterr().out))


def python_in(out: str) -> str:
    return re.search(r"^from steelman import \*\n.*?^table = .*?$", out, re.S | re.M)[0]  # pyright: ignore


def test_the_table_that_was_made_again_has_the_same_rows(there: Path) -> None:
    assert compared() == []


def compared() -> list[Any]:
    names: dict[str, Any] = {}
    exec(COMPARED, names)
    return names["different"]


def test_what_explain_prints_runs_as_it_stands(there: Path) -> None:
    names: dict[str, Any] = {}
    exec(REPEATED.replace("sample(200)", f"sample({IMAGES})") + (there / "printed.py").read_text(), names)
    command = Evaluation.load("check/adaptive/table.parquet")
    assert "Adaptive transfer from check/plain Linf 0.15" in names["attacks"]
    assert set(names["attacks"]) == {name for name in command.attacks if name.startswith("Adaptive")}
    assert names["table"].images == command.images == IMAGES


def test_where_there_is_nothing_to_explain_it_says_so(there: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    words = ("--battery", "quick", "--images", IMAGES, "--adaptive", "never", "--explain", "--folder", "check/again")
    code, out, err = call("evaluate", "claim", *words)
    assert code == 0, err
    assert "# Nothing to explain: no adaptive attacks were made" in out


def test_a_false_claim_is_refused(there: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    words = ("--battery", "quick", "--images", IMAGES)
    for name, change, said in (
        ("exchanged", lambda: shutil.copy("check/plain/best.safetensors", "exchanged"), "with other weights"),
        ("copied", lambda: shutil.copytree("check/plain", "copied", dirs_exist_ok=True), "with other weights"),
        ("changed", lambda: flip(Path("changed/evaluation/table.parquet")), "it has changed since it was written"),
        ("damaged", lambda: flip(Path("damaged/best.safetensors")), "its bytes are not those that were written"),
    ):
        shutil.copytree("claim", name)
        change()
        code, _, err = call("evaluate", name, *words)
        assert (code, said in err) == (2, True), (name, err)
    code, _, err = call("evaluate", "claim", *words, "--seed", 1)
    assert code == 2
    assert "the table has another attack called" in err


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_table_that_a_program_has_changed_is_found_by_making_it_again(
    there: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    path = there / "claim/evaluation/table.parquet"
    honest, table = path.read_bytes(), Evaluation.load(path)
    better = np.where(table["attack"] == "clean", table["prediction"], table["clean_prediction"])
    place = table.table.column_names.index("prediction")
    try:
        table.replaced(table.table.set_column(place, "prediction", pyarrow.array(better))).save(path)
        code, _, err = call("evaluate", "claim", "--battery", "quick", "--images", IMAGES, "--adaptive", "never")
        assert code == 0, err
        changed = table["prediction"] != better
        assert changed.any()
        assert {*zip(table["attack"][changed], table["image"][changed], strict=True)} <= {*compared()}
    finally:
        path.write_bytes(honest)
