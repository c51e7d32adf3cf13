"""The commands of docs/harden.md, in order, on files like those that their names say; trainings are an epoch long."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steelman.cli import main as cli
from steelman.networks import MLP
from steelman.report import export

pytestmark = pytest.mark.xdist_group("harden page")  # its commands follow one another
PAGE = (Path(__file__).parents[2] / "docs/harden.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.S | re.M) for line in block.splitlines()]
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)

MODULE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, channels, side, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(8 * (side // 2) ** 2, classes)

    def forward(self, x):
        return self.head(self.body(x))

def resnet():
    return Small(3, 8, 2)

def trained():
    torch.manual_seed(0)
    return Small(1, 8, 10)
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory that the page supposes. No pictures are drawn, which takes longer than all the rest."""
    home = tmp_path_factory.mktemp("there")
    (home / "page_models.py").write_text(MODULE)
    torch.manual_seed(0)
    torch.save(MLP(hidden=[64], shape=(1, 8, 8), classes=10).state_dict(), home / "mlp.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    for place, image in enumerate(pixels):
        folder = home / "my_images" / ("test" if place % 4 == 0 else "train") / ("cat", "dog")[place // 4 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.syspath_prepend(str(home))
        patch.setattr(export.Document, "pictures", property(lambda _: {}))
        import page_models  # pyright: ignore[reportMissingImports]

        state = {f"module.{name}": value for name, value in page_models.resnet().state_dict().items()}
        torch.save({"state_dict": state}, home / "resnet.pt")
        run("steelman train plain_digits_mlp --set training.epochs=10 --name plain")
        yield home


def run(command: str) -> None:
    words = shlex.split(command.replace("my_models", "page_models").replace("--images 100", "--images 10"))
    words += ["--epochs", "1", "--images", "10"] if words[1] == "harden" else []
    words = [word for place, word in enumerate(words) if "--minutes" not in words[max(place - 1, 0) : place + 1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, command


@pytest.mark.parametrize("command", [line for line in COMMANDS if "hf:" not in line], ids=range(len(COMMANDS) - 1))
@pytest.mark.filterwarnings("ignore:the model's gradient is zero")  # of weights that were never trained
def test_a_command_of_the_page_runs(there: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(command)
    said = capsys.readouterr().out
    if command == COMMANDS[0]:
        assert said.endswith("\nnext: steelman export runs/hardened hardened.pt --trust page_models\n")
        assert "--trust" in COMMANDS[1]


def test_they_leave_what_the_page_says(there: Path) -> None:
    rows = re.findall(r"^\| `(hardened[\w./-]*)` \|", PAGE, re.M)
    assert len(rows) == 5
    assert all((there / "runs" / row).exists() for row in rows[:-1])
    assert (there / "runs/trained-start.safetensors").is_file()
    assert list(torch.load(there / "resnet-hardened.pt")) == list(torch.load(there / "resnet.pt")["state_dict"])


@pytest.mark.filterwarnings("ignore:the model's gradient is zero")
def test_the_python_of_the_page_runs(there: Path) -> None:
    (text,) = PYTHON
    names: dict[str, object] = {}
    exec(text.replace("my_models", "page_models"), names)
    assert isinstance(names["model"], torch.nn.Module)
