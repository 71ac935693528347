# %% [markdown]
# # Lab 09: VGG, stacks of 3x3
#
# **Goal.** AlexNet has windows of 11x11, 5x5 and 3x3. Two years later Simonyan and Zisserman (*Very deep convolutional
# networks for large-scale image recognition*, 2014) took 3x3 alone, and more of them. Why does that suffice? You follow
# what one unit sees through sixteen layers, verify it by the gradient, count what a stack of small windows saves and
# what it costs, train both, and find out where 138 million parameters sit.
#
# You need convolution arithmetic (lab 04) and AlexNet (lab 08). The lab runs in about a minute, without a network. For
# some seconds it needs 1.8 GB of memory, for VGG-16 in its full size.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import explain, models, nn, optim
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.teaching import Quiz, show
from tinyconv.training import Trainer

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "Go from the input to the output and keep two numbers: what a unit sees, and how far its neighbour's is moved.",
    "field = stride = 1; for each (k, s): field += (k - 1) * stride, and then stride *= s.",
)
def _(field_of):
    cases = {((3, 1),): 3, ((3, 1),) * 3: 7, ((2, 2), (3, 1)): 6, ((3, 1), (2, 2), (3, 1), (2, 2), (3, 1)): 18}
    found = {case: field_of(list(case)) for case in cases}
    if None in found.values():
        return "field_of returns None; it has to return a number of pixels."
    if found == cases:
        return None
    case, value = next((case, value) for case, value in found.items() if value != cases[case])
    start = f"for the (kernel, stride) {list(case)} the field is {cases[case]}, yours is {value}: "
    products = int(np.prod([k for k, _ in case]))
    if value == sum(k for k, _ in case) and len(case) > 1:
        return start + "a second window adds k - 1 pixels, since it overlaps the first; not k."
    if value == products and len(case) > 1:
        return start + "neighbouring windows overlap, so the sizes do not multiply."
    if value == 1 + sum(k - 1 for k, _ in case):
        return start + "behind a stride of 2 a step of one unit is a step of two pixels."
    if len(case) == 2:
        return start + "the stride of a layer spreads the layers behind it, not its own window."
    return start + "add (k - 1) times the product of the strides before it."


@q.exercise(
    2,
    "The field of unit o begins at 32 * o - 90, counted in pixels, and has 212 pixels.",
    "first = 32 * 3 - 90. The last one is first + 212 - 1.",
)
def _(first, last):
    if (first, last) == (6, 217):
        return None
    if (first, last) == (6, 218):
        return "212 pixels from 6 on end at 217: the first one counts."
    if first == 96:
        return "96 is 32 * 3; the padding moves the field back by 90 pixels."
    if first == 186:
        return "the padding adds pixels on the left, so the field begins farther left: subtract 90."
    if first == -26:
        return "this is unit 2; units are counted from 0, and the middle one of 7 is unit 3."
    if first == 6:
        return f"the first pixel is right, the last one is not {last}: the field has 212 pixels."
    return f"32 * 3 - 90 is the first pixel, not {first}."


@q.exercise(
    3,
    "Two windows first: [1, 1, 1] moved over [1, 1, 1] gives [1, 2, 3, 2, 1]: in how many ways is a pixel reached?",
    "np.convolve does it: np.convolve(np.convolve([1, 1, 1], [1, 1, 1]), [1, 1, 1]).",
)
def _(ways):
    ways = list(ways)
    if ways == [1, 3, 6, 7, 6, 3, 1]:
        return None
    if ways == [1, 2, 3, 2, 1]:
        return "these are two windows; there are three."
    if len(ways) != 7:
        return f"a unit behind three 3x3 sees 7 pixels along a side, and you gave {len(ways)} numbers."
    if len(set(ways)) == 1:
        return "the pixels do not count alike: the outermost is reached in one way only, the middle in many."
    if ways == [1, 2, 3, 4, 3, 2, 1]:
        return "this is [1, 1, 1, 1] over itself, two windows of 4; there are three windows of 3."
    return f"{ways} does not sum up to 3 * 3 * 3 ways." if sum(ways) != 27 else f"{ways} is not np.convolve's result."


@q.exercise(
    4,
    "A 3x3 filter that sees C maps has 9 * C weights, and a layer has C of these filters.",
    "One 7x7 layer: C * C * 49. Three 3x3 layers: 3 * C * C * 9.",
)
def _(one_7x7, three_3x3):
    diagnoses = {
        12_845_056: None,
        12_845_568: "leave the biases out; only weights are asked for.",
        25_088: "a filter sees all C maps, and there are C filters: C twice.",
        49: "49 weights for each of C maps, and for each of C filters.",
    }
    if one_7x7 != 12_845_056:
        return "7x7: " + diagnoses.get(one_7x7, f"{one_7x7} is not 49 C^2 for C = 512.")
    diagnoses = {
        7_077_888: None,
        7_079_424: "leave the biases out; only weights are asked for.",
        2_359_296: "this is one layer of 3x3; the stack has three.",
        21_233_664: "three layers, each with 9 weights a pair of maps: 27, not 81.",
    }
    diagnosis = diagnoses.get(three_3x3, f"{three_3x3} is not 27 C^2 for C = 512.")
    return diagnosis and f"7x7 is right. Three 3x3: {diagnosis}"


@q.exercise(
    5,
    "fc6 sees 512 maps of 7x7 and has 4096 units; each has a bias.",
    "4096 * (512 * 7 * 7 + 1), divided by the 138,357,544 of the whole network.",
)
def _(fc6_share):
    for parameters, meaning in (
        (4096 * (512 + 1), "fc6 sees all 7x7 pixels of its 512 maps."),
        (4096 * (4096 + 1), "this is fc7, which sees 4096 units; fc6 sees 512 maps of 7x7."),
        (123_642_856, "these are the three dense layers together."),
        (14_714_688, "these are the thirteen convolutions."),
        (256 * 36 * 4096 + 4096, "these are the maps of AlexNet, 256 of 6x6; VGG has 512 of 7x7."),
    ):
        if np.isclose(fc6_share, parameters / 138_357_544, rtol=1e-4):
            return meaning
    if fc6_share > 1:
        return "a share is asked for: divide by the parameters of the whole network."
    exact = 102_764_544 / 138_357_544
    return None if np.isclose(fc6_share, exact, rtol=1e-3) else f"{fc6_share:.3f} is not the share of fc6."


# %% [markdown]
# ## What does one unit see?
#
# A unit behind one 3x3 convolution sees 3x3 pixels: its **receptive field**. A second convolution adds one pixel on
# each side; a pooling with stride 2 makes every later window count double.
#
# **Exercise 1.** Write the rule, for any list of (kernel, stride).


# %%
def field_of(layers: list[tuple[int, int]]) -> int:
    """How many pixels along a side one unit behind the last of ``layers`` sees."""
    ### BEGIN SOLUTION
    field = stride = 1
    for k, s in layers:
        field += (k - 1) * stride
        stride *= s
    return field
    ### END SOLUTION


q.check(1)

# %% [markdown]
# VGG-16 has blocks of 2, 2, 3, 3, 3 convolutions of 3x3 with padding 1, and a 2x2 maximum with stride 2 behind each
# block. **Predict**: how much of its 224x224 pixels does a unit behind the last pooling see? And a unit of AlexNet,
# whose windows are larger and whose layers are fewer?

# %%
prediction = {"VGG-16": 100, "AlexNet": 100}  # pixels along a side: change these two numbers

# %%
vgg = models.vgg16(width=1, hidden=1)  # one filter where VGG-16 has 64: what a unit sees does not depend on that
alexnet = models.alexnet(width=1 / 64, hidden=1)
fields = {"VGG-16": vgg.features, "AlexNet": alexnet.features}
for name, features in fields.items():
    fields[name] = explain.receptive_field(features, (1, 3, 224, 224))
    print(f"{name}: your guess {prediction[name]}, measured {fields[name]}")

assert (fields["VGG-16"].size, fields["VGG-16"].stride, fields["VGG-16"].padding) == (212, 32, 90)

# %% [markdown]
# Three numbers: a unit of VGG-16's last maps sees **212** pixels along a side; its right neighbour sees the same, moved
# by **32**; and unit 0 begins **90** pixels before the image, in what the paddings have added.
#
# **Exercise 2.** The last maps have 7x7 units. Which is the first pixel, along a side, that the middle one (unit 3)
# sees, and which the last one?

# %%
first = ...  # two numbers
last = ...
### BEGIN SOLUTION
first = 3 * 32 - 90
last = first + 212 - 1
### END SOLUTION
q.check(2)

# %% [markdown]
# How did it grow? Each convolution adds 2 pixels in the first block, 4 in the second, 8, 16, 32 in the others.


# %%
def growth(features: nn.Module) -> tuple[list[int], list[bool]]:
    """The field behind each convolution and pooling, and whether it is a convolution."""
    rows = explain.summary(features, (1, 3, 224, 224)).layers
    kept = [row for row in rows if row.kind in ("Conv2d", "MaxPool2d")]
    return [row.field[0] for row in kept], [row.kind == "Conv2d" for row in kept]


figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for name, features, style in (("VGG-16", vgg.features, "k-"), ("AlexNet", alexnet.features, "k--")):
    grown, convolution = growth(features)
    axis.plot(range(1, len(grown) + 1), grown, style, label=name)
    for number, (size, filled) in enumerate(zip(grown, convolution), start=1):
        axis.plot(number, size, "o", color="black", markerfacecolor="black" if filled else "white")
axis.axhline(224, color="0.6", linewidth=1)
axis.text(1, 216, "the image", color="0.4", va="top")
axis.set(xlabel="layer (filled: convolution, open: pooling)", ylabel="pixels along a side", ylim=(0, 235))
axis.set_xticks(range(1, 19))
axis.legend(loc="lower right")
show(
    figure,
    "Receptive field against the layer: VGG-16 begins with 3 pixels, bends upwards with every pooling and reaches 212 "
    "at its eighteenth layer; AlexNet begins with 11 and reaches 195 at its eighth.",
)
grown, _ = growth(vgg.features)
assert grown[:3] == [3, 5, 6] and grown[-1] == 212 and all(a < b for a, b in zip(grown, grown[1:]))

# %% [markdown]
# ## Verify it by the gradient
#
# The formula can be tested without knowing it: a pixel is seen if the unit's gradient there is not zero. A maximum
# hands its gradient to one pixel alone, so for this test we put means in its place, which have the same windows, and
# give all weights the same positive number: then nothing can cancel out, and no ReLU shuts.

# %%
for number, layer in enumerate(vgg.features):
    if isinstance(layer, nn.MaxPool2d):
        vgg.features[number] = nn.AvgPool2d(2)
    elif isinstance(layer, nn.Conv2d):
        nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
        nn.init.zeros_(layer.bias)

image = tc.ones(1, 3, 224, 224, requires_grad=True)
vgg.features(image)[0, 0, 3, 3].backward()  # the middle unit of the 7x7
seen = image.grad.numpy()[0, 0]  # (224, 224)
rows_seen = np.flatnonzero(seen.any(axis=1))
print(f"the gradient is not zero in the rows {rows_seen[0]} to {rows_seen[-1]}: {len(rows_seen)} rows")

assert len(rows_seen) == 212 and rows_seen[0] == 3 * 32 - 90

profile = seen.sum(axis=0) / seen.sum()
middle = profile[rows_seen[0] + 53 : rows_seen[0] + 159].sum()  # the inner half of the 212 pixels
print(f"the inner half of the field, 106 pixels along a side, gets {middle**2:.0%} of the gradient")

figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
axes[0].imshow(seen, cmap="gray_r")
axes[0].add_patch(plt.Rectangle((5.5, 5.5), 212, 212, fill=False, linestyle="--"))
axes[0].set_title("gradient of the middle unit")
axes[1].plot(profile, "k")
axes[1].axvspan(6, 217, color="0.9")
axes[1].set(title="summed over the rows", xlabel="column", yticks=[])
show(
    figure,
    "Left: a dark round spot in the middle of the image that fades towards a dashed square of 212 pixels. Right: the "
    "same summed over rows, a bell-shaped curve that is close to zero at both ends of the field.",
)
assert middle**2 > 0.7, "most of the gradient lies in the middle"

# %% [markdown]
# The size is right to the pixel. But the pixels do not count alike: those at the edge are reached in one way, those in
# the middle in many. Luo and colleagues (*Understanding the effective receptive field*, 2016) call the spot the
# *effective* field. You can compute it for a short stack.
#
# **Exercise 3.** Three windows of 3, all weights 1, along one line: in how many ways does
# each of the 7 pixels reach the output?

# %%
ways = ...  # a list of seven numbers
### BEGIN SOLUTION
ways = np.convolve(np.convolve([1, 1, 1], [1, 1, 1]), [1, 1, 1])
### END SOLUTION
q.check(3)

# %% [markdown]
# ## One 7x7 against three 3x3
#
# Both see 7x7 pixels. **Exercise 4.** How many weights, without biases, have they with C = 512 maps in and out?

# %%
one_7x7 = ...  # two numbers
three_3x3 = ...
### BEGIN SOLUTION
one_7x7 = 49 * 512 * 512
three_3x3 = 3 * 9 * 512 * 512
### END SOLUTION
q.check(4)

# %% [markdown]
# The products go the same way: 27 for 49. Does the time? Both on 64 maps of 56x56, in turns, the median of nine. The
# ratio of times is your machine's; we assert nothing about it. **Predict** it.

# %%
tc.manual_seed(0)
C = 64
wide = nn.Sequential(nn.Conv2d(C, C, 7, padding=3), nn.ReLU())
stack = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Conv2d(C, C, 3, padding=1), nn.ReLU())])
x = tc.tensor(np.random.default_rng(0).standard_normal((1, C, 56, 56), np.float32))
tables = {name: explain.summary(net, x.shape) for name, net in (("7x7", wide), ("three 3x3", stack))}

seconds = {"7x7": [], "three 3x3": []}
with tc.no_grad():
    for turn in range(10):
        for name, net in (("7x7", wide), ("three 3x3", stack)):
            began = time.perf_counter()
            net(x)
            if turn:  # the first call may compile
                seconds[name].append(time.perf_counter() - began)

print("            field   weights   multiply-adds   outputs kept      time")
for name, table in tables.items():
    print(
        f"{name:10} {table.layers[-1].field[0]:6} {table.parameters:9,} {table.multiply_adds:15,} "
        f"{table.memory / 2**20:10.1f} MiB {1e3 * np.median(seconds[name]):7.2f} ms"
    )
ratio = tables["three 3x3"].multiply_adds / tables["7x7"].multiply_adds
time_ratio = np.median(seconds["three 3x3"]) / np.median(seconds["7x7"])
print(f"three 3x3 / 7x7: {ratio:.2f} of the products, {time_ratio:.2f} of the time")

assert tables["7x7"].layers[-1].field == tables["three 3x3"].layers[-1].field == (7, 7)
assert np.isclose(ratio, 27 / 49)
assert tables["three 3x3"].memory == 3 * tables["7x7"].memory

# %% [markdown]
# The stack saves weights and products, and on most machines more time than that: a 3x3 with stride 1 is the best kept
# kernel of every library (lab 25 shows Winograd's trick). It **costs** memory in training: three times as many outputs
# are kept for backward. And it has three ReLUs for one.
#
# Without ReLUs between them, three convolutions are one: every stack of linear 3x3 is some 7x7. (Not the other way: of
# 49 C^2 weights only a part can be written so. The paper calls it a regularisation of the 7x7.)
#
# ## Which one learns better?
#
# The 1,797 digits of lab 07, enlarged to 16x16 and buried in noise. Three VGGs of two blocks with 16 filters, from
# `models.VGG`: a 7x7 in each block; three 3x3; and one single 3x3, whose field is smaller. The dense weights are drawn
# by He's rule (2015), not from N(0, 0.01^2) as the paper did: with those, the deep one may not start at all. The
# authors first trained a shallow network and put its layers into the deep ones.
#
# **Predict**: which share of the test digits reads each after six epochs?

# %%
guess = {"one 7x7": 0.5, "three 3x3": 0.5, "one 3x3": 0.5}  # change these three numbers

# %%
digits = load_digits()
images = tc.tensor(digits.images[:, None].astype(np.float32))  # (1797, 1, 8, 8)
images = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False).numpy()
images = (images - images.mean()) / images.std()
images += 0.7 * np.random.default_rng(3).standard_normal(images.shape, np.float32)
order = np.random.default_rng(0).permutation(len(images))
test, train = order[: len(order) // 4], order[len(order) // 4 :]


def miniature(convolutions: int, kernel: int) -> models.VGG:
    """A VGG of two blocks with 16 filters a layer."""
    blocks, sizes = (convolutions,) * 2, {"width": (16, 16), "hidden": 64, "grid": 2}
    net = models.VGG(blocks, num_classes=10, dropout=0.0, in_channels=1, kernel=kernel, **sizes)
    for layer in net.classifier:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return net


def fit(net: nn.Module, seed: int, epochs: int = 6) -> list[dict[str, float]]:
    """Train with Adam; a row an epoch with loss and val_accuracy."""
    loader = DataLoader(TensorDataset(images[train], digits.target[train]), 32, shuffle=True, seed=seed)
    held_out = DataLoader(TensorDataset(images[test], digits.target[test]), 449)
    optimizer = optim.Adam(net.parameters(), lr=2e-3)
    return Trainer(net, optimizer, nn.CrossEntropyLoss(), loader, validation=held_out).fit(epochs)


SEED = 0
variants = {"one 7x7": (1, 7), "three 3x3": (3, 3), "one 3x3": (1, 3)}
results = {}
print("              field   weights   multiply-adds   seconds   guess   test accuracy")
for name, (convolutions, kernel) in variants.items():
    tc.manual_seed(SEED)
    net = miniature(convolutions, kernel)
    table = explain.summary(net.features, (1, 1, 16, 16))
    history = fit(net, SEED)
    results[name] = history[-1]["val_accuracy"]
    print(
        f"{name:13} {table.layers[-1].field[0]:5} {table.parameters:9,} {table.multiply_adds:15,} "
        f"{sum(row['seconds'] for row in history):9.1f} {guess[name]:7.2f} {results[name]:12.3f}"
    )

# Seen with seeds 0, 1 and 2.
assert min(results.values()) > 0.75, "all of them read most digits"
assert abs(results["one 7x7"] - results["three 3x3"]) < 0.08, "the stack reads about as well as the 7x7"

# %% [markdown]
# ## Explain
#
# With fewer weights the stack reads about as well as the 7x7. The single 3x3, whose field is less than half as large,
# stays a little behind with a fifth of the weights. On ImageNet, the paper reports, depth from 11 to 16 layers lowered
# the error step by step; 1,300 small digits cannot show that. What holds everywhere is the arithmetic: the same field
# from fewer weights.
#
# (Did you expect fewer products here, too? The first block has one input map: its second and third 3x3 see 16 maps,
# where a 7x7 sees one. 27 against 49 is for as many maps in as out.)
#
# ## Where do 138 million parameters sit?
#
# The whole VGG-16, in its full size. **Predict**: which share of the parameters is in the thirteen convolutions?

# %%
table = explain.summary(models.vgg16(), (1, 3, 224, 224))
print(table)

# %%
rows = [row for row in table.layers if row.parameters]
blocks = np.split(np.arange(13), np.cumsum([2, 2, 3, 3]))
groups = [*blocks, [13], [14], [15]]
names = [*(f"block {number}" for number in range(1, 6)), "fc6", "fc7", "fc8"]
shares = {
    "parameters": [sum(rows[i].parameters for i in group) / table.parameters for group in groups],
    "multiply-adds": [sum(rows[i].multiply_adds for i in group) / table.multiply_adds for group in groups],
    "outputs": [sum(rows[i].memory for i in group) / sum(row.memory for row in rows) for group in groups],
}

figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
styles = ({"color": "0.2"}, {"color": "0.75", "hatch": "//"}, {"color": "white"})
for offset, (name, share), style in zip((-0.27, 0, 0.27), shares.items(), styles):
    axis.bar(np.arange(8) + offset, 100 * np.array(share), 0.27, label=name, edgecolor="black", **style)
axis.set(xticks=range(8), xticklabels=names, ylabel="percent of VGG-16")
axis.legend()
show(
    figure,
    "Bars for the five blocks and three dense layers: fc6 has about three quarters of the parameters, blocks 2 to 4 do "
    "most of the multiply-adds, and block 1 has nearly half of the outputs.",
)
assert table.parameters == 138_357_544
assert sum(shares["multiply-adds"][:5]) > 0.98 and shares["outputs"][0] > 0.4

# %% [markdown]
# **Exercise 5.** Compute, without the table, which share of the 138,357,544 parameters is in fc6.

# %%
fc6_share = ...  # between 0 and 1
### BEGIN SOLUTION
fc6_share = 4096 * (512 * 7 * 7 + 1) / 138_357_544
### END SOLUTION
q.check(5)

# %% [markdown]
# Three things sit in three places: the parameters in fc6, the work in the middle blocks, the memory in block 1, where
# the maps are large. Who wants a smaller file cuts fc6 (a mean over each map, as in lab 10, leaves 512 inputs of
# 25,088); who wants a faster network, or larger batches in training, gains nothing by that.
#
# ## What you can do now
#
# - follow the receptive field, its stride and its offset through any chain of layers, and verify it by the gradient;
# - say why most of a large field counts little;
# - replace a large window by a stack of small ones, and say what it saves and what it costs;
# - find parameters, work and memory of a network, each in its place.
