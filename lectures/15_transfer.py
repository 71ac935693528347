# %% [markdown]
# # Lab 15: transfer learning, features move
#
# **Goal.** You have 50 labelled images, and a network wants thousands. So you take one that was trained on something
# else. You measure when that helps: with 10, 20, 50 and 100 images, with a body that is frozen or fine-tuned, and with
# two sources that have nothing to teach. And you meet the trap of the frozen batch norm.
#
# You need a training loop (lab 07) and batch norm. The lab runs in about a minute, without a network.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data as pictures
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import models, nn, optim, transfer
from tinyconv.teaching import Quiz, show

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "np.flatnonzero(labels == c) are the places of class c.",
    "For each class rng.choice(places, per_class, replace=False); then np.concatenate.",
)
def _(balanced):
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 0])
    drawn = [balanced(labels, 2, np.random.default_rng(seed)) for seed in range(8)]
    if any(d is None for d in drawn):
        return "balanced returns None; it has to return indices."
    for d in map(np.asarray, drawn):
        if d.dtype.kind not in "iu" or d.ndim != 1:
            return f"indices are asked for, one axis of integers; yours has shape {d.shape} and dtype {d.dtype}."
        if len(d) == 2:
            return "2 images in all: it should be 2 of each of the 3 classes."
        if len(set(d.tolist())) < len(d):
            return "an image was drawn twice: rng.choice needs replace=False."
        if np.bincount(labels[d], minlength=3).tolist() != [2, 2, 2]:
            return f"2 of each class are asked for, yours has {np.bincount(labels[d], minlength=3).tolist()}."
    if all(np.array_equal(np.sort(d), np.sort(drawn[0])) for d in drawn):
        return "the draw is the same for every generator: use rng, so that the choice is by chance."
    return None


@q.exercise(
    2,
    "Only the new head is trained: a linear layer from 32 features to 10 classes.",
    "32 * 10 weights and 10 biases.",
)
def _(trained):
    diagnoses = {
        330: None,
        320: "these are the weights; each class has a bias as well.",
        858: "this is the old head, for 26 letters; the new one has 10 classes.",
        32: "32 is the number of features; each of the 10 classes weighs all of them.",
        10: "10 is the number of classes; each weighs all 32 features.",
    }
    if isinstance(trained, int | np.integer) and trained > 10_000:
        return f"{trained} would count the body, which is frozen."
    return diagnoses.get(trained, f"{trained} is not the number of parameters of a linear layer from 32 to 10.")


@q.exercise(
    3,
    "requires_grad=False stops the optimiser. Which of the four does the optimiser never touch?",
    "Running mean and variance are no parameters: forward itself updates them in training mode.",
)
def _(still_changes):
    if isinstance(still_changes, str):
        return "a set of names is asked for, with braces."
    answer, right = set(still_changes), {"running_mean", "running_var"}
    if answer == right:
        return None
    if answer - {"weight", "bias", *right}:
        return f"choose from weight, bias, running_mean, running_var; {sorted(answer)} has others."
    if answer & {"weight", "bias"}:
        return "weight and bias are parameters: without gradient no optimiser moves them."
    if not answer:
        return "something does change: look at what batch norm computes in forward, in training mode."
    return "one is right; its companion is updated in the same line."


@q.exercise(
    4,
    "Ask two questions of each case: are there few images? do they resemble those of the source?",
    "a: few, similar. b: few, different. c: many, different. transfer.strategy(few, similar) knows the rest.",
)
def _(plans):
    names = {"head", "head on earlier features", "all"}
    if set(plans) != {"a", "b", "c"} or ... in plans.values():
        return "give a plan for each of a, b and c."
    if not set(plans.values()) <= names:
        return f"a plan is one of {sorted(names)}."
    if plans["a"] == "all":
        return "a: with 80 images all weights would overfit, and the features fit already."
    if plans["a"] != "head":
        return "a: the source is the same kind of image, so its last features are the best ones."
    if plans["b"] == "head":
        return "b: the last features were made for photographs; what is early in the network is more general."
    if plans["b"] == "all":
        return "b: 60 images are too few to train all weights."
    if plans["c"] != "all":
        return "c: with 100,000 images all weights can be trained, and the source is still a good start."
    return None


# %% [markdown]
# ## Source and target
#
# The **target** are handwritten digits, of which few are labelled. The **source** are printed capital letters, of
# which the computer draws as many as we like: twelve fonts, turned, moved and blurred. Other classes, another origin,
# but strokes in both. It is the miniature of ImageNet and a small clinic.
#
# Two controls have nothing to teach about strokes: **textures** (brick, grass and gravel, three classes), and the
# *same* letters with **shuffled labels**. All three sources have equally many images and steps.

# %%
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FONTS = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf"))
FONTS = [font for font in FONTS if "Display" not in font.name]  # those have no letters


def printed_letters(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 1, 16, 16) from -1 to 1, and the place of the letter in the alphabet."""
    labels = rng.integers(len(LETTERS), size=count)
    images = []
    for label in labels:
        page = Image.new("L", (32, 32))
        font = ImageFont.truetype(FONTS[rng.integers(len(FONTS))], int(rng.integers(26, 33)))
        ImageDraw.Draw(page).text((16, 16), LETTERS[label], fill=255, font=font, anchor="mm")
        page = page.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, translate=rng.integers(-2, 3, 2).tolist())
        images.append(np.asarray(page.filter(ImageFilter.GaussianBlur(1.5)).resize((16, 16)), np.float32))
    return np.stack(images)[:, None] / 127.5 - 1, labels


def textures(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Squares of 32x32 pixels of three photographs, at half size, and which photograph."""
    photographs = [pictures.brick(), pictures.grass(), pictures.gravel()]
    labels, corners = rng.integers(3, size=count), rng.integers(512 - 32, size=(count, 2))
    squares = [photographs[k][r : r + 32, c : c + 32] for k, (r, c) in zip(labels, corners)]
    images = np.stack(squares).reshape(count, 1, 16, 2, 16, 2).mean((3, 5))
    return ((images - images.mean()) / images.std()).astype(np.float32), labels


digits = load_digits()
images = tc.tensor(digits.images[:, None].astype(np.float32) / 8 - 1)
images = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False).numpy()
labels = digits.target

SEED = 0
order = np.random.default_rng(SEED).permutation(len(labels))
test, pool = order[:800], order[800:]  # labels are taken from the pool, few at a time
sources = {
    "letters": printed_letters(3000, np.random.default_rng(1)),
    "textures": textures(3000, np.random.default_rng(1)),
}
sources["shuffled"] = (sources["letters"][0], np.random.default_rng(2).permutation(sources["letters"][1]))

figure, axes = plt.subplots(2, 8, figsize=(7, 2), layout="constrained")
shown = [*sources["letters"][0][:5], *sources["textures"][0][:3], *images[pool[:8]]]
for axis, picture in zip(axes.flat, shown):
    axis.imshow(picture[0], cmap="gray")
    axis.axis("off")
show(
    figure,
    "Upper row, the sources: five printed capital letters, slightly turned and blurred, and three squares of texture. "
    "Lower row, the target: eight handwritten digits.",
)

# %% [markdown]
# With few images, chance decides what is among them. Draw equally many of each class.
#
# **Exercise 1.** Write the draw.


# %%
def balanced(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``per_class`` different images of each class, by chance."""
    ### BEGIN SOLUTION
    return np.concatenate(
        [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in np.unique(labels)]
    )
    ### END SOLUTION


q.check(1)

# %% [markdown]
# ## Pre-train
#
# The network is a residual network of 8 layers (He and colleagues, 2015), eight channels wide: its body makes 32
# features of an image, its head `fc` weighs them.


# %%
def network(classes: int) -> models.CifarResNet:
    tc.manual_seed(SEED)
    return models.CifarResNet(depth=8, num_classes=classes, in_channels=1, width=8)


def train(net: nn.Module, groups, images: np.ndarray, labels: np.ndarray, steps: int, size: int) -> nn.Module:
    """Adam with a step size that falls to zero, on batches of ``size`` or of all images if there are fewer."""
    rng = np.random.default_rng(SEED)
    optimizer = optim.Adam(groups, lr=1e-2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in range(steps):
        batch = rng.choice(len(labels), min(size, len(labels)), replace=False)
        optimizer.zero_grad()
        F.cross_entropy(net(tc.tensor(images[batch])), tc.tensor(labels[batch])).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def accuracy(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    with tc.no_grad():
        return float((net(tc.tensor(images)).argmax(1).numpy() == labels).mean())


pretrained = {}
for name, (x, y) in sources.items():
    net = network(int(y.max()) + 1)
    train(net, net.parameters(), x, y, steps=150, size=64)
    pretrained[name] = net
    print(f"{name:9} accuracy on its own images {accuracy(net, x[:500], y[:500]):.3f}")


def copy_of(name: str) -> models.CifarResNet:
    """The pre-trained network again, so that each experiment starts from the same one."""
    net = network(pretrained[name].fc.out_features)
    net.load_state_dict(pretrained[name].state_dict())
    return net


# %% [markdown]
# ## Three ways
#
# - **From scratch**: chance weights, all trained.
# - **Frozen** (feature extraction): `transfer.freeze` holds the body, `transfer.replace_head` puts a new last layer on
#   it, which alone is trained.
# - **Fine-tuned**: a new head, and the body goes on to learn with a tenth of the head's step size:
#   `transfer.param_groups(net, body_lr, head_lr)` makes the two groups for the optimiser.
#
# **Exercise 2.** In the frozen network with a new head for 10 digits, how many parameters are trained?

# %%
trained = ...  # one number
### BEGIN SOLUTION
trained = 32 * 10 + 10
### END SOLUTION
q.check(2)

# %% [markdown]
# **Predict.** Which of the three is best with 10 images, one of each digit? Which with 100? And what do you expect of a
# body that has learned textures? Write your guesses down; chance is 0.1.

# %%
prediction = {"scratch": 0.5, "frozen": 0.5, "fine-tuned": 0.5}  # with 10 images: change these three numbers

# %% [markdown]
# ## Run
#
# Every network gets 80 steps. The draws are nested: the 20 images contain the 10.

# %%
SIZES = (10, 20, 50, 100)
rng = np.random.default_rng(SEED)
ranked = [rng.permutation(pool[labels[pool] == c]) for c in range(10)]


def labelled(size: int) -> np.ndarray:
    """size / 10 images of each digit."""
    return np.concatenate([ranked[c][: size // 10] for c in range(10)])


def frozen(name: str) -> nn.Module:
    return transfer.replace_head(transfer.freeze(copy_of(name)), 10)


def measure(way: str, source: str, size: int) -> float:
    """Accuracy on the test digits after training on ``size`` of them."""
    few = labelled(size)
    if way == "scratch":
        net = network(10)
        groups = net.parameters()
    elif way == "frozen":
        net = frozen(source)
        groups = transfer.param_groups(net, body_lr=0.0, head_lr=1e-1)  # a linear layer alone stands large steps
    else:
        net = transfer.replace_head(copy_of(source), 10)
        groups = transfer.param_groups(net, body_lr=1e-3, head_lr=1e-2)
    train(net, groups, images[few], labels[few], steps=80, size=20)
    return accuracy(net, images[test], labels[test])


results = {way: [measure(way, "letters", size) for size in SIZES] for way in prediction}
controls = {
    (way, source): [measure(way, source, size) for size in (20, 100)]
    for way in ("frozen", "fine-tuned")
    for source in ("textures", "shuffled")
}

# %% [markdown]
# ## Measure

# %%
print("images       guess   " + "".join(f"{size:7d}" for size in SIZES))
for way, row in results.items():
    print(f"{way:12} {prediction[way]:5.2f}   " + "".join(f"{value:7.3f}" for value in row))
print("\nunrelated sources")
for (way, source), (at_20, at_100) in controls.items():
    print(f"{way:10} {source:9}        {at_20:7.3f}       {at_100:7.3f}")

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for (way, row), style in zip(results.items(), ("k-", "k:", "k--")):
    axis.plot(SIZES, row, style, marker="o", label=way if way == "scratch" else f"{way}, from letters")
for (way, source), row in controls.items():
    marker = "s" if source == "textures" else "x"
    axis.plot((20, 100), row, ":" if way == "frozen" else "--", color="0.6", marker=marker, label=f"{way}, {source}")
axis.set(xscale="log", xlabel="labelled images", ylabel="test accuracy", ylim=(0, 1), xticks=SIZES)
axis.set_xticks(SIZES, [str(size) for size in SIZES])
axis.minorticks_off()
axis.legend(fontsize=7, loc="lower right", ncols=2)
show(
    figure,
    "Test accuracy against the number of labelled images. Fine-tuned from letters is highest with 20 and 50 images; "
    "frozen lies above scratch with 20 and far below it with 100, where scratch has caught up with fine-tuned. The "
    "unrelated sources are lower than letters, and with 100 images much lower than scratch.",
)

scratch, held, tuned = (np.array(results[way]) for way in ("scratch", "frozen", "fine-tuned"))
# Seen with seeds 0, 1 and 2.
assert tuned[1] > scratch[1] + 0.05 and tuned[2] > scratch[2] + 0.01, "fine-tuning wins with 20 and 50 images"
assert held[1] > scratch[1] + 0.02, "even a frozen body is better than none with 20"
assert held[3] < scratch[3] - 0.05, "with 100 images the frozen body holds the network back"
for way, row in (("frozen", held), ("fine-tuned", tuned)):
    for source in ("textures", "shuffled"):
        assert (np.array(controls[way, source]) < row[[1, 3]] - 0.05).all(), "an unrelated source is worse than letters"
        assert controls[way, source][1] < scratch[3] - 0.1, "and with 100 images worse than none"

# %% [markdown]
# ## Explain
#
# With few images, the body from letters is worth more than a body by chance: its filters know strokes. With 100 images
# the network from scratch catches up, and the frozen one, with 330 numbers to adjust, falls behind: what letters did
# not need, the digits cannot get any more.
#
# The controls say *why* it works. If any trained start were good, textures would be one; if it were the images alone,
# the shuffled letters would be one. With 100 images both are far worse than no pre-training: the body takes small steps
# only, and stays near a start that fits nothing. This is **negative transfer**, and you only find it if you train from
# scratch for comparison.
#
# One draw of ten images is luck, so compare the whole curve, not one point. And here we looked at the test digits only
# at the end: with 50 labels, the step sizes too would have to be chosen without them.
#
# ## The trap: a frozen batch norm that is not frozen
#
# Many freeze a body like this: `for p in body.parameters(): p.requires_grad = False`, and call `net.train()`.
#
# **Exercise 3.** Which of `weight`, `bias`, `running_mean`, `running_var` of its batch norms change nevertheless?

# %%
still_changes = ...  # a set of names, for example {"weight", "bias"}
### BEGIN SOLUTION
still_changes = {"running_mean", "running_var"}
### END SOLUTION
q.check(3)

# %% [markdown]
# We freeze both ways, pass digits through as a training would, and ask each body for its old job, the letters.

# %%
old_job = sources["letters"][0][:500], sources["letters"][1][:500]
kept, drifted = transfer.freeze(copy_of("letters")), copy_of("letters").requires_grad_(False)
before = accuracy(copy_of("letters").eval(), *old_job)
after = {}
for name, net in {"transfer.freeze": kept, "requires_grad only": drifted}.items():
    net.train()
    for step in range(30):
        net(tc.tensor(images[pool[step * 20 : step * 20 + 20]]))
    after[name] = accuracy(net.eval(), *old_job)
    moved = abs(net.bn1.running_mean.numpy() - pretrained["letters"].bn1.running_mean.numpy()).max()
    print(f"{name:18} letters read {before:.3f} before, {after[name]:.3f} after; running mean moved by {moved:.3f}")

assert after["transfer.freeze"] == before, "frozen is frozen"
assert after["requires_grad only"] < before - 0.02, "the statistics of the digits spoil the letters"

# %% [markdown]
# Not one weight was changed, and yet the network is another. `transfer.freeze` keeps its batch norms in evaluation even
# under `train()`. Whether one *should* keep the old statistics is a question of the target: new images with another
# brightness may be served better by their own, if there are enough of them.
#
# ## Which layer?
#
# Early layers see edges, late ones what their task needed. `transfer.features(net, name)` stops the network at a layer.
# A logistic regression on the features of 50 digits says what each layer is worth, for both sources. Each map is
# averaged to 4x4 values first, or left as it is if smaller; the first column is the image itself.

# %%
few = labelled(50)
layers = ["conv1", "stages.0", "stages.1", "stages.2"]


def probe(features: np.ndarray) -> float:
    """Accuracy of a linear classifier on features (N, ...), trained on 50 digits."""
    flat = features.reshape(len(features), -1)
    flat = (flat - flat[few].mean(0)) / (flat[few].std(0) + 1e-6)
    return float(LogisticRegression(C=0.1, max_iter=500).fit(flat[few], labels[few]).score(flat[test], labels[test]))


def features_of(source: str, layer: str) -> np.ndarray:
    with tc.no_grad():
        maps = transfer.features(copy_of(source).eval(), layer)(tc.tensor(images))
        return F.adaptive_avg_pool2d(maps, 4).numpy()


print("               image" + "".join(f"{layer:>10}" for layer in layers))
worth = {}
for source in ("letters", "textures"):
    worth[source] = [probe(images), *(probe(features_of(source, layer)) for layer in layers)]
    print(f"{source:10}" + "".join(f"{value:10.3f}" for value in worth[source]))

# Seen with seeds 0, 1 and 2.
assert worth["textures"][2] > worth["textures"][4] + 0.03, "of the unrelated source the early features are better"
assert worth["letters"][4] > worth["textures"][4] + 0.03, "late features belong to their task"
assert worth["letters"][0] > tuned[2], "a linear classifier of pixels beats the networks with 50 images"

# %% [markdown]
# Late features of textures are worth less than early ones: the deeper, the more a layer belongs to its first task
# (Yosinski and colleagues, *How transferable are features in deep neural networks?*, 2014).
#
# And look at the first column. On these small, centred digits a linear classifier of the bare *pixels* beats every
# network above at 50 images! Part of the reason: the head of a residual network sees the mean of each map, and has lost
# where things are. Never report a network without such a baseline beside it.
#
# ## The rule of thumb
#
# Stanford's course CS231n advises by two questions, how many images, and how similar is the source:
# `transfer.strategy` says it back, with the reason.

# %%
for few_images in (True, False):
    for similar in (True, False):
        plan = transfer.strategy(few_images, similar)
        size, kind = ("few" if few_images else "many"), ("similar" if similar else "different")
        print(f"{size:5}{kind:10} train: {plan.train:25} {plan.why}")

# %% [markdown]
# **Exercise 4.** What does the rule advise? Choose "head", "head on earlier features" or "all".
#
# - a: 80 chest X-rays of a rare finding; the source was trained on 200,000 chest X-rays.
# - b: 60 ultrasound images; the source was trained on photographs.
# - c: 100,000 photographs of the retina; the source was trained on everyday photographs.

# %%
plans = {"a": ..., "b": ..., "c": ...}
### BEGIN SOLUTION
plans = {
    "a": transfer.strategy(few_images=True, similar=True).train,
    "b": transfer.strategy(few_images=True, similar=False).train,
    "c": transfer.strategy(few_images=False, similar=False).train,
}
### END SOLUTION
q.check(4)

# %% [markdown]
# Does the rule hold in our measurement? In part: early features are the better ones of a source that differs. But
# with few images of a similar task it advises to train the head alone, and here fine-tuning with small steps was better
# already at 20. It is a rule of thumb; the curve is the answer.
#
# ## What you can do now
#
# - Freeze, put on a new head, fine-tune with two step sizes, and take features from any layer.
# - Tell transfer from luck: a curve over the number of images, training from scratch beside it, an unrelated source.
# - Recognise a body that drifts although it is frozen, by its running statistics.
# - Put a simple baseline next to every network.
#
# Try next: `body_lr=1e-2` for the textures; the frozen body with its statistics learned anew; unfreezing
# (`transfer.unfreeze`) after the head has settled; lower-case letters as well in the source.
