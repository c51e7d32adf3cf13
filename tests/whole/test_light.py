"""What `pip install steelman` brings is enough to attack and train; what is missing is named with its extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from steelman.extras import require

ROOT = Path(__file__).parents[2]
IMPORTED = {"scikit_learn": "sklearn", "pillow": "PIL"}
PROGRAM = """
import sys
from importlib.machinery import PathFinder

LACKING = {lacking}
find = PathFinder.find_spec
less = lambda name, *more: None if name.partition(".")[0] in LACKING else find(name, *more)
PathFinder.find_spec = staticmethod(less)  # dill, where it is installed, calls it on an object
{code}
assert LACKING.isdisjoint(name.partition(".")[0] for name in sys.modules)
"""
NETWORK = """
import torch
from torch import nn
from steelman import *

torch.manual_seed(0)
x, y = torch.rand(32, 1, 8, 8), torch.randint(4, (32,))
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""


def lacking() -> set[str]:
    """The modules of the extra `full`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[<>=]", each)[0].replace("-", "_") for each in project["optional-dependencies"]["full"]]
    return {IMPORTED.get(name, name) for name in names}


def light(code: str) -> str:
    """What a program prints, errors too, where only the core is installed."""
    program = PROGRAM.format(lacking=lacking(), code=code)
    done = subprocess.run([sys.executable, "-c", program], stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


MISSING = (
    "evaluate(network, (x, y), [PGD(eps=.1)])",
    "from steelman.data import Digits; Digits().load('train')",
    "from steelman import config; config.read(type(PGD()).__mro__[1], {'kind': 'PGD', 'eps': .1})",
    "from steelman.report.plots import panels; panels()",
    "from steelman.__main__ import main; sys.argv = ['steelman', '--help']; main()",
)


def test_the_core_is_enough_to_attack_and_train_and_what_is_missing_is_named_with_its_extra(tmp_path: Path):
    """In one process, as importing PyTorch takes most of the time."""
    printed = light(
        NETWORK
        + f"""
from steelman import checkpoint, networks
from steelman.training import SGD

attacks = (PGD(eps=.1, steps=2), DeepFool(steps=2), CarliniWagner(steps=3, search_steps=1), AutoAttack(eps=.1, steps=2))
for attack in (*attacks, HopSkipJump(steps=1, evaluations=10, max_evaluations=20)):
    assert len(attack.run(network, x, y).x_adv) == 32
training = Training(epochs=2, batch_size=16, validation=8, monitor=PGD(eps=.1, steps=2), optimiser=SGD(lr=.01))
for defence in (TRADES(PGD(eps=.1, steps=2)), L2LDA(steps=1, width=4), Free(eps=.1, replays=2)):
    model = networks.MLP(shape=(1, 8, 8), classes=4, hidden=[8])
    history = fit(model, (x, y), defence, training, folder={str(tmp_path)!r} + "/" + type(defence).__name__)
print(sorted(history.log[-1]))
for code in {MISSING}:
    print("---", flush=True)
    try:
        exec(code)
    except (ImportError, SystemExit) as error:
        print(error, flush=True)
"""
    )
    trained, *missing = printed.split("---")
    assert "robust" in trained
    assert len(missing) == len(MISSING)
    for code, said in zip(MISSING, missing, strict=True):
        assert "steelman[full]" in said, code


def test_what_is_there_is_not_missed():
    require("this test", "torch", "numpy")
    with pytest.raises(ImportError, match=r"^this test needs no_such_package: pip install 'steelman\[some\]'$"):
        require("this test", "torch", "no_such_package", extra="some")
