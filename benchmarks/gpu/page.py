"""docs/gpu.md, from what the parts have found. Of a small form, or of a CPU, it shows no times."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from benchmarks.gpu.agreement import APART, FEW, NEAR
from benchmarks.gpu.attacks import LOOP
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.training import WHOLE
from benchmarks.gpu.waits import IMAGES, STEPS

Row: TypeAlias = Mapping[str, Any]
Column: TypeAlias = tuple[str, Callable[[Row], str]]

HEAD = """# On a GPU

What attacks and trainings take on a GPU, beside torchattacks, AutoAttack's own code and loops by hand, and whether
their results are the CPU's:

```sh
python -m benchmarks.gpu --out docs/results/gpu.json --page docs/gpu.md --peers FOLDER
```

It takes at most eight minutes on one GPU, loads nothing, and needs `steelman[full]` installed. `FOLDER` has plain
checkouts of [torchattacks](https://github.com/Harry24k/adversarial-attacks-pytorch) and
[AutoAttack](https://github.com/fra31/auto-attack); without it, what is installed of them is used, and loops by hand in
any case. Each part runs in a process of its own, with a time limit. The file keeps what is done, and the same command
makes the parts that are missing. `--small` tries every part in a few minutes, also on a CPU; it measures no times.
"""

NONE = """**No GPU was at hand.** Only the small form was run, on a CPU ({where}). It shows that the parts run. It says
nothing about a GPU: no time, speed-up or peak of memory was measured on one. What is shown is
counted, and is the same on every machine.
"""


def page(about: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; figures of time and memory only where a GPU was measured in full."""
    real = about["device"] != "cpu" and not about["small"]
    where = ", ".join(str(about[key]) for key in ("date", "device", "hardware") if about.get(key))
    where += f", PyTorch {about['torch']}, Python {about['python']}" + (f", CUDA {about['cuda']}" if real else "")
    rows = [row for name in PARTS for row in parts.get(name, {}).get("rows", [])]
    texts = [HEAD, f"{where}.\n" if real else NONE.format(where=where), "## What ran\n", _states(parts)]
    missing = {row["library"]: row["error"] for row in rows if row["table"] == "missing"}
    texts += [f"Not there: {library} ({why}).\n" for library, why in missing.items()]
    for name, (title, note, columns) in TABLES.items() if real else ():
        some = [row for row in rows if row["table"] == name]
        texts += [f"## {title}\n", note, _table(columns, some)] if some else []
    texts += _waits([row for row in rows if row["table"] == "waits"])
    return "\n".join(texts)


def _states(parts: Mapping[str, Mapping[str, Any]]) -> str:
    def state(name: str) -> str:
        found = parts.get(name, {"state": "not begun"})
        errors = sum("error" in row for row in found.get("rows", []) if row["table"] != "missing")
        more = f"; {errors} of its rows have an error" if errors else ""
        return f"{found['state']}{': ' + _cell(found['error']) if 'error' in found else ''}{more}"

    return _table(
        (("part", lambda row: row["name"]), ("", lambda row: state(row["name"]))), [{"name": name} for name in PARTS]
    )


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    lines = [[name for name, _ in columns], ["---"] * len(columns)]
    for row in rows:
        cells = []
        for _, text in columns:
            try:
                cells.append(text(row))
            except (KeyError, TypeError):  # not measured
                cells.append("")
        if "error" in row:
            cells[-1] = _cell(row["error"])
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("<", "‹").replace("`", "'")


def _key(name: str) -> Column:
    return name, lambda row: str(row[name])


def _number(title: str, key: str, form: str = "{:.2f}", factor: float = 1.0) -> Column:
    return title, lambda row: form.format(factor * row[key])


_SECONDS = _number("ms", "seconds", "{:.2f}", 1000)
_PEAK = _number("MiB", "peak", "{:.0f}")
_FASTER = ("times as fast", lambda row: f"{1 / row['ratio']:.2f}")
_SUCCESS = _number("success", "success", "{:.1%}")
_APARTNESS = _number("pixels apart", "apart", "{:.2%}")

TABLES: dict[str, tuple[str, str, Sequence[Column]]] = {
    "machine": (
        "A launch",
        "Microseconds of a kernel on one number, launched; the same replayed from a graph; with a wait for its result;"
        " and of a "
        "number that is copied to the GPU.\n",
        (
            _number("launch", "launch"),
            _number("from a graph", "from a graph"),
            _number("with a wait", "number"),
            _number("copy", "copy"),
        ),
    ),
    "step": (
        "PGD's step in several forms",
        "Linf, from the images themselves, no random start; medians of rounds in which the forms take turns. *Times "
        "as fast*: as "
        f'"{LOOP}", which is written as torchattacks writes PGD. *First*: the first call, with what is compiled. '
        "*Pixels apart*: "
        "the share that differs from the loop's by more than 1e-4. The forms that are not Steelman's own are what it "
        "could gain.\n",
        (
            *(_key("network"), _key("images"), _key("steps"), _key("form"), _SECONDS, _FASTER),
            *(_number("first, s", "first"), _PEAK, _APARTNESS),
        ),
    ),
    "launches": (
        "Launches",
        "Kernels of a step of PGD, and the share of a call of 20 steps in which the GPU works: where it is low, "
        "launches decide.\n",
        (_key("network"), _key("images"), _number("kernels", "kernels", "{:.0f}"), _number("busy", "busy", "{:.0%}")),
    ),
    "attacks": (
        "Attacks beside libraries",
        "The same images, radius, steps or queries. *Times as fast* as Steelman. *Its passes alone*: the model's "
        "passes of "
        "Steelman's attack with nothing around them. Success is judged here, on the returned images.\n",
        (_key("network"), _key("attack"), _key("images"), _key("side"), _SECONDS, _FASTER, _SUCCESS, _PEAK),
    ),
    "standard": (
        "The battery `standard`",
        "One run each, for the worst case, on images that the network classifies correctly. *Standing*: how many are "
        "still correct.\n",
        (_key("network"), _key("images"), _key("side"), _number("s", "seconds", "{:.1f}"), _key("standing"), _PEAK),
    ),
    "bf16": (
        "Floats",
        "PGD by float32 without TF32, with it (torch's default for convolutions) and by bfloat16.\n",
        (_key("network"), _key("images"), _key("form"), _SECONDS, _FASTER, _SUCCESS, _APARTNESS, _PEAK),
    ),
    "training": (
        "Training",
        f"Seconds of an epoch of {WHOLE:,} images, in proportion from the median of shorter ones, batches of 128; and "
        "the same in "
        "plain epochs. *By hand*: the same passes with nothing around them.\n",
        (
            *(_key("network"), _key("method"), _key("side"), _number("s", "whole", "{:.1f}")),
            *(_number("plain epochs", "ratio"), _PEAK),
        ),
    ),
    "workers": (
        "Two workers on one device",
        "Seconds of an evaluation in one process and in two that share the GPU; and of the first, short one of the "
        "two, in which "
        "they start.\n",
        (
            *(
                _key("network"),
                _key("images"),
                _number("one", "alone"),
                _number("two", "both"),
                _number("start", "start"),
            ),
            *(_key("equal"), _number("same predictions", "predictions", "{:.1%}")),
        ),
    ),
    "agreement": (
        "The CPU's results",
        "Each attack on CPU and GPU, on the same network, images and noise. It holds where in float64 all predictions"
        " are equal and "
        f"no pixel differs by more than {NEAR:g}, and in float32 predictions are equal on at least {1 - FEW:.0%} of "
        "the images. *Pixels "
        f"apart*: by more than {APART:g}. *Twice*: whether a second run on the GPU gives the same bits.\n",
        (
            *(
                _key("network"),
                _key("attack"),
                _key("floats"),
                _key("images"),
                _number("same predictions", "predictions", "{:.1%}"),
            ),
            *(_number("furthest pixel", "furthest", "{:.1e}"), _APARTNESS),
            *(("successes", lambda row: " / ".join(map(str, row["successes"]))), _key("twice"), _key("holds")),
        ),
    ),
}


def _waits(rows: Sequence[Row]) -> list[str]:
    """Counted, not timed."""
    if not rows:
        return []
    note = (
        "Calls in which the host waits until the GPU has done all that was asked of it, since it needs a number, a "
        "shape or a copy. They are counted without a GPU, by tensors that say that they are on one: "
        f"{IMAGES} images, {STEPS[0]} and {STEPS[1]} steps. While it waits, no launches are prepared. *Mixed*: calls "
        "with tensors of both devices, which fail on a GPU.\n"
    )
    columns: tuple[Column, ...] = (
        *(_key("attack"), _number("a step", "each", "{:.1f}"), _number(f"a call of {STEPS[0]}", "waits", "{:.0f}")),
        *(("mixed", lambda row: str(sum(row["mixed"].values()))), ("most of a step's", _places)),
    )
    return ["## Waits\n", note, _table(columns, rows)]


def _places(row: Row) -> str:
    return ", ".join(f"`{place}` {count:.1f}" for place, count in list(row["places"].items())[:3])
