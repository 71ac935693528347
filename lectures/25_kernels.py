# %% [markdown]
# # Lab 25: kernels, measured
#
# **Goal.** A 3x3 convolution can be written in six lines. Why does a library need thousands, and what are they worth?
# You count what a convolution costs, time every rung from plain loops up, keep the compiler's time apart from the
# kernel's, compare with what your machine can do at best, and write a kernel of your own.
#
# You need convolution arithmetic (lab 04). The lab runs in about a minute, without a network or a GPU. Times differ
# from machine to machine and from minute to minute, so nothing here promises one: compare with your neighbour the
# **ratios** of things that took turns in one process. What is asserted is what holds everywhere: results, errors, bits.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
import os

# Where this is set, it holds NumPy's matrix products to an older instruction set. It is read when NumPy is loaded.
held = os.environ.pop("OPENBLAS_CORETYPE", None)

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from numba import njit
from numba.core.errors import NumbaError
from threadpoolctl import threadpool_info, threadpool_limits

import tinyconv as tc
from tinyconv import kernels
from tinyconv.geometry import window_geometry
from tinyconv.teaching import Quiz, show

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "One output is the sum of 64 * 3 * 3 products, and a product comes with an addition: 2 operations.",
    "Images and outputs hold 64 * 56 * 56 numbers each, the weights 64 * 64 * 3 * 3; a number has 4 bytes.",
)
def _(flop, least_bytes):
    diagnoses = {
        115_605_504: "these are the multiplications; each comes with an addition.",
        3_612_672: "an output adds the products of all 64 input channels, and there are 64 output channels.",
        77_070_336: "the window has 3 rows and 3 columns.",
    }
    if flop != 231_211_008:
        return "flop: " + diagnoses.get(flop, f"{flop} is not 2 times the outputs times the products of one.")
    diagnoses = {
        1_753_088: None,
        438_272: "these are the numbers; a float32 has 4 bytes.",
        3_506_176: "a float32 has 4 bytes; 8 is float64.",
        1_605_632: "the weights are read as well.",
        950_272: "images are read, and outputs are written: both count.",
        8_175_616: "at least: a pixel that is in the cache need not be read again for every tap.",
    }
    diagnosis = diagnoses.get(least_bytes, f"{least_bytes} is not 4 times the numbers read or written.")
    return diagnosis and f"flop is right. least_bytes: {diagnosis}"


@q.exercise(
    2,
    "After n calls the one has taken n * slow, the other compiling + n * fast.",
    "Each call wins back slow - fast. How many does it take to win back `compiling`? The last one counts whole.",
)
def _(break_even):
    diagnoses = {
        None: "break_even returns None; it has to return a number of calls.",
        143: None,
        142: "after 142 calls of 7 won back each, 6 are still missing: round up.",
        112: "the compiled calls take their time, too: a call wins back slow - fast.",
        1000 / 7: "a whole number of calls is asked for: round up.",
    }
    found = break_even(1000, 9, 2)
    return diagnoses.get(found, f"for 1000, 9 and 2 yours is {found}: put it into n * slow and 1000 + n * fast.")


@q.exercise(
    3,
    "A byte brings `intensity` operations along, and `copy` bytes come a second. How many operations is that?",
    "Memory allows intensity * copy operations a second, the core allows peak. The smaller of the two holds.",
)
def _(roof):
    limits = roof(2.0, 10e9, 100e9), roof(50.0, 10e9, 100e9)
    diagnoses = {
        (None, None): "roof returns None; it has to return operations a second.",
        (20e9, 100e9): None,
        (100e9, 500e9): "this is the larger of the two limits; a chain is as strong as its weakest link.",
        (5e9, 0.2e9): "intensity is operations a *byte*: multiply the bytes a second by it, do not divide.",
    }
    return diagnoses.get(limits, f"for 2 and 50 operations a byte, 10e9 bytes/s, 100e9 FLOP/s yours are {limits}.")


@q.exercise(
    4,
    "m1 holds d0 g0, m4 holds d1 g2 - d3 g2. What do m2 + m3 and m2 - m3 hold? Multiply them out.",
    "m2 + m3 = d1 g1 + d2 g0 + d2 g2, and m2 - m3 = d1 g0 + d1 g2 + d2 g1. Now y0 = d0 g0 + d1 g1 + d2 g2.",
)
def _(two_outputs):
    d, g = (2, 3, 7, 11), (4, 14, 20)
    products = (d[0] - d[2]) * g[0], (d[1] + d[2]) * sum(g) // 2, (d[2] - d[1]) * (g[0] - g[1] + g[2]) // 2
    found = two_outputs(*products, (d[1] - d[3]) * g[2])
    right = tuple(sum(d[o + k] * g[k] for k in range(3)) for o in range(2))
    if found is None or len(found) != 2:
        return "two_outputs has to return two numbers, y0 and y1."
    if tuple(found) == right[::-1]:
        return "these are y1 and y0; the order is y0, y1."
    return None if tuple(found) == right else f"for {d} and {g} y0 and y1 are {right}, not {found}: look at the signs."


@q.exercise(
    5,
    "Take the nine weights into variables first: w00 = w[0, 0], w01 = w[0, 1] ... The two outer loops stay.",
    "In the inner loop one sum of nine products: y[oh, ow] = w00 * padded[oh, ow] + w01 * padded[oh, ow + 1] + ...",
)
def _(filter_fused):
    if not hasattr(filter_fused, "py_func"):
        return "the function is still Python; put @njit above it."
    rng = np.random.default_rng(25)
    padded, w = (rng.integers(1, 90, shape).astype(np.float32) for shape in ((8, 11), (3, 3)))
    y = np.full((6, 9), np.nan, np.float32)
    try:
        filter_fused(padded, w, y)
    except NumbaError as error:
        return f"Numba cannot compile it: {' '.join(str(error).splitlines()[:2])}"

    def taps(weights):  # small whole numbers, so exact in any order
        return sum(weights[kh, kw] * padded[kh : kh + 6, kw : kw + 9] for kh, kw in np.ndindex(3, 3))

    if np.array_equal(y, taps(w)):
        return None
    if np.isnan(y).any():
        return f"y{np.argwhere(np.isnan(y))[0].tolist()} has got no value; write each sum to y[oh, ow]."
    if np.array_equal(y, taps(w[::-1, ::-1])):
        return "the kernel is rotated; its tap [0, 0] meets the upper left pixel of the window."
    return f"y[0, 0] has to be {taps(w)[0, 0]:.0f}, yours is {y[0, 0]:.0f}: compare the nine products one by one."


# %% [markdown]
# ## What a convolution costs
#
# However it is done: products have to be formed, and images, weights and outputs go through memory once at least.
#
# **Exercise 1.** A layer of a ResNet: one image, 64 to 64 channels, 56x56 pixels, 3x3 taps, padded so that the size
# stays. Count the floating-point operations (FLOP; a multiplication and an addition are two, those with the padding
# count), and the bytes in float32 that are read or written at least.

# %%
flop = ...  # one number
least_bytes = ...  # one number
### BEGIN SOLUTION
flop = 2 * (64 * 56 * 56) * (64 * 3 * 3)
least_bytes = 4 * (64 * 56 * 56 + 64 * 64 * 3 * 3 + 64 * 56 * 56)
### END SOLUTION
q.check(1)

# %% [markdown]
# Their quotient is the **arithmetic intensity**, operations a byte. It says what a layer asks of a machine: many
# operations for each byte ask for a fast core, few for a fast memory. Here are five layers, n images each.


# %%
class Layer(NamedTuple):
    """A convolution that keeps the size of its images."""

    n: int
    c_in: int
    c_out: int
    size: int
    k: int
    groups: int = 1

    @property
    def shapes(self) -> tuple:
        """Of images and weights."""
        images = (self.n, self.c_in, self.size, self.size)
        return images, (self.c_out, self.c_in // self.groups, self.k, self.k)

    @property
    def flop(self) -> int:
        return 2 * self.n * self.size**2 * int(np.prod(self.shapes[1]))

    @property
    def intensity(self) -> float:
        numbers = self.n * (self.c_in + self.c_out) * self.size**2 + int(np.prod(self.shapes[1]))
        return self.flop / (4 * numbers)

    def operands(self, seed: int = 0) -> list[np.ndarray]:
        """Random images and weights: a processor may be faster with zeros."""
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(shape, np.float32) for shape in self.shapes]


layers = {
    "depthwise 3x3, 64": Layer(8, 64, 64, 112, 3, groups=64),
    "1x1, 8 to 8": Layer(8, 8, 8, 320, 1),
    "1x1, 64 to 64": Layer(8, 64, 64, 112, 1),
    "3x3, 16 to 16": Layer(4, 16, 16, 224, 3),
    "3x3, 64 to 64": Layer(1, 64, 64, 56, 3),
}
for name, layer in layers.items():
    print(f"{name:18} {layer.flop / 1e6:5.0f} MFLOP, {layer.intensity:5.1f} FLOP a byte")

# %% [markdown]
# ## How to measure
#
# Four rules. **Check first**: a fast wrong result is worth nothing, so everything is compared with the definition in
# float64. **Warm up**: the first call compiles, fills caches, wakes threads. **Take turns**: another program, or heat,
# then slows all sides down alike. **Many times**: the median, with the shortest and the longest beside it.
#
# We use one core to begin with, of tinyconv and of the library behind NumPy's matrix products (its BLAS).


# %%
def definition(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution in float64, tap by tap: y += w[:, :, kh, kw] times the images moved by (kh, kw)."""
    k, size = w.shape[-1], x.shape[-1]
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    if w.shape[1] < x.shape[1]:  # depthwise: a matrix of channels with a diagonal only
        w = np.eye(len(w))[:, :, None, None] * w
    moved = {(kh, kw): x[:, :, kh : kh + size, kw : kw + size] for kh, kw in np.ndindex(k, k)}  # (N, C_in, H, W)
    return sum(np.einsum("oc,nchw->nohw", w[(..., *tap)], pixels, optimize=True) for tap, pixels in moved.items())


def error(y: np.ndarray, exact: np.ndarray) -> float:
    """The largest deviation, as a share of the largest output."""
    return float(np.abs(y - exact).max() / np.abs(exact).max())


def race(sides: dict, turns: int = 11, least: float = 0.002) -> dict:
    """Seconds a call of each side, one number a turn. Short calls are timed several in a row, for ``least`` seconds."""
    samples = {name: [] for name in sides}
    for _ in range(turns):
        for name, call in sides.items():
            call()  # not timed
            calls, began = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - began) < least or not calls:
                call()
                calls += 1
            samples[name].append(elapsed / calls)
    return samples


def report(layer: Layer, samples: dict) -> dict:
    """Print the median, the shortest and the longest time, and how many times as fast as the first; {side: GFLOP/s}."""
    print(layer)
    speeds = {name: layer.flop / np.median(seconds) / 1e9 for name, seconds in samples.items()}
    first = next(iter(speeds))
    for name, speed in speeds.items():
        low, mid, high = 1e3 * np.quantile(samples[name], (0, 0.5, 1))
        ratio = round(speed / speeds[first], 2 if speed < 100 * speeds[first] else None)
        times = f", {ratio} times as fast as {first}" * (name != first)
        print(f"  {name:9} {mid:9.3f} ms ({low:.3f} to {high:.3f}), {speed:.3g} GFLOP/s{times}")
    return speeds


def algorithm(name: str, layer: Layer, x: np.ndarray, w: np.ndarray):
    """A convolution of x and w by a rung or by an algorithm of the compiled one, to be called without arguments."""
    how = (name,) if name in kernels.LADDER else ("numba", name)
    g = window_geometry("lab", (layer.size, layer.size), layer.k, padding=layer.k // 2)

    def run() -> np.ndarray:
        with kernels.use_kernels(*how):
            return kernels.conv(x, w, g, layer.groups)

    return run


def compare(layer: Layer, *names: str) -> dict:
    """{name: GFLOP/s} of rungs or algorithms in turns, after the first image of each has been checked."""
    x, w = layer.operands()
    sides = {name: algorithm(name, layer, x, w) for name in names}
    for name, run in sides.items():
        assert error(run()[:1], definition(x[:1], w)) < 5e-5, f"{name} differs from the definition"
    return report(layer, race(sides))


tc.set_num_threads(1)
limits = threadpool_limits(1)  # holds as long as this name lives
blas = [(pool["internal_api"], pool.get("architecture")) for pool in threadpool_info() if pool["user_api"] == "blas"]
print("BLAS, and the processor it takes this one for:", *blas, f"(OPENBLAS_CORETYPE={held} removed)" if held else "")

# %% [markdown]
# ## The ladder
#
# tinyconv has the same operator several times. `loops` is the definition in plain Python, to be stepped through.
# `im2col` copies the pixels under each window into a column, and one product of matrices does the rest. `numba` are
# kernels in Python that are compiled for your processor. (The top rung, `cuda`, is for GPUs.)
#
# **Predict.** A layer so small that even the loops get there: how many times faster than them is each of the others?

# %%
ladder = compare(Layer(1, 8, 16, 12, 3), "loops", "im2col", "numba")

# %% [markdown]
# The same products, and orders of magnitude between them. Python looks up what `*` means for each single one; on the
# other rungs that question is answered once for all. But a layer that small is mostly calls and preparation. So now one
# of a ResNet, and the algorithms of the compiled rung, which `use_kernels(conv=...)` forces (the first call compiles):
#
# | algorithm | idea |
# |---|---|
# | direct | a tap reads one run of neighbours of the flat, padded image |
# | tiled | a tile of outputs reads its pixels wherever they lie: im2col without the columns |
# | winograd2, winograd4 | tiles of 2x2 or 4x4 outputs with fewer products |

# %%
resnet = layers["3x3, 64 to 64"]
algorithms = compare(resnet, "im2col", "direct", "tiled", "winograd2", "winograd4")

# %% [markdown]
# ## Compile time, apart
#
# Numba compiles a function when it is first called. That takes far longer than the call, and is no part of the kernel's
# speed, but you waited for it. So we measure it apart: in a fresh process, with a folder of its own for compiled code
# (`NUMBA_CACHE_DIR`), first empty, then as the first process left it.

# %%
PROCESS = """
from time import perf_counter
began = perf_counter()
import tinyconv as tc
from tinyconv.functional import conv2d
x, w = tc.ones(1, 8, 12, 12), tc.ones(16, 8, 3, 3)
print(perf_counter() - began)
with tc.use_kernels("numba", conv="direct"):
    for _ in range(20):
        began = perf_counter()
        conv2d(x, w, padding=1)
        print(perf_counter() - began)
"""

print("              import s   first call s   shortest later call s")
with tempfile.TemporaryDirectory() as folder:
    for cache in ("empty", "full"):
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        done = subprocess.run([sys.executable, "-c", PROCESS], env=environment, capture_output=True, text=True)
        imports, first, *later = map(float, done.stdout.split())
        kept = len(list(Path(folder).rglob("*.nbc")))
        print(f"{cache:5} cache {imports:11.2f} {first:14.3f} {min(later):23.6f}    {kept} compiled functions kept")
        assert ("compiling" in done.stderr) == (cache == "empty"), "only with an empty cache it compiles"

# %% [markdown]
# With a full cache, what is left of the first call is loading: Numba itself, and machine code from the disk.
#
# **Exercise 2.** Is it worth it? A call takes `slow` without compiling and `fast` with it, plus `compiling` once, all
# in the same unit. After how many calls is the compiled side ahead?


# %%
def break_even(compiling: int, slow: int, fast: int) -> int:
    """The smallest number of calls after which the compiled side has taken less time in all."""
    ### BEGIN SOLUTION
    return compiling // (slow - fast) + 1
    ### END SOLUTION


q.check(2)

# %% [markdown]
# ## The roofline
#
# Is that fast? Compare with the machine itself. How many bytes a second can a core copy, and how many operations a
# second does it do in a large product of matrices, which is little else? These are two **ceilings**, and a layer
# stands below both (Williams, Waterman and Patterson, *Roofline*, 2009).
#
# **Exercise 3.** What is the most that a layer of a given intensity can do, in operations a second?


# %%
def roof(intensity: float, copy: float, peak: float) -> float:
    """The limit in FLOP/s for ``intensity`` FLOP a byte, with ``copy`` bytes/s and ``peak`` FLOP/s."""
    ### BEGIN SOLUTION
    return min(peak, intensity * copy)
    ### END SOLUTION


q.check(3)

# %%
source, target = np.random.default_rng(0).standard_normal((2, 2**24), np.float32)  # 64 MiB each: beyond most caches
a, b = np.random.default_rng(1).standard_normal((2, 512, 512), np.float32)
ceilings = race({"copy": lambda: np.copyto(target, source), "product": lambda: a @ b}, turns=30)
copy = 2 * source.nbytes / min(ceilings["copy"]) / 1e9  # GB/s, read and written, in the best turn
peak = 2 * 512**3 / min(ceilings["product"]) / 1e9  # GFLOP/s
print(f"one core copies {copy:.1f} GB/s and multiplies matrices with {peak:.0f} GFLOP/s;")
print(f"from {peak / copy:.1f} FLOP a byte on, the core is the limit; below, the memory")

speeds = {}
for name, layer in layers.items():
    speeds[name] = compare(layer, "exact")["exact"]
    print(f"  {name}: {speeds[name] / min(peak, layer.intensity * copy):.0%} of the roof")

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
axis.loglog([0.5, peak / copy, 500], [0.5 * copy, peak, peak], "k-", label="roof: copy,\nmatrix product")
for marker, (name, speed) in zip("os^vD", speeds.items()):
    axis.plot(layers[name].intensity, speed, marker, color="black", label=name)
for marker, name in zip("1x+", ("im2col", "winograd2", "winograd4")):
    axis.plot(resnet.intensity, algorithms[name], marker, color="0.45", ms=10, mew=2, label=f"the last by {name}")
axis.set(xlabel="arithmetic intensity, FLOP a byte", ylabel="GFLOP/s, counted as the definition")
for scale in (axis.xaxis, axis.yaxis):
    scale.set(major_locator=plt.LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
axis.minorticks_off()
axis.grid(color="0.9")
figure.legend(fontsize=8, loc="outside right upper")
show(
    figure,
    "Roofline on logarithmic axes: a line that rises with the arithmetic intensity and turns level. Depthwise and 1x1 "
    "layers stand on the left, 3x3 layers on the right; there other algorithms have marks on one vertical line.",
)

# %% [markdown]
# Under the slope only bytes count, those that a kernel copies for itself included: that is why MobileNet's depthwise
# layers save nine tenths of the operations and far less of the time (lab 12). Under the level part operations count. A
# mark *above* the roof is no miracle: Winograd's algorithms do fewer operations than the definition by which we count,
# what stays in a cache is read faster than memory allows, and the level part is only what this BLAS reaches.
#
# ## Why direct is not always best
#
# `direct` lets the rows of the padded image lie one after the other. Between two rows of outputs it computes k - 1
# numbers that nobody wants: of O + k - 1 positions, O are of use. **Predict**: how does that look for images of 56, 28,
# 14 and 7 pixels a side, with as many images as keep the operations the same?

# %%
layers_of_side = {side: Layer((56 // side) ** 2, 64, 64, side, 3) for side in (56, 28, 14, 7)}
by_side = {side: compare(layer, "direct", "tiled") for side, layer in layers_of_side.items()}
with kernels.use_kernels(conv="exact"):
    for side, layer in layers_of_side.items():
        choice = ": ".join(kernels.explain_choice(*layer.shapes, padding=1)["conv"])
        print(f"{side:2} x {side:2}: {side / (side + 2):.0%} of use; chosen is {choice}")

# %% [markdown]
# `explain_choice` says which algorithm tinyconv takes and why; `exact` keeps it from Winograd's, which come now.
#
# ## What Winograd saves, and what it costs
#
# Two outputs of a filter of three taps: y0 = d0 g0 + d1 g1 + d2 g2 and y1 = d1 g0 + d2 g1 + d3 g2. Six products. Shmuel
# Winograd needs four:
#
#     m1 = (d0 - d2) g0                    m2 = (d1 + d2) (g0 + g1 + g2) / 2
#     m4 = (d1 - d3) g2                    m3 = (d2 - d1) (g0 - g1 + g2) / 2
#
# **Exercise 4.** How do y0 and y1 come out of them? Only additions and subtractions are left.


# %%
def two_outputs(m1: float, m2: float, m3: float, m4: float) -> tuple[float, float]:
    """y0 and y1 from the four products."""
    ### BEGIN SOLUTION
    return m1 + m2 + m3, m2 - m3 - m4
    ### END SOLUTION


q.check(4)

# %% [markdown]
# In two dimensions, m x m outputs take (m + 2)^2 products where the definition has 9 m^2: 16 for 36 with m = 2, 36 for
# 144 with m = 4. But the sums in front of and behind the products take time as well: once for each *channel*, while
# there is a product for each *pair* of channels. So how does the gain depend on the channels?

# %%
by_channels = {c: compare(Layer(2, c, c, 28, 3), "direct", "winograd2", "winograd4") for c in (8, 16, 32, 64, 128)}

figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
styles = {"direct": "k-o", "tiled": "k--s", "winograd2": "k:^", "winograd4": "k-.D"}
for axis, speeds, label in zip(axes, (by_side, by_channels), ("pixels a side, 64 channels", "channels, 28x28 pixels")):
    for name in next(iter(speeds.values())):
        axis.plot(list(map(str, speeds)), [speed[name] for speed in speeds.values()], styles[name], label=name)
    axis.set(xlabel=label, ylabel="GFLOP/s", ylim=(0, None))
    axis.legend(fontsize=8)
show(
    figure,
    "Two charts of operations a second. Left against the side of the image for the algorithms direct and tiled, right "
    "against the number of channels for direct, winograd2 and winograd4.",
)

# %% [markdown]
# The price is accuracy: the sums in front make larger numbers, and their rounding errors stay when the sums behind
# cancel them. **Predict**: which of the algorithms is the farthest from float64, and by how much?

# %%
layer = Layer(1, 64, 64, 28, 3)
errors = {name: [] for name in ("im2col", "direct", "tiled", "winograd2", "winograd4")}
for seed in range(3):
    x, w = layer.operands(seed)
    for name in errors:
        errors[name].append(error(algorithm(name, layer, x, w)(), definition(x, w)))
for name, seeds in errors.items():
    print(f"{name:10} largest error as a share of the largest output, three seeds:", *(f"{e:.1e}" for e in seeds))

# Results, not times, so they are asserted. Seen with seeds 0, 1 and 2.
for direct, two, four in zip(errors["direct"], errors["winograd2"], errors["winograd4"]):
    assert 2 * max(direct, two) < four < 2e-5, "winograd4 rounds most, and leaves five digits at least"

# %% [markdown]
# `winograd4` loses a digit. `winograd2` does not: its factors are small, and a sum has 64 terms where the definition's
# has 576, each rounded. For training both are harmless: the noise of single batches is far larger. For a comparison
# with a reference, `use_kernels(conv="exact")` keeps to the sums of the definition.
#
# ## Two threads, the same bits
#
# (a + b) + c is not a + (b + c) in floating point. Threads that share one sum may give other bits each time; threads
# that share *outputs*, each computing whole sums, give the same bits. If a second core is free, it may halve the time.

# %%
layer = Layer(4, 64, 64, 56, 3)
x, w = layer.operands()
sides = {name: algorithm(name, layer, x, w) for name in ("direct", "tiled", "winograd2", "winograd4")}
results, samples = {}, {1: [], 2: []}
for threads in (1, 2, 1, 2, 1, 2):
    tc.set_num_threads(threads)
    results[threads] = [run() for run in sides.values()]
    samples[threads] += race({"direct": sides["direct"]}, turns=5)["direct"]
tc.set_num_threads(1)
assert all(map(np.array_equal, results[1], results[2])), "threads change no bit"
one, two = (1e3 * np.median(samples[threads]) for threads in (1, 2))
print(f"direct, {layer}: 1 thread {one:.1f} ms, 2 threads {two:.1f} ms, {one / two:.2f} times as fast")

# %% [markdown]
# ## Your own kernel
#
# One image, padded beforehand, and one 3x3 filter.


# %%
def filter_python(padded, w, y):
    """y[oh, ow] = sum over kh, kw of padded[oh + kh, ow + kw] w[kh, kw]; padded (H + 2, W + 2), w (3, 3), y (H, W)."""
    for oh in range(y.shape[0]):
        for ow in range(y.shape[1]):
            acc = 0.0
            for kh in range(3):
                for kw in range(3):
                    acc += padded[oh + kh, ow + kw] * w[kh, kw]
            y[oh, ow] = acc


def measure(filter_fused) -> None:
    """One image by Python, by Numba as it stands, by your kernel, and by tinyconv's, each checked first."""
    layer = Layer(1, 1, 1, 256, 3)
    x, w = layer.operands()
    padded, y = np.pad(x[0, 0], 1), np.empty((256, 256), np.float32)
    sides = {}
    for name, run in {"Python": filter_python, "compiled": njit(filter_python), "yours": filter_fused}.items():
        sides[name] = partial(run, padded, w[0, 0], y)
        sides[name]()
        assert error(y, definition(x, w)[0, 0]) < 1e-6, name
    report(layer, race({**sides, "tinyconv": algorithm("exact", layer, x, w)}))


# %% [markdown]
# `njit(filter_python)` compiles it as it stands, with numbers in place of objects. Two things still hold the processor
# back. `acc = 0.0` is a float64, so each product is converted and added in float64. And the loops over the taps stand
# inside, nine steps long, where a processor would rather do sixteen neighbouring *pixels* with one instruction.
#
# **Exercise 5.** Write it with the nine taps fused: no loops over taps, one sum of nine products for each pixel.


# %%
@njit
def filter_fused(padded, w, y):
    """The same as filter_python, with the taps fused in the inner loop."""
    ### BEGIN SOLUTION
    w00, w01, w02 = w[0, 0], w[0, 1], w[0, 2]
    w10, w11, w12 = w[1, 0], w[1, 1], w[1, 2]
    w20, w21, w22 = w[2, 0], w[2, 1], w[2, 2]
    for oh in range(y.shape[0]):
        top, middle, bottom = padded[oh], padded[oh + 1], padded[oh + 2]
        for ow in range(y.shape[1]):
            y[oh, ow] = (
                w00 * top[ow] + w01 * top[ow + 1] + w02 * top[ow + 2]
                + w10 * middle[ow] + w11 * middle[ow + 1] + w12 * middle[ow + 2]
                + w20 * bottom[ow] + w21 * bottom[ow + 1] + w22 * bottom[ow + 2]
            )  # fmt: skip
    ### END SOLUTION


q.check(5)
measure(filter_fused)

# %% [markdown]
# Does yours pass tinyconv's `direct`? That computes several output channels at a time, since a pixel that is loaded
# then serves them all; with a single one, most of its work is thrown away. A kernel for one case can beat one for all.
#
# ## What you can do now
#
# - Count the operations and bytes of a layer, and say from their quotient whether the core or the memory limits it.
# - Time two things so that their ratio means something, keep compiling apart, and read a roofline.
# - Say what Winograd's algorithm saves, from how many channels on, and what it costs.
# - Write a compiled kernel, and say what in a loop holds the processor back.
#
# Try next: four output channels at a time; `njit(fastmath=True)` and what becomes of a NaN; the weight gradient.
