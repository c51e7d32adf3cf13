"""Networks whose middle is an ordinary differential equation: ODENet, TisODE, and the CNN that they stand beside."""

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from steelman.extras import require
from steelman.networks.denoising import FeatureDenoising, pairs_normalised
from steelman.networks.layers import check_shape, numbered
from steelman.types import Images, Logits

_STEPS = {"ode": 0.1, "tisode": 0.05, "cnn": 1.0}
_OTHERS = ("midpoint", "heun3", "rk4")


@final
class Slope(nn.Module):
    """f of dz/dt = f(z, t): twice Conv3 (padding 1), GroupNorm, ReLU; so f >= 0.

    timed  t is one more channel of each convolution's input, before the others, and the convolutions have biases;
           otherwise f does not depend on t, and they have none
    """

    def __init__(self, width: int, timed: bool) -> None:
        super().__init__()
        self.timed = timed
        self.conv1, self.conv2 = (nn.Conv2d(width + timed, width, 3, padding=1, bias=timed) for _ in range(2))
        self.gn1, self.gn2 = (pairs_normalised(width, "ODENet") for _ in range(2))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, z: Tensor, t: float | Tensor) -> Tensor:
        z = self.relu1(self.gn1(self.conv1(self._with(t, z))))
        return self.relu2(self.gn2(self.conv2(self._with(t, z))))

    def _with(self, t: float | Tensor, z: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(z[:, :1]) * t, z], 1) if self.timed else z


@final
class ODENet(nn.Module):
    """Neural ODE between a convolutional feature extractor and a linear layer; also its time-invariant form and a CNN.

    z(t0) = FE(x), dz/dt = f(z, t), logits = FC(average of z(T) over the map), f as in `Slope`.
    FE: Conv3, GroupNorm, ReLU, then for each k of `stem` Conv-k (stride 2, padding 1), GroupNorm, ReLU.

    shape    of one image, default (1, 28, 28)
    classes  default 10
    variant  "ode" (default): f depends on t; 142,410 parameters on MNIST
             "tisode": f does not; 141,130. Trained with `SteadyState` it is the paper's TisODE
             "cnn": the paper's CNN, z + f(z), which is "tisode" with one step of 1; 141,130
    width    channels of all layers, even; default 64
    stem     kernels of the stride-2 convolutions, default (4,) (MNIST: a map of 13x13). Our own, since the code has no
             others: (4, 4) for SVHN (7x7; "cnn" and "tisode" have 208,010 parameters, "ode" 209,290), (4, 4, 4) for
             64x64 images (7x7; 273,738 and 275,018); (4, 3) with width 16 is a small form for MNIST (7x7; 11,530 and
             11,850)
    step     h of the solver, which must divide T - t0; default .1 ("ode"), .05 ("tisode"), 1 ("cnn"), as in the code
    times    (t0, T), default (0, 1)
    solver   "euler" (default, as in the code): z <- z + h f(z, t). "midpoint", "heun3", "rk4": by torchdiffeq
             (steelman[ode]) on the same steps. Solvers that choose their steps are refused, since an image's answer
             would depend on its batch
    fdn      a `FeatureDenoising` between FE and the ODE, the paper's FDn: "gaussian" (149,450 parameters for "cnn" and
             "tisode"), or "dot"; default none. `surgery.denoise` puts blocks anywhere

    Gradients go back through the solver's steps. The adjoint method is not offered: its gradient is not that of the
    network that answers, which hides the gradient from attacks. Groups of GroupNorm are pairs of channels, 32 groups of
    64 channels as in the code; the code's rule, min(32, width) groups, is instance normalisation for width 32 and less.
    Since f >= 0, z never falls, and steady can only mean f = 0.

    Cost: (T - t0) / h evaluations of f: 10, 20 and 1.
    Broken by: plain gradient attacks, PGD on either loss; nothing is random. Robustness that vanishes when `step` is
    changed after training is that of the discretisation: a state dict loads into any step, times and solver.
    Layers: features (conv1, gn1, relu1, ...), denoise, slope (conv1, gn1, relu1, conv2, gn2, relu2), head (pool1,
    flatten, fc1).
    Reference: Hanshu Yan, Jiawei Du, Vincent Y. F. Tan and Jiashi Feng, "On robustness of neural ordinary differential
    equations", ICLR 2020, sections 3 and 4; Ricky T. Q. Chen, Yulia Rubanova, Jesse Bettencourt and David Duvenaud,
    "Neural ordinary differential equations", NeurIPS 2018.

    Raises:
        ValueError: an unknown variant or solver; an odd width; images that leave a map below 2x2; times that do not
            rise; a step that is not positive or does not divide them.
        ImportError: a solver of torchdiffeq, which is not installed.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        variant: str = "ode",
        width: int = 64,
        stem: Sequence[int] = (4,),
        step: float | None = None,
        times: Sequence[float] = (0.0, 1.0),
        solver: str = "euler",
        fdn: str | None = None,
    ) -> None:
        super().__init__()
        if variant not in _STEPS:
            raise ValueError(f'variant is "ode", "tisode" or "cnn"; got {variant!r}')
        pairs_normalised(width, "ODENet")  # raises before a layer is made
        self.step = _STEPS[variant] if step is None else step
        self.times, self.solver = tuple(times), solver
        self._check_times()
        self.features = nn.Sequential(numbered(*_extractor(shape, width, stem)))
        self.denoise = nn.Identity() if fdn is None else FeatureDenoising(width, fdn)
        self.slope = Slope(width, timed=variant == "ode")
        self.head = nn.Sequential(numbered(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)))

    def forward(self, x: Images) -> Logits:
        z, _ = self._advance(self._begin(x), 0, self.place(self.times[1]))
        return self.head(z)

    def trajectory(self, x: Images, start: float, end: float) -> tuple[Logits, Tensor]:
        """The logits, and A = the integral over [start, end] of |f(z(t), t)|, of the shape of z, by the same solver.

        Every step is taken once, also where [start, end] begins before T and ends after it. Where f >= 0, as here,
        A = z(end) - z(start).

        Raises:
            ValueError: start is before t0 or not before end; a time that is no multiple of the step after t0.
        """
        answer, first, last = (self.place(time) for time in (self.times[1], start, end))
        if not 0 <= first < last:
            raise ValueError(f"a trajectory needs times with {self.times[0]:g} <= start < end; got {start:g}, {end:g}")
        z = self._begin(x)
        area, logits = torch.zeros_like(z), None
        for before, after in pairwise(sorted({0, answer, first, last})):
            z, more = self._advance(z, before, after, counted=first <= before < last)
            area = area if more is None else area + more
            logits = self.head(z) if after == answer else logits
        assert logits is not None
        return logits, area

    def place(self, time: float) -> int:
        """How many steps after t0 a time is.

        Raises:
            ValueError: it is between two steps, where the code would interpolate.
        """
        steps = (time - self.times[0]) / self.step
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(f"the time {time:g} is not a multiple of the step {self.step:g} after {self.times[0]:g}")
        return round(steps)

    def _begin(self, x: Images) -> Tensor:
        return self.denoise(self.features(x))

    def _advance(self, z: Tensor, first: int, last: int, *, counted: bool = False) -> tuple[Tensor, Tensor | None]:
        """z after the steps from one place to another and, if `counted`, the integral of |f| over them."""
        times = [self.times[0] + place * self.step for place in range(first, last + 1)]
        area = torch.zeros_like(z) if counted else None
        if self.solver != "euler":
            return self._by_torchdiffeq(z, area, z.new_tensor(times))
        for time in times[:-1]:
            slope = self.slope(z, time)
            area = None if area is None else area + self.step * slope.abs()
            z = z + self.step * slope
        return z, area

    def _by_torchdiffeq(self, z: Tensor, area: Tensor | None, times: Tensor) -> tuple[Tensor, Tensor | None]:
        odeint: Any = import_module("torchdiffeq").odeint  # not odeint_adjoint: see the card
        if area is None:
            return odeint(lambda t, z: self.slope(z, t), z, times, method=self.solver)[-1], None

        def both(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            slope = self.slope(state[0], t)
            return slope, slope.abs()

        z, area = (each[-1] for each in odeint(both, (z, area), times, method=self.solver))
        return z, area

    def _check_times(self) -> None:
        if len(self.times) != 2 or not self.times[0] < self.times[1] < float("inf"):
            raise ValueError(f"times are (t0, T) with t0 < T; got {self.times}")
        if not 0 < self.step < float("inf"):
            raise ValueError(f"ODENet needs a step above 0; got {self.step:g}")
        if self.place(self.times[1]) < 1:
            raise ValueError(f"the step {self.step:g} is longer than the times {self.times}")
        if self.solver in _OTHERS:
            require(f"the solver {self.solver!r}", "torchdiffeq", extra="ode")
        elif self.solver != "euler":
            raise ValueError(f'solver is "euler", "midpoint", "heun3" or "rk4"; got {self.solver!r}')

    def extra_repr(self) -> str:
        return f"step={self.step:g}, times={self.times}, solver={self.solver!r}"


def _extractor(shape: Sequence[int], width: int, stem: Sequence[int]) -> list[nn.Module]:
    channels, *sides = check_shape("ODENet", shape, 1)
    sides, layers = [side - 2 for side in sides], [nn.Conv2d(channels, width, 3)]
    for kernel in stem:
        sides = [(side + 2 - kernel) // 2 + 1 for side in sides]
        layers.append(nn.Conv2d(width, width, kernel, stride=2, padding=1))
    if min(sides) < 2:
        raise ValueError(
            f"ODENet needs maps of at least 2x2; the stem {tuple(stem)} leaves {sides[0]}x{sides[1]} of images of "
            f"{shape[1]}x{shape[2]}: take larger images or a shorter stem"
        )
    return [part for layer in layers for part in (layer, pairs_normalised(width, "ODENet"), nn.ReLU())]
