"""From a model of one's own to a hardened one: measured, trained on, measured again, and compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from steelman import config
from steelman.defences.plain import Plain
from steelman.defences.trades import TRADES
from steelman.evaluation.battery import BUILT, default_radius
from steelman.experiments.adopting import Adopted
from steelman.experiments.assess import asked_of, assess, battery_of, look
from steelman.experiments.compare import Compared, compare
from steelman.experiments.fine_tuning import FAST, defence_of, planned
from steelman.experiments.recipe import Recipe, load_recipe, read_recipe
from steelman.experiments.recipe_file import changed
from steelman.experiments.run import Run, folder_in, train_recipe
from steelman.files import REPORT, replacing, working_in, writable, write_text
from steelman.loading.weights import read_state
from steelman.measures.measure import Measure
from steelman.measures.pairwise import Paired
from steelman.norms import Linf, Norm
from steelman.report.document import Document
from steelman.report.export import write_document
from steelman.trust import written

SAME_CLEAN = 0.01
"""Clean accuracies are called equal where their difference is within a point with 95 % confidence."""


@dataclass(frozen=True)
class Hardened:
    """What `harden` leaves: two runs, the recipe of the second, and their comparison.

    threat  the norm and radius that were asked for
    """

    before: Run
    after: Run
    recipe: Path
    compared: Compared
    threat: tuple[str, float]

    @property
    def sentence(self) -> str:
        """What was won, at which cost in clean accuracy."""
        about, (norm, eps) = self.compared.document, self.threat
        pairs = {each.paired.under: each.paired for each in about.pairs}
        clean = pairs["no attack"]
        same = max(abs(clean.difference.low), abs(clean.difference.high)) <= SAME_CLEAN
        cost = f"clean accuracy {_change(clean.theirs, clean.ours, clean)}"
        shares = about.shares.get(self.threat, {})
        if len(shares) < 2:
            return cost.capitalize()
        ours, theirs = shares[self.after.name], shares[self.before.name]
        pair = pairs.get(f"{norm} {eps:.4g}")
        if pair is not None and (pair.ours.value, pair.theirs.value) != (ours.value, theirs.value):
            pair = None  # adaptive attacks are of one model alone, and count here
        won = f"robust accuracy within {norm} {eps:.4g} {_change(theirs, ours, pair)}"
        return f"At equal clean accuracy, to within a point: {won}" if same else f"{cost.capitalize()}; {won}"


def _change(before: Measure, after: Measure, pair: Paired | None) -> str:
    """From and to, in per cent; and the difference in points with its 95 % interval, where the images are paired."""
    words = f"{before} -> {after}"
    if pair is None:
        return words
    by = pair.difference
    return f"{words}: {100 * by.value:+.1f} points [{100 * by.low:+.1f}, {100 * by.high:+.1f}]"


def harden(
    model: Adopted,
    runs: Path,
    data_dir: Path | None = None,
    *,
    called: str = "hardened",
    defence: str | None = None,
    norm: Norm = Linf,
    eps: float | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    battery: str = "quick",
    images: int | None = 500,
    seed: int = 0,
    changes: list[str] | None = None,
    executor: Executor | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Hardened:
    """Measure a model, train it on by a defence, measure it again on the same images, and compare.

    In `runs`: CALLED.toml, the recipe that is trained; CALLED-before, the model as it came, as a run; CALLED, the
    hardened one; CALLED-comparison, the report on both; and of a model that came without a file of weights,
    CALLED-start.safetensors. The same call resumes what was stopped, with the rate and length that the recipe has;
    another defence or radius is refused.

    model    as `adopt` returns it
    defence  as for `defence_of`; default TRADES, or `fast` where time is short
    norm, eps  of the defence and of the measurements; default of eps: what the data are usually compared at
    epochs, minutes  as for `planned`
    battery, images  what the model is measured with, on so many test images, a sample by class; None for all
    changes  of the recipe, as for `train`; they are applied last
    executor whose processes attack
    say      gets what was chosen and why, a line at a time

    Cost: two evaluations, the training, and the choice of the rate (`planned`).

    Raises:
        ValueError: no radius is known for the data; the folders hold another model's runs; as for `planned`.
    """
    path = folder_in(runs, called).with_name(f"{Path(called).name}.toml")
    eps = default_radius(type(model.data).__name__, norm) if eps is None else eps
    runs.mkdir(parents=True, exist_ok=True)
    with written(*model.written, *changes or ()):
        start = _start(model, runs, called)
        begun = {
            "data": config.brief(model.data),
            "network": model.network,
            "start": relpath(start.parent.resolve() / start.name, runs.resolve()),  # either may be behind a link
            "training": {"seed": seed, "epochs": 0},
            "defence": config.brief(Plain()),
        }
        before = train_recipe(
            read_recipe(begun), path, runs, f"{called}-before", data_dir, progress=False, announce=False
        )
        how: Mapping[str, Any] = {"battery": battery, "norm": norm, "eps": eps, "images": images, "executor": executor}
        say(f"measuring the model as it is ({before.folder})")
        say(f"before: {_measured(before, data_dir, **how)}")
        if path.is_file():
            defences = [TRADES.__name__, FAST] if defence is None else [defence]
            wanted = [config.brief(defence_of(each, norm, eps)) for each in defences]
            length = [] if epochs is None else [f"training.epochs={epochs}"]
            recipe = _left(path, begun, wanted, [*(changes or ()), *length])
            say(f"{path} is there, and its defence, rate and length are taken")
        else:
            chosen = None if defence is None else defence_of(defence, norm, eps)
            train = before.data("train", data_dir)
            say("choosing the rate and the length")
            with _interruptible("the choice of the rate was interrupted; the same call begins it again"):
                plan = planned(
                    before.network(train), train, norm, eps,
                    defence=chosen, epochs=epochs, minutes=minutes, seed=seed, say=say,
                )  # fmt: skip
            for reason in plan.reasons:
                say(reason)
            settings = begun | {"defence": config.brief(plan.defence), "training": config.brief(plan.training)}
            recipe = read_recipe(changed(settings, changes))
            _write(path, recipe, plan.reasons)
        say(f"training by {recipe.defence} (recipe: {path})")
        after = train_recipe(recipe, path, runs, called, data_dir, announce=False)
        say(f"after: {_measured(after, data_dir, **how)}")
        found = compare([after.folder, before.folder], data_dir, runs / f"{called}-comparison")
        return Hardened(before, after, path, found, (repr(norm), eps))


def _start(model: Adopted, runs: Path, called: str) -> Path:
    """The file of the model's weights; those that came without one are written."""
    if model.start is not None:
        return model.start
    assert model.state is not None
    path = runs / f"{called}-start.safetensors"
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.state.items()}
    if path.is_file():
        if not _equal(read_state(path), state):
            raise ValueError(f"{path} holds other weights than the model: give another --name, or delete that file")
        return path
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(state))
    return path


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _left(path: Path, begun: Mapping[str, Any], defences: Sequence[Any], changes: list[str]) -> Recipe:
    """The recipe of an earlier call, if that was of the same model, with one of the defences and the same changes."""
    found = load_recipe(path)
    left = config.write(found)
    differences = [
        config.differences(left, config.write(read_recipe(changed({**begun, **how}, changes))))
        for how in ({"defence": each, "training": left["training"]} for each in defences)
    ]
    if different := min(differences, key=len):
        raise ValueError(
            f"{path} is there, and has another {' and '.join(different)}: give another --name, or change the "
            "file and `steelman train` it"
        )
    return found


@contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Ctrl-C in the block ends with this message."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(message) from stop


def _write(path: Path, recipe: Recipe, reasons: tuple[str, ...]) -> None:
    import tomli_w

    settings = {name: config.brief(getattr(recipe, name)) for name in ("data", "network", "defence", "training")}
    head = "".join(f"# {each}\n" for each in ("Written by `steelman harden`.", *reasons))
    write_text(path, f"{head}start = {_quoted(recipe.start)}\n{tomli_w.dumps(settings)}")


def _quoted(text: object) -> str:
    import tomli_w

    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()


def _measured(
    run: Run,
    data_dir: Path | None,
    *,
    battery: str,
    norm: Norm,
    eps: float,
    images: int | None,
    executor: Executor | None,
) -> str:
    """Evaluate a run, into its folder; the verdict's finding."""
    subject = run.subject(data_dir)
    threat: tuple[Any, ...] = (battery, norm, eps) if battery in BUILT else (battery,)
    chosen, asked = battery_of(subject, *threat), asked_of(subject, *threat)
    writable(run.results, REPORT)
    kept = f"the evaluation in {run.results} was interrupted; the same call resumes it"
    with working_in(run.results), _interruptible(kept):
        opened, found = look(subject, None, asked)
        entry = assess(opened, chosen, found, asked=asked, folder=run.results, images=images, executor=executor)
        document = Document([entry], classes=opened.test.classes)
        write_document(run.results, document)
    return document.verdict.finding
