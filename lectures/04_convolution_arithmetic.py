# %% [markdown]
# # Lab 04: convolution arithmetic
#
# **Goal.** A convolution slides a window over an image, multiplies and adds. How large is the result? Which pixels
# does one number of it come from? Where does a pixel's gradient come from? You answer such questions before you run
# anything, then step through the products and see.
#
# One letter for each number, the same on every axis of the image:
#
# | letter | name | letter | name |
# |---|---|---|---|
# | i | input size in pixels | d | dilation: distance of two taps of the kernel |
# | k | kernel: taps of the window | o | output size |
# | s | stride: steps of the window | a | output padding of a transposed convolution |
# | p | padding: zeros on *each* side | | |
#
# The lab runs in a few seconds, without a network. Vincent Dumoulin and Francesco Visin's *A guide to convolution
# arithmetic for deep learning* (2016) is the text to read with it.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
from itertools import product

import matplotlib.pyplot as plt
import numpy as np

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import explain
from tinyconv.teaching import Quiz, show

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "The taps of a kernel stand d pixels apart, so the window spans d (k - 1) + 1 pixels of the i + 2p.",
    "From the first place of the window to the last there is (i + 2p - span) to go, in steps of s. Round down, add 1.",
)
def _(output_size):
    def slips(i: int, k: int, s: int, p: int, d: int) -> dict[str, int]:
        room = i + 2 * p - d * (k - 1) - 1
        return {
            "the first window stands before the first step; add 1 to the number of steps.": room // s,
            "padding stands on both sides: 2p, not p.": (room - p) // s + 1,
            "a last window that does not fit is dropped: round down, not up.": -(-room // s) + 1,
            "a kernel spans d (k - 1) + 1 pixels, not d k; no gap follows the last tap.": (i + 2 * p - d * k) // s + 1,
            "dilation d puts d - 1 pixels between two taps, not d.": (room - k + 1) // s + 1,
            "right where the dilation is 1; what does the kernel span otherwise?": (i + 2 * p - k) // s + 1,
            "right where the stride is 1; the window stands only at every s-th pixel.": room + 1,
            "this is the size that a *transposed* convolution makes.": (i - 1) * s - 2 * p + d * (k - 1) + 1,
        }

    settings = [(i, k, s, p, d) for i, k, s, p, d in product((20, 23), (3, 4), (1, 2, 3), (0, 1, 2), (1, 2))]
    found = {setting: output_size(*setting) for setting in settings}
    wrong = [setting for setting in settings if found[setting] != explain.output_size(*setting)]
    if None in found.values():
        return "output_size returns None for some settings; a stride that does not divide is legal, too."
    if not wrong:
        return None
    for sentence in slips(*wrong[0]):
        if all(found[setting] == slips(*setting)[sentence] for setting in settings):
            return sentence
    if any(value != int(value) for value in found.values()):
        return f"{found[wrong[0]]} is not a whole number; a last window that does not fit is dropped: use // for /."
    i, k, s, p, d = wrong[0]
    return f"for i={i}, k={k}, s={s}, p={p}, d={d} yours is {found[wrong[0]]}, counting gives another number."


@q.exercise(
    2,
    "The window of output 0 starts at pixel -p. Where does that of output 2 start?",
    "It starts at 2 s - p = 4, its taps are d = 2 apart: 4, 6, 8. Which of these are pixels of an image of 7?",
)
def _(pixels):
    diagnoses = {
        (4, 6): None,
        (4, 6, 8): "8 lies in the padding: the 7 pixels have the numbers 0 to 6.",
        (0, 2, 4): "each output moves the window by the stride, 3, not by 1.",
        (6,): "the padding moves the first window to before the image, to pixel -2.",
        (4, 5, 6): "the taps of a dilated kernel are d pixels apart, not 1.",
        (1, 3, 5): "this is output 1; outputs are counted from 0.",
    }
    given = tuple(sorted(pixels))
    return diagnoses.get(given, f"{list(given)} is not what the taps of output 2 stand on.")


@q.exercise(
    3,
    "Look at one filter first, how many weights has it? Then at one output, of how many products is it the sum?",
    "A filter has 3 * 3 * 3 weights and a bias. An output map has 64 x 64 numbers, each the sum of 3 * 3 * 3 products.",
)
def _(parameters, multiply_adds):
    diagnoses = {432: "the biases are missing, one a filter.", 160: "a filter sees all 3 channels, not one."}
    if parameters != 448:
        return diagnoses.get(parameters, f"{parameters} parameters is not 16 times those of one filter.")
    diagnoses = {
        1_769_472: None,
        7_077_888: "448 is right. With stride 2 the windows stand at every second pixel of a row and of a column.",
        589_824: "448 is right. Each output adds products of all 3 channels.",
        1_835_008: "448 is right. The bias is added, but it is no product.",
        1_714_608: "448 is right. An output of 63 x 63 would come without padding.",
    }
    return diagnoses.get(
        multiply_adds, f"448 is right; {multiply_adds} is not the number of outputs times the products of one."
    )


@q.exercise(
    4,
    "Row o of C holds the weights at the pixels that output o reads, and zeros elsewhere.",
    "For tap t of output o the column is o s + t - p. Leave it out where it is no pixel: NumPy's C[o, -1] is the last!",
)
def _(convolution_matrix):
    w, i = np.array([1.0, 2.0, 4.0]), 6
    for s, p in ((1, 0), (2, 0), (1, 1), (2, 1)):
        t = explain.trace(F.conv1d, np.ones((1, 1, i)), w[None, None], stride=s, padding=p)
        expected = t.matrix()
        try:
            found = convolution_matrix(w, i, s, p)
        except IndexError:
            return "a tap wrote beyond the last pixel: subtract p, and leave out the taps that stand in the padding."
        where = f"for w={w.tolist()}, i={i}, s={s}, p={p}"
        if found is None:
            return "convolution_matrix returns None; it has to return C."
        found = np.asarray(found)
        if found.shape == expected.shape[::-1] and np.array_equal(found.T, expected):
            return "this is the transpose of C: rows are outputs, columns are pixels."
        if found.shape == (len(expected), i + 2 * p) and p:
            return f"{where} the shape is {expected.shape}: the padding has no columns, for it is zero anyway."
        if found.shape != expected.shape:
            return f"{where} the shape is (outputs, pixels) = {expected.shape}, yours is {found.shape}."
        if np.array_equal(found, expected):
            continue
        rotated = explain.trace(F.conv1d, np.ones((1, 1, i)), w[::-1][None, None], stride=s, padding=p).matrix()
        if np.array_equal(found, rotated):
            return "the kernel is rotated; a convolution of deep learning takes it as it is, tap 0 first."
        if p and found[0, -1] != 0:
            return f"{where} a tap in the padding wrote to a pixel; a column of -1 is the *last* one to NumPy."
        return f"{where} row 1 of C is {expected[1].tolist()}, yours is {found[1].tolist()}."
    return None


@q.exercise(
    5,
    "The convolution makes floor((i + 2p - k) / s) + 1 outputs; then take relationship 13 backwards from there.",
    "3 outputs; (3 - 1) * 4 + 3 - 2 pixels come back. Missing is what the last window left over: relationship 14.",
)
def _(back, missing):
    diagnoses = {
        12: "the same settings do not bring back what no window read: where does the last one end?",
        1: "this is another direct convolution; a transposed one multiplies by the stride.",
        3: "3 is what the convolution makes; now lay three kernels down, 4 pixels apart, and crop.",
        10: "padding crops the transposed convolution on both sides.",
        11: "these are the pixels before the crop by the padding.",
    }
    if back != 9:
        return diagnoses.get(back, f"{back} is not s (o - 1) + k - 2p.")
    if missing == 3:
        return None
    if missing == 0:
        return "9 is right, and it is not 12."
    return f"9 is right; and from 9 to 12 it is not {missing}."


@q.exercise(
    6,
    "Go backwards from one output: it sees 1 unit of its own layer. How many more does each layer add?",
    "A layer of stride 1 adds d (k - 1) pixels: 2 with a 3x3 kernel, 4 when it is dilated by 2, 8 when by 4.",
)
def _(layers, dilated_field):
    diagnoses = {
        10: "three pixels a layer would be windows side by side; they overlap, a layer adds 2.",
        16: "the first layer adds 2 as well, to the one pixel that a unit sees of itself.",
        30: "a layer adds two pixels, one on each side.",
        4: "fields of stride 1 do not multiply, they add.",
    }
    if layers != 15:
        return diagnoses.get(layers, f"{layers} layers of 3x3 do not see 31 pixels, but {1 + 2 * layers}.")
    diagnoses = {
        15: None,
        7: "15 layers is right. This field is that of dilation 1 three times.",
        19: "15 layers is right. A kernel spans d (k - 1) + 1 pixels, not d k.",
        21: "15 layers is right. Between two taps lie d - 1 pixels, not d.",
        17: "15 layers is right. The spans 3, 5 and 9 share pixels: count 1 less for each layer but the last.",
    }
    return diagnoses.get(dilated_field, f"15 layers is right; {dilated_field} is not 1 plus what the three layers add.")


# %% [markdown]
# ## Predict
#
# Seven settings as they occur. A rule for one axis is enough: rows and columns do not know of each other. Change the
# last number of each line to your guess before you go on.

# %%
#                                           i  k  s  p  d  your guess of o
cases = {
    "CT slice, first layer of ResNet": (512, 7, 2, 3, 1, 512),
    "MRI slice, 3x3, padded": (256, 3, 1, 1, 1, 256),
    "the same without padding": (256, 3, 1, 0, 1, 256),
    "the same, padded, dilated": (256, 3, 1, 1, 4, 256),
    "an even kernel": (64, 4, 2, 1, 1, 64),
    "a stride that does not divide": (10, 3, 2, 1, 1, 10),
    "ECG, 10 s at 500 Hz": (5000, 15, 4, 0, 1, 5000),
}

# %% [markdown]
# ## Run and measure

# %%
measured = {}
for name, (i, k, s, p, d, guess) in cases.items():
    measured[name] = F.conv1d(tc.zeros(1, 1, i), tc.zeros(1, 1, k), stride=s, padding=p, dilation=d).shape[-1]
    print(f"{name:32} guess {guess:5}   measured {measured[name]:5}   {'' if guess == measured[name] else 'differs'}")

assert list(measured.values()) == [256, 256, 254, 250, 32, 5, 1247]

# %% [markdown]
# ## Explain: step through
#
# `explain.trace` runs an operator and remembers its list of products. Here are 5x5 pixels, a 3x3 kernel, stride 2,
# padding 1: nine outputs. `t.at` picks one; `t.text` says what it is made of.

# %%
t = explain.example("conv2d", 5, 3, stride=2, padding=1)
print(explain.format_sizes(t), end="\n\n")
step = t.at(output=(0, 0, 1, 2))
print(t.text(step))

# %% [markdown]
# The same as a picture. The small factor in a corner is the weight that a pixel meets; what is hatched is padding. The
# kernel is *not* rotated: its upper left weight meets the upper left pixel of the window. Try other outputs, and
# `t.debug()`, which steps through single products like a debugger.


# %%
def look(t: explain.steps.Trace, step: explain.steps.Step, g=None) -> None:
    """Show one step, with the sentence that describes it as alternative text."""
    show(t.plot(step, g), t.describe(step))


look(t, step)

# %% [markdown]
# Now count. On one axis the image has i + 2p positions, the window spans d(k - 1) + 1 of them. So it can move on by
# i + 2p - d(k - 1) - 1 positions, in steps of s.
#
# **Exercise 1.** Write the rule. It is the last of the fifteen relationships, and all other sizes follow from it.


# %%
def output_size(i: int, k: int, s: int = 1, p: int = 0, d: int = 1) -> int:
    """How many windows fit: the output size of a convolution on one axis."""
    ### BEGIN SOLUTION
    return (i + 2 * p - d * (k - 1) - 1) // s + 1
    ### END SOLUTION


q.check(1)

# %% [markdown]
# Often the size shall stay: `padding="same"`. With stride 1 the span less one is padded in all; where that is odd, as
# for an even kernel, the extra zero goes after the image. A larger stride makes fewer outputs than pixels, so with it
# `"same"` is refused.

# %%
for k, d in ((3, 1), (5, 1), (3, 2), (4, 1)):
    print(f"kernel {k}, dilation {d}: {explain.same_padding(k, d)} zeros before and after")
try:
    F.conv1d(tc.zeros(1, 1, 10), tc.zeros(1, 1, 3), stride=2, padding="same")
except ValueError as error:
    print(error)

# %% [markdown]
# **Exercise 2.** A signal of 7 pixels, numbered from 0, with k=3, s=3, p=2, d=2 gives three outputs. Which *pixels*
# feed the last of them, output 2?

# %%
pixels = ...  # a list of pixel numbers
### BEGIN SOLUTION
pixels = [4, 6]
### END SOLUTION
q.check(2)

# %% [markdown]
# The first output of the same setting as a picture, and then what rounding down means: with i=10, k=3, s=2, p=0 a last
# window does not fit, and no output depends on the last pixel. If something stands there, the network is blind to it.

# %%
x = np.arange(1.0, 8)[None, None]  # (1, 1, 7)
t = explain.trace(F.conv1d, x, np.array([[[1.0, 2.0, 4.0]]]), stride=3, padding=2, dilation=2)
look(t, t.at(output=(0, 0, 0)))

t = explain.example("conv1d", 10, 3, stride=2)
print("windows that read each of the 10 pixels:", t.coverage().tolist(), " unused:", t.unused())
assert t.unused() == [(9,)]

# %% [markdown]
# ## Channels
#
# A filter has a kernel for each input channel, and adds what they make; there is one filter for each output channel.
# So the *space* of the result follows from i, k, s, p, d, and its *channels* from the number of filters alone. Below a
# filter looks at two channels, say T1 and T2 of one MRI slice.

# %%
rng = np.random.default_rng(4)
x = rng.integers(0, 4, (1, 2, 4, 4)).astype(float)  # (N, C_in, H, W)
w = rng.integers(0, 3, (1, 2, 3, 3)).astype(float)  # (C_out, C_in, KH, KW)
t = explain.trace(F.conv2d, x, w)
look(t, t.at(output=(0, 0, 0, 1)))

apart = [explain.trace(F.conv2d, x[:, c : c + 1], w[:, c : c + 1]).forward() for c in range(2)]
assert np.array_equal(t.forward(), sum(apart)), "a filter adds its channels"

# %% [markdown]
# **Exercise 3.** `nn.Conv2d(3, 16, 3, stride=2, padding=1)` looks at T1, T2 and FLAIR, 128 x 128 pixels each. How many
# parameters has it, bias included, and how many multiply-adds does one forward pass take (products with the padding
# count)?

# %%
parameters = ...  # one number
multiply_adds = ...  # one number
### BEGIN SOLUTION
parameters = 16 * (3 * 3 * 3 + 1)
multiply_adds = 16 * 64 * 64 * (3 * 3 * 3)
### END SOLUTION
q.check(3)

# %% [markdown]
# ## The fifteen relationships
#
# Dumoulin and Visin give fifteen formulas, from the simplest case to the most general, 1 to 7 and 15 for convolutions
# (and pooling), 8 to 14 for transposed ones. A prime, here `_t`, marks the transposed map, which leads from the
# o outputs back to the i pixels. tinyconv keeps them as objects: each knows when it holds, and can count whether it is
# true.

# %%
for relationship in explain.RELATIONSHIPS:
    print(f"R{relationship.number:<3}{relationship.name}: {relationship.check()} settings counted")  # or RuntimeError
    print(f"    if {relationship.condition}, then {relationship.formula}")

# %% [markdown]
# Which of them may you use where? Try numbers. A kernel of 3 with padding 1 on 10 pixels, once with stride 1 and once
# with stride 2; then 9 pixels in place of 10.

# %%
for i, k, s, p in ((10, 3, 1, 1), (10, 3, 2, 1), (9, 3, 2, 1)):
    print(f"i={i} k={k} s={s} p={p}")
    for relationship in explain.RELATIONSHIPS:
        sizes = relationship.sizes(i, k, s, p)
        if sizes is not None:
            print(f"   R{relationship.number:<3}{relationship.name:48}", *(f"{n}={v}" for n, v in sizes.items()))

# %% [markdown]
# With 10 pixels and stride 2, R13 is silent, for 2 does not divide 10 + 2 - 3 = 9, and R14 says a=1: one pixel is left
# over. Both 9 and 10 pixels give 5 outputs. So 5 outputs alone do not tell how many pixels there were; that is why
# transposed convolutions have `output_padding`.
#
# ## The matrix C
#
# A convolution is linear, so a matrix C does it: flatten the image to a column, then y = C x. A row of C is an output,
# a column is a pixel. Here for 4x4 pixels and a 3x3 kernel with the weights 1 to 9.

# %%
w = np.arange(1.0, 10).reshape(1, 1, 3, 3)
x = rng.integers(0, 4, (1, 1, 4, 4)).astype(float)
t = explain.trace(F.conv2d, x, w)
C = t.matrix()  # (outputs, pixels)
print(f"C has shape {C.shape}, and {np.count_nonzero(C)} of {C.size} entries are not zero")
assert np.array_equal(C @ x.ravel(), t.forward().ravel()), "y = C x"

figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
axis.imshow(C, cmap="Greys", vmax=18)
for (row, column), weight in np.ndenumerate(C):
    if weight:
        axis.text(column, row, f"{weight:.0f}", ha="center", va="center", fontsize=9)
axis.set(xlabel="pixel, row by row", ylabel="output", xticks=range(16), yticks=range(4))
show(
    figure,
    "The matrix C, 4 rows and 16 columns. Each row holds the weights 1 to 9 in three runs of three, one run for each "
    "row of the kernel, and zeros between them; from row to row they move to the right, by 1, then by 3, then by 1.",
)

# %% [markdown]
# A dense layer would have 64 free numbers in this matrix; the convolution has 9, each used four times. That is what
# "local" (the zeros) and "shared" (the repeats) mean.
#
# **Exercise 4.** Build C for a signal, from the formula `pixel = output * s + tap - p`.


# %%
def convolution_matrix(w: np.ndarray, i: int, s: int, p: int) -> np.ndarray:
    """C of shape (outputs, i) for a kernel w of k taps on i pixels, with stride s and padding p."""
    ### BEGIN SOLUTION
    k = len(w)
    o = (i + 2 * p - k) // s + 1
    C = np.zeros((o, i))
    for row, tap in product(range(o), range(k)):
        pixel = row * s + tap - p
        if 0 <= pixel < i:
            C[row, pixel] = w[tap]
    return C
    ### END SOLUTION


q.check(4)

# %% [markdown]
# ## The transpose of C
#
# C leads from 16 pixels to 4 outputs. Its transpose leads from 4 to 16: it is the **transposed convolution**, and what
# `F.conv_transpose2d` computes with the same kernel. Each unit lays a copy of the kernel down, scaled by its value;
# where copies overlap, they add.

# %%
y = t.forward()  # (1, 1, 2, 2)
returned = F.conv_transpose2d(tc.tensor(y), tc.tensor(w)).numpy()  # (1, 1, 4, 4)
assert np.array_equal(returned.ravel(), C.T @ y.ravel()), "a transposed convolution is the transpose of C"
print("x\n", x[0, 0], "\nC^T C x\n", returned[0, 0], sep="")

t = explain.trace(F.conv_transpose2d, y, w)
look(t, t.at(output=(0, 0, 1, 1)))

# %% [markdown]
# The *size* of x came back, its *numbers* did not: the transpose is not the inverse, and the name
# "deconvolution", which you will read, is wrong.
#
# The picture shows something else: pixel [1, 1] meets the weights in *reverse*, 5, 4, 2, 1. So a direct convolution can
# do the same with padding k - p - 1 and s - 1 zeros between the units (R8 to R14), if its kernel is rotated by 180
# degrees, which the formulas do not say.

# %%
e = explain.equivalent_convolution(tc.tensor(y), tc.tensor(w))
print("padding", e.padding, "rotated kernel", e.weight.numpy().ravel())
direct = F.conv2d(e.input, e.weight, padding=[before for before, _ in e.padding])
assert np.array_equal(direct.numpy(), returned)

# %% [markdown]
# **Exercise 5.** A convolution with k=3, s=4, p=1 reads 12 pixels. A transposed one with the same k, s and p takes what
# it made. How many pixels come `back`, and which output padding brings back the `missing` ones?

# %%
back = ...  # one number
missing = ...  # one number
### BEGIN SOLUTION
back = 4 * (((12 + 2 * 1 - 3) // 4 + 1) - 1) + 3 - 2 * 1
missing = (12 + 2 * 1 - 3) % 4
### END SOLUTION
q.check(5)

# %% [markdown]
# Output padding does not add zeros: it crops less at the end, and what stands there is made of real products. (Only
# where no kernel reaches, zeros come.) Three units and a kernel of 3 with stride 2 and padding 1:

# %%
units, kernel = tc.tensor([[[1.0, 1.0, 1.0]]]), tc.tensor([[[1.0, 2.0, 4.0]]])
for a in (0, 1):
    made = F.conv_transpose1d(units, kernel, stride=2, padding=1, output_padding=a).numpy().ravel()
    print(f"output padding {a}: {made}")
assert made[-1] == 4, "the last position receives the last weight"

# %% [markdown]
# ## Both gradients are the same list
#
# A convolution is a list of products pixel x weight, each belonging to one output. Add them
#
# - **by output**: the forward pass,
# - **by pixel**, with g, the gradient of the output, in place of the pixel: the gradient of the input, C^T g,
# - **by weight**, with g in place of the weight: the gradient of the weight.
#
# Nothing else is in the backward pass of a convolution. Below once with our list and once with autograd. g is random:
# with ones, a mix-up of outputs would not show.

# %%
x = rng.integers(0, 4, (1, 1, 5, 5)).astype(float)
w = rng.integers(1, 4, (1, 1, 3, 3)).astype(float)
t = explain.trace(F.conv2d, x, w, stride=2, padding=1)
g = rng.integers(1, 6, t.output).astype(float)  # (1, 1, 3, 3)

X, W = tc.tensor(x, requires_grad=True), tc.tensor(w, requires_grad=True)
F.conv2d(X, W, stride=2, padding=1).backward(tc.tensor(g))
assert np.array_equal(t.grad_input(g), X.grad.numpy())
assert np.array_equal(t.grad_input(g).ravel(), t.matrix().T @ g.ravel())
assert np.array_equal(t.grad_weight(g), W.grad.numpy())
print("gradient of the input\n", X.grad.numpy()[0, 0], "\ngradient of the weight\n", W.grad.numpy()[0, 0], sep="")

# %% [markdown]
# Who uses pixel [1, 1]? Four windows, each with another weight. Where is the weight [0, 0] used? In every window, each
# time on another pixel; along the upper and the left edge of the output it meets the padding, and gets nothing.

# %%
look(t, t.at(input=(0, 0, 1, 1), g=g), g)
look(t, t.at(weight=(0, 0, 0, 0), g=g), g)

# %% [markdown]
# ## A checkerboard
#
# Networks that draw an image, such as the U-Net, enlarge by transposed convolutions of stride 2. **Predict**: a 4x4 map
# of ones goes through a transposed convolution with all weights 1. Which of the kernels 2x2, 3x3, 4x4 gives an even
# picture, away from the edge?

# %%
figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
for axis, k in zip(axes, (2, 3, 4)):
    coverage = explain.example("conv_transpose2d", 4, k, stride=2).coverage()
    picture = F.conv_transpose2d(tc.ones(1, 1, 4, 4), tc.ones(1, 1, k, k), stride=2).numpy()[0, 0]
    assert np.array_equal(picture, coverage), "with ones, each pixel shows how many products reach it"
    axis.imshow(coverage, cmap="gray_r", vmin=0, vmax=6)
    for (row, column), count in np.ndenumerate(coverage):
        axis.text(column, row, count, ha="center", va="center", fontsize=7, color="white" if count > 3 else "black")
    axis.set_title(f"kernel {k}x{k}, stride 2", fontsize=9)
    axis.axis("off")
    inside = np.unique(coverage[2:-2, 2:-2]).tolist()
    print(f"k{k}s2: products that reach a pixel away from the edge: {inside}")
    assert inside == {2: [1], 3: [1, 2, 4], 4: [4]}[k]
show(
    figure,
    "Three grids of counts. Kernel 2: every pixel 1. Kernel 3: a checkerboard, single pixels with 4 and their "
    "neighbours with 2 among pixels with 1. Kernel 4: every pixel inside 4, at the edge 2 and in the corners 1.",
)

# %% [markdown]
# Copies of the kernel overlap evenly only where the stride divides the kernel. With k=3 and s=2 one pixel in four gets
# four products, one in four gets one. A network can learn weights that make up for it; at the start of its training it
# has not, and often a pattern stays (Odena, Dumoulin and Olah, *Deconvolution and checkerboard artifacts*, 2016). Use
# k2s2 or k4s2, or enlarge first and convolve then. And as the list is the same, the input gradient of a *direct*
# convolution k3s2 has the checkerboard as well.
#
# ## Receptive field
#
# One output of a 3x3 layer sees 3x3 pixels. What does it see behind two, behind three such layers? We ask autograd:
# with all weights 1, the gradient of one output counts the ways that lead from each pixel to it.

# %%
figure, axes = plt.subplots(1, 3, figsize=(7, 2.7), layout="constrained")
ones = tc.ones(1, 1, 3, 3)
for depth, axis in enumerate(axes, 1):
    image = tc.zeros(1, 1, 9, 9, requires_grad=True)
    out = image
    for _ in range(depth):
        out = F.conv2d(out, ones, padding=1)
    out[0, 0, 4, 4].backward()
    ways = image.grad.numpy()[0, 0].astype(int)  # (9, 9)
    seen = int((ways[4] > 0).sum())
    print(f"{depth} x 3x3: sees {seen} x {seen} pixels with {depth * 9} weights; one kernel of that size has {seen**2}")
    assert seen == explain.receptive_field([(3, 1, 1, 1)] * depth).size == 2 * depth + 1
    axis.imshow(ways / ways.max(), cmap="gray_r", vmax=2.5)
    for (row, column), count in np.ndenumerate(ways):
        if count:
            axis.text(column, row, count, ha="center", va="center", fontsize=7)
    axis.set_title(f"{depth} of 3x3: {seen} pixels", fontsize=9)
    axis.set(xticks=[], yticks=[])
show(
    figure,
    "Three grids of 9x9 pixels with the number of ways from each pixel to the middle output: one layer 3x3 pixels with "
    "1 each; two layers 5x5 pixels from 1 in the corners to 9 in the middle; three layers 7x7 pixels, from 1 to 49.",
)

# %% [markdown]
# Each layer of stride 1 adds d(k - 1) pixels. Three 3x3 layers see what one 7x7 layer sees, with 27 weights in place of
# 49 and two more activations; and they look hardest at the middle. A stride s in front multiplies: from the last layer
# to the first, r becomes s r + d(k - 1) + 1 - s.

# %%
for strides in ((1, 1, 1, 1), (2, 1, 1, 1), (1, 1, 1, 2), (2, 2, 2, 2)):
    field = explain.receptive_field([(3, s, 1, 1) for s in strides])
    print(f"four 3x3 layers with the strides {strides}: {field.size} pixels")

# %% [markdown]
# Where the stride stands matters: early it helps all layers behind it, at the end it helps none.
#
# **Exercise 6.** How many 3x3 `layers` with stride 1 and dilation 1 does it take to see a structure of 31 pixels? And
# how wide is the `dilated_field` of three 3x3 layers with the dilations 1, 2 and 4?

# %%
layers = ...  # one number
dilated_field = ...  # one number
### BEGIN SOLUTION
layers = (31 - 1) // (3 - 1)
dilated_field = 1 + 2 * (1 + 2 + 4)
### END SOLUTION
q.check(6)

# %% [markdown]
# ## What you can do now
#
# - Say what size a convolution, a pooling or a transposed convolution makes, and which pixels each number comes from.
# - Count the parameters and multiply-adds of a layer.
# - Write a convolution as a matrix, and say what its transpose does and what it does not.
# - Read both gradients off the same list of products.
# - See a checkerboard before it is trained, and say how much of an image a unit sees.
#
# More exercises, with a key: `print(explain.quiz.sheet(10, seed=1))`. Or one at a time:
# `question = explain.quiz.question("transposed", seed=2)`, `print(question)`, `question.check(7)`.
# Next lab: pooling.
