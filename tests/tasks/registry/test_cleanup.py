"""What registrations that were cut off leave: the dead are removed, the living are left alone."""

from datetime import timedelta

import pytest
from made_registries import NAME, made_record, new_version
from made_stores import new_store

from stillwatch.settings import Settings
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.registry.cleanup import remove_unfinished
from stillwatch.tasks.registry.versions import registered_categories, versions_of
from stillwatch.tasks.tracking.client import Tracking


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


@pytest.mark.parametrize("sign", ["alias", "tag"])
def test_what_is_in_production_stays_though_its_tag_is_gone(tracking: Tracking, sign: str) -> None:
    champion, abandoned = new_version(tracking), new_version(tracking)
    if sign == "alias":
        tracking.client.set_registered_model_alias(NAME, "champion", str(champion))
    else:
        since = ("stillwatch.champion_since", "2026-11-22T10:00:00+00:00")
        tracking.client.set_model_version_tag(NAME, str(champion), *since)
    remove_unfinished(tracking, NAME, run_of(tracking, abandoned), timedelta(0))
    assert remaining(tracking) == [champion]


def test_what_was_champion_stays_though_its_tags_and_its_alias_are_gone(
    tracking: Tracking, settings: Settings
) -> None:
    first, second, abandoned = (new_version(tracking) for _ in range(3))
    with changing_champion(tracking, "plate", settings):
        move_champion(tracking, made_record(first, None))
        move_champion(tracking, made_record(second, first))
    for version in (first, second):
        tracking.client.delete_model_version_tag(NAME, str(version), "stillwatch.champion_since")
    for alias in ("champion", "previous"):
        tracking.client.delete_registered_model_alias(NAME, alias)
    remove_unfinished(tracking, NAME, run_of(tracking, abandoned), timedelta(0))
    assert remaining(tracking) == [first, second]


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
