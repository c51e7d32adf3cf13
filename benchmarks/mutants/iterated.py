"""Faults in attacks that climb inside a ball, that sample, that follow decisions, or that are made of others."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    # --- FGSM
    Fault(
        "fgsm-direction", "attack: FGSM", "return ball.furthest(gradient)", "return ball.furthest(-gradient)", "fgsm"
    ),
    Fault(
        "random-fgsm-sign",
        "attack: FGSM",
        ".clamp(min=0) * gradient.sign()",
        ".clamp(min=0) * gradient",
        "fgsm",
    ),
    # --- PGD
    Fault(
        "pgd-step",
        "attack: PGD step",
        "gradient.sign().mul_(step).add_(x)",
        "gradient.sign().mul_(step).add_(self.x)",
        "pgd",
    ),
    Fault("pgd-step-size", "attack: PGD step", "2.5 * reach", "2.0 * reach", "pgd"),
    Fault(
        "pgd-l2-step",
        "attack: PGD step",
        "gradient / top * (step /",
        "gradient / top * (2 * step /",
        "pgd",
    ),
    Fault("pgd-projection", "attack: PGD projection", "torch.clamp(x, *self.bounds)", "x", "pgd"),
    Fault(
        "pgd-l2-projection",
        "attack: PGD projection",
        "self.size(inside - x) > bound[:, 0]",
        "self.size(inside - x) > 2 * bound[:, 0]",
        "norms",
    ),
    Fault(
        "pgd-random-start",
        "attack: PGD random start",
        "if not self.random_start:",
        "if self.random_start:",
        "pgd",
    ),
    Fault(
        "pgd-restarts-alike",
        "attack: PGD random start",
        "combine(draws.seeds[which], turn)",
        "combine(draws.seeds[which], 0 * turn)",
        "pgd",
    ),
    Fault(
        "pgd-targets",
        "attack: PGD step",
        "rivals[which, turn % rivals.shape[1]]",
        "rivals[which, 0 * turn]",
        "pgd",
    ),
    # --- MIM
    Fault(
        "mim-momentum",
        "attack: MIM momentum",
        "(self.decay * velocity if step else 0)",
        "(velocity if step else 0)",
        "mim",
    ),
    Fault(
        "mim-mean",
        "attack: MIM momentum",
        "gradient = gradient / (mean + (mean == 0))",
        "gradient = gradient",
        "mim",
    ),
    # --- APGD
    Fault("apgd-stuck", "attack: APGD step rule", "(self.rises < enough) | stuck", "self.rises < enough", "apgd"),
    Fault("apgd-rises", "attack: APGD step rule", "self.rises += loss > self.last", "self.rises += 1", "apgd"),
    Fault(
        "apgd-momentum",
        "attack: APGD step rule",
        "mul_(0.75).add_(x, alpha=0.5)",
        "mul_(0.5).add_(x, alpha=0.75)",
        "apgd",
    ),
    Fault(
        "apgd-back-to-best",
        "attack: APGD step rule",
        "torch.where(back, self.best, self.x)",
        "torch.where(back, self.x, self.x)",
        "apgd",
    ),
    Fault("apgd-checkpoints", "attack: APGD step rule", "gap = max(gap - 3, 6)", "gap = max(gap - 3, 3)", "apgd"),
    Fault(
        "apgd-l1-support",
        "attack: APGD step rule",
        "support < 0.95 * self.support",
        "support < self.support",
        "apgd",
    ),
    Fault(
        "apgd-margin-of-targets",
        "attack: APGD-DLR",
        "Margin()(logits, now.goal) if self.targets else loss",
        "loss",
        "apgd",
    ),
    Fault(
        "dlr-denominator",
        "attack: APGD-DLR",
        "(top[:, 0] - top[:, 2] + 1e-12)",
        "(top[:, 0] - top[:, 1] + 1e-12)",
        "losses",
    ),
    Fault(
        "dlr-targeted",
        "attack: APGD-DLR",
        "(top[:, 2] + top[:, 3]) / 2 + 1e-12",
        "(top[:, 1] + top[:, 2]) / 2 + 1e-12",
        "losses",
    ),
    # --- Square
    Fault(
        "square-same-question",
        "attack: Square",
        "torch.where(high ^ same[:, None, None], high_end, low_end)",
        "torch.where(high, high_end, low_end)",
        "square",
    ),
    Fault(
        "square-schedule",
        "attack: Square",
        "sum(count > after for after in _HALVINGS)",
        "sum(count >= after for after in _HALVINGS)",
        "square",
    ),
    Fault(
        "square-second-window",
        "attack: Square",
        "delta.scatter(2, into, 0).scatter(2, out_of, 0)",
        "delta.scatter(2, into, 0)",
        "square",
    ),
    Fault("square-unused-budget", "attack: Square", "+ unused / channels", "+ unused", "square"),
    Fault(
        "square-accepts-all", "attack: Square", "moves.now[better] = image[better]", "moves.now[:] = image", "square"
    ),
    Fault(
        "square-stripes",
        "attack: Square",
        "draws.uniform((channels, 1, width)) < 0.5",
        "draws.uniform((channels, self.now.shape[2], width)) < 0.5",
        "square",
    ),
    # --- VAT
    Fault("vat-xi", "attack: VAT", "self.xi * L2.steepest(direction)", "L2.steepest(direction)", "vat"),
    Fault("vat-iterations", "attack: VAT", "for _ in range(self.iterations):", "for _ in range(1):", "vat"),
    # --- noise
    Fault(
        "gaussian-noise-length",
        "attack: noise",
        "L2.steepest(draws.normal(x.shape[1:], x.dtype))",
        "draws.normal(x.shape[1:], x.dtype)",
        "noise",
    ),
    Fault("noise-rescaled", "attack: noise", "return left.sqrt()[:, 0]", "return left[:, 0]", "noise"),
    Fault(
        "noise-uniform-sample",
        "attack: noise",
        "(2 * draws.uniform(like.shape[1:], like.dtype) - 1)",
        "draws.uniform(like.shape[1:], like.dtype)",
        "norms",
    ),
    Fault(
        "salt-and-pepper-share",
        "attack: noise",
        "(self.share_max * most + 1e-9).long()",
        "most",
        "noise",
    ),
    # --- HopSkipJump
    Fault("hop-skip-jump-mean", "attack: HopSkipJump", "signed - mean * plain", "signed", "hop_skip_jump"),
    Fault(
        "hop-skip-jump-step",
        "attack: HopSkipJump",
        "self.norm.steepest(normal), distance / math.sqrt(step)",
        "self.norm.steepest(normal), distance",
        "hop_skip_jump",
    ),
    Fault(
        "hop-skip-jump-nearest",
        "attack: HopSkipJump",
        "torch.where((distance < shortest)[:, None], at, nearest)",
        "at",
        "hop_skip_jump",
    ),
    # --- Boundary
    Fault("boundary-orthogonal", "attack: Boundary", "away, value=-1)", "away, value=0)", "boundary"),
    Fault("boundary-angle", "attack: Boundary", "(1 + angle**2).sqrt()", "(1 + angle)", "boundary"),
    Fault(
        "boundary-accepts",
        "attack: Boundary",
        "better = wrong & (length < distance)",
        "better = length < distance",
        "boundary",
    ),
    Fault(
        "boundary-start",
        "attack: Boundary",
        "nearer = distance < nearest[here]",
        "nearer = distance < torch.inf",
        "starting",
    ),
    # --- Universal
    Fault(
        "universal-sum",
        "attack: Universal",
        "image[left]).sum(0, keepdim=True)",
        "image[left]).mean(0, keepdim=True)",
        "universal",
    ),
    Fault("universal-best", "attack: Universal", "best, most = v, fooled", "best, most = best, fooled", "universal"),
    # --- attacks of attacks
    Fault(
        "worst-of-last-try", "attack: WorstOf", "found[which] = x_adv\n", "found[which[met]] = x_adv[met]\n", "worst_of"
    ),
    Fault(
        "worst-of-verdict",
        "attack: WorstOf",
        "goal.met(part.decisions(x_adv))",
        "~goal.met(part.decisions(x_adv))",
        "worst_of",
    ),
    Fault(
        "best-of-failures",
        "attack: WorstOf",
        "better = met & (length < size[which])",
        "better = length < size[which]",
        "worst_of",
    ),
    Fault("best-of-size", "attack: WorstOf", "better = met & (length < size[which])", "better = met", "worst_of"),
    Fault("eot-mean", "attack: EOT", "(torch.stack(each).mean(0) for each", "(torch.stack(each)[0] for each", "eot"),
    Fault("eot-passes", "attack: EOT", "self.forwards, which, self.samples)", "self.forwards, which, 1)", "eot"),
    Fault(
        "over-targets-worst",
        "attack: OverTargets",
        "self.size.amax(1), self.success.all(1)",
        "self.size.amax(1), self.success.any(1)",
        "carlini_wagner",
        "over_targets",
    ),
    Fault(
        "over-targets-failures",
        "attack: OverTargets",
        "sizes.where(result.success, torch.inf)",
        "sizes",
        "carlini_wagner",
        "over_targets",
    ),
    Fault(
        "within",
        "attack: Within",
        "torch.where(column(inside, x), found, x)",
        "found",
        "battery",
        "within_keeps",
    ),
    Fault(
        "surrogate-model",
        "attack: Surrogate",
        "with _another(model, oracle, goal)",
        "with _another(oracle.model, oracle, goal)",
        "worst_of",
    ),
    Fault(
        "auto-attack-fab",
        "attack: AutoAttack",
        "replace(boundary, targets=9)",
        "replace(boundary, targets=3)",
        "auto_attack",
    ),
    Fault(
        "auto-attack-square",
        "attack: AutoAttack",
        "queries=self.queries, rescale=False)",
        "queries=self.queries, rescale=True)",
        "auto_attack",
    ),
)
