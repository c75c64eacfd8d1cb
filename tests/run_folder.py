"""What is made once for all workers of a run of the tests."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A file of this name; ``make`` writes it to the path that it is given."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(gettempdir()) / f"stillwatch-tests-{run}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        if not (folder / name).exists():
            make(folder / name)
    return folder / name
