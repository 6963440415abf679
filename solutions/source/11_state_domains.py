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
# # Solutions 11: State domains
#
# Eight functions around one question: in which space should an image diffuse, and what does that space cost? Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line. They belong to [chapter 11](../notebooks/11_state_domains.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# Images are (B, C, H, W) with values in [0, 1], states are what diffuses, and everything is float64 unless a network says otherwise.

# %%
import math

import torch
import torch.nn.functional as F

from tutorial_lib import plots
from tutorial_lib.domains import Wavelet, band_names, join_bands
from tutorial_lib.exercises import check
from tutorial_lib.images import photo, resize
from tutorial_lib.noise import standard_normal
from tutorial_lib.schedules import vp_cosine
from tutorial_lib.super_resolution import super_resolve

double = torch.float64
noise = standard_normal(0)
cat = photo("chelsea")[..., 60:188, 130:290].double()  # 128 x 160


def decibels(a, b):
    """PSNR of two images in [0, 1], over all channels."""
    return -10 * math.log10((a - b).square().mean())


# %% [markdown]
# ## Exercise 11.1: One level of Haar (warm-up)
#
# Cut `z` (B, C, H, W) into blocks of 2 × 2 pixels $\begin{smallmatrix}a & b\\ c & d\end{smallmatrix}$ and return four bands (B, C, H/2, W/2): LL, the sum of all four; H, top row minus bottom row; V, left column minus right column; D, $a - b - c + d$; each divided by 2.


# %%
def haar(z):
    """(LL, H, V, D), each (B, C, H/2, W/2)."""
    ### BEGIN SOLUTION
    a, b, c, d = z[..., ::2, ::2], z[..., ::2, 1::2], z[..., 1::2, ::2], z[..., 1::2, 1::2]
    return (a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.1", haar)

# %% [markdown]
# Why divided by 2? Check three things that follow: lengths are kept (Parseval), `join_bands` gives the image back, and white noise stays white. Then look at the bands of a photo, and at how much of its variance each holds.

# %% tags=["solution", "nbval-check-output"]
state = 2 * cat - 1
bands = haar(state)
energy = torch.stack([band.square().sum() for band in bands])
torch.testing.assert_close(torch.cat(bands, 1), Wavelet(1).pack(state))  # the library's
print(f"energy of the bands / energy of the image: {energy.sum() / state.square().sum():.9f}")
print(f"joined again, the image is off by at most {round((join_bands(*bands) - state).abs().max().item(), 12)}")
white = torch.stack([band.flatten() for band in haar(noise(torch.empty(1, 1, 512, 512, dtype=double)))])
print(f"largest error of the covariance of four bands of noise: {(white.cov() - torch.eye(4)).abs().max():.3f}")
spread = torch.stack([band.std() for band in bands])
print("standard deviations of LL, H, V, D of a photo: " + ", ".join(f"{s:.3f}" for s in spread))

# %% tags=["solution"]
plots.image_grid(
    [(bands[0] / 2 + 1) / 2, *((3 * band + 1) / 2 for band in bands[1:])],
    ["LL / 2", "H, three times", "V, three times", "D, three times"],
    title="One small picture and three pictures of edges",
    alt="Four pictures of 64 by 80 pixels. LL looks like the photo of a cat's eye at half size. H shows horizontal edges such as the upper rim of the eye, V vertical ones such as its sides and the fur beside the nose, D hardly anything but fur.",
    zoom=3,
    columns=4,
)

# %% [markdown] tags=["solution"]
# The transform is a rotation, so diffusing the bands is diffusing the pixels in other axes. What changes is the view: a network is handed four bands whose sizes differ by a factor of ten or more, and it is easier to learn when each is divided by its own standard deviation.

# %% [markdown]
# ## Exercise 11.2: How far the bands reach
#
# Every pixel of an image may take any value between `low` and `high`. After `levels` (at least 1) levels of the transform, between which values can LL lie, and how large can an entry of the coarsest details (H, V, D of the last level) be? Return three numbers: (smallest LL, largest LL, largest magnitude of a detail).


# %%
def reach(levels, low, high):
    """(smallest LL, largest LL, largest |detail| of the last level)."""
    ### BEGIN SOLUTION
    return 2.0**levels * low, 2.0**levels * high, 2.0 ** (levels - 1) * (high - low)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.2", reach)

# %% [markdown]
# Code that was written for pixels clamps the network's estimate to $[-1, 1]$. Do that to the state of `Wavelet(levels)` for 1, 2 and 3 levels and look. How many decibels are left, and how much of the contrast (the standard deviation)?

# %% tags=["solution"]
clamped = {}
for levels in (1, 2, 3):
    domain = Wavelet(levels)
    back = domain.decode(domain.encode(cat).clamp(-1, 1))
    clamped[f"{levels} level{'s' * (levels > 1)}"] = back
    print(f"{levels} level(s): {decibels(back, cat):.1f} dB, {back.std() / cat.std():.0%} of the contrast")
plots.image_grid(
    [cat, *(image.clamp(0, 1) for image in clamped.values())],
    ["original", *clamped],
    title="Clamp the bands to [-1, 1] and light and dark are gone",
    alt="The photo of a cat's eye four times: as it is, and decoded from bands clamped to [-1, 1] with one, two and three levels. With each level light and dark areas come closer to one muddy grey and colours shift, while fine fur stays sharp. With three levels blocks show around the pupil.",
)

# %% [markdown] tags=["solution"]
# Recognise it by what is missing: the contrast of large areas goes, fine edges stay. The cure is no clamp at all, or one at the reach of each band.

# %% [markdown]
# ## Exercise 11.3: A residual, there and back
#
# `hr` and `prediction` are images (B, C, H, W), `spread` (B, 1, H, W) says how far off the prediction is likely to be, and `sampled` (B, C, H, W) is a state that a sampler has drawn. Return two tensors: the state of `hr` (what the network trains on), and the image of `sampled`.


# %%
def there_and_back(hr, prediction, spread, sampled):
    """(state of hr, image of sampled)."""
    ### BEGIN SOLUTION
    return (hr - prediction) / spread, prediction + spread * sampled
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.3", there_and_back)

# %% [markdown]
# Take the bicubic enlargement (×4) of the cat as prediction and the residual's standard deviation as spread. A perfect sampler returns the true state. Decode it rightly, with the sign flipped, and clamped to $[-1, 1]$. Predict the PSNR of the flipped one before you compute it.

# %% tags=["solution"]
bicubic = resize(resize(cat, 1 / 4), 4)
size = (cat - bicubic).std().reshape(1, 1, 1, 1)
true, _ = there_and_back(cat, bicubic, size, torch.zeros_like(cat))
images = {
    "prediction": bicubic,
    "right": there_and_back(cat, bicubic, size, true)[1],
    "sign flipped": there_and_back(cat, bicubic, size, -true)[1],
    "clamped": there_and_back(cat, bicubic, size, true.clamp(-1, 1))[1],
}
for name in ("prediction", "sign flipped", "clamped"):
    print(f"{name:13} {decibels(images[name], cat):.2f} dB")
print(
    f"{(true.abs() > 1).double().mean():.0%} of the state lies outside [-1, 1], which has {true.square()[true.abs() > 1].sum() / true.square().sum():.0%} of its energy"
)
plots.compare(
    {name: image.clamp(0, 1) for name, image in images.items()},
    [(36, 20, 56, 64)],
    title="A flipped sign paints every detail in negative",
    alt="A detail of the cat's eye four times: blurred bicubic; the sharp original; the version with a flipped sign, which looks crisp but has light specks where dark ones should be and doubled rims; and the clamped one, close to the original with slightly weaker highlights.",
)

# %% [markdown] tags=["solution"]
# The flipped answer looks sharp, and a metric of sharpness would like it. But it is off by $2r$ where bicubic is off by $r$: exactly $20\log_{10}2 = 6.02$ dB less. That is a good alarm: whenever a residual method scores 6 dB below its own prediction, look for a minus. The clamp hits the strongest edges, which are few entries with most of the energy.

# %% [markdown]
# ## Exercise 11.4: Unit variance for latents
#
# `batches` is a list of tensors (B_i, c, h, w): the latents of the training images as an autoencoder gives them. Return the one number by which all latents should be multiplied so that, over all images, channels and places together, their standard deviation is 1. (The factor is one over section 8's scale.)


# %%
def latent_factor(batches):
    """The factor that gives the latents unit standard deviation."""
    ### BEGIN SOLUTION
    return 1 / torch.cat([batch.flatten() for batch in batches]).std()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.4", latent_factor)

# %% [markdown]
# Two things go wrong without it. First the schedule: at which time is the noise as strong as the signal, on `vp_cosine()`, for latents with a standard deviation of 0.2, 1 and 5.49 (the inverse of Stable Diffusion's 0.18215)? Second the bookkeeping: decode a state that was multiplied on the way in but not divided on the way out, and the other way round.

# %% tags=["solution", "nbval-check-output"]
schedule = vp_cosine()
for std in (0.2, 1.0, 5.49):
    even = float(schedule.time_at(torch.tensor(-2 * math.log(std), dtype=double)))
    print(
        f"latents of size {std:4}: signal = noise at t = {even:.2f}; noise outweighs the signal for {1 - even:.0%} of the times"
    )

# %% tags=["solution"]
shuffle = Wavelet(2)  # stands for an autoencoder that loses nothing
latents = shuffle.encode(cat)
factor = latent_factor([latents])
plots.image_grid(
    [
        cat,
        shuffle.decode(latents * factor).clamp(0, 1),
        shuffle.decode(latents / factor).clamp(0, 1),
    ],
    ["right", f"not divided on the way out (factor {factor:.2f})", "divided, but never multiplied"],
    title="Half the bookkeeping burns the picture or greys it",
    alt="The photo of a cat's eye three times. Right: as it is. Not divided on the way out: burnt, with glaring orange and black. Divided but never multiplied: faint and grey.",
)

# %% [markdown] tags=["solution"]
# With small latents the noise drowns them almost from the start, and nearly all of the training is spent on states in which nothing can be seen; with large ones nearly all of it on states in which nothing needs to be done. A schedule that fits pixels fits latents only at unit variance. (`latent_moments` measures a shift and a scale for every channel, which makes the channels alike as well.)

# %% [markdown]
# ## Exercise 11.5: The ceiling
#
# What an autoencoder loses, no diffusion model in its latents can bring back. `hr` (B, C, H, W) is in [0, 1]; `encode` takes states in $[-1, 1]$; latents are multiplied by `factor` to become what diffuses; `decode` undoes `encode` as well as it can. Send the images there and back, as a perfect sampler would, and return the PSNR of each, (B,) in dB.


# %%
def ceiling(hr, encode, decode, factor):
    """PSNR (B,) of the images after a round trip through the diffusing state."""
    ### BEGIN SOLUTION
    z_0 = encode(2 * hr - 1) * factor
    back = (decode(z_0 / factor) + 1) / 2
    return -10 * (back - hr).square().mean((1, 2, 3)).log10()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.5", ceiling)

# %% [markdown]
# Build the best *linear* autoencoder there is: the principal components of 8 × 8 × 3 patches, fitted on other photos. Plot the cat's ceiling against the number of components kept, beside the PSNR that the regression network reaches at ×4. How many numbers must a patch keep?

# %% tags=["solution"]
others = [2 * photo(name)[..., :256, :256].double() - 1 for name in ("astronaut", "coffee", "rocket")]
patches = torch.cat([F.pixel_unshuffle(image, 8).flatten(2)[0].T for image in others])
centre = patches.mean(0).view(1, -1, 1, 1)
axes = torch.linalg.eigh(patches.T.cov())[1].flip(1)


def linear_autoencoder(kept):
    """(encode, decode) with `kept` principal components per 8 x 8 patch: (B, 3, H, W) <-> (B, kept, H/8, W/8)."""
    rows = axes[:, :kept].T[..., None, None]
    return (
        lambda y: F.conv2d(F.pixel_unshuffle(y, 8) - centre, rows),
        lambda u: F.pixel_shuffle(F.conv_transpose2d(u, rows) + centre, 8),
    )


counts = torch.tensor([1, 2, 3, 6, 12, 24, 48, 96, 144])
tops = [ceiling(cat, *linear_autoencoder(count), 0.5).item() for count in counts.tolist()]
learned = super_resolve(resize(cat, 1 / 4).float(), method="regression").double()
plots.curves(
    counts,
    {"ceiling": tops},
    title="An autoencoder must be much better than what it is used for",
    alt="Ceiling in decibels against the number of latent numbers per 8 by 8 patch on a logarithmic axis. It rises from 20 dB with one number to 28 with twelve, 34 with 48 and 51 dB with 144 of 192. A horizontal line at 28 dB, the regression network at x4, crosses it at twelve.",
    xlabel="latent numbers per patch of 192 (logarithmic)",
    ylabel="PSNR, dB",
    horizontal={"regression ×4": decibels(learned, cat)},
    logx=True,
)

# %% [markdown] tags=["solution"]
# Where the curve crosses the line, even a perfect diffusion model in those latents would only equal the regression. A trained autoencoder needs fewer numbers than a linear one, but the test is the same: measure the ceiling before you train anything in the latents. Going further: do it with `faces-kl-32` and `faces-vq-32` of chapter 11.

# %% [markdown]
# ## Exercise 11.6: Through a quantiser
#
# A VQ autoencoder (VQ-VAE, [arXiv 1711.00937](https://arxiv.org/abs/1711.00937)) replaces each vector $u_i$ by the nearest entry $e$ of its codebook. `u` is (N, c), `codebook` (K, c), and `pull` (N, c) is the gradient of the decoder's loss with respect to the vectors that it was given. Added to that loss is
# the mean over the N vectors of $\|\mathrm{sg}[u_i] - e\|^2 + \text{weight}\,\|u_i - \mathrm{sg}[e]\|^2$, where sg stops gradients. Return three tensors: the quantised vectors (N, c), the gradient on `u` (N, c) with the straight-through trick, and the gradient on `codebook` (K, c). By hand or with autograd, as you like.


# %%
def quantised(u, codebook, pull, weight):
    """(vectors (N, c), gradient on u (N, c), gradient on codebook (K, c))."""
    ### BEGIN SOLUTION
    codes = torch.cdist(u, codebook).argmin(1)
    vectors = codebook[codes]
    apart = 2 * (u - vectors) / len(u)
    on_codebook = torch.zeros_like(codebook).index_add(0, codes, -apart)
    return vectors, pull + weight * apart, on_codebook
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.6", quantised)

# %% [markdown]
# Use only the third result to train a codebook of 12 entries on points in the plane, from two different starts: entries drawn among the points, and entries drawn from N(0, 1) around a place beside them. Count how many entries are ever used.

# %% tags=["solution"]
middles = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.arange(8) * math.pi / 4], dtype=double) * 2
points = middles[torch.arange(800) % 8] + 0.25 * noise(torch.empty(800, 2, dtype=double))
starts = {
    "start among the points": points[::67].clone(),
    "start beside them": 4 + noise(torch.empty(12, 2, dtype=double)),
}
trained, used = {}, {}
for name, codebook in starts.items():
    for _ in range(400):
        codebook = codebook - quantised(points, codebook, torch.zeros_like(points), 0.25)[2]
    trained[name] = codebook
    used[name] = torch.cdist(points, codebook).argmin(1).unique()
    error = (points - quantised(points, codebook, torch.zeros_like(points), 0.25)[0]).square().sum(1).mean()
    print(f"{name:23} {len(used[name]):2} of 12 entries used, squared error {error:.3f}")
plots.scatter(
    {"points": (points[:, 0], points[:, 1])} | {name: (book[:, 0], book[:, 1]) for name, book in trained.items()},
    title="An entry that no point chooses is never moved",
    alt="800 points in eight clusters on a ring. The codebook that started among the points has one or two entries in each cluster. Of the one that started beside them two entries lie inside the ring between the clusters, and ten still sit at the upper right, where no point is.",
    xlabel="first number",
    ylabel="second number",
)

# %% [markdown] tags=["solution"]
# The codebook's gradient reaches only chosen entries, so a badly started codebook stays mostly dead (codebook collapse). Practice starts entries at encoder outputs, or puts dead ones there again now and then.

# %% [markdown]
# ## Exercise 11.7: What a folded grid costs
#
# Pixel unshuffle folds blocks of `fold` × `fold` pixels into channels. A network of 3 × 3 convolutions works on the folded grid: one from `channels` · fold² to `hidden` channels, then `layers` from `hidden` to `hidden`, one back to `channels` · fold². The image has `height` × `width` pixels, which `fold` divides.
# Return the number of multiply-adds for one image (a whole number; borders count like the rest, biases do not).


# %%
def multiply_adds(height, width, channels, fold, hidden, layers):
    """Multiply-adds of the network on one image."""
    ### BEGIN SOLUTION
    places = (height // fold) * (width // fold)
    outer = channels * fold**2
    return 9 * places * (outer * hidden + layers * hidden**2 + hidden * outer)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.7", multiply_adds)

# %% [markdown]
# "Wavelet diffusion is four times faster, because the area is a quarter." Compare, for 128 × 128 × 3, 64 hidden channels and 8 layers, folds of 1, 2, 4 and 8. Then show that the first convolution of a network on folded pixels can be turned into one on Haar bands with exactly the same output.

# %% tags=["solution", "nbval-check-output"]
for fold in (1, 2, 4, 8):
    cost = multiply_adds(128, 128, 3, fold, 64, 8)
    wider = max(
        w for w in range(1, 1000) if multiply_adds(128, 128, 3, fold, w, 8) <= multiply_adds(128, 128, 3, 1, 64, 8)
    )
    print(
        f"fold {fold}: {cost / 1e9:5.2f} billion multiply-adds; at the cost of fold 1 there is room for {wider} hidden channels"
    )
image = noise(torch.empty(1, 1, 16, 16, dtype=double))
weights = noise(torch.empty(5, 4, 3, 3, dtype=double))
rotation = torch.cat(haar(torch.eye(4, dtype=double).view(4, 1, 2, 2)), 1)[..., 0, 0]  # folded pixel -> bands
on_pixels = F.conv2d(F.pixel_unshuffle(image, 2), weights)
on_bands = F.conv2d(torch.cat(haar(image), 1), torch.einsum("ocij,cb->obij", weights, rotation))
print(f"the two convolutions differ by {round((on_pixels - on_bands).abs().max().item(), 12)}")

# %% [markdown] tags=["solution"]
# The factor 4 belongs to the fold, with wavelets or without: a U-Net that folds its pixels has it, too. What the bands add is their order. Each can be brought to unit variance, bands can be left to a predictor, and the network does not have to find the rotation by itself. A fair comparison therefore folds both.

# %% [markdown]
# ## Exercise 11.8: Where the error lies (research-like)
#
# `sr` and `hr` are images (B, C, H, W). Split the squared error of `sr` among the bands of a Haar transform with `levels` levels: return the share of each, a tensor (1 + 3 · levels,) that adds to 1, over the whole batch, in the order of `band_names(levels)`. `Wavelet(levels).split(z)` gives a dictionary of bands in that order.


# %%
def error_by_band(sr, hr, levels):
    """Shares of the squared error, in the order of band_names(levels)."""
    ### BEGIN SOLUTION
    parts = torch.stack([band.square().sum() for band in Wavelet(levels).split(sr - hr).values()])
    return parts / parts.sum()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("11.8", error_by_band)

# %% [markdown]
# DiWa and its kin may diffuse some bands only and leave the rest to a predictor. Which ones should diffuse after bicubic at ×2, and at ×4? And by how many dB could the result rise if exactly those bands were perfect? Parseval lets you compute that from the shares; check it by replacing the bands.

# %% tags=["solution"]
names = band_names(3)
predictions = {f"bicubic ×{factor}": resize(resize(cat, 1 / factor), factor) for factor in (2, 4)}
shares = {name: error_by_band(sr, cat, 3) for name, sr in predictions.items()}
domain = Wavelet(3)
for chosen in (("H1", "V1", "D1"), ("H2", "V2", "D2", "H1", "V1", "D1")):
    for name, sr in predictions.items():
        gain = -10 * math.log10(1 - sum(shares[name][names.index(band)] for band in chosen))
        mixed = domain.split(sr) | {band: domain.split(cat)[band] for band in chosen}
        measured = decibels(domain.join(mixed), cat) - decibels(sr, cat)
        print(f"{name}, {len(chosen)} bands perfect: +{gain:.2f} dB by Parseval, +{measured:.2f} dB measured")
plots.bars(
    names,
    {name: 100 * share for name, share in shares.items()},
    title="At ×2 the finest bands hold the error; at ×4 the next ones do as well",
    alt="Shares of the squared error in ten bands, for bicubic x2 and x4. At x2 the three bands of level 1 hold 37, 34 and 15 percent and those of level 2 about 4 each. At x4 level 1 holds 21, 20 and 7 percent, level 2 holds 19, 18 and 8. LL and level 3 hold two percent or less each.",
    ylabel="share of the squared error, %",
    width=820,
    height=340,
)

# %% [markdown] tags=["solution"]
# The LR image settles LL and the coarse bands, so a model has nothing to decide there and can leave them alone. Which bands are open depends on the factor: with one level, as DiWa has, LL still holds half of the error at ×4 (three perfect bands bring only 2.8 dB), so it must diffuse, too. What a predictor gets wrong in a band that does not diffuse stays wrong.
