"""The same attacks on random affine models with known smallest perturbations (tests/helpers/affine.py)."""

import sys
from pathlib import Path

import torch
from benchmarks.battery.measure import PATIENCE, Cell, patience
from benchmarks.battery.peers import Adapters
from benchmarks.battery.rows import Job, Row
from torch import Tensor, nn

from steelman.norms import Linf

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))
from affine import Affine  # pyright: ignore

SEEDS = range(2)


def affine(seed: int) -> Affine:
    """24 images labelled by the model; square and not too small, as Square's patches want them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(10, 64, generator=generator, dtype=torch.float64)
    x = 0.2 + 0.6 * torch.rand(24, 1, 8, 8, generator=generator, dtype=torch.float64)
    bias = 0.1 * torch.randn(10, generator=generator, dtype=torch.float64) - weight.sum(1) / 2
    return Affine(weight, bias, x, (x.flatten(1) @ weight.T + bias).argmax(1))


class _Model(nn.Module):
    """Single precision, since not all peers have double."""

    def __init__(self, model: Affine) -> None:
        super().__init__()
        self.weight = nn.Parameter(model.weight.float(), requires_grad=False)
        self.bias = nn.Parameter(model.bias.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def oracle(row: Row, library: Adapters, known: dict[tuple[str, int], tuple[Affine, Tensor]]) -> dict[str, Cell]:
    """Minimal attacks: share of successes, and their sizes over the optima. Bounded ones: with the median optimum as
    eps, the share found of the images that can be changed. `known` keeps the models and their optima."""
    cells = {}
    for name, run in library.items():
        ratios: list[float] = []
        possible, found, impossible = 0, 0, 0
        try:
            for seed in SEEDS:
                if (row.norm.name, seed) not in known:
                    model = affine(seed)
                    known[row.norm.name, seed] = (model, model._sizes_in_box(row.norm))
                model, sizes = known[row.norm.name, seed]
                target = (model.y + 1) % 10
                optimum = sizes.gather(1, target[:, None])[:, 0] if row.targeted else sizes.amin(1)
                eps = float(optimum.median()) * (1 + 1e-3) if row.bounded else 0.0
                x, y = model.x.float(), model.y
                torch.manual_seed(seed)
                net = _Model(model).eval()
                with patience(PATIENCE):
                    x_adv = run(Job(net, x.clone(), y.clone(), row.norm, eps, row.steps, seed)).detach().float()
                x_adv = torch.nan_to_num(x_adv).clamp(0, 1)
                prediction = net(x_adv).argmax(1)
                won = prediction == target if row.targeted else prediction != y
                size = row.norm.size(x_adv.double() - x.double())
                inside = size <= eps * (1 + 1e-5) + (1e-6 if row.norm is Linf else 1e-5)
                able = optimum <= eps if row.bounded else optimum < float("inf")
                won &= inside if row.bounded else torch.ones_like(inside)
                possible, found = possible + int(able.sum()), found + int((able & won).sum())
                impossible += int((~inside).sum()) if row.bounded else 0
                ratios += (size / optimum)[won & able].tolist()
            cells[name] = {
                "success": found / possible,
                "outside": impossible,
                "worst": max(ratios) if ratios and not row.bounded else None,
                "middle": sorted(ratios)[len(ratios) // 2] if ratios and not row.bounded else None,
            }
        except Exception as problem:  # a peer may fail in any way; the cell says how
            text = str(problem).strip().splitlines()
            cells[name] = {"error": f"{type(problem).__name__}: {text[0] if text else ''}"[:200]}
        print(f"{row.name:20} {'affine':13} {name:13} {cells[name]}", file=sys.stderr, flush=True)
    return cells
