"""Switch off the telemetry of the libraries that stillwatch uses."""

import os

SWITCHES = {
    "DO_NOT_TRACK": "1",  # https://consoledonottrack.com: Prefect's client, timm's hub client
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def switch_off_telemetry() -> None:
    """Set the environment variables that switch telemetry off.

    Must run before one of the libraries is imported; child processes inherit the variables. A
    variable that is already set keeps its value, so that a user can decide otherwise.
    """
    for variable, value in SWITCHES.items():
        os.environ.setdefault(variable, value)
