# %% [markdown]
# # Lab 00: a tour, with the debugger as the guide
#
# **Goal.** Nothing in tinyconv is out of sight. In this lab you look at the tape that remembers how a number was
# made, stop inside the loops of a convolution and read what stands there, get its result and both of its gradients
# from one list of products, and train a small network on real digits. Each time you predict first.
#
# The lab runs in well under a minute, without a network connection. You need Python and NumPy; convolution arithmetic
# is lab 04.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
import ast
import io
import pdb
import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import explain, nn, optim
from tinyconv.teaching import Quiz, show

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "a is used twice: as a factor, and as a summand. Each use sends a gradient back.",
    "The factor a gets the other factor, b; the summand a gets 1. The two gradients are added.",
)
def _(a_grad, b_grad):
    diagnoses = {
        (6, 2): None,
        (5, 2): "a has two uses; the summand sends a gradient back as well.",
        (1, 2): "a has two uses; the factor sends a gradient back as well.",
        (2, 6): "these are right the other way round: the gradient of a says how y changes with a.",
        (2, 5): "the gradient of a factor is the *other* factor; and a has a second use.",
        (12, 12): "12 is the value of y, not how fast it changes.",
        (5, 1): "the derivative of a * b in b is a, not 1; and a has a second use.",
        (6, 5): "a's is right; the derivative of a * b in b is the other factor, a.",
    }
    return diagnoses.get((a_grad, b_grad), f"{a_grad} and {b_grad} are not the slopes of a * b + a at a = 2, b = 5.")


@q.exercise(
    2,
    "The window of output 0 starts p pixels before the image. Each output moves it by the stride.",
    "It starts at oh * s - p; tap kh stands kh pixels after that. Columns follow the same rule.",
)
def _(read_position):
    def rules(oh, ow, kh, kw, s, p):
        return {
            "the padding moves the window *before* the image: it is subtracted.": (oh * s + kh + p, ow * s + kw + p),
            "the padding is missing: with p = 1 the first window starts at pixel -1.": (oh * s + kh, ow * s + kw),
            "the stride is missing: each output moves the window by s pixels.": (oh + kh - p, ow + kw - p),
            "the taps stand side by side; the stride moves the window, not the tap.": (
                (oh + kh) * s - p,
                (ow + kw) * s - p,
            ),
            "rows and columns are exchanged: ih follows from oh and kh.": (ow * s + kw - p, oh * s + kh - p),
            "the kernel is rotated; a convolution of deep learning takes tap 0 first.": (
                oh * s + 2 - kh - p,
                ow * s + 2 - kw - p,
            ),
        }

    outputs, taps, settings = ((1, 2), (0, 3)), ((0, 1), (2, 0)), ((2, 1), (3, 2), (1, 0))
    cases = [(*output, *tap, *setting) for output in outputs for tap in taps for setting in settings]
    found = [read_position(*case) for case in cases]
    if any(pair is None or len(pair) != 2 for pair in found):
        return "read_position has to return two numbers, ih and iw."
    right = [(oh * s + kh - p, ow * s + kw - p) for oh, ow, kh, kw, s, p in cases]
    if all(tuple(pair) == expected for pair, expected in zip(found, right)):
        return None
    for sentence in rules(*cases[0]):
        if all(tuple(pair) == rules(*case)[sentence] for pair, case in zip(found, cases)):
            return sentence
    if all(tuple(pair) == (max(0, ih), max(0, iw)) for pair, (ih, iw) in zip(found, right)):
        return "do not cut at 0: -1 says that the tap stands in the padding, and reads a zero."
    oh, ow, kh, kw, s, p = cases[0]
    return f"for oh={oh}, ow={ow}, kh={kh}, kw={kw}, s={s}, p={p} the debugger shows (1, 4), yours is {found[0]}."


@q.exercise(
    3,
    "The debugger stops *before* it adds a product. How many has it added when it stops for the fifth time?",
    "Four: taps [0, 0], [0, 1], [0, 2] and [1, 0]. The window starts at pixel [3, 3]; its third tap is in the padding.",
)
def _(acc):
    diagnoses = {
        88: None,
        136: "136 has the fifth product in it; the debugger stops before it adds that.",
        19: "19 is the sum at the third and fourth stop; one product more is added until the fifth.",
        0: "acc is 0 at the first two stops only.",
        128: "the third tap does not read pixel 20, the first one of the next row: it stands in the padding.",
        55: "the kernel is not rotated: tap [0, 0] is its upper left weight, and meets pixel [3, 3].",
        48: "this is the output that we looked at before; take [0, 0, 2, 2].",
    }
    return diagnoses.get(acc, f"{acc} is not the sum of the first four products of pixel and weight.")


@q.exercise(
    4,
    "Each triple is one product of the forward pass: y[o] += x[i] * w[k].",
    "A gradient has g[o] in the place of what it is the gradient of: gx[i] += g[o] * w[k], gw[k] += g[o] * x[i].",
)
def _(three_sums):
    rng = np.random.default_rng(5)
    x, w = rng.integers(1, 5, (1, 1, 4, 5)).astype(float), rng.integers(1, 5, (2, 1, 3, 2)).astype(float)
    t = explain.trace(F.conv2d, x, w, stride=2, padding=1)
    g = rng.integers(1, 7, t.output).astype(float)
    triples = list(t.products())
    made = three_sums(triples, x, w, g)
    if made is None or len(made) != 3:
        return "three_sums has to return y, gx and gw."
    y, gx, gw = map(np.asarray, made)
    if not np.array_equal(y, t.forward()):
        if np.array_equal(np.abs(y) > 0, np.abs(t.forward()) > 0):
            return "y: add each product, with += ; = keeps the last one only."
        return "y is not the sum of x[i] * w[k] over the triples of each output."
    if not np.array_equal(gx, t.grad_input(g)):
        if np.array_equal(gx, t.grad_input(np.ones(t.output))):
            return "y is right. gx lacks the factor g[o], the gradient that comes from above."
        if np.array_equal(gx, t.grad_input(t.forward())):
            return "y is right. gx has y[o] as a factor, where g[o] belongs."
        return "y is right. gx[i] collects g[o] * w[k]: how y[o] changes with x[i] is the weight between them."
    if not np.array_equal(gw, t.grad_weight(g)):
        if np.array_equal(gw, t.grad_weight(np.ones(t.output))):
            return "y and gx are right. gw lacks the factor g[o]."
        return "y and gx are right. gw[k] collects g[o] * x[i]: each use of the weight adds what it met."
    return None


@q.exercise(
    5,
    "Walk against the gradient: data -= lr * gradient. What happens with the gradient at the next backward?",
    "backward() adds to grad. So set p.grad = None when the step is made.",
)
def _(descend):
    p = nn.Parameter(np.array([1.0, -2.0]))
    for expected in ([0.9, -1.8], [0.81, -1.62]):  # of p^2 / 2, whose gradient is p
        (p * p / 2).sum().backward()
        descend([p], 0.1)
        found = p.data.tolist()
        if np.allclose(found, expected):
            continue
        if np.allclose(found, [1.1, -2.2]):
            return "this walks uphill; subtract."
        if np.allclose(found, [1.0, -2.0]):
            return "the parameter has not changed: change p.data itself, p.data -= ..."
        if np.allclose(found, [0, 0]):
            return "the step is the whole gradient; multiply it by lr."
        if expected[0] == 0.81 and np.allclose(found, [0.9 - 0.19, -1.8 + 0.38]):
            return "right for one step. At the second the old gradient was still there: set p.grad = None after a step."
        return f"from [1, -2], with the gradient [1, -2] and lr = 0.1, {expected} was expected, but there is {found}."
    return None


# %% [markdown]
# ## The tape
#
# A tensor is an array that can remember how it was made. Where `requires_grad` is set, every operator leaves a node
# on the **tape**. `explain.graph` draws it: operators in boxes, what they started from rounded, the shape of what
# flows on each line. A picture like this is the last value of the next cell; `print(explain.graph(y))` says the same
# in words.

# %%
a = tc.tensor(2.0, requires_grad=True)
b = tc.tensor(5.0, requires_grad=True)
y = a * b + a
print(y)
explain.graph(y, {"a": a, "b": b})

# %% [markdown]
# `y.backward()` walks this picture upwards, from the output to the leaves, and multiplies the slopes on the way. Where
# two ways lead to one leaf, what they bring is added.
#
# **Exercise 1.** What will `a.grad` and `b.grad` be? Answer before the next cell does.

# %%
a_grad = ...  # a number
b_grad = ...  # a number
### BEGIN SOLUTION
a_grad = 5 + 1
b_grad = 2
### END SOLUTION
q.check(1)

# %%
y.backward()
print("a.grad", a.grad, " b.grad", b.grad)
assert np.isclose(a.grad.item(), (3 * 5 + 3 - (1 * 5 + 1)) / 2), "y is linear in a: a difference gives its slope"

# %% [markdown]
# ## Predict: one output of a convolution
#
# An image of 5x5 pixels with the numbers 0 to 24, a kernel of 3x3, stride 2, padding 1. The result has 3x3 outputs;
# we look at the output in row 1, column 2.

# %%
image = np.arange(25.0).reshape(1, 1, 5, 5)  # (N, C_in, H, W)
kernel = np.array([[0.0, 1, 2], [3, 2, 0], [0, 1, 2]])[None, None]  # (C_out, C_in, KH, KW)
x, w = tc.tensor(image, requires_grad=True), tc.tensor(kernel, requires_grad=True)
print("image\n", image[0, 0], "\nkernel\n", kernel[0, 0], sep="")

# %% [markdown]
# The kernel's first tap, [0, 0], meets one pixel for this output, its last, [2, 2], another. In which row `ih` and
# which column `iw` do they stand, and what is the pixel's value? Change the zeros.

# %%
guess = {(0, 0): (0, 0, 0), (2, 2): (0, 0, 0)}  # tap: (ih, iw, pixel)

# %% [markdown]
# ## Run: stop inside the loops
#
# `tinyconv/kernels/loops.py` has every operator as plain loops with the field's names. `explain.break_at` runs a
# convolution there and stops in Python's own debugger, pdb, at each product of one output. By hand it goes like this,
# in a cell of your own:
#
#     with explain.break_at(output=(0, 0, 1, 2)):
#         F.conv2d(x, w, stride=2, padding=1)
#
# A prompt appears. `p ih, iw, acc` prints variables, `c` goes on to the next product, `ll` lists the function, `w`
# says where you are, `q` leaves. Here the commands are typed for you, so that the lab also runs without you.


# %%
class Typed(pdb.Pdb):
    """pdb that is given its commands, and prints each where you would type it."""

    def __init__(self, commands: list[str], stdout: io.TextIOBase = sys.stdout) -> None:
        super().__init__(stdin=io.StringIO("\n".join(commands)), stdout=stdout, nosigint=True, readrc=False)

    def precmd(self, line: str) -> str:
        print(line, file=self.stdout)
        return super().precmd(line)


look = "p oh, ow, ci, kh, kw, ih, iw, acc"
with explain.break_at(output=(0, 0, 1, 2), debugger=Typed(["ll", look, "c", look, "q"])):
    F.conv2d(x, w, stride=2, padding=1)

# %% [markdown]
# You see the seven loops of a convolution: images, output channels, output rows and columns, input channels, and the
# rows and columns of the kernel. Only the innermost line computes.
#
# ## Measure
#
# The same once more at all nine stops, and what was seen kept in a table.

# %%
names = "kh, kw, ih, iw, inside, pixel, w[co, ci, kh, kw], acc"
said = io.StringIO()
with explain.break_at(output=(0, 0, 1, 2), debugger=Typed([f"p {names}", "c"] * 9, said)):
    result = F.conv2d(x, w, stride=2, padding=1)
seen = [ast.literal_eval(line) for line in said.getvalue().splitlines() if line.startswith("(") and "Pdb" not in line]
assert len(seen) == 9, "one stop for each tap of the kernel"

print("stop  tap     ih  iw  pixel  weight  acc before     your guess")
for stop, (kh, kw, ih, iw, inside, pixel, weight, acc_seen) in enumerate(seen, 1):
    place = "" if inside else "  padding"
    told = ""
    if (kh, kw) in guess:
        told = f"  {guess[kh, kw]} {'right' if guess[kh, kw] == (ih, iw, pixel) else 'differs'}"
    print(f"{stop:4}  [{kh}, {kw}] {ih:4} {iw:3} {pixel:6g} {weight:7g} {acc_seen:11g}{place}{told}")

last = seen[-1]
assert last[7] + last[5] * last[6] == result[0, 0, 1, 2].item(), "the last acc and the last product are the output"
assert [row[7] for row in seen[1:]] == np.cumsum([row[5] * row[6] for row in seen])[:-1].tolist()

# %% [markdown]
# **Exercise 2.** Which rule leads from an output and a tap to a pixel? Write it, for stride `s` and padding `p`. It is
# the one line on which everything in this library rests.


# %%
def read_position(oh: int, ow: int, kh: int, kw: int, s: int, p: int) -> tuple[int, int]:
    """(ih, iw), the pixel that tap [kh, kw] reads for output [oh, ow]; outside of the image it is padding."""
    ### BEGIN SOLUTION
    return oh * s + kh - p, ow * s + kw - p
    ### END SOLUTION


q.check(2)

# %% [markdown]
# **Exercise 3.** Now the output in the lower right corner, [0, 0, 2, 2], of the same convolution. What is `acc` when
# the debugger stops for the fifth time? Predict; then look, with `explain.break_at` in a cell of your own.

# %%
acc = ...  # a number
### BEGIN SOLUTION
acc = 18 * 0 + 19 * 1 + 0 * 2 + 23 * 3
### END SOLUTION
q.check(3)

# %% [markdown]
# ## Explain: one list of products
#
# `explain.trace` keeps the products of all outputs as triples (output, pixel, weight). This is the output that we
# stopped at, as a picture; what is hatched is padding.

# %%
t = explain.trace(F.conv2d, x, w, stride=2, padding=1)
step = t.at(output=(0, 0, 1, 2))
show(t.plot(step), t.describe(step))
triples = list(t.products())
print(f"{len(triples)} triples without those in the padding; the first three:")
for triple in triples[:3]:
    print("   output {}  pixel {}  weight {}".format(*triple))

# %% [markdown]
# Add the products by output: that is the convolution. What is the gradient of a loss then, if `g` is its gradient in
# the outputs? Pixel i enters output o with weight k, so it gets `g[o] * w[k]` from it, and a weight gets `g[o] * x[i]`.
# The *same* list, added by pixel, is the gradient of the image; added by weight, that of the kernel.
#
# **Exercise 4.** Write all three in one loop over the triples.


# %%
def three_sums(triples, x: np.ndarray, w: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The convolution y, and for g, the gradient of y's elements, the gradients gx of the image and gw of the kernel.

    triples: (o, i, k), indices into y (and g), x and w.
    """
    y, gx, gw = np.zeros(g.shape), np.zeros(x.shape), np.zeros(w.shape)
    ### BEGIN SOLUTION
    for o, i, k in triples:
        y[o] += x[i] * w[k]
        gx[i] += g[o] * w[k]
        gw[k] += g[o] * x[i]
    ### END SOLUTION
    return y, gx, gw


q.check(4)

# %% [markdown]
# Autograd does nothing else. `break_at` also stops in the loops of a gradient, here at pixel [1, 1] of the image: four
# windows read it, so there are four stops, each with another output and another weight.

# %%
g = np.arange(1.0, 10).reshape(1, 1, 3, 3)
with explain.break_at(input=(0, 0, 1, 1), debugger=Typed(["p (oh, ow), (kh, kw), acc", "c"] * 4)):
    F.conv2d(x, w, stride=2, padding=1).backward(tc.tensor(g))

assert np.array_equal(x.grad.numpy(), t.grad_input(g)) and np.array_equal(w.grad.numpy(), t.grad_weight(g))
print("gradient of the kernel\n", w.grad.numpy()[0, 0], sep="")

# %% [markdown]
# ## A network learns
#
# The rest of deep learning is a loop: compute, walk back, take a step. We train on the 1,797 digits of 8x8 pixels that
# come with scikit-learn, written by 13 people; a quarter, drawn at random, is kept for the test.

# %%
digits = load_digits()
images = tc.tensor(digits.images[:, None].astype(np.float32) / 16)  # (1797, 1, 8, 8), 0 to 1
labels = tc.tensor(digits.target)
order = np.random.default_rng(0).permutation(len(digits.target))
test, train = order[:449], order[449:]


def small_network() -> nn.Sequential:
    """(N, 1, 8, 8) to ten scores."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 2 * 2, 10),
    )  # fmt: skip


net = small_network()
print(explain.summary(net, (1, 1, 8, 8)))
batch = images[:64]
loss = F.cross_entropy(net(batch), labels[:64])
graph = explain.graph(loss, {**dict(net.named_parameters()), "images": batch})
print("\n" + graph.describe())

# %% [markdown]
# The tape of one training step, from the images down to the loss. You know all of its boxes by now, or one like it.

# %%
graph

# %% [markdown]
# **Predict.** Ten classes: guessing reads one digit in ten. How many of ten test digits will the network read after
# seeing the training images six times? And what is the loss *before* training, if all ten scores are about equal?

# %%
predicted_accuracy = 0.1
predicted_first_loss = 0.0


# %%
def fit(seed: int, epochs: int = 6) -> tuple[nn.Sequential, list[float], float]:
    """The trained network, the loss of each step, and the share of test digits that it reads."""
    tc.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = small_network()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(train), len(train) // 32):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with tc.no_grad():
        accuracy = float((net(images[test]).argmax(1).numpy() == digits.target[test]).mean())
    return net, losses, accuracy


runs = {seed: fit(seed) for seed in (0, 1, 2)}

# %%
print(f"accuracy: your guess {predicted_accuracy:.3f}, measured", *(f"{run[2]:.3f}" for run in runs.values()))
print(f"first loss: your guess {predicted_first_loss:.3f}, measured", *(f"{run[1][0]:.3f}" for run in runs.values()))

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for (seed, (_, losses, _)), style in zip(runs.items(), ("k-", "k--", "k:")):
    axis.plot(np.convolve(losses, np.ones(20) / 20, "valid"), style, lw=1, label=f"seed {seed}")
axis.axhline(np.log(10), color="0.5", lw=1)
axis.text(len(losses) - 20, np.log(10) + 0.04, "ln 10, guessing", ha="right", fontsize=8)
axis.set(xlabel="step", ylabel="training loss, mean of 20 steps", ylim=(0, 2.6))
axis.legend()
show(
    figure,
    "Training loss over about 250 steps for three seeds: it starts near 2.3, the logarithm of ten, falls below 0.5 "
    "within the first hundred steps, and ends near 0.1; the three curves differ little.",
)

# Seen with seeds 0, 1 and 2.
for _, losses, accuracy in runs.values():
    assert accuracy > 0.9, "the network reads the digits"
    assert abs(losses[0] - np.log(10)) < 0.3, "an untrained network guesses: its loss is ln 10 = 2.303"

# %% [markdown]
# Before training, each class gets about a tenth, so the loss is -ln(1/10) = ln 10. A first loss that is far from it
# says that something is wrong with the start, before a minute of training is spent.
#
# `optimizer.step()` hides one line.
#
# **Exercise 5.** Write it: gradient descent without momentum. Leave the parameters ready for the next `backward()`.


# %%
def descend(parameters: list[nn.Parameter], lr: float) -> None:
    """One step against the gradient."""
    for p in parameters:
        ### BEGIN SOLUTION
        p.data -= lr * p.grad.numpy()
        p.grad = None
        ### END SOLUTION


q.check(5)

# %% [markdown]
# ## Nothing is out of sight, even now
#
# The trained network is the same list of products. `explain.record` keeps what each layer was given; here is the first
# filter of the first layer on a digit of the test, at one pixel.

# %%
net = runs[0][0]
digit = images[test[:1]]
with explain.record(net) as rec, tc.no_grad():
    net(digit)
first = rec["0"]
step = first.at(output=(0, 0, 3, 4))
assert np.isclose(step.value, net[0](digit)[0, 0, 3, 4].item(), atol=1e-5)
one = explain.trace(F.conv2d, first.x, first.w[:1], first.b[:1], padding=1)  # one filter fits on a page
show(one.plot(one.at(output=(0, 0, 3, 4))), one.describe(step))

# %% [markdown]
# ## What you can do now
#
# - Draw the tape behind a number, and say which gradients meet where.
# - Stop inside a convolution and its gradients, at one output, one pixel or one weight, and read ih, iw and acc.
# - Say which pixel a tap reads, and get a convolution and both of its gradients from one list.
# - Write a training loop, and check its first loss against ln(classes).
#
# Next lab: images as tensors. Convolution arithmetic, with every size and padding, is lab 04.
