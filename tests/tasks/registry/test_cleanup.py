"""Deletion of what interrupted registrations left in the registry."""

from datetime import timedelta

import pytest
from made_registries import NAME, new_version
from made_stores import new_store

from stillwatch.settings import Settings
from stillwatch.tasks.registry.cleanup import LAST_TAG, remove_unfinished
from stillwatch.tasks.registry.versions import registered_categories, versions_of
from stillwatch.tasks.tracking.client import Tracking


@pytest.fixture
def tracking(settings: Settings) -> Tracking:
    return new_store(settings)


def remaining(tracking: Tracking) -> list[int]:
    return sorted(int(version.version) for version in versions_of(tracking, NAME))


def finish(tracking: Tracking, version: int) -> None:
    tracking.client.set_model_version_tag(NAME, str(version), LAST_TAG, "0")


def run_of(tracking: Tracking, version: int) -> str:
    return str(tracking.client.get_model_version(NAME, str(version)).run_id)


def test_a_run_deletes_its_own_unfinished_version_and_not_recent_ones_of_others(
    tracking: Tracking,
) -> None:
    finished, own, others = (new_version(tracking) for _ in range(3))
    finish(tracking, finished)
    remove_unfinished(tracking, NAME, run_of(tracking, own), timedelta(hours=1))
    assert remaining(tracking) == [finished, others]


def test_an_old_unfinished_version_is_deleted(tracking: Tracking) -> None:
    finished = new_version(tracking)
    finish(tracking, finished)
    new_version(tracking)
    remove_unfinished(tracking, NAME, run_of(tracking, finished), timedelta(0))
    assert remaining(tracking) == [finished]


@pytest.mark.parametrize("sign", ["alias", "tag"])
def test_a_champion_without_the_last_tag_of_its_registration_is_kept(
    tracking: Tracking, sign: str
) -> None:
    champion, abandoned = new_version(tracking), new_version(tracking)
    if sign == "alias":
        tracking.client.set_registered_model_alias(NAME, "champion", str(champion))
    else:
        since = ("stillwatch.champion_since", "2026-11-22T10:00:00+00:00")
        tracking.client.set_model_version_tag(NAME, str(champion), *since)
    remove_unfinished(tracking, NAME, run_of(tracking, abandoned), timedelta(0))
    assert remaining(tracking) == [champion]


def test_a_logged_model_without_a_version_is_deleted(
    tracking: Tracking,
) -> None:
    client, experiment = tracking.client, tracking.experiment("plate")
    run_id = tracking.start_run("plate", "stfpm", {})
    kept, left = (
        client.create_logged_model(experiment, name=NAME, source_run_id=run_id) for _ in range(2)
    )
    client.create_registered_model(NAME)
    tags = {LAST_TAG: "0"}
    client.create_model_version(NAME, kept.artifact_location, run_id, tags=tags)
    remove_unfinished(tracking, NAME, run_id, timedelta(hours=1))
    assert [one.model_id for one in client.search_logged_models([experiment])] == [kept.model_id]
    assert left.model_id != kept.model_id


def test_a_registered_model_without_versions_is_deleted(tracking: Tracking) -> None:
    only = new_version(tracking)
    remove_unfinished(tracking, NAME, run_of(tracking, only), timedelta(hours=1))
    assert registered_categories(tracking) == []
