"""Show the progress of running trainings to other processes, in files of the state folder."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from stillwatch.files import write_json
from stillwatch.tasks.liveness import may_be_alive, owner_tags
from stillwatch.training.job import EpochReport


@dataclass(frozen=True)
class TrainingProgress:
    """A running training."""

    title: str
    """``<category>/<detector>``, with the seed where a retraining has several."""
    phase: str
    epoch: int
    epochs: int
    validation_loss: float
    seconds_left: float
    owner: Mapping[str, str]
    """As ``owner_tags`` gives it."""

    @property
    def category(self) -> str:
        """The category that is trained."""
        return self.title.partition("/")[0]

    @property
    def detector(self) -> str:
        """The detector, with the seed where a retraining has several."""
        return self.title.partition("/")[2]

    @property
    def time_left(self) -> str:
        """Minutes and seconds, such as ``1:05``."""
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return f"{minutes}:{seconds:02d}"


@contextmanager
def visible_progress(state_dir: Path, title: str) -> Iterator[Callable[[EpochReport], None]]:
    """Yield a function that shows the progress of a training after an epoch.

    The function writes a file, which is removed when the training ends.
    """
    owner = owner_tags(state_dir / "locks")
    file = _folder(state_dir) / f"{title.replace('/', '--')}.json"

    def show(epoch: EpochReport) -> None:
        progress = TrainingProgress(
            title=title,
            phase=epoch.phase,
            epoch=epoch.epoch + 1,
            epochs=epoch.epochs,
            validation_loss=epoch.validation_loss,
            seconds_left=epoch.seconds_left,
            owner=owner,
        )
        write_json(file, asdict(progress))

    try:
        yield show
    finally:
        file.unlink(missing_ok=True)


def running_trainings(state_dir: Path) -> list[TrainingProgress]:
    """List the running trainings by title; a killed process leaves files, which do not count."""
    found = []
    for path in sorted(_folder(state_dir).glob("*.json")):
        # A training may end, and remove its file, between listing and reading.
        with suppress(FileNotFoundError):
            found.append(TrainingProgress(**json.loads(path.read_text(encoding="utf-8"))))
    return [training for training in found if may_be_alive(training.owner)]


def _folder(state_dir: Path) -> Path:
    return state_dir / "progress"
