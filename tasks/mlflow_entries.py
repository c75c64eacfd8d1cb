"""What is logged to MLflow in the form that it takes: metrics of one moment, settings by name."""

import time
from collections.abc import Mapping

from mlflow.entities import Metric


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
