"""Third floor: when and in what order. Prefect flows and the command line."""

# Switches off telemetry before a module of this package imports Prefect.
import stillwatch.tasks  # noqa: F401
