"""``stillwatch sample`` and ``stillwatch demo``: the sample set, and a retraining on it."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from stillwatch.flows.cli.console import console, say
from stillwatch.flows.cli.options import START, CommandContext, PlantCommand
from stillwatch.settings import Settings

app = typer.Typer()


@app.command(rich_help_panel=START, epilog="Example: `stillwatch sample /tmp/sample`")
def sample(
    root: Annotated[Path, typer.Argument(help="Folder for the categories plate and cloth.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make the built-in sample set: two categories in MVTec layout, the same pixels everywhere."""
    from stillwatch.sample.image_set import make_sample_set

    make_sample_set(root, seed=seed)
    say(f"{root} holds the categories plate and cloth")


@app.command(
    cls=PlantCommand,
    rich_help_panel=START,
    epilog="Example: `stillwatch demo`, or `make demo` on a fresh clone",
)
def demo(context: typer.Context) -> None:
    """Retrain on the built-in sample set; nothing is committed to the checkout."""
    from stillwatch.flows.cli.outcome import print_outcome, print_server
    from stillwatch.flows.cli.training_progress import watched_trainings
    from stillwatch.flows.retrain import run_retraining
    from stillwatch.flows.servers.prefect_server import prefect_api

    given: CommandContext = context.obj
    settings = given.settings
    # The Prefect server takes as long to start as the images take to be made, on another core.
    with ThreadPoolExecutor(max_workers=1) as pool:
        making = pool.submit(sample_root, settings)
        with prefect_api(settings), watched_trainings(settings, console, disabled=False):
            outcome = run_retraining(settings, params=given.params, root=making.result())
    print_outcome(outcome, settings)
    _say_what_is_next(settings)
    print_server(settings)
    if outcome.failed:
        raise typer.Exit(1)


def _say_what_is_next(settings: Settings) -> None:
    from stillwatch.tasks.validation.task import page_path

    # A command that was found by PATH has been called by its name alone.
    called = "stillwatch" if sys.argv[0] == shutil.which("stillwatch") else sys.argv[0]
    say("look at next:")
    for category in ("plate", "cloth"):
        say(f"  {page_path(settings.state_dir, category)}: what validation says of the images")
    for command, purpose in (
        ("report plate --out plate.html", "the retraining as one page for people"),
        ("up", "the pages of MLflow and Prefect; prints their addresses"),
        ("models", "what is registered"),
        ("init FOLDER", "a plant for your own images"),
    ):
        say(f"  {called} {command}: {purpose}")


def sample_root(settings: Settings) -> Path | None:
    """Make the sample set where the demo commits nothing to the checkout; return its root.

    None stands for the workspace's own image set, whose bytes are those of the last commit: only
    the checkout of stillwatch itself records the sample set. Otherwise the sample set is made in
    the state folder, and is imported into a managed workspace.
    """
    from stillwatch.images.split import read_split_file
    from stillwatch.sample.image_set import SUBJECTS, make_sample_set
    from stillwatch.tasks.data.version import matches_tracked
    from stillwatch.tasks.data.workspace import open_workspace

    workspace = open_workspace(settings)
    if read_split_file(workspace.split_file).keys() == SUBJECTS.keys():
        if not any(workspace.data.glob("*")):
            say(f"making the sample set in {workspace.data}")
            make_sample_set(workspace.data)
        if matches_tracked(workspace, settings):
            say(f"{workspace.data} has the same bytes as {workspace.dvc_file.name} records")
            return None
        say(
            f"{workspace.data} is not what {workspace.dvc_file.name} records: it has other images, "
            "or another zlib encodes the same pixels in other bytes. Using a separate workspace "
            "instead."
        )
    root = settings.state_dir / "sample"
    if not root.exists():
        say(f"making the sample set in {root}")
        make_sample_set(root)
    return root
