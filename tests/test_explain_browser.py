"""The page in a real browser, headless Chromium: what is clicked, typed and played shows what torch computes.

Playwright drives it, for it knows of media settings, downloads and a page's clock, so that no test sleeps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from test_explain_figure import CASES, whole
from test_explain_trace import W, X
from tinyconv import explain
from tinyconv import functional as F
from tinyconv.explain import figure, page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium, chromium-browser or google-chrome")
OFFLINE = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

R = np.random.default_rng(1)
NAN = np.array([[[[1.0, np.nan, -2.0], [np.inf, 0.5, -np.inf], [3.0, 3.0, np.nan]]]])
#: Operator, arrays and options; beside those of the figures: float32, several images, a negative zero, NaN.
PAGES = {name: case for name, case in CASES.items() if name != "fold"} | {
    "guide": (F.conv2d, (X, W), {"stride": 2, "padding": 1}),
    "float32": (F.conv2d, (R.standard_normal((2, 2, 4, 4)).astype("f"), R.standard_normal((2, 2, 2, 2)).astype("f"),
                           R.standard_normal(2).astype("f")), {"padding": 1, "dilation": 2}),
    "conv_transpose1d": (F.conv_transpose1d, (whole(2, 2, 3), whole(2, 2, 2), whole(4)), {"stride": 3, "groups": 2}),
    "max_pool2d nan": (F.max_pool2d, (NAN, 2, 1), {}),
    "avg_pool1d": (F.avg_pool1d, (R.standard_normal((1, 2, 6)).astype("f"), 3, 2, 1), {"count_include_pad": False}),
    "conv2d nan": (F.conv2d, (NAN, -whole(1, 1, 2, 2)), {}),
}  # fmt: skip
VIEWS = {"output": "output", "input": "input", "weight": "weight", "matrix": "output", "columns": "output"}

NAMED = {"svg": "http://www.w3.org/2000/svg"}

# Choose each step of the slider in turn and collect what is told.
TELL = """() => {
  const [slider] = document.querySelectorAll('[type=range]'), told = [];
  for (let at = 0; at <= slider.max; at++) {
    slider.value = at;
    slider.dispatchEvent(new Event('input'));
    told.push(['.sentence', '.equation'].map((name) => document.querySelector(name).textContent));
  }
  return told;
}"""


def made(name: str) -> explain.Trace:
    operator, args, options = PAGES[name]
    return explain.trace(operator, *args, **options)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


Show = Callable[..., Any]


@pytest.fixture(scope="module")
def window(browser: Any) -> Any:
    return browser.new_page()


@pytest.fixture
def show(browser: Any, window: Any) -> Iterator[Show]:
    """A document in the window, or with options in one of its own; at the end, that there was no error, no request."""
    contexts, said = [], []
    tell = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: None if request.url.startswith("blob:") else said.append(request.url),
    }

    def open_page(source: str, **options: Any) -> Any:
        opened = window
        if options:
            contexts.append(browser.new_context(**options))
            opened = contexts[-1].new_page()
            for event, listener in tell.items():
                opened.on(event, listener)
        opened.set_default_timeout(10_000)
        opened.mouse.move(0, 0)
        opened.set_content(source)
        return opened

    for event, listener in tell.items():
        window.on(event, listener)
    yield open_page
    for event, listener in tell.items():
        window.remove_listener(event, listener)
    for context in contexts:
        context.close()
    assert said == []


def cell(opened: Any, array: str, *at: int) -> Any:
    return opened.locator(f"[data-array={array}] td[data-at='{','.join(map(str, at))}']")


def state(opened: Any, array: str, name: str) -> set[tuple[int, ...]]:
    """Indices of an array's cells of a class."""
    found = opened.locator(f"[data-array={array}] td.{name}").evaluate_all("all => all.map((td) => td.dataset.at)")
    return {tuple(map(int, at.split(","))) for at in found}


def choose(opened: Any, view: str) -> None:
    opened.locator(f"[type=radio][value={view}]").check()


def saved(opened: Any, button: str) -> Path:
    with opened.expect_download() as download:
        opened.get_by_role("button", name=button).click()
    return Path(download.value.path())


def arrays(opened: Any) -> dict[str, Any]:
    told = json.loads(saved(opened, "Save numbers").read_text(encoding="utf-8"))
    names = ("input", "weight", "bias", "g", "output", "grad_input", "grad_weight")
    return {name: None if told[name] is None else np.array(told[name], float) for name in names}


def edit(opened: Any, array: str, at: tuple[int, ...], text: str) -> None:
    cell(opened, array, *at).click()
    opened.keyboard.press("ControlOrMeta+A")
    opened.keyboard.type(text)
    opened.keyboard.press("Enter")


def in_torch(name: str, now: dict[str, Any]) -> dict[str, Any]:
    """What torch computes of the numbers that the page says it has."""
    operator, args, options = PAGES[name]
    given = [torch.tensor(now[n], requires_grad=True) for n in ("input", "weight") if now[n] is not None]
    bias = [] if now["bias"] is None else [torch.tensor(now["bias"])]
    rest = [a for a in args[1:] if not isinstance(a, np.ndarray)]
    y = getattr(TF, operator.__name__)(*given, *bias, *rest, **options)
    gradients = torch.autograd.grad(y, given, torch.tensor(now["g"]).reshape(y.shape))
    computed = dict(zip(("grad_input", "grad_weight"), gradients))
    return {"output": y.detach().numpy()} | {key: found.numpy() for key, found in computed.items()}


def agree(name: str, now: dict[str, Any]) -> None:
    """Exact on whole numbers and copies; else within the one rounding of a sum to the dtype of the arguments."""
    single = PAGES[name][1][0].dtype == np.float32
    for key, expected in in_torch(name, now).items():
        assert not single or np.array_equal(now[key], now[key].astype(np.float32)), "more digits than the dtype keeps"
        np.testing.assert_allclose(now[key], expected, rtol=3e-7 if single else 1e-12, atol=1e-6 if single else 1e-12)


@pytest.mark.parametrize("name", PAGES)
def test_every_step_of_every_view_is_told_as_in_python(name: str, show: Show) -> None:
    t, opened = made(name), show(made(name).to_html())
    for radio in opened.locator("[type=radio]").all():
        radio.check()
        steps = list(t.steps(VIEWS[radio.input_value()]))
        assert opened.evaluate(TELL) == [[t.describe(step), figure.equation(step)] for step in steps]
    agree(name, arrays(opened))


# All grids: what their cells show by the titles.
GRIDS = """() => Object.fromEntries([...document.querySelectorAll('table.grid')].map((table) => [
  table.caption.textContent.replace('g, ', ''),
  [...table.querySelectorAll('td')].map((td) => [...td.querySelectorAll('span, small')].map((it) => it.innerHTML) + ''),
]))"""


@pytest.mark.parametrize("name", PAGES)
def test_the_picture_with_script_holds_the_numbers_of_the_one_without(name: str, show: Show) -> None:
    t = made(name)
    still, lively = show("", java_script_enabled=False), show("")
    for by in ("output", "input", "weight")[: 2 + (t.weight is not None)]:
        source = t.to_html(t.at(**{by: tuple(n - 1 for n in t.shape(by))}))
        still.set_content(source)
        lively.set_content(source)
        expected, shown = still.evaluate(GRIDS), lively.evaluate(GRIDS)
        assert expected and {title: shown[title] for title in expected} == expected


def test_numbers_are_written_as_python_writes_them(show: Show) -> None:
    """Ties above all: Python rounds to the even digit, JavaScript away from zero."""
    ties = [n / 16 for n in range(-400, 400)] + [n + 0.5 for n in range(995, 10_050, 7)] + [2.5e-5, 99999.5, 1.5e7]
    spread = (R.standard_normal(2000) * 10.0 ** R.integers(-12, 12, 2000)).tolist()
    values = [*ties, *spread, 0.0, -0.0, np.nan, np.inf, -np.inf, 1e22, 9999999.0, 1e7, 5e-324]
    source = page.asset("triples.js") + "return values.map((value) => [number(value), short(value)]);"
    written = show("").evaluate(
        "([source, values]) => new Function('values', source)(values.map(Number))",
        [source, [str(value).replace("inf", "Infinity") for value in values]],
    )
    assert written == [[explain.text.number(value), page.short(value)] for value in values]


@pytest.mark.parametrize(
    "name", ["guide", "conv1d", "float32", "conv_transpose2d", "avg_pool2d", "max_pool2d", "unfold"]
)
def test_edited_numbers_give_what_torch_gives(name: str, show: Show) -> None:
    opened = show(made(name).to_html())
    t = made(name)
    edit(opened, "input", (0,) * t.x.ndim, "-7.5")
    edit(opened, "input", tuple(n - 1 if axis else 0 for axis, n in enumerate(t.input)), "1e2")
    if t.w is not None:
        edit(opened, "weight", tuple(n - 1 for n in t.w.shape), "-0,25")
    if t.b is not None:
        edit(opened, "bias", (0,), "11")
    choose(opened, "input")
    edit(opened, "output", tuple(n - 1 if axis else 0 for axis, n in enumerate(t.output)), "3")
    now = arrays(opened)
    assert now["input"].flat[0] == -7.5 and 100 in now["input"] and 3 in now["g"]
    assert t.w is None or now["weight"].flat[-1] == -0.25
    assert t.b is None or now["bias"][0] == 11
    agree(name, now)
    assert opened.locator("td.edited").count() > 0
    opened.get_by_role("button", name="Undo edits").click()
    back = arrays(opened)
    assert np.array_equal(back["input"], t.x) and (back["g"] == 1).all() and opened.locator("td.edited").count() == 0


def test_what_is_typed(show: Show) -> None:
    opened = show(made("guide").to_html())
    edit(opened, "input", (0, 0, 0, 0), "nan")
    assert cell(opened, "input", 0, 0, 0, 0).inner_text().startswith("NaN")
    assert cell(opened, "output", 0, 0, 0, 0).inner_text() == "NaN"
    edit(opened, "input", (0, 0, 0, 0), "-inf")
    assert "−∞" in cell(opened, "input", 0, 0, 0, 0).inner_text()
    edit(opened, "input", (0, 0, 0, 0), "seven")
    assert '"seven" is no number' in opened.get_by_role("alert").inner_text()
    edit(opened, "input", (0, 0, 0, 0), "3")
    opened.keyboard.press("F2")
    opened.keyboard.type("9")
    opened.keyboard.press("Escape")
    assert cell(opened, "output", 0, 0, 0, 0).inner_text() == "6"
    opened.keyboard.press("8")  # typing on a number begins to change it
    opened.keyboard.press("Enter")
    assert cell(opened, "input", 0, 0, 0, 0).locator("span").inner_text() == "8"
    now = arrays(opened)
    agree("guide", now)
    assert now["input"][0, 0, 0, 0] == 8


@pytest.mark.parametrize("name", ["guide", "conv_transpose2d", "max_pool2d", "avg_pool2d", "unfold"])
def test_the_matrix_and_its_row(name: str, show: Show) -> None:
    t, opened = made(name), show(made(name).to_html())
    choose(opened, "matrix")
    C = np.zeros((np.prod(t.output[1:]), np.prod(t.input[1:])))
    for label in opened.locator("[data-array=matrix] td").evaluate_all("all => all.map((td) => td.ariaLabel)"):
        at, number = label.removeprefix("matrix[").replace("]", "").split(", ")[:2]
        _, row, column = map(int, at.split(","))
        C[row, column] = 0 if number == "no number" else float(number)
    operator, args, options = PAGES[name]
    x = torch.tensor(t.x[:1])
    rest = args[1:] if t.w is None else [torch.tensor(t.w)]  # without the bias, the matrix is of the linear part
    y = getattr(TF, operator.__name__)(x, *rest, **options)
    assert np.allclose(C @ t.x[0].ravel(), y.numpy().ravel())
    row = int(np.prod(t.output[1:])) // 2
    opened.locator("[type=range]").fill(str(row))
    lined, read = ({at[1] for at in state(opened, "matrix", name)} for name in ("line", "read"))
    assert lined == {row} >= read
    step = t.at(output=(0, *map(int, np.unravel_index(row, t.output[1:]))))
    assert len(state(opened, "matrix", "read")) == sum(not term.padding for term in step.terms)


@pytest.mark.parametrize("name", ["guide", "conv2d", "conv1d", "max_pool2d"])
def test_the_columns_are_those_of_unfold(name: str, show: Show) -> None:
    t, opened = made(name), show(made(name).to_html())
    choose(opened, "columns")
    g = t.g
    size = (1,) * (2 - g.rank)
    image = torch.tensor(t.x[:1]).reshape(1, t.input[1], *size, *g.size)
    pads = [width for pair in reversed(g.padding) for width in pair]
    image = TF.pad(image, pads, value=-np.inf if name == "max_pool2d" else 0)
    expected = TF.unfold(image, (*size, *g.kernel), (*size, *g.dilation), 0, (*size, *g.stride))[0].numpy()
    labels = opened.locator("[data-array=columns] td").evaluate_all("all => all.map((td) => td.ariaLabel)")
    found = np.array([float(label.split(", ")[1]) for label in labels]).reshape(expected.shape)
    assert np.array_equal(found, expected)
    opened.locator("[type=range]").fill("1")
    assert {at[2] for at in state(opened, "columns", "read")} == {1}


def test_the_columns_of_a_transposed_convolution_fold_to_it(show: Show) -> None:
    t, opened = made("conv_transpose2d"), show(made("conv_transpose2d").to_html())
    choose(opened, "columns")
    labels = opened.locator("[data-array=columns] td").evaluate_all("all => all.map((td) => td.ariaLabel)")
    found = torch.tensor([float(label.split(", ")[1]) for label in labels], dtype=torch.float64)
    columns = found.reshape(1, t.output[1] * 9, -1)
    (x, w), options = PAGES["conv_transpose2d"][1], PAGES["conv_transpose2d"][2]
    folded = TF.fold(columns, t.output[2:], 3, padding=1, stride=2)
    assert torch.equal(folded, TF.conv_transpose2d(torch.tensor(x), torch.tensor(w), **options))


@pytest.mark.parametrize("name", ["guide", "conv2d", "conv_transpose2d", "max_pool2d", "unfold"])
def test_the_pointer_lights_up_the_partners(name: str, show: Show) -> None:
    t, opened = made(name), show(made(name).to_html())
    names = ["output", "input", "weight"] if t.weight else ["output", "input"]
    triples = [(term.output, term.input, term.weight) for step in t.steps() for term in step.terms]
    for place, by in enumerate(names):
        at = tuple(n // 2 if axis else 0 for axis, n in enumerate(t.shape(by)))
        cell(opened, by, *at).hover()
        shared = [triple for triple in triples if triple[place] == at]
        for other, array in enumerate(names):
            of_image = {triple[other] for triple in shared if array == "weight" or triple[other][0] == 0}
            assert state(opened, array, "partner") == (of_image if other != place else set())
        assert f", in {len(shared)} product" in opened.locator(".readout").inner_text()
    opened.mouse.move(0, 0)
    assert opened.locator(".partner").count() == 0


def test_steps_by_clicks_buttons_and_slider(show: Show) -> None:
    t, opened = made("guide"), show(made("guide").to_html(made("guide").at(output=(0, 0, 1, 2))))
    place, slider = opened.locator(".place"), opened.get_by_role("slider")
    assert place.inner_text() == "6 of 9" and slider.get_attribute("aria-valuetext") == "output[0,0,1,2]"
    assert state(opened, "input", "read") == {term.input for term in t.at(output=(0, 0, 1, 2)).terms}
    cell(opened, "output", 0, 0, 2, 2).click()
    assert place.inner_text() == "9 of 9" and opened.get_by_role("button", name="Step on").is_disabled()
    opened.get_by_role("button", name="Step back").click()
    assert state(opened, "output", "made") == {(0, 0, 2, 1)}
    slider.focus()
    opened.keyboard.press("Home")
    assert place.inner_text() == "1 of 9"
    opened.keyboard.press("ArrowRight")
    assert state(opened, "output", "made") == {(0, 0, 0, 1)}
    choose(opened, "weight")
    assert place.inner_text() == "1 of 9" and state(opened, "weight", "made") == {(0, 0, 0, 0)}
    choose(opened, "output")
    opened.get_by_text("Term by term (9)").click()
    assert opened.locator("table.terms tr").nth(1).inner_text().split("\t")[0] == "input[0,0,-1,-1] 0"


def test_play_goes_to_the_end_and_stops(show: Show) -> None:
    opened = show("", viewport={"width": 900, "height": 700})
    opened.clock.install()
    opened.set_content(made("guide").to_html())
    opened.get_by_role("button", name="Play").click()
    assert opened.locator(".sentence").get_attribute("aria-live") == "off"
    opened.clock.run_for(2000)
    assert opened.locator(".place").inner_text() == "3 of 9"
    opened.get_by_role("button", name="Pause").click()
    opened.clock.run_for(5000)
    assert opened.locator(".place").inner_text() == "3 of 9"
    opened.get_by_role("button", name="Play").click()
    opened.clock.run_for(60_000)
    assert opened.locator(".place").inner_text() == "9 of 9"
    assert opened.get_by_role("button", name="Play").is_visible()
    assert opened.locator(".sentence").get_attribute("aria-live") == "polite"


def test_keys_in_a_grid(show: Show) -> None:
    opened = show(made("guide").to_html())
    grid = opened.get_by_role("grid", name="output[0,0]")
    assert grid.get_by_role("gridcell").count() == 9 and grid.get_by_role("row").count() == 3
    cell(opened, "output", 0, 0, 0, 0).focus()

    def focus() -> str:
        return opened.evaluate("document.activeElement.dataset.at")

    for key, at in (("ArrowRight", "0,0,0,1"), ("ArrowDown", "0,0,1,1"), ("End", "0,0,1,2"), ("ArrowRight", "0,0,1,2"),
                    ("Control+End", "0,0,2,2"), ("Home", "0,0,2,0"), ("ArrowUp", "0,0,1,0"),
                    ("Control+Home", "0,0,0,0"), ("ArrowLeft", "0,0,0,0"), ("Control+End", "0,0,2,2")):  # fmt: skip
        opened.keyboard.press(key)
        assert focus() == at, key
    assert state(opened, "input", "partner") == {term.input for term in made("guide").at(output=(0, 0, 2, 2)).terms}
    assert grid.locator("[tabindex='0']").count() == 1
    opened.keyboard.press("Enter")
    assert state(opened, "output", "made") == {(0, 0, 2, 2)} and focus() == "0,0,2,2"
    chosen = grid.get_by_role("gridcell", selected=True)
    assert chosen.get_attribute("aria-label") == "output[0,0,2,2], 4, made"
    label = cell(opened, "input", 0, 0, 5, 5).get_attribute("aria-label")
    assert label == "input[0,0,5,5], 0, padding, times 2, read"
    status = opened.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite" and status.inner_text().startswith("output[0,0,2,2] = 4 is")
    opened.keyboard.press("Shift+Tab")  # the grid before this one
    assert opened.evaluate("document.activeElement.closest('table').ariaLabel") == "weight[0,0]"
    for name in ("outside", "read", "made", "factor"):
        assert opened.locator(f"td.{name}").count() > 0


def test_frames_and_hatching_say_what_colour_says(show: Show) -> None:
    opened = show(made("max_pool2d").to_html())

    def style(name: str, what: str) -> str:
        return opened.locator(f"td.{name}").first.evaluate(f"td => getComputedStyle(td).{what}")

    assert style("read", "outlineStyle") == "solid" and style("made", "outlineStyle") == "double"
    assert "repeating-linear-gradient" in style("outside", "backgroundImage")
    assert opened.locator("td.winner span").evaluate("it => getComputedStyle(it).borderTopWidth") == "2px"
    cell(opened, "output", 0, 0, 1, 1).hover()
    dashed = "td => getComputedStyle(td, '::after').borderTopStyle"
    assert opened.locator("td.partner").first.evaluate(dashed) == "dashed"


def test_the_saved_picture_is_an_svg_of_what_is_seen(show: Show) -> None:
    opened = show(made("guide").to_html(made("guide").at(output=(0, 0, 1, 2))))
    root = ElementTree.fromstring(saved(opened, "Save picture").read_text(encoding="utf-8"))
    texts = [text.text for text in root.findall(".//svg:text", NAMED)]
    cells = opened.locator("td > span").all_inner_texts()
    assert sorted(text for text in texts if text in set(cells)) == sorted(cells)
    assert "weight[0,0]" in texts and "".join(map(str, texts)).count("output[0,0,1,2] = ") == 2
    title = root.find("svg:title", NAMED)
    assert title is not None and title.text == opened.locator(".sentence").inner_text()
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in root.findall("svg:rect", NAMED)[1:]:
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height


def test_the_saved_picture_leaves_out_what_is_scrolled_away(show: Show) -> None:
    source = explain.trace(F.max_pool1d, whole(1, 1, 16), 2).to_html()
    opened = show(source, viewport={"width": 400, "height": 800})
    root = ElementTree.fromstring(saved(opened, "Save picture").read_text(encoding="utf-8"))
    rects = root.findall("svg:rect", NAMED)[1:]
    assert opened.locator(".stage td").evaluate_all("all => all.some((td) => td.getBoundingClientRect().left > 400)")
    assert 200 < max(float(rect.attrib["x"]) for rect in rects) < 400


def test_without_scripts_the_picture_stays(show: Show) -> None:
    t = made("guide")
    step = t.at(output=(0, 0, 1, 2))
    opened = show(t.to_html(step), java_script_enabled=False)
    assert opened.get_by_text(t.describe(step)).is_visible() and opened.locator("table").count() == 3
    assert opened.locator("td.made").inner_text() == "13" and opened.locator("button").count() == 0
    assert not opened.locator(".mark").first.is_visible()


def test_dark_and_light_and_still(show: Show) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        opened = show(made("guide").to_html(), color_scheme=scheme)
        seen[scheme] = opened.locator(".tinyconv").evaluate("it => getComputedStyle(it).backgroundColor")
    assert seen == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 29)"}
    # Nothing moves by itself, so there is nothing to still for those who ask for reduced motion.
    cell(opened, "output", 0, 0, 1, 1).hover()
    assert opened.evaluate("document.getAnimations().length") == 0
    notebook = f'<body data-jp-theme-light="false">{made("guide")._repr_html_()}</body>'
    opened = show(notebook, color_scheme="light")
    assert opened.locator(".tinyconv").evaluate("it => getComputedStyle(it).backgroundColor") == seen["dark"]


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_narrow_window_does_not_scroll_sideways(script: bool, show: Show) -> None:
    opened = show("", viewport={"width": 400, "height": 800}, java_script_enabled=script)
    for name in PAGES:
        opened.set_content(made(name).to_html())
        for view in opened.locator("[type=radio]").evaluate_all("all => all.map((it) => it.value)") or ["none"]:
            if script:
                choose(opened, view)
            assert opened.evaluate("document.documentElement.scrollWidth") <= 400, (name, view)
        box = opened.locator(".tinyconv").bounding_box()
        assert box["x"] == 0 and box["width"] <= 400


def test_no_number_is_clipped_or_covers_another(show: Show) -> None:
    opened = show(made("float32").to_html())
    for radio in opened.locator("[type=radio]").all():
        radio.check()
        wrong = opened.evaluate("""() => [...document.querySelectorAll('table.grid td')].filter((td) => {
          const [span, small] = [...td.children].map((part) => part.getBoundingClientRect());
          const cell = td.getBoundingClientRect();
          const [left, right, top, bottom] = [cell.left, cell.right, cell.top, cell.bottom];
          const inside = (r) => r.left >= left && r.right <= right && r.top >= top && r.bottom <= bottom;
          const apart = !small || small.left >= span.right - 1 || small.top >= span.bottom - 1;
          return span && span.width > 0 && !(inside(span) && (!small || inside(small)) && apart);
        }).map((td) => td.textContent)""")
        assert wrong == [], radio.input_value()
    choose(opened, "output")
    assert opened.locator("small").first.evaluate("it => parseFloat(getComputedStyle(it).fontSize)") >= 10


def test_several_traces_live_on_one_page(show: Show) -> None:
    names = ["guide", "guide", "max_pool2d"]
    body = "".join(f"<h1>A heading</h1>{made(name)._repr_html_()}" for name in names)
    opened = show(f"<!doctype html><body><table><td>a table of the notebook</td></table>{body}</body>")
    assert opened.locator(".tinyconv[data-ready]").count() == 3
    first, second, third = opened.locator(".tinyconv").all()
    first.locator("[value=weight]").check()
    second.locator("[type=range]").fill("4")
    assert [one.locator(".place").inner_text() for one in (first, second)] == ["1 of 9", "5 of 9"]
    assert first.locator(":checked").input_value() == "weight" and second.locator(":checked").input_value() == "output"
    assert third.locator(".winner").count() == 1
    ids = opened.locator("[id]").evaluate_all("all => all.map((it) => it.id)")
    assert len(ids) == len(set(ids)) >= 3
    assert opened.locator("body > table td").evaluate("it => getComputedStyle(it).borderTopWidth") == "0px"


def test_only_the_row_of_a_matrix_that_is_too_large(show: Show) -> None:
    t = explain.trace(F.conv2d, whole(1, 1, 9, 9), whole(1, 1, 3, 3))
    opened = show(t.to_html())
    choose(opened, "matrix")
    assert opened.locator("[data-array=matrix] tr").count() == 1
    cell(opened, "output", 0, 0, 3, 2).click()
    assert "the whole has 49 x 81 cells" in opened.locator(".note").last.inner_text()
    assert {at[1] for at in state(opened, "matrix", "read")} == {23} and len(state(opened, "matrix", "read")) == 9
    assert opened.evaluate("document.activeElement.dataset.at") == "0,0,3,2"


def test_the_widget_sends_and_takes(show: Show) -> None:
    pytest.importorskip("anywidget")
    t = made("guide")
    widget = t.widget(t.at(output=(0, 0, 1, 2)))
    state_of = {name: getattr(widget, name) for name in ("data", "view", "index", "input", "weight", "bias", "g")}
    opened = show(f"<style>{page.asset('page.css')}</style><main></main>")
    opened.evaluate(
        """async ([source, state]) => {
          const blob = new Blob([source], { type: "text/javascript" });
          const { default: widget } = await import(URL.createObjectURL(blob));
          const heard = [];
          window.sent = [];
          window.model = {
            get: (name) => state[name],
            set: (name, value) => Object.assign(state, typeof name === "string" ? { [name]: value } : name),
            save_changes: () => window.sent.push(structuredClone(state)),
            on: (name, listener) => heard.push(listener),
            off: () => {},
            hear: () => heard.forEach((listener) => listener()),
          };
          widget.render({ model: window.model, el: document.querySelector("main") });
        }""",
        [page.script() + page.asset("widget.js"), state_of],
    )
    assert opened.locator(".place").inner_text() == "6 of 9"
    edit(opened, "input", (0, 0, 1, 3), "nan")
    cell(opened, "output", 0, 0, 1, 1).click()
    sent = opened.evaluate("window.sent.at(-1)")
    widget.set_state({name: sent[name] for name in ("view", "index", "input", "weight", "g")})
    assert widget.index == [0, 0, 1, 1] and np.isnan(widget.trace.x[0, 0, 1, 3]) and np.isnan(widget.step.value)
    widget.view, widget.index, widget.g = "weight", [0, 0, 2, 1], [2.0] * 9
    widget.input = t.x.ravel().tolist()
    now = {name: getattr(widget, name) for name in ("view", "index", "input", "g")}
    opened.evaluate("(now) => { window.model.set(now); window.model.hear(); }", now)
    assert opened.locator(".sentence").inner_text() == widget.trace.describe(widget.step)
    assert opened.locator("td.made").inner_text() == f"{widget.step.value:g}"
