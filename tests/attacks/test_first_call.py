"""What the first attack of a process loads: no compiler and no symbolic algebra, .8 s and 42 MB without use."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import torch
from torch import nn
from steelman import *
from steelman.norms import L1, L2

HEAVY = ("sympy", "torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes")
loaded = lambda: sorted(name for name in HEAVY if name in sys.modules)
torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
x = torch.rand(8, 1, 8, 8)
y = network(x).argmax(1).detach()
before = loaded()
for attack in (
    FGSM(), PGD(steps=2), PGD(steps=2, norm=L2), PGD(steps=2, norm=L1), MIM(steps=2), APGD(steps=2), DeepFool(steps=2),
    DDN(steps=4), FMN(steps=4), FAB(steps=2), CarliniWagner(steps=3, search_steps=1), Square(queries=2),
    HopSkipJump(steps=1, evaluations=5, max_evaluations=10),
):
    attack(network, x, y)
after = loaded()
image = x.requires_grad_()
value = network(image)
torch.autograd.grad(value, image, torch.ones_like(value))
print(json.dumps([before, after, loaded()]))
"""


def test_the_first_attack_of_a_process_loads_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after, otherwise = json.loads(done.stdout)
    assert after == before
    assert otherwise != before, "torch loads none of them for `grad_outputs` either, so nothing was tested"
