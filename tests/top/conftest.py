"""A run of this package, and a folder with one from somebody else."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile import MODULE, RECIPE
from steelman import checkpoint
from steelman.experiments.run import train
from steelman.networks import MLP
from steelman.networks.building import described


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and an evaluated run of networks of this package."""
    from steelman.experiments.assess import assess, battery_of, look
    from steelman.report.export import write

    root = tmp_path_factory.mktemp("good")
    (root / "good.toml").write_text(RECIPE)
    run = train(str(root / "good.toml"), root / "runs", None)
    subject, found = look(run.subject(None))
    write(run.results, [assess(subject, battery_of(subject), found, folder=run.results, progress=False)])
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take most of their time."""
    monkeypatch.setattr("steelman.report.document.charts_of", lambda *_: {})


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a module and a run from somebody else, whose recipe names that module."""
    (tmp_path / "theirs.py").write_text(MODULE)
    (tmp_path / "torchvision_like.py").write_text("def foreign(shape, classes): raise AssertionError")
    shutil.copytree(good / "runs" / "good", tmp_path / "runs" / "hostile")
    recipe = tmp_path / "runs" / "hostile" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('kind = "MLP"', 'kind = "theirs:net"'))
    for name in ("best", "last"):
        file = tmp_path / "runs" / "hostile" / f"{name}.safetensors"
        net = described(MLP(shape=(1, 8, 8), hidden=[8]), {"kind": "theirs:net", "hidden": [8]}, (1, 8, 8), 10)
        state = checkpoint.load(file)
        nets = state.get("nets", state)
        nets["generator"] = nets["classifier"]
        checkpoint.save(file, state, {"classifier": net, "generator": net})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield tmp_path
    for name in ("theirs", "torchvision_like"):
        sys.modules.pop(name, None)
