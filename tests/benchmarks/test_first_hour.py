"""The page about the first hour."""

from benchmarks.first_hour import COMMANDS, Done, problems, render


def test_the_page_has_each_command_with_what_it_printed_and_the_total() -> None:
    done = [Done(command, 0, f"said {command}", 75.0) for command in COMMANDS]
    assert len(COMMANDS) <= 5
    page = render(done, 0.1)
    assert "~/plant$ stillwatch retrain\nsaid retrain\n[75 s]\n" in page
    assert "4 commands, 5.0 minutes" in page
    assert "Not so" not in page


def test_a_command_that_fails_and_more_than_ten_minutes_are_problems() -> None:
    done = [Done("init plant", 0, "", 1.0), Done("retrain", 1, "", 660.0)]
    assert problems(done) == ["retrain: exit code 1", "11.0 minutes, more than 10"]
    assert "**Not so in this run**: retrain: exit code 1; " in render(done, 0.1)
