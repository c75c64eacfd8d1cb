"""Where log lines go while a command runs."""

import logging
import warnings
from pathlib import Path

from stillwatch.tasks.libraries.logs import LogFile, log_file, logged_to


def test_log_lines_and_warnings_go_to_the_file_alone(tmp_path: Path) -> None:
    root, file = logging.getLogger(), LogFile(tmp_path / "logs" / "x.log")
    before = list(root.handlers)
    logging.captureWarnings(False)  # importing Great Expectations within a test leaves this on
    with logged_to([file]):
        assert root.handlers == [file]
        assert log_file() == file.path
        assert not file.path.parent.exists(), "nothing was logged yet"
        logging.getLogger("prefect").warning("slow", extra={"task_run_name": "train x"})
        with warnings.catch_warnings(action="default"):
            warnings.warn("old", stacklevel=1)
        assert file.is_used
    assert root.handlers == before
    assert log_file() is None
    lines = file.path.read_text(encoding="utf-8")
    assert "WARNING prefect [train x] slow" in lines
    assert "old" in lines


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    with logged_to([LogFile(tmp_path / "logs" / "x.log"), LogFile(Path("/dev/full"))]):
        logging.getLogger("prefect").error("lost")
