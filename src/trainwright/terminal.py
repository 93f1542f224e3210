"""What is drawn on a terminal, with rich: bars at its lower end, and cards."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDEST = 100
_BAR = 30
_AVERAGED = 300  # seconds over which the time left is judged


class Bars(Progress):
    """Bars with a few lines above them, which are drawn anew in place; what is printed meanwhile stands above both.

    Attributes:
        above: the lines.
    """

    def __init__(self, stream: TextIO, transient: bool = False) -> None:
        self.above: list[str] = []
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(_BAR),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=stream),
            refresh_per_second=4,
            speed_estimate_period=_AVERAGED,
            transient=transient,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    @property
    def width(self) -> int:
        """Characters of a line, at most `WIDEST`."""
        return min(self.console.width, WIDEST)

    def say(self, line: str, style: str = "") -> None:
        """Write a line above the bars, as it is."""
        self.console.print(Text(line, style=style), soft_wrap=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the lines and the bars."""
        if self.above:
            yield Text("\n".join(self.above), no_wrap=True, style="cyan")
        yield from super().get_renderables()


def draw_card(stream: Any, title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Write facts with a frame around them: in each line a name and what it is."""
    console = Console(file=stream, highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, Text(text))
    console.print(Panel(table, title=Text(title), title_align="left", width=min(console.width, WIDEST)))
