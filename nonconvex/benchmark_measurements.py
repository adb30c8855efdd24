"""What a benchmark measures: numbers of contenders at the same work, and their ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar

__all__ = ["Clock", "Measurement", "Ratio", "interleaved", "per_step", "ratios"]

ContenderT = TypeVar("ContenderT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Measurement:
    """One work of one contender, measured several times.

    Parameters
    ----------
    section : {"factorization", "network"}
    subject : str
        What the work is on, such as ``rank 10``.
    work : str
        Such as ``iteration``.
    contender : str
    unit : str
        Such as ``s``; empty for a number without one.
    better : {"less", "more"}
    values : tuple of (float or None)
        One of each repeat; None where the contender did not get there.

    Examples
    --------
    >>> one = Measurement("factorization", "rank 10", "load", "a", "s", "less", (3.0, 1.0, 2.0))
    >>> one.median
    2.0
    """

    section: str
    subject: str
    work: str
    contender: str
    unit: str
    better: Literal["less", "more"]
    values: tuple[float | None, ...]

    @property
    def median(self) -> float | None:
        """The middle of the values; None if one is None."""
        known = [value for value in self.values if value is not None]
        return median(known) if known and len(known) == len(self.values) else None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the median, as JSON can hold them."""
        return {**asdict(self), "values": list(self.values), "median": self.median}


class Ratio(NamedTuple):
    """How many times better the first contender is than a peer: below 1, it is worse.

    Attributes
    ----------
    section, subject, work : str
        As of the measurements.
    peer : str
        The other contender.
    value : float or None
        Peer's median over ours where less is better, and ours over the peer's where more is;
        None if either is not known.
    """

    section: str
    subject: str
    work: str
    peer: str
    value: float | None


@dataclass
class Clock:
    """Records what is measured, in the order in which it is first measured.

    Parameters
    ----------
    section : str
        Of all that is recorded.
    now : callable
        Returns the time in seconds.

    Examples
    --------
    >>> clock = Clock("network", now=iter([1.0, 3.5]).__next__)
    >>> clock.time(lambda: "done")
    ('done', 2.5)
    >>> clock.record("a", "epoch", "ours", 2.5)
    >>> clock.measurements[0].median
    2.5
    """

    section: str
    now: Callable[[], float] = time.perf_counter
    _values: dict[tuple[str, str, str], tuple[str, Any, list[float | None]]] = field(
        default_factory=dict
    )

    def time(self, work: Callable[[], ResultT]) -> tuple[ResultT, float]:
        """Return what `work` returns, and the seconds that it took."""
        started = self.now()
        result = work()
        return result, self.now() - started

    def record(
        self,
        subject: str,
        work: str,
        contender: str,
        value: float | None,
        unit: str = "s",
        better: Literal["less", "more"] = "less",
    ) -> None:
        """Add one value to those of a work of a contender."""
        self._values.setdefault((subject, work, contender), (unit, better, []))[2].append(value)

    @property
    def measurements(self) -> list[Measurement]:
        """All that was recorded."""
        return [
            Measurement(self.section, subject, work, contender, unit, better, tuple(values))
            for (subject, work, contender), (unit, better, values) in self._values.items()
        ]


def interleaved(contenders: Sequence[ContenderT], repeats: int) -> Iterator[ContenderT]:
    """Yield every contender in turn, `repeats` times over, so that all see the same machine.

    Examples
    --------
    >>> list(interleaved(["ours", "peer"], 2))
    ['ours', 'peer', 'ours', 'peer']
    """
    for _ in range(repeats):
        yield from contenders


def per_step(lengths: tuple[int, int], seconds: tuple[float, float]) -> tuple[float, float]:
    """Return what a step takes and what the rest takes, from fits of two lengths.

    A fit of n steps takes a + b n seconds: b is the difference of the two fits over that of their
    lengths, and a is what remains of the longer one.  No contender has to report anything.

    Parameters
    ----------
    lengths : (int, int)
        Numbers of steps, the lesser first.
    seconds : (float, float)
        What the fits took.

    Returns
    -------
    float, float
        b and a.

    Examples
    --------
    >>> per_step((2, 6), (9.0, 11.0))
    (0.5, 8.0)
    """
    slope = (seconds[1] - seconds[0]) / (lengths[1] - lengths[0])
    return slope, seconds[1] - lengths[1] * slope


def ratios(measurements: Sequence[Measurement]) -> list[Ratio]:
    """Return the ratios of the first contender of each work to all others of it.

    Examples
    --------
    >>> both = [
    ...     Measurement("network", "a", "epoch", name, "s", "less", (value,))
    ...     for name, value in {"ours": 2.0, "peer": 3.0}.items()
    ... ]
    >>> [ratio.value for ratio in ratios(both)]
    [1.5]
    """
    first: dict[tuple[str, str, str], Measurement] = {}
    found = []
    for one in measurements:
        ours = first.setdefault((one.section, one.subject, one.work), one)
        if one is not ours:
            value = _ratio(ours.median, one.median, one.better)
            found.append(Ratio(one.section, one.subject, one.work, one.contender, value))
    return found


def _ratio(ours: float | None, peer: float | None, better: str) -> float | None:
    if ours is None or peer is None:
        return None
    above, below = (peer, ours) if better == "less" else (ours, peer)
    return above / below if below > 0 and above > 0 else None
