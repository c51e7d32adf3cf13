"""Faults in measures, signs of masking, tables, transfer and their store."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    # --- measures
    Fault("wilson", "measure: Wilson", 'method="wilson"', 'method="exact"', "measures"),
    Fault(
        "newcombe-correlation",
        "measure: Newcombe",
        "one**2 - 2 * phi * one * other + other**2",
        "one**2 + other**2",
        "measures_paired",
    ),
    Fault(
        "newcombe-covariance",
        "measure: Newcombe",
        "max(covariance - 1 / (2 * count), 0.0)",
        "covariance",
        "measures_paired",
    ),
    Fault(
        "mcnemar",
        "measure: McNemar",
        "binomtest(better, better + worse).pvalue",
        'binomtest(better, better + worse, alternative="less").pvalue',
        "measures_paired",
    ),
    Fault("worst-case", "measure: worst case", "np.all([right(attack)", "np.any([right(attack)", "measures"),
    Fault("accuracy-clean", "measure: accuracy", "~attack.wrong & ~attack.found", "~attack.found", "measures"),
    Fault(
        "smallest-norm-of-errors",
        "measure: norms",
        "np.where(found.wrong, 0.0, np.inf)",
        "np.where(found.wrong, np.inf, np.inf)",
        "measures",
    ),
    Fault(
        "empirical-robustness-norm",
        "measure: empirical robustness",
        '"Linf" if found.norm == "Linf" else "L2")\n',
        '"L2")\n',
        "measures_distances",
    ),
    Fault(
        "empirical-robustness-code",
        "measure: empirical robustness",
        'ratios[changed], kind="ratio")',
        'ratios, kind="ratio")',
        "measures_distances",
    ),
    Fault("rho-denominator", "measure: rho", "/ (x + GUARD)", "/ (x * x + GUARD)", "measures_distances"),
    Fault(
        "cw-natural-errors",
        "measure: rho_cw",
        "np.where(attacked.wrong, 0.0, _sizes(attacked",
        "np.where(attacked.wrong, np.nan, _sizes(attacked",
        "measures_distances",
    ),
    Fault("median-of-failures", "measure: median", "np.where(success, sizes, np.inf)", "sizes", "measures_distances"),
    Fault("bootstrap", "measure: bootstrap", "[0.025, 0.975]", "[0.05, 0.95]", "measures"),
    Fault(
        "training-set-distance",
        "measure: probes",
        "distances**2 / (x_l2 + GUARD)",
        "distances / (x_l2 + GUARD)",
        "measures_distances",
    ),
    Fault(
        "curve",
        "measure: curve",
        '1 - np.searchsorted(smallest, radius, side="right")',
        '1 - np.searchsorted(smallest, radius, side="left")',
        "curves",
    ),
    Fault("clever", "measure: probes", "{L2: L2, Linf: L1, L1: Linf}", "{L2: L2, Linf: Linf, L1: L1}", "probes"),
    # --- signs of masking
    Fault(
        "sign-one-step",
        "sign: one step",
        "_strongest(first), _strongest(second)",
        "_strongest(second), _strongest(first)",
        "signs",
    ),
    Fault(
        "sign-chance", "sign: difference by chance", "lower > TAU and binomtest(", "lower > TAU or binomtest(", "signs"
    ),
    Fault(
        "sign-alone",
        "sign: black box",
        "found = True if alone / images > TAU",
        "found = True if alone / images > 1",
        "signs",
    ),
    Fault(
        "sign-unbounded", "sign: without bound", "True if left > TAU else None", "True if left > 1 else None", "signs"
    ),
    Fault("sign-radii", "sign: radii", "end <= TAU", "end <= 1", "signs"),
    Fault("sign-lost-slope", "sign: slopes", "lost=sure | silent", "lost=silent", "checkup", "rounding"),
    # --- tables
    Fault(
        "cells-replaced",
        "store: rows",
        "known.table.filter(kept)",
        "known.table",
        "extending",
        "probes",
    ),
    Fault(
        "blocks-taken-in",
        "store: blocks",
        "part if known is None else over(known, part)",
        "part",
        "store",
        "attacks_no_image_twice",
    ),
    Fault(
        "of-the-standing", "store: survivors", "return missing & standing", "return missing", "battery", "quick_finds"
    ),
    Fault(
        "other-images",
        "identity: pixels",
        "hashed & (first.pixels != second.pixels)",
        "hashed & (first.pixels != first.pixels)",
        "measures_paired",
    ),
    Fault("other-model", "store: model", "part.refuse_other_model(model)", "model", "store"),
    Fault("clean-answers", "store: model", "now[at] = before", "now[at] = now[at]", "store", "random_model"),
    Fault(
        "transfer-white", "transfer", "part is target or _same(part, target)", "part is target", "transfer", "white_box"
    ),
    Fault(
        "newest-record",
        "store: records",
        "[one for one in records if one.id in used] or records[:1]",
        "records[:1]",
        "store",
        "two_records",
    ),
)
