"""Which versions can be promoted or rolled back to, without loading a detector."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from made_registries import MISSED, NAME, aliases, judge, made_record, new_version, pending_version
from made_stores import new_store

from stillwatch.errors import BelowFloorsError, PromotionError, StillwatchError, TrackingError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import HOST
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.promotion.history import (
    categories_with_abandoned_intents,
    history,
    log_intent,
)
from stillwatch.tasks.promotion.promote import (
    complete_abandoned_promotions,
    describe_waiting,
    promote,
)
from stillwatch.tasks.promotion.rollback import rollback
from stillwatch.tasks.registry.versions import registered_versions
from stillwatch.tasks.tracking.client import Tracking


@pytest.fixture
def tracking(settings: Settings) -> Tracking:
    return new_store(settings)


def champion(tracking: Tracking, settings: Settings, version: int, before: int | None) -> int:
    with changing_champion(tracking, "plate", settings):
        move_champion(tracking, made_record(version, before))
    return version


@pytest.fixture
def first(tracking: Tracking, settings: Settings) -> int:
    """The champion."""
    return champion(tracking, settings, new_version(tracking), None)


def tag(tracking: Tracking, version: int, **tags: str) -> None:
    for key, value in tags.items():
        tracking.client.set_model_version_tag(NAME, str(version), f"stillwatch.{key}", value)


def tags_of(tracking: Tracking, version: int) -> dict[str, str]:
    return dict(tracking.client.get_model_version(NAME, str(version)).tags)


class TestRefusals:
    def test_an_unknown_category_names_the_nearest(self, settings: Settings, first: int) -> None:
        for call in (promote, rollback):
            with pytest.raises(TrackingError, match=r"'plato' \(did you mean 'plate'"):
                call("plato", reason="because", settings=settings)

    def test_a_registry_without_versions(self, settings: Settings, tracking: Tracking) -> None:
        with pytest.raises(TrackingError, match="nothing is registered yet"):
            promote("plate", reason="because", settings=settings)

    def test_an_unknown_version(self, settings: Settings, first: int) -> None:
        with pytest.raises(TrackingError, match=r"^plate has no version 7\. It has 1\.$"):
            promote("plate", version=7, reason="because", settings=settings)

    def test_an_empty_reason(self, settings: Settings, first: int) -> None:
        with pytest.raises(PromotionError, match=r"^the reason is missing"):
            promote("plate", reason="  ", settings=settings)

    def test_the_champion_itself(self, settings: Settings, first: int) -> None:
        with pytest.raises(PromotionError, match="is the champion already"):
            promote("plate", version=first, reason="because", settings=settings)

    def test_a_version_without_a_judgement(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        with pytest.raises(PromotionError, match="no challenger that waits"):
            promote("plate", reason="because", settings=settings)
        other = new_version(tracking)
        with pytest.raises(PromotionError, match="waits for no approval"):
            promote("plate", version=other, reason="because", settings=settings)
        tag(tracking, other, gate="open (champion then: version 1)", approval="pending")
        with pytest.raises(PromotionError, match=r"judgement\.json of run .* is missing"):
            promote("plate", version=other, reason="because", settings=settings)

    def test_a_version_refused_by_the_gate_also_with_an_overwritten_tag(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        pending_version(tracking, first, answer="worse")
        with pytest.raises(PromotionError, match="the gate refused version 2"):
            promote("plate", reason="because", settings=settings)
        vetoed = pending_version(tracking, first)
        tag(tracking, vetoed, gate="refused (champion then: version 1)", approval="approved")
        with pytest.raises(PromotionError, match="the gate refused version 3"):
            promote("plate", version=vetoed, reason="because", settings=settings)
        tags = tags_of(tracking, vetoed)
        assert tags["stillwatch.approval"] == "refused"
        assert "the gate refused version 3" in tags["stillwatch.not_promoted"]
        assert aliases(tracking)["champion"] == first

    def test_a_version_compared_with_a_former_champion(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        stale = pending_version(tracking, first)
        champion(tracking, settings, new_version(tracking), first)
        with pytest.raises(PromotionError, match=r"the champion now: version 3\)"):
            promote("plate", version=stale, reason="because", settings=settings)
        with pytest.raises(PromotionError, match="when the champion was another one"):
            promote("plate", version=stale, reason="r", settings=settings, check=False)

    def test_a_former_champion_needs_a_rollback(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        champion(tracking, settings, new_version(tracking), first)
        with pytest.raises(PromotionError, match="stillwatch rollback plate --version 1"):
            promote("plate", version=first, reason="because", settings=settings)

    def test_a_rollback_without_a_previous_champion(self, settings: Settings, first: int) -> None:
        with pytest.raises(PromotionError, match="no previous champion to go back to"):
            rollback("plate", reason="because", settings=settings)

    def test_a_rollback_if_previous_names_the_champion(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        tracking.client.set_registered_model_alias(NAME, "previous", str(first))
        with pytest.raises(PromotionError, match=r"previous of stillwatch-plate names version 1"):
            rollback("plate", reason="because", settings=settings)

    def test_a_rollback_to_the_champion_or_to_a_version_that_never_was_champion(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        waiting = pending_version(tracking, first)
        tag(tracking, waiting, champion_since="2026-11-22T10:00:00+00:00")
        with pytest.raises(PromotionError, match="never was champion"):
            rollback("plate", version=waiting, reason="because", settings=settings)
        with pytest.raises(PromotionError, match="is the champion already"):
            rollback("plate", version=first, reason="because", settings=settings)

    def test_a_version_that_cannot_be_read_keeps_its_approval_for_the_next_time(
        self, settings: Settings, tracking: Tracking, first: int
    ) -> None:
        waiting = pending_version(tracking, first)
        tag(tracking, waiting, approval="approved")
        with pytest.raises(TrackingError, match="could not download models:/stillwatch-plate/2"):
            promote("plate", version=waiting, reason="because", settings=settings)
        assert tags_of(tracking, waiting)["stillwatch.approval"] == "approved"
        assert aliases(tracking) == {"champion": first, "previous": None, "challenger": waiting}
        assert len(history(tracking, "plate")) == 1


def test_a_waiting_version_is_listed_and_described_with_its_comparison(
    settings: Settings, tracking: Tracking, first: int
) -> None:
    waiting = pending_version(tracking, first, answer="not_worse")
    tag(tracking, waiting, not_promoted="the gate's answer is not_worse")
    approvals = {one.version: one.approval for one in registered_versions(tracking)}
    assert approvals == {first: None, waiting: "pending"}
    said = describe_waiting("plate", version=None, settings=settings)
    assert "version 2 of stillwatch-plate waits for approval" in said
    assert "On the test images it finds 2 of 20 defects (5 go to review, 13 pass unseen)" in said
    assert "not_worse: by far." in said
    assert "--approve" in said


def test_what_was_against_a_version_is_past_once_it_was_champion(
    settings: Settings, tracking: Tracking, first: int
) -> None:
    waiting = pending_version(tracking, first)
    tag(tracking, waiting, not_promoted="gate.promotion asks for a person's approval")

    def against() -> str:
        return next(
            one for one in registered_versions(tracking) if one.version == waiting
        ).not_promoted

    assert against() == "gate.promotion asks for a person's approval"
    champion(tracking, settings, waiting, first)
    assert against() == ""
    assert "stillwatch.not_promoted" not in tags_of(tracking, waiting)
    champion(tracking, settings, first, waiting)
    assert against() == ""


def test_a_version_that_misses_a_floor_needs_a_second_reason(
    settings: Settings, tracking: Tracking, first: int
) -> None:
    waiting = pending_version(tracking, first)
    judge(tracking, waiting, first, missed=MISSED)
    said = describe_waiting("plate", version=None, settings=settings)
    assert f"--despite says why, although {MISSED}." in said
    refusal = r"misses what a champion has to reach: it finds 2 of 20 .* --despite 'reason'"
    with pytest.raises(BelowFloorsError, match=refusal):
        promote("plate", reason="because", despite=" ", settings=settings)
    with pytest.raises(TrackingError, match="could not download"):  # the next check
        promote("plate", reason="because", despite="a trial", settings=settings)
    tag(tracking, waiting, approval="approved")
    with pytest.raises(BelowFloorsError):
        promote("plate", version=waiting, reason="by a tag", settings=settings)
    tags = tags_of(tracking, waiting)
    assert tags["stillwatch.approval"] == "pending", "another approval may give the reason"
    assert "the tag stillwatch.despite" in tags["stillwatch.not_promoted"]


def test_abandoned_intents_are_found_in_all_categories(
    settings: Settings, tracking: Tracking, first: int
) -> None:
    assert categories_with_abandoned_intents(tracking) == []
    tracking.start_run("washer", "a training", {})
    intents = {
        category: log_intent(
            tracking, made_record(first, None).model_copy(update={"category": category})
        )
        for category in ("bolt", "gear", "screw", "pin", "nut")
    }
    tracking.end_run(intents["gear"], "FINISHED")
    tracking.fail_run(intents["pin"], "for a test")
    tracking.end_run(intents["screw"], "KILLED")
    for run in intents.values():
        tracking.client.delete_tag(run, "stillwatch.kind")
    tracking.client.set_tag(intents["nut"], HOST, "another machine, which may work on it")
    assert categories_with_abandoned_intents(tracking) == ["bolt", "screw"]


def test_an_abandoned_promotion_is_completed_without_any_approval(
    settings: Settings, tracking: Tracking, first: int
) -> None:
    second = new_version(tracking)
    log_intent(tracking, made_record(second, first))
    complete_abandoned_promotions(tracking, settings)
    assert aliases(tracking) == {"champion": second, "previous": first, "challenger": None}


def test_of_two_promotions_at_once_one_succeeds(
    settings: Settings, tracking: Tracking, first: int
) -> None:
    waiting = [pending_version(tracking, first) for _ in range(2)]

    def attempt(version: int) -> StillwatchError | None:
        try:
            promote("plate", version=version, reason="r", settings=settings, check=False)
        except StillwatchError as error:
            return error
        return None

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(attempt, waiting * 2))
    assert sum(error is None for error in ended) == 1
    assert all(isinstance(error, PromotionError) for error in ended if error is not None)
    newest = history(tracking, "plate")[0].record
    assert aliases(tracking)["champion"] == newest.to_version
    assert aliases(tracking)["previous"] == first
    assert len(history(tracking, "plate")) == 2
