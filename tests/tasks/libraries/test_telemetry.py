import os
import subprocess
import sys

import pytest

from stillwatch.tasks.libraries import telemetry

ASK_THE_LIBRARIES = """
import stillwatch.tasks
from dvc.analytics import is_enabled
from mlflow.telemetry.utils import is_telemetry_disabled
from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import get_current_settings
server = get_current_settings().server
answers = {
    "dvc": is_enabled(),
    "mlflow": not is_telemetry_disabled(),
    "prefect client": is_telemetry_enabled(),
    "prefect server": server.analytics_enabled,
    "prefect page": server.ui.show_promotional_content,
}
assert not any(answers.values()), answers
"""


def clean_environment() -> dict[str, str]:
    """The environment without variables that switch telemetry off, such as signs of a CI."""
    signs = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "PYTEST_CURRENT_TEST", "PYTEST_VERSION")
    return {k: v for k, v in os.environ.items() if k not in {*telemetry.SWITCHES, *signs}}


def test_telemetry_is_off_in_every_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK_THE_LIBRARIES],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_variables_set_by_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    telemetry.switch_off_telemetry()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"
