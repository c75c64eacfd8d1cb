"""Progress of trainings where the output is a file."""

import io
from pathlib import Path

from rich.console import Console
from tests.flows.waiting import until

from stillwatch.flows.cli.training_progress import watched_trainings
from stillwatch.settings import Settings
from stillwatch.tasks.training.progress import visible_progress
from stillwatch.training.job import EpochReport


def test_a_file_gets_a_line_for_each_tenth_of_the_epochs(tmp_path: Path) -> None:
    output = io.StringIO()
    settings = Settings(state_dir=tmp_path)
    with (
        watched_trainings(settings, Console(file=output), disabled=False),
        visible_progress(tmp_path, "plate/stfpm") as show,
    ):
        for epoch in (1, 2, 3, 4):
            show(
                EpochReport(
                    phase="student",
                    epoch=epoch - 1,
                    epochs=20,
                    train_loss=0.5,
                    validation_loss=0.25,
                    seconds=1.0,
                    seconds_left=65.0,
                )
            )
            if epoch != 3:
                line = f"epoch {epoch}/20"
                until(lambda: line in output.getvalue())  # noqa: B023
    assert output.getvalue().splitlines() == [
        f"plate/stfpm: epoch {epoch}/20, validation loss 0.2500, 1:05 left" for epoch in (1, 2, 4)
    ]
