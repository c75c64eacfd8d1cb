"""``stillwatch serve``: inspect images over HTTP."""

from typing import Annotated

import typer

from stillwatch.flows.cli.console import say
from stillwatch.flows.cli.options import RUN, CommandContext, ServiceCommand

app = typer.Typer()


@app.command(
    cls=ServiceCommand,
    rich_help_panel=RUN,
    epilog=(
        "Example: `stillwatch serve plate`, then `curl -H 'Content-Type: image/png' "
        "--data-binary @part.png http://127.0.0.1:8400/inspect/plate`"
    ),
)
def serve(
    context: typer.Context,
    categories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CATEGORY]...",
            help="Product lines; only their champions are loaded.",
            show_default="all with a champion",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Beyond this machine only with STILLWATCH_SERVE_KEY set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8400,
) -> None:
    """Inspect images that are sent over HTTP with each category's champion.

    A new champion is loaded without a restart. SIGTERM or Ctrl-C ends the service once the requests
    in progress are answered.
    """
    from stillwatch.flows.serving.server import serve as run

    given: CommandContext = context.obj
    run(
        given.settings,
        categories=categories or None,
        host=host,
        port=port,
        announce=lambda url: say(f"listening on {url}, described at {url}/openapi.json"),
    )
