"""From a model, wherever it comes from, to its entry in a report: check-up, attacks, tables, gallery."""

import warnings
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from steelman.attacks.core.attack import Access, Attack
from steelman.attacks.core.mode import evaluation_mode, in_training
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.attacks.minimal.minimal_fgsm import MinimalFGSM
from steelman.checkup import Checkup, Finding, checkup
from steelman.checkup.labels import Known
from steelman.classes import Unresolved
from steelman.data.dataset import Dataset
from steelman.data.sample import sampled
from steelman.evaluation.battery import BUILT, Battery, default_radius, named_battery
from steelman.evaluation.eps_ref import reference_attacks, reference_epsilon
from steelman.evaluation.evaluation import evaluate
from steelman.evaluation.store import PARTS
from steelman.forward import answer_of, are_probabilities
from steelman.loading.subject import Subject
from steelman.networks.black_box import BlackBox, LogOfProbabilities
from steelman.networks.drawing import Drawn
from steelman.networks.preprocess import Preprocessed
from steelman.norms import L0, NORMS, Linf, Norm
from steelman.randomness import DRAWS, is_random
from steelman.report.entry import Entry
from steelman.report.gallery import Gallery
from steelman.report.verdicts import only_answer
from steelman.table.places import TABLE
from steelman.table.table import Evaluation
from steelman.types import Model

When: TypeAlias = Literal["auto", "always", "never"]

ADAPTED_ON = 500
"""At most so many images on which an adaptive attack is made."""

REQUESTED = "access"
"""The name of the finding that attacks may see less than the model gives."""

ROUNDED = 0.05
"""Rows of probabilities that were rounded to whole per cents sum to 1 within this."""

RANK: tuple[Access, ...] = ("decisions", "scores", "gradients")


def look(
    subject: Subject, access: Access | None = None, asked: tuple[str, float] | None = None
) -> tuple[Subject, Checkup]:
    """The subject as attacks see it, and the check-up of its model.

    access  what attacks may see; default: all that the model gives. A model that returns probabilities p is attacked
            through log p, which are logits of the same p
    asked   the norm and radius within which answers and gradients are checked too

    A model that answers otherwise at a second call is one that draws at random (`Drawn`), whether it says so or not.

    Raises:
        ValueError: the model fails, does not give that access, or has no class for a label of the data.
    """
    threat: dict[str, Any] = {} if asked is None else {"norm": NORMS[asked[0]], "eps": asked[1]}
    found, training = checkup(subject.model, subject.test, **threat), in_training(subject.model)
    if _draws(found) and not is_random(subject.model):
        model = _drawn(subject.model)
        subject = replace(subject, model=model if training else model.eval())
        found = checkup(subject.model, subject.test, **threat)  # now that its draws follow torch's seed
    answer, more = _answer(subject), []
    Known.of(subject.test, torch.arange(len(subject.test.classes))).refuse(subject.name, answer)
    if access is not None and RANK.index(access) > RANK.index(found.access):
        raise ValueError(
            f"--access {access}: the check-up found that {subject.name} gives {found.access} and no more; leave it out"
        )
    model, wanted = subject.model, access or found.access
    if wanted == "decisions":
        model = BlackBox(model, "decisions") if answer.is_floating_point() else model
    elif answer.ndim == 2 and are_probabilities(answer, ROUNDED):
        more.append(Finding("logits", "log p of its probabilities p is what attacks see", "note"))
        # Inside the preprocessing, so that there still is a preprocessed space.
        if isinstance(model, Preprocessed):
            model = Preprocessed(model.preprocess, LogOfProbabilities(model.network))
        else:
            model = LogOfProbabilities(model)
    if wanted == "scores" and found.access == "gradients":
        model = BlackBox(model)
    if wanted != found.access:
        more.append(Finding(REQUESTED, f"attacks see {wanted} alone, as requested", "note"))
    found = _judged_by_draws(found) if _draws(found) else found
    model = model if training else model.eval()  # parts that are not in train mode stay as they are
    return replace(subject, model=model), Checkup((*found.findings, *more), wanted)


def _draws(found: Checkup) -> bool:
    return any(each.name == "determinism" and each.level == "warning" for each in found.findings)


def _drawn(model: nn.Module) -> nn.Module:
    """Inside the preprocessing, so that there still is a preprocessed space."""
    if isinstance(model, Preprocessed):
        return Preprocessed(model.preprocess, Drawn(model.network))
    return Drawn(model)


def _judged_by_draws(found: Checkup) -> Checkup:
    """The check-up of a random model, which is attacked and judged as such: that it is random is no reason to doubt."""
    does = f"It is judged over {2 * DRAWS} answers to each image, and attacked through the mean over draws (EOT)"
    changed = {each: replace(each, level="note", advice=does) for each in found.findings if each.name == "determinism"}
    return replace(found, findings=tuple(changed.get(each, each) for each in found.findings))


def _answer(subject: Subject) -> Tensor:
    """The model's outputs for a few images."""
    few = sampled(subject.test, 100)
    some = next(few.batches([torch.arange(len(few))]))
    with evaluation_mode(subject.model), torch.no_grad():
        try:
            return answer_of(subject.model, some.x)
        except Exception as error:  # a model of another library may raise anything
            raise ValueError(
                f"{subject.name} fails on images of shape {tuple(some.x.shape)}: {type(error).__name__}: {error}"
            ) from error


def assess(
    subject: Subject,
    battery: Battery,
    found: Checkup | None = None,
    *,
    asked: tuple[str, float] | None = None,
    adaptive: When = "auto",
    surrogates: Mapping[str, Model] | None = None,
    **how: Any,
) -> Entry:
    """Run a battery, extend the table, attack what is suspected, draw the gallery: all that a report says of one model.

    subject   as `look` returns it
    battery   of which everything is run that the model's access allows
    found     the check-up
    asked     the norm and radius that the verdict is of; default: the strongest in the table
    adaptive  "auto": attacks of the room `adaptive` are added to the table where the check-up warns, a sign of masked
              gradients is present, the model gives no gradient, or answers at random. "always", "never"
    surrogates  models by name, from which adaptive attacks transfer; where there are any, they are run in any case
    how       as for `attacked`

    Raises:
        ValueError: the model's access allows nothing of the battery; as for `attacked`.
    """
    if found is not None:
        battery = battery.within(found.access)
    battery = battery.taking(subject.test.shape, len(subject.test.classes))
    battery = battery.against(subject.model)
    tables = attacked(subject, battery, suspected=found is not None and bool(found.warnings), **how)
    entry = replace(entry_of(subject, tables, battery.attacks, found), asked=asked)
    if adaptive == "never":
        return entry
    answer = only_answer(entry)
    if (
        answer.threat is None
        or answer.word == "does not classify"
        or not (answer.suspected or surrogates or adaptive == "always")
    ):
        return entry
    return _adapted(subject, entry, answer.threat, surrogates or {}, **{"images": battery.images, **_given(how)})


def _given(how: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in how.items() if value is not None and name not in ("eps_ref", "fresh")}


def _adapted(
    subject: Subject,
    entry: Entry,
    threat: tuple[str, float],
    surrogates: Mapping[str, Model],
    *,
    images: int | None = None,
    folder: Path | None = None,
    seed: int = 0,
    **how: Any,
) -> Entry:
    """The entry with the rows of the adaptive attacks of a norm and radius, and the Python that repeats these."""
    from steelman.adaptive import adaptation

    test = subject.sample(images)
    few = sampled(test, ADAPTED_ON)
    batch = next(few.batches([torch.arange(len(few))]))
    # What a model hides is looked for, unless attacks were forbidden to.
    forbidden = entry.checkup is not None and any(each.name == REQUESTED for each in entry.checkup.findings)
    access = entry.checkup.access if entry.checkup is not None and forbidden else "gradients"
    made = adaptation(
        subject.model, batch.x, batch.y, NORMS[threat[0]], threat[1], surrogates=surrogates, access=access, seed=seed
    )
    known = entry.evaluation if folder is None else None
    table = evaluate(
        subject.model, test, made.attacks, survivors_only=True, known=known, folder=folder, seed=seed, **how
    )
    return replace(entry, evaluation=table, explained=made.code)


def attacked(
    subject: Subject,
    battery: Battery,
    *,
    folder: Path | None = None,
    images: int | None = None,
    eps_ref: float | None = None,
    seed: int = 0,
    batch_size: int = 250,
    executor: Executor | None = None,
    fresh: bool = False,
    suspected: bool = False,
    progress: bool = True,
    channels_last: bool = True,
) -> dict[str, Evaluation]:
    """The tables of a model under a battery, by space.

    folder      of the tables, which are extended; default: tables are not saved
    images      number of test images, a sample by class that is the same for every model; default: the battery's
    eps_ref     that of the model with which Deep Defense's measures are compared; default: the model's own
    seed        of the attacks' noise
    batch_size  images that are attacked at once; each finished batch is saved
    executor    whose processes attack the batches
    fresh       begin new tables, which replace the existing ones when they are complete
    suspected   whether the battery's attacks on a suspicion are run in any case
    channels_last  as for `evaluate`

    Raises:
        ValueError: the existing table is of more images, of another model, or damaged.
    """
    test = subject.sample(images or battery.images)
    if folder is not None and not fresh:
        _refuse_more(folder, test)
    common: dict[str, Any] = {"folder": folder, "fresh": fresh, "executor": executor, "progress": progress}
    common |= {"seed": seed, "batch_size": batch_size, "channels_last": channels_last}
    battery = battery.against(subject.model)
    probes = [probe.setup(subject.training) for probe in battery.probes]
    table = evaluate(
        subject.model,
        test,
        battery.attacks,
        survivors_only=battery.survivors_only,
        probes=probes,
        suspected=suspected,
        **battery.afterwards,
        **common,
    )
    found = {"pixels": table}
    if battery.deep_defense:
        own, there = _of_deep_defense(subject, test, eps_ref), found.get(subject.space)
        common["fresh"] = fresh and there is None
        known = there if folder is None else None
        found[subject.space] = evaluate(subject.model, test, own, space=subject.space, known=known, **common)
    return found


def entry_of(
    subject: Subject, tables: Mapping[str, Evaluation], attacks: Mapping[str, Attack], found: Checkup | None = None
) -> Entry:
    """What reports show of a subject with these tables; the gallery shows these attacks, on a few images."""
    table = tables["pixels"]
    gallery = Gallery.of(subject.model, subject.test, table, attacks)
    behind = tables.get("preprocessed")
    log, info, recipe = subject.log, subject.info, subject.recipe
    return Entry(subject.name, table, log, gallery, info, found, recipe, behind, subject.again)


def battery_of(
    subject: Subject,
    named: str | None = None,
    norm: Norm | None = None,
    eps: float | None = None,
    survivors_only: bool | None = None,
) -> Battery:
    """The battery of a subject; learned adversaries attack with the generator that its run trained.

    named      a TOML file, or a name as for `named_battery`; default: the subject's own battery, "quick" where it has
               none
    norm, eps  as for `named_battery`
    survivors_only  in place of the battery's

    Raises:
        FileNotFoundError, ValueError: as `named_battery`; a norm or radius for attacks that have theirs.
    """
    if named is None and subject.battery is not None:
        if norm is not None or eps is not None:
            raise ValueError(
                f"{subject.name} has attacks of its own, with their norms and radii: give --battery, such as quick, or "
                "leave --norm and --eps out"
            )
        chosen = subject.battery
    else:
        chosen = named_battery(named or "quick", norm=norm, eps=eps, data=subject.data)
    for each in (*chosen.every_attack.values(), *chosen.probes):
        if isinstance(each, Unresolved):
            raise ValueError(f"{subject.name}: {each.problem}; or give another --battery, such as quick")
    chosen = chosen.with_generators(subject.generator)
    return chosen if survivors_only is None else replace(chosen, survivors_only=survivors_only)


def asked_of(
    subject: Subject, named: str | None = None, norm: Norm | None = None, eps: float | None = None
) -> tuple[str, float] | None:
    """The norm and radius that a named battery has, or that were given; None where there is no single one."""
    name = named or ("quick" if subject.battery is None else None)
    if name in BUILT:
        norm = norm or Linf
        return None if norm is L0 else (repr(norm), default_radius(subject.data, norm) if eps is None else eps)
    return None


def reference_of(subject: Subject, images: int | None = None) -> float:
    """eps_ref of a model on so many test images, a sample by class; default: the number of its own battery."""
    own = None if subject.battery is None else subject.battery.images
    return reference_epsilon(subject.model, subject.sample(images or own), space=subject.space)


def _of_deep_defense(subject: Subject, test: Dataset, eps_ref: float | None) -> dict[str, Attack]:
    own: dict[str, Attack] = {
        f"DeepFool {steps}": DeepFool(steps=steps, box=None, reference="prediction") for steps in (5, 50)
    }
    own["minimal FGSM"] = MinimalFGSM(box=None, reference="prediction")
    try:
        eps = eps_ref or reference_epsilon(subject.model, test, space=subject.space)
    except ValueError as error:
        warnings.warn(f"{subject.name}: no accuracies at eps_ref, since {error}", stacklevel=3)
        return own
    return own | reference_attacks(eps)


def _refuse_more(folder: Path, test: Dataset) -> None:
    """Raises ValueError where a table, or a part of an unfinished one, has more or other images than are evaluated."""
    path, wanted = folder / TABLE, set(test.index.tolist())
    if path.is_file():
        try:
            there = Evaluation.load(path)
        except ValueError as error:
            raise ValueError(f"{error}. --fresh begins a new one") from error
        if there.images > len(test):
            raise ValueError(
                f"{path} holds {there.images} images, and {len(test)} are to be evaluated: give more --images, another "
                "--folder, or begin a new table with --fresh"
            )
        _refuse_others(path, there, wanted)
    for part in sorted((folder / PARTS).glob("*.parquet")):
        try:
            there = Evaluation.load(part)
        except ValueError:  # a damaged part is made anew
            continue
        _refuse_others(part, there, wanted)


def _refuse_others(path: Path, there: Evaluation, wanted: set[int]) -> None:
    """Raises ValueError where a table has images that are not in the sample."""
    if more := set(there["image"].tolist()) - wanted:
        raise ValueError(
            f"{path} has {len(more)} images (the first is image {min(more)}) that the sample of {len(wanted)} does not "
            "have, as older versions took the first images of the data set. Begin a new table with --fresh, or give "
            "another --folder"
        )
