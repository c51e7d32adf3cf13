"""Faults in learned adversaries."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "l2lda-ascends",
        "adversary: L2LDA",
        "yield Descend(-gain, generator.parameters())",
        "yield Descend(gain, generator.parameters())",
        "l2lda",
    ),
    Fault("l2lda-diversity", "adversary: L2LDA", "apart.mean(1) / (code.mean(1) + 1e-8)", "apart.mean(1)", "l2lda"),
    Fault("l2lda-ball", "adversary: L2LDA", "* move).clamp(-eps, eps)", "* move)", "l2lda"),
    Fault("l2lda-latent", "adversary: L2LDA", "draws.split(_LATENT).split(turn)", "draws.split(_LATENT)", "l2lda"),
    Fault(
        "pgn-cost",
        "adversary: PGN",
        "_size(x, x_adv) - with_gradient(",
        "_size(x, x_adv) + with_gradient(",
        "pgn",
    ),
    Fault(
        "pgn-pull",
        "adversary: PGN",
        "pull * len(y) / adv_weight",
        "pull * len(y)",
        "pgn",
    ),
    Fault(
        "pgn-shift",
        "adversary: PGN",
        "(torch.atanh(shown * INSIDE) + shift).tanh()",
        "(shown * INSIDE + shift).tanh()",
        "pgn",
    ),
    Fault(
        "advgan-critic",
        "adversary: AdvGAN",
        "(real - 1).square() + made.square()",
        "real.square() + (made - 1).square()",
        "advgan",
    ),
    Fault(
        "advgan-hinge",
        "adversary: AdvGAN",
        "hinge = -with_gradient(",
        "hinge = with_gradient(",
        "advgan",
    ),
    Fault("advgan-bound", "adversary: AdvGAN", "(L2.size(raw) - self.norm_bound)", "L2.size(raw)", "advgan"),
    Fault(
        "gap-least-likely",
        "adversary: GAP",
        "oracle.logits(batch.x).argmin(1)",
        "oracle.logits(batch.x).argmax(1)",
        "gap",
    ),
    Fault(
        "gap-log",
        "adversary: GAP",
        "cross_entropy(logits, least).clamp(min=TINY).log()",
        "cross_entropy(logits, least)",
        "gap",
    ),
    Fault("gap-radius", "adversary: GAP", "(raw / torch.where(largest > 0, largest, 1))", "raw.clamp(-1, 1)", "gap"),
    Fault(
        "straight-through",
        "adversary: slope of a model",
        "value.detach() + (pull - pull.detach())",
        "value.detach() + pull",
        "gap",
    ),
    Fault(
        "defended-clean-weight",
        "adversary: as a defence",
        "losses[: len(batch)].mean(), losses[len(batch) :].mean()",
        "losses[len(batch) :].mean(), losses[len(batch) :].mean()",
        "gap",
    ),
)
