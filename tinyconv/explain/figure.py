"""A step as a figure: the arrays as grids, left x middle = right, the window framed, the equation below.

Nothing is said by colour alone: what is read has a bold frame, what is made a double one, padding is hatched.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyconv.explain.text import element, number
from tinyconv.geometry import Sizes

if TYPE_CHECKING:  # steps.py offers these functions as methods
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

    from tinyconv.explain.steps import Step, Term, Trace

WIDTH = 7.0  # inches that a page has
_HEIGHT = 9.5  # inches of grids and titles
_SIDE = 16  # cells that are still readable
_CELL, _LEAST_CELL = 0.42, 0.14  # inches
_TITLE, _GAP, _MARGIN, _LINE, _PANEL = 0.36, 0.45, 0.15, 0.17, 0.8  # inches; a panel is at least as wide as a title
_TERMS = 18  # terms written out in the equation
_READ, _MADE, _LINES = "#c9e2f7", "#fbd59b", "#8c8c8c"
_PACE = 2  # steps a second of an animation


def plot(trace: Trace, step: Step, g: Any = None) -> Figure:
    """The step as a matplotlib figure; ``trace.describe(step)`` is its alternative text, and its label."""
    plt = require_matplotlib("plot")
    picture = _Picture(trace, [step], g)
    figure: Figure = plt.figure(figsize=picture.size)
    picture.draw(figure, 0)
    return figure


def animate(trace: Trace, by: str = "output", g: Any = None) -> FuncAnimation:
    """One frame a step; what the steps make appears as they make it."""
    plt = require_matplotlib("animate")
    picture = _Picture(trace, list(trace.steps(by, g)), g, growing=True)
    return _animation(picture, plt.figure(figsize=picture.size))


def save(trace: Trace, path: str | Path, by: str = "output", step: Step | None = None, g: Any = None) -> None:
    """Write the animation (.gif, .mp4), or the figure of ``step``, by default the first (.png, .svg)."""
    require_matplotlib("save")
    from matplotlib import animation
    from matplotlib.figure import Figure

    kind = Path(path).suffix.lower()
    if kind not in (".gif", ".mp4", ".png", ".svg"):
        raise ValueError(f"save: path must end in .gif, .mp4, .png, .svg or .html, but is {str(path)!r}.")
    if kind in (".png", ".svg"):
        picture = _Picture(trace, list(trace.steps(by, g))[:1] if step is None else [step], g)
        figure = Figure(figsize=picture.size)
        picture.draw(figure, 0)
        figure.savefig(path, dpi=200, metadata={"Description": figure.get_label()})
        return
    if kind == ".mp4" and not animation.FFMpegWriter.isAvailable():
        raise RuntimeError("save: a .mp4 needs the program ffmpeg, which is missing. Install it, or save a .gif.")
    writer = (animation.PillowWriter if kind == ".gif" else animation.FFMpegWriter)(fps=_PACE)
    picture = _Picture(trace, list(trace.steps(by, g)), g, growing=True)
    _animation(picture, Figure(figsize=picture.size)).save(path, writer=writer, dpi=100)


def _animation(picture: _Picture, figure: Figure) -> FuncAnimation:
    from matplotlib.animation import FuncAnimation

    def draw(place: int) -> list[Any]:
        figure.clear()
        picture.draw(figure, place)
        return []

    return FuncAnimation(figure, draw, frames=len(picture.steps), init_func=list, interval=1000 / _PACE)


def require_matplotlib(caller: str) -> Any:
    """matplotlib.pyplot; ImportError with the mend where it is missing."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f"{caller}: figures need matplotlib, which is missing: pip install matplotlib.") from error
    return plt


def margins_of(trace: Trace, name: str, by: str = "output") -> list[tuple[int, int]]:
    """(first, last + 1) of the cells of an array on each axis, padding included."""
    g, shape = trace.g, trace.shape(name)
    if name == trace.columns:
        return [(0, shape[1]), (0, shape[2])]
    if name != ("output" if trace.transposed else "input") or by == name == "input":
        return [(0, n) for n in shape[2:]]  # padding has no gradient that anybody is given
    ends = [g.input_index(axis, o - 1, k - 1) + 1 for axis, (o, k) in enumerate(zip(g.output, g.kernel))]
    return [(-before, max(n + after, end)) for n, (before, after), end in zip(g.size, g.padding, ends)]


# --------------------------------------------------------------------------------------------------
# The picture


class _Picture:
    """The grids of some steps of a trace, all by the same, laid out in inches so that every step fits."""

    def __init__(self, trace: Trace, steps: Sequence[Step], g: Any, growing: bool = False) -> None:
        if not steps:
            raise ValueError(f"plot: there is nothing to draw; the output of {trace.name} is {trace.output}.")
        self.trace, self.steps, self.growing = trace, steps, growing
        self.by = by = steps[0].by
        self._check_size()
        if by == "output":
            self.values = {"input": trace.x, "output": trace.forward()}
        else:
            self.values = {"input": trace.x, "output": trace._cotangent(g)}
            self.values[by] = trace.grad_input(g) if by == "input" else trace.grad_weight(g)
            if not growing and repr(trace.at(**{by: steps[0].index}, g=g)) != repr(steps[0]):
                raise ValueError("plot: the step was made with another g; give plot the g that at() was given.")
        if by != "weight" and trace.w is not None:
            self.values["weight"] = trace.w
        middle = {"output": "weight", "input": "weight", "weight": "output"}[by]
        left = "output" if by == "input" else "input"
        self.names = [name for name in (left, middle, by) if name in self.values]  # left x middle = right
        self.grids = {name: max(len(self._leads(name, step)) for step in steps) for name in self.names}
        self._lay_out()
        self.texts = {name: self._labels(name) for name in self.names}
        longest = max(len(label) for labels in self.texts.values() for label in labels.values())
        self.font = min(10, 0.85 * 72 * self.cell / (0.62 * longest))

    def _check_size(self) -> None:
        t = self.trace
        sides = [n for name in ("input", "output") for n in t.shape(name)[1 if name == t.columns else 2 :]]
        sides += t.g.kernel
        if t.g.rank > 2 or max(sides) > _SIDE:
            found = f"the input is {t.input} and the output {t.output}"
            raise ValueError(
                f"plot: {t.name} can be drawn with one or two axes of at most {_SIDE} cells, but {found}. "
                f"Trace a crop of it, such as x[..., :{_SIDE // 2}, :{_SIDE // 2}], or read text(step)."
            )

    def _leads(self, name: str, step: Step) -> list[Sizes]:
        """The grids of an array that a step needs: image and channel, or both channels of the weight."""
        if name == "weight":
            found = {t.weight[:2] for t in step.terms if t.weight} if step.by != "weight" else {step.index[:2]}
            return sorted(found)
        n = step.index[0] if step.by != "weight" else 0
        return [(n,)] if name == self.trace.columns else [(n, c) for c in range(self.values[name].shape[1])]

    def _grid(self, name: str) -> tuple[int, int]:
        """(rows, columns) of one grid, in cells."""
        sizes = [last - first for first, last in margins_of(self.trace, name, self.by)]
        return (sizes[0] if len(sizes) == 2 else 1), sizes[-1]

    def _lay_out(self) -> None:
        """The size of a cell, of the arrays' boxes and of the figure, and what is told below."""
        rows = {name: self.grids[name] * self._grid(name)[0] for name in self.names}
        columns = {name: self._grid(name)[1] for name in self.names}
        titles = {name: _TITLE * self.grids[name] for name in self.names}
        across, stacked = WIDTH - 2 * _MARGIN, self.trace.g.rank == 1  # signals stand one above the other
        if stacked:
            down = (_HEIGHT - sum(titles.values())) / sum(rows.values())
            self.cell = min(_CELL, down, across / max(columns.values()))
        else:
            self.cell = min(_CELL, *((_HEIGHT - titles[name]) / rows[name] for name in self.names))
            across -= _GAP * (len(self.names) - 1)
            while sum(max(n * self.cell, _PANEL) for n in columns.values()) > across:
                self.cell *= 0.98
        if self.cell < _LEAST_CELL:
            raise ValueError(
                f"plot: {self.trace.name} has {max(self.grids.values())} grids one above the other, whose cells would "
                f"be too small to read. Trace fewer channels or a crop, such as x[:, :2, ...], or read text(step)."
            )
        widths = {name: max(n * self.cell, _PANEL) for name, n in columns.items()}
        heights = {name: rows[name] * self.cell + titles[name] for name in self.names}
        width = max(widths.values()) if stacked else sum(widths.values()) + _GAP * (len(widths) - 1)
        self.height = sum(heights.values()) if stacked else max(heights.values())
        page = min(WIDTH, max(5.0, width + 2 * _MARGIN))
        self.told = [self._told(step, page) for step in self.steps]
        lines = max(told.count("\n") + 1 for told in self.told)
        self.size = (page, self.height + lines * _LINE + 3 * _MARGIN)
        left, top = (page - width) / 2, _MARGIN
        self.boxes: dict[str, tuple[float, float, float, float]] = {}  # left, top, width, height
        for name in self.names:
            if stacked:
                self.boxes[name] = (left, top, width, heights[name])
                top += heights[name]
            else:
                self.boxes[name] = (left, top + (self.height - heights[name]) / 2, widths[name], heights[name])
                left += widths[name] + _GAP

    def _told(self, step: Step, page: float) -> str:
        """The equation and the legend."""
        wide = int(page / 0.072)
        legend = "bold frame: read   double frame: made"
        if any(low < 0 or high > n for name in self.names for (low, high), n in self._sides(name)):
            legend += f"   hatched: {'cropped' if self.trace.transposed else 'padding'}"
        legend += "   circle: winner" if any(t.winner for t in step.terms) else ""
        return "\n".join([*textwrap.wrap(equation(step), wide), legend])

    def _sides(self, name: str) -> list[tuple[tuple[int, int], int]]:
        margins = margins_of(self.trace, name, self.by)
        return list(zip(margins, self.values[name].shape[-len(margins) :]))

    def _labels(self, name: str) -> dict[Sizes, str]:
        """What stands in each cell, also of the padding where it is read."""
        array, margins, labels = self.values[name], margins_of(self.trace, name, self.by), {}
        outside = "" if name == self.by else "−∞" if self.steps[0].operation == "maximum" else "0"
        for lead in product(*map(range, array.shape[: array.ndim - len(margins)])):
            for at in product(*(range(*margin) for margin in margins)):
                inside = all(0 <= i < n for i, n in zip(at, array.shape[len(lead) :]))
                labels[(*lead, *at)] = _short(array.item((*lead, *at)), self.cell) if inside else outside
        return labels

    # ----------------------------------------------------------------------------------------------
    # Drawing

    def draw(self, figure: Figure, place: int) -> None:
        """Draw one step; if growing, only what has been made by then stands in the right grid."""
        step = self.steps[place]
        figure.set_label(self.trace.describe(step))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.size[0]), ylim=(self.size[1], 0))
        axes.axis("off")
        for name, (left, top, width, height) in self.boxes.items():
            rows, columns = self._grid(name)
            leads = self._leads(name, step)
            each = rows * self.cell + _TITLE
            if name != self.names[0]:
                sign = "→" if name == self.by else "×"
                stacked = self.trace.g.rank == 1
                at = (left, top + 0.6 * _TITLE) if stacked else (left - _GAP / 2, top + (height + _TITLE) / 2)
                axes.text(*at, sign, ha="left" if stacked else "center", va="center", fontsize=13)
            top += (height - each * len(leads)) / 2
            for lead in leads:
                self._draw_grid(axes, name, lead, (left + (width - columns * self.cell) / 2, top + _TITLE), place)
                top += each
        axes.text(_MARGIN, self.height + 2 * _MARGIN, self.told[place], va="top", fontsize=8, linespacing=1.5)

    def _draw_grid(self, axes: Any, name: str, lead: Sizes, corner: tuple[float, float], place: int) -> None:
        from matplotlib.patches import Rectangle

        step, cell = self.steps[place], self.cell
        made = {step.index for step in self.steps[: place + 1]} if self.growing else None
        read = {getattr(t, name): t for t in step.terms} if name != self.by else {}
        title = element(name, lead)
        if step.by != "output" and name in (step.by, "output"):
            title = f"gradient of\n{title}"
        rows, columns = self._grid(name)
        axes.text(corner[0] + columns * cell / 2, corner[1] - 0.05, title, ha="center", va="bottom", fontsize=8)
        margins = margins_of(self.trace, name, self.by)
        for at in product(*(range(*margin) for margin in margins)):
            index = (*lead, *at)
            place_of = [i - low for i, (low, _) in zip(at, margins)]
            x, y = corner[0] + place_of[-1] * cell, corner[1] + (place_of[0] if len(at) == 2 else 0) * cell
            inside = all(0 <= i < n for i, n in zip(at, self.values[name].shape[len(lead) :]))
            target = name == self.by and index == step.index
            colour = _READ if index in read else _MADE if target else "white" if inside else "#f2f2f2"
            hatch = None if inside else "////"
            back = Rectangle((x, y), cell, cell, fc=colour, ec=_LINES if inside else "#d4d4d4", lw=0.6, hatch=hatch)
            axes.add_patch(back).set_gid(element(name, index))
            if index in read or target:
                self._frame(axes, x, y, target, read.get(index), element(name, index))
            if name != self.by or made is None or index in made:
                high = 0.4 if index in read and self._factor(read[index], name) else 0.5
                label = axes.text(x + cell / 2, y + high * cell, self.texts[name][index], ha="center", va="center")
                label.set(fontsize=self.font, color="black" if inside else "#333333", zorder=4)
                label.set_gid(f"{element(name, index)} value")

    def _frame(self, axes: Any, x: float, y: float, double: bool, term: Term | None, gid: str) -> None:
        """Bold where something is read, with the factor that it meets; double where something is made."""
        from matplotlib.patches import Circle, Rectangle

        cell, bold = self.cell, 1.8 * min(1, self.cell / 0.3)
        frame = Rectangle((x, y), cell, cell, fill=False, ec="black", lw=bold, zorder=3)
        axes.add_patch(frame).set_gid(f"{gid} {'made' if double else 'read'}")
        if double:
            inset = 0.09 * cell
            inner = Rectangle((x + inset, y + inset), cell - 2 * inset, cell - 2 * inset, fill=False, ec="black")
            axes.add_patch(inner).set(lw=0.4 * bold, zorder=3)
        if term is not None and term.winner:
            axes.add_patch(Circle((x + cell / 2, y + cell / 2), 0.38 * cell, fill=False, lw=1.2, zorder=3))
        if term is not None and (factor := self._factor(term, gid.split("[")[0])):
            small = axes.text(x + 0.94 * cell, y + 0.92 * cell, factor, ha="right", va="bottom", zorder=4)
            small.set(fontsize=0.6 * self.font, color="#333333")

    def _factor(self, term: Term, name: str) -> str:
        """What a cell of the left grid is multiplied by, or divided; nothing where it would be too small."""
        if name != self.names[0] or term.right is None or 0.6 * self.font < 4.5:
            return ""
        return f"{'×' if self.steps[0].operation == 'product' else '/'}{_short(term.right, self.cell)}"


def _short(value: float, cell: float) -> str:
    """Four or five characters where they suffice: whole numbers, or as many places as a cell of this size holds."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 or cell < 0.3 else 2
    plain = number(value) if math.isnan(value) or value == round(value) else f"{value:.{places}f}"
    return plain.replace("-", "−")


def equation(step: Step) -> str:
    """output[0,0,1,2] = 3×0 + 1×1 + ... = 13, with the divisor and the bias; long sums are cut in the middle."""
    terms = [_factors(step, term) for term in step.terms]
    if len(terms) > _TERMS:
        terms = [*terms[: _TERMS - 1], f"… ({len(terms) - _TERMS} more) …", terms[-1]]
    subject = element(step.by, step.index)
    if step.by != "output":
        subject = f"gradient of {subject}"
    if step.operation == "maximum":
        right = f"max({', '.join(terms)})"
    elif step.operation == "copy" and step.by == "output" and step.divisor is None and len(step.terms) == 1:
        right = element("input", step.terms[0].input)
    else:
        right = " + ".join(terms) or "0"
        right = f"({right}) / {number(step.divisor)}" if step.divisor is not None else right
    right += f" + bias {_signed(step.bias)}" if step.bias is not None else ""
    return f"{subject} = {right} = {number(step.value)}"


def _factors(step: Step, term: Term) -> str:
    if step.operation == "maximum":
        return number(term.left)
    if term.right is None:
        return _signed(term.left)
    return f"{_signed(term.left)}{'×' if step.operation == 'product' else '/'}{_signed(term.right)}"


def _signed(value: float) -> str:
    """A negative number in brackets."""
    return f"({number(value)})" if value < 0 else number(value)
