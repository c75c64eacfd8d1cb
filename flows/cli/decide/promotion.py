"""``stillwatch promote``, ``rollback`` and ``history``: change champions, list the changes."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from stillwatch.flows.cli.console import print_json, print_table, say
from stillwatch.flows.cli.options import DECIDE, AsJson, CommandContext, ShortCommand

if TYPE_CHECKING:  # it imports MLflow, which takes seconds
    from stillwatch.tasks.promotion.history import PromotionRecord

Category = Annotated[str, typer.Argument(help="The product line.")]


app = typer.Typer()


@app.command(
    cls=ShortCommand,
    rich_help_panel=DECIDE,
    epilog="Example: `stillwatch promote screw --approve --reason 'checked on line 3'`",
)
def promote(
    context: typer.Context,
    category: Category,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")] = "",
    version: Annotated[
        int | None, typer.Option(min=1, show_default="the challenger", help="Which one.")
    ] = None,
    despite: Annotated[
        str,
        typer.Option(
            show_default=False,
            help="Of a version that misses a floor: why it becomes champion in spite of that; the "
            "history keeps it.",
        ),
    ] = "",
    approve: Annotated[
        bool, typer.Option("--approve", help="Do it; without it, only what waits is shown.")
    ] = False,
) -> None:
    """Make a version that waits for approval the champion, in your name."""
    if approve and not reason:
        raise typer.BadParameter("say why, for the history", param_hint="--reason")
    from stillwatch.tasks.promotion.promote import describe_waiting
    from stillwatch.tasks.promotion.promote import promote as promote_version

    given: CommandContext = context.obj
    if not approve:
        say(describe_waiting(category, version=version, settings=given.settings))
        return
    record = promote_version(
        category, version=version, reason=reason, despite=despite, settings=given.settings
    )
    say(record.checked)
    say(
        f"champion of {category} is now version {record.to_version}{_instead(record)}, "
        f"approved by {record.who}"
    )


@app.command(
    cls=ShortCommand,
    rich_help_panel=DECIDE,
    epilog="Example: `stillwatch rollback screw --reason 'too many false alarms'`",
)
def rollback(
    context: typer.Context,
    category: Category,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")],
    version: Annotated[
        int | None,
        typer.Option(min=1, show_default="the champion before", help="An earlier champion."),
    ] = None,
) -> None:
    """Make an earlier champion the champion again."""
    from stillwatch.tasks.promotion.rollback import rollback as roll_back

    given: CommandContext = context.obj
    record = roll_back(category, version=version, reason=reason, settings=given.settings)
    say(record.checked)
    say(f"champion of {category} is again version {record.to_version}{_instead(record)}")


@app.command(
    cls=ShortCommand,
    rich_help_panel=DECIDE,
    epilog="Example: `stillwatch history screw --json`",
)
def history(context: typer.Context, category: Category, as_json: AsJson = False) -> None:
    """List who made which version the champion, when and why, newest first."""
    from stillwatch.tasks.promotion.history import history as read_history
    from stillwatch.tasks.registry.versions import ensure_known
    from stillwatch.tasks.tracking.client import open_tracking

    given: CommandContext = context.obj
    tracking = open_tracking(given.settings)
    ensure_known(category, tracking.categories())
    entries = read_history(tracking, category)
    if as_json:
        print_json([entry.as_dict() for entry in entries])
        return
    if not entries:
        say(f"nothing was promoted in {category} yet")
        return
    table = Table("when", "who", "from", "to", "gate", "data", "reason", box=box.SIMPLE_HEAD)
    for entry in entries:
        record = entry.record
        what = [record.kind] if record.kind == "rollback" else []
        state = [entry.state] if entry.state != "done" else []
        table.add_row(
            record.when[:16].replace("T", " "),
            record.who,
            str(record.from_version or "–"),
            str(record.to_version),
            record.answer or "–",
            record.data_version[:8],
            ": ".join([*state, *what, record.reason]) + _in_spite(record),
        )
    print_table(table)


def _in_spite(record: "PromotionRecord") -> str:
    return f"; although {record.missed}: {record.despite}" if record.despite else ""


def _instead(record: "PromotionRecord") -> str:
    return f" instead of version {record.from_version}" if record.from_version else ""
