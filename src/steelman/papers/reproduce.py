"""`steelman reproduce`: trains, attacks and prints what a paper prints."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from steelman.failures import described
from steelman.files import working_in, write_text
from steelman.papers.chosen import WHOLE, Part, shown
from steelman.papers.figures import draw_figures
from steelman.papers.jobs import Measured, Trained, jobs_of
from steelman.papers.page import page_of
from steelman.papers.paper import Paper, Scale, load_paper
from steelman.papers.pictures import draw_pictures
from steelman.papers.results import Reader, Results
from steelman.papers.work import Work, work
from steelman.trust import written
from steelman.workers import ClusterLost, check_shared


@dataclass(frozen=True)
class Reproduced:
    """A paper with its results: the page, and why jobs failed, by their names."""

    paper: Paper
    results: Results
    page: Path
    failed: dict[str, str]


def reproduce(
    name: str,
    *,
    part: Part = WHOLE,
    scale: Scale = "paper",
    seeds: int = 1,
    runs: Path = Path("runs"),
    data: Path | None = None,
    folder: Path = Path("reproduced"),
    executor: Executor | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Reproduced:
    """Train, attack and write the page of a paper.

    name     of a paper (`steelman.papers.paper.names`), or the path of a file of one's own
    part     what is made of it: tables, figures, rows and columns; default all
    scale    "paper" for the paper's own budget, or a reduced form that the paper's file declares
    seeds    so many trainings of each network, with seeds one apart
    runs     the folder of the runs. A finished training or evaluation is not done again
    folder   of the page, its pictures and PAPER.json. What the JSON has is not made again either, also where the runs
             are gone, as long as its recipe and evaluation are the same
    executor where jobs are worked on, such as `steelman.workers.workers(2)` or `steelman.clusters.connected(...)`; its
             processes must see the same folders; default: in this process
    command  that stands on the page

    A job that fails is reported, and what needs it is left out; the others continue. Called again, it goes on.

    Raises:
        ValueError: no such paper, table, figure, row or column; seeds below 1; a scale that the paper does not declare.
        ClusterLost, BrokenExecutor: the executor has given the work up; called again, it goes on.
    """
    paper = load_paper(name)
    check(paper, scale, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    with working_in(folder), written():
        results = Results.load(folder, paper.name)
        results.command = command or results.command
        jobs = missing(paper, results, scale, seeds, runs, part)
        like = Work(jobs[0], runs, data, executor is None) if jobs else None
        failed = _run(jobs, results, like, folder, executor, say)
        results.pictures |= draw_pictures(paper, results, runs, data, folder, shown(paper, part)[1])
        results.save(folder)
        draw_figures(paper, Reader(paper, results), folder)
        page = folder / f"{paper.name}.md"
        write_text(page, page_of(paper, results))
    return Reproduced(paper, results, page, failed)


def check(paper: Paper, scale: Scale, seeds: int) -> None:
    if scale != "paper" and scale not in paper.reduced:
        known = ", ".join(("paper", *paper.reduced))
        raise ValueError(f"{paper.name} has no scale {scale!r}; it has {known}")
    if seeds < 1:
        raise ValueError(f"seeds are counted from 1; got {seeds}")


def missing(
    paper: Paper,
    results: Results,
    scale: Scale,
    seeds: int,
    runs: Path,
    part: Part = WHOLE,
) -> list[Trained | Measured]:
    """The jobs that are not done, each after those that it needs.

    A network whose evaluations are all there is not trained again, unless a figure needs its log.
    """
    trained, measured = jobs_of(paper, scale, seeds, runs, part)
    found: dict[str, Trained | Measured] = {}
    for job in measured:
        if results.entry(job) is None:
            needs = [each for need in job.needs for each in need.every]
            found |= {each.name: each for each in needs if results.entry(each) is None or not _there(each, runs)}
            found[job.name] = job
    found |= {job.name: job for job in trained if job.name not in found and results.entry(job) is None}
    return list(found.values())


def _there(job: Trained, runs: Path) -> bool:
    return (runs / job.name / "best.safetensors").is_file()


def _run(
    jobs: Sequence[Trained | Measured],
    results: Results,
    like: Work | None,
    folder: Path,
    executor: Executor | None,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Do all jobs, each when what it needs is done; results are saved after each."""
    failed: dict[str, str] = {}
    left = {job.name: job for job in jobs}
    count = len(left)
    if like is None:
        return failed
    for done, (job, found) in enumerate(_each(left, failed, like, folder, executor), start=1):
        place = f"[{done}/{count}] {job.name}"
        if isinstance(found, BaseException):
            failed[job.name] = described(found)[1]
            say(f"{place} failed: {failed[job.name]}")
        else:
            results.keep(job, found)
            results.save(folder)
            say(f"{place}: {found['seconds']:.0f} s")
    for job in left.values():
        failed[job.name] = "what it needs has failed"
    return failed


def _each(
    left: dict[str, Trained | Measured], failed: dict[str, str], like: Work, folder: Path, executor: Executor | None
) -> Iterator[tuple[Trained | Measured, dict | BaseException]]:
    running: dict[Future, Trained | Measured] = {}
    while True:
        busy = {job.name for job in running.values()}
        for job in _ready(left, busy, failed):
            task = Work(job, like.runs, like.data, like.progress)
            if executor is None:
                del left[job.name]
                yield job, _tried(task)
                break
            del left[job.name]
            running[executor.submit(_there_too, task, folder)] = job
        else:
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if isinstance(error, ClusterLost | BrokenExecutor):
                    raise error
                yield running.pop(future), error if error is not None else future.result()


def _ready(left: dict[str, Trained | Measured], busy: set[str], failed: dict[str, str]) -> list[Trained | Measured]:
    """The jobs that need nothing that is still to be done, or has failed."""
    open_ = {*left, *busy, *failed}
    return [job for job in left.values() if not any(each.name in open_ for each in _needs(job))]


def _needs(job: Trained | Measured) -> Iterator[Trained]:
    if isinstance(job, Trained):
        return iter(job.needs)
    return (each for need in job.needs for each in need.every)


def _there_too(task: Work, folder: Path) -> dict:
    """The work of a job, in another process."""
    check_shared(folder)
    return work(task)


def _tried(task: Work) -> dict | BaseException:
    try:
        return work(task)
    except Exception as error:  # whatever it is, the other jobs are done
        return error
