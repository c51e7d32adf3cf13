"""Faults in verdicts, in attacks that are made for one model, and in what goes back to its owner."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    # --- verdict: the answers
    Fault(
        "broken-share", "verdict: answers", "taken > BROKEN * robust.count", "taken >= BROKEN * robust.count", "answers"
    ),
    Fault("broken-half", "verdict: answers", "2 * taken >= before.value", "taken >= before.value", "answers"),
    Fault("broken-least", "verdict: answers", "if taken >= LEAST and (", "if taken and (", "answers"),
    Fault("settled-tau", "verdict: answers", "settled = taken <= TAU * robust.count", "settled = True", "answers"),
    Fault(
        "settled-all",
        "verdict: answers",
        "not (settled and sign.name == CONVERGENCE)",
        "not settled",
        "answers",
    ),
    Fault("enough-failed", "verdict: answers", "if sign.name not in FAILED", "if sign.name", "answers"),
    Fault(
        "adaptive-elsewhere",
        "verdict: answers",
        "is_adaptive(each) and (each.norm, each.eps) == threat",
        "is_adaptive(each)",
        "answers",
    ),
    Fault(
        "at-chance",
        "verdict: answers",
        "    if p < LEVEL:\n        return",
        "    if p > LEVEL:\n        return",
        "verdict",
    ),
    Fault(
        "random-is-no-doubt",
        "verdict: answers",
        "(*found, *_random(entry), *_warnings(entry))",
        "(*found, *_warnings(entry))",
        "answers",
    ),
    Fault("asked-radius", "verdict: threat", "if others or asked is None or asked not in shares", "if True", "answers"),
    Fault(
        "adaptive-in-comparisons",
        "verdict: ranking",
        "if every or is_adaptive(each))",
        "if every)",
        "answers",
    ),
    Fault(
        "suspicion-in-comparisons",
        "verdict: ranking",
        "if every or is_adaptive(each))",
        "if is_adaptive(each))",
        "audited",
    ),
    # --- adaptive attacks
    Fault(
        "adapted-class",
        "adaptive: gradients",
        "raised = torch.where(other[:, None], value.scatter(1, own[:, None], above), value)",
        "raised = value",
        "adapted adapted_state",
    ),
    Fault(
        "adapted-true-values",
        "adaptive: gradients",
        "near: Tensor) -> Tensor:\n        return value.clone()",
        "near: Tensor) -> Tensor:\n        return near.clone()",
        "adapted",
    ),
    Fault(
        "adaptive-draws",
        "adaptive: means over draws",
        "math.ceil(4 * (1 - mean) / max(mean, 1e-3))",
        "math.ceil(4 * mean)",
        "adaptation",
    ),
    # --- export
    Fault(
        "export-names",
        "export: names",
        "{name: state[bare] for name, bare in named.items() if bare in state}",
        "{bare: state[bare] for name, bare in named.items() if bare in state}",
        "exporting",
    ),
    Fault(
        "export-before-the-network",
        "export: ONNX",
        "                model,\n                (images[:2],),",
        '                getattr(model, "network", model),\n                (images[:2],),',
        "exporting",
    ),
)
