"""Trains and measures: one job in, one entry of the results out. Each is called in any process."""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelman.adversaries.adversary import AttackTraining
from steelman.attacks.core import Attack
from steelman.evaluation.eps_ref import reference_epsilon
from steelman.evaluation.evaluation import evaluate
from steelman.evaluation.transferability import transfer
from steelman.experiments.assess import attacked
from steelman.experiments.run import Run, train_recipe
from steelman.loading.subject import Subject
from steelman.measures import Measure
from steelman.measures.all_measures import measures_and_gaps
from steelman.measures.measure import plain
from steelman.networks.building import device
from steelman.papers.jobs import Measured, Trained
from steelman.report.export import slug
from steelman.table.records import Provenance

LOGGED = ("epoch", "test_clean", "test_rho_2", "clean", "robust", "seconds")
"""What is kept of a training's log, a mapping per epoch."""


@dataclass(frozen=True)
class Work:
    """A job, with where its files go and come from."""

    job: Trained | Measured
    runs: Path
    data: Path | None
    progress: bool


def work(task: Work) -> dict[str, Any]:
    """Do a job; what is already in its folder is not done again."""
    start = time.monotonic()
    with warnings.catch_warnings():
        # A rounded gradient is zero on some images, which is what such an attack is there to show.
        warnings.filterwarnings("ignore", "the model's gradient is zero")
        found = train(task) if isinstance(task.job, Trained) else measure(task)
    made = Provenance.now(device())
    versions = {"steelman": made.steelman, "PyTorch": made.pytorch, "Python": made.python}
    about = {"date": made.date, **versions, "device": made.device, "hardware": made.hardware}
    return {
        "digest": task.job.digest,
        "reduced": task.job.reduced,
        "seconds": round(time.monotonic() - start, 1),
        "made": about,
        **found,
    }


def train(task: Work) -> dict[str, Any]:
    job = task.job
    assert isinstance(job, Trained)
    recipe = job.recipe
    if job.begin is not None:
        assert isinstance(recipe.defence, AttackTraining)
        begun = replace(recipe.defence.adversary, generator=str((task.runs / job.begin.name).absolute()))
        recipe = replace(recipe, defence=replace(recipe.defence, adversary=begun))
    run = train_recipe(recipe, job.path, task.runs, job.name, task.data, task.progress)
    log = [{key: line[key] for key in LOGGED if key in line} for line in run.log]
    return {
        "recipe": job.path.stem,
        "seed": job.recipe.training.seed,
        "epochs": log[-1]["epoch"],
        "training_seconds": round(sum(line.get("seconds", 0.0) for line in log), 1),
        "log": log,
    }


def measure(task: Work) -> dict[str, Any]:
    job = task.job
    assert isinstance(job, Measured)
    subject = Run.open(task.runs / job.network.name).subject(task.data)
    test = subject.sample(job.evaluation.images or job.battery.images)
    eps_ref, found, gaps = _eps_ref(task, job), {}, {}
    attacks = job.attacks(eps_ref, len(test.classes))
    folder = task.runs / job.network.name / _place(job, len(test))
    how: dict[str, Any] = {"seed": job.evaluation.seed, "batch_size": job.evaluation.batch_size}
    how["progress"] = task.progress
    if job.source is not None:
        found = _transferred(task, job, subject)
    elif job.evaluation.space == "preprocessed":
        probes = [probe.setup(subject.training) for probe in job.battery.probes]
        found, gaps = measures_and_gaps(
            evaluate(
                subject.model,
                test,
                attacks,
                space=subject.space,
                folder=folder,
                probes=probes,
                survivors_only=job.battery.survivors_only,
                **how,
            )
        )
    else:
        images, tables = len(test) if job.evaluation.images or job.battery.images else None, {}
        for some in portions(attacks, len(test.classes) - 1 if job.evaluation.targets else len(attacks)):
            battery = replace(job.battery, attacks=some)
            tables = attacked(subject, battery, folder=folder, images=images, eps_ref=eps_ref, **how)
        found, gaps = measures_and_gaps(*tables.values())
    return {
        "images": len(test),
        **({"eps_ref": eps_ref} if eps_ref is not None else {}),
        "measures": plain(found),
        "unmeasured": gaps,
    }


def portions(attacks: dict[str, Attack], size: int) -> list[dict[str, Attack]]:
    """The first `size` attacks, the first 2 `size` and so on to all: the table is saved after each, so that an
    evaluation of few images and many attacks can be stopped."""
    names, size = list(attacks), max(size, 1)
    return [{name: attacks[name] for name in names[:end]} for end in (*range(size, len(names), size), len(names))]


def _eps_ref(task: Work, job: Measured) -> float | None:
    """eps_ref of the model that the evaluation names, by the loss of its first FGSM that needs it."""
    if job.eps_ref_of is None:
        return None
    subject = Run.open(task.runs / job.eps_ref_of.name).subject(task.data)
    named = [job.battery.attacks[name] for name in job.evaluation.radii if name in job.battery.attacks]
    more = {"loss": loss} if named and (loss := getattr(named[0], "loss", None)) is not None else {}
    test = subject.sample(job.evaluation.images or job.battery.images)
    return reference_epsilon(subject.model, test, space=subject.space, **more)


def _transferred(task: Work, job: Measured, subject: Subject) -> dict[str, Measure]:
    """Accuracies on images that are crafted once on the source, in its folder."""
    assert job.source is not None
    source = Run.open(task.runs / job.source.name).subject(task.data)
    test = subject.sample(job.evaluation.images or job.battery.images)
    found: dict[str, Measure] = {}
    for name, attack in job.attacks(None, len(test.classes)).items():
        place = task.runs / job.source.name / _place(job, len(test)) / slug(name)
        one = transfer(
            {job.source.name: source.model},
            {subject.name: subject.model},
            test,
            attack,
            name=name,
            seed=job.evaluation.seed,
            folder=place,
            progress=task.progress,
        )
        found["clean accuracy"] = one.clean[0]
        found[f"accuracy, {name}"] = one.accuracy[0][0]
    return found


def _place(job: Measured, images: int) -> str:
    """The folder of an evaluation, in that of the run whose network makes the images."""
    return f"paper-{job.name.rpartition(' / ')[2]}-{images}"
