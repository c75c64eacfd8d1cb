"""``stillwatch init``: make a plant."""

from pathlib import Path
from typing import Annotated

import typer

from stillwatch.flows.cli.console import say
from stillwatch.flows.cli.options import START
from stillwatch.tasks.data.plant import IMAGES, INBOX, SETTINGS_FILE, TO_INSPECT, make_plant

app = typer.Typer()


@app.command(rich_help_panel=START, epilog="Example: `stillwatch init /srv/plant`")
def init(
    folder: Annotated[Path, typer.Argument(help="A new or an empty folder; `.` for this one.")],
) -> None:
    """Make a plant: the folder in which you add images, retrain and inspect.

    A folder that has a settings file or a git repository already is refused.
    """
    make_plant(folder)
    say(f"made the plant {folder.absolute()}, a git and DVC repository:")
    for name, purpose in (
        (SETTINGS_FILE, "the settings that you may want to change"),
        (f"{IMAGES}/", "the images, one folder per category (product line): 'stillwatch add'"),
        (f"{INBOX}/", "new images, in <category>/good or <category>/<defect>: 'stillwatch up'"),
        (f"{TO_INSPECT}/", "images that are inspected from the form in Prefect"),
    ):
        say(f"  {name:12} {purpose}")
    go = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    say(f"next: {go}stillwatch add CATEGORY IMAGES")
