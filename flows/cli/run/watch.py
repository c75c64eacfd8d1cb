"""``stillwatch watch``: test the scores of the champions for drift."""

from typing import Annotated

import typer

from stillwatch.flows.cli.console import fail, print_json, say
from stillwatch.flows.cli.options import RUN, AsJson, CommandContext, PlantCommand

app = typer.Typer()


@app.command(
    cls=PlantCommand, rich_help_panel=RUN, epilog="Example: `stillwatch watch screw --json`"
)
def watch(
    context: typer.Context,
    category: Annotated[
        str | None, typer.Argument(help="The product line.", show_default="all with a champion")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test the champions' scores for drift; announce no alarm.

    Exit code 1 when the scores of a champion have drifted.
    """
    from stillwatch.tasks.registry.versions import ensure_registered
    from stillwatch.tasks.tracking.client import open_tracking

    given: CommandContext = context.obj
    if category is not None:
        ensure_registered(open_tracking(given.settings), category)

    # It imports Prefect and pandas, which takes seconds.
    from stillwatch.flows.watch import watched_streams
    from stillwatch.inference.score_log import open_score_log

    with open_score_log(given.settings) as log:
        streams = watched_streams(given.settings, category, log.read_scores)
    if as_json:
        print_json([stream.as_dict() for stream in streams])
    elif not streams:
        say("there is no champion to watch yet; `stillwatch models` shows what is registered")
    else:
        for stream in streams:
            (fail if stream.alarm else say)(stream.sentence)
            for note in stream.appearance_notes:
                say(f"  {note}")
    if any(stream.alarm for stream in streams):
        raise typer.Exit(1)
