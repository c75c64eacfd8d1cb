"""The score log: one row for every inspected image, in the order of inspection.

A second table has one row for every image that a person labelled afterwards; its rows are never
removed.

One SQLite file per category in the state folder, in write-ahead mode, so that the service, the
command line and flows may write at once while others read. The oldest scores are removed first.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from stillwatch.calibration import Verdict
from stillwatch.errors import StorageError
from stillwatch.files import storage_errors
from stillwatch.images.appearance import brightness, grey_image, sharpness
from stillwatch.images.layout import check_category_name
from stillwatch.inference.inspector import InspectedImage
from stillwatch.settings import Settings
from stillwatch.text import encodable

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "scores"
"""In the state folder; holds ``<category>.db``."""

_WAIT_SECONDS = 30
"""How long to wait for another process that writes."""

_TABLES = MetaData()
_SCORES = Table(
    "scores",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("time", DateTime, nullable=False),
    Column("category", String, nullable=False),
    Column("model_version", Integer),
    Column("file", String),
    Column("md5", String, nullable=False),
    Column("score", Float, nullable=False),
    Column("p_value", Float, nullable=False),
    Column("verdict", String, nullable=False),
    Column("brightness", Float, nullable=False),
    Column("sharpness", Float, nullable=False),
    sqlite_autoincrement=True,
)
_LABELS = Table(
    "labels",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("time", DateTime, nullable=False),
    Column("category", String, nullable=False),
    Column("model_version", Integer),
    Column("verdict", String),
    Column("file", String, nullable=False),
    Column("md5", String, nullable=False),
    Column("label", String, nullable=False),
    Column("who", String, nullable=False),
)


@dataclass(frozen=True)
class Appearance:
    """Digest, brightness and sharpness of an image file."""

    md5: str
    """Of the file's bytes, hexadecimal, as in the manifest."""
    brightness: float
    """Mean grey value at the image's own size, 0 to 255, as in the manifest."""
    sharpness: float
    """Variance of the Laplacian, as in the manifest."""


@dataclass(frozen=True)
class LoggedImage:
    """One row of the score log; the log adds the number and the time."""

    model_version: int | None
    """In the registry; None for a bundle that was not taken from there."""
    file: str | None
    """The file's name without its folder; None where there was no file."""
    md5: str
    brightness: float
    sharpness: float
    score: float
    p_value: float
    verdict: Verdict


@dataclass(frozen=True)
class GivenVerdict:
    """The latest verdict on an image."""

    model_version: int | None
    """In the registry; None for a bundle that was not taken from there."""
    verdict: Verdict

    def __str__(self) -> str:
        """Verdict and version, such as ``reject (version 3)``."""
        version = self.model_version
        return f"{self.verdict} ({'a bundle' if version is None else f'version {version}'})"


@dataclass(frozen=True)
class LabelledImage:
    """The label that a person gave an image; the log adds the time."""

    given: GivenVerdict | None
    """The latest verdict; None for an image that is not in the log."""
    file: str
    """The file's name without its folder."""
    md5: str
    label: str
    """``good``, or the defect type."""
    who: str


def appearance(md5: str, pixels: NDArray[np.uint8]) -> Appearance:
    """Measure an image file's own pixels, uint8 (H, W, 3), as the manifest does."""
    grey = grey_image(pixels)
    return Appearance(md5, brightness(grey), sharpness(grey))


def logged(
    seen: Appearance, image: InspectedImage, *, model_version: int | None, file: str | None
) -> LoggedImage:
    """Make the row of an inspected image."""
    return LoggedImage(
        model_version=model_version,
        file=None if file is None else encodable(file),
        score=image.score,
        p_value=image.p_value,
        verdict=image.verdict,
        **asdict(seen),
    )


class ScoreLog:
    """The logs of all categories; use as a context manager, from any thread.

    Every method raises ``LayoutError`` for a name that no category can have, and ``StorageError``
    where the log cannot be read or written.

    Args:
        folder: holds one file per category.
        most_rows: rows that are kept per category.
    """

    def __init__(self, folder: Path, most_rows: int) -> None:
        self._folder = folder
        self._most_rows = most_rows
        self._engines: dict[str, Engine] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.dispose()

    def append(self, category: str, images: Sequence[LoggedImage]) -> None:
        """Add rows in one transaction, and remove what is then too old."""
        now = datetime.now(UTC).replace(tzinfo=None)
        rows = [{"time": now, "category": category} | asdict(image) for image in images]
        newest = select(func.max(_SCORES.c.id)).scalar_subquery()
        with self._transaction(category) as connection:
            connection.execute(insert(_SCORES), rows)
            connection.execute(delete(_SCORES).where(_SCORES.c.id <= newest - self._most_rows))

    def read_scores(self, category: str, version: int | None) -> "pd.DataFrame":
        """Read all rows of one model version, in the order of inspection.

        Args:
            category: its name.
            version: of the registry; None: rows of bundles that are not from there.

        Returns:
            Index ``id``, ascending; columns ``time`` (UTC), ``category``, ``model_version``,
            ``file``, ``md5``, ``score``, ``p_value``, ``verdict``, ``brightness``, ``sharpness``.
            Empty where nothing was inspected yet.
        """
        import pandas as pd

        wanted = _SCORES.c.model_version.is_not_distinct_from(version)
        query = select(_SCORES).where(wanted).order_by(_SCORES.c.id)
        with self._transaction(category) as connection:
            frame = pd.read_sql_query(query, connection, index_col="id")
        frame["time"] = pd.to_datetime(frame["time"], utc=True)
        frame["model_version"] = frame["model_version"].astype("Int64")
        return frame

    def verdicts_of(self, category: str, md5s: Collection[str]) -> dict[str, GivenVerdict]:
        """The latest verdict on each of these images: md5 -> verdict, for images in the log."""
        columns = _SCORES.c.md5, _SCORES.c.model_version, _SCORES.c.verdict
        query = select(*columns).where(_SCORES.c.md5.in_(md5s)).order_by(_SCORES.c.id)
        with self._transaction(category) as connection:
            return {
                md5: GivenVerdict(version, verdict)
                for md5, version, verdict in connection.execute(query)
            }

    def append_labels(self, category: str, images: Sequence[LabelledImage]) -> None:
        """Add labels that a person gave, in one transaction."""
        now = datetime.now(UTC).replace(tzinfo=None)
        rows = [
            {
                "time": now,
                "category": category,
                "model_version": image.given and image.given.model_version,
                "verdict": image.given and image.given.verdict,
                "file": encodable(image.file),
                "md5": image.md5,
                "label": image.label,
                "who": image.who,
            }
            for image in images
        ]
        with self._transaction(category) as connection:
            connection.execute(insert(_LABELS), rows)

    def read_labels(self, category: str) -> list[LabelledImage]:
        """All labels, in the order in which they were given."""
        query = select(_LABELS).order_by(_LABELS.c.id)
        with self._transaction(category) as connection:
            return [
                LabelledImage(
                    given=row.verdict and GivenVerdict(row.model_version, row.verdict),
                    file=row.file,
                    md5=row.md5,
                    label=row.label,
                    who=row.who,
                )
                for row in connection.execute(query)
            ]

    def _engine(self, category: str) -> Engine:
        if category not in self._engines:
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            engine = create_engine(
                f"sqlite:///{self._file(category)}", connect_args={"timeout": _WAIT_SECONDS}
            )
            event.listen(engine, "connect", _write_ahead)
            with engine.begin() as connection:
                for table in _TABLES.sorted_tables:
                    connection.execute(CreateTable(table, if_not_exists=True))
            self._engines[category] = engine
        return self._engines[category]

    def _file(self, category: str) -> Path:
        return self._folder / f"{category}.db"

    @contextmanager
    def _transaction(self, category: str) -> Iterator[Connection]:
        check_category_name(category)
        try:
            with self._engine(category).begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise StorageError(
                f"{self._file(category)}: the score log cannot be used ({reason}). Check that its "
                "folder is on a local disk, may be written to and is not full; to replace a "
                "damaged log, move its file away."
            ) from error


def open_score_log(settings: Settings) -> ScoreLog:
    """The score log of the settings' state folder."""
    return ScoreLog(settings.state_dir / FOLDER, settings.inspection.log_rows)


def _write_ahead(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # A power cut may take the last rows, but never the file.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
