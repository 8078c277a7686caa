import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from spiceclust import progress


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_plain_prints_at_most_one_line_in_ten_seconds(time: Clock) -> None:
    out = io.StringIO()
    with progress.Plain(out).task("pretrain", 100) as task:
        for step in range(100):
            time.now += 0.5
            task.advance(note=f"loss {100 - step}")
    assert out.getvalue().splitlines() == [
        "pretrain: 20/100, 0:40 left, loss 81",
        "pretrain: 40/100, 0:30 left, loss 61",
        "pretrain: 60/100, 0:20 left, loss 41",
        "pretrain: 80/100, 0:10 left, loss 21",
        "pretrain: 100/100 in 0:50, loss 1",
    ]


def test_plain_keeps_the_last_note_and_omits_an_absent_one(time: Clock) -> None:
    out = io.StringIO()
    plain = progress.Plain(out)
    with plain.task("embed", 2) as task:
        task.advance(note="loss 3")
        task.advance()
    with plain.task("select", 1) as task:
        task.advance()
    assert out.getvalue().splitlines() == ["embed: 2/2 in 0:00, loss 3", "select: 1/1 in 0:00"]


def test_plain_does_not_call_an_interrupted_task_finished(time: Clock) -> None:
    out = io.StringIO()

    def interrupted() -> None:
        with progress.Plain(out).task("semi", 2) as task:
            task.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.getvalue() == ""


def test_plain_writes_to_standard_error_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    progress.Plain().say("views: glyph")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "views: glyph\n")


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent = progress.Silent()
    silent.say("views: glyph")
    with silent.task("embed", 1) as task:
        task.advance(note="loss 1")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_bars_show_name_count_and_note_on_a_terminal() -> None:
    screen = io.StringIO()
    bars = progress.Bars()
    bars.console = Console(file=screen, force_terminal=True, width=120, color_system=None, highlight=False)
    with bars.task("pretrain", 4) as task:
        task.advance(3, note="loss 1.25")
        bars.say("a line [between] bars")
        task.advance()
    shown = screen.getvalue()
    assert "pretrain" in shown
    assert "4/4" in shown
    assert "loss 1.25" in shown
    assert "a line [between] bars" in shown


@pytest.mark.parametrize(("terminal", "kind"), [(True, progress.Bars), (False, progress.Plain)])
def test_bars_are_for_terminals_only(terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal, write=len, flush=int))
    assert type(progress.for_stderr()) is kind


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (3599.7, "1:00:00"), (3723, "1:02:03")],
)
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text
