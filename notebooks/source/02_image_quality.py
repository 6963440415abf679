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
# # 02 Image quality: what the numbers see, and when they lie
#
# A super-resolution paper ends in a table. This chapter is about the table: where each number comes from, what it is
# blind to, and how sure you may be of it.
#
# ## What you will be able to do
#
# 1. **Compute** PSNR, SSIM and LPIPS from their definitions, to 0.01 dB, and name the conventions that a published number hides.
# 2. **Measure** what they miss: consistency with the LR image, sharpness, texture, grain, colour.
# 3. **Run** an opinion-score and a forced-choice experiment and report it with an interval.
# 4. **Draw** the perception–distortion plane, exactly where the posterior is known, then for photos.
# 5. **Test** whether one method beats another, image by image.
# 6. **Say** for each score when it lies, and show the evidence.
#
# *Not covered:* training a metric, video, and FID-like scores, which need thousands of images.
#
# **Prerequisites:** [chapter 01](01_super_resolution_basics.ipynb) (LR, HR, null space), mean and variance, a little PyTorch.
# Reading time: 70 minutes. Running time: about 15 s on two cores.
# Survey section: II-C, Image Quality Assessment (arXiv:2401.00736).
# Exercises: [exercises](../exercises/02_image_quality.ipynb), to be done as you go; answers in [solutions](../solutions/02_image_quality.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $x$ | `lr` | low-resolution image |
# > | $y$ | `hr` | the original, high-resolution image; values in $[0, 1]$ |
# > | $\hat y$ | `sr` | an answer: a super-resolved image |
# > | $\mu, \sigma, \sigma_{y\hat y}$ | `mean_a`, `var_a`, `cov` | local mean, standard deviation, covariance (SSIM) |
# > | $\hat y_\mathrm{mean}$ | `mean` | posterior mean $\mathbb E[y \mid x]$, the MMSE estimate |
# > | $\hat y_\mathrm{sample}$ | `sample` | one draw from $p(y \mid x)$ |
# > | $a$, $K$ | `a`, `k` | how much of a sample's deviation from the mean a blend keeps; how many samples are averaged |
# >
# > The survey uses $\alpha$ and $\beta$ also as exponents of SSIM's terms and $\alpha_l$ as LPIPS's weights. They have
# > nothing to do with the schedule of a diffusion model. From section 9 on $\sigma$ is the noise of the measurement.

# %%
import importlib.util
import math
from pathlib import Path

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tutorial_lib import metrics, plots, widgets
from tutorial_lib.degradations import blur, gaussian_kernel, jpeg
from tutorial_lib.images import photo, resize, rgb_to_y, to_uint8
from tutorial_lib.metrics import lr_consistency, psnr, ssim
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic
from tutorial_lib.oracles import EmpiricalData, GaussianMixture
from tutorial_lib.super_resolution import super_resolve

# %% [markdown]
# ## 1. Two answers, two judges
#
# Somebody hands you two answers to the same ×4 problem. Decide which one you would rather have, before you run the
# second cell.

# %%
wide = photo("flower")[..., 99:292, 249:442]
hr = wide[..., 1:, 1:]  # (1, 3, 192, 192): the original
lr = resize(hr, 1 / 4)
answer_a = resize(lr, 4).clamp(0, 1)
answer_b = wide[..., :-1, :-1]

plots.image_grid(
    [answer_a, hr, answer_b],
    ["answer A", "original", "answer B"],
    title="A or B: which one comes closer to the original?",
    alt="Three views of the heart of a dahlia. Answer A on the left is soft, its petals have no edges. The original in the"
    " middle and answer B on the right both show crisp petal edges and look the same.",
    crop=(20, 20, 152, 152),
    zoom=2,
)

# %% tags=["nbval-check-output"]
for name, sr in (("A", answer_a), ("B", answer_b)):
    print(f"answer {name}: PSNR {psnr(sr, hr, crop=4).item():.2f} dB   SSIM {ssim(sr, hr, crop=4).item():.3f}")

# %% [markdown]
# Both scores are "higher is better", and both prefer A. A is bicubic interpolation. B is the original itself, moved by one
# pixel down and to the right: you would have to flip between the two to notice.
#
# Neither score is broken. They answer a question ("how far apart are the values at the same position?") that is not the
# one your eye answers ("could this be a photo of that flower?"). The error maps show where B pays:

# %%
plots.image_grid(
    [rgb_to_y(answer_a) - rgb_to_y(hr), rgb_to_y(answer_b) - rgb_to_y(hr)],
    ["A - original", "B - original"],
    title="Both err along the edges, and the move by one pixel errs more",
    alt="Two signed error maps of the flower, white is no error. Both are drawn in thin lines along petal edges; those of B"
    " are denser and stronger, although B looked identical to the original.",
    caption="Luma differences from -0.3 (blue) to 0.3 (red).",
    limits=(-0.3, 0.3),
    cmap="RdBu_r",
    crop=(20, 20, 152, 152),
    zoom=2,
)

# %% [markdown]
# Keep this pair in mind. Everything that follows either explains it or looks for a judge that gets it right.
#
# ## 2. PSNR: a logarithm of the squared error
#
# Suppose each pixel of the answer is off by independent Gaussian noise of variance $v$. The log-likelihood of the
# original is then $-\tfrac{N}{2}\log v - \tfrac{1}{2v}\sum_i (\hat y_i - y_i)^2$, and the best $v$ is the **mean squared error**
#
# $$\mathrm{MSE} = \frac1N \sum_{i=1}^N (\hat y_i - y_i)^2 .$$
#
# PSNR compares it with the squared range $L^2$ of the values and takes decibels:
#
# $$\mathrm{PSNR} = 10 \log_{10} \frac{L^2}{\mathrm{MSE}} = -20 \log_{10} \frac{\mathrm{RMSE}}{L}.$$
#
# So PSNR is a likelihood under errors that are *the same everywhere and independent*. Two facts to keep: halving the
# RMSE gains 6.02 dB, and with $L = 1$ a constant error of $c$ gives exactly $-20\log_{10} c$, which makes a perfect test.


# %%
def my_psnr(sr, hr, peak=1.0):
    """PSNR in dB over all pixels and channels, one value per image: (B, C, H, W) -> (B,)."""
    mse = (sr.double() - hr.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(peak**2 / mse)


pair = torch.cat([answer_a, answer_b])
torch.testing.assert_close(my_psnr(pair, hr.expand(2, -1, -1, -1)), psnr(pair, hr.expand(2, -1, -1, -1), channel="rgb"))
referee = peak_signal_noise_ratio(hr[0].double().numpy(), answer_a[0].double().numpy(), data_range=1)
assert abs(my_psnr(answer_a, hr).item() - referee) < 1e-9  # scikit-image
assert abs(my_psnr(hr.double() + 0.1, hr).item() - 20) < 1e-9  # closed form: an offset of 0.1 is 20 dB

# %% [markdown]
# From here on `psnr` from the package is used. (→ Exercise 02.1)
#
# ### One picture, seven PSNRs
#
# "27.3 dB" means nothing until five choices are named. Papers on classical super-resolution choose: **8-bit** images, the
# **Y** channel of BT.601 in studio range (16 to 235), a **border** of `scale` pixels cut off, **range** 255 (the same number
# as range 1 after dividing by 255), and PSNRs (not MSEs) **averaged** over images. The same bicubic cat under other choices:

# %% tags=["nbval-check-output"]
cat = photo("chelsea")[..., 40:232, 100:292]
up = resize(to_uint8(resize(cat, 1 / 4)).float() / 255, 4)
up8 = to_uint8(up).float() / 255  # what a PNG file would hold


def full_range_luma(image):
    return (image * image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


conventions = {
    "papers: 8 bit, Y, crop 4": psnr(up8, cat, crop=4),
    "no rounding": psnr(up, cat, crop=4),
    "no crop": psnr(up8, cat),
    "luma rounded": psnr(to_uint8(rgb_to_y(up8)) / 255.0, to_uint8(rgb_to_y(cat)) / 255.0, crop=4),
    "full-range luma": psnr(full_range_luma(up8), full_range_luma(cat), crop=4),
    "RGB": psnr(up8, cat, "rgb", crop=4),
    "peak = brightest pixel": my_psnr(rgb_to_y(up8), rgb_to_y(cat), rgb_to_y(cat).max()),
}
for name, value in conventions.items():
    print(f"{name:28} {value.item():6.2f} dB")

# %%
plots.bars(
    ["papers", "no rounding", "no crop", "luma\nrounded", "full-range\nluma", "RGB", "peak =\nmax"],
    {"PSNR": [v.item() for v in conventions.values()]},
    title="The same two pictures, seven PSNRs",
    alt="Bar chart of PSNR in dB for one bicubic picture. Papers' convention, no rounding, no crop and rounded luma lie"
    " within 0.02 dB of 28.8 dB; full-range luma and RGB lie 1.3 dB lower, a peak taken from the brightest pixel 3.3 dB lower.",
    ylabel="dB",
    ylim=(25, 30),
    caption="The axis starts at 25 dB: the spread is larger than most differences between published methods.",
)

# %% [markdown]
# What is behind each gap?
#
# - **Studio range.** $Y = (16 + 65.481 R + 128.553 G + 24.966 B)/255$ squeezes $[0,1]$ into a range of $219/255$. Every
#   grey error shrinks by that factor, and the PSNR rises by $-20\log_{10}(219/255) = 1.32$ dB. Nothing got better.
# - **RGB.** For this cat studio range explains nearly all of the gap, because blur errs in all channels alike. Y averages
#   the channels, so errors that are independent between them cancel: for coloured noise the gap grows to about 5 dB.
# - **Rounding.** Uniform rounding error has variance $(1/255)^2/12$, a ceiling of 58.9 dB. At 28 dB it is invisible, near
#   45 dB it is not.
# - **Crop.** An upsampler must invent what lies beyond the border. Cut it off, and say so.
# - **Peak.** The range is a property of the format, never of the picture.
#
# <details><summary><b>Question.</b> A colleague reports 24.93 dB, you measure 23.00 dB with the same weights. What do you ask first?</summary>
#
# "Y or RGB?" A public log of a ResShift run over 3,000 images (a code search found it and named no repository) scores *one*
# set of outputs twice: 24.93 dB on Y, 23.00 dB on RGB, and SSIM 0.672 against 0.618.
# </details>
#
# ### Averaging: over images or over errors?
#
# Take two pictures with MSE $10^{-2}$ (20 dB) and $10^{-4}$ (40 dB). Averaging PSNRs gives 30 dB. Averaging MSEs first gives
# $-10\log_{10}(0.00505) = 23$ dB. Jensen's inequality fixes the direction, not the size:
#
# $$\frac1n \sum_j -10\log_{10} m_j \;\ge\; -10 \log_{10} \Big(\frac1n \sum_j m_j\Big).$$
#
# The second is what `((sr - hr) ** 2).mean()` over a *batch* gives you. That is the classic bug of this section.

# %% tags=["nbval-check-output"]
crops = {"chelsea": (40, 100), "flower": (100, 250), "grass": (0, 0), "coffee": (60, 200)}
originals = torch.cat([photo(n)[..., t : t + 192, s : s + 192] for n, (t, s) in crops.items()])
bicubic = resize(resize(originals, 1 / 4), 4).clamp(0, 1)
each = psnr(bicubic, originals, crop=4)
errors = 10 ** (-each / 10)  # back to the MSE of each image
batched = -10 * torch.log10(errors.mean())
print("each image:", [f"{v:.2f}" for v in each.tolist()])
print(f"mean of the PSNRs {each.mean().item():.2f} dB, PSNR of the mean error {batched.item():.2f} dB")
assert each.mean() > batched

# %% [markdown]
# (→ Exercise 02.2 asks for the papers' protocol in full.)
#
# ## 3. SSIM: compare windows, not pixels
#
# SSIM looks at two 11×11 windows, weighted by a Gaussian of standard deviation 1.5, through five numbers: two means, two
# standard deviations and a covariance. Means and standard deviations are compared by the same function
# $S(p, q) = (2pq + C)/(p^2 + q^2 + C)$, which is 1 for $p = q$ and falls off to either side; the covariance is made a correlation:
#
# $$l = \frac{2\mu_y\mu_{\hat y} + C_1}{\mu_y^2 + \mu_{\hat y}^2 + C_1},\qquad
# c = \frac{2\sigma_y\sigma_{\hat y} + C_2}{\sigma_y^2 + \sigma_{\hat y}^2 + C_2},\qquad
# s = \frac{\sigma_{y\hat y} + C_3}{\sigma_y\sigma_{\hat y} + C_3}.$$
#
# **Luminance** compares means, **contrast** compares standard deviations, **structure** looks at the correlation. With
# $C_1 = (0.01L)^2$, $C_2 = (0.03L)^2$ and $C_3 = C_2/2$ the last two multiply to something simpler:
#
# $$\mathrm{SSIM} = l\,c\,s = l \cdot \frac{2\sigma_{y\hat y} + C_2}{\sigma_y^2 + \sigma_{\hat y}^2 + C_2},$$
#
# because $2(\sigma_y\sigma_{\hat y} + C_3) = 2\sigma_y\sigma_{\hat y} + C_2$ cancels. The published number is the mean over all windows.


# %%
def local(image):
    """Weighted mean of every 11x11 window that fits: (1, 1, H, W) -> (1, 1, H - 10, W - 10)."""
    window = gaussian_kernel(11, 1.5).double()
    return F.conv2d(image, (window / window.sum())[None, None])


def ssim_terms(a, b, peak=1.0):
    """The maps of luminance, contrast and structure of two one-channel images (1, 1, H, W)."""
    a, b = a.double(), b.double()
    mean_a, mean_b = local(a), local(b)
    var_a = (local(a * a) - mean_a**2).clamp_min(0)
    var_b = (local(b * b) - mean_b**2).clamp_min(0)
    cov = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    both = (var_a * var_b).sqrt()
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * both + c2) / (var_a + var_b + c2)
    structure = (cov + c2 / 2) / (both + c2 / 2)
    return luminance, contrast, structure


y_cat, y_up = rgb_to_y(cat), rgb_to_y(up8)
terms = ssim_terms(y_up, y_cat)
ours = (terms[0] * terms[1] * terms[2]).mean()
referee = structural_similarity(
    y_up[0, 0].double().numpy(),
    y_cat[0, 0].double().numpy(),
    gaussian_weights=True,
    sigma=1.5,
    use_sample_covariance=False,
    data_range=1,
)
torch.testing.assert_close(ours, ssim(up8, cat)[0], rtol=1e-5, atol=1e-5)
assert abs(ours.item() - referee) < 1e-5

# %%
plots.image_grid(
    [y_cat[..., 5:-5, 5:-5], y_up[..., 5:-5, 5:-5], *(1 - term for term in terms)],
    ["original", "bicubic", "1 - luminance", "1 - contrast", "1 - structure"],
    title="SSIM taken apart: blur loses contrast and structure, not luminance",
    alt="Five grey pictures of a cat's face: original, bicubic, and three maps of what each term loses, black is"
    " nothing lost. The luminance map is black throughout. The contrast map is grey over fur and whiskers. The structure map is"
    " brightest, mottled over all of the fur.",
    caption="Maps: black is 0, nothing lost; white is 1, all lost.",
)

# %% [markdown]
# Blur leaves the local mean alone, so luminance is blind to it. Contrast and structure do the work.
#
# ### Break it: two mistakes that still look plausible
#
# Mistake one: `data_range`. The constants $C_1, C_2$ depend on the range $L$. Give 255 for pictures in $[0, 1]$ and the
# constants dwarf every variance: the score goes to 1 whatever you feed it. Mistake two, found in write-ups of the formula:
# $\mu$ in the contrast term where $\sigma$ belongs. It turns contrast into a second luminance term.

# %% tags=["nbval-check-output"]
noisy = cat + 0.1 * standard_normal(0)(cat)
for name, sr in (("bicubic", up8), ("noise 0.1", noisy)):
    luma, contrast, structure = ssim_terms(rgb_to_y(sr), y_cat)
    right = (luma * contrast * structure).mean()
    loud = math.prod(ssim_terms(rgb_to_y(sr), y_cat, peak=255.0)).mean()
    mean_a, mean_b = local(rgb_to_y(sr).double()), local(y_cat.double())
    mu = (2 * mean_a * mean_b + 0.03**2) / (mean_a**2 + mean_b**2 + 0.03**2)  # where 2 sigma sigma belongs
    print(
        f"{name:9}  right {right:.3f}   data_range=255 {loud:.5f}   mu for sigma {(luma * mu * structure).mean():.3f}"
    )
    print(f"           contrast term alone: right {contrast.mean():.3f}, with mu {mu.mean():.3f}")

# %% [markdown]
# How to recognise them: an SSIM of 0.9999 on a picture that you can see is wrong means a wrong range; a contrast
# term of 1.000 on a blurred picture means $\mu$ for $\sigma$. (→ Exercise 02.3)
#
# <details><summary><b>Question.</b> What would happen to SSIM if you moved the answer by one pixel, as in section 1?</summary>
#
# $\mu$ and $\sigma$ hardly change, but the covariance collapses wherever texture is finer than a few pixels. The structure
# term punishes the move as hard as PSNR does. You saw it: 0.645 against 0.672 for bicubic.
# </details>
#
# ## 4. Equal PSNR, unequal pictures
#
# Fix PSNR at 28 dB and spoil the cat in five ways. If PSNR measured what you see, the five would look equally bad. (*Shift*
# blends the cat with a copy one pixel to the right; the bare copy, without blending, would lie at 27.6 dB.)


# %%
spoilings = {  # strength 0 is the original
    "blur": lambda hr, strength: blur(hr, gaussian_kernel(21, 0.2 + 4 * strength)),
    "noise": lambda hr, strength: hr + 0.2 * strength * standard_normal(0)(hr[:, :1]),
    "JPEG": lambda hr, strength: jpeg(hr, max(1, round(100 * (1 - strength)))),
    "shift": lambda hr, strength: torch.lerp(hr, hr.roll(1, 3), strength),
    "brightness": lambda hr, strength: hr + 0.2 * strength,
}


def at_psnr(kind, hr, target):
    """The picture spoiled to `target` dB, found by bisection of the strength."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if psnr(spoilings[kind](hr, middle), hr).item() > target else (low, middle)
    return spoilings[kind](hr, low).clamp(0, 1)


spoiled = {kind: at_psnr(kind, cat, 28.0) for kind in spoilings}

# %%
plots.image_grid(
    [cat, *spoiled.values()],
    ["original", *(f"{k}: {psnr(v, cat).item():.1f} dB" for k, v in spoiled.items())],
    title="Five ways to reach 28 dB",
    alt="Six close views of a cat's eye and fur. Original; blur, soft without fur; noise, covered by grey grain; JPEG, large blocks with false colours;"
    " shift, nearly identical to the original with slightly soft fur; brightness, identical but lighter. All but the original score 28 dB.",
    crop=(30, 25, 124, 124),
    zoom=2,
    columns=3,
)

# %% [markdown]
# Noise and blur are opposite errors. Blur *removes* what was there: nothing false is added, and you see at once that something
# is gone. Noise *adds*: detail is buried but not gone. A posterior sample, the thing diffusion models aim at, does a
# third thing: it adds detail that is plausible. At equal distance from the truth, PSNR cannot tell these three apart.
#
# ## 5. LPIPS: distance between features
#
# If pixels are a poor place to compare, compare in the layers of a network. LPIPS (arXiv:1801.03924) runs both images
# through it, divides each feature vector by its length *over the channels at its position*, and sums weighted squared differences:
#
# $$d(\hat y, y) = \sum_l \frac{1}{H_l W_l} \sum_{p} \sum_c w_{l,c}\,\big(\phi^l_c(\hat y)_p - \phi^l_c(y)_p\big)^2,
# \qquad \phi^l_p = \frac{f^l_p}{\lVert f^l_p \rVert}.$$
#
# The definition has three ingredients: the features $f^l$ (AlexNet or VGG), the weights $w_l$ (fitted to human
# judgements), the normalisation. **Lower is closer.** The network expects inputs in $[-1, 1]$.


# %%
def my_lpips(features_a, features_b, weights):
    """Sum over layers of the mean over positions of the weighted squared difference; features (B, C, H, W) -> (B,)."""
    total = 0.0
    for a, b, weight in zip(features_a, features_b, weights, strict=True):
        a = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-10)
        b = b / (b.square().sum(1, keepdim=True).sqrt() + 1e-10)
        total = total + (weight[None, :, None, None] * (a - b) ** 2).sum(1).mean((1, 2))
    return total


def random_network(seed):
    """Three layers of random 3x3 filters and biases, with ReLU: features of an image, never trained."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, 3), (32, 16), (64, 32)]
    kernels = [torch.randn(o, i, 3, 3, generator=generator) * math.sqrt(2 / (9 * i)) for o, i in shapes]
    biases = [0.1 * torch.randn(o, generator=generator) for o, _ in shapes]

    def features(image):
        layers, z = [], 2 * image - 1
        for depth, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            z = F.conv2d(z, kernel, bias, stride=2 if depth else 1, padding=1).relu()
            layers.append(z)
        return layers

    return features


weights = [torch.full((c,), 1 / c) for c in (16, 32, 64)]
features = random_network(0)
torch.testing.assert_close(
    my_lpips(features(up8), features(cat), weights), metrics.lpips_distance(features(up8), features(cat), weights)
)
assert my_lpips(features(cat), features(cat), weights).item() == 0

# %% [markdown]
# Is it the definition that makes LPIPS perceptual, or the training? Ask three random networks about the five pictures.

# %%
opinions = {}
for seed in range(3):
    network = random_network(seed)
    distances = np.array([my_lpips(network(v), network(cat), weights).item() for v in spoiled.values()])
    opinions[f"network {seed}"] = distances / distances.mean()

plots.bars(
    list(spoiled),
    opinions,
    title="Three untrained networks, three opinions",
    alt="Grouped bars: LPIPS with random weights of five spoiled pictures for three networks, each divided by its mean. Blur, noise"
    " and shift all lie near 1 for every network, JPEG near 1.3. Brightness is 0.7 for the first, 0.9 for the second and 0.4 for the third.",
    ylabel="distance / network's mean",
)

# %% [markdown]
# Untrained features do not agree with PSNR: five pictures of equal PSNR get unequal distances. Nor do they agree with you,
# who see the blur at once and hardly the shift, and how bad a change of brightness is depends on the seed. The
# definition alone is not perceptual. That part is learned, so the training data, the network (AlexNet or VGG) and the
# package version belong to the number. The log of section 2 has 0.237 with AlexNet and 0.343 with VGG for the same outputs.
#
# The next cell uses the trained weights if you have them; nothing in this chapter needs them. What to look for: the paper's
# finding is that trained features agree with people's choices between two distorted patches more often than PSNR and SSIM do, so
# the blur should move away from the shift.

# %%
backbone = list((Path(torch.hub.get_dir()) / "checkpoints").glob("alexnet-*.pth"))
if importlib.util.find_spec("lpips") and backbone:
    for kind, picture in spoiled.items():
        print(f"{kind:11} LPIPS (AlexNet) {metrics.lpips(picture, cat).item():.3f}")
else:
    print("trained LPIPS is not installed: pip install lpips, then call metrics.lpips once to fetch its network")

# %% [markdown]
# (→ Exercise 02.4)
#
# ## 6. What one number cannot say
#
# Instead of one better number, use several that are blind to different things. Five from `metrics`, each for one question:
#
# | function | question | good value |
# |---|---|---|
# | `lr_consistency(sr, lr, scale)` | does the answer shrink back to the measurement? | high, dB |
# | `sharpness(sr)` over `sharpness(hr)` | are the steepest edges as steep? | 1 |
# | `sliced_wasserstein(sr, hr)` | do the same textures occur as often, wherever they are? | 0 |
# | `flat_noise(sr, hr)` | is there grain where the original is flat? | 1 |
# | `color_shift(sr, hr)` | did a channel's mean move? | 0 |
#
# Two of them deserve a formula. Consistency needs no original: $-10\log_{10}\mathrm{MSE}(A\hat y, x)$, with $A$ the known
# degradation. The sliced Wasserstein distance forgets positions altogether. It takes $n$ patches of 7×7 pixels, one
# at every third row and column, projects them onto random directions $u$ of length 1 and compares sorted values:
#
# $$\mathrm{SW}(\hat y, y) = \mathbb E_{u}\, \frac1n \sum_{i=1}^n \big| (u\cdot \hat p)_{(i)} - (u\cdot p)_{(i)} \big| ,$$
#
# where $p$ and $\hat p$ are the patches of $y$ and $\hat y$, and $_{(i)}$ means the $i$-th smallest. Sorting *is* optimal transport on a line.


# %%
def my_sliced_wasserstein(sr, hr, directions):
    """W1 between patches along each direction (n, C, 7, 7), averaged: (1, C, H, W) twice -> a number."""
    a, b = (F.conv2d(image, directions, stride=3).flatten(2)[0].sort(dim=1).values for image in (sr, hr))
    return (a - b).abs().mean()


directions = torch.randn(128, 3, 7, 7, generator=torch.Generator().manual_seed(0))
directions = directions / directions.flatten(1).norm(dim=1)[:, None, None, None]
torch.testing.assert_close(
    my_sliced_wasserstein(up8, cat, directions).double(), metrics.sliced_wasserstein(up8, cat)[0], rtol=1e-4, atol=1e-6
)


def scorecard(sr, hr):
    """Every score of one answer, as plain numbers."""
    return {
        "PSNR": psnr(sr, hr).item(),
        "SSIM": ssim(sr, hr).item(),
        "consistency": lr_consistency(sr, resize(hr, 1 / 4), 4).item(),
        "sharpness": (metrics.sharpness(sr) / metrics.sharpness(hr)).item(),
        "sliced W1": metrics.sliced_wasserstein(sr, hr).item(),
        "flat noise": metrics.flat_noise(sr, hr).item(),
        "colour": metrics.color_shift(sr, hr).item(),
    }


# %% tags=["nbval-check-output"]
cards = {kind: scorecard(picture, cat) for kind, picture in spoiled.items()}
print(" " * 12 + "".join(f"{name:>13}" for name in cards["blur"]))
for kind, card in cards.items():
    print(f"{kind:12}" + "".join(f"{value:13.2f}" if value > 0.1 else f"{value:13.4f}" for value in card.values()))

# %%
penalty = {
    "SSIM": lambda v: 1 - v,
    "consistency": lambda v: 60 - v,
    "sharpness": lambda v: abs(math.log(v)),
    "sliced W1": lambda v: v,
    "flat noise": lambda v: abs(math.log(v)),
    "colour": lambda v: v,
}
table = np.array([[punish(card[name]) for name, punish in penalty.items()] for card in cards.values()])
plots.bars(
    list(penalty),
    dict(zip(cards, table / table.max(0), strict=True)),
    title="At equal PSNR each score punishes something else",
    alt="Grouped bars: penalty of five spoilings under six scores, each score divided by its largest penalty. Blur is worst in SSIM,"
    " sharpness and flat noise. Brightness is worst in consistency, sliced W1 and colour, and near zero in the other three. Shift is"
    " near zero in sharpness, sliced W1, flat noise and colour, but 0.7 or more in SSIM and consistency.",
    ylabel="penalty / largest of this score",
    width=900,
)

# %% [markdown]
# Read it score by score. *Sliced W1* forgives the shift, because textures still occur as often. It hates a change of
# brightness, which you hardly see. *Consistency* is strictest about brightness too, and mildest about noise: grain averages
# out when the picture is shrunk. *Sharpness* is moved mainly by blur; strong noise moves it the other way. Now back to
# the pair of section 1:

# %% tags=["nbval-check-output"]
for name, sr in (("A", answer_a), ("B", answer_b)):
    card = scorecard(sr, hr)
    print(f"answer {name}: sharpness {card['sharpness']:.2f}   sliced W1 {card['sliced W1']:.4f}")

# %% [markdown]
# Here are the judges that side with your eye: the shifted original keeps its edges, and its sliced W1 is less than a sixth of bicubic's.
# They could not tell you whether B shows the *right* flower; for that you still need a score that compares positions.
#
# ### Explore
#
# Choose a spoiling and its strength, and watch which numbers move first.


# %%
def explore(spoiling, strength):
    picture = spoilings[spoiling](cat, strength).clamp(0, 1)
    card = scorecard(picture, cat)
    numbers = (
        ("PSNR", ".1f"),
        ("SSIM", ".2f"),
        ("consistency", ".1f"),
        ("sharpness", ".2f"),
        ("flat noise", ".2f"),
        ("sliced W1", ".4f"),
    )
    words = ", ".join(f"{name} {card[name]:{form}}" for name, form in numbers)
    return plots.image_grid(
        [picture],
        [words],
        title=f"{spoiling}, strength {strength:.2f}",
        alt=f"The cat's face under {spoiling} of strength {strength:.2f}: {words}.",
        zoom=2,
        crop=(20, 15, 152, 152),
    )


widgets.explorer(explore, spoiling=list(spoilings), strength=(0.05, 1.0, 0.05, 0.3))

# %%
widgets.frames(
    explore,
    [{"spoiling": kind, "strength": level} for kind in ("blur", "noise") for level in (0.15, 0.5)],
    title="Frames of the explorer: blur above, noise below, stronger on the right",
    alt="Four frames of a cat's face with their scores. Above, blur of strength 0.15 and 0.5: PSNR, sharpness and flat noise fall."
    " Below, noise of strength 0.15 and 0.5: PSNR falls as well, but sharpness creeps up and flat noise rises well above 1.",
    columns=2,
)

# %% [markdown]
# <details><summary><b>Question.</b> You add to an answer something from the null space of A. Which scores notice?</summary>
#
# Consistency does not, by construction: $A(\hat y + v) = A\hat y$ when $Av = 0$. PSNR and SSIM do, if $v$ differs from what
# the original has there. This is why consistency alone proves nothing about detail, and why every diffusion sample
# should have it anyway: it costs nothing.
# </details>
#
# ## 7. Without a reference: the judge that likes liars
#
# On a real photo there is no original. **No-reference** scores (NIQE, BRISQUE, and learned ones such as CLIP-IQA and MUSIQ)
# ask only: does this look like a good photo? NIQE's recipe is short: divide out local mean and contrast, collect
# statistics of what is left, patch by patch, and measure how far their mean $m$ and covariance $\Sigma$ in this picture lie
# from the mean $m_0$ and covariance $\Sigma_0$ of clean photos:
#
# $$d = \sqrt{(m - m_0)^\top \Big(\frac{\Sigma + \Sigma_0}{2}\Big)^{-1} (m - m_0)} .$$
#
# `metrics.naturalness` is a small score of this kind (36 features, ten photos; **lower is more natural**). Now we cheat. Take
# bicubic, add the null-space part of a *gravel* photo, and restore consistency, all with $A^+$ from chapter 01.

# %%
operator = Bicubic(4)
gravel = photo("gravel")[..., 100:292, 100:292]
detail = gravel - operator.pinv(operator(gravel))  # invisible to A


def forge(lr):
    """Bicubic with gravel in its null space: shrinks to lr again, up to clipping."""
    fake = resize(lr, 4).clamp(0, 1) + 0.5 * detail
    return (fake + operator.pinv(lr - operator(fake))).clamp(0, 1)


fake = forge(lr)
shown = {"original": hr, "bicubic": answer_a, "gravel in the petals": fake}
scores = metrics.naturalness(torch.cat(list(shown.values()))).tolist()
plots.image_grid(
    list(shown.values()),
    [f"{name}: {score:.1f}" for name, score in zip(shown, scores, strict=True)],
    title="The most natural flower is made of gravel (lower is better)",
    alt="Three views of the dahlia with a no-reference score, lower is better. Original 9.4, bicubic 30.1, and a bicubic flower"
    " covered with gritty gravel texture 8.3, the best score of the three.",
    crop=(20, 20, 152, 152),
    zoom=2,
)

# %% tags=["nbval-check-output"]
for name, picture in shown.items():
    print(
        f"{name:21} naturalness {metrics.naturalness(picture).item():5.1f}   consistency"
        f" {lr_consistency(picture, to_uint8(lr) / 255.0, 4).item():6.1f} dB   PSNR {psnr(picture, hr, crop=4).item():6.2f} dB"
    )
spots = crops | {"china": (120, 200), "rocket": (200, 200), "camera": (100, 150), "astronaut": (0, 130)}
wins = []
for name, (top, left) in spots.items():
    true = photo(name)[..., top : top + 192, left : left + 192]
    small_true = resize(true, 1 / 4)
    trio = torch.cat([true, resize(small_true, 4).clamp(0, 1), forge(small_true)])
    score = metrics.naturalness(trio)
    wins.append((score[2] < score[0], score[2] < score[1]))
beaten = torch.tensor(wins).sum(0).tolist()
print(f"of {len(spots)} photos the forgery beats the original {beaten[0]} times, bicubic {beaten[1]} times")

# %% [markdown]
# (Consistency here is measured against the LR image as an 8-bit file. Rounding alone would leave the original at 59.0 dB. It
# has 55.7 because bicubic shrinking undershoots at dark edges: 1.4 % of `lr` lies below 0, and a file clips that.)
#
# The forgery beats the original, and it explains the LR image far better than bicubic does. Not for every photo, but
# bicubic it beats always. The score has no way to know that petals are not made of gravel; it only checks that there is
# texture of the usual strength. (This small score knows ten photos, gravel among them; a larger set would be harder to
# fool, but no set tells it what *this* flower looked like.) Methods with text-to-image priors are often ranked by scores
# of this family, which reward *invented* texture as much as *recovered* texture.
#
# ## 8. Ask people
#
# **Mean opinion score** (MOS): show one picture at a time, ask for 1 (bad) to 5 (excellent), average.
# **Two-alternative forced choice** (2AFC): show two, ask which one is better, or which one is the photo. If answer and photo
# cannot be told apart, the *fool rate* is 50 %, not 100 %.
#
# Take both experiments yourself. The order is shuffled, and the names come at the end.

# %%
stimuli = {"original": hr, "bicubic": answer_a, "one pixel off": answer_b, "gravel": fake}
widgets.rating({name: picture[..., 20:148, 20:148] for name, picture in stimuli.items()}, repeats=3, seed=0)

# %%
pairs = {"B (one pixel off) over A (bicubic)": (answer_b, answer_a), "gravel over bicubic": (fake, answer_a)}
widgets.preference({n: tuple(p[..., 20:148, 20:148] for p in pair) for n, pair in pairs.items()}, repeats=6, seed=0)

# %% [markdown]
# With $k$ of $n$ answers for one side, the share is $\hat p = k/n$. How sure is it? The textbook interval
# $\hat p \pm z\sqrt{\hat p(1-\hat p)/n}$ with $z = 1.96$ (Wald) has width zero when all agree, which is absurd after 12
# trials. **Wilson** asks instead which $p$ are compatible with $\hat p$, that is $(\hat p - p)^2 \le z^2 p(1-p)/n$, and solves
# this quadratic for $p$:
#
# $$\frac{1}{1 + z^2/n}\left( \hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p(1-\hat p)}{n} + \frac{z^2}{4n^2}} \right).$$


# %% tags=["nbval-check-output"]
def my_wilson(k, n, z=1.96):
    """95 % interval for a proportion after k successes in n trials."""
    p, shrink = k / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) - half) / shrink, (p + z * z / (2 * n) + half) / shrink


referee = scipy.stats.binomtest(9, 12).proportion_ci(0.95, method="wilson")
np.testing.assert_allclose(my_wilson(9, 12), (referee.low, referee.high), atol=1e-4)
np.testing.assert_allclose(my_wilson(9, 12), widgets.wilson_interval(9, 12), atol=1e-12)
for k in (9, 10, 12):
    low, high = my_wilson(k, 12)
    print(
        f"{k} of 12 for B: {k / 12:.0%}, interval {low:.0%} to {high:.0%}: {'a preference' if low > 0.5 else 'not shown'}"
    )

# %%
n, chances = 12, np.linspace(0.5, 0.99, 50)
answers = np.arange(n + 1)
wilson = np.array([my_wilson(k, n) for k in answers])
wald = np.array(
    [
        (k / n - 1.96 * math.sqrt(k / n * (1 - k / n) / n), k / n + 1.96 * math.sqrt(k / n * (1 - k / n) / n))
        for k in answers
    ]
)
probability = scipy.stats.binom.pmf(answers[:, None], n, chances)
coverage = {
    name: ((ends[:, :1] <= chances) * (chances <= ends[:, 1:]) * probability).sum(0)
    for name, ends in (("Wilson", wilson), ("Wald", wald))
}
plots.curves(
    chances,
    coverage | {"what 95 % promises": np.full(50, 0.95)},
    title="Twelve trials: how often does a 95 % interval hold the truth?",
    alt="Two jagged curves of coverage against the true preference from 0.5 to 0.99, and a level line at the promised"
    " 0.95. Wilson stays around 0.95, dipping to about 0.9."
    " Wald lies between 0.75 and 0.95 and falls towards zero as the true preference approaches one.",
    xlabel="true preference for B",
    ylabel="coverage (exact)",
    ylim=(0, 1.02),
)

# %% [markdown]
# How large must a study be? SR3 reports fool rates of 47.4 % for ×8 faces and 39.0 % for natural ×4 images. Suppose such a
# rate is the truth. How many answers does it take until the interval of a new study lies below 50 % with *power* 80 %, that
# is in four studies of five?


# %% tags=["nbval-check-output"]
def answers_needed(rate, power):
    """From how many answers on Wilson's interval lies below 50 % with at least this chance."""
    n = np.arange(10, 6000)
    most = np.ceil(n / 2 - 1.96 * np.sqrt(n) / 2) - 1  # the largest k whose interval ends below 50 %
    return n[scipy.stats.binom.cdf(most, n, rate) < power].max() + 1


for rate in (0.474, 0.39):
    print(
        f"true rate {rate:.1%}: {answers_needed(rate, 0.8)} answers; {answers_needed(rate, 0.5)} find it every second time"
    )
simulated = widgets.Trials(["original", "bicubic"], repeats=8, seed=0)  # a computer that rates, to show the arithmetic
while simulated.current:
    simulated.answer({"original": (4, 5, 5, 4), "bicubic": (2, 3, 2, 4)}[simulated.current][len(simulated.answers) % 4])
for name in simulated.names:
    print(f"simulated rater, {name}: MOS %.2f, bootstrap interval %.2f to %.2f" % simulated.opinion(name))

# %% [markdown]
# Eight answers of *one* rater are eight correlated numbers: an interval over people needs people. State who was asked,
# how many, what they saw (zoom, time, the LR image or not), and the question. (→ Exercise 02.5)
#
# ## 9. The perception–distortion plane, where everything is known
#
# Is there an estimator with the lowest MSE *and* perfect realism? We settle it on a posterior that we know. One pixel $y$ is
# dark (near $-1$) or bright (near 1) with equal chance, and we see it through noise: $x = y + 0.9\,n$.
#
# The posterior of a Gaussian mixture is a mixture again. Each part is updated like a single Gaussian, and its weight is
# multiplied by the evidence $\mathcal N(x; m_k, s^2 + \sigma^2)$, with the centres $m_k = \pm 1$, their spread $s = 0.2$ and the
# noise $\sigma = 0.9$.

# %%
prior = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]).double(), 0.04 * torch.ones(2, 1, 1))
noise_std = 0.9


def posterior_parts(x, spread=0.2):
    """Weights (N, 2), means (N, 2) and the common standard deviation of p(y | x), for measurements x (N,)."""
    centres, gain = torch.tensor([-1.0, 1.0]).double(), spread**2 / (spread**2 + noise_std**2)
    weights = (-((x[:, None] - centres) ** 2) / (2 * (spread**2 + noise_std**2))).softmax(1)
    return weights, centres + gain * (x[:, None] - centres), spread * math.sqrt(1 - gain)


seen = torch.tensor([0.25]).double()
exact = prior.posterior(torch.ones(1, 1), seen[None], noise_std)
part_weights, part_means, part_std = posterior_parts(seen)
torch.testing.assert_close(part_weights[0], exact.weights)
torch.testing.assert_close(part_means[0], exact.means[:, 0])
assert abs(part_std**2 - exact.covariances[0].item()) < 1e-9

# %%
grid = torch.linspace(-2, 2, 801).double()
density = exact.log_prob(grid[:, None]).exp()
heights, edges = np.histogram(exact.sample(20000, standard_normal(0)).numpy(), bins=80, range=(-2, 2), density=True)
plots.curves(
    grid,
    {"exact posterior": density, "20,000 samples": ((edges[:-1] + edges[1:]) / 2, heights)},
    title="The mean of the posterior is a value that never occurs",
    alt="The posterior density has a peak of height 0.7 at -0.95 and one of height 1.3 at 0.96; a histogram of samples follows it."
    " The posterior mean, 0.28, stands in the empty gap between the peaks, the MAP estimate on top of the larger one.",
    vertical={"mean (MMSE)": exact.mean.item(), "MAP": grid[density.argmax()].item()},
    xlabel="y, given x = 0.25",
    ylabel="density",
    ylim=(0, 2),
)

# %% [markdown]
# Three natural answers. The **mean** minimises MSE and lies where no pixel ever is: this is what blur is. The **MAP** value
# is likely each time but too regular: it never takes the smaller peak and shows none of the spread within a peak. A
# **sample** takes each value as often as nature does: over all $x$, samples have exactly the law of $y$.
#
# What does a sample cost? Given $x$, truth $y$ and sample $\hat y$ are two independent draws from the same law, so with
# $m = \mathbb E[y \mid x]$ the cross term vanishes:
#
# $$\mathbb E\,\lVert \hat y - y \rVert^2 = \mathbb E\,\lVert \hat y - m \rVert^2 + \mathbb E\,\lVert y - m \rVert^2 = 2\,\mathrm{MMSE}.$$
#
# Exactly twice the MSE, 3.01 dB, for *any* prior and *any* measurement. Blending, $\hat y_a = m + a(\hat y - m)$, or averaging
# $K$ samples, changes only the first term:
#
# $$\mathrm{MSE}(a) = (1 + a^2)\,\mathrm{MMSE}, \qquad \mathrm{MSE}_K = \Big(1 + \frac1K\Big)\mathrm{MMSE}.$$

# %%
noise = standard_normal(1)
truth = prior.sample(200_000, noise)[:, 0]
x = truth + noise_std * noise(truth)


def sample_posterior(x, noise):
    part_weights, part_means, part_std = posterior_parts(x)
    bright = torch.special.ndtr(noise(x)) < part_weights[:, 1]
    return torch.where(bright, part_means[:, 1], part_means[:, 0]) + part_std * noise(x)


part_weights, part_means, _ = posterior_parts(x)
mean = (part_weights * part_means).sum(1)
torch.testing.assert_close(mean, prior.denoise(x[:, None], 1.0, noise_std)[:, 0])  # the package's exact denoiser
sample = sample_posterior(x, noise)
difference = (sample - truth) ** 2 - 2 * (mean - truth) ** 2  # its mean must be zero
standard_error = difference.std() / math.sqrt(len(difference))
assert difference.mean().abs() < 4 * standard_error
assert ((sample - truth) ** 2).mean() - 1.5 * ((mean - truth) ** 2).mean() > 10 * standard_error  # the test can fail

# %% [markdown]
# The assertion holds within its Monte-Carlo error. Now the plane. Horizontal: **distortion**, here $\mathrm{MSE}/\mathrm{MMSE}$.
# Vertical: **perception**, the distance between the law of the answers and the law of the originals, here
# $W_2 = \sqrt{\frac1n\sum_i (\hat y_{(i)} - y_{(i)})^2}$, sorted again. Note what it does *not* do: it never compares an answer with
# *its* original. Lower is better on both axes.
#
# One more estimator joins in: the *transported mean*, which gives the sorted means the sorted values of real pixels
# (a fresh draw of them; `truth` stays out of it). On a line this is optimal transport: it repairs the law at the least cost.

# %% tags=["nbval-check-output"]
mmse = (mean - truth).square().mean()


def on_plane(answer):
    """(MSE / MMSE, W2 to the law of the originals)."""
    w2 = (answer.sort().values - truth.sort().values).square().mean().sqrt()
    return ((answer - truth).square().mean() / mmse).item(), w2.item()


likely = part_weights.argmax(1, keepdim=True)
real = prior.sample(len(truth), standard_normal(2))[:, 0]  # pixels that have nothing to do with truth or x
rivals = {
    "mean": mean,
    "mean of 4": torch.stack([sample_posterior(x, noise) for _ in range(4)]).mean(0),
    "sample": sample,
    "MAP": part_means.gather(1, likely)[:, 0],
    "transported mean": real.sort().values[mean.argsort().argsort()],
}
for name, answer in rivals.items():
    print(f"{name:17} MSE/MMSE %.3f   W2 %.3f" % on_plane(answer))
print(f"standard error of the sample's MSE/MMSE: {standard_error / mmse:.3f}")
fresh = [on_plane(prior.sample(len(truth), standard_normal(seed))[:, 0])[1] for seed in range(10, 20)]
print(f"ten fresh sets of originals: W2 from {min(fresh):.3f} to {max(fresh):.3f}")

# %% [markdown]
# The last line is a control: other pixels of the same law, which have nothing to do with $x$. A score of realism
# finds nothing wrong with them. Their $W_2$ is not 0 but the noise floor of 200,000 draws; those of the sample and of the
# transported mean are of that size. In the figure below, compare the mean of four samples with the blend at the same
# distortion, $a = 1/2$: averaging pulls more values into the gap.
#
# The Wasserstein geometry of this plane is known exactly (arXiv:2107.02555): with $P^* = W_2$ of the mean's law, the best
# possible MSE at perception $P \le P^*$ is
#
# $$D(P) = \mathrm{MMSE} + (P^* - P)^2 .$$

# %%
blends = [on_plane(mean + a * (sample - mean)) for a in np.linspace(0, 1, 11)]
worst = on_plane(mean)[1]
levels = np.linspace(0, worst, 13)
plots.scatter(
    {
        "best possible": (1 + (worst - levels) ** 2 / mmse.item(), levels),
        "blends of mean and sample": tuple(zip(*blends, strict=True)),
        "estimators": tuple(zip(*(on_plane(a) for a in rivals.values()), strict=True)),
    },
    names={"estimators": list(rivals)},
    joined=("best possible", "blends of mean and sample"),
    title="You cannot have both: the exact perception–distortion plane",
    alt="Distortion against perception for a bimodal pixel. The mean is far left at 1 and high. The best possible curve falls from it"
    " to a perception error of zero at distortion 1.21, where the transported mean stands, at 0.02. Blends of mean and sample run"
    " above it to the sample at (2.01, 0.02). The mean of four samples, at 1.25, lies above the blends, the MAP estimate, at 1.36, on them.",
    caption="0.02 is the noise floor of 200,000 draws; the exact values of sample and transported mean are 0.",
    xlabel="distortion: MSE / MMSE",
    ylabel="perception: $W_2$ to the law of originals",
)

# %% [markdown]
# Nothing lies left of the curve: that region is empty for *every* method, present and future (arXiv:1711.06077 proves that
# such a frontier exists for any distortion). Notice also what the plane says against us: posterior sampling is perfect in
# perception but *not* optimal. The transported mean is as realistic and cheaper. Its price is diversity: one answer for
# each $x$. (→ Exercises 02.6 and 02.8)
#
# <details><summary><b>Question.</b> A paper's diffusion model loses 0.4 dB against its regression baseline. Is it a posterior sampler?</summary>
#
# No. A true posterior sample loses 3.01 dB against the posterior mean, and a good regression is close to that mean. Losing
# 0.4 dB means $1 + a^2 = 1.096$, so $a \approx 0.31$: the samples hold a third of the spread they should have, or the baseline is poor.
# </details>
#
# ### The same on pictures
#
# Does this survive 256 dimensions? Let nature be a box of some thousand 16×16 patches $p_i$, cut from photos, each equally likely.
# We average 4×4 blocks and add noise, $x = Ay + 0.15\,n$. Then the posterior is exact and short: patch $i$ has the weight
#
# $$\pi_i \propto \exp\Big(-\frac{\lVert x - A p_i \rVert^2}{2 \cdot 0.15^2}\Big),$$
#
# the posterior mean is $\sum_i \pi_i p_i$, and a sample is one patch, drawn with these chances.

# %%
box = torch.cat([F.unfold(rgb_to_y(photo(n)), 16, stride=5)[0].T for n in ("camera", "china", "flower", "coffee")])
box = box[box.std(1) > 0.15].double().view(-1, 1, 16, 16)  # patches with something in them
pool, generator = AveragePool(4), torch.Generator().manual_seed(0)
original = box[torch.randint(len(box), (2000,), generator=generator)]
small = pool(original) + 0.15 * standard_normal(1)(pool(original))
chance = (-(torch.cdist(small.flatten(1), pool(box).flatten(1)) ** 2) / (2 * 0.15**2)).softmax(1)
patch_mean = (chance @ box.flatten(1)).view(-1, 1, 16, 16)
patch_sample = box[torch.multinomial(chance, 1, generator=generator)[:, 0]]
exact_small = EmpiricalData(pool(box)).denoise(small, 1.0, 0.15)  # the package's E[Ay | x]
torch.testing.assert_close(pool(patch_mean), exact_small, rtol=1e-6, atol=1e-8)

rows = {"original": original, "measurement": pool.pinv(small), "mean": patch_mean, "sample": patch_sample}
plots.image_grid(
    [picture for row in rows.values() for picture in row[:8]],
    [name for name in rows for _ in range(8)],
    title="The mean hedges, the sample commits itself",
    alt="Four labelled rows of eight grey 16 by 16 patches. Originals with edges and texture; blocky, noisy 4 by 4 measurements;"
    " posterior means, blurred mixtures; posterior samples, crisp photo patches, often others than the original.",
    zoom=6,
    columns=8,
)

# %% tags=["nbval-check-output"]
aim = torch.randn(256, 128, generator=torch.Generator().manual_seed(1)).double()
aim = aim / aim.norm(dim=0)  # 128 directions of length 1


def law_distance(answers):
    """Sliced W1 between the law of the answers and that of the originals."""
    return ((answers.flatten(1) @ aim).sort(0).values - (original.flatten(1) @ aim).sort(0).values).abs().mean().item()


least = (patch_mean - original).square().mean((1, 2, 3))
for a in (0.0, 0.25, 0.5, 0.75, 1.0):
    blend = patch_mean + a * (patch_sample - patch_mean)
    error = (blend - original).square().mean((1, 2, 3))
    ratio = error.mean() / least.mean()
    doubt = (error - ratio * least).std() / least.mean() / math.sqrt(len(error))
    print(
        f"a = {a:.2f}: MSE/MMSE {ratio:.3f} +- {doubt:.3f}, theory {1 + a * a:.3f}   sliced W1 {law_distance(blend):.4f}"
    )
others = box[torch.randint(len(box), (2000,), generator=generator)]
print(f"other patches from the box: sliced W1 {law_distance(others):.4f}")

# %% [markdown]
# No training: 3.01 dB is the price of a realistic answer here too, up to the standard errors shown, and the samples are as close to
# the law of the originals as other patches from the box are.
#
# ## 10. Photos: bicubic, regression, residual diffusion
#
# Now the real thing. `"regression"` was trained on absolute error, which aims at the posterior's median, close to its mean;
# `"residual-diffusion"` draws samples. Three small crops that the models never saw, four samples each, and one control:
# regression plus white (grey) *noise*, on each photo as strong as the samples' RMS difference from the regression.

# %%
places = {"chelsea": (90, 120), "china": (160, 235), "coffee": (100, 220)}
targets = torch.cat([photo(n)[..., t : t + 96, s : s + 96] for n, (t, s) in places.items()])
inputs = resize(targets, 1 / 4)
samples = super_resolve(inputs.repeat_interleave(4, 0), "residual-diffusion", seed=0).unflatten(0, (3, 4))
regression = super_resolve(inputs, "regression")
spread = (samples - regression[:, None]).square().mean((1, 2, 3, 4), keepdim=True).sqrt()[:, 0]
candidates = {
    "bicubic": super_resolve(inputs, "bicubic"),
    "regression": regression,
    "regression + noise": (regression + spread * standard_normal(0)(regression[:, :1])).clamp(0, 1),
    "one sample": samples[:, 0],
    "mean of 4 samples": samples.mean(1),
}

# %%
plots.compare(
    {"original": targets[1:2], **{name: c[1:2] for name, c in candidates.items()}},
    [(0, 0, 64, 64), (32, 32, 64, 64)],
    title="Smooth, grainy, or textured: five answers to one LR image",
    alt="Two details of a Chinese pavilion in six versions. Bicubic is soft; regression is smooth with clean edges; regression plus"
    " noise is covered by grain; one diffusion sample has grain and texture of its own; the mean of four samples is smooth again.",
    zoom=2,
)

# %%
small_cards = {
    name: [
        psnr(c, targets, crop=4).mean().item(),
        lr_consistency(c, inputs, 4).min().item(),
        (metrics.sharpness(c) / metrics.sharpness(targets)).mean().item(),
        metrics.flat_noise(c, targets).mean().item(),
        metrics.sliced_wasserstein(c, targets).mean().item(),
    ]
    for name, c in candidates.items()
}
print(f"{'':20} PSNR  consistency  sharpness  flat noise  sliced W1")
for name, card in small_cards.items():
    print(f"{name:18} {card[0]:6.2f} {card[1]:12.1f} {card[2]:10.2f} {card[3]:11.2f} {card[4]:10.4f}")
rival = metrics.sliced_wasserstein(candidates["regression + noise"], targets)
closer = (metrics.sliced_wasserstein(samples[:, 0], targets) < rival).sum().item()
print(f"in sliced W1 the sample beats regression + noise on {closer} of 3 photos")

# %%
plots.scatter(
    {
        "_photos": (
            [card[0] for card in small_cards.values()],
            [card[4] for card in small_cards.values()],
        )
    },
    names={"_photos": list(small_cards)},
    title="The plane on photos: up is worse, right is better",
    alt="PSNR against sliced Wasserstein distance for five answers: "
    + "; ".join(f"{name} at {card[0]:.1f} dB and {card[4]:.4f}" for name, card in small_cards.items())
    + ".",
    xlabel="PSNR on Y, dB (distortion, higher is better)",
    ylabel="sliced $W_1$ (perception, lower is better)",
)

# %% [markdown]
# Compare with the exact plane (mirrored, because PSNR grows to the right). The control matters: white noise of that strength
# loses PSNR much as a sample does. What the sample gets for it is the gap between the two in the last column. Were
# there none, the diffusion model would be an expensive noise generator; and a gap on three photos is a hint, not a proof
# (section 11). *Flat noise* looks at the same question on walls: above 1 there is more grain than in the
# original, and white noise falls on walls as on leaves.
#
# One more check needs no new idea. For a posterior sampler $\mathrm{MSE}_K = c_0 + c_1/K$ with $c_0 = c_1$. Fit both:

# %%
squared = [(samples[:, :k].mean(1) - targets).square().mean().item() for k in (1, 2, 3, 4)]
c1, c0 = np.polyfit([1, 1 / 2, 1 / 3, 1 / 4], squared, 1)
print(f"c0 = {c0:.5f} ({-10 * math.log10(c0):.2f} dB), c1 = {c1:.5f}, c1 / c0 = {c1 / c0:.2f} (exact posterior: 1)")
print(f"regression: {-10 * math.log10((regression - targets).square().mean().item()):.2f} dB in RGB, no crop")

# %% [markdown]
# $c_0$ is the MSE of infinitely many samples' mean: near the regression's, if the sampler is centred right. $c_1/c_0$ compares
# the variance of the samples with the error that is left: how much of the missing detail the sampler dares to fill in.
#
# ## 11. Is the difference real?
#
# Method B has 27.45 dB on average, method A 27.10 dB. Over 14 photos the standard error of *each* average is 1.4 dB. Noise? Let us
# see: A is bicubic, B is bicubic with mild unsharp masking.

# %% tags=["nbval-check-output"]
names = "astronaut chelsea coffee rocket hubble_deep_field immunohistochemistry camera brick gravel grass coins moon china flower"
scores = {"A": [], "B": []}
for name in names.split():
    whole = photo(name)
    top, left = whole.shape[-2] // 2 - 96, whole.shape[-1] // 2 - 96
    hr_14 = whole[..., top : top + 192, left : left + 192]
    plain = resize(to_uint8(resize(hr_14, 1 / 4)).float() / 255, 4).clamp(0, 1)
    sharper = (2 * plain - blur(plain, gaussian_kernel(13, 1.5))).clamp(0, 1)
    scores["A"].append(psnr(plain, hr_14, crop=4).item())
    scores["B"].append(psnr(sharper, hr_14, crop=4).item())
score_a, score_b = (np.array(v) for v in scores.values())
gain_db = score_b - score_a
for name, v in (("A", score_a), ("B", score_b), ("B - A", gain_db)):
    print(f"{name:6} mean {v.mean():6.3f} dB   standard error {v.std(ddof=1) / math.sqrt(len(v)):.3f}")

# %%
plots.scatter(
    {"_photos": (score_a, gain_db)},
    names={"_photos": names.split()},
    title="Photos differ by 20 dB, methods by 0.35 dB: compare photo by photo",
    alt="Fourteen photos: PSNR of method A from 21 to 41 dB on the horizontal axis, gain of method B on the vertical axis. All"
    " gains are positive, between 0.1 and 0.6 dB, with no trend.",
    xlabel="PSNR of A, dB",
    ylabel="gain of B, dB",
)

# %% [markdown]
# The photos are hard or easy for *both* methods. In the difference that common part cancels:
#
# $$\operatorname{Var}(B - A) = \operatorname{Var}(A) + \operatorname{Var}(B) - 2\operatorname{Cov}(A, B).$$
#
# A p-value needs no bell curve, only a hypothesis to test: that A and B could be swapped on any photo without changing
# anything. Then each difference could as well have had the other sign. Try all $2^{14}$ signs and count how often the mean is as large.

# %% tags=["nbval-check-output"]
signs = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)  # all sign patterns
p_signs = (np.abs(signs @ gain_db) >= abs(gain_db.sum()) - 1e-9).mean()
assert (
    p_signs == scipy.stats.permutation_test((gain_db,), np.mean, permutation_type="samples", n_resamples=2**15).pvalue
)
low, high = widgets.bootstrap_interval(gain_db)
print(
    f"paired: gain {gain_db.mean():.3f} dB, 95 % bootstrap interval {low:.3f} to {high:.3f}, sign-flip p = {p_signs:.5f}"
)
print(f"unpaired t-test (wrong here): p = {scipy.stats.ttest_ind(score_a, score_b).pvalue:.2f}")

# %% [markdown]
# Same data, p = 0.0001 or 0.86. Always publish per-image scores, or at least the standard error of the paired difference. And
# the seed is a second source of noise for a generative method: average over seeds *before* comparing over images.
#
# <details><summary><b>Question.</b> Does p = 0.0001 mean that B looks better?</summary>
#
# No. It means that B's PSNR is reliably higher *on photos like these 14*. Whether anyone sees 0.35 dB is a question for section 8.
# (→ Exercise 02.7)
# </details>
#
# ## 12. When each one lies
#
# | score | lies when | seen in |
# |---|---|---|
# | PSNR | detail is plausible but displaced; it prefers blur to a one-pixel shift, by 2.3 dB | 1, 4 |
# | SSIM | same displacement; wrong `data_range` gives 0.9999 for anything | 1, 3 |
# | LPIPS | its network or weights differ; untrained, its verdict on brightness depends on the seed | 5 |
# | LR consistency | the detail is invented in the null space: gravel at 46.7 dB, where bicubic has 35.1 | 7 |
# | sharpness | strong grain counts as edges (1.34 in the frames), or edges are in the wrong place | 6 |
# | sliced Wasserstein | texture is right but elsewhere; a faint cast counts more than you see | 6 |
# | flat noise | the picture is blurred: 0.19 looks "clean" | 6 |
# | colour shift | errors cancel over the picture: 0.0000 for a hopeless blur | 6 |
# | no-reference | texture is invented: gravel petals beat the flower itself | 7 |
# | opinion | few trials, one rater, no original shown | 8 |
# | any average | images vary more than methods | 2, 11 |
#
# > **Common mistakes**
# >
# > - Comparing Y-PSNR with RGB-PSNR (1.3 dB and more), or with full-range luma (exactly 1.32 dB for grey errors).
# > - PSNR of the batch's mean MSE instead of the mean of PSNRs.
# > - SSIM without `data_range`, with a 7×7 box window, or with $\mu$ in the contrast term.
# > - LPIPS on $[0, 1]$ images; AlexNet compared with VGG.
# > - Scoring floats where the table holds 8-bit images; forgetting to clip.
# > - Reading "50 % fooled" as "fails half the time": it is the best there is.
# > - Claiming a better model from two averages.
#
# > **In the papers**
# >
# > - SR3 (arXiv:2104.07636) runs 2AFC tests: 47.4 % fool rate for ×8 faces where GANs reach at most 34 %, and 39.0 % for natural
# >   ×4 images with the input shown. It reports consistency as the MSE of the downsampled answer.
# > - SRDiff (arXiv:2104.14951), as the README of a public re-run gives it (not the paper), ×4 on DIV2K: PSNR 27.16, SSIM 0.786,
# >   LPIPS 0.129, LR-PSNR 53.68 dB. Four numbers, four questions.
# > - ResShift (arXiv:2307.12348), from the unnamed public log of section 2: 24.93 dB on Y, 23.00 dB on RGB; LPIPS 0.237
# >   (AlexNet), 0.343 (VGG) for the same outputs.
# > - The survey (arXiv:2401.00736) names comparability as an open problem: PSNR and SSIM disfavour generative methods,
# >   and perceptual and human judgements do not agree with each other.
#
# > **Going further**
# >
# > - Blau and Michaeli (arXiv:1711.06077): why the frontier exists. Freirich, Michaeli and Meir (arXiv:2107.02555): its exact
# >   shape in $W_2$, and how to walk along it with two estimators. Exercise 02.8 builds the Gaussian case.
# > - FID compares sets of images in a network's features; its formula is `oracles.gaussian_w2`, squared.

# %% [markdown]
# ## Recap
#
# 1. **Compute:** PSNR, SSIM, LPIPS and sliced Wasserstein from their definitions, equal to scikit-image and the package; and the
#    words that must accompany a dB: 8 bit, Y, crop, range, average.
# 2. **Measure:** consistency, sharpness, texture, grain and colour each see what the others miss.
# 3. **Run:** MOS and 2AFC with Wilson and bootstrap intervals; twelve answers decide little, and 47.4 % against 50 % takes thousands.
# 4. **Draw:** the plane. A posterior sample costs exactly twice the MSE of the posterior mean, 3.01 dB; no method
#    gets below the frontier.
# 5. **Test:** paired differences, sign flips, per-image scores.
# 6. **Say:** the table in section 12.
#
# Next: how the methods that these numbers judge are built, starting with what regression can and cannot do.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Wang, Bovik, Sheikh, Simoncelli, *Image quality assessment* (SSIM), 2004, doi:10.1109/TIP.2003.819861.
# - Zhang, Isola, Efros, Shechtman, Wang, *The Unreasonable Effectiveness of Deep Features* (LPIPS), arXiv:1801.03924.
# - Mittal, Soundararajan, Bovik, *NIQE*, 2013, doi:10.1109/LSP.2012.2227726.
# - Saharia et al., *Image Super-Resolution via Iterative Refinement* (SR3), arXiv:2104.07636.
# - Li et al., *SRDiff*, arXiv:2104.14951.
# - Blau, Michaeli, *The Perception-Distortion Tradeoff*, arXiv:1711.06077.
# - Freirich, Michaeli, Meir, *A Theory of the Distortion-Perception Tradeoff in Wasserstein Space*, arXiv:2107.02555.
# - Bonneel et al., *Sliced and Radon Wasserstein Barycenters*, 2015, doi:10.1007/s10851-014-0506-3.
# - Wilson, *Probable inference*, 1927, doi:10.1080/01621459.1927.10502953.
