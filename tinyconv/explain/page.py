"""A trace as a web page: a static picture of one step, which needs no script, and data with which a script moves it.

The page is one piece: no network, no library. Where a notebook is not trusted, scripts and styles are taken out and the
picture stays: then brackets say what is read and what is made, which frames say otherwise.
"""

from __future__ import annotations

import html
import json
import math
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyconv.explain.figure import equation, margins_of
from tinyconv.explain.text import describe, element, format_settings, format_step
from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array

if TYPE_CHECKING:  # steps.py offers these functions as methods
    from tinyconv.explain.steps import Step, Term, Trace

_MOST_CELLS, _MOST_PRODUCTS = 4_000, 40_000  # that a browser shows and sums without a pause


def to_html(trace: Trace, step: Step | None, g: Any) -> str:
    """The whole document."""
    body = fragment(trace, step, g)
    title = html.escape(f"{trace.name}, step by step")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<style>:root { color-scheme: light dark; background: light-dark(#ffffff, #15181d); } "
        f"body {{ margin: 0; }} .tinyconv {{ margin: 0 auto; }}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def repr_html(trace: Trace) -> str:
    """The page for a notebook; where it cannot be, the reason, and the first step as text if there is one."""
    try:
        return fragment(trace, None, None)
    except ValueError as error:
        told = f"<p>{html.escape(str(error))}</p>"
    if prod(trace.output) == 0:
        return told
    try:
        step = trace.at(output=(0,) * len(trace.output))
    except ValueError:  # even one step is too long; the sentence has said so
        return told
    return f"{told}<pre>{html.escape(format_step(trace, step, unicode=True))}</pre>"


def fragment(trace: Trace, step: Step | None, g: Any) -> str:
    """The page as one element, with its style, its data and its script."""
    check_size(trace)
    step = first_step(trace) if step is None else step
    told = json.dumps(page_data(trace, step, g), allow_nan=False).replace("<", "\\u003c")  # no </script> in a name
    return (
        f'<div class="tinyconv">\n<style>\n{asset("page.css")}</style>\n{picture(trace, step, g)}\n'
        f'<script type="application/json">{told}</script>\n</div>\n'
        f"<script>\n(() => {{\n{script()}\n"
        'for (const root of document.querySelectorAll(".tinyconv:not([data-ready])")) {\n'
        "  const data = root.querySelector(\"script[type='application/json']\");\n"
        "  if (data) explain(root, JSON.parse(data.textContent));\n}\n})();\n</script>"
    )


@cache
def asset(name: str) -> str:
    """A file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def script() -> str:
    """What page and widget run: the arithmetic, saving, the page."""
    return asset("triples.js") + asset("save.js") + asset("page.js")


def first_step(trace: Trace) -> Step:
    return trace.at(output=(0,) * len(trace.output))


def check_size(trace: Trace) -> None:
    """ValueError for what is no page, with what to do instead."""
    shapes = [trace.input, trace.output, trace.weight or ()]
    cells, products = sum(prod(shape) for shape in shapes), len(trace.triples)
    most = min(_MOST_PRODUCTS, trace.max_terms)
    if prod(trace.output) == 0:
        raise ValueError(f"to_html: there is nothing to show; the output of {trace.name} is {trace.output}.")
    if trace.kind == "fold":
        raise ValueError("to_html: fold has no page; trace the unfold that it transposes, or read text(step).")
    if trace.g.rank > 2 or cells > _MOST_CELLS or products > most:
        raise ValueError(
            f"to_html: a page shows one or two axes, at most {_MOST_CELLS:,} numbers and {most:,} products, but "
            f"{trace.name} has the input {trace.input}, the output {trace.output} and {products:,} products. Trace a "
            "crop of it, such as x[..., :8, :8], or read text(step)."
        )


# --------------------------------------------------------------------------------------------------
# Data


def page_data(trace: Trace, step: Step, g: Any) -> dict[str, Any]:
    """What the script starts from: arrays, flat, the place of every window, and the step."""
    geometry, triples = trace.g, trace.triples
    pixels = [
        [[geometry.input_index(axis, o, k) for k in range(geometry.kernel[axis])] for o in range(geometry.output[axis])]
        for axis in range(geometry.rank)
    ]
    divisor = getattr(trace, "divisor", None)
    arrays = {"input": trace.x, "weight": trace.w, "bias": trace.b, "g": trace._cotangent(g), "divisor": divisor}
    names = ["input", "output", "weight"] if trace.weight else ["input", "output"]
    return {
        "operator": trace.name,
        "kind": trace.kind,
        "dtype": trace.x.dtype.name,
        "settings": _settings(trace),
        "groups": triples.groups,
        "small": triples.small,
        "large": triples.large,
        "kernel": triples.kernel,
        "pixels": pixels,
        "shapes": {"input": trace.input, "output": trace.output, "weight": trace.weight},
        "margins": {name: margins_of(trace, name) for name in names},
        "arrays": {name: None if a is None else encode(a) for name, a in arrays.items()},
        "view": step.by,
        "index": step.index,
    }


def _settings(trace: Trace) -> str:
    return "   ".join(format_settings(trace)).replace("   ", " · ").replace(" x ", "×")


def encode(array: Array) -> list[float | str]:
    """The array, flat; NaN and infinities, which JSON cannot hold, as the strings by which JavaScript knows them."""
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [value if math.isfinite(value) else names[str(value)] for value in map(float, array.ravel())]


# --------------------------------------------------------------------------------------------------
# The picture without script


def picture(trace: Trace, step: Step, g: Any) -> str:
    """The grids that the step needs, the equation and the sentence."""
    by = step.by
    source, partner = {"output": ("input", "weight"), "input": ("output", "weight"), "weight": ("input", "output")}[by]
    values = {"input": trace.x, "weight": trace.w, "output": None if by == "output" else trace._cotangent(g)}
    values[by] = trace._sum(by, g)
    parts = []
    for name, sign in ((source, ""), (partner, "×"), (by, "→")):
        array = values[name]
        if array is not None:
            grids = "\n".join(_grid(trace, step, name, array, lead) for lead in _leads(trace, step, name))
            before = f'<span class="sign">{sign}</span>' if sign else ""
            parts.append(f'<div class="part">{before}<div class="array">{grids}</div></div>')
    stacked = " stacked" if trace.g.rank == 1 else ""
    return "\n".join(
        [
            f'<p class="head"><b>{html.escape(trace.name)}</b> <span>{_settings(trace)}</span></p>',
            f'<div class="stage{stacked}">',
            *parts,
            "</div>",
            f'<p class="equation">{html.escape(equation(step))}</p>',
            f'<p class="sentence">{html.escape(describe(trace, step))}</p>',
            f'<p class="note">{"; ".join(_legend(trace, step))}</p>',
        ]
    )


def _legend(trace: Trace, step: Step) -> list[str]:
    """What frames mean, and the marks that stand for them where no style is let through."""
    legend = [("Solid frame", "[ ]", "read"), ("double frame", "« »", "made")]
    large = "output" if trace.transposed else "input"
    if any(low < 0 or high > n for (low, high), n in zip(margins_of(trace, large), trace.g.size)):
        legend.append(("hatched", "·", "cropped" if trace.transposed else "padding"))
    if any(term.winner for term in step.terms):
        legend.append(("ring", "*", "winner"))
    return [f'{frame}<i class="mark"> {mark}</i>: {meaning}' for frame, mark, meaning in legend]


def _leads(trace: Trace, step: Step, name: str) -> list[Sizes]:
    """Image and channel of each grid: those that are read, and for what is made all of its image."""
    length = len(trace.shape(name)) - len(margins_of(trace, name))
    read = sorted({getattr(term, name)[:length] for term in step.terms}) if name != step.by else []
    if name == "weight" and not read:
        return [step.index[:2]] if step.by == "weight" else []
    if read:
        return read
    return [(step.index[0], *lead) for lead in product(*map(range, trace.shape(name)[1:length]))]


def _grid(trace: Trace, step: Step, name: str, array: Array, lead: Sizes) -> str:
    """One table: a cell an element, padding included."""
    title = element(name, lead)
    if step.by != "output" and name in (step.by, "output"):
        title = f"gradient of {title}"
    read = {getattr(term, name): term for term in step.terms} if name != step.by else {}
    factors = name == ("output" if step.by == "input" else "input")
    *down, across = (range(*margin) for margin in margins_of(trace, name))
    rows = []
    for row in product(*down):
        cells = [_cell(step, name, array, (*lead, *row, column), read, factors) for column in across]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table class="grid"><caption>{title}</caption>\n{chr(10).join(rows)}\n</table></div>'


def _cell(step: Step, name: str, array: Array, index: Sizes, read: dict[Sizes, Term], factors: bool) -> str:
    inside = all(0 <= i < n for i, n in zip(index, array.shape))
    made, term = name == step.by and index == step.index, read.get(index)
    if inside:
        text = short(array.item(index))
    else:
        text = "" if name == step.by else "−∞" if step.operation == "maximum" else "0"
    factor = ""
    if factors and term is not None and term.right is not None:
        factor = f"{'/' if step.operation == 'share' else '×'}{short(term.right)}"
    states = {
        "outside": not inside,
        "read": term is not None,
        "made": made,
        "factor": bool(factor),
        "winner": term is not None and term.winner,
    }
    classes = " ".join(state for state, holds in states.items() if holds)
    opening = f'<td class="{classes}">' if classes else "<td>"
    before = ("·" if not inside else "") + ("«" if made else "[" if term is not None else "")
    after = ("*" if states["winner"] else "") + ("»" if made else "]" if term is not None else "")
    marks = [f'<i class="mark">{mark}</i>' if mark else "" for mark in (before, after)]
    small = f"<small>{factor}</small>" if factor else ""
    return f"{opening}{marks[0]}<span>{text}</span>{small}{marks[1]}</td>"


def short(value: float) -> str:
    """What stands in a cell: three digits or a whole number, with a true minus sign."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    digits = max(3, len(str(int(size)))) if size < 1e5 else 3
    return f"{value:.{digits}g}".replace("-", "−")
