"""Measure or prove what is robust: `PYTHONPATH=tests/helpers python -m zoo.truth [NAME ...]` writes `truths.json`.

Where every image's answer can be proved, it is: of the linear model and the sums of steps by the worst value of each
pixel, of the nearest image by a linear program for each rival. Others are attacked through their `twin`, which has
their values and a useful gradient, by ascent on the margins of several rivals and a random search after it; success is
that of the model itself. A share so found is an upper bound of the truth, by what the attack missed. None of
Steelman's attacks is used.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from zoo.entries import ENTRIES, IMAGES, TRUTHS, Entry, images
from zoo.nets import filled, stored, train_images
from zoo.robust import EDGES
from zoo.twins import twin_of

Model = Callable[[Tensor], Tensor]


def classes(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        answer = model(x.clone())
    return answer.argmax(1) if answer.is_floating_point() else answer


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """The best rival's logit above the label's: positive where the answer is wrong."""
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


def inside(delta: Tensor, x: Tensor, entry: Entry) -> Tensor:
    if entry.norm == "L2":
        length = delta.flatten(1).norm(dim=1).clamp(min=entry.eps).reshape(-1, 1, 1, 1)
        delta = delta * (entry.eps / length) * (1 - 1e-6)
    else:
        delta = delta.clamp(-entry.eps, entry.eps)
    return (x + delta).clamp(0, 1) - x


def started(x: Tensor, entry: Entry) -> Tensor:
    if entry.norm == "L2":
        return inside(torch.randn_like(x), x, entry)
    return inside(torch.empty_like(x).uniform_(-entry.eps, entry.eps), x, entry)


def ascended(
    twin: Model, x: Tensor, y: Tensor, entry: Entry, steps: int, draws: int, seen: Callable, rival: int = 0
) -> Tensor:
    """The last point of ascent by steps that shrink from the radius; `seen` is shown each, and says to end by True.

    rival  0: the best rival's margin is raised; k: that of the class which is k-th best at the image
    """
    delta, speed = started(x, entry), torch.zeros_like(x)
    aim = None
    if rival:
        with torch.no_grad():
            aim = twin(x).scatter(1, y[:, None], -torch.inf).topk(rival, dim=1).indices[:, -1:]

    def raised(logits: Tensor) -> Tensor:
        if aim is None:
            return margins(logits, y).sum()
        return (logits.gather(1, aim) - logits.gather(1, y[:, None])).sum()

    for step in range(steps):
        delta.requires_grad_()
        with torch.enable_grad():
            wrong = sum(raised(twin(x + delta)) for _ in range(draws)) / draws
            (slope,) = torch.autograd.grad(wrong, delta)
        slope = slope.nan_to_num(0, 0, 0)
        speed = 0.75 * speed + slope / slope.abs().flatten(1).sum(1).clamp(min=1e-20).reshape(-1, 1, 1, 1)
        size = entry.eps * (1 - step / steps)
        if entry.norm == "L2":
            move = speed / speed.flatten(1).norm(dim=1).clamp(min=1e-20).reshape(-1, 1, 1, 1)
        else:
            move = speed.sign()
        delta = inside(delta.detach() + size * move, x, entry)
        if seen(x + delta):
            break
    return delta


def searched(value: Model, x: Tensor, y: Tensor, entry: Entry, steps: int, seen: Callable) -> None:
    """Random search: blocks of the image go to a corner of the ball where that raises the margin."""
    delta = started(x, entry).sign() * entry.eps if entry.norm == "Linf" else started(x, entry)
    delta = inside(delta, x, entry)
    with torch.no_grad():
        best = margins(value(x + delta), y)
    for step in range(steps):
        side = max(1, round(4 * (1 - step / steps)))
        row, column = (int(torch.randint(0, 9 - side, ())) for _ in range(2))
        new = delta.clone()
        patch = torch.randn(len(x), 1, side, side)
        if entry.norm == "L2":
            new[:, :, row : row + side, column : column + side] += patch * entry.eps / 4
        else:
            new[:, :, row : row + side, column : column + side] = patch.sign() * entry.eps
        new = inside(new, x, entry)
        with torch.no_grad():
            found = margins(value(x + new), y)
        better = found > best
        delta, best = torch.where(better.reshape(-1, 1, 1, 1), new, delta), torch.where(better, found, best)
        if seen(x + delta):
            break


def attacked(entry: Entry, x: Tensor, y: Tensor, starts: int = 8, steps: int = 50, search: int = 600) -> Tensor:
    """1 where nothing was found."""
    model, twins = entry.build(), twin_of(entry.name)
    right = (classes(model, x) == y).float()
    starts *= len(twins)
    for start in range(starts + 2):
        left = right.nonzero()[:, 0]
        if not len(left):
            break
        ours, labels = x[left], y[left]

        def seen(points: Tensor, left: Tensor = left, labels: Tensor = labels) -> bool:
            right[left] *= (classes(model, points) == labels).float()
            return not bool(right[left].any())

        if start < starts:
            twin = twins[start % len(twins)]
            ascended(twin, ours, labels, entry, steps, 1, seen, start // len(twins) % 6)
        else:
            searched(twins[0], ours, labels, entry, search, seen)
    return right


def expected(entry: Entry, x: Tensor, y: Tensor, starts: int = 3, steps: int = 40, draws: int = 100) -> Tensor:
    """Of a random model: the probability of the right answer at the worst of the points that were found."""

    def share(points: Tensor, draws: int = draws) -> Tensor:
        return torch.stack([(classes(model, points) == y).float() for _ in range(draws)]).mean(0)

    model, (twin,) = entry.build(), twin_of(entry.name)
    worst, least = x, share(x)
    for _ in range(starts):
        points = x + ascended(twin, x, y, entry, steps, 6, lambda points: False)
        found = share(points)
        better = found < least
        worst, least = torch.where(better.reshape(-1, 1, 1, 1), points, worst), torch.minimum(least, found)
    return share(worst, 200)  # drawn anew: the least of several estimates is too low


def of_linear(entry: Entry, x: Tensor, y: Tensor) -> Tensor:
    """Exact, with the box: each pixel moves to the end that helps the rival."""
    head = filled_head("linear")
    change = head.weight[None] - head.weight[y][:, None]  # (image, rival, pixel)
    low = (x - entry.eps).clamp(0, 1).flatten(1)[:, None] - x.flatten(1)[:, None]
    high = (x + entry.eps).clamp(0, 1).flatten(1)[:, None] - x.flatten(1)[:, None]
    return _safe(head(x.flatten(1)) + torch.maximum(change * low, change * high).sum(2), y)


def of_bits(entry: Entry, x: Tensor, y: Tensor) -> Tensor:
    head, flat = filled_head("linear bits"), x.flatten(1)
    low, high = (((flat + sign * entry.eps).clamp(0, 1) > 0.5).float() for sign in (-1, 1))
    now = (flat > 0.5).float()
    change = head.weight[None] - head.weight[y][:, None]
    gain = torch.maximum(change * (low - now)[:, None], change * (high - now)[:, None]).clamp(min=0)
    return _safe(head(now) + gain.sum(2), y)


def filled_head(name: str):
    from zoo.nets import Linear

    return filled(Linear(), name).requires_grad_(False).head


def of_stumps(entry: Entry, x: Tensor, y: Tensor) -> Tensor:
    scores, bias = stored()["stumps"].double(), stored()["stumps bias"].double()
    flat, edges = x.flatten(1).double(), torch.tensor(EDGES).double()
    low, high = (
        torch.bucketize((flat + sign * entry.eps).clamp(0, 1), edges, right=True)[..., None] for sign in (-1, 1)
    )
    bins = torch.arange(len(EDGES) + 1)
    ahead = scores[None] - scores[:, :, y].permute(2, 0, 1)[..., None]  # (image, pixel, bin, rival)
    best = ahead.masked_fill(((bins < low) | (bins > high))[..., None], -torch.inf).amax(2).sum(1)
    return _safe(best + bias - bias[y][:, None], y)


def _safe(best: Tensor, y: Tensor) -> Tensor:
    """1 where no rival's best is above the label's score."""
    return (margins(best, y) < 0).float()


def of_nearest(entry: Entry, x: Tensor, y: Tensor) -> Tensor:
    """Exact: is there a point of the ball in the box that is nearer to one rival than to all images of the class?

    |z - q|^2 < |z - p|^2 is linear in z, so each rival asks for a linear program. Most are refused by single rows.
    """
    known, labels = (each.numpy() for each in train_images())
    known = known.reshape(len(known), -1).astype(float)
    answers = []
    for image, label in zip(x.flatten(1).double().numpy(), y.numpy(), strict=True):
        low, high = np.clip(image - entry.eps, 0, 1), np.clip(image + entry.eps, 0, 1)
        own, rivals = known[labels == label], known[labels != label]
        rivals = rivals[np.square(rivals - image).sum(1).argsort()]
        answers.append(not any(_reached(rival, own, low, high) for rival in rivals))
    return torch.tensor(answers).float()


def _reached(rival: np.ndarray, own: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    rows = 2 * (own - rival)  # 2 z (p - q) < |p|^2 - |q|^2
    ends = np.square(own).sum(1) - np.square(rival).sum()
    if (np.minimum(rows * low, rows * high).sum(1) >= ends).any():
        return False
    # The largest slack t of z (p - q) + t <= end; the rival is nearer somewhere where it is above 0.
    wide = np.hstack([rows, np.ones((len(rows), 1))])
    aim = np.append(np.zeros(len(low)), -1.0)
    found = linprog(aim, wide, ends, bounds=[*zip(low, high, strict=True), (None, None)], method="highs")
    return bool(found.success and found.x[-1] > 1e-9)


EXACT = {"linear": of_linear, "bits": of_bits, "stumps": of_stumps, "nearest": of_nearest}


def measured(entry: Entry, count: int = IMAGES, seed: int = 0, **how: int) -> list[float]:
    """Of each image: 1 robust, 0 not; between, the probability of a random model's right answer."""
    torch.manual_seed(seed)
    x, y = images(count)
    if entry.name in EXACT:
        return EXACT[entry.name](entry, x, y).tolist()
    found = expected(entry, x, y, **how) if entry.draws else attacked(entry, x, y, **how)
    return found.tolist()


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, str] = json.loads(TRUTHS.read_text())
    for name in sys.argv[1:] or ENTRIES:
        start = time.monotonic()
        found = measured(ENTRIES[name])
        plain = all(each in (0, 1) for each in found)
        rows[name] = "".join(f"{each:.0f}" for each in found) if plain else " ".join(f"{each:.3g}" for each in found)
        share, seconds = 100 * sum(found) / len(found), time.monotonic() - start
        print(f"{name:20} {share:5.1f} %  {seconds:4.0f} s", file=sys.stderr, flush=True)
        TRUTHS.write_text(json.dumps({name: rows[name] for name in ENTRIES if name in rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
