"""Faults on the road from a model of one's own to a hardened one, and in work that goes to other processes."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    # --- harden: the defence at a radius
    Fault("harden-step-size", "harden: defence", "float(step) * eps / before}", "float(step)}", "fine_tuning"),
    Fault("harden-norm", "harden: defence", 'new["norm"] = norm', "pass", "fine_tuning"),
    Fault("harden-d-max", "harden: defence", 'new["d_max"] = 1.5 * eps', 'new["d_max"] = eps', "fine_tuning"),
    Fault(
        "harden-fast",
        "harden: defence",
        "AdversarialTraining(PGD(eps=eps, norm=norm, steps=1, step_size=1.25 * eps)",
        "AdversarialTraining(PGD(eps=eps, norm=norm, steps=1, step_size=eps)",
        "fine_tuning",
    ),
    # --- harden: the rate and the length
    Fault("harden-best-rate", "harden: plan", "rate = max(scores, key=", "rate = min(scores, key=", "fine_tuning"),
    Fault(
        "harden-score",
        "harden: plan",
        'scores[rate], before = last["clean"] + last["robust"],',
        'scores[rate], before = last["clean"],',
        "fine_tuning",
    ),
    Fault(
        "harden-minutes",
        "harden: plan",
        "min(wanted, int(minutes * 60 / seconds))",
        "int(minutes * 60 / seconds)",
        "fine_tuning",
    ),
    Fault(
        "harden-asked",
        "harden: plan",
        "if defence is None and minutes is not None and",
        "if minutes and",
        "fine_tuning",
    ),
    Fault(
        "harden-trial-on-itself",
        "harden: plan",
        "fit(deepcopy(self.model), self.data, defence, how, progress=False)",
        "fit(self.model, self.data, defence, how, progress=False)",
        "fine_tuning",
    ),
    Fault(
        "harden-optimiser",
        "harden: plan",
        "isinstance(each, nn.LayerNorm)",
        "isinstance(each, nn.Linear)",
        "fine_tuning",
    ),
    # --- harden: what is left, and a second call
    Fault(
        "harden-other-weights",
        "harden: files",
        "if not _equal(read_state(path), state):",
        "if False:",
        "hardening",
        "without_a_file",
    ),
    Fault(
        "harden-sentence",
        "harden: sentence",
        "ours, theirs = shares[self.after.name], shares[self.before.name]",
        "theirs, ours = shares[self.after.name], shares[self.before.name]",
        "hardening",
        "said_in_the_numbers",
    ),
    Fault(
        "names-of-the-file",
        "export: names",
        "state = renamed(state, came)",
        "came = list(state)",
        "exporting",
    ),
    # --- networks of other libraries
    Fault(
        "library-places",
        "networks: libraries",
        'return Picked(network, places) if library == "hf" or places is not None else network',
        'return Picked(network, None) if library == "hf" or places is not None else network',
        "libraries",
    ),
    Fault(
        "form-size",
        "networks: input form",
        '"resized": None if size != self.size else self.resized',
        '"resized": self.resized',
        "form",
    ),
    # --- more epochs
    Fault(
        "ends-schedule",
        "training: more epochs",
        "return batches / next(each for each in ends if batches < each)",
        "return batches / ends[-1]",
        "more_epochs",
    ),
    Fault(
        "ends-any",
        "training: more epochs",
        "return {**found, **ours} if went else found",
        "return {**found, **ours}",
        "more_epochs",
    ),
    Fault(
        "ends-unfinished",
        "training: more epochs",
        "or done != before.epochs or",
        "or done > before.epochs or",
        "more_epochs",
    ),
    # --- batteries
    Fault(
        "quick-names",
        "batteries: names",
        'f"FMN {norm}, 10 steps": FMN(norm, steps=10)',
        'f"FMN {norm}": FMN(norm, steps=10)',
        "battery",
    ),
    # --- other processes
    Fault("cores-quota", "processes: cores", "if int(quota) > 0:", "if int(quota) < 0:", "workers"),
    Fault(
        "buffers-shared",
        "processes: buffers",
        "self.group.same_buffers(self.nets)",
        "self.nets.train()",
        "restarts",
    ),
)
