"""The commit message of a version: what changed, counted per category."""

from collections import Counter
from collections.abc import Mapping

_SIGNS = {"added": "+", "changed": "~", "removed": "-"}
_CATEGORIES_IN_SUBJECT = 4


def version_message(
    before: Mapping[str, str] | None, now: Mapping[str, str], *, dir_hash: str
) -> str:
    """Subject and body, e.g. ``data: plate +3 ~1 -2, cloth +132``.

    Args:
        before: path -> md5 of the previous version; None where its file list is not at hand.
        now: path -> md5, the first folder of a path being its category.
        dir_hash: DVC's hash of the whole, for the body.
    """
    if before is None:
        subject = _counted(Counter(path.split("/", 1)[0] for path in now))
        body = ["The previous version's file list is not at hand, so changes are not counted."]
    else:
        changes = _changes(before, now)
        subject = _subject(changes)
        body = [
            f"{name}: {', '.join(f'{found[kind]} {kind}' for kind in _SIGNS if found[kind])}"
            for name, found in changes.items()
        ]
    return "\n".join([f"data: {subject}", "", *body, f"DVC: {dir_hash}"])


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, Counter[str]]:
    changes: dict[str, Counter[str]] = {}
    for path in sorted({*before, *now}):
        if before.get(path) == now.get(path):
            continue
        kind = "added" if path not in before else "changed" if path in now else "removed"
        changes.setdefault(path.split("/", 1)[0], Counter())[kind] += 1
    return changes


def _subject(changes: Mapping[str, Counter[str]]) -> str:
    if not changes:
        return "split file"
    if len(changes) <= _CATEGORIES_IN_SUBJECT:
        return ", ".join(f"{name} {_signed(found)}" for name, found in changes.items())
    return f"{len(changes)} categories, {_signed(sum(changes.values(), Counter()))}"


def _signed(found: Counter[str]) -> str:
    return " ".join(f"{sign}{found[kind]}" for kind, sign in _SIGNS.items() if found[kind])


def _counted(files: Counter[str]) -> str:
    if len(files) <= _CATEGORIES_IN_SUBJECT:
        return ", ".join(f"{name} {count} files" for name, count in files.items())
    return f"{len(files)} categories, {files.total()} files"
