"""Names that would be markup of the terminal are shown as they are written, and break nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from steelman.checkup import Checkup, Finding
from steelman.experiments.sweep_results import EvaluationOptions, SweepResults, SweptNetwork
from steelman.measures import Comparison, Measure
from steelman.networks import MLP
from steelman.progress import ProgressBar

FOLDER = "a[/b]"
NAMES = ("[red]x[/]", "[/b]", "[link=a", "y\\[dim]")


def shown(*renderables: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        for each in renderables:
            console.print(each)
        return console.export_text()


def test_evaluate_and_compare_show_names_as_they_are(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    home = tmp_path / FOLDER
    home.mkdir(parents=True)
    draws = np.random.default_rng(0)
    x, y = draws.random((8, 1, 4, 4)), np.arange(8) % 4
    np.savez(home / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    classes = ", ".join(f"'{name}'" for name in NAMES)
    data = f"{{ kind = 'Arrays', file = '{home}/data.npz', classes = [{classes}] }}"
    attacks = "\n".join(f"'{name} {eps}' = {{ kind = 'FGSM', eps = {eps} }}" for name in NAMES for eps in (0.1, 0.2))
    (home / "own[red].toml").write_text(f"[attacks]\n{attacks}\n")
    folders = []
    for seed, name in enumerate(("net[/bold]", "[red]net[/]")):
        torch.manual_seed(seed)
        (weights := home / name / "weights[bold].pt").parent.mkdir(parents=True)
        torch.save(MLP(shape=(1, 4, 4), classes=4, hidden=(8,)).state_dict(), weights)
        folders.append(home / f"results {seed}[/red]")
        network = '{ kind = "MLP", hidden = [8] }'
        options = ("--network", network, "--data", data, "--battery", home / "own[red].toml", "--folder", folders[-1])
        code, out, err = call("evaluate", weights, *options)
        assert code == 0, err
        assert f"report: {folders[-1]}/report.html" in out.replace("\n", "")
    text = (folders[0] / "report.md").read_text()
    for name in NAMES:
        assert name.strip("\\") in text.replace("\\", "") or name.replace("\\", "") in text.replace("\\", "")
    results = folders[1] / "results.json"
    results.write_text(results.read_text().replace('"weights[bold]"', '"other[/red]"'))
    code, out, err = call("compare", *folders, "--folder", home / "both[/]")
    assert code == 0, err
    assert "weights[bold]" in out
    assert "other[/red]" in out
    assert f"report: {home}/both[/]/report.html" in out


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_shows_names_as_they_are(name: str, tmp_path: Path) -> None:
    assert name in shown(Checkup((Finding(name, "found"), Finding("a", name, "warning", f"advice {name}")), "scores"))
    outcomes = [SweptNetwork(str(at), {name: name}, {"clean accuracy": Measure(0.5, 0.4, 0.6, 10)}) for at in range(2)]
    swept = SweepResults(tmp_path / name.replace("/", "_"), "tiny", EvaluationOptions(), name, tuple(outcomes))
    assert swept.folder.name in (text := shown(swept.table()))
    assert name in text


def test_another_sweep_is_compared_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = (SweptNetwork("a", {"c": "1"}),)
    sweeps = [SweepResults(tmp_path / f"{at}[_b]", "tiny", EvaluationOptions(), "[/b]", networks) for at in range(2)]
    found = {"[/a]": Comparison((0.5,), (0.4,), (0.3,)), "[/c]": "[/why]"}
    monkeypatch.setattr(SweepResults, "against", lambda *_: found)
    table, text = sweeps[0].comparison_tables(sweeps[1])
    assert text == "[/c]: [/why]"
    for name in ("0[_b]", "1[_b]", "[/a]", "[/b] at equal"):
        assert name in shown(table)


def test_bars_show_names_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with ProgressBar(True, 2, "[/a]") as bar:
        bar.advance(1, "[/b]")
    err = capsys.readouterr().err
    assert "[/a]" in err
    assert "[/b]" in err


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "a[/b]"),
        ("evaluate", "a", "--eps", "[/b]"),
        ("evaluate", "a", "b", "[/b]"),
        ("train", "[/b]"),
        ("train", "pgd_digits_mlp", "--set", "[/b]"),
        ("sweep", "pgd_digits_mlp", "--vary", "[/b]=1,2"),
        ("compare", "[/b]"),
        ("cite", "[/b]"),
        ("[/b]",),
    ],
)
def test_errors_show_names_as_they_are(words: tuple[str, ...], call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words)
    assert code == 2
    assert "[/b]" in out + err
    assert "Traceback" not in err
