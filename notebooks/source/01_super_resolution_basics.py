# ---
# jupyter:
#   jupytext:
#     formats: ipynb,source//py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 Super-resolution basics
#
# A photo was shrunk to a quarter of its width and height. You hold the small version and want the large one back.
# This chapter is about why nobody can give it to you, what can be given instead, and how to set up the
# experiment so that your numbers mean something.
#
# ## What you will be able to do
#
# 1. **Write** the degradation $x = ((y \otimes k)\downarrow_s + n)_{\mathrm{JPEG}}$ and switch each of its parts on and off.
# 2. **Compute** $A$, $A^\top$ and $A^+$ for a small case by hand, and split any photo into what $A$ sees and what it does not.
# 3. **Build** two different photos with the same low-resolution image.
# 4. **Tell** interpolation from the pseudo-inverse, and a harmless inversion from one that drowns in noise.
# 5. **Recognise** a wrong kernel by the damage it does.
# 6. **Make** pairs and splits of a data set that do not flatter your method.
#
# **Prerequisites**: matrices and their transposes, a little PyTorch. [Chapter 00](00_start_here.ipynb) shows how to run these pages.
#
# **Reading time**: 60 minutes, with the exercises two hours.
# **Running time: about 5 s** on two processor cores.
#
# **In the survey** (Moser et al., arXiv 2401.00736): section II, on image super-resolution, its data sets and models.
# Not here: how to *score* a result (chapter 02) and how learned models differ (chapter 03).

# %% [markdown]
# > **Notation**
# >
# > | symbol | meaning | in code |
# > |---|---|---|
# > | $y$ | the original, high-resolution (HR) image | `hr` |
# > | $x$ | the low-resolution (LR) image, our measurement | `lr` |
# > | $\hat y$ | an answer: a super-resolved image | `sr` |
# > | $A$ | a linear measurement, $x = Ay$; here mostly shrinking by $s = 4$ | `shrink`, `operator` |
# > | $A^\top$, $A^+$ | its transpose (adjoint) and its pseudo-inverse | `.adjoint`, `.pinv` |
# > | $\otimes\,k$, $\downarrow_s$ | convolution with the kernel $k$; shrinking by the factor $s$ | `blur`, `resize` |
#
# These letters are the survey's. Other papers call the measurement $y$ and the image $x$: look before you copy a
# formula. Images are tensors `(B, C, H, W)` with values from 0 to 1.

# %%
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.degradations import blur, degrade, gaussian_kernel, jpeg, second_order
from tutorial_lib.images import crop_to_multiple, photo, resize, rgb_to_y, to_uint8
from tutorial_lib.metrics import lr_consistency, psnr
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Blur, Dense
from tutorial_lib.oracles import GaussianMixture
from tutorial_lib.super_resolution import super_resolve

# %% [markdown]
# ## 1. Which photo is it?
#
# Here is a thumbnail of a cat, and two photos. One of the two was shrunk to make the thumbnail. Decide which one before you
# read on. (How the second photo was made becomes clear in section 4; for now, just look.)


# %%
def enlarge(lr, scale):
    """Show every LR pixel as a block, without inventing anything: (B, C, h, w) -> (B, C, scale h, scale w)."""
    return lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


shrink = Bicubic(4)
cat = photo("chelsea")[..., 60:252, 100:356]
page = F.pad(photo("page"), (0, 0, 0, 1), mode="replicate")[..., :256]  # 191 rows, made 192

impostor = cat + page - shrink.pinv(shrink(page))
for _ in range(12):
    impostor = impostor.clamp(0.02, 0.98)
    impostor = impostor + shrink.pinv(shrink(cat) - shrink(impostor))

plots.image_grid(
    [enlarge(shrink(cat), 4), cat, impostor],
    ["the thumbnail (48 x 64 pixels)", "photo 1", "photo 2"],
    title="One of these photos was shrunk to make the thumbnail. Which?",
    alt="Three pictures. Left: a blocky thumbnail of a cat's face. Middle: the sharp photo of the cat. Right: the same cat "
    "with clearly legible printed text over its whole face, including the heading Region-based segmentation.",
)

# %% [markdown]
# The second photo has a page of text printed over the cat's face. Surely the thumbnail of *that* would look different?

# %% tags=["nbval-check-output"]
thumbnails = [shrink(image) for image in (cat, impostor)]
difference = (thumbnails[0] - thumbnails[1]).abs().max().item()
print(f"photos differ by up to     {(cat - impostor).abs().max().item():.2f}")
print(f"thumbnails differ by less than 1e-6: {difference < 1e-6}")
print(f"thumbnails equal in 8 bits: {torch.equal(to_uint8(thumbnails[0]), to_uint8(thumbnails[1]))}")
print(f"photo 2 within [0, 1]:      {impostor.min().item() >= 0 and impostor.max().item() <= 1}")

# %% [markdown]
# The two thumbnails are the same image, pixel for pixel. So the question above has no answer: **the thumbnail does not
# contain the information that would decide it.** No network, however large, can find out from $x$ alone
# whether there was text on the cat. It can only know that text on cats is rare.
#
# That is the whole subject in one picture. Super-resolution is the art of choosing well among infinitely many photos
# that all explain the measurement equally well. To choose, we first need to know exactly which photos those are.

# %% [markdown]
# ## 2. How a good photo becomes a bad one
#
# Write down what happens between the scene and the file you were sent. The lens and the moving hand *blur*: each pixel
# becomes a weighted mean of its neighbours, with weights $k$. The sensor *samples* every $s$-th position. It adds
# *noise* $n$. The phone stores a *JPEG*. In this order:
#
# $$x = \mathcal D(y;\,\Theta) = \big((y \otimes k)\downarrow_s +\, n\big)_{\mathrm{JPEG}_q}, \qquad \Theta = \{k, s, n, q\}.$$
#
# With pixel indices, blur and sampling together read
#
# $$x[i, j] = \sum_{a, b} k[a, b]\; y[s i - a,\; s j - b] + n[i, j].$$
#
# The minus signs make it a convolution: the kernel is turned by 180 degrees. For a symmetric kernel that does not matter,
# and that is why so much code forgets it. Here it is, literally, with the photo mirrored at its border.


# %%
def degrade_by_hand(hr, kernel, scale, noise_std, noise):
    """((hr * kernel) sampled every `scale` pixels) + noise, for a square kernel of odd size; JPEG comes afterwards."""
    size, (height, width) = len(kernel), hr.shape[-2:]
    padded = F.pad(hr, [size // 2] * 4, mode="reflect")
    blurred = torch.zeros_like(hr)
    for a in range(size):
        for b in range(size):
            top, left = size - 1 - a, size - 1 - b  # minus a, minus b: the kernel is turned around
            blurred += kernel[a, b] * padded[..., top : top + height, left : left + width]
    sampled = blurred[..., ::scale, ::scale]
    return sampled + noise_std * noise(sampled)


kernel = gaussian_kernel(9, sigma=2.5, sigma_across=1.0, angle=30)
by_hand = degrade_by_hand(cat, kernel, 4, 0.03, standard_normal(0))
library = degrade(cat, kernel, scale=4, noise_std=0.03, noise=standard_normal(0), downsample="decimate")
assert_close(by_hand, library)
print("equal, shape", tuple(library.shape))

# %% [markdown]
# Eleven lines, and they agree with the library's `degrade`, which we use from now on. Follow one photo through it.

# %%
blurred = blur(cat, kernel)
sampled = degrade(cat, kernel, scale=4, downsample="decimate")
noisy = degrade(cat, kernel, scale=4, noise_std=0.03, downsample="decimate")
compressed = jpeg(noisy, quality=30)
stages = [cat, blurred, *(enlarge(lr, 4) for lr in (sampled, noisy, compressed)), resize(compressed, 4).clamp(0, 1)]
plots.image_grid(
    stages,
    [
        "1  original y",
        "2  blurred",
        "3  every 4th pixel",
        "4  plus noise",
        "5  JPEG, quality 30",
        "enlarged by bicubic",
    ],
    title="From y to x: each step takes something away",
    alt="Six pictures of a cat's face: the sharp original, a blurred version, then three blocky thumbnails, the second with "
    "coloured grain, the third with smeared grain, and last the third thumbnail enlarged smoothly with blotchy texture.",
)

# %% [markdown]
# What each step does is different in kind:
#
# - **Blur** is linear and keeps the number of pixels. In principle it can be undone; section 6 shows what that costs.
# - **Sampling** is linear and throws away 15 numbers of 16. It can never be undone.
# - **Noise** is random: two measurements of the same scene differ.
# - **JPEG** rounds, is not linear and has no useful derivative. Most of the theory in this course leaves it out.
#
# The classical benchmark is far simpler: *bicubic* data sets use one antialiased shrinking step (blur and sampling in one),
# no noise, no JPEG. `degrade(hr, scale=4)` is exactly that, and nearly all published tables rest on it.

# %% tags=["nbval-check-output"]
assert_close(degrade(cat, scale=4), shrink(cat))
assert_close(degrade(cat, scale=4), resize(cat, 1 / 4))
print("the benchmark's LR image:", tuple(shrink(cat).shape), "from", tuple(cat.shape))

# %% [markdown]
# Turn the knobs yourself, one slider at a time.
#
# <details><summary><b>Question.</b> Which of the three could a viewer of the thumbnail mistake for a property of the scene?</summary>
#
# Blur, most easily: a soft cat may have been photographed sharply and blurred later, or have been out of focus from the start. Weak noise
# passes for fur or skin. JPEG gives itself away, because its blocks sit on a grid of $8\times8$ pixels that no scene knows about.
# </details>


# %%
def draw_degraded(blur_sigma, noise_level, jpeg_quality):
    """The LR image of the cat, every pixel drawn as a block; the noise level is in grey levels of 255."""
    k = gaussian_kernel(21, blur_sigma) if blur_sigma else None
    quality = None if jpeg_quality == "off" else jpeg_quality
    lr = degrade(cat, k, scale=4, noise_std=noise_level / 255, jpeg_quality=quality)
    return plots.image_grid(
        [enlarge(lr, 4).clamp(0, 1)],
        title=f"blur {blur_sigma:g} px, noise {noise_level}/255, JPEG {jpeg_quality}",
        alt=f"Thumbnail of a cat's face, shown as blocks: blurred by {blur_sigma:g} pixels, with noise of {noise_level} grey "
        f"levels and JPEG quality {jpeg_quality}.",
    )


widgets.explorer(
    draw_degraded, blur_sigma=(0.0, 5.0, 0.5, 1.0), noise_level=(0, 30, 2), jpeg_quality=["off", 80, 40, 10]
)

# %%
widgets.frames(
    draw_degraded,
    [
        {"blur_sigma": 0.0, "noise_level": 0, "jpeg_quality": "off"},
        {"blur_sigma": 4.0, "noise_level": 0, "jpeg_quality": "off"},
        {"blur_sigma": 0.0, "noise_level": 20, "jpeg_quality": "off"},
        {"blur_sigma": 0.0, "noise_level": 0, "jpeg_quality": 10},
        {"blur_sigma": 2.0, "noise_level": 10, "jpeg_quality": "off"},
        {"blur_sigma": 2.0, "noise_level": 10, "jpeg_quality": 10},
    ],
    title="Each part of the degradation alone, then two and three together",
    alt="Six thumbnails of a cat's face: clean; soft, without the fine lines of the fur, the eyes still distinct; with coloured "
    "grain; with JPEG blocks of 8 by 8 pixels and flat colours; a little soft and grainy; soft and blocky, the grain hidden by the blocks.",
    columns=3,
)

# %% [markdown]
# <details><summary><b>Think first.</b> What would happen if the noise were added <i>before</i> the shrinking instead of after it?</summary>
#
# Shrinking by averaging 16 pixels averages their noise, too: the standard deviation falls to $\sigma/\sqrt{16} = \sigma/4$. The
# order of the steps is part of the definition, and so is the place where $\sigma$ is measured. In general the noise
# of $x = A(y + n)$ has covariance $\sigma^2 A A^\top$. Under bicubic shrinking, whose windows overlap, that makes the noise of
# neighbouring pixels correlated.
# </details>
#
# Real files have a messier past: shrunk by one app, compressed, enlarged by another, compressed again. Real-ESRGAN imitates this by
# running the whole chain twice with random settings. For training a model on photos from the wild that is useful;
# for measuring anything it is not, because you no longer know what happened.

# %%
wild = second_order(cat.repeat(4, 1, 1, 1), scale=4, seed=3)
plots.image_grid(
    enlarge(wild, 4),
    [f"seed {seed}" for seed in range(3, 7)],
    title="Four random second-order degradations of the same photo",
    alt="Four blocky thumbnails of the same cat, each spoiled differently: strong coloured grain; soft with patches of false "
    "colour; sharp with patchy grain; very soft and without grain. The eyes are clear in all four.",
    columns=2,
)

# %% [markdown]
# ## 3. Six numbers instead of a photo
#
# To see why the way back is closed, shrink the problem until it fits on a page: one row of four pixels, averaged
# in pairs. Noise and JPEG are off. What remains is a matrix.

# %% tags=["nbval-check-output"]
row = torch.tensor([[0.2, 0.6, 0.9, 0.5]], dtype=torch.float64)
average = Dense(torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]], dtype=torch.float64))
print("A =", average.matrix, sep="\n")
print("x = A y =", average(row))

# %% [markdown]
# Four unknowns, two equations. Add to $y$ anything that $A$ maps to zero and $x$ stays what it was. Such vectors form
# the **null space** of $A$; here it holds all combinations of "one up, its partner down":

# %% tags=["nbval-check-output"]
seesaw = torch.tensor([[0.3, -0.3, -0.1, 0.1]], dtype=torch.float64)
print("A seesaw     =", average(seesaw))
print("y + seesaw   =", row + seesaw)
print("A(y + seesaw) =", average(row + seesaw))

# %% [markdown]
# That was the cat and the page in four pixels.
#
# Two matrices lead from $x$ back to the size of $y$, and they are constantly confused.
#
# **The adjoint** $A^\top$ is the transpose. It spreads each measured value over the pixels that it came from, weighted
# as they were weighted. It is defined by
#
# $$\langle A y,\, x\rangle = \langle y,\, A^\top x\rangle \quad\text{for all } y, x,$$
#
# and it is what the gradient of $\tfrac12\|Ay - x\|^2$ needs: $A^\top(Ay - x)$. It does *not* undo $A$.
#
# **The pseudo-inverse** $A^+$ returns, of all $y$ with $Ay = x$, the shortest one. For independent rows
#
# $$A^+ = A^\top (A A^\top)^{-1}.$$
#
# Derive it. A solution with a part in the null space can be shortened: drop that part, and $Ay$ stays what it was. So the shortest
# solution is at right angles to the null space, and the vectors that are form the span of the rows of $A$: $y = A^\top w$ for some $w$.
# Put that into $Ay = x$ and get $AA^\top w = x$. Solve for $w$, multiply by $A^\top$.

# %% tags=["nbval-check-output"]
matrix = average.matrix
pinv_by_hand = matrix.T @ torch.linalg.inv(matrix @ matrix.T)
assert_close(pinv_by_hand, torch.linalg.pinv(matrix))
x = average(row)
assert_close(x @ pinv_by_hand.T, average.pinv(x))
print("A^T x =", average.adjoint(x))
print("A^+ x =", average.pinv(x))
print("A A^T x =", average(average.adjoint(x)), " is not x")
print("A A^+ x =", average(average.pinv(x)), " is x")

# %%
plots.heatmap(
    {
        "$A$": matrix,
        "$A^T$": matrix.T,
        "$A^+$": pinv_by_hand,
        "$A^+A$": pinv_by_hand @ matrix,
        "$I - A^+A$": torch.eye(4, dtype=torch.float64) - pinv_by_hand @ matrix,
    },
    title="Five matrices of averaging in pairs",
    alt="Five small matrices with numbers. A has rows one half, one half, 0, 0 and 0, 0, one half, one half. Its transpose holds "
    "the same halves; the pseudo-inverse holds ones instead. A plus A is block diagonal with blocks of one half; "
    "I minus A plus A has the same blocks with minus one half off the diagonal.",
    numbers=".1f",
    width=960,
    height=260,
    cmap="RdBu_r",
    limits=(-1, 1),
)

# %% [markdown]
# The last two are the important ones. $P = A^+A$ and $Q = I - A^+A$ are projections: applying them twice is applying
# them once. They cut every image into two parts at right angles,
#
# $$y = \underbrace{A^+A\,y}_{\text{range part: what } A \text{ sees}} + \underbrace{(I - A^+A)\,y}_{\text{null part: what it does not}}$$
#
# and they describe *all* photos that explain a measurement:
#
# $$\{\,y : A y = x\,\} = \{\,A^+x + (I - A^+A)\,z \;:\; z \text{ any image}\,\}.$$
#
# The first term is dictated by the data. The second is yours to choose, and the rest of this course is about choosing it.

# %% tags=["nbval-check-output"]
seen = pinv_by_hand @ matrix
unseen = torch.eye(4, dtype=torch.float64) - seen
for name, projection in (("P", seen), ("Q", unseen)):
    assert_close(projection @ projection, projection)
    assert_close(projection, projection.T)
    print(f"{name} projects onto {projection.trace().item():.0f} dimensions of 4")
assert_close(matrix @ unseen, torch.zeros_like(matrix))
assert_close(row @ seen.T + row @ unseen.T, row)

# %% [markdown]
# One more tool, for this chapter and for many later ones. Every matrix is a rotation, a stretch along the axes and another rotation,
# $A = U\,\mathrm{diag}(s_1, s_2, \dots)\,V^\top$. The stretches $s_i \ge 0$ are its **singular values** (with an index; the $s$ without one
# stays the scale). The pseudo-inverse turns back and undoes each stretch that is not zero: $A^+ = V\,\mathrm{diag}(1/s_i)\,U^\top$.
#
# <details><summary><b>Question.</b> For averaging, A⁺ = 2 Aᵀ. When is the adjoint a multiple of the pseudo-inverse, and when not?</summary>
#
# Exactly when all singular values (not counting zeros) are equal, so that $AA^\top$ is a multiple of the identity. Block averages, masks and
# Haar wavelets are like that; bicubic shrinking and blur are not. A bug that swaps the two passes every test
# made with block averages up to a scale factor. Test with bicubic.
# </details>
#
# ### The least you need to choose well
#
# Take two pixels and one measurement, their mean $x = 0.5$. The solutions form a line. Suppose a world in which
# neighbouring pixels always form an edge, either dark-bright (60 %) around the values 0.2 and 0.8 or bright-dark (40 %) around 0.8 and 0.2,
# each pixel with a standard deviation of 0.1. Then the probability $p(y)$ is known exactly, and Bayes' rule gives $p(y \mid x) \propto p(y)$ on the line.

# %% tags=["nbval-check-output"]
edges = GaussianMixture(
    torch.tensor([0.6, 0.4]),
    torch.tensor([[0.2, 0.8], [0.8, 0.2]]),
    0.1**2 * torch.eye(2).repeat(2, 1, 1),
)
posterior = edges.posterior(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5]]), noise_std=1e-4)  # almost exact
candidates = {
    "a sample": posterior.sample(1, standard_normal(2))[0],
    "posterior mean": posterior.mean,
    "pseudo-inverse": torch.tensor([0.5, 0.5]),
}
for name, pair in candidates.items():
    print(f"{name:15} {pair[0]:.2f} {pair[1]:.2f}   log p(y) = {edges.log_prob(pair[None].double()).item():6.2f}")

# %%
ticks = torch.linspace(0, 1, 81)
grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
plots.density_2d(
    ticks,
    ticks,
    {"all pairs of pixels": edges.log_prob(grid).exp().reshape(81, 81)},
    title="Every point of the line explains x = 0.5; few of them look like the world",
    alt="A square of pixel pairs with two dark blobs, one at 0.2, 0.8 and a weaker one at 0.8, 0.2. A straight line of solutions runs "
    "through both. The samples lie on the line inside the blobs; the posterior mean at 0.44, 0.56 and the pseudo-inverse at 0.5, 0.5 lie on the line "
    "in the empty middle between them.",
    xlabel="left pixel",
    ylabel="right pixel",
    points={
        "posterior samples": posterior.sample(25, standard_normal(0)),
        "posterior mean": posterior.mean,
        "pseudo-inverse": torch.tensor([0.5, 0.5]),
    },
    paths=torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
    width=520,
    height=440,
)

# %% [markdown]
# The posterior mean is on the line, and yet such a pair is 200 times less likely ($e^{5.3}$) than the sample. Two kinds of answer, and
# they will follow us through the course:
#
# - **Take a sample**: one of the plausible worlds. It may be the wrong one, but it looks like the world.
# - **Take the mean**: the answer with the smallest expected squared error. It lies between the worlds, where nothing
#   real lives. On photos that is what we call *blurry*.
#
# A network trained with squared error learns the mean; a diffusion model draws samples. Chapter 03 trains the first kind
# on exactly this example.

# %% [markdown]
# ## 4. The null space of a real photo
#
# Back to the cat. Bicubic shrinking is a matrix too, only larger: $48\cdot 64$ rows, $192\cdot 256$ columns per colour. Nobody
# stores it. `Bicubic(4)` applies it, its transpose and its pseudo-inverse as products of small matrices. First make sure that the
# large operator does what the small one did, on a size where the matrix still fits.

# %% tags=["nbval-check-output"]
dense = shrink.dense((1, 16, 24))  # (M, N): each column is the response to one HR pixel
print("A has", tuple(dense.shape), "entries; rank", torch.linalg.matrix_rank(dense).item())
patch = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
assert_close(shrink(patch).flatten(), dense @ patch.flatten())
assert_close(shrink.pinv(shrink(patch)).flatten(), torch.linalg.pinv(dense) @ dense @ patch.flatten())
for size, scale in ((16, 2), (24, 3), (32, 4)):
    values = torch.linalg.svdvals(Bicubic(scale).dense((1, size, size)))
    print(f"scale {scale}: singular values from {values.min().item():.3f} to {values.max().item():.3f}")


# %% [markdown]
# Remember the last line: at scale 4 the smallest singular value is still half of the largest. Inverting what bicubic shrinking *does* keep is harmless.
# Now the split, in one line, on the photo.


# %%
def null_part(operator, z):
    """(I - A^+ A) z: the part of an image that the operator cannot see."""
    return z - operator.pinv(operator(z))


cat_null = null_part(shrink, cat)
cat_range = cat - cat_null
plots.image_grid(
    [cat, cat_range, 0.5 + 2 * cat_null],
    ["the photo", "range part: what shrinking keeps", "null part, doubled, on grey"],
    title="A photo = what the thumbnail knows + what it cannot know",
    alt="Three pictures: the photo of a cat; the range part, a soft cat with slight ripples along edges; the null part on "
    "grey, which holds only fine lines: fur, whiskers, and the contours of the eyes and the nose.",
)

# %% tags=["nbval-check-output"]
centred = cat - cat.mean((2, 3), keepdim=True)
share = cat_null.square().sum() / centred.square().sum()
dimensions = 1 - shrink(cat).numel() / cat.numel()
print(f"the null space holds {dimensions:.1%} of the dimensions")
print(f"and {share:.1%} of this photo's variance")
assert abs((cat_range * cat_null).sum() / (cat_range.norm() * cat_null.norm())) < 1e-5
assert_close(shrink(cat_null), torch.zeros_like(shrink(cat)), atol=1e-6, rtol=0)

# %% [markdown]
# Both numbers matter. By count, almost everything is lost. By energy, almost nothing: neighbouring
# pixels of photos are so alike that a sixteenth of the numbers carries 93 % of the variance. The missing 7 % is fur,
# whiskers, pores, print: all that makes a picture look sharp.
#
# Now build the impostor again. Take the null part of the *page* and add it to the cat,
#
# $$y_2 = y_1 + (I - A^+A)\,w, \qquad A y_2 = A y_1 + \underbrace{(A - A A^+ A)}_{=\,0}\,w = A y_1 .$$
#
# The loop in section 1 added one detail: it went back and forth between "pixels lie in $[0, 1]$" and "the thumbnail is right" until both
# held. A straight line between two solutions consists of solutions, so the text can be faded in as slowly as we like.


# %%
def draw_null(amount):
    """Both photos mixed, and the thumbnail of the mixture; amount in percent."""
    image = cat + amount / 100 * (impostor - cat)
    same = (shrink(image) - shrink(cat)).abs().max().item() < 1e-6
    return plots.image_grid(
        [image, enlarge(shrink(image), 4)],
        [f"{amount} % of the text", "its thumbnail"],
        title=f"{amount} % null-space content: thumbnail {'unchanged' if same else 'changed'}",
        alt=f"Left: the cat with printed text over its face at {amount} percent strength. Right: its thumbnail, which shows "
        "the cat alone and is the same for every strength.",
    )


widgets.explorer(draw_null, amount=(0, 100, 10, 30))

# %%
widgets.frames(
    draw_null,
    [{"amount": 0}, {"amount": 30}, {"amount": 60}, {"amount": 100}],
    title="The photo changes, the thumbnail does not",
    alt="Four pairs of pictures with text of 0, 30, 60 and 100 percent strength over the cat's face. The photo on the left of "
    "each pair goes from clean to fully printed; the thumbnail on the right is the same cat without text in all four.",
    columns=2,
)

# %% [markdown]
# How exact is "the same"? In double precision the thumbnails agree to about $10^{-14}$. In *files* there is one more step, because the
# HR photo is itself rounded to 8 bits, and rounding errors do have a range part:

# %% tags=["nbval-check-output"]
exact = cat.double() + null_part(shrink, page.double())
assert (shrink(exact) - shrink(cat.double())).abs().max() < 1e-13
stored = [to_uint8(shrink(to_uint8(image).float() / 255)).int() for image in (cat, impostor)]
off = (stored[0] - stored[1]).abs()
print(
    f"HR saved in 8 bits: {(off > 0).float().mean().item():.0%} of LR values differ, by at most {off.max().item()} level of 255"
)

# %% [markdown]
# <details><summary><b>Question.</b> A method super-resolves the thumbnail and finds neat letters on the cat's forehead. Which measurement on x would prove it wrong?</summary>
#
# None. If its answer, shrunk again, gives $x$, the measurement is fully explained. You can only say that such photos are
# improbable, or bring other evidence: a second photo, a wider context, a witness. Keep this in mind whenever
# super-resolution is proposed for number plates, faces or medical images.
# </details>

# %% [markdown]
# ## 5. Interpolation is not the pseudo-inverse
#
# The obvious way to enlarge is bicubic interpolation. It feels like the inverse of bicubic shrinking. Test it with the one
# thing that every explanation of $x$ must satisfy: *shrink the answer and get $x$ back*. We measure
# this **consistency** in decibels (PSNR between the two LR images; chapter 02 takes PSNR apart; 40 dB means an
# error of 1 % of full scale, each 20 dB another factor of ten).

# %% tags=["nbval-check-output"]
lr = shrink(cat)
answers = {"bicubic": resize(lr, 4), "pseudo-inverse": shrink.pinv(lr)}
print(f"{'':15} consistency   PSNR to the original")
for name, sr in answers.items():
    consistency = min(lr_consistency(sr, lr, 4).item(), 120)  # beyond 120 dB it is all rounding
    print(f"{name:15} {consistency:8.0f} dB {psnr(sr, cat, crop=4).item():15.2f} dB")

# %% [markdown]
# Bicubic interpolation contradicts the data it was made from. The pseudo-inverse agrees with them to rounding error, and it
# is also half a decibel closer to the original: for free, without a prior, without learning.
#
# Call the round trip "down, then up" $\varphi$. If it were a projection, doing it twice would equal doing it once, $\varphi\varphi = \varphi$; and a true
# $A^+$ also satisfies $AA^+A = A$. For interpolation in the place of $A^+$ neither holds:

# %% tags=["nbval-check-output"]
eye = torch.eye(1024, dtype=torch.float64).reshape(1024, 1, 32, 32)
ways_back = {
    "bicubic, enlarged by bicubic": (shrink, lambda z: resize(z, 4)),
    "bicubic, pseudo-inverse": (shrink, shrink.pinv),
    "average, repeated": (AveragePool(4), AveragePool(4).pinv),
}
print(f"{'':30} |phi phi - phi| / |phi|   |A up A - A| / |A|")
for name, (down, up) in ways_back.items():
    once = down(eye)
    phi, twice, again = up(once), up(down(up(once))), down(up(once))
    misses = [((two - one).norm() / one.norm()).item() for two, one in ((twice, phi), (again, once))]
    print(f"{name:30} {misses[0]:22.2f} {misses[1]:20.2f}")

# %%
trips, levels = 8, {}
for name, up in (("bicubic interpolation", lambda z: resize(z, 4)), ("pseudo-inverse", shrink.pinv)):
    image, levels[name] = cat, []
    for _ in range(trips):
        image = up(shrink(image))
        levels[name].append(psnr(image, cat, crop=4).item())
plots.curves(
    range(1, trips + 1),
    levels,
    title="Interpolating loses something on every round trip, the pseudo-inverse only on the first",
    alt="PSNR to the original against the number of round trips from 1 to 8. The pseudo-inverse stays flat at 30.3 dB. Bicubic "
    "interpolation starts at 29.8 dB and falls steadily to 27.1 dB.",
    xlabel="round trips (down by 4, up by 4)",
    ylabel="PSNR to the original (dB)",
    height=340,
)

# %% [markdown]
# This is a trap for methods that "project onto the measurement" in a loop: with interpolation in the place of $A^+$ they drift.
# With the real one, a single line makes *any* answer consistent, whoever made it:
#
# $$\hat y \;\leftarrow\; \hat y + A^+\,(x - A\hat y).$$
#
# It replaces the range part by the one that the data dictate and leaves the null part alone. Chapters 13 to 15 lean on it.

# %% tags=["nbval-check-output"]
drawing = page[..., :192, :256]  # an answer that has nothing to do with the cat
repaired = drawing + shrink.pinv(lr - shrink(drawing))
before, after = (lr_consistency(sr, lr, 4).item() for sr in (drawing, repaired))
print(f"consistency before {before:.0f} dB, after at least {min(after, 120):.0f} dB")
assert_close(null_part(shrink, repaired), null_part(shrink, drawing), atol=1e-5, rtol=0)
assert_close(repaired, cat_range + null_part(shrink, page), atol=1e-5, rtol=0)

# %% [markdown]
# ## 6. When undoing is worse than leaving it
#
# The singular values of bicubic shrinking lie within a factor of about two. Those of a blur do not. Take a Gaussian blur of 1.6 pixels, add noise of a *quarter* of
# one grey level, far below what you can see, and apply the exact pseudo-inverse. Beside it stand two softened inverses,
# $A^\top(AA^\top + \rho I)^{-1}x$: for $\rho \to 0$ this is $A^+x$, and a larger $\rho$ trusts the data less. The picture first, the derivation below it.

# %%
face = rgb_to_y(photo("astronaut")[..., 32:160, 160:288]).double()
lens = Blur(gaussian_kernel(21, 1.6))
noise_std = 0.25 / 255
lr_face = lens(face) + noise_std * standard_normal(0)(face)


def solve(operator, x, rho):
    """argmin |A z - x|^2 + rho |z|^2 = A^T (A A^T + rho I)^-1 x."""
    return operator.adjoint(operator.solve_data(x, rho))


plots.image_grid(
    [face, lr_face, lens.pinv(lr_face), solve(lens, lr_face, 3e-4), solve(lens, lr_face, 0.05)],
    ["original", "blurred, noise 0.25/255", "pseudo-inverse", "rho = 0.0003", "rho = 0.05, too large"],
    title="The exact inverse of a blur returns noise; a regularised one returns a face",
    alt="Five grey pictures of a smiling face: sharp original; blurred; a pattern of pure black and white noise; a nearly sharp "
    "face with faint grain; a softer face.",
    crop=(16, 20, 88, 88),
    zoom=2,
    columns=5,
)

# %% [markdown]
# What happened? Let $u_i$ and $v_i$ be the columns of $U$ and $V$. Blur takes the coefficient $c_i = v_i^\top y$ of the photo, multiplies it by $s_i$ and hands
# it over as $u_i^\top x = s_i c_i + u_i^\top n$. The pseudo-inverse divides by $s_i$, and divides the noise too: a standard deviation of $\sigma$ returns as
# $\sigma/s_i$. The smallest $s_i$ of this blur is $8\cdot10^{-11}$, and 43 % of them lie below a ten-thousandth (both printed below).
#
# The cure is to give up on what cannot be had. Ask for agreement *and* a small answer:
#
# $$\hat y = \arg\min_z \|Az - x\|^2 + \rho\,\|z\|^2 = A^\top(AA^\top + \rho I)^{-1}x.$$
#
# Each coefficient is then multiplied by $\frac{s_i}{s_i^2 + \rho}$ rather than $\frac1{s_i}$: the same where $s_i^2 \gg \rho$, nearly zero where $s_i^2 \ll \rho$. How much to give up?
# Insert $x = Ay + n$ and take the expectation over the noise:
#
# $$\mathbb E\,\|\hat y - y\|^2 = \underbrace{\sum_i \Big(\frac{\rho}{s_i^2 + \rho}\Big)^{2} c_i^2}_{\text{lost signal (bias}^2)} \;+\; \underbrace{\sigma^2 \sum_i \frac{s_i^2}{(s_i^2 + \rho)^2}}_{\text{amplified noise (variance)}}$$

# %%
svd = lens.svd(face)
s, c = svd.singular_values, svd.vt(face)[0]
rhos = torch.logspace(-9, 0, 217, dtype=torch.float64)
lost = torch.stack([((rho / (s**2 + rho)) ** 2 * c**2).sum() for rho in rhos]) / face.numel()
amplified = torch.stack([noise_std**2 * (s**2 / (s**2 + rho) ** 2).sum() for rho in rhos]) / face.numel()
best = rhos[(lost + amplified).argmin()].item()

measured_at = torch.logspace(-8, 0, 9, dtype=torch.float64).tolist()
noise = standard_normal(1)
measured = torch.stack(
    [(solve(lens, lens(face) + noise_std * noise(face), r) - face).square().mean() for r in measured_at]
)
theory = (
    torch.stack([((r / (s**2 + r)) ** 2 * c**2 + noise_std**2 * s**2 / (s**2 + r) ** 2).sum() for r in measured_at])
    / face.numel()
)
assert len(s) == face.numel()  # nothing is lost entirely, only made very small
assert_close(measured, theory, rtol=0.05, atol=0)
print(f"smallest singular value {s.min().item():.0e}; {(s < 1e-4).double().mean().item():.0%} lie below 1e-4")
print(f"the best rho is {best:.0e}")

# %%
plots.scatter(
    {
        "lost signal (exact)": (rhos, lost),
        "amplified noise (exact)": (rhos[amplified > 1e-6], amplified[amplified > 1e-6]),
        "sum (exact)": (rhos, lost + amplified),
        "measured, one noise each": (measured_at, measured),
    },
    joined=["lost signal (exact)", "amplified noise (exact)", "sum (exact)"],
    title="Trust the data too much or too little: the error has a valley",
    alt="Mean squared error against rho from 1e-9 to 1, both logarithmic. Lost signal rises with rho, amplified noise falls; their sum "
    "has a valley near rho of 3e-4. Nine measured points lie on the sum.",
    xlabel="rho",
    ylabel="mean squared error per pixel",
    logx=True,
    logy=True,
)

# %% [markdown]
# The measured points lie on the exact curve (the assertion above allows 5 %, for one draw of the noise). Read the figure as
# advice: left of the valley you publish noise, right of it you publish blur.
#
# And notice what $\rho\|z\|^2$ is. Suppose that pixels are Gaussian numbers of variance $\tau^2$. Then $-2\sigma^2\log p(z \mid x) = \|Az - x\|^2 + \rho\,\|z\|^2$ up to
# a constant, with $\rho = \sigma^2/\tau^2$: the penalty is, up to scale, the negative logarithm of the prior "pixels are small numbers". The whole field can be
# read as the search for a better sentence in that place,
#
# $$\hat y = \arg\min_z\; \|Az - x\|^2 - 2\sigma^2 \log p(z).$$
#
# (The survey writes a loss plus a weighted regulariser, too, but its regulariser acts on the weights of the *network* while it is trained, not on the image.)

# %% [markdown]
# ## 7. The wrong kernel ruins everything
#
# All of this assumed that we know $A$. Suppose that we do not. Blur with one width, solve with another, and use the same
# noise (one grey level) and the same $\rho$ everywhere.

# %%
true_widths, assumed = [0.8, 1.6, 2.4], [0.4 + 0.4 * step for step in range(7)]
spoiled = [Blur(gaussian_kernel(21, sigma))(face) + standard_normal(0)(face) / 255 for sigma in true_widths]
lenses = [Blur(gaussian_kernel(21, sigma)) for sigma in assumed]
quality = [[psnr(solve(used, x, 5e-3), face, crop=8).item() for used in lenses] for x in spoiled]
plots.curves(
    assumed,
    {f"true blur {sigma} px": row for sigma, row in zip(true_widths, quality, strict=True)},
    title="Best where the assumed blur is the true one; too wide costs more when the true blur is narrow",
    alt="PSNR of the answer against the assumed blur from 0.4 to 2.8 pixels, one line for each true blur of 0.8, 1.6 and 2.4 pixels. Each "
    "line peaks at its true blur, at 33.5, 30.8 and 28.6 dB. The first two fall far deeper to the right, to 16.1 and 21.6 dB, than to the "
    "left; the third loses 0.8 dB one step to either side. At the left end the last two lines turn up by 0.2 to 0.3 dB.",
    xlabel="assumed blur (pixels)",
    ylabel="PSNR of the answer (dB)",
    xlim=(0.3, 2.9),
)

# %%
plots.image_grid(
    [spoiled[1], *(solve(Blur(gaussian_kernel(21, sigma)), spoiled[1], 5e-3) for sigma in (0.8, 1.6, 2.4))],
    ["blurred by 1.6 px", "assumed 0.8: blur and mesh", "assumed 1.6: right", "assumed 2.4: ringing"],
    title="Too narrow a kernel leaves blur and sharpens noise, too wide a kernel draws ghosts",
    alt="Four grey pictures of a face: blurred; as blurred, with a fine mesh of noise over it; sharp; and one with heavy black and white contours and "
    "repeated ghost edges around hair, eyes and mouth.",
    crop=(8, 8, 112, 112),
    zoom=2,
)

# %% [markdown]
# Two kinds of damage. Assume too little blur and you are left with the blur; what the inverse does sharpen is noise, and the mesh is that. (For the two wider
# blurs it costs more than the sharpening brings: assuming 0.4 beats assuming 0.8.) Assume too much and every edge grows echoes. The narrower the true blur, the more
# the second kind costs: at 0.8 pixels, twice the width loses 11 dB and half of it 1 dB; at 2.4 pixels, one step either way loses the same 0.8 dB.
#
# Real images with unknown kernels ("blind" super-resolution) are hard for this reason. Learned models are no exception: a
# network trained on one kernel has that kernel in its weights.
#
# ### Break it: the default that is a different task
#
# The most common wrong kernel in super-resolution code is not exotic. It is this line:
#
# ```python
# lr = F.interpolate(hr, scale_factor=1 / 4, mode="bicubic")     # antialias=False is the default
# ```
#
# Without antialiasing, each LR pixel looks at only $4 \times 4$ HR pixels however large the factor. The detail between them is not averaged away; it
# comes back disguised as coarse patterns, which is called *aliasing*. It shows best on rings that get finer towards the corners.

# %%
axis = torch.linspace(-95.5, 95.5, 192)
radius = (axis[:, None] ** 2 + axis**2).sqrt()
rings = (0.5 + 0.5 * torch.cos(torch.pi * radius**2 / 272))[None, None]  # two pixels a ring in the corners
ways = {
    "antialiased bicubic": lambda z: resize(z, 1 / 4),
    "average of 4 x 4": AveragePool(4),
    "F.interpolate, default": lambda z: F.interpolate(z, scale_factor=1 / 4, mode="bicubic"),
    "every 4th pixel": lambda z: z[..., ::4, ::4],
}
plots.image_grid(
    [rings, *(enlarge(way(rings), 4) for way in ways.values())],
    ["the original", *ways],
    title="Without antialiasing, rings appear that are not there",
    alt="Concentric rings that get finer outwards, and four thumbnails of them. Antialiased bicubic and block averages keep the coarse rings in "
    "the middle and turn grey outside, the averages with faint false rings. The default of F.interpolate and plain sampling show eight more, "
    "false sets of rings around the true one, just as strong.",
    columns=3,
)

# %% tags=["nbval-check-output"]
wall = photo("brick")[..., :192, :192]
for name, way in list(ways.items())[1:]:
    print(
        f"{name:24} {psnr(way(wall), resize(wall, 1 / 4)).item():5.1f} dB against antialiased bicubic, on a brick wall"
    )

# %% [markdown]
# How to recognise it: LR images that look *crisper* than they should and flicker when the photo moves by a pixel; PSNR tables
# that no paper can reproduce. How to test for it: shrink white noise of standard deviation 1 by 4. Antialiased shrinking averages
# sixteen pixels or more and must return at most $\tfrac14$ (block averages: exactly that); the faulty one returns about $\tfrac34$.

# %% tags=["nbval-check-output"]
static = standard_normal(0)(torch.empty(1, 1, 256, 256))
print(f"antialiased: std {resize(static, 1 / 4).std().item():.2f}")
print(f"default:     std {F.interpolate(static, scale_factor=1 / 4, mode='bicubic').std().item():.2f}")


def sampled_after(offset):
    """Every 4th pixel of the cat under a Gaussian of 1.8 pixels whose middle lies `offset` pixels further right and down."""
    bell = torch.exp(-((torch.arange(-9.0, 10.0) + offset) ** 2) / (2 * 1.8**2))
    return degrade(cat, torch.outer(bell, bell) / bell.sum() ** 2, scale=4, downsample="decimate")


for name, lr_image in (
    ("antialiased bicubic", shrink(cat)),
    ("Gaussian in the middle of each block", sampled_after(1.5)),
    ("Gaussian at the corner of each block", sampled_after(0)),
):
    print(f"{name:36} enlarged again: {psnr(resize(lr_image, 4), cat, crop=4).item():.2f} dB")

# %% [markdown]
# The last three lines show a quieter version. Taking every fourth pixel starts at the corner of each block, while
# `resize` places LR pixels in the middle: a shift of $(s-1)/2 = 1.5$ HR pixels. The other kernel alone costs 0.8 dB, the shift another
# 2.4 dB, and the image looks fine. Always know where your LR pixels sit.

# %% [markdown]
# ## 8. Data that do not flatter you
#
# A learned method needs pairs. Making them takes three lines, and each has its classic bug (that of the second line you have just met).


# %% tags=["nbval-check-output"]
def make_pair(image, scale):
    """(lr, hr) for the classical benchmark: cut to a multiple of the scale, shrink with antialiasing, store 8 bits."""
    hr = crop_to_multiple(image, scale)  # "modcrop"
    lr = resize(hr, 1 / scale)
    return to_uint8(lr).float() / 255, hr


whole = photo("chelsea")
lr, hr = make_pair(whole, 4)
print("photo", tuple(whole.shape[2:]), "-> hr", tuple(hr.shape[2:]), "lr", tuple(lr.shape[2:]))
print(
    "without the crop: lr",
    tuple(resize(whole, 1 / 4).shape[2:]),
    "enlarges to",
    tuple(resize(resize(whole, 1 / 4), 4).shape[2:]),
)
print(
    f"8 bits cost: consistency of the pseudo-inverse with the unrounded LR {lr_consistency(shrink.pinv(lr), resize(hr, 1 / 4), 4).item():.1f} dB"
)

# %% [markdown]
# - **Crop to a multiple of the scale** ("modcrop"). The width 451 is no multiple of 4; without the crop the pair does not line up.
# - **Round to 8 bits.** LR images are stored as files. Skipping the rounding gives your method digits that it will not have later.
#   The rounding error has variance $1/12$ of a level squared, so consistency with the true LR ends at $10\log_{10}(12\cdot 255^2) = 58.9$ dB.
# - **Cut aligned crops.** Training works on crops. An LR crop that starts at row $r$ belongs to the HR crop that starts at row $s\,r$, and
#   off-by-a-few is invisible in a loss curve:

# %% tags=["nbval-check-output"]
box = 4 * 8  # an LR crop that starts at pixel (8, 8)
lr_crop = resize(lr[..., 8:56, 8:56], 4)
for d in range(5):
    hr_crop = hr[..., box + d : box + d + 192, box + d : box + d + 192]
    print(f"misaligned by {d} HR pixels: bicubic scores {psnr(lr_crop, hr_crop, crop=8).item():.1f} dB")

# %% [markdown]
# One pixel costs more than a decibel, four cost seven. For comparison, the step from the first network to a much deeper
# one brought 0.9 dB (box below).
#
# ### The split that leaks
#
# Photos are large, so everybody cuts them into overlapping crops. Then someone shuffles the crops and keeps 10 % for testing. The test
# crops now overlap training crops. To see what that does, we use the most honest cheater there is: a **memoriser**. It stores
# each training patch ($5\times5$ LR pixels) with the HR detail that bicubic missed, and answers with the detail of the most similar patch.


# %%
def crops_of(name, size=32, step=8):
    """Overlapping crops as LR neighbourhoods (crops, 16, 25), mean removed, and missing HR detail (crops, 16, 16)."""
    hr = rgb_to_y(photo(name)[..., 80:176, 80:176])
    lr = resize(hr, 1 / 4)
    detail = hr - resize(lr, 4)
    lr_crops, hr_crops = (
        F.unfold(z, n, stride=n * step // size)[0].T.reshape(-1, 1, n, n) for z, n in ((lr, size // 4), (detail, size))
    )
    keys = F.unfold(lr_crops, 5).transpose(1, 2)
    return keys - keys.mean(-1, keepdim=True), F.unfold(hr_crops[..., 8:-8, 8:-8], 4, stride=4).transpose(1, 2)


def memoriser(test, keys, details):
    """Gain in dB over bicubic on the crops marked in `test` when all other crops are remembered."""
    asked, known = keys[test].flatten(0, 1), keys[~test].flatten(0, 1)
    distance = asked.square().sum(1, keepdim=True) - 2 * asked @ known.T + known.square().sum(1)
    answer = details[~test].flatten(0, 1)[distance.argmin(1)]
    truth = details[test].flatten(0, 1)
    return 10 * torch.log10(truth.square().mean() / (truth - answer).square().mean()).item()


names = ["chelsea", "coffee", "china", "flower", "astronaut"]
keys, details = (torch.stack(parts) for parts in zip(*map(crops_of, names), strict=True))
shuffled = torch.rand(keys.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.1
by_photo = [memoriser((torch.arange(5) == i)[:, None].expand(keys.shape[:2]), keys, details) for i in range(5)]
gains = {"crops shuffled": memoriser(shuffled, keys, details), "one photo held out": sum(by_photo) / 5}
standard_error = torch.tensor(by_photo).std().item() / 5**0.5

# %%
plots.bars(
    list(gains),
    {"gain": list(gains.values())},
    title="The same memoriser, judged by a leaking and by a clean split",
    alt=f"Two bars: judged on shuffled crops the memoriser gains {gains['crops shuffled']:.1f} dB over bicubic; judged on photos that it "
    f"has never seen it loses {-gains['one photo held out']:.1f} dB, with a standard error of {standard_error:.1f} dB.",
    ylabel="PSNR gain over bicubic (dB)",
    errors={"gain": [0, standard_error]},
    caption="The error bar on the right is the standard error over the five held-out photos.",
    width=520,
    height=340,
)

# %% [markdown]
# A method that has learned nothing looks like a breakthrough on the left and is worse than bicubic on the right.
# **Split by photo first, cut into crops afterwards.** Then look for near-duplicates: bursts, and the same picture in two data sets. The
# fixed benchmarks exist to make this hard to get wrong:
#
# | data set | role | remark |
# |---|---|---|
# | DIV2K, Flickr2K | training and validation | high-resolution photos; DIV2K's LR files are made with MATLAB's bicubic |
# | BSDS500 | training | its train and test folders, 400 photos, train the models of this course |
# | BSD100 | test | the validation folder of BSDS500, 100 photos: never train on it |
# | Set5, Set14 | test | 5 and 14 photos: tiny, old, in every table |
# | Urban100, Manga109 | test | buildings with repeating structure; comic pages |
# | FFHQ, CelebA-HQ | training and test | faces, aligned: good scores here say little about anything else |
#
# `python -m tutorial_lib data` fetches what is needed and compares every pixel with a manifest. The photos in this chapter come with
# ordinary packages, so that it runs anywhere.

# %% [markdown]
# <details><summary><b>Question.</b> BSD100 is the validation folder of BSDS500. You train on "all of BSDS500" and report BSD100. How will your numbers look, and who will notice?</summary>
#
# Too good, and nobody from the table alone: the numbers stay plausible, because a network memorises less perfectly than our memoriser. Only
# a second, untouched test set or your data list gives it away. Publish the list.
# </details>

# %% [markdown]
# ## 9. A first learned answer
#
# So far no method has looked at a photo other than the one in its hands. `super_resolve` with `method="regression"` has: a
# small convolutional network that was trained on 400 photos (BSDS500 train and test, clean split, antialiased bicubic pairs) to predict
# $y$ from $x$ with the smallest absolute error (so it aims at the median of each pixel rather than the mean; both are smooth). None of the photos here was among them.

# %%
scene = crop_to_multiple(photo("astronaut")[..., 0:256, 96:352], 4)
scene_lr = to_uint8(shrink(scene)).float() / 255
wrong_lr = to_uint8(F.interpolate(scene, scale_factor=1 / 4, mode="bicubic")).float() / 255
answers = {
    "bicubic": super_resolve(scene_lr, method="bicubic"),
    "pseudo-inverse": shrink.pinv(scene_lr).clamp(0, 1),
    "regression": super_resolve(scene_lr, method="regression"),
    "regression, wrong LR": super_resolve(wrong_lr, method="regression"),
}
plots.compare(
    {"original": scene, **answers},
    [(82, 76, 80, 80), (10, 62, 80, 80)],
    title="A trained network on the LR image it was made for, and on one from the wrong kernel",
    alt="Two magnified crops of a portrait, the face and the hair, in five versions. Bicubic is blurred, the pseudo-inverse a little sharper "
    "with faint ripples; the regression network draws clean sharp contours but no single hairs; on the LR image made without antialiasing it "
    "draws jagged teeth, black stairs along every edge and worm-like hair.",
    zoom=2,
)

# %% tags=["nbval-check-output"]
print(f"{'':22} PSNR (Y)   consistency with the right LR")
for name, sr in answers.items():
    print(f"{name:22} {psnr(sr, scene, crop=4).item():6.1f} dB {lr_consistency(sr, scene_lr, 4).item():8.0f} dB")
print(f"bicubic, wrong LR      {psnr(super_resolve(wrong_lr, method='bicubic'), scene, crop=4).item():6.1f} dB")

# %% [markdown]
# The network knows what edges look like and restores them: two decibels more than interpolation. It does not restore single hairs. Where several textures
# would explain the thumbnail, an answer between them has the smallest expected error, and that answer is smooth (section 3, in a photo).
# The pseudo-inverse reaches 54 dB of consistency here and not the 120 dB of section 5 because we clipped it to $[0, 1]$, as every file does.
#
# The last picture repeats section 7 with a vengeance. The wrong thumbnail looks harmless, even crisp. The network takes its aliasing for
# detail of the scene and sharpens it into a monster, four decibels *below* plain interpolation. It does not warn you. If a published model
# looks this bad on your images, suspect your shrinking before you suspect the model.
#
# How to fill the null space with *one* plausible texture rather than with something between all of them is the question that
# diffusion models answer, from chapter 04 on.

# %% [markdown]
# > **Common mistakes**
# >
# > 1. *Shrinking without antialiasing* (`F.interpolate` by default). Test: white noise must come out with at most $1/s$ of its standard deviation.
# > 2. *Taking $A^\top$ or an interpolation for $A^+$.* Test: $A A^+ x = x$ on bicubic, not on block averages.
# > 3. *Correlation for convolution.* Test with a kernel that is not symmetric.
# > 4. *A shift of half a block* between shrinking and enlarging. Test: enlarge a linear ramp and look for an offset.
# > 5. *No modcrop, misaligned crops, unrounded LR images.* Test: shapes, and the consistency of the original, which must reach 58.9 dB.
# > 6. *Splitting crops instead of photos.* Test: let a memoriser run; it must not beat bicubic.
# > 7. *Noise in the wrong unit.* $\sigma = 0.05$ on images in $[0, 1]$ is twice as strong as on images in $[-1, 1]$. Say which.

# %% [markdown]
# > **In the papers**
# >
# > - Bicubic interpolation at ×4, Y channel, scores 28.42 dB on Set5, 26.00 on Set14 and 25.96 on BSD100 in the published tables. SRCNN (arXiv
# >   1501.00092), the first network of its kind, reached 30.48, 27.49 and 26.90; VDSR, much deeper, 31.35, 28.01 and 27.29. If your *bicubic* numbers differ, your kernel, luma or crop does.
# > - BSRGAN (2103.14006) draws blur, shrinking, noise and JPEG at random and shuffles their order; Real-ESRGAN (2107.10833) keeps the order and runs the chain twice, the "second-order" degradation of section 2.
# > - DDRM (2201.11793) evaluates "×4" with block averages, whose singular values are all $1/4$: noise of $\sigma$ in the measurement becomes $4\sigma$ in the
# >   image. Its tables cannot be compared with bicubic ones.
# > - DDNM (2212.00490) is built on $y = A^+x + (I - A^+A)z$ and needs $AA^+A = A$. Bicubic interpolation in the place of $A^+$ misses that by 30 % (section 5).
# > - ILVR (2108.02938) uses "down, then up" as a projection; with bicubic it is not one: the second trip still changes 25 %, in norm (section 5).
# > - In the public DPS code (2209.14687), noise of 0.05 is meant on $[-1, 1]$; DDRM and DDNM double theirs. Two tables with "$\sigma = 0.05$" can differ by a factor of two.

# %% [markdown]
# > **Going further**
# >
# > - Measure how much of *your* favourite photos lies in the null space. Which kinds of picture lose least?
# > - Replace $\rho\|z\|^2$ by $\rho\|Dz\|^2$ with $D$ the difference of neighbours. In the Fourier basis this is one more line; how many dB does the better sentence bring?
# > - A second photo of the same scene, shifted by a fraction of an LR pixel, adds rows to $A$. How many photos until the null space is empty? (This is how telephones do it.)
# > - Estimate the blur from a pair (section 7 backwards), then from $x$ alone. Where does the second go wrong?

# %% [markdown]
# ## Recap
#
# 1. **The degradation** $x = ((y \otimes k)\downarrow_s + n)_{\mathrm{JPEG}}$: blur, sample, noise, compress, in this order. You wrote it in eleven lines. Benchmarks use antialiased bicubic shrinking alone.
# 2. **$A$, $A^\top$, $A^+$**: measuring, spreading back, and the shortest explanation. $A^+A$ and $I - A^+A$ split every photo into the seen and the unseen.
# 3. **Two photos, one thumbnail**: add anything from the null space. At ×4 it holds 94 % of the dimensions and 7 % of the cat's variance, the 7 % that looks sharp.
# 4. **Interpolation against $A^+$**: only $A^+$ is consistent. Where singular values are small, even $A^+$ is useless and a regulariser has to choose.
# 5. **A wrong kernel** can cost more than a network gains; too wide costs most when the true blur is narrow; `antialias=False` is a different task.
# 6. **Honest data**: modcrop, 8 bits, aligned crops, split by photo.
#
# Now the [exercises](../exercises/01_super_resolution_basics.ipynb): seven functions, each checked as soon as you run it, from making a pair to choosing $\rho$ without
# seeing the original. Worked [solutions](../solutions/01_super_resolution_basics.ipynb) are there when you are stuck.
#
# ## References
#
# - B. B. Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv 2401.00736, section II.
# - R. Keys, *Cubic convolution interpolation for digital image processing*, 1981, doi:10.1109/TASSP.1981.1163711.
# - C. Dong et al., *Image super-resolution using deep convolutional networks* (SRCNN), arXiv 1501.00092.
# - K. Zhang et al., *Designing a practical degradation model for deep blind image super-resolution* (BSRGAN), arXiv 2103.14006.
# - X. Wang et al., *Real-ESRGAN*, arXiv 2107.10833.
# - B. Kawar et al., *Denoising diffusion restoration models* (DDRM), arXiv 2201.11793.
# - Y. Wang et al., *Zero-shot image restoration using denoising diffusion null-space model* (DDNM), arXiv 2212.00490.
# - J. Choi et al., *ILVR*, arXiv 2108.02938. H. Chung et al., *Diffusion posterior sampling* (DPS), arXiv 2209.14687.
