"""Live table of all members, which a launcher shows while a population trains.

    with progress.Progress(frames_per_step=4) as shown:
        while training:
            shown.tick(store)               # as often as you like

On a terminal, the table is redrawn every few seconds. If it does not fit, it shows the best members
and says how many more there are. Elsewhere (a file, a pipe, a batch system), one plain line is
printed per minute. Progress only reads the store, and never disturbs the caller. If the output is
gone (`| head`, a closed terminal), it falls silent.
"""

import collections
import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import IO, Self

import rich.box
import rich.console
import rich.live
import rich.table
import rich.text

from experiments.analysis import units, wording
from pbt import records, run, verdict
from pbt import store as stores
from pbt.records import Event, Member

REFRESH_S = 2.0
PLAIN_S = 60.0
_RATE_S = 300.0
"""Seconds over which steps per second are averaged."""
_OTHER_LINES = 8
"""Lines of the terminal besides the rows: summary, headings, rules, rest, cursor."""


class _Console(rich.console.Console):
    """A console that does not end the process when its pipe is closed."""

    def on_broken_pipe(self) -> None:
        """Fall silent. The interpreter's last flush would fail too."""
        _silence(self)


class Progress:
    """A live table, or a line per minute. Use it as a context manager.

    Args:
        frames_per_step: Emulator frames of one agent step. None for environments without frames.
        stream: Where to write; default: standard output.
        console: Console to use in place of a new one for `stream`.
        refresh_s: Shortest time in seconds between two drawings of the table.
        plain_s: Time in seconds between two lines where there is no terminal.
    """

    def __init__(
        self,
        frames_per_step: int | None = None,
        stream: IO[str] | None = None,
        console: rich.console.Console | None = None,
        refresh_s: float = REFRESH_S,
        plain_s: float = PLAIN_S,
    ) -> None:
        self._frames_per_step = frames_per_step
        self._console = console or _Console(file=stream, highlight=False)
        self._interval_s = refresh_s if self._console.is_terminal else plain_s
        self._live: rich.live.Live | None = None
        self._shown_s = self._looked_s = -math.inf  # monotonic
        self._silent = False
        self._store: stores.Store | None = None  # shown once more at the end
        self._rate = _Rate()
        self._event_id = 0
        self._copies: dict[int, Event] = {}
        self._copy_count = 0
        self._begun_s: float | None = None  # by the store's clock
        self._crashes: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._store is not None:
            self.tick(self._store, force=True)
        live, self._live = self._live, None
        if live is not None:
            self._write(live.stop)

    def tick(self, store: stores.Store, force: bool = False) -> None:
        """Show the state of the run if it is time to. Never raise.

        Args:
            store: The run's store.
            force: Show it now.
        """
        now_s = time.monotonic()
        is_due = force or now_s - self._shown_s >= self._interval_s
        if self._silent or not (is_due or now_s - self._looked_s >= REFRESH_S):
            return
        self._looked_s = now_s
        if is_due:
            self._shown_s = now_s
        self._store = store
        try:
            events = store.events(self._event_id, damaged=[])
            clock_s = store.now()
            members = store.members() if is_due else []
        except stores.StoreError:
            return  # busy: the next tick will do
        self._follow(events)
        self._say_crashes(store, events, clock_s)
        if not is_due:
            return
        self._rate.add(now_s, sum(member.agent_steps for member in members))
        config = store.config
        if self._console.is_terminal:
            self._write(lambda: self._draw(self.table(config, members, clock_s)))
        else:
            line = f"{time.strftime('%H:%M:%S')} {', '.join(self.summary(config, members))}"
            self._write(lambda: self._console.print(line, soft_wrap=True, markup=False))

    def summary(self, config: run.RunConfig, members: Sequence[Member]) -> list[str]:
        """Describe the run in a few phrases."""
        done = sum(member.agent_steps for member in members)
        total = config.population * config.total_steps
        trained = f"{wording.steps(done)} of {wording.steps(total)} {units.of(config).steps}"
        parts = [f"{trained} ({done / total:.0%})"]
        rate = self._rate.per_second(self._shown_s)
        at_work = sum(member.owner is not None for member in members)
        if rate is None and done < total:
            waited = wording.duration(self._rate.waited_s(self._shown_s))
            words, count = units.of(config), config.report_interval
            interval = f"{wording.steps(count)} {words.step if count == 1 else words.steps}"
            parts.append(f"first report after {interval} of a member, {waited} so far")
        if rate is not None:
            digits = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            parts.append(f"{digits} {units.of(config).steps}/s")
            if self._frames_per_step is not None:
                parts.append(f"{rate * self._frames_per_step:,.0f} frames/s")
        going_on = [m for m in members if records.may_go_on(m, config)]
        left = sum(config.total_steps - m.agent_steps for m in going_on)
        # Before each worker has reported once, the rate is that of the fastest one alone.
        if rate and left and self._rate.steps() > at_work * config.report_interval:
            parts.append(f"{wording.duration(left / rate)} left")
        best = max((m for m in members if m.score is not None), key=_score, default=None)
        if best is not None:
            score = units.heading(units.of(config))
            parts.append(f"best {score} {best.score:.4g} (member {best.id})")
        parts.append(wording.counted(self._copy_count, "copy", "copies"))
        for state in ("finished", "diverged", "failed", "lost"):
            if count := sum(member.state == state for member in members):
                parts.append(f"{count} {state}")
        return parts

    def table(
        self, config: run.RunConfig, members: Sequence[Member], clock_s: float
    ) -> rich.console.RenderableType:
        """Return a table of all members, or of as many of the best as fit the console.

        Args:
            config: The run's settings.
            members: All members.
            clock_s: The store's time in Unix seconds.
        """
        names = list(config.space.adapt)
        room = max(1, self._console.size.height - _OTHER_LINES)
        shown = list(members)
        if len(shown) > room:
            shown.sort(key=lambda m: (-_score(m), m.id))
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("\nmember", justify="right")
        words = units.of(config)
        table.add_column(_two_lines(words.steps), justify="right", no_wrap=True)
        table.add_column(_two_lines(units.heading(words)), justify="right", no_wrap=True)
        for name in names:
            table.add_column(_two_lines(name), justify="right", no_wrap=True)
        table.add_column("last copy\nfrom", justify="right", no_wrap=True)
        table.add_column("\nstate", no_wrap=True)
        for member in shown[:room]:
            used = config.space.used(member.hyperparameters)
            table.add_row(
                str(member.id),
                wording.steps(member.agent_steps),
                "-" if member.score is None else f"{member.score:.4g}",
                *(wording.value(used[name]) for name in names),
                self._copied(member, clock_s),
                _state(member, clock_s),
            )
        parts: list[rich.console.RenderableType] = [
            rich.text.Text(" | ".join(self.summary(config, members)), style="bold"),
            table,
        ]
        if len(shown) > room:
            rest = f"the best {room} of {len(shown)}; {len(shown) - room} more"
            parts.append(rich.text.Text(rest, style="dim"))
        return rich.console.Group(*parts)

    def _follow(self, events: Sequence[Event]) -> None:
        for event in events:
            self._event_id = event.id
            if event.kind in ("exploit", "reseed"):
                self._copies[event.member] = event
                self._copy_count += 1

    def _say_crashes(self, store: stores.Store, events: Sequence[Event], clock_s: float) -> None:
        """Print each kind of crash once, as soon as it happens. The run goes on for a while."""
        if self._begun_s is None:
            self._begun_s = clock_s
        for event in events:
            if event.kind == "crashed" and event.created_s >= self._begun_s:
                error = str(event.details.get("error", ""))
                what = verdict.last_words(error)
                if what not in self._crashes:
                    self._crashes.add(what)
                    line = f"member {event.member} crashed: {verdict.described(store, error)}"
                    self._write(
                        functools.partial(self._console.print, line, soft_wrap=True, markup=False)
                    )

    def _copied(self, member: Member, clock_s: float) -> str:
        event = self._copies.get(member.id)
        if event is None:
            return "-"
        donor = event.details.get("donor", "?")
        return f"{donor}, {wording.duration(max(0.0, clock_s - event.created_s))} ago"

    def _draw(self, table: rich.console.RenderableType) -> None:
        if self._live is None:
            self._live = rich.live.Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(table, refresh=True)

    def _write(self, action: Callable[[], None]) -> None:
        """Write to the console. If the output is gone, fall silent for good."""
        try:
            action()
            self._silent = self._console.quiet
        except (OSError, ValueError):  # Python raises ValueError for a closed file
            self._silent = True
            _silence(self._console)
            live, self._live = self._live, None
            if live is not None:
                live.stop()  # restores sys.stdout and sys.stderr


def _silence(console: rich.console.Console) -> None:
    """Redirect the console to nowhere, with what is still in its buffer."""
    console.quiet = True
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, console.file.fileno())
        os.close(null)


class _Rate:
    """Steps per second over the last minutes.

    Steps arrive in whole slices, so only moments at which the total changed are compared.
    """

    def __init__(self) -> None:
        self._changes: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now_s: float, steps: int) -> None:
        if self._changes and self._changes[-1][1] == steps:
            return
        if self._changes and steps < self._changes[-1][1]:
            self._changes.clear()  # a restore took steps back
        self._changes.append((now_s, steps))
        while len(self._changes) > 2 and self._changes[1][0] < now_s - _RATE_S:
            self._changes.popleft()

    def waited_s(self, now_s: float) -> float:
        """Return the seconds since the total last changed, or since the first look."""
        return now_s - self._changes[-1][0] if self._changes else 0.0

    def steps(self) -> int:
        """Return the steps from which the rate is known."""
        return self._changes[-1][1] - self._changes[0][1] if self._changes else 0

    def per_second(self, now_s: float) -> float | None:
        """Return the rate, or None until something was trained."""
        if len(self._changes) < 2:
            return None
        (first_s, first), (last_s, last) = self._changes[0], self._changes[-1]
        # No change for long lowers the rate.
        return (last - first) / max(last_s - first_s, now_s - PLAIN_S - first_s, 1e-3)


def _score(member: Member) -> float:
    """Return the score, by which reports and pages order members too; without one the least."""
    return -math.inf if member.score is None else member.score


def _state(member: Member, clock_s: float) -> str:
    if member.state == "active":
        held = member.owner is not None and (member.lease_expires_s or 0.0) > clock_s
        return "training" if held else "waiting"
    return str(member.state)


def _two_lines(name: str) -> str:
    """Break a heading before its last word."""
    words = name.replace("_", " ").split(" ")
    return "\n".join((" ".join(words[:-1]), words[-1]))
