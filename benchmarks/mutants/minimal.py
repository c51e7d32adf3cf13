"""Faults in attacks that look for the smallest perturbation."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    # --- DeepFool
    Fault("deepfool-exponent", "attack: DeepFool", "1 / (p - 1)", "1 * (p - 1)", "deepfool linearised"),
    Fault(
        "deepfool-overshoot",
        "attack: DeepFool",
        "clip(clean + (1 + self.overshoot) * total, self.box)",
        "clip(raw + self.overshoot * step, self.box)",
        "deepfool",
    ),
    Fault(
        "deepfool-outwards",
        "attack: DeepFool",
        "-value.detach().abs() if self.outwards",
        "value.detach() if self.outwards",
        "deepfool",
    ),
    Fault(
        "linearised-nearest",
        "attack: DeepFool",
        "wanted & (length < distance[rows])",
        "wanted & (length < 2 * distance[rows])",
        "deepfool linearised",
    ),
    # --- DDN
    Fault(
        "ddn-radius",
        "attack: DDN",
        "torch.where(reached, (1 - self.gamma)",
        "torch.where(~reached, (1 - self.gamma)",
        "ddn",
    ),
    Fault("ddn-step-size", "attack: DDN", "0.01 * self.box_width)", "0.1 * self.box_width)", "ddn"),
    Fault(
        "ddn-plateau",
        "attack: DDN",
        "torch.where(Linf.size(gradient) == 0)",
        "torch.where(Linf.size(gradient) < 0)",
        "ddn",
    ),
    Fault("ddn-levels", "attack: DDN", "(self.levels - 1) / (high - low)", "self.levels / (high - low)", "ddn"),
    # --- FMN
    Fault("fmn-dual-norm", "attack: FMN", "{Linf: 1, L2: 2, L1: math.inf}", "{Linf: math.inf, L2: 2, L1: 1}", "fmn"),
    Fault(
        "fmn-nearest",
        "attack: FMN",
        "torch.minimum(smaller, best.size)",
        "smaller",
        "fmn",
    ),
    Fault("fmn-step-size", "attack: FMN", "self.step_size / 100)", "self.step_size)", "fmn"),
    # --- ALMA
    Fault("alma-penalty", "attack: ALMA", "mu + 2 * mu * rho * v", "mu + mu * rho * v", "alma"),
    Fault(
        "alma-multiplier",
        "attack: ALMA",
        "torch.lerp(_slope(lead, rho, mu), mu, self.alpha)",
        "torch.lerp(mu, _slope(lead, rho, mu), self.alpha)",
        "alma",
    ),
    Fault("alma-check", "attack: ALMA", "(step + 1) % self.check == 0", "step % self.check == 0", "alma"),
    Fault("alma-decay", "attack: ALMA", "0.01 ** ((step - since)", "0.1 ** ((step - since)", "alma"),
    # --- sigma-zero
    Fault("sigma-zero-count", "attack: SigmaZero", "value=2 * sigma / count", "value=sigma / count", "sigma_zero"),
    Fault(
        "sigma-zero-threshold",
        "attack: SigmaZero",
        "torch.where(reached, tau + 0.01",
        "torch.where(~reached, tau + 0.01",
        "sigma_zero",
    ),
    # --- FAB
    Fault("fab-pull", "attack: FAB", "clean + self.eta * straight", "clean + straight", "fab"),
    Fault("fab-alpha", "attack: FAB", ".clamp(max=self.alpha_max)", ".clamp(max=1)", "fab"),
    Fault(
        "fab-final-search",
        "attack: FAB",
        "0.05 * (enough - crossing)",
        "0.9 * (enough - crossing)",
        "fab",
    ),
    # --- L-BFGS
    Fault(
        "lbfgs-loss",
        "attack: LBFGS",
        "-other_logits(shares, goal.labels).logsumexp(1)",
        "shares.gather(1, goal.labels[:, None])[:, 0]",
        "lbfgs",
    ),
    Fault("lbfgs-two-loops", "attack: LBFGS", "direction - share * y", "direction + share * y", "lbfgs"),
    Fault(
        "lbfgs-curvature", "attack: LBFGS", "(share - rho * (y * direction)", "(share + rho * (y * direction)", "lbfgs"
    ),
    Fault("lbfgs-distance", "attack: LBFGS", "2 * delta / area", "delta / area", "lbfgs"),
    Fault(
        "lbfgs-box", "attack: LBFGS", "((x >= box[1]) & (gradient < 0))", "((x >= box[1]) & (gradient > 0))", "lbfgs"
    ),
    # --- JSMA
    Fault(
        "jsma-rest",
        "attack: JSMA",
        "gain - oracle.backward(total, x, which)",
        "gain + oracle.backward(total, x, which)",
        "jsma",
    ),
    Fault("jsma-pair", "attack: JSMA", "sums[0].mul_(sums[1])", "sums[0].add_(sums[1])", "jsma"),
    Fault(
        "jsma-put-back",
        "attack: JSMA",
        "x_adv[which[open[reached]]] = trial[reached]",
        "x_adv[which[open]] = trial",
        "jsma",
    ),
    # --- AN-PGD
    Fault("an-pgd-bracket", "attack: ANPGD", "torch.where(hit, 0, high)", "torch.zeros_like(high)", "an_pgd"),
    Fault("an-pgd-bisection", "attack: ANPGD", "torch.where(now, low, middle)", "torch.where(now, low, low)", "an_pgd"),
    Fault(
        "an-pgd-crossing",
        "attack: ANPGD",
        "length = (low + high) / 2\n",
        "length = high\n",
        "crossing",
        "closed_form or halves",
    ),
    # --- minimal FGSM
    Fault(
        "minimal-fgsm-bracket",
        "attack: MinimalFGSM",
        "before = start + first[done] - 1",
        "before = start + first[done]",
        "minimal_fgsm",
    ),
    Fault(
        "minimal-fgsm-first",
        "attack: MinimalFGSM",
        "first = hit.int().argmax(0)",
        "first = hit.int().argmin(0)",
        "minimal_fgsm",
    ),
    Fault(
        "minimal-fgsm-tolerance",
        "attack: MinimalFGSM",
        "> RELATIVE * high[going]",
        "> 100 * RELATIVE * high[going]",
        "minimal_fgsm",
    ),
    # --- Carlini and Wagner, L2
    Fault(
        "cw-distance",
        "attack: C&W L2",
        "(2 * delta - column(strength, x) * pull)",
        "(delta - column(strength, x) * pull)",
        "carlini_wagner",
        "slow_version",
    ),
    Fault(
        "cw-hinge",
        "attack: C&W L2",
        "torch.where(cost > 0, c, 0) if hinged else c",
        "c",
        "carlini_wagner",
        "slow_version",
    ),
    Fault(
        "cw-last-bisection",
        "attack: C&W L2",
        "halve(reached, x, 10)",
        "halve(reached, x, 1)",
        "carlini_wagner",
        "last_bisection",
    ),
    Fault(
        "cw-tanh",
        "attack: C&W L2",
        "reach * (1 - unit * unit)",
        "reach * (1 - unit)",
        "carlini_wagner_objectives",
    ),
    Fault(
        "cw-objective",
        "attack: C&W L2",
        "0.5 - _at(values, wanted)",
        "1 - _at(values, wanted)",
        "carlini_wagner_objectives",
    ),
    Fault(
        "cw-other-rival",
        "attack: C&W L2",
        "(size > 0) & ((before == 0) | (size < before))",
        "(size > 0) & (before == 0)",
        "carlini_wagner",
        "nearer_of_two",
    ),
    # --- Carlini and Wagner, L0
    Fault(
        "cw-l0-score",
        "attack: C&W L0",
        "delta.sum(1).abs() * slope.abs().sum(1)",
        "-delta.sum(1).abs() * slope.abs().sum(1)",
        "carlini_wagner_rounds",
        "l0",
    ),
    Fault(
        "cw-l0-pixels",
        "attack: C&W L0",
        "channels = x.shape[1] if x.ndim > 2 else 1",
        "channels = 1",
        "carlini_wagner_rounds",
        "l0",
    ),
    Fault(
        "cw-l0-fewer",
        "attack: C&W L0",
        "rest.best.keep(image, size, size > 0)",
        "rest.best.keep(image, size * 0 + 1, size > 0)",
        "carlini_wagner_rounds",
        "l0",
    ),
    # --- Carlini and Wagner, Linf
    Fault(
        "cw-linf-slope",
        "attack: C&W Linf",
        "delta.sign() * (over > 0)",
        "delta.sign()",
        "carlini_wagner_rounds",
        "linf_round",
    ),
    Fault(
        "cw-linf-ball",
        "attack: C&W Linf",
        "torch.minimum(tau[place], reach)",
        "tau[place]",
        "carlini_wagner_rounds",
        "linf_round",
    ),
    Fault(
        "cw-linf-fits",
        "attack: C&W Linf",
        "total < 1e-4 * c[place]",
        "total < torch.inf",
        "carlini_wagner_rounds",
        "linf_round",
    ),
    # --- what minimal attacks share
    Fault(
        "polish-boundary",
        "attack: minimal, polish",
        "beyond(owed.flatten(1).sum(1) - value, logits)",
        "beyond(owed.flatten(1).sum(1), logits)",
        "nearest",
    ),
    Fault(
        "first-look",
        "attack: minimal, first look",
        "torch.where(reaches, norm.size(step), 1 / TINY)",
        "norm.size(step)",
        "linearised_start",
    ),
    Fault(
        "plane-l1",
        "attack: minimal, plane",
        "(need - before).clamp(min=0), most)",
        "need.clamp(min=0).expand_as(most), most)",
        "linearised",
    ),
    Fault(
        "plane-within-box",
        "attack: minimal, plane",
        "torch.where(way > 0, box[1] - flat, flat - box[0])",
        "torch.where(way < 0, box[1] - flat, flat - box[0])",
        "linearised",
    ),
)
