"""Third floor: when and in what order. Prefect flows and the command line.

As in ``stillwatch.tasks``, a docstring names ``StorageError`` and ``TrackingError`` only where the
reason is not a folder that cannot be written to or an MLflow store that does not answer.
"""

# Switches off telemetry before a module of this package imports Prefect.
import stillwatch.tasks  # noqa: F401
