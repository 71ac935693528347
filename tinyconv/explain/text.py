"""A step as text for a terminal of 80 columns, and as one plain sentence."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from tinyconv.geometry import Sizes, output_size, transposed_output_size

if TYPE_CHECKING:  # steps.py offers these functions as methods
    from tinyconv.explain.steps import Step, Term, Trace

WIDTH = 80
_MOST_ROWS = 24  # terms and grid rows shown of a step
_AXES = {1: ("positions",), 2: ("rows", "columns"), 3: ("slices", "rows", "columns")}
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def number(value: float) -> str:
    """Four significant digits; whole numbers below ten million in full."""
    return f"{value:.0f}" if value == value and abs(value) < 1e7 and value == int(value) else f"{value:.4g}"


def element(name: str, index: Sequence[int]) -> str:
    """input[0,0,1,2]"""
    return f"{name}[{','.join(map(str, index))}]"


# --------------------------------------------------------------------------------------------------
# A step as text


def format_step(
    trace: Trace, step: Step, current: int | None = None, colour: bool = False, unicode: bool | None = None
) -> str:
    """The window on the input, the terms with their partial sums, and the sentence; at most 80 columns wide.

    ``current`` marks one term with an arrow. ``colour`` adds ANSI codes, which say nothing that words do not. Without
    ``unicode`` (by default: where the terminal cannot show it) the text is ASCII.
    """
    if unicode is None:
        unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    what = "" if step.by == "output" else "gradient of "
    head = f"{trace.name}  {what}{element(step.by, step.index)} = {number(step.value)}"
    lines = [f"{_BOLD}{head}{_PLAIN}" if colour else head, *format_settings(trace), ""]
    grid = _grid(trace, step, unicode)
    if grid:
        lines += [*grid, ""]
    lines += [*_table(trace, step, current, colour, unicode), *_result(step), ""]
    lines += textwrap.wrap(describe(trace, step), WIDTH)
    return "\n".join(lines)


def format_settings(trace: Trace) -> list[str]:
    """The geometry: one line, wrapped where it has many axes."""
    g = trace.g
    padding = [f"{before}" if before == after else f"{before}+{after}" for before, after in g.padding]
    parts = [
        f"{name} {' x '.join(map(str, sizes))}"
        for name, sizes in (("kernel", g.kernel), ("stride", g.stride), ("padding", padding), ("dilation", g.dilation))
    ]
    parts += [f"groups {trace.groups}"] if trace.weight else []  # a pooling sees each channel alone anyway
    return textwrap.wrap("   ".join(parts), WIDTH)


def format_sizes(trace: Trace) -> str:
    """The equation of the output's size, with the numbers in it, one line an axis, and what no window reads."""
    g, lines = trace.g, []
    for i, k, s, (before, after), d, o in zip(g.size, g.kernel, g.stride, g.padding, g.dilation, g.output):
        reach = f"{d}*({k} - 1)"
        if trace.transposed:
            extra = i - transposed_output_size(o, k, s, (before, after), d)
            lines.append(f"({o} - 1)*{s} - {before} - {after} + {reach} + {extra} + 1 = {i}")
        else:
            rounding = "floor" if o == output_size(i, k, s, (before, after), d) else "ceil"
            lines.append(f"{rounding}(({i} + {before} + {after} - {reach} - 1) / {s}) + 1 = {o}")
    names = _AXES[g.rank]
    lines = [f"output {name}: {line}" for name, line in zip(names, lines)]
    unused = trace.unused()
    if unused:
        which = "output" if trace.transposed else "input"
        lines.append(f"{which}: {len(unused)} of {prod(g.size)} positions take no part, the first at {unused[0]}.")
    return "\n".join(lines)


def _grid(trace: Trace, step: Step, unicode: bool) -> list[str]:
    """The first channel that a step by output reads, its pixels in brackets, padding as dots; [] if it does not fit."""
    if step.by != "output" or trace.g.rank > 2 or trace.columns == "input" or not step.terms:
        return []
    n, channel = step.terms[0].input[:2]
    used = {t.input[2:] for t in step.terms if t.input[1] == channel}
    size = trace.input[2:]
    ranges = [
        range(min(0, *(at[axis] for at in used)), max(size[axis] - 1, *(at[axis] for at in used)) + 1)
        for axis in range(len(size))
    ]
    rows = [(r,) for r in ranges[0]] if len(ranges) == 2 else [()]
    dot = "·" if unicode else "."
    cells = []
    for row in rows:
        positions = [(*row, column) for column in ranges[-1]]
        inside = [all(0 <= i < s for i, s in zip(at, size)) for at in positions]
        shown = [number(trace.x.item((n, channel, *at))) if here else dot for at, here in zip(positions, inside)]
        cells.append([f"[{s}]" if at in used else f" {s} " for s, at in zip(shown, positions)])
    width = max(len(cell) for line in cells for cell in line)
    if len(cells) > _MOST_ROWS or width * len(ranges[-1]) > WIDTH:
        return []
    return [f"{element('input', (n, channel))}, what is read in brackets:"] + [
        "".join(cell.rjust(width) for cell in line).rstrip() for line in cells
    ]


def _table(trace: Trace, step: Step, current: int | None, colour: bool, unicode: bool) -> list[str]:
    """One line a term: where from, the factors, the product, the sum so far. Indices that do not fit are left out."""
    first = max(0, min((current or 0) - _MOST_ROWS // 2, len(step.terms) - _MOST_ROWS))
    shown = step.terms[first : first + _MOST_ROWS]
    source = "output" if step.by == "input" else "input"
    partner = "output" if step.by == "weight" else "weight" if trace.weight else None
    for one, other in ((source, partner), (source, None), (None, None)):
        rows = [_row(trace, step, term, one, other, unicode) for term in (None, *shown)]
        widths = [max(map(len, cells)) for cells in zip(*rows)]
        lines = [" ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        if max(map(len, lines)) <= WIDTH - 3:
            break
    marks = ["->" if place == current else "  " for place in range(first, first + len(shown))]
    lines = [f"{mark} {line}".rstrip() for mark, line in zip(["  ", *marks], lines)]
    if colour:
        lines[1:] = [f"{_DIM}{line}{_PLAIN}" if t.padding else line for line, t in zip(lines[1:], shown)]
    left_out = len(step.terms) - len(shown)
    return [*lines, f"   ... {left_out} of {len(step.terms)} terms not shown"] if left_out else lines


def _row(
    trace: Trace, step: Step, term: Term | None, source: str | None, partner: str | None, unicode: bool
) -> list[str]:
    """The cells of one term; of the head where there is no term."""
    left = "g" if step.by == "input" else "pixel"
    right = {"input": "weight" if trace.weight else "chosen", "output": "weight", "weight": "g"}[step.by]
    sign = ("\u00d7" if unicode else "x") if step.operation == "product" else "/"
    total = "maximum" if step.operation == "maximum" else "sum"
    if term is None:
        cells = [source or "", left]
        if step.operation in ("product", "share"):
            cells += ["", partner or "", "divisor" if step.operation == "share" else right, "", "product"]
        return [*cells, total, ""]
    cells = [element("", getattr(term, source)) if source else "", number(term.left)]
    if term.right is not None:
        at = element("", getattr(term, partner)) if partner else ""
        cells += [sign, at, number(term.right), "=", number(term.product)]
    note = _padding_word(trace) if term.padding else "winner" if term.winner else ""
    return [*cells, number(term.partial), note]


def term_line(trace: Trace, step: Step, term: Term) -> str:
    """One term on one line: input[0,0,1,4] 1 x weight[0,0,0,1] 1 = 1, sum 1"""
    source = "output" if step.by == "input" else "input"
    line = f"{element(source, getattr(term, source))} {number(term.left)}"
    if term.right is not None:
        partner = "output" if step.by == "weight" else "weight"
        at = getattr(term, partner) if trace.weight else None
        line += f" {'x' if step.operation == 'product' else '/'} "
        line += f"{element(partner, at)} {number(term.right)}" if at else number(term.right)
        line += f" = {number(term.product)}"
    note = f" ({_padding_word(trace)})" if term.padding else " (winner)" if term.winner else ""
    return f"{line}, {'maximum' if step.operation == 'maximum' else 'sum'} {number(term.partial)}{note}"


def _padding_word(trace: Trace) -> str:
    """What the padding does to a product: it adds zeros to an input, and cuts off an output."""
    return "cropped" if trace.transposed else "padding"


def _result(step: Step) -> list[str]:
    """Division and bias, where there are any."""
    total = number(step.terms[-1].partial if step.terms else 0)
    if step.divisor is not None:
        return [f"   {total} / {number(step.divisor)} = {number(step.value)}"]
    if step.bias is not None:
        return [f"   {total} + bias {number(step.bias)} = {number(step.value)}"]
    return []


# --------------------------------------------------------------------------------------------------
# A step as a sentence


def describe(trace: Trace, step: Step) -> str:
    """One plain sentence: what the element is, what it is made of, where that lies, and how much of it is padding."""
    subject, value, count = element(step.by, step.index), number(step.value), len(step.terms)
    source = "output" if step.by == "input" else "input"
    where = _places(trace, [getattr(t, source)[2:] for t in step.terms], source)
    outside = sum(t.padding for t in step.terms)
    tail = ""
    if outside and count == 1:
        lies = "is cropped with the padding" if trace.transposed else "lies in the padding"
        tail = f", which {lies} and counts as 0"
    elif outside and step.operation != "maximum":
        lies = "is cropped with the padding" if _padding_word(trace) == "cropped" else "lies in the padding"
        lies = lies if outside == 1 else lies.replace("is ", "are ").replace("lies", "lie")
        tail = f"; {outside} of them {lies} and {'counts' if outside == 1 else 'count'} as 0"
    if step.by == "output":
        return f"{subject} = {value} {_made_of(step, count, where)}{tail}."
    plural = "" if count == 1 else "s"
    if step.by == "weight":
        return (
            f"{subject} meets {count} pixel{plural}, {where}; its gradient, the sum of pixel times g, is {value}{tail}."
        )
    if not count:
        return f"{subject} is used by no output, so its gradient is 0."
    how = {"product": "the sum of g times weight", "share": "the sum of g / divisor", "copy": "the sum of g"}
    if not trace.weight and step.operation == "product":
        won = sum(t.winner for t in step.terms)
        return f"{subject} is in {count} window{plural} and wins {won} of them, so its gradient is {value}."
    return f"{subject} is used {count} time{plural}, by {where}; its gradient, {how[step.operation]}, is {value}{tail}."


def _made_of(step: Step, count: int, where: str) -> str:
    """What a step by output does with its terms."""
    if step.operation == "maximum":
        winner = next((t for t in step.terms if t.winner), None)
        won = f"the winner is {element('input', winner.input)}" if winner else "none of them lies on the image"
        return f"is the largest of {count} pixels, {where}; {won}"
    if step.divisor is not None:
        return f"is the sum of {count} pixels, {where}, divided by {number(step.divisor)}"
    if step.operation == "copy" and count == 1:
        return f"is a copy of {element('input', step.terms[0].input)}"
    if step.operation == "copy":
        return f"is the sum of {count} {where}" if count else "is reached by no window"
    if not step.terms:
        return "is reached by no product" + (", and is its bias" if step.bias is not None else "")
    plural = "" if count == 1 else "s"
    bias = f" plus the bias {number(step.bias)}" if step.bias is not None else ""
    return f"is the sum of {count} product{plural} pixel times weight, {where}{bias}"


def _places(trace: Trace, positions: list[Sizes], of: str) -> str:
    """rows 1 to 3 and columns 3, 5 and 7 of the input"""
    if not positions or len(positions[0]) != trace.g.rank:  # the columns of an unfolding have no axes
        return f"elements of the {of}"
    series = [sorted(set(at)) for at in zip(*positions)]
    named = [f"{name if len(at) > 1 else name[:-1]} {_series(at)}" for name, at in zip(_AXES[trace.g.rank], series)]
    return f"{' and '.join([', '.join(named[:-1]), named[-1]] if len(named) > 1 else named)} of the {of}"


def _series(values: list[int]) -> str:
    """1 to 3; 3, 5 and 7; 0 to 98 in steps of 2"""
    steps = {b - a for a, b in zip(values, values[1:])}
    if len(values) > 2 and len(steps) == 1:
        (step,) = steps
        return f"{values[0]} to {values[-1]}" + (f" in steps of {step}" if step > 1 else "")
    if len(values) > 8:
        return f"between {values[0]} and {values[-1]}"
    return " and ".join(([", ".join(map(str, values[:-1]))] if len(values) > 1 else []) + [str(values[-1])])
