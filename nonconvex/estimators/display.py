"""Objects as a person reads them: on one line, and as tables of text and of HTML."""

from __future__ import annotations

import html
import json
import re
import reprlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Self, cast

# What XML has no place for, and what a terminal obeys; some of them turn the direction of a text.
_ILLEGIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def one_line(name: str, facts: Mapping[str, Any]) -> str:
    """Return ``Name(key=value, …)``, with floats to six digits and long values shortened."""
    shown = (
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={_SHORT.repr(value)}"
        for key, value in facts.items()
    )
    return f"{name}({', '.join(shown)})"


def legible(text: str) -> str:
    r"""Return a text with U+FFFD for each character that a page or a terminal should not get.

    >>> legible("a\x00b \ud800 é \x1b[2J")
    'a�b � é �[2J'
    """
    return _ILLEGIBLE.sub("\ufffd", text)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows under a header, each a `legible` line: the first column left, the others right.

    Examples
    --------
    >>> print(text_table(["", "RMSE"], [["model", "1.52"], ["user mean", "10.73"]]))
                RMSE
    model       1.52
    user mean  10.73
    """
    lines = [[legible(" ".join(cell.splitlines())) for cell in line] for line in (header, *rows)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip()
        for line in lines
    )


def html_table(heading: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a heading and a table as HTML, for a notebook."""
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = (
        "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in line) for tag, line in lines
    )
    return (
        f"<p>{html.escape(heading)}</p><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
    )


def lacking(*packages: str) -> str:
    """Say which of these packages of the extra "report" are not there, and the remedy; or ''."""
    missing = [name for name in packages if find_spec(name) is None]
    be = "are" if missing[1:] else "is"
    advice = f"{' and '.join(missing)} {be} not installed: pip install 'nonconvex[report]'"
    return advice if missing else ""


class Summary:
    """Base of the summaries of fits: `repr` is one line, `print` a table of the restarts."""

    best: int
    restarts: list[Any]
    _restart_type: ClassVar[type]

    @property
    def objective(self) -> float:
        """The value f of the model."""
        return float(self.restarts[self.best].objective)

    @property
    def objectiveHistory(self) -> list[float]:
        """The course of f in the restart that the model is from.

        Of factors it is f after every half-step, of networks the mean over the minibatches of each
        epoch, before their steps.
        """
        return [step["objective"] for step in self.restarts[self.best].history]

    def to_json(self) -> str:
        """Return the summary as JSON that `from_json` reads."""
        return json.dumps(asdict(cast(Any, self)))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read JSON that `to_json` wrote."""
        values = json.loads(text)
        values["restarts"] = [cls._restart_type(**restart) for restart in values["restarts"]]
        return cls(**values)

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the values that `repr` shows."""

    @abstractmethod
    def _heading(self) -> str:
        """Return the line above the table."""

    @abstractmethod
    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header of the table, and a row for each restart."""

    def _note(self) -> str:
        """Return the line below the table, if any."""
        return ""

    def plot(self, axes: Any = None) -> Any:
        """Draw f by iteration, the best start in bold with its kept iteration as a dot.

        Dashes show the validation error.  Needs matplotlib (``pip install 'nonconvex[report]'``).
        Returns the axes, new ones unless they are given; a notebook shows them.
        """
        if missing := lacking("matplotlib"):
            raise ImportError(f"summary.plot() draws nothing, as {missing}")
        pyplot = import_module("matplotlib.pyplot")  # which nothing else here needs
        if axes is None:
            _, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
            axes.locator_params(axis="x", integer=True)
        best, right = self.restarts[self.best], None
        unit, error = ("epoch", "loss") if hasattr(best, "epoch") else ("iteration", "RMSE")
        others = [start for start in self.restarts if start is not best]
        for start in [*others, best]:
            steps = [step for step in start.history if step.get("side") != "items"]
            ticks = [step[unit] for step in steps]
            style: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.5}
            name = "_" if start in others[1:] else "other starts"  # "_" is not in the legend
            if start is best:
                kept = [at for at, tick in enumerate(ticks) if tick == getattr(start, unit)]
                style = {"linewidth": 2.0, "marker": "o", "markevery": kept}
                name = f"start {start.restart}, the best"
            f = [step["objective"] for step in steps]
            axes.plot(ticks, f, label=name, color="C0", **style)
            held_out = [step.get("validation_rmse", step.get("validation_loss")) for step in steps]
            if any(value is not None for value in held_out):
                right = right or axes.twinx()
                right.plot(ticks, held_out, linestyle="--", color="C1", **style)
        axes.set_xlabel(unit)
        axes.set_ylabel("objective f", color="C0")
        axes.set_title(self._heading().replace(": ", "\n"), fontsize="medium")
        if right is not None:
            right.set_ylabel(f"validation {error} (dashed)", color="C1")
        if others:
            axes.legend()
        return axes

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(type(self).__name__, self.facts())

    def __str__(self) -> str:
        """Return a heading, and a table of the restarts with a star at the best one."""
        return "\n".join(filter(None, [self._heading(), text_table(*self._table()), self._note()]))

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        return html_table(self._heading(), *self._table()) + f"<p>{html.escape(self._note())}</p>"
