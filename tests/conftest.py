"""Settings that every test shares."""

import gc
import os

# Before torch is imported, here and in every child: tiny tensors lose by sharing the work.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest

from stillwatch.tasks.libraries import telemetry

# The imports of the tests make a million objects that stay: to look for garbage among them again
# and again takes a third of the time of the imports.
gc.disable()
hypothesis.settings.register_profile("stillwatch", deadline=None)  # no test is timed
hypothesis.settings.load_profile("stillwatch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what takes minutes on one worker, so that the others do not wait for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def quiet_tools() -> None:
    telemetry.switch_off_telemetry()
