"""What is logged to MLflow in the form that it takes: image sets, figures, settings."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric


@dataclass(frozen=True)
class DataSource:
    """The image set as MLflow shows it beside a run."""

    name: str
    digest: str
    """DVC's own hash of the image set, ``<md5>.dir``."""
    folder: Path
    profile: Mapping[str, int]
    """How many images of which kind."""

    def as_input(self) -> DatasetInput:
        """What a training has read."""
        described = MetaDataset(
            LocalArtifactDatasetSource(str(self.folder)), name=self.name, digest=self.digest
        ).to_dict()
        entity = Dataset(**described, profile=json.dumps(dict(self.profile)))
        return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])


def figures(
    values: Mapping[str, float],
    *,
    timestamp: int | None = None,
    dataset: tuple[str, str] | None = None,
    model_id: str | None = None,
) -> list[Metric]:
    """Final figures as MLflow metrics of one moment.

    Args:
        values: by name.
        timestamp: milliseconds since 1970; None: now.
        dataset: name and digest of the data that they were measured on.
        model_id: the logged model that they belong to.
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
    """Now, in milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def flattened(values: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Nested settings as ``prefix.section.key``."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, name)
        else:
            flat[name] = value
    return flat
