"""The database of a local Prefect server, made once: a first start takes seconds of migrations."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock

from stillwatch.flows.servers.prefect_server import LocalPrefectServer
from stillwatch.settings import ServicesSettings

DATABASE = Path("prefect", "prefect.db")
"""In a state folder."""


def new_prefect_database(state_dir: Path) -> None:
    """An empty one where a local server of this state folder looks for it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    shared = Path(gettempdir()) / f"stillwatch-tests-{run}"
    shared.mkdir(exist_ok=True)
    empty = shared / "empty.db"
    with FileLock(shared / "lock"):
        if not empty.exists():
            _make(shared, empty)
    (state_dir / DATABASE).parent.mkdir(parents=True)
    shutil.copyfile(empty, state_dir / DATABASE)


def _make(folder: Path, empty: Path) -> None:
    with LocalPrefectServer(folder / "prefect", ServicesSettings()).joined():
        pass
    # A copy of the file alone would lack what is only in its write-ahead log.
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute("vacuum into ?", (str(empty),))
