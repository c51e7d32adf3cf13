"""How a verb of the command runs and what its help shows."""

import sys
from typing import Any

from typer.core import TyperCommand

from steelman.failures import guarded
from steelman.trust import trusting

ADVERSARIES = ("adversary", "Learned adversaries")


class Verb(TyperCommand):
    """Whatever its work raises ends in one line."""

    def invoke(self, ctx: Any) -> Any:
        with guarded(str(self.name)), trusting(*ctx.params.get("trust") or ()):
            from steelman import __all__  # noqa: F401 (imports the library, faster than one module after the other)

            done = super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that has gone is no error
            return done


class Train(Verb):
    """Its help also names methods."""

    panels = (
        ("defence", "Defences (defence = { kind = ... } in a recipe)"),
        ADVERSARIES,
        ("preparation", "Preparations of the training images (prepare = [{ kind = ... }])"),
    )
    left_out: tuple[str, ...] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from rich.console import Console
        from rich.markup import escape
        from rich.panel import Panel
        from rich.table import Table

        from steelman.cli.summaries import summaries

        for kind, title in self.panels:
            table = Table.grid(padding=(0, 2))
            for name, summary in summaries(kind).items():
                if name not in self.left_out:
                    table.add_row(f"[bold cyan]{name}[/]", escape(summary))
            Console().print(Panel(table, title=title, title_align="left", border_style="dim"))


class AttackTrain(Train):
    panels = (ADVERSARIES,)
    left_out = ("AttackTraining",)
