"""What registrations that were cut off leave: the dead are removed, the living are left alone."""

from datetime import timedelta

import pytest
from made_registries import NAME, new_version
from made_stores import new_store

from stillwatch.settings import Settings
from tasks.registry import registered_categories, versions_of
from tasks.tracking import Tracking
from tasks.unfinished_registrations import remove_unfinished


@pytest.fixture
def tracking(settings: Settings) -> Tracking:
    return new_store(settings)


def remaining(tracking: Tracking) -> list[int]:
    return sorted(int(version.version) for version in versions_of(tracking, NAME))


def run_of(tracking: Tracking, version: int) -> str:
    return str(tracking.client.get_model_version(NAME, str(version)).run_id)


def test_the_runs_own_is_removed_and_what_may_still_be_at_work_is_not(tracking: Tracking) -> None:
    finished, own, others = (
        new_version(tracking, **tags) for tags in ({"parity": "equal"}, {}, {})
    )
    remove_unfinished(tracking, NAME, run_of(tracking, own), timedelta(hours=1))
    assert remaining(tracking) == [finished, others]


def test_what_is_too_old_to_be_at_work_is_removed(tracking: Tracking) -> None:
    finished = new_version(tracking, parity="equal")
    new_version(tracking)
    remove_unfinished(tracking, NAME, run_of(tracking, finished), timedelta(0))
    assert remaining(tracking) == [finished]


def test_a_model_without_a_version_is_removed_and_one_with_a_version_stays(
    tracking: Tracking,
) -> None:
    client, experiment = tracking.client, tracking.experiment("plate")
    run_id = tracking.start_run("plate", "stfpm", {})
    kept, left = (
        client.create_logged_model(experiment, name=NAME, source_run_id=run_id) for _ in range(2)
    )
    client.create_registered_model(NAME)
    tags = {"stillwatch.parity": "equal"}
    client.create_model_version(NAME, kept.artifact_location, run_id, tags=tags)
    remove_unfinished(tracking, NAME, run_id, timedelta(hours=1))
    assert [one.model_id for one in client.search_logged_models([experiment])] == [kept.model_id]
    assert left.model_id != kept.model_id


def test_with_its_last_version_the_registered_model_goes(tracking: Tracking) -> None:
    only = new_version(tracking)
    remove_unfinished(tracking, NAME, run_of(tracking, only), timedelta(hours=1))
    assert registered_categories(tracking) == []
