"""The code and the commands of docs/own-methods.md, in order; trainings are an epoch long, on few images."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steelman.experiments.sweep_results import SweepResults
from steelman.methods import NO_REFERENCE, cite
from steelman.report import export
from steelman.table import Evaluation

pytestmark = pytest.mark.xdist_group("own methods page")  # its commands follow one another
PAGE = (Path(__file__).parents[2] / "docs/own-methods.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.S | re.M) for line in block.splitlines()]
COMMANDS += re.findall(r"^ +`(steelman compare [^`]*)`", PAGE, re.M)
FILES = dict(re.findall(r"^```\w+\n# (\w+\.\w+)\n(.*?)^```$", PAGE, re.S | re.M))
(CHECK,) = re.findall(r"^```python\n(import torch\n\nfrom my_methods .*?)^```$", PAGE, re.S | re.M)
SHORT = ["--set", "training.epochs=1", "--set", "training.images=100", "--set", "training.monitor=none"]
FEW = {"train": SHORT, "sweep": SHORT, "evaluate": ["--images", "4"], "compare": [], "cite": []}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the page's files. No pictures are drawn, which takes longer than all the rest."""
    home = tmp_path_factory.mktemp("there")
    for name, text in FILES.items():
        text = text.replace("images = 250", "images = 4").replace("attack = { kind", "attack = { steps = 2, kind")
        (home / name).write_text(text.replace(", steps = 10 }", " }"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(export.Document, "pictures", property(lambda _: {}))
        yield home
    sys.modules.pop("my_methods", None)


def test_the_page_has_these_files_and_commands() -> None:
    assert list(FILES) == ["my_methods.py", "attacks.toml", "mixture.toml", "constant.toml"]
    assert [shlex.split(each)[1] for each in COMMANDS] == [
        *["train", "evaluate"] * 2,
        *["sweep"] * 2,
        "cite",
        "compare",
    ]


def test_without_trust_the_module_is_not_imported(there: Path, call: Callable) -> None:
    code, out, err = call("train", "mixture.toml")
    assert (code, out) == (2, "")
    assert re.search(r"names 'my_methods:Mixture', which would import .*my_methods\.py: .*--trust my_methods", err)
    assert "my_methods" not in sys.modules


@pytest.mark.filterwarnings("ignore:the model's gradient is zero")
@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_of_the_page_runs(there: Path, command: str, call: Callable) -> None:
    _, verb, *words = shlex.split(command)
    code, out, err = call(verb, *words, *FEW[verb])
    assert code == 0, out + err
    if verb == "train" and "--trust" in words:
        assert f"next: {COMMANDS[COMMANDS.index(command) + 1]}\n" in out
    if verb == "cite":
        assert "MeanPGD: Ada Author and Ben Author" in out
        assert "@misc{author2026means," in out or "@inproceedings{author2026means," in out


def test_they_leave_what_the_page_says(there: Path) -> None:
    sweep = SweepResults.load(there / "runs/mixture-sweep")
    assert (sweep.measure, len(sweep.networks)) == ("robust accuracy, Linf 0.15", 2)
    assert {record.name: record.asked for record in Evaluation.load(there / "attacks/table.parquet").records}.get(
        "MeanPGD, decay 0.5"
    ) == "every"
    report = (there / "runs/mixture/evaluation/report.md").read_text()
    assert re.search(r"\| Square Linf 0.15, 200 queries \| \d+ .*\n\| MeanPGD Linf 0.15 \| \d", report)


def test_the_check_of_the_page_holds(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(there)  # Python alone looks there; the command does so by itself
    exec(CHECK, {})


def test_cite_of_what_is_no_method_or_names_no_paper(there: Path) -> None:
    assert cite(["my_methods:Mixture"]) == f"Mixture: {NO_REFERENCE}"
    with pytest.raises(ValueError, match="my_methods:per_image is no attack, defence"):
        cite(["my_methods:per_image"])
