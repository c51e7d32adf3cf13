"""docs/results/mutants.md: which test noticed which fault."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.mutants.fault import Fault


def page(faults: Sequence[Fault], rows: Mapping[str, Mapping[str, Any]], told: Mapping[str, str]) -> str:
    survived = [fault.name for fault in faults if not rows[fault.name]["killed_by"]]
    kinds = {fault.kind for fault in faults}
    result = f"{len(faults) - len(survived)} of {len(faults)} faults of {len(kinds)} kinds were noticed."
    if survived:
        result += f" Unnoticed: {', '.join(survived)}."
    lines = [
        "# Deliberate faults",
        "",
        "`make mutants` plants one fault at a time into a copy of the package and runs the tests that should notice "
        "it. The faults are in `benchmarks/mutants/`; the figures in [mutants.json](mutants.json).",
        "",
        f"**{result}**",
        "",
        f"{told['hardware']}, {told['date']}; seconds until the first failing test, with the start of Python.",
        "",
        "| kind | fault | first failing test | seconds |",
        "|---|---|---|---:|",
    ]
    for fault in sorted(faults, key=lambda each: each.kind):
        row = rows[fault.name]
        test = f"`{row['killed_by'].partition('[')[0]}`" if row["killed_by"] else "**none**"
        lines.append(f"| {fault.kind} | {fault.name} | {test} | {row['seconds']:.0f} |")
    return "\n".join([*lines, "", "```", told["command"], "```", ""])
