"""``stillwatch detectors``: list the methods and their settings."""

import inspect
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from stillwatch.flows.cli.console import print_json, print_table, say
from stillwatch.flows.cli.options import LEARN, AsJson, CommandContext

app = typer.Typer()


@app.command(rich_help_panel=LEARN, epilog="Example: `stillwatch detectors stfpm`")
def detectors(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show the settings of this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the detectors, or the settings of one detector with their values in both profiles."""
    given: CommandContext = context.obj
    settings = None if name is None else given.settings
    found = _methods() if name is None else _settings_of(name)
    if as_json:
        print_json(found)
        return
    table = Table(*found[0], box=box.SIMPLE_HEAD, padding=0)
    for row in found:
        table.add_row(*map(_shown, row.values()))
    print_table(table)
    if name is not None and settings is not None:
        for category in ("", *settings.categories):
            own = settings.for_category(category).detectors.get(name, {})
            said = ", ".join(f"{key}: {_shown(value)}" for key, value in own.items()) or "nothing"
            where = f" for {category}" if category else ""
            say(f"{given.params} sets {said}{where}; the rest is from training.profile.")


def _methods() -> list[dict[str, Any]]:
    from stillwatch.detectors import detector_classes

    return [
        {
            "name": name,
            "method": inspect.getdoc(method),
            "distils": method.distils,
            "experimental": method.experimental,
        }
        for name, method in detector_classes().items()
    ]


def _settings_of(name: str) -> list[dict[str, Any]]:
    from stillwatch.detectors import detector_class, parse_detector_settings

    laptop, paper = (
        parse_detector_settings(name, {}, profile).model_dump(mode="json")
        for profile in ("laptop", "paper")
    )
    fields = detector_class(name).Settings.model_fields
    return [
        {"setting": key, "laptop": laptop[key], "paper": paper[key], "meaning": field.description}
        for key, field in fields.items()
    ]


def _shown(value: Any) -> str:
    """As in ``params.yaml``."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
