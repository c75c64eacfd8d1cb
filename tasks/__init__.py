"""The steps of the pipeline, as Prefect tasks; only this package uses DVC, GX and MLflow."""

from stillwatch.tasks.telemetry import switch_off_telemetry

switch_off_telemetry()
