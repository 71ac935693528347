# %% [markdown]
# # Lab 10: GoogLeNet, several resolutions at once
#
# **Goal.** Is a nucleus 5 pixels wide or 20? A window of one size fits one of them. GoogLeNet (Szegedy and colleagues,
# *Going deeper with convolutions*, 2014) lets windows of several sizes look at the same maps, side by side, and pays
# for them with 1x1 convolutions. You count what that saves, time it, remove one branch after the other from a trained
# miniature, look at the auxiliary heads, and compare the network of the paper with the one that everybody uses.
#
# You need convolution arithmetic (lab 04) and VGG (lab 09). The lab runs in about a minute, without a network.
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
from tinyconv.models.googlenet import BLOCKS, ConvReLU, Inception
from tinyconv.teaching import Quiz, show
from tinyconv.training import Trainer

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "What leaves a branch is what its last convolution makes; the four stand behind each other on the channel axis.",
    "128 + 192 + 96 + 64: the reductions to 128 and 32 maps stay inside their branches.",
)
def _(maps_3b):
    diagnoses = {
        480: None,
        640: "the reduced maps (128 and 32) stay inside their branches; only the last convolution of each counts.",
        192: "the branches are not added, which would need equal sizes, but put behind each other.",
        256: "these are the maps that 3b gets.",
        736: "the input itself is not handed on: the pooling branch ends in a 1x1 convolution, too.",
        416: "the pooling branch has maps as well.",
    }
    return diagnoses.get(maps_3b, f"{maps_3b} is not the sum of what the four branches make.")


@q.exercise(
    2,
    "A 1x1 convolution is one dense layer, the same for every pixel: y[n, k] = sum over c of w[k, c] * x[n, c].",
    'np.einsum("kc,nchw->nkhw", w, x).',
)
def _(conv1x1):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((6, 3))
    try:
        y = conv1x1(x, w)
    except (ValueError, TypeError, IndexError) as error:
        return f"for x of (2, 3, 4, 5) and w of (6, 3) it raises {type(error).__name__}: {str(error)[:80]}"
    if y is None:
        return "conv1x1 returns None; it has to return the maps."
    expected = np.einsum("kc,nchw->nkhw", w, x)
    if np.shape(y) == (2, 4, 5, 6):
        return "the values may be right, but channels belong on axis 1: (2, 6, 4, 5)."
    if np.shape(y) != (2, 6, 4, 5):
        return f"for x of (2, 3, 4, 5) and w of (6, 3) the result has the shape (2, 6, 4, 5), yours {np.shape(y)}."
    if np.allclose(y, expected):
        return None
    if np.allclose(y, np.maximum(expected, 0)):
        return "no ReLU here: the convolution alone."
    return (
        "the shape is right, the values are not: each output is the sum over the input channels of w[k, c] * x[n, c]."
    )


@q.exercise(
    3,
    "Products: places * (maps in * taps * maps out), for each convolution. There are 28 * 28 places.",
    "784 * (192 * 16 + 16 * 25 * 32) with the reduction, 784 * 192 * 25 * 32 without.",
)
def _(reduced, direct):
    diagnoses = {
        12_443_648: None,
        10_035_200: "this is the 5x5 alone; the 1x1 before it costs something, too.",
        12_481_280: "the biases are added, not multiplied.",
        15_872: "these are the weights; each is used at 28 * 28 places.",
        6_021_120: "the window is 5x5 here: 25 taps, not 9.",
    }
    if reduced != 12_443_648:
        return "with: " + diagnoses.get(reduced, f"{reduced} is not the products of the 1x1 plus those of the 5x5.")
    diagnoses = {
        120_422_400: None,
        153_600: "these are the weights; each is used at 28 * 28 places.",
        43_352_064: "the window is 5x5: 25 taps, not 9.",
        120_447_488: "the biases are added, not multiplied.",
        3_763_200: "the 5x5 now sees all 192 maps.",
    }
    diagnosis = diagnoses.get(direct, f"{direct} is not the products of a 5x5 on 192 maps to 32.")
    return diagnosis and f"the reduced one is right. Without: {diagnosis}"


@q.exercise(
    4,
    "A pooling keeps its maps: 192 in, 192 out. Behind 3a stand 64 + 128 + 32 and these.",
    "Behind 3a 64 + 128 + 32 + 192 = 416; behind 3b 128 + 192 + 96 and these 416.",
)
def _(naive):
    naive = list(naive)
    if naive == [416, 832]:
        return None
    if naive == [256, 480]:
        return "this is with the 1x1 behind the pooling, which makes 32 and 64 maps of it."
    if len(naive) != 2:
        return f"two numbers are asked for, behind 3a and behind 3b, and you gave {len(naive)}."
    if naive[0] == 448:
        return "without the 1x1 the pooling hands on its 192 maps, in place of the 32, not beside them."
    if naive[0] != 416:
        return f"behind 3a there are not {naive[0]} maps: 64 + 128 + 32 and all 192 that were pooled."
    if naive[1] in (608, 672):
        return "3a is right; the pooling of 3b hands on what it gets, and that is 416 now."
    return f"3a is right; behind 3b there are not {naive[1]} maps: 128 + 192 + 96 and all that it got."


@q.exercise(
    5,
    "The main loss counts in full, each auxiliary one with 0.3.",
    "F.cross_entropy(main, targets) + 0.3 * (F.cross_entropy(aux2, targets) + F.cross_entropy(aux1, targets)).",
)
def _(joined_loss):
    rng = np.random.default_rng(5)
    main, aux2, aux1 = (tc.tensor(rng.standard_normal((4, 3)), requires_grad=True) for _ in range(3))
    targets = tc.tensor(np.array([0, 2, 1, 1]))
    m, late, early = (float(F.cross_entropy(scores, targets).item()) for scores in (main, aux2, aux1))
    loss = joined_loss(main, aux2, aux1, targets)
    if loss is None:
        return "joined_loss returns None; it has to return the loss."
    if not isinstance(loss, tc.Tensor) or not loss.requires_grad:
        return "backward has to start from it: return a tensor on the tape, not a plain number."
    wrong = {
        m: "the auxiliary losses are missing.",
        m + late + early: "the auxiliary losses count with 0.3 each.",
        0.3 * (m + late + early): "the main loss counts in full, only the auxiliary ones with 0.3.",
        m + 0.3 * late: "this has one auxiliary loss; there are two.",
        m + 0.3 * early: "this has one auxiliary loss; there are two.",
        m + 0.15 * (late + early): "each auxiliary loss has 0.3, not the two together.",
        m - 0.3 * (late + early): "the auxiliary losses are added.",
    }
    value = float(loss.item())
    if np.isclose(value, m + 0.3 * (late + early)):
        return None
    diagnosis = next((text for number, text in wrong.items() if np.isclose(value, number)), None)
    return diagnosis or f"for losses of {m:.3f}, {late:.3f} and {early:.3f} yours is {value:.3f}."


# %% [markdown]
# ## The block
#
# An Inception block has four branches. All get the same maps, and what they make is joined on the channel axis:
#
# | branch | 3a: 192 maps in | 3b: 256 maps in |
# |---|---|---|
# | 1x1 | 64 | 128 |
# | 1x1 to fewer maps, then 3x3 | 96, then 128 | 128, then 192 |
# | 1x1 to fewer maps, then 5x5 | 16, then 32 | 32, then 96 |
# | maximum of 3x3 (stride 1), then 1x1 | 32 | 64 |
#
# **Exercise 1.** How many maps leave 3b?

# %%
maps_3b = ...  # one number
### BEGIN SOLUTION
maps_3b = 128 + 192 + 96 + 64
### END SOLUTION
q.check(1)

# %%
block = Inception(192, BLOCKS["3a"], paper=True)  # as the paper describes it; more on that below
print(explain.summary(block, (1, 192, 28, 28)))

# %% [markdown]
# The column *field* shows the idea: what leaves the block has seen 1, 3, 5 and again 3 pixels along a side. The next
# layer chooses, by its weights, which resolution it needs. This is **multi-resolution** within one layer.
#
# ## What is a 1x1 convolution?
#
# It sees no neighbour. It mixes the channels of each pixel, the same way everywhere, and can make fewer of them.
#
# **Exercise 2.** Write it in array language, without a loop over pixels.


# %%
def conv1x1(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Maps (N, K, H, W) of x (N, C, H, W) by a 1x1 convolution with the weights w (K, C)."""
    ### BEGIN SOLUTION
    return np.einsum("kc,nchw->nkhw", w, x)
    ### END SOLUTION


q.check(2)

# %% [markdown]
# ## What the reduction saves
#
# **Exercise 3.** The 5x5 branch of 3a, on 28x28 places: how many multiplications with the reduction (192 to 16 maps by
# 1x1, then 16 to 32 by 5x5), and how many if the 5x5 sees the 192 maps directly?

# %%
reduced = ...  # two numbers
direct = ...
### BEGIN SOLUTION
reduced = 28 * 28 * (192 * 16 + 16 * 5 * 5 * 32)
direct = 28 * 28 * (192 * 5 * 5 * 32)
### END SOLUTION
q.check(3)

# %% [markdown]
# Now all nine blocks. `Inception` leaves a reduction out where its number of maps is 0. **Predict**: how many times as
# much does the network cost without its reductions? And does it take as many times the time?

# %%
prediction = {"multiply-adds": 1.0, "time": 1.0}  # how many times as much: change these two numbers


# %%
def without_reduction(sizes: tuple) -> tuple:
    one, _, three, _, five, pool = sizes
    return one, 0, three, 0, five, pool


tc.manual_seed(0)
rng = np.random.default_rng(0)
costs, maps_in = {}, 192
for name, sizes in BLOCKS.items():
    side = {"3": 28, "4": 14, "5": 7}[name[0]]
    x = tc.tensor(rng.standard_normal((1, maps_in, side, side), np.float32))
    pair = [Inception(maps_in, sizes, True), Inception(maps_in, without_reduction(sizes), True)]
    seconds = [[], []]
    with tc.no_grad():
        for turn in range(6):
            for net, times in zip(pair, seconds):
                began = time.perf_counter()
                net(x)
                if turn:  # the first call may compile
                    times.append(time.perf_counter() - began)
    tables = [explain.summary(net, x.shape) for net in pair]
    costs[name] = [(t.multiply_adds, t.parameters, np.median(s)) for t, s in zip(tables, seconds)]
    maps_in = sizes[0] + sizes[2] + sizes[4] + sizes[5]

print("       multiply-adds, millions       parameters, thousands           milliseconds")
print("block    with  without  ratio        with  without  ratio      with  without  ratio")
units = (1e6, 1e3, 1e-3)
for name, (small, large) in costs.items():
    cells = [f"{a / u:8.1f} {b / u:8.1f} {b / a:6.2f}   " for a, b, u in zip(small, large, units)]
    print(f"{name:4}", *cells)
sums = np.array(list(costs.values())).sum(axis=0)  # (with or without, quantity)
ratios = sums[1] / sums[0]
print(f"nine blocks: {ratios[0]:.2f} times the multiply-adds (your guess {prediction['multiply-adds']}),")
print(f"{ratios[1]:.2f} times the parameters, {ratios[2]:.2f} times the time (your guess {prediction['time']})")

assert costs["3a"][0][1] == 163_696 and costs["5b"][0][1] == 1_444_080  # as the paper's table, with biases
assert 2 < ratios[0] < 5, "without reductions the blocks cost several times as much"

# %% [markdown]
# The time need not follow the products: small 1x1 convolutions, joins and calls cost, too, and they are there in both
# forms or in the small one alone. (Times differ from machine to machine; nothing is asserted about them.)
#
# ## The cost diagram
#
# Which branch pays for which output? Each bar is one branch of 3a: its products, beside the maps that it delivers.


# %%
def branch_costs(sizes: tuple, side: int, maps: int) -> np.ndarray:
    """Multiply-adds of the four branches, in millions: (branch, [1x1, window])."""
    costs = np.zeros((4, 2))
    for layer in explain.summary(Inception(maps, sizes, True), (1, maps, side, side)).layers:
        branch = int(layer.name.removeprefix("branch")[0]) - 1
        costs[branch, int(layer.settings[0] not in ("1", ""))] += layer.multiply_adds / 1e6
    return costs


labels = ["1x1", "3x3", "5x5", "pooling"]
figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained", gridspec_kw={"width_ratios": [2, 2, 1]})
drawn = {"with 1x1": BLOCKS["3a"], "without": without_reduction(BLOCKS["3a"])}
for axis, (title, sizes) in zip(axes, drawn.items()):
    costs_3a = branch_costs(sizes, 28, 192)
    axis.barh(labels, costs_3a[:, 0], color="white", edgecolor="black", label="1x1")
    axis.barh(labels, costs_3a[:, 1], left=costs_3a[:, 0], color="0.6", edgecolor="black", hatch="//", label="window")
    axis.set(title=title, xlabel="million multiply-adds", xlim=(0, 185))
    axis.invert_yaxis()
axes[0].legend(fontsize=8, loc="lower right")
axes[2].barh(labels, [BLOCKS["3a"][i] for i in (0, 2, 4, 5)], color="0.2")
axes[2].set(title="maps", yticks=[])
axes[2].invert_yaxis()
show(
    figure,
    "Bars for the four branches of block 3a. With reductions the 3x3 branch costs most, the 5x5 branch little. Without "
    "them the 3x3 branch costs nearly twice as much and the 5x5 branch ten times as much. A third chart: their maps.",
)

# %% [markdown]
# The pooling branch has a 1x1 *behind* it, not before. What for? A pooling hands on as many maps as it gets.
#
# **Exercise 4.** How many maps would leave 3a, and how many 3b after it, if the pooling branches ended without 1x1?

# %%
naive = ...  # two numbers: behind 3a, behind 3b
### BEGIN SOLUTION
naive = [64 + 128 + 32 + 192, 128 + 192 + 96 + (64 + 128 + 32 + 192)]
### END SOLUTION
q.check(4)

# %% [markdown]
# ## A branch removed
#
# Digits again, but this time each is drawn at its own size, 8 to 16 pixels, somewhere on 16x16: one resolution does not
# fit all. A miniature of two blocks, with and without single branches. (A removed branch also takes its maps and
# weights with it, and the others keep theirs: this measures what the whole branch is worth, not its window alone.)
#
# Each variant is trained twice, from other weights and in another order. Why, you will see.
#
# **Predict**: which share of the test digits is read, in full and without each of the branches?

# %%
FULL = (8, 8, 16, 4, 8, 8)
variants = {
    "all four": FULL,
    "without 1x1": (0, 8, 16, 4, 8, 8),
    "without 3x3": (8, 0, 0, 4, 8, 8),
    "without 5x5": (8, 8, 16, 0, 0, 8),
    "without pooling": (8, 8, 16, 4, 8, 0),
    "neither 3x3 nor 5x5": (8, 0, 0, 0, 0, 8),
}
guess = dict.fromkeys(variants, 0.5)  # change these numbers: guess["without 3x3"] = ...

# %%
digits = load_digits()
rng = np.random.default_rng(0)
images = 0.1 * rng.standard_normal((len(digits.images), 1, 16, 16), np.float32)
for canvas, digit in zip(images, digits.images.astype(np.float32)):
    side = int(rng.integers(8, 17))
    top, left = rng.integers(0, 17 - side, 2)
    larger = F.interpolate(tc.tensor(digit[None, None] / 16), (side, side), mode="bilinear", align_corners=False)
    canvas[0, top : top + side, left : left + side] += larger.numpy()[0, 0]
images *= 3
order = np.random.default_rng(0).permutation(len(images))
test, train = order[: len(order) // 4], order[len(order) // 4 :]

figure, axes = plt.subplots(1, 8, figsize=(7, 1.2), layout="constrained")
for axis, index in zip(axes, train):
    axis.imshow(images[index, 0], cmap="gray")
    axis.set_title(str(digits.target[index]), fontsize=8)
    axis.axis("off")
show(figure, "Eight digits of different sizes at different places of a small noisy image, with their labels.")


# %%
def miniature(sizes: tuple) -> nn.Sequential:
    """One 3x3, two Inception blocks as in the paper, the mean of each map, ten scores."""
    maps = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    net = nn.Sequential(
        *(ConvReLU(1, 16, 3, True, padding=1), nn.MaxPool2d(2)),  # (N, 16, 8, 8)
        *(Inception(16, sizes, True), nn.MaxPool2d(2)),  # (N, maps, 4, 4)
        *(Inception(maps, sizes, True), nn.AdaptiveAvgPool2d(1)),  # (N, maps, 1, 1)
        *(nn.Flatten(), nn.Linear(maps, 10)),
    )
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def fit(net: nn.Module, seed: int, epochs: int = 8) -> list[dict[str, float]]:
    """Train with Adam; a row an epoch with loss and val_accuracy."""
    loader = DataLoader(TensorDataset(images[train], digits.target[train]), 32, shuffle=True, seed=seed)
    held_out = DataLoader(TensorDataset(images[test], digits.target[test]), 449)
    optimizer = optim.Adam(net.parameters(), lr=5e-3)
    return Trainer(net, optimizer, nn.CrossEntropyLoss(), loader, validation=held_out).fit(epochs)


SEED = 0
read = {}
print("                      weights   multiply-adds   guess   test accuracy, twice")
for name, sizes in variants.items():
    read[name] = []
    for seed in (SEED, SEED + 1):
        tc.manual_seed(seed)
        net = miniature(sizes)
        history = fit(net, seed)
        read[name].append(float(np.mean([row["val_accuracy"] for row in history[-3:]])))
    table = explain.summary(net, (1, 1, 16, 16))
    cells = f"{table.parameters:8,} {table.multiply_adds:15,} {guess[name]:7.2f}"
    print(f"{name:20} {cells} {read[name][0]:12.3f} {read[name][1]:8.3f}")

# Seen with seeds 0 to 3.
mean = {name: np.mean(pair) for name, pair in read.items()}
assert mean["neither 3x3 nor 5x5"] < mean["all four"] - 0.15, "without windows it is nearly blind to form"
assert all(m > mean["neither 3x3 nor 5x5"] + 0.1 for name, m in mean.items() if "nor" not in name)

# %% [markdown]
# ## Explain
#
# Compare first the two numbers of one row: nothing but the random start differs. Only what is larger than that is an
# effect. By this measure a *single* branch is hardly missed: what it sees, the others see nearly as well, and a network
# this small would need many more runs to tell them apart. Without both windows the network falls far below all others:
# only its first layer and the poolings still see neighbours.
#
# A table of "what happens without X", one run a row, stands in many papers. Ask for the second run.
#
# ## The auxiliary heads
#
# The network has 22 layers with weights, and in 2014 there was no batch norm. So the authors hung two small classifiers
# on 4a and 4d. In training their losses are added, with a weight of 0.3 each; afterwards the heads are thrown away.
#
# **Exercise 5.** Write the loss.


# %%
def joined_loss(main: tc.Tensor, aux2: tc.Tensor, aux1: tc.Tensor, targets: tc.Tensor) -> tc.Tensor:
    """Cross-entropy of the main head and, with 0.3 each, of the auxiliary ones."""
    ### BEGIN SOLUTION
    auxiliary = F.cross_entropy(aux2, targets) + F.cross_entropy(aux1, targets)
    return F.cross_entropy(main, targets) + 0.3 * auxiliary
    ### END SOLUTION


q.check(5)

# %% [markdown]
# What do they bring to the first layer? GoogLeNet of the paper with a quarter of the channels, before training, two
# random images of 224x224: the gradient of conv1 from each of the three losses by itself. **Predict** the order.

# %%
tc.manual_seed(SEED)
net = models.googlenet2014(num_classes=10, width=1 / 4, dropout=0.0, dropout_aux=0.0)
x = tc.tensor(np.random.default_rng(SEED).standard_normal((2, 3, 224, 224), np.float32))
targets = tc.tensor(np.array([3, 7]))
reaching = {}
for head in ("logits", "aux_logits2", "aux_logits1"):
    net.zero_grad()
    F.cross_entropy(getattr(net(x), head), targets).backward()
    reaching[head] = float(np.sqrt((net.conv1.conv.weight.grad.numpy().astype(np.float64) ** 2).mean()))
    print(f"{head:12} gradient of conv1 (root mean square) {reaching[head]:.1e}")

net.eval()
with tc.no_grad():
    print("in evaluation the network returns", type(net(x)).__name__, "of shape", tuple(net(x).shape))

assert reaching["aux_logits1"] > 10 * reaching["aux_logits2"] > 100 * reaching["logits"]

# %% [markdown]
# With the small weights that this network starts from, every layer makes the gradient smaller, and the nearest head
# brings the most by orders of magnitude. Better weights (lab 08) and batch norm keep the gradient's size without heads;
# with batch norm the authors later took the heads for a kind of regularisation (Szegedy and colleagues, 2015).
#
# ## The paper's form and torchvision's
#
# The GoogLeNet that most programs load today is torchvision's, and it is not the network of the paper. **Predict**:
# which of them has more parameters?

# %%
forms = {"paper": models.googlenet2014, "torchvision": models.googlenet}
whole = {}
print("              parameters   with heads   multiply-adds   5x5 branch of 3a")
for name, form in forms.items():
    net = form(aux_logits=False)
    whole[name] = explain.summary(net, (1, 3, 224, 224))
    with_heads = sum(p.numel() for p in form().parameters())
    window = net.inception3a.branch3[1].conv.kernel_size
    norm = "no norm" if net.inception3a.branch3[1].bn is None else "batch norm"
    print(
        f"{name:12} {whole[name].parameters:11,} {with_heads:12,} {whole[name].multiply_adds:15,}   "
        f"{window[0]}x{window[1]}, {norm}"
    )

assert whole["paper"].parameters == 6_998_552 and whole["torchvision"].parameters == 6_624_904

# %% [markdown]
# torchvision's "5x5" branch is a 3x3: a slip that was kept, since trained weights depend on it. Behind each convolution
# it has batch norm, and therefore no biases. If you compare with the paper, say which one you used.
#
# And against the networks of the labs before? AlexNet has 61 million parameters and 0.7 thousand million multiply-adds,
# VGG-16 138 million and 15. Where is fc6?

# %%
print(*str(whole["paper"]).splitlines()[-4:], sep="\n")
dense = next(row for row in whole["paper"].layers if row.kind == "Linear")
print(f"the dense layer has {dense.parameters / whole['paper'].parameters:.0%} of the parameters")

assert whole["paper"].parameters < 61_100_840 / 8 and whole["paper"].multiply_adds < 15_470_264_320 / 8

# %% [markdown]
# There is none: the mean of each map goes straight to the classes. That, more than the 1x1, is why GoogLeNet has an
# eighth of AlexNet's parameters.
#
# ## What you can do now
#
# - say what a 1x1 convolution does, write it, and count what a reduction saves in products, parameters and time;
# - build a block with branches, remove one, and judge whether a difference is more than noise;
# - explain what auxiliary heads are for, and when they are not needed;
# - tell the paper's GoogLeNet from torchvision's.
