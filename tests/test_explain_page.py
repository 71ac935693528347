"""The page without a browser: what the static picture says, what the data hold, and what cannot be a page."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from test_explain_figure import CASES
from test_explain_trace import W, X
from tinyconv import cli, explain
from tinyconv import functional as F
from tinyconv.explain import page

VOID = {"meta", "input", "br"}
SVG = "http://www.w3.org/2000/svg"  # a name, which nobody fetches


class Document(HTMLParser):
    """Tables as rows of (classes, text), the text of the paragraphs, and whether every tag is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.tables: dict[str, list[list[tuple[set[str], str]]]] = {}
        self.paragraphs: dict[str, str] = {}
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.rows: list[list[tuple[set[str], str]]] = []
        self.classes, self.caption, self.words = set[str](), "", ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        self.data: dict[str, Any] = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag == "table":
            self.rows = []
        elif tag == "td":
            self.classes, self.words = set((self.data.get("class") or "").split()), ""
        elif tag in ("p", "title", "caption", "script"):
            self.words, self.classes, self.kind = "", set((self.data.get("class") or "").split()), self.data

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("i", "small"):  # marks and factors
            self.words += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "td":
            self.rows[-1].append((self.classes, self.words))
        elif tag == "caption":
            self.caption = self.words
        elif tag == "table":
            self.tables[self.caption] = self.rows
        elif tag in ("p", "title"):
            self.paragraphs[next(iter(self.classes), tag)] = self.words
        elif tag == "script":
            self.scripts.append((self.kind, self.words))


def guide() -> explain.Trace:
    return explain.trace(F.conv2d, X, W, stride=2, padding=1)


def value(text: str) -> float:
    return float(text.replace("−", "-").replace("∞", "inf"))


@pytest.fixture(params=[name for name in CASES if name != "fold"])  # which has no page
def t(request: pytest.FixtureRequest) -> explain.Trace:
    operator, args, options = CASES[request.param]
    return explain.trace(operator, *args, **options)


def numbers(table: list[list[tuple[set[str], str]]]) -> list[list[float]]:
    rows = [[value(text) for classes, text in row if "outside" not in classes] for row in table]
    return [row for row in rows if row]


@pytest.mark.parametrize("by", ["output", "input", "weight"])
def test_the_picture_holds_the_numbers_and_the_marks_of_the_step(t: explain.Trace, by: str) -> None:
    if by == "weight" and t.weight is None:
        return
    step = t.at(**{by: tuple(n // 2 for n in t.shape(by))})
    document = Document(t.to_html(step))
    made = {"output": t.forward, "input": lambda: t.grad_input(None), "weight": lambda: t.grad_weight(None)}[by]()
    title = "" if by == "output" else "gradient of "
    for lead in np.ndindex(made.shape[: made.ndim - (2 if by == "output" and made.ndim < t.x.ndim else t.g.rank)]):
        name = f"{title}{by}[{','.join(map(str, lead))}]"
        if name in document.tables:
            shown = numbers(document.tables[name])
            assert np.ravel(shown) == pytest.approx(np.ravel(made[lead]), abs=5e-3)
    marked = {state: 0 for state in ("read", "made", "winner")}
    for table in document.tables.values():
        for row in table:
            for classes, _ in row:
                for state in marked:
                    marked[state] += state in classes
    read = {(name, getattr(term, name)) for term in step.terms for name in ("output", "input", "weight") if name != by}
    assert marked["made"] == 1
    assert marked["read"] == len([index for _, index in read if index is not None])
    assert document.paragraphs["sentence"] == t.describe(step)
    assert document.paragraphs["equation"].endswith(f"= {explain.text.number(step.value)}")
    if step.operation == "maximum":
        assert marked["winner"] == 1


def test_the_numbers_of_the_guide_are_those_of_torch() -> None:
    t, g = guide(), np.arange(9.0).reshape(1, 1, 3, 3)
    x, w = (torch.tensor(np.asarray(a, float), requires_grad=True) for a in (X, W))
    y = TF.conv2d(x, w, stride=2, padding=1)
    y.backward(torch.tensor(g))
    assert x.grad is not None and w.grad is not None
    for by, expected in (("output", y), ("input", x.grad), ("weight", w.grad)):
        tables = Document(t.to_html(t.at(**{by: (0, 0, 1, 1)}, g=g), g)).tables
        title = f"{by}[0,0]" if by == "output" else f"gradient of {by}[0,0]"
        assert numbers(tables[title]) == expected[0, 0].tolist()


def test_the_data_are_what_the_operator_was_given() -> None:
    shapes = ((2, 2, 5, 4), (4, 1, 3, 2), (4,))
    x, w, b = (np.random.default_rng(0).standard_normal(shape).astype("float32") for shape in shapes)
    t = explain.trace(F.conv2d, x, w, b, stride=2, padding=1, groups=2)
    data = told(t.to_html())
    assert data["arrays"]["input"] == x.ravel().tolist() and data["arrays"]["weight"] == w.ravel().tolist()
    assert data["arrays"]["bias"] == b.tolist() and data["shapes"]["output"] == list(TF.conv2d(
        torch.tensor(x), torch.tensor(w), torch.tensor(b), stride=2, padding=1, groups=2).shape)  # fmt: skip
    # A window of ones at its pixels of an image that is numbered gives the same numbers as torch's unfold.
    image = torch.arange(1.0, 21.0).reshape(1, 1, 5, 4)
    columns = TF.unfold(image, (3, 2), padding=1, stride=2)[0]
    rows, cols = data["pixels"]
    for place, (oh, ow) in enumerate(np.ndindex(*data["small"][2:])):
        for tap, (kh, kw) in enumerate(np.ndindex(3, 2)):
            ih, iw = rows[oh][kh], cols[ow][kw]
            inside = 0 <= ih < 5 and 0 <= iw < 4
            assert columns[tap, place] == (image[0, 0, ih, iw] if inside else 0)


def told(source: str) -> dict[str, Any]:
    return next(json.loads(text) for kind, text in Document(source).scripts if kind.get("type") == "application/json")


def test_nan_and_infinities_are_shown_and_carried() -> None:
    x = np.array([[[np.nan, np.inf, -np.inf, 1.0]]])
    source = explain.trace(F.max_pool1d, x, 2, 1).to_html()
    assert told(source)["arrays"]["input"] == ["NaN", "Infinity", "-Infinity", 1]
    assert [text for _, text in Document(source).tables["input[0,0]"][0]] == ["NaN", "∞", "−∞", "1"]
    padded = explain.trace(F.max_pool1d, x, 3, 1, 1).to_html()
    assert Document(padded).tables["input[0,0]"][0][0] == ({"outside", "read"}, "−∞")


def test_a_document_is_whole_and_asks_for_nothing() -> None:
    source = guide().to_html()
    assert source.startswith('<!doctype html>\n<html lang="en">') and '<meta name="viewport"' in source
    document = Document(source)
    assert document.paragraphs["title"] == "conv2d, step by step"
    assert re.findall(r"https?://[^\"'`\s]*", source) == [SVG]
    assert not {"src", "href"} & {name for name, _ in document.attributes} and "@import" not in source
    assert not {"link", "img", "iframe"} & set(document.tags)


def test_names_are_escaped() -> None:
    t = guide()
    t.name = '</script><img src=x onerror="alert(1)">&'
    source = t.to_html()
    assert "<img" not in source and source.count("</script>") == 2
    assert told(source)["operator"] == t.name and t.name in Document(source).paragraphs["head"]


def test_without_styles_brackets_say_what_frames_say() -> None:
    plain = re.sub(r"<(style|script).*?</\1>", "", guide()._repr_html_(), flags=re.DOTALL)
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td.*?</td>", plain)]
    assert cells[:4] == ["·[0×0]", "·[0×1]", "·[0×2]", "·0"] and cells[7:11] == ["·[0×2]", "[3×2]", "[3×0]", "2"]
    assert cells.count("«6»") == 1 and sum("[" in cell for cell in cells) == 18
    words = re.sub("<[^>]+>", "", plain)
    assert "Solid frame [ ]: read; double frame « »: made; hatched ·: padding" in words
    pooled = explain.trace(F.max_pool2d, X, 2)._repr_html_()
    assert "[3*]" in re.sub("<[^>]+>", "", pooled) and "ring *: winner" in re.sub("<[^>]+>", "", pooled)


def test_a_page_of_fold_is_refused_with_what_to_trace_instead() -> None:
    t = explain.trace(F.fold, np.ones((1, 4, 9)), (4, 4), 2)
    with pytest.raises(ValueError, match="to_html: .*trace the unfold"):
        t.to_html()
    assert "trace the unfold" in t._repr_html_() and "<pre>" in t._repr_html_()


@pytest.mark.parametrize("shape, operator", [((1, 1, 4, 4, 4), F.max_pool3d), ((1, 1, 80, 80), F.max_pool2d)])
def test_what_is_no_page_is_text_in_a_notebook(shape: tuple[int, ...], operator: Any) -> None:
    t = explain.trace(operator, np.arange(float(np.prod(shape))).reshape(shape), 2)
    with pytest.raises(ValueError, match=r"to_html: a page shows one or two axes.*Trace a crop of it, such as x"):
        t.to_html()
    shown = t._repr_html_()
    assert "Trace a crop" in shown and "is the largest of" in shown and "<pre>" in shown
    Document(shown)


def test_too_many_products_and_nothing_to_show_are_said() -> None:
    t = explain.trace(F.conv2d, X, W, max_terms=8)
    assert "at most 4,000 numbers and 8 products" in t._repr_html_() and "<pre>" not in t._repr_html_()
    nothing = explain.trace(F.conv1d, np.ones((0, 1, 3)), np.ones((1, 1, 2)))
    assert "there is nothing to show; the output of conv1d is (0, 1, 2)" in nothing._repr_html_()


def luminance(colour: str) -> float:
    """Relative luminance; WCAG 2.2, section 1.4.3."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground(scheme: int) -> None:
    colours = re.findall(r"--([a-z]+): light-dark\((#\w{6}), (#\w{6})\)", page.asset("page.css"))
    named = {name: pair[scheme] for name, *pair in colours}
    assert contrast("#000000", "#ffffff") == 21
    for ground in ("page", "read", "made", "partner", "outside", "hatch", "button"):
        assert contrast(named["text"], named[ground]) >= 4.5, ground
    assert contrast(named["muted"], named["page"]) >= 4.5 and contrast(named["page"], named["text"]) >= 4.5
    for line in ("line", "accent"):  # 1.4.11: what is needed to see a control
        assert contrast(named[line], named["page"]) >= 3


def test_save_and_the_shell_write_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    t = guide()
    t.save(tmp_path / "page.html", by="input", step=t.at(input=(0, 0, 1, 1)))
    assert told((tmp_path / "page.html").read_text(encoding="utf-8"))["index"] == [0, 0, 1, 1]
    t.save(tmp_path / "page.html", by="weight")
    assert told((tmp_path / "page.html").read_text(encoding="utf-8"))["view"] == "weight"
    line = f"explain conv2d --input 5 --kernel 3 --stride 2 --padding 1 --at 0 0 1 2 --html {tmp_path}/out.html"
    assert cli.main(line.split()) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out.html: open it in a browser; it needs no network.\n"
    data = told((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert data["index"] == [0, 0, 1, 2] and data["settings"].startswith("kernel 3×3 · stride 2×2 · padding 1×1")
    assert cli.main(["explain", "max_pool3d", "--html", str(tmp_path / "no.html")]) == 1
    assert "to_html: a page shows one or two axes" in capsys.readouterr().err


def test_a_widget_and_python_hear_from_each_other() -> None:
    pytest.importorskip("anywidget")
    t = guide()
    w = t.widget(t.at(output=(0, 0, 1, 2)))
    assert w.view == "output" and w.index == [0, 0, 1, 2] and w.step == t.at(output=(0, 0, 1, 2))
    w.set_state({"view": "input", "index": [0, 0, 4, 4]})  # as the browser does
    assert w.step == t.at(input=(0, 0, 4, 4))
    edited = [2 * v for v in w.weight]
    w.set_state({"weight": edited})
    x, kernel = torch.tensor(np.asarray(X, float), requires_grad=True), 2 * torch.tensor(np.asarray(W, float))
    TF.conv2d(x, kernel, stride=2, padding=1).sum().backward()
    assert x.grad is not None and w.step.value == x.grad[0, 0, 4, 4]
    assert t.w is not None and t.w.tolist() == np.asarray(W).tolist(), "the trace itself is as it was"
    w.view = "weight"
    assert w.index == [0, 0, 0, 0]
    with pytest.raises(IndexError, match=r"weight=\(0, 0, 3, 0\) is not an element"):
        w.index = [0, 0, 3, 0]
    pooled = explain.trace(F.max_pool2d, np.array([[[[np.nan, 1.0], [2.0, 3.0]]]]), 2).widget()
    assert np.isnan(pooled.trace.forward()).all() and pooled.weight is None
    with pytest.raises(ValueError, match="max_pool2d has no weight"):
        pooled.view = "weight"


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"anywidget, which is missing: pip install 'tinyconv\[lab\]'"):
        guide().widget()


def test_a_cell_holds_few_characters() -> None:
    texts = {
        0.0: "0",
        -3.0: "−3",
        1234.5: "1234",
        0.125: "0.125",
        -1e-5: "−1e−05",
        99999.0: "99999",
        123456.0: "1.23e+05",
    }
    assert {value: page.short(value) for value in texts} == texts
