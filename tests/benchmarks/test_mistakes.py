"""What counts as a good answer to a mistake."""

import pytest
from benchmarks.mistakes import Answer, Mistake, mistakes, render

MISTAKE = Mistake("a typo in a command", "retrian")
SENTENCE = "stillwatch: no such command."


@pytest.mark.parametrize(
    ("code", "said", "cpu_seconds", "problems"),
    [
        (1, SENTENCE, 0.3, []),
        (0, SENTENCE, 0.3, ["exit code 0"]),
        (-9, SENTENCE, 0.3, ["exit code -9"]),
        (1, "", 0.3, ["not one sentence"]),
        (1, f"Traceback\n{SENTENCE}", 2.5, ["not one sentence", "a traceback", "2.5 CPU seconds"]),
    ],
)
def test_an_answer_is_one_sentence_at_once(
    code: int, said: str, cpu_seconds: float, problems: list[str]
) -> None:
    assert [*Answer(MISTAKE, code, said, cpu_seconds).problems] == problems


def test_what_is_in_the_registry_may_take_as_long_as_the_registry() -> None:
    assert [*Answer(MISTAKE, 1, SENTENCE, 3.0, allowed_seconds=4.2).problems] == []


def test_the_page_has_a_row_for_each_mistake() -> None:
    made = mistakes(8400)
    assert len({one.command for one in made if not one.environment}) >= 20
    page = render([Answer(one, 1, "stillwatch: a | b", 0.3) for one in made], 2.2)
    row = "| a typo in a command | `retrian` | a \\| b | 1 | 0.3 |"
    assert row in page.splitlines()
