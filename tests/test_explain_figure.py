"""Figures and animations: the right number in the right cell, the right cells framed, every frame a step."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from PIL import Image

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import animation
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from test_explain_trace import W, X
from tinyconv import explain
from tinyconv import functional as F
from tinyconv.explain.gallery import GALLERY

RANDOM = np.random.default_rng(0)


def whole(*shape: int, low: int = -4) -> Any:
    return RANDOM.integers(low, 5, shape).astype(float)


CASES = {
    "conv2d": (F.conv2d, (whole(2, 2, 5, 4), whole(4, 1, 3, 2), whole(4)), {"stride": 2, "padding": 1, "groups": 2}),
    "conv1d": (F.conv1d, (whole(1, 2, 6), whole(2, 2, 3)), {"padding": 1, "dilation": 2}),
    "conv_transpose2d": (
        F.conv_transpose2d,
        (whole(1, 2, 3, 2), whole(2, 2, 3, 3)),
        {"stride": 2, "padding": 1, "output_padding": 1},
    ),
    "max_pool2d": (F.max_pool2d, (whole(1, 2, 5, 5), 3, 2, 1), {}),
    "avg_pool2d": (F.avg_pool2d, (whole(1, 1, 5, 5), 2, 2, 1), {"ceil_mode": True}),
    "unfold": (F.unfold, (whole(1, 2, 4, 3), 2), {"padding": (0, 1)}),
    "fold": (F.fold, (whole(2, 8, 12), (4, 3), 2), {"padding": (0, 1)}),
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(params=CASES)
def t(request: pytest.FixtureRequest) -> explain.Trace:
    operator, args, options = CASES[request.param]
    return explain.trace(operator, *args, **options)


def guide() -> explain.Trace:
    return explain.trace(F.conv2d, X, W, stride=2, padding=1)


def numbers(figure: Figure) -> dict[str, str]:
    return {text.get_gid()[:-6]: text.get_text() for text in figure.axes[0].texts if text.get_gid()}


def framed(figure: Figure, how: str) -> set[str]:
    gids = [patch.get_gid() or "" for patch in figure.axes[0].patches]
    return {gid.split(" ")[0] for gid in gids if gid.endswith(f" {how}")}


def named(name: str, indices: Any) -> set[str]:
    return {f"{name}[{','.join(map(str, index))}]" for index in indices}


def test_each_cell_holds_its_number(t: explain.Trace) -> None:
    step = t.at(output=tuple(n - 1 for n in t.output))
    shown = numbers(t.plot(step))
    for name, array in (("input", t.x), ("output", t.forward())):
        of_image = array[step.index[0]]
        for at in np.ndindex(of_image.shape):
            gid = f"{name}[{','.join(map(str, (step.index[0], *at)))}]"
            assert float(shown[gid].replace("−", "-")) == pytest.approx(of_image[at], abs=5e-3)
    if t.w is not None:
        used = {term.weight for term in step.terms}
        assert used and all(float(shown[gid].replace("−", "-")) == t.w.item(at)
                            for at in used for gid in named("weight", [at]))  # fmt: skip


@pytest.mark.parametrize("by", ["output", "input", "weight"])
def test_framed_cells_are_those_of_the_terms(t: explain.Trace, by: str) -> None:
    if by == "weight" and t.weight is None:
        return
    step = t.at(**{by: tuple(n // 2 for n in t.shape(by))})
    figure = t.plot(step)
    assert framed(figure, "made") == named(by, [step.index])
    expected = set()
    for name in {"output", "input", "weight"} - {by}:
        indices = {getattr(term, name) for term in step.terms} - {None}
        expected |= named(name, {i for i in indices if name == "weight" or i[0] == (0 if by == "weight" else i[0])})
    assert framed(figure, "read") == expected
    outside = {patch.get_gid() for patch in figure.axes[0].patches if patch.get_hatch()}
    large = "output" if t.transposed else "input"
    padded = {getattr(term, large) for term in step.terms if term.padding}
    assert named(large, padded if by != "weight" else {i for i in padded if i[0] == 0}) <= outside
    assert not outside & (named("input", np.ndindex(t.input)) | named("output", np.ndindex(t.output)))


def test_gradients_are_those_of_torch() -> None:
    t, g = guide(), whole(1, 1, 3, 3)
    x, w = torch.tensor(X, dtype=torch.float64, requires_grad=True), torch.tensor(W, dtype=torch.float64)
    w.requires_grad_()
    TF.conv2d(x, w, stride=2, padding=1).backward(torch.tensor(g))
    for by, gradient in (("input", x.grad), ("weight", w.grad)):
        assert gradient is not None
        shown = numbers(t.plot(t.at(**{by: (0, 0, 1, 1)}, g=g), g))
        for at in np.ndindex(gradient.shape):
            (gid,) = named(by, [at])
            assert float(shown[gid].replace("−", "-")) == gradient[at].item()
    with pytest.raises(ValueError, match="made with another g"):
        t.plot(t.at(input=(0, 0, 1, 1), g=g))


def test_a_gradient_of_the_input_has_no_padding() -> None:
    t = guide()
    for by, hatched in (("output", 24), ("input", 0), ("weight", 24)):
        figure = t.plot(t.at(**{by: (0, 0, 1, 1)}))
        assert sum(bool(patch.get_hatch()) for patch in figure.axes[0].patches) == hatched, by  # 7 * 7 - 5 * 5
        assert ("padding" in next(text.get_text() for text in figure.axes[0].texts if "=" in text.get_text())) == (
            hatched > 0
        )


def test_the_guide_with_its_equation_and_its_factors() -> None:
    t = guide()
    step = t.at(output=(0, 0, 1, 2))
    figure = t.plot(step)
    texts = [text.get_text() for text in figure.axes[0].texts]
    told = next(text for text in texts if "=" in text)
    assert told.startswith("output[0,0,1,2] = 3×0 + 1×1 + 0×2 + 2×2 + 3×2 + 0×0 + 2×0 + 2×1 + 0×2 = 13\n")
    assert "hatched: padding" in told
    assert sorted(text for text in texts if text.startswith("×") and len(text) > 1) == sorted(
        f"×{w:g}" for w in np.ravel(W)
    )
    assert figure.get_label() == t.describe(step)


def test_equations_of_the_other_operators() -> None:
    x = np.array([[[-1.0, 2.0, -3.0, 4.0]]])

    def told(t: explain.Trace, **at: Any) -> str:
        texts = [text.get_text() for text in t.plot(t.at(**at)).axes[0].texts]
        return next(text for text in texts if "=" in text)

    assert told(explain.trace(F.max_pool1d, x, 2, 2, 1), output=(0, 0, 0)).startswith("output[0,0,0] = max(-inf, -1)")
    assert "circle: winner" in told(explain.trace(F.max_pool1d, x, 2), output=(0, 0, 0))
    assert "((-3) + 4) / 2 = 0.5" in told(explain.trace(F.avg_pool1d, x, 2), output=(0, 0, 1))
    assert "1/2 = 0.5" in told(explain.trace(F.avg_pool1d, x, 2), input=(0, 0, 1))
    with_bias = explain.trace(F.conv1d, x, np.array([[[2.0]]]), np.array([-7.0]))
    assert "(-1)×2 + bias (-7) = -9" in told(with_bias, output=(0, 0, 0))
    assert "= input[0,0,-1,-1] = 0" in told(explain.trace(F.unfold, x[None, ..., :2], 1, padding=1), output=(0, 0, 0))
    nothing = explain.trace(F.conv_transpose1d, x, np.ones((1, 1, 1)), stride=2)
    assert "output[0,0,1] = 0 = 0" in told(nothing, output=(0, 0, 1))
    assert "more) …" in told(explain.trace(F.conv1d, np.ones((1, 8, 3)), np.ones((1, 8, 3))), output=(0, 0, 0))


@pytest.mark.parametrize("sides", [(1, 1, 16), (1, 3, 16, 16), (1, 4, 8, 8), (1, 1, 1, 1)])
def test_everything_lies_on_a_page_and_text_in_its_cell(sides: tuple[int, ...]) -> None:
    x, w = RANDOM.standard_normal(sides), RANDOM.standard_normal((2, sides[1], *[3] * (len(sides) - 2)))
    t = explain.trace(F.conv1d if len(sides) == 3 else F.conv2d, x, w, padding=1)
    figure = t.plot(t.at(output=(0,) * len(sides)))
    assert figure.get_figwidth() <= 7 and figure.get_figheight() <= 11
    page = figure.bbox
    figure.canvas.draw()
    cells = {p.get_gid(): p.get_window_extent() for p in figure.axes[0].patches if isinstance(p, Rectangle)}
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text
        if text.get_gid():
            assert box.width <= cells[text.get_gid()[:-6]].width, text
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 + 1 for box in cells.values())


def test_nothing_is_said_by_colour_alone() -> None:
    t = explain.trace(F.max_pool2d, whole(1, 1, 4, 4), 2)
    step = t.at(output=(0, 0, 1, 1))
    patches = t.plot(step).axes[0].patches
    assert sum(isinstance(patch, Circle) for patch in patches) == 1
    bold = [patch for patch in patches if patch.get_linewidth() > 1.5 and not patch.get_fill()]
    assert len(bold) == len(step.terms) + 1


def test_too_large_and_too_many_axes_offer_a_crop() -> None:
    for operator, shape in ((F.max_pool2d, (1, 1, 20, 4)), (F.max_pool3d, (1, 1, 4, 4, 4))):
        t = explain.trace(operator, np.zeros(shape), 2)
        with pytest.raises(ValueError, match=r"plot: max_pool.* Trace a crop of it, such as x\[\.\.\., :8, :8\]"):
            t.plot(next(t.steps()))
    t = explain.trace(F.max_pool2d, np.zeros((1, 12, 16, 16)), 2)
    with pytest.raises(ValueError, match="12 grids one above the other.*Trace fewer channels"):
        t.plot(next(t.steps()))


@pytest.mark.parametrize("by", ["output", "weight"])
def test_an_animation_has_a_frame_a_step_and_fills_its_grid(by: str, tmp_path: Path) -> None:
    t = explain.example("conv2d", 3, 2)
    t.save(tmp_path / "conv.gif", by)
    with Image.open(tmp_path / "conv.gif") as picture:
        assert getattr(picture, "n_frames", 1) == len(list(t.steps(by)))
    moving: Any = t.animate(by)
    moving._draw_was_started = True  # it will not be shown, and need not warn of that
    for place in range(3):
        moving._draw_frame(place)
        shown = [gid for gid in numbers(moving._fig) if gid.startswith(by)]
        assert len(shown) == place + 1
        assert framed(moving._fig, "made") == named(by, [list(t.steps(by))[place].index])


def test_pictures_carry_their_sentence(tmp_path: Path) -> None:
    t = guide()
    step = t.at(output=(0, 0, 1, 2))
    for kind in ("png", "svg"):
        t.save(tmp_path / f"conv.{kind}", step=step)
    with Image.open(tmp_path / "conv.png") as picture:
        assert picture.info["Description"] == t.describe(step)
    drawn = (tmp_path / "conv.svg").read_text()
    assert t.describe(step) in drawn and 'id="output[0,0,1,2]"' in drawn
    t.save(str(tmp_path / "first.PNG"))
    assert (tmp_path / "first.PNG").stat().st_size > 0
    assert not plt.get_fignums()


def test_save_refuses_in_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="save: path must end in .gif, .mp4, .png, .svg or .html, but is 'conv.bmp'"):
        guide().save("conv.bmp")
    monkeypatch.setattr(animation.FFMpegWriter, "isAvailable", lambda: False)
    with pytest.raises(RuntimeError, match="needs the program ffmpeg, which is missing. Install it, or save a .gif"):
        guide().save(tmp_path / "conv.mp4")
    empty = explain.trace(F.conv2d, np.zeros((0, 1, 5, 5)), W)
    for kind in ("png", "gif"):
        with pytest.raises(ValueError, match=r"nothing to draw; the output of conv2d is \(0, 1, 3, 3\)"):
            empty.save(tmp_path / f"conv.{kind}")


def test_the_gallery_draws_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {
        name: explain.example(operator, i, k, **options).output[2]
        for name, (operator, i, k, options) in GALLERY.items()
    }
    sizes = [2, 6, 5, 7, 2, 3, 3, 4, 5, 5, 5, 5, 5, 6, 3]  # of the figures in the guide
    assert list(outputs.values()) == sizes
    with monkeypatch.context() as quick:
        quick.setattr(explain.Trace, "save", lambda t, path: path.write_text(t.name))
        for path in explain.gallery(tmp_path / "all"):
            assert path.read_text() == GALLERY[path.stem][0]
    assert len(list((tmp_path / "all").iterdir())) == len(GALLERY) == 15
    for name in set(GALLERY) - {"no_padding", "transposed_no_padding"}:
        monkeypatch.delitem(GALLERY, name)  # two of them suffice to see that the files are made
    made = explain.gallery(tmp_path / "new" / "folder")
    assert [path.name for path in made] == ["no_padding.gif", "transposed_no_padding.gif"]
    for path in made:
        with Image.open(path) as picture:
            assert getattr(picture, "n_frames", 1) == outputs[path.stem] ** 2


@pytest.mark.parametrize("relationship", explain.RELATIONSHIPS, ids=lambda r: f"R{r.number}")
def test_the_figure_of_a_relationship_shows_a_case_of_it_with_torchs_size(relationship: explain.Relationship) -> None:
    t = relationship.example()
    g = t.g
    i, k, s, (p, after), d = g.size[0], g.kernel[0], g.stride[0], g.padding[0], g.dilation[0]
    assert p == after and eval(relationship.condition, {}, {"i": i, "k": k, "s": s, "p": p, "d": d})
    x, kernel = torch.tensor(t.x), None if t.w is None else torch.tensor(t.w)
    if kernel is None:
        y = TF.max_pool2d(x, k, s, p, d)
    elif relationship.number in range(8, 15):
        y = TF.conv_transpose2d(x, kernel, None, s, p, (i + 2 * p - k) % s, 1, d)
    else:
        y = TF.conv2d(x, kernel, None, s, p, d)
    figure = relationship.plot()
    assert figure.get_figwidth() <= 7
    shown = numbers(figure)
    assert {gid for gid in shown if gid.startswith("output") and "-" not in gid} >= named(
        "output", np.ndindex(*y.shape)
    )
    (made,) = framed(figure, "made")
    assert made == f"output[0,0,{y.shape[2] - 1},{y.shape[3] - 1}]"
    assert float(shown[made]) == y[0, 0, -1, -1].item()
    title, equation = (text.get_text() for text in figure.texts)
    assert title.startswith(f"R{relationship.number} ")
    if relationship.number not in (3, 10):  # there the formula is the number itself
        arithmetic = re.split(r"\$=\$", equation)
        assert int(arithmetic[-1]) == y.shape[2] == eval(arithmetic[-2].replace("·", "*"))
    name = "o_t" if relationship.number in range(8, 15) else "o"
    assert f"{name}={y.shape[2]}. output[0,0," in figure.get_label() and str(relationship) in figure.get_label()
    figure.canvas.draw()  # matplotlib can set the formula, and all of it is on the page
    for text in figure.texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert box.y0 >= max(t.get_window_extent().y1 for t in figure.axes[0].texts)


def test_without_matplotlib_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    t = guide()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="plot: figures need matplotlib, which is missing: pip install matplotlib"):
        t.plot(next(t.steps()))
