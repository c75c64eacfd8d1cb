"""``stillwatch data``: version the image set, list and restore its versions."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from stillwatch.flows.cli.console import fail, print_json, print_table, say
from stillwatch.flows.cli.options import AsJson, Categories, CommandContext, PlantCommand, Root

app = typer.Typer(no_args_is_help=True, help="Version the image set, list and restore versions.")


@app.command(cls=PlantCommand, epilog="Example: `stillwatch data add`")
def add(
    context: typer.Context,
    root: Root = None,
    category: Categories = None,
    as_json: AsJson = False,
) -> None:
    """Version images that were changed by hand; `stillwatch add` copies and checks them, too.

    Exit code 1 when a category was not imported; the others still are.
    """
    from stillwatch.flows.image_sets import version_images

    given: CommandContext = context.obj
    version = version_images(given.settings, root=root, categories=category)
    if as_json:
        print_json(
            {
                "data_version": version.dir_hash,
                "commit": version.commit,
                "tag": version.tag,
                "changed": version.changed,
                "refused": version.refused,
                "categories": {name: one.digest for name, one in version.categories.items()},
            }
        )
    else:
        state = "new version" if version.changed else "unchanged"
        say(f"{state}: {version.dir_hash} at commit {version.commit[:10]} ({version.message})")
        for name, reason in version.refused.items():
            fail(f"{name} was not imported: {reason}")
    if version.refused:
        raise typer.Exit(1)


@app.command("list", cls=PlantCommand, epilog="Example: `stillwatch data list --json`")
def list_(context: typer.Context, root: Root = None, as_json: AsJson = False) -> None:
    """List the versions of the image set, newest first."""
    from stillwatch.tasks.data.history import list_versions
    from stillwatch.tasks.data.workspace import place_of

    given: CommandContext = context.obj
    versions = list_versions(place_of(given.settings, root).workspace)
    if as_json:
        print_json([asdict(version) for version in versions])
        return
    table = Table("tag", "date", "commit", "DVC hash", "files", "what changed")
    for one in versions:
        table.add_row(
            *(one.tag or "–", one.date, one.commit[:10], one.dir_hash[:12]),
            *(str(one.file_count), one.message),
        )
    print_table(table)


@app.command(cls=PlantCommand, epilog="Example: `stillwatch data checkout data-2`")
def checkout(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Tag or commit from `stillwatch data list`.")],
    root: Root = None,
) -> None:
    """Restore an older version of the images and of their split."""
    from stillwatch.tasks.data.checkout import checkout_version
    from stillwatch.tasks.data.workspace import place_of

    given: CommandContext = context.obj
    workspace = place_of(given.settings, root).workspace
    checkout_version(workspace, version)
    say(f"{workspace.data} now holds {version}")
