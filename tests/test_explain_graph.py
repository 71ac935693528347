"""The picture of the tape: its nodes against torch's own tape, its shapes against torch's, its places by geometry."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given
from hypothesis import strategies as st

import tinyconv as tc
from tinyconv import Tensor, explain, nn
from tinyconv import functional as F
from tinyconv.explain.layered import draw, spread
from tinyconv.models.lenet import LeNet5
from tinyconv.models.unet import UNet

SVG = "{http://www.w3.org/2000/svg}"

# --------------------------------------------------------------------------------------------------
# The same networks in both libraries, from the same lines


def lenet(lib: Any, f: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 6, 5, padding=2), lib.Tanh(), lib.AvgPool2d(2),
        lib.Conv2d(6, 16, 5), lib.Tanh(), lib.AvgPool2d(2), lib.Flatten(),
        lib.Linear(400, 120), lib.Tanh(), lib.Linear(120, 84), lib.Tanh(), lib.Linear(84, 10),
    )  # fmt: skip


def residual(lib: Any, f: Any) -> Any:
    class Block(lib.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = lib.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
            self.conv2 = lib.Conv2d(4, 4, 3, padding=1, bias=False)
            self.short = lib.Conv2d(1, 4, 1, stride=2, bias=False)

        def forward(self, x: Any) -> Any:
            return f.relu(self.conv2(f.relu(self.conv1(x))) + self.short(x))

    return Block()


def unet(lib: Any, f: Any) -> Any:
    def double(a: int, b: int) -> Any:
        return lib.Sequential(
            lib.Conv2d(a, b, 3, padding=1, bias=False), lib.InstanceNorm2d(b, affine=True), lib.ReLU(),
            lib.Conv2d(b, b, 3, padding=1, bias=False), lib.InstanceNorm2d(b, affine=True), lib.ReLU(),
        )  # fmt: skip

    class Net(lib.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.down0, self.down1, self.merge = double(1, 2), double(2, 4), double(4, 2)
            self.up, self.head = lib.ConvTranspose2d(4, 2, 2, stride=2), lib.Conv2d(2, 3, 1)

        def forward(self, x: Any) -> Any:
            skip = self.down0(x)
            deep = self.up(self.down1(f.max_pool2d(skip, 2)))
            return self.head(self.merge((tc.cat if lib is nn else torch.cat)([skip, deep], 1)))

    return Net()


#: Kinds that both tapes have a node for; other nodes, such as reshapes, are looked through.
KINDS = {
    "Conv": "conv", "ConvInput": "conv", "ConvolutionBackward0": "conv",
    "Tanh": "tanh", "TanhBackward0": "tanh", "Relu": "relu", "ReluBackward0": "relu",
    "AvgPool": "avg_pool", "AvgPool2DBackward0": "avg_pool",
    "MaxPool": "max_pool", "MaxPool2DWithIndicesBackward0": "max_pool",
    "MatMul": "linear", "AddmmBackward0": "linear", "Cat": "cat", "CatBackward0": "cat",
    "Normalise": "norm", "NativeBatchNormBackward0": "norm",
}  # fmt: skip

#: A node as its kind and what it is made of, all the way down.
Label = tuple[Any, ...]


def labels(sources: dict[Any, list[Any]], names: dict[Any, str], kinds: dict[Any, str]) -> Counter[Label]:
    """How often each node of a tape occurs. A bias is left out: torch adds it within its convolution."""
    known: dict[Any, Label | None] = {}

    def seen(node: Any) -> list[Label]:
        """The labelled nodes that a node stands for: itself, or those behind it."""
        if node in names:
            return [] if names[node].endswith("bias") else [(names[node],)]
        behind = sorted(label for source in sources[node] for label in seen(source))
        if node not in kinds:
            return behind
        known[node] = (kinds[node], *behind)
        return [known[node]]

    for node in sources:
        seen(node)
    return Counter(label for label in known.values() if label)


def of_torch(model: Any, x: torch.Tensor, adds: bool) -> Counter[Label]:
    parameters = {id(p): name for name, p in model.named_parameters()} | {id(x): "input"}
    y = model(x)
    sources: dict[Any, list[Any]] = {}
    waiting = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in sources:
            sources[node] = [below for below, _ in node.next_functions if below is not None]
            waiting += sources[node]
    names = {node: parameters[id(node.variable)] for node in sources if hasattr(node, "variable")}
    table = KINDS | ({"AddBackward0": "add"} if adds else {})
    return labels(sources, names, {node: table[node.name()] for node in sources if node.name() in table})


def of_graph(graph: explain.Graph, adds: bool) -> Counter[Label]:
    sources: dict[Any, list[Any]] = {node.number: [] for node in graph.nodes}
    for edge in graph.edges:
        sources[edge.target].append(edge.source)
    names = {node.number: node.name for node in graph.nodes if node.kind in ("parameter", "input")}
    table = KINDS | ({"Add": "add"} if adds else {})
    return labels(sources, names, {node.number: table[node.name] for node in graph.nodes if node.name in table})


NETWORKS = [pytest.param(make, id=make.__name__) for make in (lenet, residual, unet)]


@pytest.mark.parametrize("make", NETWORKS)
def test_the_operators_and_what_joins_them_are_those_of_torchs_tape(make: Callable[..., Any]) -> None:
    ours, theirs = make(nn, F), make(torch.nn, TF)
    x = tc.zeros(1, 1, 28, 28, requires_grad=True)
    adds = make is residual  # elsewhere additions are biases
    found = of_graph(explain.graph(ours(x), ours), adds)
    expected = of_torch(theirs, torch.zeros(1, 1, 28, 28, requires_grad=True), adds)
    assert found == expected and sum(found.values()) >= 5


@pytest.mark.parametrize("make", NETWORKS)
def test_shapes_on_edges_are_those_of_torch(make: Callable[..., Any]) -> None:
    ours, theirs = make(nn, F), make(torch.nn, TF)
    made: dict[str, tuple[int, ...]] = {}
    for name, module in theirs.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, args, y, name=name: made.update({name: tuple(y.shape)}))
    theirs(torch.zeros(2, 1, 28, 28))
    graph = explain.graph(ours(tc.zeros(2, 1, 28, 28)), ours)
    shapes = {p.data.shape for p in ours.parameters()}
    weights = dict(theirs.named_parameters())
    checked = 0
    for edge in graph.edges:
        source = graph.nodes[edge.source]
        if source.kind == "parameter":
            assert edge.shape == tuple(weights[source.name].shape) and edge.shape in shapes
        if source.name in ("Conv", "ConvInput"):
            (weight,) = (graph.nodes[e.source] for e in graph.edges if e.target == source.number and e.position == 1)
            assert edge.shape == made[weight.name.removesuffix(".weight")]
            checked += 1
    assert checked == sum(isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for m in theirs.modules())
    texts = [text.text for text in ET.fromstring(graph._repr_svg_()).iter(f"{SVG}text") if text.get("class") == "shape"]
    flowing = {(edge.source, edge.result): edge.shape for edge in graph.edges}
    assert Counter(texts) == Counter("×".join(map(str, shape)) for shape in flowing.values())


def test_a_box_says_what_window_its_operator_slides() -> None:
    x, w = tc.zeros(1, 4, 12, 12), tc.zeros(4, 2, 3, 2, requires_grad=True)
    y = F.conv2d(x, w, stride=(2, 1), padding=1, dilation=2, groups=2)
    z = F.conv_transpose2d(y, w, stride=2, groups=2, output_padding=1)
    graph = explain.graph(z, {"w": w, "x": x})
    (conv,) = (node for node in graph.nodes if node.name == "Conv")
    assert conv.detail == "3×2, stride 2×1, padding 1, dilation 2, groups 2"
    (transposed,) = (node for node in graph.nodes if node.name == "ConvInput")
    assert transposed.detail == "transposed, 3×2, stride 2, groups 2"
    kinds = {node.name: node.kind for node in graph.nodes}
    assert kinds["w"] == "input" and kinds["x"] == "constant"  # x wants no gradient, but Conv keeps it
    assert [(e.source, e.position) for e in graph.edges if e.target == conv.number] == [(0, 0), (1, 1)]


# --------------------------------------------------------------------------------------------------
# Other tapes


def test_a_diamond_has_each_node_once_and_an_edge_for_each_use() -> None:
    x = tc.ones(3, requires_grad=True)
    y = x
    for _ in range(40):  # 2^40 ways, 40 nodes
        y = y + y
    graph = explain.graph(y, {"x": x})
    assert [node.name for node in graph.nodes] == ["x", *["Add"] * 40, "output"]
    assert [(e.source, e.target, e.position) for e in graph.edges] == [
        *((n, n + 1, position) for n in range(40) for position in (0, 1)),
        (40, 41, 0),
    ]
    check_picture(graph)


def test_results_of_one_operator_are_told_apart() -> None:
    class Both(tc.Function):
        def forward(self, x: Any) -> Any:
            return x[:2], x[2:]

        def backward(self, left: Tensor, right: Tensor) -> Any:
            return tc.cat([left, right], 0)

    left, right = Both()(tc.ones(5, requires_grad=True))
    graph = explain.graph([left * left.sum(), right])
    assert [node.name for node in graph.nodes if node.kind == "output"] == ["output 0", "output 1"]
    both = next(node.number for node in graph.nodes if node.name == "Both")
    assert {(e.result, e.shape) for e in graph.edges if e.source == both} == {(0, (2,)), (1, (3,))}
    assert f"{both}.1" in graph.text()
    check_picture(graph)


def test_the_tape_of_a_gradient() -> None:
    x, w = tc.ones(1, 1, 5, 5, requires_grad=True), tc.ones(1, 1, 3, 3, requires_grad=True)
    y = (F.conv2d(x, w, stride=2) ** 2).sum()
    (gx,) = tc.grad(y, x, create_graph=True)
    graph = explain.graph(gx, {"x": x, "w": w})
    names = [node.name for node in graph.nodes]
    assert names.count("Conv") == names.count("ConvInput") == names.count("w") == 1
    users = {graph.nodes[e.target].name for e in graph.edges if graph.nodes[e.source].name == "w"}
    assert users == {"Conv", "ConvInput"}  # y = (x*w)^2, so its gradient reads w twice
    check_picture(graph)


def test_a_freed_tape_says_so() -> None:
    x, w = tc.zeros(1, 1, 5, 5), tc.ones(1, 1, 3, 3, requires_grad=True)
    y = F.conv2d(x, w).sum()
    before = explain.graph(y)
    y.backward()
    graph = explain.graph(y)
    assert "freed by an earlier backward" in graph.note and "freed by an earlier backward" in graph.text()
    assert [node.name for node in graph.nodes if node.freed] == ["Conv"] and not before.note
    assert "freed" in graph._repr_svg_()
    assert {n.name for n in before.nodes if n.kind == "operator"} == {
        n.name for n in graph.nodes if n.kind == "operator"
    }
    check_picture(graph)


def test_no_history_says_so_and_why() -> None:
    w = tc.ones(3, requires_grad=True)
    with tc.no_grad():
        y = w * 2
    assert "computed under no_grad()" in explain.graph(y).note
    assert "it is a leaf" in explain.graph(w).note
    assert [node.kind for node in explain.graph(w).nodes] == ["input", "output"]
    assert "it is a leaf" in explain.graph(w)._repr_svg_().replace("\n", " ")
    check_picture(explain.graph(w))
    check_picture(explain.graph(tc.tensor(3.0)))


def test_a_long_tape_is_refused_with_its_length() -> None:
    y = x = tc.ones(2, requires_grad=True)
    for _ in range(5000):
        y = y.tanh()
    with pytest.raises(ValueError, match=r"graph: the tape behind y has 5,002 nodes, more than max_nodes=300"):
        explain.graph(y)
    assert x.grad is None
    graph = explain.graph(y, max_nodes=6000)
    assert sum(node.kind == "operator" for node in graph.nodes) == 5000


@pytest.mark.parametrize(
    "call, error, said",
    [
        (lambda: explain.graph(np.ones(3)), TypeError, "graph: y must be a tensor"),
        (lambda: explain.graph(3), TypeError, "there is a int"),
        (lambda: explain.graph([]), ValueError, "graph: y holds no tensor"),
        (lambda: explain.graph(tc.ones(1)).save("tape.png"), ValueError, "a graph is written as .svg"),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused_with_a_sentence(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        call()


# --------------------------------------------------------------------------------------------------
# The text


@pytest.mark.parametrize("make", NETWORKS)
def test_the_text_fits_80_columns_names_every_node_and_can_be_ascii(make: Callable[..., Any]) -> None:
    model = make(nn, F)
    graph = explain.graph(model(tc.zeros(1, 1, 28, 28, requires_grad=True)), model)
    assert all(len(line) <= 80 for line in str(graph).splitlines())
    plain = graph.text(unicode=False)
    assert plain.isascii() and "1x1x28x28" in plain
    for node in graph.nodes:
        (line,) = (row for row in plain.splitlines() if re.match(rf" *{node.number}  ", row))
        assert node.name in line
    y, x = graph.nodes[-1], tc.zeros(1, requires_grad=True)
    assert f"of shape {'x'.join(map(str, y.shape))}" in plain.replace("\n", " ")
    wide = explain.graph(tc.cat([x + i for i in range(60)], 0)).text()
    assert all(len(line) <= 80 for line in wide.splitlines())


# --------------------------------------------------------------------------------------------------
# The picture, read as XML

Box = tuple[float, float, float, float]  # left, top, right, bottom


def rectangles(root: ET.Element) -> tuple[dict[int, Box], list[tuple[int, Box]]]:
    """The boxes by their node, and the grounds of the shapes with their node."""
    boxes: dict[int, Box] = {}
    grounds: list[tuple[int, Box]] = []
    for group in root.iter(f"{SVG}g"):
        if group.get("data-node") is not None:
            first, *rest = (
                (x, y, x + float(r.get("width", 0)), y + float(r.get("height", 0)))
                for r in group.iter(f"{SVG}rect")
                for x, y in [(float(r.get("x", 0)), float(r.get("y", 0)))]
            )
            number = int(group.get("data-node", -1))
            boxes[number] = first
            grounds += [(number, box) for box in rest]
    return boxes, grounds


def curve(path: str) -> list[tuple[float, float]]:
    """Points along a path of M, L and C, close together."""
    points: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MLC])([^MLC]*)", path):
        values = list(map(float, numbers.split()))
        pairs = list(zip(values[::2], values[1::2]))
        start = points[-1] if points else pairs[0]
        control = [start, start, pairs[-1], pairs[-1]] if command == "L" else [start, *pairs]
        for step in range(41 if command != "M" else 1):
            t = step / 40
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            found = [sum(w * p[axis] for w, p in zip(weights, control)) for axis in (0, 1)]
            points.append((found[0], found[1]) if command != "M" else start)
    return points


def apart(a: Box, b: Box) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def check_picture(graph: explain.Graph) -> None:
    """Boxes and shapes do not overlap, edges lead from border to border and through no box, all is on the page."""
    root = ET.fromstring(graph._repr_svg_())
    boxes, grounds = rectangles(root)
    assert set(boxes) == {node.number for node in graph.nodes}
    rectangular = [*boxes.values(), *(box for _, box in grounds)]
    for one, other in itertools.combinations(rectangular, 2):
        assert apart(one, other), (one, other)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    move = next(g.get("transform", "") for g in root.iter(f"{SVG}g") if g.get("transform"))
    shift = [float(number) for number in re.findall(r"-?[\d.]+", move)]
    for box in rectangular:
        assert 0 <= box[0] + shift[0] and box[2] + shift[0] <= width
        assert 0 <= box[1] + shift[1] and box[3] + shift[1] <= height
    edges = [group for group in root.iter(f"{SVG}g") if group.get("class") == "edge"]
    told = [tuple(map(int, group.get("data-edge", "").split())) for group in edges]
    assert told == [(e.source, e.target, e.position) for e in graph.edges]
    for group, (source, target, _) in zip(edges, told):
        points = curve(group.findall(f"{SVG}path")[0].get("d", ""))
        ends = (points[0][0], points[0][1], boxes[source]), (points[-1][0], points[-1][1], boxes[target])
        assert points[0][1] == pytest.approx(boxes[source][3], abs=0.2), "leaves at the bottom"
        assert points[-1][1] == pytest.approx(boxes[target][1], abs=0.2), "enters at the top"
        assert all(box[0] <= x <= box[2] for x, _, box in ends)
        for x, y in points:
            solid = [*boxes.items(), *((n, box) for n, box in grounds if n != source)]  # a shape stands on its own line
            inside = [n for n, b in solid if b[0] < x < b[2] and b[1] + 0.2 < y < b[3] - 0.2]
            assert not inside, f"the edge {source} to {target} runs through {inside}"
            assert 0 <= x + shift[0] <= width


@pytest.mark.parametrize("model, size", [(LeNet5(), 28), (UNet(base=2, levels=3), 16), (residual(nn, F), 9)])
def test_no_box_overlaps_and_no_edge_runs_through_a_box(model: Any, size: int) -> None:
    check_picture(explain.graph(model(tc.zeros(1, 1, size, size, requires_grad=True)), model))


def test_long_edges_of_a_second_derivative_run_through_no_box() -> None:
    model, x = LeNet5(), tc.zeros(1, 1, 28, 28, requires_grad=True)
    (gx,) = tc.grad((model(x) ** 2).sum(), x, create_graph=True)
    graph = explain.graph([gx, (gx * gx).sum()], model)
    assert max(e.target - e.source for e in graph.edges) > 50
    check_picture(graph)


def test_the_picture_has_alternative_text_and_letters_of_enough_contrast(tmp_path: Path) -> None:
    model = LeNet5()
    graph = explain.graph(model(tc.zeros(1, 1, 28, 28)), model)
    graph.save(tmp_path / "tape.svg")
    root = ET.parse(tmp_path / "tape.svg").getroot()
    assert root.get("role") == "img"
    assert (root.findtext(f"{SVG}desc") or "").startswith("The tape of a result of shape 1×10: ")
    assert "10 parameters" in graph.describe() and "1 constant" in graph.describe()

    def luminance(colour: str) -> float:  # WCAG 2.2, relative luminance
        parts = [1.0] * 3 if colour == "white" else [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = next(g.get("fill", "") for g in root.iter(f"{SVG}g") if g.get("font-family"))
    for rectangle in root.iter(f"{SVG}rect"):
        assert (luminance(rectangle.get("fill", "")) + 0.05) / (luminance(ink) + 0.05) >= 4.5


# --------------------------------------------------------------------------------------------------
# The layout alone


@st.composite
def dags(draw_: st.DrawFn) -> tuple[list[float], list[tuple[int, int]]]:
    widths = draw_(st.lists(st.floats(5, 200), min_size=1, max_size=12))
    pair = st.tuples(st.integers(0, len(widths) - 1), st.integers(0, len(widths) - 1))
    pairs = draw_(st.lists(pair, max_size=24))
    return widths, [(min(p), max(p)) for p in pairs if p[0] != p[1]]


@given(dags())
def test_any_graph_is_laid_out_with_edges_downwards_and_nothing_overlapping(
    case: tuple[list[float], list[tuple[int, int]]],
) -> None:
    widths, edges = case
    plan = draw(widths, edges)
    row = {n: r for r, numbers in enumerate(plan.rows) for n in numbers}
    assert sorted(row) == list(range(len(widths)))
    for (source, target), bends in zip(edges, plan.bends):
        assert row[source] < row[target] and len(bends) == row[target] - row[source] - 1
        for passed, x in enumerate(bends, row[source] + 1):
            assert all(abs(x - plan.x[n]) > widths[n] / 2 for n in plan.rows[passed]), "a bend has a place of its own"
            assert -1e-6 <= x <= plan.width + 1e-6
    for numbers in plan.rows:
        for a, b in itertools.combinations(numbers, 2):
            assert abs(plan.x[a] - plan.x[b]) >= (widths[a] + widths[b]) / 2
    for n, width in enumerate(widths):
        assert -1e-6 <= plan.x[n] - width / 2 and plan.x[n] + width / 2 <= plan.width + 1e-6


def test_places_are_spread_as_a_grid_search_would() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(0, 11)
    for _ in range(20):
        wanted, weights = rng.uniform(2, 8, 3), rng.uniform(0.5, 4, 3)
        found = spread(wanted, [1.0, 2.0], weights, 0, 10)
        assert found[1] - found[0] >= 1 - 1e-9 and found[2] - found[1] >= 2 - 1e-9

        def cost(at: Any, wanted: Any = wanted, weights: Any = weights) -> float:
            return float((weights * (np.asarray(at) - wanted) ** 2).sum())

        best = min(cost(at) for at in itertools.product(steps, repeat=3) if at[1] - at[0] >= 1 and at[2] - at[1] >= 2)
        assert cost(found) <= best + 1e-9
