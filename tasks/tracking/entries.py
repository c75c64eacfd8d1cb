"""Values in the form that MLflow logs: data sets, metrics, nested settings, JSON files."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from stillwatch.errors import ArtefactError
from stillwatch.tasks.tracking.client import Tracking

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class JsonArtifact:
    """A JSON file at the top level of a run's artifacts, which a run may lack."""

    name: str
    remedy: str
    """What to do if the file is damaged, and the consequence; a sentence."""

    def write(self, tracking: Tracking, run_id: str, content: Any) -> None:
        """Write ``content`` to a run; an existing file is replaced."""
        with tracking.errors(f"store {self.name}"):
            tracking.client.log_dict(run_id, content, self.name)

    def read(self, tracking: Tracking, run_id: str) -> Any:
        """Read the file of a run; None if the run has none.

        Raises:
            ArtefactError: the file is not JSON.
        """
        if self.name not in tracking.artifact_names(run_id):
            return None
        with tracking.artifact(run_id, self.name) as path:
            try:
                return json.loads(path.read_bytes())
            except ValueError as error:
                raise self.damaged(tracking, run_id, error) from error

    def parse(self, tracking: Tracking, run_id: str, parser: Callable[[Any], Parsed]) -> Parsed:
        """Read the file of a run and give its content, or None, to ``parser``.

        Raises:
            ArtefactError: the file is missing, or is not what the parser expects.
        """
        content = self.read(tracking, run_id)
        try:
            return parser(content)
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(tracking, run_id, error) from error

    def damaged(self, tracking: Tracking, run_id: str, error: Exception) -> ArtefactError:
        """The error for a missing or damaged file."""
        return ArtefactError(
            f"{self.name} of run {run_id} at {tracking.uri} is missing or damaged ({error!r}). "
            f"{self.remedy}"
        )


def training_data(name: str, digest: str, folder: Path, profile: Mapping[str, int]) -> DatasetInput:
    """The image set of a training, for ``Tracking.log_data``; no image is read.

    Args:
        name: as MLflow shows it.
        digest: DVC's hash of the image set, ``<md5>.dir``.
        profile: kind of image -> number of images.
    """
    described = MetaDataset(
        LocalArtifactDatasetSource(str(folder)), name=name, digest=digest
    ).to_dict()
    entity = Dataset(**described, profile=json.dumps(dict(profile)))
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])


def figures(
    values: Mapping[str, float],
    *,
    timestamp: int | None = None,
    dataset: tuple[str, str] | None = None,
    model_id: str | None = None,
) -> list[Metric]:
    """Figures as MLflow metrics with one timestamp.

    Args:
        timestamp: milliseconds since 1970; None: now.
        dataset: name and digest of the data that the figures were measured on.
        model_id: the logged model that the figures belong to.
    """
    moment = milliseconds() if timestamp is None else timestamp
    name, digest = dataset or (None, None)
    return [
        Metric(
            *(key, float(value), moment, 0),
            model_id=model_id,
            dataset_name=name,
            dataset_digest=digest,
        )
        for key, value in values.items()
    ]


def milliseconds() -> int:
    """The current time in milliseconds since 1970, MLflow's unit."""
    return int(time.time() * 1000)


def flattened(values: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Nested settings as one level of ``prefix.section.key`` -> value."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, name)
        else:
            flat[name] = value
    return flat
