"""Settings that every test shares."""

import hypothesis
import pytest

from tasks import telemetry

hypothesis.settings.register_profile("stillwatch", deadline=None)  # no test is timed
hypothesis.settings.load_profile("stillwatch")


@pytest.fixture(scope="session", autouse=True)
def quiet_tools() -> None:
    """Prefect's heartbeat thread costs a second per flow run; the logs are not what is tested."""
    telemetry.switch_off_telemetry()
