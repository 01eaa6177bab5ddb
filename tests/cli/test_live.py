"""The line that a terminal shows while a run goes on: what is in it, and that it never exceeds the width."""

import io

import pytest

from mmalign.cli import live
from mmalign.display import Display, Status

FIGURES = {"loss": "0.693", "explained_variance": "0.412", "chosen_reward": "-1.25"}
TRAINING = Status("training", 0, 0, 120, 1000, FIGURES, "31 examples/s", "4 min left")


@pytest.mark.parametrize("width", [1, 12, 20, 40, 60, 79, 109, 159, 400])
@pytest.mark.parametrize(
    "status",
    [
        TRAINING,
        Status("loading"),
        Status("reference pass", 30, 60),
        Status("evaluating", 0, 0, 120, 1000, FIGURES, "31 examples/s", "4 min left"),
        Status("training", 0, 0, 10**9, 10**9, {"a" * 50: "1" * 50}, "r" * 50, "l" * 50),
        Status(),
    ],
)
def test_the_line_never_exceeds_the_width(status: Status, width: int) -> None:
    for seconds in (0.0, 1e6):
        for stopping in (False, True):
            line = live.compose(status, width, seconds, stopping=stopping)
            assert line.cell_len <= width and "\n" not in line.plain


def test_the_most_important_is_kept() -> None:
    def line(width: int) -> str:
        return live.compose(TRAINING, width, 3.0).plain

    assert all(text in line(159) for text in ("training", "120/1,000", "loss 0.693", "chosen reward", "31 examples/s"))
    assert all(text in line(79) for text in ("training", "120/1,000", "loss 0.693", "4 min left", "━"))
    assert "training" in line(40) and "120/1,000" in line(40) and "chosen" not in line(79)
    bar = line(159)
    assert bar.count("━") / (bar.count("━") + bar.count("─")) == pytest.approx(0.12, abs=0.02)
    assert "stopping after this step" in live.compose(TRAINING, 159, 3.0, stopping=True).plain
    assert "7 s" in live.compose(Status("loading"), 79, 7.2).plain


@pytest.mark.parametrize(
    ("environment", "drawn"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"WORLD_SIZE": "2"}, False)],
)
def test_where_a_line_can_be_drawn(environment, drawn, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color"} | environment).items():
        monkeypatch.setenv(name, value)
    assert not live.can_draw(), "pytest's stderr is no terminal"
    monkeypatch.setattr("sys.stderr", Terminal())
    assert live.can_draw() == drawn


def test_a_run_that_begins_shows_nothing_of_the_one_before() -> None:
    shown: list[Status] = []

    class Screen:
        def show(self, status: Status) -> None:
            shown.append(status)

        def heed(self, stopping) -> None:
            assert not stopping()

    display = Display(print, Screen())
    display.heed(lambda: False)
    display.training(60, 60, FIGURES, "1 example/s", "0 s left")
    display.stage("saving")
    assert (shown[-1].stage, shown[-1].step, shown[-1].steps) == ("saving", 60, 60)
    display.begin("loading")
    assert shown[-1] == Status("loading") and display.live


def test_lines_alone_say_nothing_of_stages() -> None:
    lines: list[str] = []
    display = Display(lines.append)
    display.stage("loading")
    display("one line")
    display.training(1, 2, {}, "", "")
    display.heed(lambda: True)
    assert lines == ["one line"] and not display.live
