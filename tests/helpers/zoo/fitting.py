"""Train what `nets.py` loads: `PYTHONPATH=tests/helpers python -m zoo.fitting [NAME ...]`, two minutes on a core.

Bare loops of Adam on all training images of Digits, with seed 0.
"""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.masked import LEVELS, Signs, Winners, codes_of, jpeg_like, nearest_words
from zoo.nets import WEIGHTS, Bounded, Coder, Conv, Dense, Linear, Residual, filled, stored, train_images
from zoo.robust import EDGES

EPS, EPS_L2 = 0.15, 0.8
Seen = Callable[[Tensor], Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def fitted(net: nn.Module, loss: Loss, epochs: int, rate: float = 3e-3, decay: float = 0.0) -> nn.Module:
    x, y = train_images()
    torch.manual_seed(0)
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), rate, weight_decay=decay)
    batches = 11
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).chunk(batches):
            wrong = loss(net, x[part], y[part])
            optimiser.zero_grad()
            wrong.backward()
            optimiser.step()
            plan.step()
    return net.eval()


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def on(seen: Seen) -> Loss:
    return lambda net, x, y: F.cross_entropy(net(seen(x)), y)


def attacked(net: nn.Module, x: Tensor, wrong: Callable[[Tensor], Tensor], l2: bool = False, steps: int = 7) -> Tensor:
    """Projected ascent from a random point; `wrong` is the loss to raise, of the images' logits."""
    eps = EPS_L2 if l2 else EPS
    delta = torch.randn_like(x) * 0.01 if l2 else torch.empty_like(x).uniform_(-eps, eps)
    for _ in range(steps):
        delta.requires_grad_()
        (slope,) = torch.autograd.grad(wrong(net((x + delta).clamp(0, 1))), delta)
        delta = delta.detach()
        if l2:
            delta = delta + eps / 3 * slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)
            delta = delta * (eps / delta.flatten(1).norm(dim=1).clamp(min=eps)).reshape(-1, 1, 1, 1)
        else:
            delta = (delta + eps / 3 * slope.sign()).clamp(-eps, eps)
        delta = (x + delta).clamp(0, 1) - x
    return (x + delta).detach()


def adversarial(l2: bool = False) -> Loss:
    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(attacked(net, x, lambda z: F.cross_entropy(z, y, reduction="sum"), l2)), y)

    return loss


def trades(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    clean = net(x)
    there = clean.detach().softmax(1)

    def apart(z: Tensor) -> Tensor:
        return F.kl_div(z.log_softmax(1), there, reduction="sum")

    near = net(attacked(net, x, apart)).log_softmax(1)
    return F.cross_entropy(clean, y) + 4 * F.kl_div(near, clean.softmax(1), reduction="batchmean")


def resized(x: Tensor) -> Tensor:
    from zoo.masked import ResizedPadded

    return ResizedPadded(nn.Identity())(x)


def dropped(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    from zoo.masked import Dropping

    return F.cross_entropy(Dropping.forward(net, x), y)


def signs(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Straight through each sign, by the gradient of a hyperbolic tangent."""

    def through(h: Tensor) -> Tensor:
        soft = torch.tanh(h)
        return soft + (h.sign() - soft).detach()

    return F.cross_entropy(net.head(through(net.second(through(net.first(x.flatten(1)))))), y)


def worst_bits(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy where every rival has the best of the bits that the radius flips, exactly."""
    weight, start = net.head.weight, net((x > 0.5).float())
    x, change = x.flatten(1), (weight[None] - weight[y][:, None])  # (batch, rival, pixel)
    now, low, high = x > 0.5, x - EPS > 0.5, x + EPS > 0.5
    gain = ((low.float() - now.float())[:, None] * change).clamp(min=0)
    gain = gain + ((high.float() - now.float())[:, None] * change).clamp(min=0)
    return F.cross_entropy(start + gain.sum(2), y) + 1e-3 * weight.square().sum()


def copied(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (net(x) - x).square().flatten(1).sum(1).mean() + 1e-2 * net.encoder(x).square().mean()


class Stumps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(0.01 * torch.randn(64, len(EDGES) + 1, 10))
        self.bias = nn.Parameter(torch.zeros(10))


def worst_bins(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As `worst_bits`, over the bins that a pixel reaches."""
    edges, x = torch.tensor(EDGES), x.flatten(1)
    low, high = (torch.bucketize((x + sign * EPS).clamp(0, 1), edges) for sign in (-1, 1))
    bins = torch.arange(len(EDGES) + 1)
    reached = (bins >= low[..., None]) & (bins <= high[..., None])  # (batch, pixel, bin)
    own = net.scores[:, :, y].permute(2, 0, 1)
    ahead = net.scores[None] - own[..., None]  # (batch, pixel, bin, rival)
    best = ahead.masked_fill(~reached[..., None], -torch.inf).amax(2).sum(1) + net.bias - net.bias[y][:, None]
    smooth = (net.scores[:, 1:] - net.scores[:, :-1]).square().sum()
    return F.cross_entropy(best, y) + 1e-3 * smooth + 1e-4 * net.scores.square().sum()


def words() -> Tensor:
    """48 patches by k-means."""
    patches = F.unfold(train_images()[0], 2, stride=2).transpose(1, 2).flatten(0, 1)
    torch.manual_seed(0)
    found = patches.unique(dim=0)
    found = found[torch.randperm(len(found))[:48]]
    for _ in range(30):
        near = torch.cdist(patches, found).argmin(1)
        found = torch.stack([patches[near == k].mean(0) if (near == k).any() else found[k] for k in range(48)])
    return found


def main() -> None:
    torch.set_num_threads(1)
    start, wanted = time.monotonic(), sys.argv[1:]
    kept = dict(stored()) if wanted else dict[str, Tensor]()

    def keep(name: str, net: nn.Module, loss: Loss, epochs: int = 40, **how: float) -> nn.Module:
        if wanted and name not in wanted:
            return filled(net, name)
        torch.manual_seed(1)
        for layer in net.modules():  # weights of seed 1, whatever was made before
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        fitted(net, loss, epochs, **how)
        state = {f"{name}/{key}": each for key, each in net.state_dict().items()}
        kept.update({key: each.half() if each.is_floating_point() else each for key, each in state.items()})
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        return net

    keep("dense", Dense(), plain)
    keep("conv", Conv(), plain)
    keep("residual", Residual(), plain)
    keep("linear", Linear(), adversarial(), 60)
    keep("bounded", Bounded(), plain)
    keep("conv scaled", Conv(), on(lambda x: (x - 0.3) / 0.38))
    keep("conv gaussian", Conv(), on(lambda x: x + 0.15 * torch.randn_like(x)))
    keep("conv noise", Conv(), on(lambda x: x + 0.3 * torch.randn_like(x)))
    keep("dense pgd", Dense(), adversarial(), 80)
    keep("conv pgd", Conv(), adversarial(), 80)
    keep("conv l2", Conv(), adversarial(l2=True), 60)
    keep("dense trades", Dense(), trades, 80)
    keep("conv bits", Conv(), on(lambda x: torch.round(7 * x) / 7))
    keep("conv jpeg", Conv(), on(lambda x: torch.from_numpy(jpeg_like(x.numpy()))))
    keep("conv thermometer", Conv(LEVELS), on(codes_of))
    keep("kwta", Winners(), plain, 60)
    keep("sign", Signs(), signs)
    keep("conv resize", Conv(size=10), on(resized))
    keep("conv dropout", Conv(), dropped)
    keep("conv median", Conv(), on(median))
    kept.setdefault("words", words().half())
    keep("conv words", Conv(), on(lambda x: nearest_words(x, kept["words"].float())))
    coder = keep("coder", Coder(), copied, 150)
    keep("conv coded", Conv(), on(lambda x: coder(x).detach()))
    keep("linear bits", Linear(), worst_bits, 80)
    if not wanted or "stumps" in wanted:
        kept |= tables()
    save_file(kept, WEIGHTS)


def tables() -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = fitted(Stumps(), worst_bins, 60, rate=2e-2)
    return {"stumps": found.scores.detach().half(), "stumps bias": found.bias.detach().half()}


def median(x: Tensor) -> Tensor:
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(x.numpy(), size=(1, 1, 2, 2)))


if __name__ == "__main__":
    main()
