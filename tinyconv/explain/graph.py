"""The tape behind a tensor as a picture: operators, what they were given, and the shape of all that flows."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Function, Tensor
from tinyconv.explain.layered import Drawing, draw, spread
from tinyconv.explain.text import WIDTH
from tinyconv.geometry import Geometry, Sizes
from tinyconv.ops.conv import ConvInput

#: Attributes of operators, other than a window, that are worth a line in a box.
_SETTINGS = ("kind", "parameters", "axis", "axes", "shifts", "pairs", "low", "high", "slope", "dtype")

_FONT, _LINE, _CHARACTER = 12, 15, 7.4  # pixels: of the letters, of a line, and the width of a letter
_ROW = 26  # pixels between two rows, in which edges move sideways
_MARGIN = 12
_PORT = 10  # pixels between two edges that enter a box
_LEAST_WIDTH = 360.0  # for the legend
_SMALL_CHARACTER = 6.3
_LEGEND = "box: operator; rounded: parameter, input or output; dashed: constant or freed; on a line: the tensor's shape"
_INK = "#1a1a1a"  # on each of the colours below with a contrast of more than 12:1
_FILL = {"operator": "#dbe7f3", "parameter": "#fff1cf", "input": "#fff1cf", "constant": "white", "output": "white"}


@dataclass(frozen=True)
class GraphNode:
    """A box. ``kind``: operator, parameter, input (a leaf that wants a gradient), constant (a tensor that an operator
    keeps and that wants none) or output (what the graph was asked of). ``shape``: of the tensor, of an operator's
    first result. ``freed``: what it had kept for backward is gone.
    """

    number: int
    kind: str
    name: str
    detail: str
    shape: Sizes
    freed: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.detail}".rstrip()


@dataclass(frozen=True)
class GraphEdge:
    """From result ``result`` of a node to argument ``position`` of another, by their numbers; the tensor's shape."""

    source: int
    target: int
    result: int
    position: int
    shape: Sizes


class Graph:
    """Nodes and edges of a tape. In a notebook a picture, in print a table; ``save`` writes an SVG file.

    ``nodes`` come after all that they depend on, and each one's number is its place. ``note``: a sentence on what is
    missing, '' where nothing is.
    """

    def __init__(self, nodes: list[GraphNode], edges: list[GraphEdge], note: str) -> None:
        self.nodes, self.edges, self.note = tuple(nodes), tuple(edges), note

    def describe(self) -> str:
        """One or two plain sentences, the alternative text of the picture."""
        counts = []
        for kind in ("operator", "parameter", "input", "constant"):
            count = sum(node.kind == kind for node in self.nodes)
            counts += [f"{count} {kind}{'' if count == 1 else 's'}"] if count else []
        named = [", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts
        results = [_by(node.shape) for node in self.nodes if node.kind == "output"]
        said = f"The tape of a result of shape {' and '.join(results)}: {' and '.join(named) or 'nothing'}."
        return f"{said} {self.note}".rstrip()

    def text(self, unicode: bool | None = None) -> str:
        """A table of 80 columns: each node, its shape, and the numbers of those that it is made from."""
        if unicode is None:
            unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
        inputs: dict[int, list[str]] = {}
        for edge in sorted(self.edges, key=lambda edge: (edge.target, edge.position)):
            several = f".{edge.result}" if edge.result else ""
            inputs.setdefault(edge.target, []).append(f"{edge.source}{several}")
        rows = [("", "node", "shape", "from")]
        for node in self.nodes:
            freed = " (freed)" if node.freed else ""
            came = " ".join(inputs.get(node.number, [node.kind]))
            rows.append((str(node.number), f"{node}{freed}", _by(node.shape), came))
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        wide[1] = min(wide[1], 40)
        wide[2] = min(wide[2], 20)
        lines = []
        for row in rows:
            cells = [textwrap.wrap(row[1], wide[1], subsequent_indent="  "), textwrap.wrap(row[2], wide[2])]
            cells.append(textwrap.wrap(row[3], WIDTH - sum(wide) - 6))
            for line in range(max(map(len, cells))):
                name, shape, came = (cell[line] if line < len(cell) else "" for cell in cells)
                number = row[0] if line == 0 else ""
                lines.append(f"{number:>{wide[0]}}  {name:{wide[1]}}  {shape:{wide[2]}}  {came}".rstrip())
        told = "\n".join([*lines, "", *textwrap.wrap(self.describe(), WIDTH)])
        return told if unicode else told.replace("×", "x")

    __str__ = text

    def save(self, path: str | Path) -> None:
        """Write the picture; the path ends in .svg."""
        if Path(path).suffix.lower() != ".svg":
            raise ValueError(f"save: a graph is written as .svg, but path is {str(path)!r}.")
        Path(path).write_text(self._repr_svg_(), encoding="utf-8")

    def _repr_svg_(self) -> str:
        return _svg(self)


def graph(
    y: Tensor | Iterable[Tensor], names: nn.Module | Mapping[str, Tensor] | None = None, max_nodes: int = 300
) -> Graph:
    """The tape behind ``y``, a tensor or some of them such as the outputs of a network.

    ``names``: the network, whose parameters are then called as in ``named_parameters()``, or tensors by their names,
    ``{"x": x, "w": w}``. A constant argument is in the picture only if its operator keeps it for backward: the tape
    does not know others. ValueError for a tape of more than ``max_nodes`` nodes.

        explain.graph(model(x), model)              # the last value of a notebook's cell: the picture
        explain.graph(y, {"x": x}).save("tape.svg")
    """
    tensors = [y] if isinstance(y, Tensor) else list(y) if isinstance(y, Iterable) else [y]
    for t in tensors:
        if not isinstance(t, Tensor):
            raise TypeError(f"graph: y must be a tensor or some of them, but there is a {type(t).__name__}.")
    if not tensors:
        raise ValueError("graph: y holds no tensor; give the output of an operator or of a network.")
    known = dict(names.named_parameters()) if isinstance(names, nn.Module) else dict(names or {})
    reader = _Reader({id(t): name for name, t in known.items()})
    entries = _sources_first(tensors)
    count = len(entries) + len(tensors)
    if count > max_nodes:
        raise ValueError(
            f"graph: the tape behind y has {count:,} nodes, more than max_nodes={max_nodes}. Draw a part of the "
            "network, or one step of the loop; or give graph a larger max_nodes."
        )
    for entry in entries:
        reader.add(entry)
    for place, t in enumerate(tensors):
        reader.add_output(t, "output" if len(tensors) == 1 else f"output {place}")
    return Graph(reader.nodes, reader.edges, _note(tensors, reader.nodes))


def _note(tensors: list[Tensor], nodes: list[GraphNode]) -> str:
    """What is missing, and why."""
    if all(t.grad_fn is None for t in tensors):
        if any(t.requires_grad for t in tensors):
            return "It has no history: it is a leaf, which no operator made."
        return "It has no history: no input of it requires a gradient, or it was computed under no_grad()."
    if any(node.freed for node in nodes):
        return (
            "This tape was freed by an earlier backward: the operators marked so no longer hold what their gradient "
            "needs, and constants are not shown. Pass retain_graph=True to backward to keep it."
        )
    return ""


# --------------------------------------------------------------------------------------------------
# Reading the tape


def _kept_constants(node: Function) -> dict[int, Tensor]:
    """The arguments that want no gradient and that the node holds, by their position."""
    return {at: t for at, (t, _) in zip(node.saves, node._saved) if node.edges[at] is None}


def _sources(entry: Any) -> list[tuple[int, Any, int]]:
    """(position, source, which of its results) of each argument that the tape knows."""
    if isinstance(entry, Tensor):
        return []
    kept = _kept_constants(entry)
    found = [(at, *(edge if edge is not None else (kept.get(at), 0))) for at, edge in enumerate(entry.edges)]
    return [(at, source, result) for at, source, result in found if source is not None]


def _sources_first(tensors: list[Tensor]) -> list[Any]:
    """All nodes and leaves behind some tensors, each after its sources. No recursion: a tape may be long."""
    order, seen = [], set()
    stack = [(t if t.grad_fn is None else t.grad_fn, False) for t in reversed(tensors)]
    while stack:
        entry, done = stack.pop()
        if done:
            order.append(entry)
        elif id(entry) not in seen:
            seen.add(id(entry))
            stack.append((entry, True))
            stack.extend((source, False) for _, source, _ in reversed(_sources(entry)) if id(source) not in seen)
    return order


class _Reader:
    """Turns entries of the tape, each after its sources, into nodes and edges."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names  # by the ids of tensors
        self.nodes: list[GraphNode] = []
        self.edges: list[GraphEdge] = []
        self.numbers: dict[int, int] = {}

    def add(self, entry: Any) -> None:
        number = self.numbers[id(entry)] = len(self.nodes)
        if isinstance(entry, Tensor):
            self.nodes.append(self._leaf(number, entry))
            return
        shape = entry.outputs[0][0]
        self.nodes.append(GraphNode(number, "operator", entry.name, _detail(entry), shape, entry.released))
        for position, source, result in _sources(entry):
            flowing = source.shape if isinstance(source, Tensor) else source.outputs[result][0]
            self.edges.append(GraphEdge(self.numbers[id(source)], number, result, position, flowing))

    def _leaf(self, number: int, t: Tensor) -> GraphNode:
        kind = "parameter" if isinstance(t, nn.Parameter) else "input" if t.requires_grad else "constant"
        return GraphNode(number, kind, self.names.get(id(t), kind), "", t.shape)

    def add_output(self, t: Tensor, name: str) -> None:
        source = self.numbers[id(t if t.grad_fn is None else t.grad_fn)]
        self.edges.append(GraphEdge(source, len(self.nodes), t.output_index, 0, t.shape))
        self.nodes.append(GraphNode(len(self.nodes), "output", name, "", t.shape))


def _detail(node: Any) -> str:
    """The window of an operator that has one, without what is usual; or its other settings."""
    g = getattr(node, "g", None)
    if isinstance(g, Geometry):
        padding = tuple(before if before == after else f"{before}+{after}" for before, after in g.padding)
        parts = [*(["transposed"] if isinstance(node, ConvInput) else []), _by(g.kernel)]
        usual = {"stride": (g.stride, "1"), "padding": (padding, "0"), "dilation": (g.dilation, "1")}
        usual["groups"] = ((getattr(node, "groups", 1),), "1")
        shown = {name: _by(sizes[:1] if len(set(sizes)) == 1 else sizes) for name, (sizes, _) in usual.items()}
        return ", ".join([*parts, *(f"{name} {value}" for name, value in shown.items() if value != usual[name][1])])
    settings = {name: getattr(node, name, ()) for name in _SETTINGS}
    return ", ".join(f"{name} {_plain(value)}" for name, value in settings.items() if value != ())


def _plain(value: Any) -> str:
    """A tuple of one without its brackets."""
    return str(value[0]) if isinstance(value, tuple) and len(value) == 1 else str(value)


def _by(sizes: Iterable[Any]) -> str:
    """1×6×28×28; 'scalar' for no axes"""
    return "×".join(map(str, sizes)) or "scalar"


# --------------------------------------------------------------------------------------------------
# Drawing


class _Layout:
    """Where everything stands, in pixels. Each node has a slot: its box, and below it the shapes of its results."""

    def __init__(self, graph: Graph) -> None:
        self.lines = [[n.name, *filter(None, (n.detail, "freed" if n.freed else ""))] for n in graph.nodes]
        self.used: dict[int, dict[int, Sizes]] = {n.number: {} for n in graph.nodes}  # results that flow on
        for edge in graph.edges:
            self.used[edge.source][edge.result] = edge.shape
        arriving = [sum(edge.target == n.number for edge in graph.edges) for n in graph.nodes]
        self.box = [max(_text_width(lines) + 16, _PORT * (count + 1)) for lines, count in zip(self.lines, arriving)]
        below = [sum(_text_width([_by(shape)]) + 8 for shape in self.used[n.number].values()) for n in graph.nodes]
        plan = draw([max(*both) for both in zip(self.box, below)], [(e.source, e.target) for e in graph.edges])
        self.width = plan.width
        self.x = plan.x
        self._stack(plan)
        self.leaving = {n.number: self._results(n.number) for n in graph.nodes}
        self.paths = self._route(graph, plan)

    def height(self, number: int) -> float:
        return _LINE * len(self.lines[number]) + 8

    def _stack(self, plan: Drawing) -> None:
        """The top of each row's boxes, their bottom, and the bottom of the labels below them."""
        self.top: list[float] = []
        self.bottom: list[float] = []
        self.row = {number: r for r, row in enumerate(plan.rows) for number in row}
        y = 0.0
        for row in plan.rows:
            self.top.append(y)
            self.bottom.append(y + max(map(self.height, row)))
            y = self.bottom[-1] + _LINE + 6 + _ROW
        self.tall = y - _ROW - _LINE - 6

    def _results(self, number: int) -> dict[int, float]:
        """The x at which each result leaves its box."""
        widths = [_text_width([_by(shape)]) + 8 for _, shape in sorted(self.used[number].items())]
        at, found = self.x[number] - sum(widths) / 2, {}
        for result, width in zip(sorted(self.used[number]), widths):
            found[result] = at + width / 2
            at += width
        return found

    def _route(self, graph: Graph, plan: Drawing) -> list[list[tuple[float, float]]]:
        """Each edge as points: straight down through rows, and sideways only where no box stands, between them."""
        leave = [self.leaving[edge.source][edge.result] for edge in graph.edges]
        before = [bends[-1] if bends else x for x, bends in zip(leave, plan.bends)]
        arrive = [0.0] * len(graph.edges)
        for number, (x, width) in enumerate(zip(self.x, self.box)):
            # Edges enter a box in the order in which they come, so that they do not cross there.
            mine = sorted((i for i, e in enumerate(graph.edges) if e.target == number), key=before.__getitem__)
            wanted = [before[i] for i in mine]
            ports = spread(wanted, [_PORT] * (len(mine) - 1), [1.0] * len(mine), x - width / 2 + 6, x + width / 2 - 6)
            for i, at in zip(mine, ports):
                arrive[i] = at
        paths = []
        for i, (edge, bends) in enumerate(zip(graph.edges, plan.bends)):
            row = self.row[edge.source]
            points = [(leave[i], self.top[row] + self.height(edge.source)), (leave[i], self._floor(row))]
            for step, at in enumerate(bends, row + 1):
                points += [(at, self.top[step]), (at, self._floor(step))]
            paths.append([*points, (arrive[i], self.top[self.row[edge.target]])])
        return paths

    def _floor(self, row: int) -> float:
        """Below the labels of a row."""
        return self.bottom[row] + _LINE + 6


def _text_width(lines: list[str]) -> float:
    return _CHARACTER * max(map(len, lines))


def _svg(graph: Graph) -> str:
    """The picture, on a white page of its own so that it reads the same in a light and in a dark notebook.

    No style sheet and no references: what cleans a page of a notebook would take those away.
    """
    layout = _Layout(graph)
    width = max(layout.width, _LEAST_WIDTH)
    shift = _MARGIN + (width - layout.width) / 2
    told = [line for said in (_LEGEND, graph.note) for line in textwrap.wrap(said, int(width / _SMALL_CHARACTER))]
    tall = layout.tall + 12 + _LINE * len(told)
    page = f"{width + 2 * _MARGIN:.0f}", f"{tall + 2 * _MARGIN:.0f}"
    notes = [
        f'<text x="{_MARGIN}" y="{_MARGIN + layout.tall + 24 + _LINE * place:.1f}">{escape(line)}</text>'
        for place, line in enumerate(told)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{page[0]}" height="{page[1]}" '
            f'viewBox="0 0 {page[0]} {page[1]}" role="img">',
            f"<title>Tape of {escape(graph.nodes[-1].name)}</title><desc>{escape(graph.describe())}</desc>",
            f'<rect width="{page[0]}" height="{page[1]}" rx="6" fill="white"/>',
            f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{_FONT}" fill="{_INK}">',
            f'<g transform="translate({shift:.1f} {_MARGIN})" text-anchor="middle">',
            *(_edge(graph, edge, points) for edge, points in zip(graph.edges, layout.paths)),
            *(_box(layout, node) for node in graph.nodes),
            "</g>",
            f'<g font-size="{_FONT - 2}">{"".join(notes)}</g></g></svg>',
        ]
    )


def _edge(graph: Graph, edge: GraphEdge, points: list[tuple[float, float]]) -> str:
    """The line with an arrow; a mouse that rests on it is told what flows from where to where."""
    said = f"{graph.nodes[edge.source]} to {graph.nodes[edge.target]}: {_by(edge.shape)}"
    x, y = points[-1]
    return (
        f'<g class="edge" data-edge="{edge.source} {edge.target} {edge.position}"><title>{escape(said)}</title>'
        f'<path d="{_path(points)}" fill="none" stroke="{_INK}"/>'
        f'<path d="M{x - 3:.1f} {y - 7:.1f}h6L{x:.1f} {y:.1f}z"/></g>'
    )


def _box(layout: _Layout, node: GraphNode) -> str:
    """The box of a node with what is written in it, and below it the shapes of its results, each on its line."""
    width, height = layout.box[node.number], layout.height(node.number)
    row = layout.row[node.number]
    x, y = layout.x[node.number] - width / 2, layout.top[row]
    round_ = 2 if node.kind == "operator" else height / 2
    dashed = ' stroke-dasharray="4 3"' if node.kind == "constant" or node.freed else ""
    made = [
        f'<g class="{node.kind}" data-node="{node.number}"><title>{escape(str(node))}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_:.0f}" '
        f'fill="{_FILL[node.kind]}" stroke="{_INK}"{dashed}/>'
    ]
    for place, line in enumerate(layout.lines[node.number]):
        weight = ' font-weight="bold"' if place == 0 and node.kind == "operator" else ""
        made.append(f'<text x="{x + width / 2:.1f}" y="{y + 16 + _LINE * place:.1f}"{weight}>{escape(line)}</text>')
    floor = layout.bottom[row] + _LINE
    for result, at in layout.leaving[node.number].items():
        label = _by(layout.used[node.number][result])
        wide = _text_width([label]) + 4
        made.append(
            f'<rect x="{at - wide / 2:.1f}" y="{floor - 12}" width="{wide:.1f}" height="15" fill="white"/>'
            f'<text class="shape" data-result="{result}" x="{at:.1f}" y="{floor}">{escape(label)}</text>'
        )
    return "".join([*made, "</g>"])


def _path(points: list[tuple[float, float]]) -> str:
    """Straight where a row is passed; a curve that starts and ends downwards, and so stays between two rows."""
    said = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        if abs(x - to_x) < 0.05:
            said.append(f"L{to_x:.1f} {to_y:.1f}")
        else:
            middle = (y + to_y) / 2
            said.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
    return "".join(said)
