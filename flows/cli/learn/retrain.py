"""``stillwatch retrain``: train, evaluate and register detectors."""

from pathlib import Path
from typing import Annotated

import typer

from stillwatch.files import ensure_writable
from stillwatch.flows.cli.console import console, print_json, say
from stillwatch.flows.cli.options import (
    LEARN,
    AsJson,
    Categories,
    CommandContext,
    PlantCommand,
    Root,
    say_what_a_root_is,
)
from stillwatch.settings import Settings

app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=LEARN,
    epilog="Example: `stillwatch retrain --category screw --report r.json`",
)
def retrain(
    context: typer.Context,
    root: Root = None,
    category: Categories = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for several.", show_default="retrain.detectors"),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Repeat for several: the mean over them decides, the model is of the first.",
            show_default="training.seed",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even what MLflow holds already.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the outcome as JSON; docs/report.md has the schema.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Version, check, train, calibrate, evaluate, and register the winner of each category.

    Exit code 1 when a category failed; the others are still done.
    """
    given: CommandContext = context.obj
    names = _checked(given.settings, root, category, detector, report)
    if not as_json:
        say_what_a_root_is(root)
        say(f"retraining {', '.join(names)}: first the images are checked and versioned")

    # These import Prefect, MLflow and torch, which takes seconds.
    from stillwatch.flows.cli.outcome import print_outcome, print_server
    from stillwatch.flows.cli.training_progress import watched_trainings
    from stillwatch.flows.retrain import run_retraining

    with watched_trainings(given.settings, console, disabled=as_json):
        outcome = run_retraining(
            given.settings,
            params=given.params,
            root=root,
            categories=category,
            detectors=detector,
            seeds=seed,
            force=force,
        )
    if report is not None:
        outcome.write(report)
    if as_json:
        print_json(outcome.model_dump(mode="json"))
    else:
        print_outcome(outcome, given.settings)
        if report is not None:
            say(f"report: {report}")
        print_server(given.settings)
    if outcome.failed:
        raise typer.Exit(1)


def _checked(
    settings: Settings,
    root: Path | None,
    categories: list[str] | None,
    detectors: list[str] | None,
    report: Path | None,
) -> tuple[str, ...]:
    """Names of the categories.

    Wrong names and a server that is gone are refused before torch and MLflow are imported.
    """
    from stillwatch.tasks.data.workspace import ensure_images

    if report is not None:
        ensure_writable(report.absolute().parent)
    names = ensure_images(settings, root, categories)

    if detectors:
        # It imports torch.
        from stillwatch.detectors import detector_class

        for name in detectors:
            detector_class(name)

    # It imports Prefect.
    from stillwatch.flows.servers.prefect_server import ensure_answers

    ensure_answers()
    return names
