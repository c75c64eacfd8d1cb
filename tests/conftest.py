"""Settings that every test shares."""

import os

# Before torch is imported, here and in every child: tiny tensors lose by sharing the work.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest

from tasks import telemetry

hypothesis.settings.register_profile("stillwatch", deadline=None)  # no test is timed
hypothesis.settings.load_profile("stillwatch")


@pytest.fixture(scope="session", autouse=True)
def quiet_tools() -> None:
    telemetry.switch_off_telemetry()
