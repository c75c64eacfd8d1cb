"""The flow ``watch``: test the scores of the champions for drift, and announce alarms."""

import io
from collections.abc import Callable, Iterable

import pandas as pd
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from stillwatch.errors import StillwatchError, TrackingError
from stillwatch.flows.events import emit_and_confirm
from stillwatch.flows.run_settings import run_settings
from stillwatch.inference.score_log import open_score_log
from stillwatch.settings import DriftSettings, Settings
from stillwatch.tasks import drift
from stillwatch.tasks.drift import WatchedStream, is_announced, remember_announced
from stillwatch.tasks.html import data_uri
from stillwatch.tasks.libraries.artifact_keys import artifact_key
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.registry.versions import champions, model_name
from stillwatch.tasks.tracking.client import Tracking, open_tracking

DETECTED = "stillwatch.drift.detected"
"""The event that the scores of a champion have drifted; its payload names the category and the
artifact with the picture."""
ON_ALARM = "stillwatch.on_alarm"
"""Label of the event's resource, which automations match: ``drift.on_alarm`` of the category."""

ScoreReader = Callable[[str, int], pd.DataFrame]
"""(category, version) to all its rows of the score log, in the order of inspection."""

_ADVICE = {
    "ask": (
        "If the line is as it should be, put images of good parts as they look now into the inbox "
        "(`{category}/good`): the category is then retrained. Otherwise repair the line."
    ),
    "retrain": (
        "The category is being retrained (`drift.on_alarm: retrain`). Where no image has come in "
        "since the last time, that changes nothing: put images of good parts as they look now "
        "into the inbox (`{category}/good`)."
    ),
}


@flow(name="watch", flow_run_name="watch")
def watch() -> State[None]:
    """Test the scores of every champion for drift, and announce an alarm once."""
    settings = run_settings()
    with open_score_log(settings) as log:
        return watch_champions(settings, log.read_scores)


def watched_streams(
    settings: Settings, category: str | None, read_scores: ScoreReader
) -> list[WatchedStream]:
    """The champions' streams of scores as they are now; announces no alarm, and needs no flow.

    Args:
        category: whose champion; None: all of them.

    Raises:
        TrackingError: the category has no champion.
        BundleError: a champion's bundle is damaged.
    """
    tracking = open_tracking(settings)
    found = champions(tracking)
    if category is not None and category not in found:
        raise TrackingError(
            f"{category} has no champion to watch yet. 'stillwatch models' shows what is "
            "registered."
        )
    chosen = found if category is None else {category: found[category]}
    return [
        drift.watch_stream(
            tracking, name, version, read_scores(name, version), settings.for_category(name).drift
        )
        for name, version in chosen.items()
    ]


def watch_champions(settings: Settings, read_scores: ScoreReader) -> State[None]:
    """Test every champion's stream and announce new alarms; the body of the flow.

    Categories are independent: a category whose stream cannot be tested stops no other. The state
    is then Failed, with a sentence for each such category.
    """
    tracking = open_tracking(settings)
    streams, failures = [], []
    for category, version in champions(tracking).items():
        try:
            own = settings.for_category(category)
            rows = read_scores(category, version)
            stream = drift.watch(tracking, category, version, rows, own.drift)
            _announce_once(tracking, stream, own)
        except StillwatchError as error:
            failures.append(f"{category}: {error}")
        else:
            streams.append(stream)
    create_table_artifact(
        table=_rows(streams), key="drift", description="The champions' streams of scores"
    )
    if failures:
        return Failed(message=" ".join(failures))
    drifted = [stream.title for stream in streams if stream.alarm]
    return Completed(message=f"{len(streams)} watched; drifted: {'; '.join(drifted) or 'none'}")


def _announce_once(tracking: Tracking, stream: WatchedStream, settings: Settings) -> None:
    if stream.alarm is None:
        return
    with exclusive(settings, f"drift-{stream.category}", "announcing drift"):
        if is_announced(tracking, stream.category, stream.version):
            return
        _announce(stream, settings.drift)
        # After a crash here the alarm is announced twice, which is better than never.
        remember_announced(tracking, stream)


def _announce(stream: WatchedStream, settings: DriftSettings) -> None:
    advice = _ADVICE[settings.on_alarm].format(category=stream.category)
    get_run_logger().warning("%s. %s", stream.sentence, advice)
    key = artifact_key("drift", stream.category)
    artifact_id = create_markdown_artifact(
        markdown=_page(stream, advice), key=key, description=stream.sentence
    )
    emit_and_confirm(
        DETECTED,
        resource={
            "prefect.resource.id": f"{model_name(stream.category)}.{stream.version}",
            ON_ALARM: settings.on_alarm,
        },
        payload={
            "categories": [stream.category],
            "sentence": stream.sentence,
            "artifact": {"key": key, "id": str(artifact_id)},
            **{
                key: stream.as_dict()[key]
                for key in ("version", "images", "alarm", "appearance_notes")
            },
        },
    )


def _page(stream: WatchedStream, advice: str) -> str:
    return "\n\n".join(
        [
            f"# {stream.sentence}",
            *stream.appearance_notes,
            advice,
            f"![Scores and capital of {stream.title}]({_picture(stream)})",
            "An alarm says that the scores changed, not that the parts are bad.",
        ]
    )


def _picture(stream: WatchedStream) -> str:
    from stillwatch.pictures import drift_chart

    figure = drift_chart(stream.scores, stream.calibration, stream.tests, title=stream.title)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    return data_uri(encoded.getvalue(), "image/png")


def _rows(streams: Iterable[WatchedStream]) -> list[dict[str, str]]:
    return [
        {
            "category": stream.category,
            "version": str(stream.version),
            "images": str(stream.scores.size),
            "alarm": stream.sentence if stream.alarm else "",
            "appearance": " ".join(stream.appearance_notes),
        }
        for stream in streams
    ]
