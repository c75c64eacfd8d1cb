"""Local Prefect servers for tests: stopped at the end, with a database that is made once.

The first start of a server takes seconds of migrations.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from run_folder import made_once

from stillwatch.flows.servers.prefect_server import (
    ensure_local_server,
    local_server,
    prefect_api,
)
from stillwatch.settings import Settings

DATABASE = Path("prefect", "prefect.db")
"""In a state folder."""


@contextmanager
def prefect_server(settings: Settings) -> Iterator[str]:
    """The URL of the API of a local server, which this process uses and the end stops."""
    try:
        with prefect_api(settings) as url:
            yield url
    finally:
        local_server(settings).stop()


def stop_servers_below(folder: Path) -> None:
    """Stop the servers that commands started for state folders in ``folder``."""
    for log in folder.rglob("prefect/server.log"):
        local_server(Settings(state_dir=log.parents[1])).stop()


def new_prefect_database(state_dir: Path) -> None:
    """An empty one where a local server of this state folder looks for it."""
    empty = made_once("prefect.db", _make)
    (state_dir / DATABASE).parent.mkdir(parents=True)
    shutil.copyfile(empty, state_dir / DATABASE)


def _make(empty: Path) -> None:
    settings = Settings(state_dir=empty.parent)
    ensure_local_server(settings)
    local_server(settings).stop()
    # A copy of the file alone would lack what is only in its write-ahead log.
    with closing(sqlite3.connect(settings.state_dir / DATABASE)) as database:
        database.execute("vacuum into ?", (str(empty),))
