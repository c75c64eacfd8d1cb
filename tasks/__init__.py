"""Second floor: one step, one tool. The only floor that knows DVC, GX and MLflow."""

from stillwatch.tasks.telemetry import switch_off_telemetry

switch_off_telemetry()
