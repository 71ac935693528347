# %% [markdown]
# # Lab 17: U-Net, a class for every pixel
#
# **Goal.** A segmentation network has to know *what* it sees, from a wide view, and *where*, to the pixel. You find out
# what the skip connections of the U-Net (Ronneberger, Fischer and Brox, 2015) are good for by leaving them out, see
# which way of enlarging a map leaves a checkerboard, choose a loss for a class that is rare, do the arithmetic of the
# network without padding and of its tiles, and compare two dimensions with three.
#
# You need convolution arithmetic (lab 04). The lab runs in about a minute, without a network.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import explain, metrics, models, nn, optim
from tinyconv.data.brain import best_thresholds, brain_datasets, load_mni152
from tinyconv.imaging.mri import rician_noise
from tinyconv.models.sizes import valid_unet_output
from tinyconv.models.unet2015 import predict_in_tiles
from tinyconv.teaching import Quiz, show

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "With t = both, p = predicted, y = true pixels: IoU = t / (p + y - t) and Dice = 2 t / (p + y).",
    "Divide both by p + y and call t / (p + y) = a: IoU = a / (1 - a), so a = IoU / (1 + IoU), and Dice = 2 a.",
)
def _(dice_from_iou):
    found = [dice_from_iou(value) for value in (0.0, 0.5, 0.8, 1.0)]
    if any(value is None for value in found):
        return "dice_from_iou returns None; it has to return a number."
    if np.allclose(found, [0, 2 / 3, 8 / 9, 1]):
        return None
    if np.allclose(found, [0, 1 / 3, 2 / 3, 1]):
        return "this is the way back, IoU from Dice: Dice is the larger of the two."
    if np.allclose(found, [0, 1, 1.6, 2]):
        return "twice the IoU reaches 2 for a perfect answer: the sum of the two areas shrinks the fraction."
    if np.allclose(found, [0, 1 / 3, 4 / 9, 1 / 2]):
        return "this is the share of the common pixels in the sum of both areas; Dice counts them twice."
    return f"for an IoU of 0, 1/2, 0.8 and 1 yours gives {np.round(found, 3).tolist()}."


@q.exercise(
    2,
    "Input i writes to the outputs i * stride to i * stride + kernel - 1.",
    "Zeros of length (inputs - 1) * stride + kernel; for each input add 1 to a slice of them.",
)
def _(overlap):
    found = overlap(4, 3, 2)
    if found is None:
        return "overlap returns None; it has to return a list or an array of counts."
    found, expected = list(found), [1, 1, 2, 1, 2, 1, 2, 1, 1]
    if found == expected and list(overlap(3, 4, 2)) == [1, 1, 2, 2, 2, 2, 1, 1]:
        return None if list(overlap(2, 2, 3)) == [1, 1, 0, 1, 1] else "a stride above the kernel leaves gaps of 0."
    if len(found) == 8:
        return "8 = 4 * 2 outputs: the last input writes a whole kernel, so there are (4 - 1) * 2 + 3."
    if len(found) != 9:
        return f"4 inputs, kernel 3, stride 2 make (4 - 1) * 2 + 3 = 9 outputs, yours has {len(found)}."
    if max(found) == 1:
        return "no output has more than 1: add where the kernels overlap, do not overwrite."
    return f"for 4 inputs, kernel 3, stride 2 yours is {found}, not {expected}."


@q.exercise(
    3,
    "Each stage loses 2 pixels twice, and each pooling halves what is left.",
    "572 - 4 = 568; 568 / 2 - 4 = 280; and so on, four poolings.",
)
def _(sides):
    sides = list(sides)
    if sides == [568, 280, 136, 64, 28]:
        return None
    if len(sides) != 5:
        return f"five stages make five numbers, and you gave {len(sides)}."
    if sides[0] == 570:
        return "570 is behind the first of the two convolutions of a stage."
    if sides[0] == 572:
        return "572 would need padding; here a 3x3 window stays inside the image."
    if sides == [568, 284, 142, 71, 35]:
        return "you halved only: behind each pooling two convolutions take 4 pixels."
    if sides[0] != 568:
        return f"the first stage leaves not {sides[0]}, but 572 - 2 - 2."
    return f"the first stage is right; now halve 568, take off 4, and go on. {sides[1:]} is not that."


@q.exercise(
    4,
    "The output has 184 pixels less than the input. And not every input divides without a rest.",
    "512 + 184 = 696, and legal inputs are 12 modulo 16: the next one from 696 on.",
)
def _(size):
    diagnoses = {
        700: None,
        696: "696 gives 512, if all poolings divide; but 696 is 8 modulo 16.",
        704: "704 is a multiple of 16, the rule for padded convolutions; here each size is 12 modulo 16.",
        684: "684 is legal, but gives 500.",
        512: "512 is the output; the input is larger by 184, and has to be legal.",
        516: "this is the output that you get; which input gives it?",
    }
    return diagnoses.get(size, f"{size} is not the smallest legal input whose output has at least 512 pixels.")


@q.exercise(
    5,
    "Two tiles agree where they overlap only if their poolings pair the same pixels.",
    "There are four poolings by 2: the step from tile to tile is a multiple of 16, and at most 388.",
)
def _(stride):
    diagnoses = {
        384: None,
        388: "tiles side by side leave no gap, but 388 is 4 modulo 16: the next tile's poolings pair other pixels.",
        572: "572 is what a tile sees; it gives 388, so 184 pixels between two tiles would have no answer.",
        16: "16 is right for the poolings, but not the largest step: nearly everything would be computed many times.",
        368: "368 is a multiple of 16, but there is a larger one up to 388.",
        400: "400 is a multiple of 16, but leaves 12 pixels between two tiles without an answer.",
    }
    return diagnoses.get(stride, f"{stride} is not the largest multiple of 16 that leaves no gap between tiles of 388.")


# %% [markdown]
# ## Grey and white matter
#
# The images are axial slices of the brain template MNI152, an average of 152 people, seen through a simulated MRI
# acquisition with noise and an uneven coil. At 2 mm a slice has 96x80 pixels. Test slices lie at least 4 mm from those
# for training, but it is one average brain: the numbers below compare networks, they do not promise anything for
# patients.

# %%
training, _, testing = brain_datasets()


def slices(dataset, which, rng=None) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 96, 80) and labels (N, 96, 80) at 2 mm; with rng acquired anew, else always the same."""
    pairs = [dataset[i] if rng is None else dataset.sample(i, rng) for i in which]
    images = np.stack([image for image, _ in pairs]).reshape(-1, 1, 96, 2, 80, 2).mean((3, 5))
    return images, np.stack([label[::2, ::2] for _, label in pairs])


test_images, test_labels = slices(testing, range(len(testing)))
thresholds = best_thresholds(test_images[:, 0], test_labels)
baseline = np.digitize(test_images[:, 0], thresholds)
intensity_only = metrics.dice(baseline, test_labels, 3)[1:].mean()
print(f"mean Dice of grey and white matter by the two best thresholds of intensity: {intensity_only:.3f}")

# %% [markdown]
# That is the baseline: no view of the neighbourhood at all, but thresholds chosen with the test answers in hand.
#
# Dice and IoU measure the same overlap, Dice = 2 |P ∩ T| / (|P| + |T|) and IoU = |P ∩ T| / |P ∪ T|. Papers report one
# or the other, so you have to translate.
#
# **Exercise 1.** Write Dice as a function of IoU.


# %%
def dice_from_iou(iou: float) -> float:
    ### BEGIN SOLUTION
    return 2 * iou / (1 + iou)
    ### END SOLUTION


q.check(1)

# %% [markdown]
# The order of two methods on one image is the same in both. The order of their *means* over images need not be.
#
# ## Predict: skips or none
#
# A U-Net halves the image several times and enlarges it again. A **skip** hands each map of the way down to the same
# size on the way up. Without skips, every pixel has to come through the smallest map. Two networks, with and without,
# see the same crops. Which mean Dice will they reach, against the baseline above? And where do you expect the errors
# of the network without skips?

# %%
prediction = {"with skips": 0.7, "without": 0.7}  # change these two numbers

# %% [markdown]
# ## Run

# %%
SEED = 0


def train(net: nn.Module, loss: Callable, draw: Callable, steps: int, lr: float) -> nn.Module:
    """Adam with a step size that falls to zero; ``draw(rng)`` gives images and labels, the same ones every time."""
    rng = np.random.default_rng(SEED)
    optimizer = optim.Adam(net.parameters(), lr=lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        images, labels = draw(rng)
        optimizer.zero_grad()
        loss(net(tc.tensor(images)), tc.tensor(labels)).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def predict(net: nn.Module, images: np.ndarray) -> np.ndarray:
    """The class of each pixel."""
    with tc.no_grad():
        return net(tc.tensor(images)).argmax(1).numpy()


def both_losses(scores: tc.Tensor, labels: tc.Tensor) -> tc.Tensor:
    """Cross-entropy and Dice, the sum that nnU-Net uses."""
    return F.cross_entropy(scores, labels) + F.dice_loss(F.softmax(scores, 1), labels, batch=True)


def crops(rng: np.random.Generator, count: int = 6, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A square of each of some slices, acquired anew."""
    images, labels = slices(training, rng.choice(len(training), count, replace=False), rng)
    row, column = rng.integers(96 - side + 1), rng.integers(80 - side + 1)
    window = np.s_[..., row : row + side, column : column + side]
    return images[window], labels[window]


answers = {}
for name in prediction:
    tc.manual_seed(SEED)
    net = models.unet(num_classes=3, base=6, levels=3, norm="batch", skips=name == "with skips")
    train(net, both_losses, crops, steps=200, lr=1e-2)
    answers[name] = predict(net, test_images)

# %% [markdown]
# ## Measure
#
# We count the errors apart for pixels at a border between two classes, that is with a neighbour of another class, and
# for those inside.

# %%
edge = np.zeros(test_labels.shape, bool)
for axis in (1, 2):
    for step in (-1, 1):
        edge |= np.roll(test_labels, step, axis) != test_labels

dice, error_rates = {}, {}
print("              Dice: guess  measured   errors: at borders  inside")
for name, answer in answers.items():
    dice[name] = metrics.dice(answer, test_labels, 3)[1:].mean()
    wrong = answer != test_labels
    error_rates[name] = wrong[edge].mean(), wrong[~edge].mean()
    numbers = f"{prediction[name]:11.3f} {dice[name]:9.3f} {error_rates[name][0]:20.3f} {error_rates[name][1]:7.3f}"
    print(f"{name:12} {numbers}")

middle = len(test_labels) // 2
figure, axes = plt.subplots(1, 4, figsize=(7, 2.4), layout="constrained")
pictures = {"image": test_images[middle, 0], "truth": test_labels[middle]}
pictures |= {name: answer[middle] for name, answer in answers.items()}
for axis, (name, picture) in zip(axes, pictures.items()):
    axis.imshow(picture, cmap="gray", vmax=None if name == "image" else 2)
    axis.set_title(name, fontsize=9)
    axis.axis("off")
show(
    figure,
    "Four pictures of one slice: the noisy image; the true grey and white matter; the answer with skips, which follows "
    "the folds of the cortex; the answer without skips, which is blurred and rounds them off.",
)

# Seen with seeds 0, 1 and 2.
assert dice["with skips"] > intensity_only + 0.05, "with skips it beats the best thresholds"
assert dice["with skips"] > dice["without"] + 0.04, "skips bring some hundredths of Dice"
assert error_rates["without"][0] > 2 * error_rates["without"][1], "errors lie at the borders"

# %% [markdown]
# ## Explain
#
# The smallest map is a quarter as high and wide. What is thinner than four pixels, as the cortex here, is hard to put
# back from it. The skip carries the position past the bottleneck; the wide view comes from below. That is the whole
# idea of the figure in the shape of a U.
#
# Did the network without skips beat the thresholds at all? A wide view is worth little if its answer is not sharp.
#
# ## Upwards: which enlargement?
#
# A transposed convolution with stride 2 lets each input write a whole kernel into the output. Where kernels overlap,
# more terms are added than elsewhere. Count them with a kernel of ones on an input of ones.
#
# **Exercise 2.** How many inputs write to each output, in one dimension?


# %%
def overlap(inputs: int, kernel: int, stride: int) -> np.ndarray:
    """Counts for each of the (inputs - 1) * stride + kernel outputs of a transposed convolution without padding."""
    ### BEGIN SOLUTION
    counts = np.zeros((inputs - 1) * stride + kernel, dtype=int)
    for i in range(inputs):
        counts[i * stride : i * stride + kernel] += 1
    return counts
    ### END SOLUTION


q.check(2)

# %% [markdown]
# In two dimensions, and beside them the fourth way: resize first, then an ordinary convolution. Below each grid stands
# what happens with *random* weights and a constant input: how much the four kinds of output pixel (even or odd row,
# even or odd column) differ, against their size.

# %%
ones = tc.ones(1, 1, 6, 6)
draw = np.random.default_rng(0)
grids, unevenness = {}, {}
for name, kernel in {"transposed k2 s2": 2, "transposed k3 s2": 3, "transposed k4 s2": 4, "resize, conv k3": 3}.items():
    many = tc.tensor(draw.standard_normal((1, 500, kernel, kernel)).astype(np.float32))  # 500 random kernels
    single = tc.ones(1, 1, kernel, kernel)
    if name.startswith("resize"):
        enlarged = F.interpolate(ones, scale_factor=2.0, mode="nearest")
        grids[name] = F.conv2d(enlarged, single)[0, 0].numpy()
        outputs = F.conv2d(enlarged, many.permute(1, 0, 2, 3))
    else:
        grids[name] = F.conv_transpose2d(ones, single, stride=2)[0, 0].numpy()
        outputs = F.conv_transpose2d(ones, many, stride=2)
    cells = outputs.numpy()[0, :, 4:6, 4:6].reshape(500, 4)  # one pixel of each kind, away from the rim
    unevenness[name] = float(np.sqrt(cells.var(1).mean() / (cells**2).mean()))

figure, axes = plt.subplots(1, 4, figsize=(7, 2.3), layout="constrained")
for axis, (name, grid) in zip(axes, grids.items()):
    axis.imshow(grid[:8, :8], cmap="gray", vmin=0, vmax=max(4, grid.max()))
    for (row, column), count in np.ndenumerate(grid[:8, :8]):
        axis.text(column, row, int(count), ha="center", va="center", fontsize=6, color="tab:orange")
    axis.set_title(f"{name}\nuneven: {unevenness[name]:.2f}", fontsize=8)
    axis.axis("off")
show(
    figure,
    "Four grids of counts. Kernel 2: 1 everywhere. Kernel 3: a checkerboard of 1, 2 and 4. Kernel 4: 4 everywhere "
    "inside. Resize and convolution: 9 everywhere. With random weights only the last one is even.",
)

inside = {name: np.unique(grid[3:-3, 3:-3]).tolist() for name, grid in grids.items()}
assert inside == {
    "transposed k2 s2": [1], "transposed k3 s2": [1, 2, 4], "transposed k4 s2": [4], "resize, conv k3": [9]
}  # fmt: skip
assert unevenness["resize, conv k3"] < 1e-5 < 0.3 < min(list(unevenness.values())[:3])

# %% [markdown]
# With kernel 3 the counts themselves are a checkerboard, which training has to balance. With kernel 2 or 4, a multiple
# of the stride, the counts are even; but the four kinds of pixel still have weights of their own, and a network *can*
# make a pattern with them. Only resizing treats all of them alike (Odena, Dumoulin and Olah, 2016). `models.unet` has
# all of these: `up_kernel=2`, 3 or 4, and `upsampling="interpolated"`.
#
# ## A rare class: which loss?
#
# Now small faint lesions, less than 1 % of the pixels, in noise. Here we know the truth because we put them in. Three
# losses: cross-entropy; cross-entropy with the lesion weighted 50-fold; soft Dice of the lesion.
#
# Predict: which has the highest accuracy? Which finds lesions?


# %%
def lesions(count: int, rng: np.random.Generator, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, side, side) with one or two discs of radius 1.5 to 2.5 on uneven ground, and their labels."""
    rows, columns = np.indices((side, side))
    labels = np.zeros((count, side, side), np.int64)
    for label in labels:
        for _ in range(rng.integers(1, 3)):
            row, column = rng.uniform(5, side - 5, 2)
            label |= (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(1.5, 2.5) ** 2
    ground = gaussian_filter(rng.standard_normal(labels.shape), (0, 4, 4))
    images = 1.2 * labels + 0.5 * ground / ground.std() + rng.standard_normal(labels.shape)
    return images[:, None].astype(np.float32), labels


losses = {
    "cross-entropy": F.cross_entropy,
    "weighted 1:50": lambda scores, y: F.cross_entropy(scores, y, weight=tc.tensor([1.0, 50.0])),
    "Dice": lambda scores, y: F.dice_loss(F.softmax(scores, 1), y, batch=True, background=False),
}
lesion_images, lesion_labels = lesions(60, np.random.default_rng(100))
found, accuracy = {}, {}
print(f"lesions are {lesion_labels.mean():.2%} of the pixels")
print("               accuracy  Dice  found  of the marked true")
for name, loss in losses.items():
    tc.manual_seed(SEED)
    net = models.unet(base=4, levels=3, norm="batch")
    train(net, loss, lambda rng: lesions(8, rng), steps=120, lr=1e-2)
    answer = predict(net, lesion_images)
    matrix = metrics.confusion_matrix(answer, lesion_labels, 2)
    accuracy[name] = np.trace(matrix) / matrix.sum()
    precision = matrix[1, 1] / max(1, matrix[:, 1].sum())
    found[name] = metrics.dice(answer, lesion_labels, 2)[1], matrix[1, 1] / matrix[1].sum(), precision
    print(f"{name:14} {accuracy[name]:8.4f} {found[name][0]:5.2f} {found[name][1]:6.2f} {precision:10.2f}")

# Seen with seeds 0, 1 and 2.
assert accuracy["cross-entropy"] > 0.985 and found["cross-entropy"][0] < 0.1, "cross-entropy answers: no lesion"
assert found["Dice"][0] > 0.3, "Dice finds lesions"
assert found["weighted 1:50"][1] > found["Dice"][1] and found["weighted 1:50"][2] < found["Dice"][2] / 2

# %% [markdown]
# Cross-entropy has the accuracy of whoever says "healthy" everywhere, and says just that. This is not stupid: where a
# pixel is a lesion with probability 0.3, the most probable class *is* background. It asks for honest probabilities, and
# the cut at 1/2 is ours: trained five times as long and cut at 0.2, the same network does about as well as with Dice,
# while at 1/2 it may still find nothing (try it). So one reason is the cut, the other that few pixels pull little.
#
# With the weight, most lesion pixels are found, and most of what is marked is wrong. Soft Dice is near to what we
# measure, and strikes the balance early and by itself; but its probabilities run to 0 and 1 and no longer say how sure
# the network is. Hence the sum of both in practice.
#
# ## The network of 2015: arithmetic without padding
#
# Ronneberger and colleagues pad nothing, so that no pixel is decided by invented neighbours. Each 3x3 convolution takes
# a pixel from each side; two of them per stage, four poolings, five stages; then the same upwards.
#
# **Exercise 3.** The input has 572 pixels a side. Which sides have the maps at the end of the five stages down?

# %%
sides = ...  # a list of five numbers
### BEGIN SOLUTION
sides = [572 - 4]
for _ in range(4):
    sides.append(sides[-1] // 2 - 4)
### END SOLUTION
q.check(3)

# %% [markdown]
# The engine agrees, layer by layer; the number of channels does not matter for the sizes, so we take one.

# %%
table = explain.summary(models.unet2015(base=1), (1, 1, 572, 572))
way = [layer.output[2] for layer in table.layers if layer.kind.startswith(("Conv", "MaxPool"))]
print(" -> ".join(map(str, [572, *way])))
legal = [size for size in range(1, 640) if valid_unet_output(size, levels=5)]
print("legal inputs:", legal[:3], "...", legal[-3:], "; modulo 16:", {size % 16 for size in legal})
print("their outputs:", [valid_unet_output(size, levels=5) for size in legal[:3]], "; 572 gives", way[-1])
assert way[-1] == 388 and {size % 16 for size in legal} == {12}

# %% [markdown]
# **Exercise 4.** You need answers for at least 512x512 pixels at once. What is the smallest side of the input?

# %%
size = ...  # one number
### BEGIN SOLUTION
size = 512 + 184 + (12 - (512 + 184)) % 16
### END SOLUTION
q.check(4)

# %% [markdown]
# ## Tiles that leave no seam
#
# A large image goes through in tiles. Each tile sees 92 pixels more on every side than it answers for, beyond the
# border a mirror image. Then the tiles together are *equal* to one shot, for any weights, trained or not. But only if
# neighbouring tiles share the grid of the poolings. We move the window of a small network (3 stages, hence 2 poolings,
# random weights) by 1 to 8 pixels, and compare the answers where both have one.

# %%
tc.manual_seed(SEED)
small = models.unet2015(base=4, levels=3).eval()
image = tc.tensor(test_images[middle : middle + 1])  # (1, 1, 96, 80)
margin = small.margin
mirrored = np.pad(image.numpy(), [(0, 0), (0, 0), (margin, margin), (margin, margin)], mode="reflect")  # 136 x 120
with tc.no_grad():
    still = small(tc.tensor(mirrored[..., :116])).numpy()  # answers for columns 0 to 75
    differences = {}
    for move in range(1, 9):
        size_seen = 116 if move <= 4 else 112
        moved = small(tc.tensor(mirrored[..., move : move + size_seen])).numpy()
        width = min(still.shape[-1] - move, moved.shape[-1])
        differences[move] = float(abs(still[..., move : move + width] - moved[..., :width]).max() / abs(still).max())
    one_shot = small(tc.tensor(mirrored)).numpy()
    tiles = predict_in_tiles(small, image, tile=20).numpy()
print("moved by:            ", "  ".join(f"{move:6d}" for move in differences))
print("relative difference: ", "  ".join(f"{value:6.0e}" for value in differences.values()))
print(f"tiles of 20x20 against one shot: {abs(tiles - one_shot).max() / abs(one_shot).max():.0e}")

assert all((value < 1e-4) == (move % 4 == 0) for move, value in differences.items())
np.testing.assert_allclose(tiles, one_shot, atol=1e-4 * abs(one_shot).max())

# %% [markdown]
# A convolution does not care where it starts; a pooling by 2 does. Behind two of them only moves by multiples of 4
# change nothing but rounding.
#
# **Exercise 5.** With the five stages of 2015, a tile answers for 388x388 pixels. What is the largest step from one
# tile to the next for which the result equals one shot?

# %%
stride = ...  # one number
### BEGIN SOLUTION
stride = 388 // 16 * 16
### END SOLUTION
q.check(5)

# %% [markdown]
# ## Three dimensions
#
# Çiçek and colleagues (2016) put a third axis everywhere: 3x3x3 convolutions, 2x2x2 poolings. Without padding,
# 132x132x116 voxels give 44x44x28. Is it worth it? A slice's neighbours show the same tissue with *other* noise.
#
# White matter at 2 mm, in strong noise. Both networks have about as many parameters, see the same voxels in training,
# and cost about the same; one sees eight slices one by one, the other as one block.

# %%
print([valid_unet_output(size, levels=4) for size in (132, 132, 116)])
volume = load_mni152()
t1 = volume.t1[:188].reshape(94, 2, 96, 2, 80, 2).mean((1, 3, 5))  # 2 mm
white = (volume.labels[:188:2, ::2, ::2] == 2).astype(np.int64)
lower, upper = slice(10, 33), slice(36, 44)  # slices for training, and for the test


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rician_noise(image, 90, rng) / np.float32(100) - np.float32(0.8)  # roughly centred


def blocks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two blocks (2, 8, 32, 32) of the lower slices, mirrored or not, with fresh noise, and their labels."""
    pairs = []
    for _ in range(2):
        corner = rng.integers((0, 0, 0), (23 - 8 + 1, 96 - 32 + 1, 80 - 32 + 1))
        window = tuple(slice(a, a + n) for a, n in zip(corner, (8, 32, 32)))
        mirror = np.s_[..., :: rng.choice([-1, 1])]
        pairs.append((noisy(t1[lower][window], rng)[mirror], white[lower][window][mirror]))
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])


def single_slices(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    images, labels = blocks(rng)
    return images.reshape(16, 1, 32, 32), labels.reshape(16, 32, 32)


def whole_blocks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    images, labels = blocks(rng)
    return images[:, None], labels


def white_loss(scores: tc.Tensor, labels: tc.Tensor) -> tc.Tensor:
    dice_of_white = F.dice_loss(F.softmax(scores, 1), labels, batch=True, background=False)
    return F.cross_entropy(scores, labels) + dice_of_white


test_block = noisy(t1[upper], np.random.default_rng(100))  # (8, 96, 80)
block_dice, block_answers = {}, {}
for name in ("2D", "3D"):
    tc.manual_seed(SEED)
    if name == "2D":
        net = models.unet(num_classes=2, base=6, levels=3, norm="batch")
        train(net, white_loss, single_slices, steps=150, lr=1e-2)
        block_answers[name] = predict(net, test_block[:, None])
    else:
        net = models.unet3d(in_channels=1, num_classes=2, base=2, levels=3, padded=True)
        train(net, white_loss, whole_blocks, steps=150, lr=1e-2)
        block_answers[name] = predict(net, test_block[None, None])[0]
    block_dice[name] = metrics.dice(block_answers[name], white[upper], 2)[1]
    parameters = sum(p.data.size for p in net.parameters())
    print(f"{name}: {parameters} parameters, Dice of white matter {block_dice[name]:.3f}")

figure, axes = plt.subplots(1, 4, figsize=(7, 2.4), layout="constrained")
pictures = {"one slice": test_block[4], "truth": white[upper][4], **{k: a[4] for k, a in block_answers.items()}}
for axis, (name, picture) in zip(axes, pictures.items()):
    axis.imshow(picture, cmap="gray")
    axis.set_title(name, fontsize=9)
    axis.axis("off")
show(
    figure,
    "A slice in strong noise, its true white matter, and two answers: in two dimensions coarse, with parts missing; in "
    "three dimensions nearer to the truth.",
)

# Seen with seeds 0, 1 and 2.
assert block_dice["3D"] > block_dice["2D"] + 0.01, "the neighbouring slices help against noise"

# %% [markdown]
# The third dimension averages noise away along the axis that the other network cannot see. Where slices are 5 mm apart
# and pixels 0.5 mm, neighbours show something else, and the gain shrinks; nnU-Net (lab 23) decides this from the voxel
# spacing. In memory a 3D network pays for every activation, hence small blocks and small batches.
#
# ## What you can do now
#
# - Say what a skip connection carries, and show it by the errors at borders.
# - See a checkerboard before training, and choose an enlargement.
# - Choose a loss for a rare class, and read accuracy, Dice, sensitivity and precision together; turn IoU into Dice.
# - Say which sizes a U-Net takes, with and without padding, and cut large images into tiles without seams.
#
# Try next: `up_kernel=3` and `upsampling="interpolated"` in the first experiment; cross-entropy plus Dice for the
# lesions; another cut than 1/2 for the network trained by cross-entropy; `models.attention_unet`.
