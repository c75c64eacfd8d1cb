"""Third floor: when and in what order. Prefect flows and the command line.

As in ``stillwatch.tasks``, docstrings omit ``StorageError`` for a folder that cannot be written to,
and ``TrackingError`` for an MLflow store that does not answer.
"""

# Switches off telemetry before a module of this package imports Prefect.
import stillwatch.tasks  # noqa: F401
