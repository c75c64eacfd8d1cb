"""``stillwatch sample`` and ``stillwatch demo``: the built-in sample set and the main job on it."""

from pathlib import Path
from typing import Annotated

import typer

from stillwatch.flows.cli.console import console, say
from stillwatch.flows.cli.options import CommandContext
from stillwatch.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: `stillwatch sample /tmp/sample`")(sample)
    app.command(epilog="Example: `stillwatch demo`, or `make demo` on a fresh clone")(demo)


def sample(
    root: Annotated[Path, typer.Argument(help="Folder for the categories plate and cloth.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make the built-in sample set: two categories in MVTec layout, the same pixels everywhere."""
    from stillwatch.sample.image_set import make_sample_set

    make_sample_set(root, seed=seed)
    say(f"{root} holds the categories plate and cloth")


def demo(context: typer.Context) -> None:
    """Run the main job on the built-in sample set; the checkout is never committed to."""
    from stillwatch.flows.cli.outcome import print_outcome
    from stillwatch.flows.cli.training_progress import watched_trainings
    from stillwatch.flows.demo import place_sample_set
    from stillwatch.flows.retrain import run_retraining

    given: CommandContext = context.obj
    root = place_sample_set(given.settings, say)
    with watched_trainings(given.settings, console, disabled=False):
        outcome = run_retraining(given.settings, params=given.params, root=root)
    print_outcome(outcome)
    _say_what_is_next(given.settings)
    if outcome.failed:
        raise typer.Exit(1)


def _say_what_is_next(settings: Settings) -> None:
    from stillwatch.tasks.validation.task import page_path

    say("look at next:")
    for category in ("plate", "cloth"):
        say(f"  {page_path(settings.state_dir, category)}: what validation says of the images")
    for command, purpose in (
        ("stillwatch report plate --out plate.html", "the retraining as one page for people"),
        ("stillwatch up", "the pages of MLflow and Prefect; prints their addresses"),
        ("stillwatch models", "what is registered"),
        ("stillwatch retrain --root FOLDER", "the same on your own images"),
    ):
        say(f"  .venv/bin/{command}: {purpose}")
