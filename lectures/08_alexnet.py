# %% [markdown]
# # Lab 08: AlexNet, depth, ReLU and dropout
#
# **Goal.** In 2012 a convolutional network of eight layers won the ImageNet competition by a wide margin (Krizhevsky,
# Sutskever and Hinton, *ImageNet classification with deep convolutional neural networks*). You audit it, layer by
# layer: shapes, parameters, multiply-adds, memory. Then you train the same network, smaller, and measure what its three
# ingredients do: depth, ReLU, dropout. Not all of them will do what you may have read.
#
# You need convolution arithmetic (lab 04) and LeNet (lab 07). The lab runs in about a minute, without a network.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import explain, models, nn, optim
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.geometry import output_size
from tinyconv.teaching import Quiz, show
from tinyconv.training import Trainer

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "A window of k pixels that moves by s fits at (i - k) // s + 1 places along a side of i pixels.",
    "conv1: (227 - 11) // 4 + 1. Each pooling: a window of 3 that moves by 2. The other convolutions keep the size.",
)
def _(sides):
    sides = list(sides)
    if sides == [55, 27, 13, 6]:
        return None
    if len(sides) != 4:
        return f"four numbers are asked for, conv1 and the three poolings, and you gave {len(sides)}."
    if sides[0] == 54:
        return "54 is the number of steps of the window; it has one more place than steps."
    if sides[0] == 217:
        return "217 would be a window that moves by one pixel; the stride of conv1 is 4."
    if sides[0] == 57:
        return "57 is 227 / 4: the window has 11 pixels and stays inside the image."
    if sides[0] != 55:
        return f"conv1 is not {sides[0]}: count the places of an 11-pixel window that moves by 4 on 227 pixels."
    if sides[1] == 18:
        return "these poolings overlap: a window of 3 moves by 2, not by 3."
    if sides[1] == 28:
        return "28 needs half a pixel more than there is: a window of 3 that moves by 2 fits 27 times on 55."
    return f"conv1 is right; now (i - 3) // 2 + 1, three times, which does not give {sides[1:]}."


@q.exercise(
    2,
    "A filter of conv2 sees one half of the 96 maps: 48 of them. It still has one weight a tap and map, and one bias.",
    "256 * (48 * 5 * 5 + 1).",
)
def _(conv2_parameters):
    diagnoses = {
        307_456: None,
        307_200: "you left out the biases: one for each of the 256 filters.",
        614_656: "this is conv2 without groups: with two, a filter sees 48 maps, not 96.",
        614_400: "with two groups a filter sees 48 maps, not 96; and it has a bias.",
        153_728: "this is one of the two groups: each has 128 filters, there are 256 in all.",
        153_856: "the groups share the input maps, 48 for each, and the filters, but no filter is lost: 256 in all.",
    }
    return diagnoses.get(conv2_parameters, f"{conv2_parameters} is not 256 filters times the parameters of one.")


@q.exercise(
    3,
    "Every weight of a filter is used once at every place of the window. A bias is no multiplication.",
    "conv2 has 256 * 48 * 5 * 5 weights and 27 * 27 places; fc6 has 9216 * 4096 weights and one place.",
)
def _(conv2_products, fc6_products):
    diagnoses = {
        223_948_800: None,
        447_897_600: "with two groups a filter sees 48 maps, not 96 (or you counted the additions as well).",
        224_135_424: "the biases are added, not multiplied.",
        307_200: "these are the weights; each is used at 27 * 27 places.",
        8_957_952: "a filter has 48 * 5 * 5 taps: the maps count as well.",
    }
    if conv2_products != 223_948_800:
        return "conv2: " + diagnoses.get(conv2_products, f"{conv2_products} is not weights times places.")
    diagnoses = {
        37_748_736: None,
        37_752_832: "the biases are added, not multiplied.",
        1_048_576: "fc6 sees 256 maps of 6x6, not 256 numbers.",
        1_358_954_496: "fc6 sees the whole 6x6 at once: it has one place, not 36.",
    }
    diagnosis = diagnoses.get(fc6_products, f"{fc6_products} is not the weights of fc6.")
    return diagnosis and f"conv2 is right. fc6: {diagnosis}"


@q.exercise(
    4,
    "The slope of the sigmoid s is s (1 - s), at most 1/4. How many sigmoids stand between the loss and conv1?",
    "One behind each of the five convolutions, one behind fc6, one behind fc7; none behind fc8.",
)
def _(factor):
    for count, meaning in ((8, "fc8 has no activation behind it"), (5, "fc6 and fc7 have one, too"), (4, "lab 07")):
        if np.isclose(factor, 4.0**-count):
            return f"this is {count} sigmoids: {meaning}. Count again."
    if np.isclose(factor, 2.0**-7):
        return "1/2 is the sigmoid's value at 0; its slope there is 1/4."
    return None if np.isclose(factor, 4.0**-7) else f"{factor} is not the largest slope, once for every sigmoid."


@q.exercise(
    5,
    "keep = rng.random(x.shape) >= p is True for a share of 1 - p. What is the mean of x * keep?",
    "The mean of x * keep is (1 - p) times that of x; divide by 1 - p, and it is kept. Without training: x itself.",
)
def _(dropout):
    x = np.full((100, 100), 3.0)
    y = dropout(x, 0.2, np.random.default_rng(0), True)
    if y is None:
        return "dropout returns None; it has to return an array with the shape of x."
    if np.shape(y) != x.shape:
        return f"the result has the shape of x, {x.shape}, yours is {np.shape(y)}."
    if not (x == 3).all():
        return "x itself was changed; make a new array."
    zeros, values = (y == 0).mean(), np.unique(y[y != 0])
    if zeros == 0:
        return "nothing was dropped while training."
    if len(values) > 1 or zeros == 1:
        return "each number is either dropped or kept, and all that are kept get the same factor."
    if abs(zeros - 0.8) < 0.05:
        return "p is the share that is dropped; yours keeps this share."
    if np.isclose(values[0], 3):
        return "the mean fell to (1 - p) times what it was: divide what is kept by 1 - p."
    if np.isclose(values[0], 3 * 0.8):
        return "you multiplied by 1 - p; what is kept has to grow, not to shrink."
    if not np.isclose(values[0], 3 / 0.8) or abs(zeros - 0.2) > 0.05:
        return f"with p = 0.2, 3 becomes 0 in {zeros:.0%} and {values[0]:.3g} in the rest; the mean has to stay 3."
    if not np.array_equal(dropout(x, 0.2, np.random.default_rng(0), False), x):
        return "in evaluation (training=False) nothing is dropped and nothing is scaled."
    return None


# %% [markdown]
# ## Audit: 227x227x3
#
# | layer | what | output |
# |---|---|---|
# | conv1 | 96 filters of 11x11, stride 4 | 96 x ? x ? |
# | pool1 | maximum of 3x3, stride 2 | 96 x ? x ? |
# | conv2 | 256 filters of 5x5, padding 2, two groups | 256, the same size |
# | pool2 | maximum of 3x3, stride 2 | 256 x ? x ? |
# | conv3 | 384 filters of 3x3, padding 1 | 384, the same size |
# | conv4 | 384 filters of 3x3, padding 1, two groups | 384, the same size |
# | conv5 | 256 filters of 3x3, padding 1, two groups | 256, the same size |
# | pool5 | maximum of 3x3, stride 2 | 256 x ? x ? |
# | fc6, fc7 | dense, with dropout | 4096 each |
# | fc8 | dense | 1000 classes |
#
# ReLU follows every layer but the last. **Two groups**: the network did not fit one graphics card of 2012, so each of
# two cards had half of the filters. In conv2, conv4 and conv5 a filter sees only the maps on its own card.
#
# **Exercise 1.** Which side have the maps of conv1, pool1, pool2 and pool5?

# %%
sides = ...  # a list of four numbers
### BEGIN SOLUTION
sides = [(227 - 11) // 4 + 1, (55 - 3) // 2 + 1, (27 - 3) // 2 + 1, (13 - 3) // 2 + 1]
### END SOLUTION
q.check(1)

# %% [markdown]
# The paper writes 224x224, not 227. Can that be? We ask the arithmetic, and then the network.

# %%
for size, padding in ((227, 0), (224, 2), (224, 0)):
    steps = (size + 2 * padding - 11) / 4
    print(f"{size} with padding {padding}: {steps:6.2f} steps of 4, {output_size(size, 11, 4, padding)} places")

try:
    models.alexnet2012(width=1 / 16, hidden=8)(tc.zeros(1, 3, 224, 224))
except ValueError as error:
    print(error)

assert output_size(227, 11, 4) == output_size(224, 11, 4, 2) == 55 != output_size(224, 11, 4)

# %% [markdown]
# 227 without padding and 224 with padding 2 both give the 55 of the paper. 224 without padding does not: the window
# stops a pixel before the edge, at its 54th place, and one column and one row are never looked at. Libraries do this
# silently: they round down.
#
# **Exercise 2.** How many parameters has conv2, with its two groups?

# %%
conv2_parameters = ...  # one number
### BEGIN SOLUTION
conv2_parameters = 256 * (96 // 2 * 5 * 5 + 1)
### END SOLUTION
q.check(2)

# %% [markdown]
# **Exercise 3.** How many multiplications does one image cost in conv2, and how many in fc6?

# %%
conv2_products = ...  # one number
fc6_products = ...  # one number
### BEGIN SOLUTION
conv2_products = 256 * (96 // 2 * 5 * 5) * (27 * 27)
fc6_products = (256 * 6 * 6) * 4096
### END SOLUTION
q.check(3)

# %% [markdown]
# Now the whole network in its full size. `explain.summary` sends one image through and writes down every layer.
# **Predict**: which layer has most of the parameters, and which does most of the work? Is it the same one?

# %%
tc.manual_seed(0)
table = explain.summary(models.alexnet2012(), (1, 3, 227, 227))
print(table)

# %% [markdown]
# By hand, to trust the table: a layer with (filters, taps of one filter, places).

# %%
names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
by_hand = [
    (96, 3 * 11 * 11, 55 * 55),
    (256, 48 * 5 * 5, 27 * 27),
    (384, 256 * 3 * 3, 13 * 13),
    (384, 192 * 3 * 3, 13 * 13),
    (256, 192 * 3 * 3, 13 * 13),
    (4096, 256 * 6 * 6, 1),
    (4096, 4096, 1),
    (1000, 4096, 1),
]
rows = [layer for layer in table.layers if layer.parameters]
assert [filters * (taps + 1) for filters, taps, _ in by_hand] == [row.parameters for row in rows]
assert [filters * taps * places for filters, taps, places in by_hand] == [row.multiply_adds for row in rows]

parameters = np.array([row.parameters for row in rows]) / table.parameters
work = np.array([row.multiply_adds for row in rows]) / table.multiply_adds
print(
    f"the five convolutions have {parameters[:5].sum():.1%} of the parameters and do {work[:5].sum():.1%} of the work"
)
print(f"units: {sum(int(np.prod(row.output)) for row in rows):,}")

joined = explain.summary(models.alexnet2012(groups=1, hidden=1), (1, 3, 227, 227)).layers
saved = sum(layer.multiply_adds for layer in joined if layer.kind == "Conv2d") / sum(r.multiply_adds for r in rows[:5])
print(f"without groups the convolutions would cost {saved:.2f} times as much")

figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
axis.bar(np.arange(8) - 0.2, 100 * parameters, 0.4, color="0.25", label="parameters")
axis.bar(np.arange(8) + 0.2, 100 * work, 0.4, color="0.75", edgecolor="black", hatch="//", label="multiply-adds")
axis.set(xticks=range(8), xticklabels=names, ylabel="percent of the network")
axis.legend()
show(
    figure,
    "Bars for eight layers: the convolutions have hardly any parameters and most of the multiply-adds; fc6 has more "
    "than half of the parameters and few of the multiply-adds.",
)

assert parameters[5] > 0.6 and parameters[:5].sum() < 0.05 and work[:5].sum() > 0.9

# %% [markdown]
# Convolutions work, dense layers store. A weight of conv1 is used 3,025 times an image, a weight of fc6 once. Later
# networks did away with fc6 for this reason (lab 10).
#
# What does training need? The weights, their gradients, a momentum for each; and for every image of the batch the
# outputs of all layers, because backward asks for them.

# %%
weights = 4 * table.parameters
outputs = table.memory
print(f"weights, gradients, momentum: 3 * {weights / 2**20:.0f} MiB = {3 * weights / 2**20:.0f} MiB")
print(f"outputs of a batch of 128:    128 * {outputs / 2**20:.1f} MiB = {128 * outputs / 2**20:.0f} MiB")

assert outputs == 4 * sum(int(np.prod(layer.output)) for layer in table.layers)

# %% [markdown]
# ## A miniature
#
# `models.alexnet` takes its size as arguments: an eighth of the channels, a first window of 5x5 with stride 2, and
# 32x32 pixels in place of 224x224. The same code, the same eight layers. The data are the 1,797 handwritten digits of
# lab 07, enlarged; a quarter is kept for the test.
#
# He and colleagues (2015) draw the weights of a layer with n inputs from N(0, 2/n): behind a ReLU, which loses half of
# the signal, its size then stays the same from layer to layer. We draw them so for every activation, and can make them
# `scale` times as wide.

# %%
digits = load_digits()
images = tc.tensor(digits.images[:, None].astype(np.float32))  # (1797, 1, 8, 8)
images = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False).numpy()
images = (images - images.mean()) / images.std()
labels = digits.target

order = np.random.default_rng(0).permutation(len(labels))
test, train = order[: len(order) // 4], order[len(order) // 4 :]

CONVOLUTIONS = {3: (64, 192, 256), 5: (64, 192, 384, 256, 256), 8: (64, 192, 384, 256, 256, 256, 256, 256)}


def miniature(activation=nn.ReLU, scale: float = 1.0, depth: int = 5, dropout: float = 0.0, hidden: int = 128):
    """AlexNet for 32x32 pixels; ``depth`` is its number of convolutions."""
    net = models.alexnet(
        num_classes=10, in_channels=1, width=1 / 8, hidden=hidden, stem=(5, 2, 2), grid=1,
        dropout=dropout, activation=activation, channels=CONVOLUTIONS[depth],
    )  # fmt: skip
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            with tc.no_grad():
                layer.weight.copy_(scale * layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def batches(which: np.ndarray, targets: np.ndarray, size: int, seed: int | None = None) -> DataLoader:
    """Shuffled with a seed, in order without."""
    return DataLoader(TensorDataset(images[which], targets), size, shuffle=seed is not None, seed=seed or 0)


def fit(net: nn.Module, which: np.ndarray, targets: np.ndarray, epochs: int, seed: int, size: int = 32, lr=1e-3):
    """Train with Adam; a row an epoch with loss, accuracy, val_loss and val_accuracy."""
    loader, held_out = batches(which, targets, size, seed), batches(test, labels[test], 500)
    optimizer = optim.Adam(net.parameters(), lr=lr)
    return Trainer(net, optimizer, nn.CrossEntropyLoss(), loader, validation=held_out).fit(epochs)


SEED = 0
tc.manual_seed(SEED)
print(explain.summary(miniature(), (1, 1, 32, 32)))

# %% [markdown]
# ## Depth, and why it needed ReLU
#
# Before a network learns, how much of the gradient reaches its first layer? We take three, five and eight convolutions
# (and three dense layers each) and compare the gradient of conv1's weights with that of the last layer.
#
# **Exercise 4.** The network has sigmoids in place of ReLUs. By which factor at most do their slopes multiply the
# gradient on its way from the loss to conv1, with five convolutions?

# %%
factor = ...  # one number, at most
### BEGIN SOLUTION
factor = (1 / 4) ** 7
### END SOLUTION
q.check(4)

# %%
activations = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU}


def gradient_ratio(net: nn.Module) -> float:
    """Root mean square of the loss gradient of conv1's weights, divided by that of the last layer's."""
    some = train[:256]
    F.cross_entropy(net(tc.tensor(images[some])), tc.tensor(labels[some])).backward()
    first, last = (np.sqrt((w.grad.numpy() ** 2).mean()) for w in (net.features[0].weight, net.classifier[-1].weight))
    return float(first / last)


print("gradient of conv1 / gradient of the last layer, before training")
print("convolutions ", *(f"{depth:9}" for depth in CONVOLUTIONS))
ratios = {}
for name, activation in activations.items():
    ratios[name] = []
    for depth in CONVOLUTIONS:
        tc.manual_seed(SEED)
        ratios[name].append(gradient_ratio(miniature(activation, depth=depth)))
    print(f"{name:13}", *(f"{ratio:9.1e}" for ratio in ratios[name]))

# Seen with seeds 0, 1 and 2.
assert ratios["sigmoid"][2] < ratios["sigmoid"][0] / 20, "each sigmoid more makes the gradient smaller"
assert min(ratios["ReLU"]) > 0.1, "ReLU's slope of 1 lets it pass at any depth"

# %% [markdown]
# With sigmoids five convolutions more cost a large factor. With ReLU depth costs next to nothing: its slope is 1 or 0,
# and what it loses by the zeros the weights make up for. So can it be trained at any of these depths, and is deeper
# better?

# %%
by_depth = {}
for depth in CONVOLUTIONS:
    tc.manual_seed(SEED)
    by_depth[depth] = fit(miniature(depth=depth), train, labels[train], 4, SEED)[-1]["val_accuracy"]
    print(f"ReLU, {depth} convolutions: test accuracy after four epochs {by_depth[depth]:.3f}")

assert min(by_depth.values()) > 0.8, "with ReLU and He's weights each of the depths learns"

# %% [markdown]
# It can, and deeper is not better here (try another seed): an enlarged digit of 8x8 pixels has little that three
# convolutions would miss. Depth pays where parts are made of parts, as in photographs. ReLU did not make depth useful,
# it made depth *possible*.
#
# ## How fast does the loss fall?
#
# The paper shows a network with ReLU that learns several times as fast as one with tanh. **Predict**: which share of
# the test digits reads each after four epochs? And if all weights start four times as wide?

# %%
prediction = {"sigmoid": 0.5, "tanh": 0.5, "ReLU": 0.5}  # change these three numbers
prediction_wide = {"sigmoid": 0.5, "tanh": 0.5, "ReLU": 0.5}  # and these

# %%
histories = {}
for scale in (1, 4):
    for name, activation in activations.items():
        tc.manual_seed(SEED)
        histories[scale, name] = fit(miniature(activation, scale), train, labels[train], 4, SEED)

print("            weights as advised      four times as wide")
print("              guess   measured        guess   measured")
for name in activations:
    cells = [guess[name] for guess in (prediction, prediction_wide)]
    found = [histories[scale, name][-1]["val_accuracy"] for scale in (1, 4)]
    print(f"{name:10} {cells[0]:8.3f} {found[0]:10.3f} {cells[1]:12.3f} {found[1]:10.3f}")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained", sharey=True)
for axis, scale, title in zip(axes, (1, 4), ("He's weights", "four times as wide")):
    for name, style in zip(activations, ("k:", "k-", "k--")):
        axis.plot(range(1, 5), [row["val_accuracy"] for row in histories[scale, name]], style, marker=".", label=name)
    axis.set(title=title, xlabel="epoch", ylim=(0, 1.02), xticks=range(1, 5))
axes[0].set_ylabel("test accuracy")
axes[1].legend(fontsize=8)
show(
    figure,
    "Test accuracy over four epochs, two charts. With He's weights tanh and ReLU climb together above 0.9, the sigmoid "
    "stays at chance. With weights four times as wide ReLU is far above tanh.",
)

final = {key: history[-1]["val_accuracy"] for key, history in histories.items()}
# Seen with seeds 0, 1 and 2.
assert final[1, "sigmoid"] < 0.3, "the sigmoid does not start"
assert final[1, "tanh"] > 0.85 and final[1, "ReLU"] > 0.85, "with good weights both learn"
assert final[4, "ReLU"] > final[4, "tanh"] + 0.15, "ReLU does not saturate"

# %% [markdown]
# ## Explain
#
# Where the weights are drawn well and the images are few and easy, tanh is *not* behind ReLU; several times as fast is
# not what we see. The sigmoid does not start at all: you computed why.
#
# Wide weights show what ReLU has: it does **not saturate**. Make its input four times as large, and its output is four
# times as large; which image is taken for which class does not change, and the slopes stay 0 and 1. A tanh turns into a
# switch whose slope is nearly 0 on both sides. In 2012 nobody drew weights by such a rule, and images came in grey
# levels up to 255: there it matters. (The sigmoid profits from wide weights: its slope of 1/4 needs larger ones.)
#
# How many units behind conv5 are stuck, with a slope below 0.01, and what is the mean of the slopes?

# %%
some = tc.tensor(images[test])
stuck = {}
print("              stuck    mean slope")
for scale in (1, 4):
    for name in ("tanh", "ReLU"):
        tc.manual_seed(SEED)
        net = miniature(activations[name], scale)
        with tc.no_grad():
            before = net.features[:-2](some)  # what the activation behind conv5 gets
        slope = 1 - np.tanh(before.numpy()) ** 2 if name == "tanh" else (before.numpy() > 0).astype(float)
        stuck[scale, name] = float((slope < 0.01).mean())
        print(f"{name:5} x{scale} {stuck[scale, name]:12.1%} {slope.mean():11.2f}")

assert stuck[4, "tanh"] > stuck[1, "tanh"] + 0.2, "wide weights saturate tanh"
assert abs(stuck[4, "ReLU"] - stuck[1, "ReLU"]) < 0.01, "ReLU has the same zeros at any scale"

# %% [markdown]
# About half of the ReLUs have a slope of 0, whatever the scale; the others have exactly 1, and He's weights make up for
# the half that is shut. Of the tanhs wide weights shut many and leave the others a small slope, and on its way to conv1
# the gradient meets such a layer seven times.
#
# ## Dropout
#
# fc6 and fc7 have most of the parameters, so they can learn a small training set **by heart**, errors included.
# Dropout switches off each unit with probability p, for each image and step anew, so that no unit can rely on another.
#
# **Exercise 5.** Write it. The mean of what comes out has to stay the same, and then nothing is left to do in
# evaluation.


# %%
def dropout(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> np.ndarray:
    """x with a share p of its numbers set to 0, at random, and the mean kept; in evaluation x itself."""
    ### BEGIN SOLUTION
    if not training:
        return x
    keep = rng.random(x.shape) >= p
    return x * keep / (1 - p)
    ### END SOLUTION


q.check(5)

# %% [markdown]
# The experiment: 200 digits to train, and a fifth of the labels is wrong, as it happens where people label (readers of
# X-rays disagree, too). The test has true labels. **Predict**: which share of the *wrong* labels does the network learn
# by heart, without dropout and with p = 0.5?

# %%
prediction_wrong = {0.0: 0.5, 0.5: 0.5}  # change these two numbers

# %%
few, rng = train[:200], np.random.default_rng(1)
given = labels[few].copy()
wrong = np.arange(200) < 40
given[wrong] = (given[wrong] + rng.integers(1, 10, 40)) % 10  # another digit

learnt, outcome = {}, {}
for p in (0.0, 0.5):
    tc.manual_seed(SEED)
    net = miniature(dropout=p, hidden=512)
    learnt[p] = fit(net, few, given, 50, SEED, size=25, lr=5e-4)
    with tc.no_grad():
        scores = net.eval()(tc.tensor(images[few]))
    hits = scores.numpy().argmax(1) == given
    outcome[p] = {
        "train loss": F.cross_entropy(scores, tc.tensor(given)).item(),
        "wrong labels learnt": hits[wrong].mean(),
        "test loss": learnt[p][-1]["val_loss"],
        "test accuracy": learnt[p][-1]["val_accuracy"],
    }

print("                      guess   " + "   ".join(outcome[0.0]))
for p, row in outcome.items():
    cells = "   ".join(f"{value:{len(key)}.3f}" for key, value in row.items())
    print(f"dropout {p}        {prediction_wrong[p]:8.3f}   {cells}")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained", sharey=True)
for axis, p in zip(axes, learnt):
    for key, style, label in (("loss", "k-", "training, wrong labels included"), ("val_loss", "k--", "test")):
        axis.plot(range(1, 51), [row[key] for row in learnt[p]], style, label=label)
    axis.set(title=f"dropout {p}", xlabel="epoch", ylim=(0, 3))
axes[0].set_ylabel("loss")
axes[0].legend(fontsize=8)
show(
    figure,
    "Loss over 50 epochs. Without dropout the training loss falls to zero while the test loss stops falling; with "
    "dropout both fall slowly together, and the training loss stays well above zero.",
)

# Seen with seeds 0, 1 and 2.
assert outcome[0.0]["wrong labels learnt"] > 0.9, "without dropout it learns everything by heart"
assert outcome[0.5]["wrong labels learnt"] < outcome[0.0]["wrong labels learnt"] - 0.1
gap = {p: row["test loss"] - row["train loss"] for p, row in outcome.items()}
assert gap[0.5] < 0.8 * gap[0.0], "dropout makes the gap between training and test smaller"

# %% [markdown]
# Without dropout the training loss goes to zero: the network knows every wrong label, and the test has gained nothing
# from most of the epochs. With dropout it is slower, learns fewer errors by heart, and the gap is smaller. (In the
# figure its training loss is that of the network with units switched off, so it lies even above the test.)
#
# Two honest limits. The test *accuracy* of the two is about the same here, and with right labels only (set `wrong` to
# all False and try) dropout gained nothing on these digits in our trials: what it keeps out must be worth keeping out.
# And a network with dropout needs more epochs; stopped early, it is simply worse.
#
# ## What you can do now
#
# - audit a network: sizes, parameters, products and memory of each layer, by hand and by `explain.summary`;
# - say why 227 (or 224 with padding 2), what two groups save, where the parameters sit and where the work;
# - measure whether the gradient reaches the first layer, and say what ReLU does and what it does not;
# - write dropout, and see when it helps.
