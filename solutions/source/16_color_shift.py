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
# # Solutions 16: Colour shift
#
# Eight exercises about tints: how to measure one, three ways to take it off a finished image, and two ways not to make it. Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line. They belong to [chapter 16](../notebooks/16_color_shift.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# Images are (B, C, H, W) with values in [0, 1], where `sr` may leave that range. `up` is the LR image enlarged to the size of `sr`. Everything is float64.

# %%
import math

import torch

from tutorial_lib import plots
from tutorial_lib.color import adain_fix, back_projection, low_frequencies, wavelet_fix
from tutorial_lib.data.faces import faces
from tutorial_lib.exercises import check
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import psnr, rgb_to_lab
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic
from tutorial_lib.oracles import EmpiricalData, Gaussian, affine_law, denoiser_for
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import from_betas, vp_cosine, vp_linear, zero_terminal_snr

double = torch.float64
noise = standard_normal(0)
cat = photo("chelsea")[..., 60:188, 130:290].double()  # 128 x 160


def decibels(a, b):
    """PSNR of two images in [0, 1], over all channels."""
    return psnr(a, b, channel="rgb").mean().item()


# %% [markdown]
# ## Exercise 16.1: A colour difference (warm-up)
#
# CIELAB is a colour space whose distances are roughly what an eye sees: L\* is lightness, a\* runs from green to red, b\* from blue to yellow. `rgb_to_lab(images)` converts (B, 3, H, W). Return, for each image, the length of the vector (ΔL\*, Δa\*, Δb\*) between `sr` and `hr`, each averaged over the pixels first: shape (B,).


# %%
def colour_difference(sr, hr):
    """Delta E of the mean colours, (B,)."""
    ### BEGIN SOLUTION
    shift = (rgb_to_lab(sr) - rgb_to_lab(hr)).mean((2, 3))
    return shift.norm(dim=1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.1", colour_difference)

# %% [markdown]
# Add 0.03 (about 8 of 255 levels) to one channel of a uniform grey and plot ΔE against the grey's brightness, for each channel. About 2.3 can just be seen. Which channel may a network get wrong with the least harm, and where?

# %% tags=["solution"]
greys = torch.linspace(0.03, 0.95, 40, dtype=double)
flat = greys.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
seen = {}
for c, name in enumerate(("red", "green", "blue")):
    tinted = flat.clone()
    tinted[:, c] += 0.03
    seen[f"{name} + 0.03"] = colour_difference(tinted, flat)
both = torch.tensor([[1.0, 1, 1], [1, -1, 1]], dtype=double)[:, :, None, None]
for name, sign in zip(("all three up", "green down"), both, strict=True):
    print(
        f"middle grey, {name}: ΔE {colour_difference(0.5 + 0.03 * sign[None], torch.full_like(sign, 0.5)[None]).item():.1f}"
    )
plots.curves(
    greys,
    seen,
    title="The same error of a channel is seen differently",
    alt="Delta E against the brightness of a grey, for 0.03 more red, green or blue. Green is highest everywhere, about 6 in middle greys, blue about 4.4, red about 3. All three are largest in dark greys near 0.1, with 7.4, 5.7 and 4.1, fall slowly towards white and quickly towards black. All stay above the line at 2.3, what can just be seen.",
    xlabel="grey level",
    ylabel="ΔE",
    horizontal={"just visible": 2.3},
)

# %% [markdown] tags=["solution"]
# Green costs most: it carries most of the lightness, and it moves a\* as well. Dark greys show an error more than bright ones. Three channels that are wrong in the same direction make the image brighter; with one of them in the other direction they make a tint, whose ΔE is several times as large. A mean absolute error in RGB cannot tell the two apart.

# %% [markdown]
# ## Exercise 16.2: AdaIN
#
# StableSR ([arXiv 2305.07015](https://arxiv.org/abs/2305.07015)) repairs colours by adaptive instance normalisation. Give every channel of every `sr` the mean and the standard deviation that this channel has in `up`. Both are (B, C, H, W). Use the standard deviation with `correction=0`.


# %%
def adain(sr, up):
    """sr with the statistics of up."""
    ### BEGIN SOLUTION
    mean, target = sr.mean((2, 3), keepdim=True), up.mean((2, 3), keepdim=True)
    gain = up.std((2, 3), correction=0, keepdim=True) / sr.std((2, 3), correction=0, keepdim=True)
    return (sr - mean) * gain + target
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.2", adain)

# %% [markdown]
# Give the cat a gain and an offset per channel and repair it. Then repair six photos that need no repair (LR image at ×4): how much contrast does the fix take?

# %% tags=["solution"]
up = resize(resize(cat, 1 / 4), 4)
per_channel = torch.tensor([[1.1, 0.9, 0.8], [0.05, 0.02, 0.0]], dtype=double).view(2, 1, 3, 1, 1)
tinted = per_channel[0] * cat + per_channel[1]
fixed = adain(tinted, up)
squared = (tinted - tinted.mean((2, 3), keepdim=True)) * (up.var((2, 3)) / tinted.var((2, 3)))[..., None, None]
broken = squared + up.mean((2, 3), keepdim=True)
names = ("chelsea", "coffee", "astronaut", "flower", "china", "grass")
for name in names:
    image = photo(name)[..., :256, :256].double()
    kept = adain(image, resize(resize(image, 1 / 4), 4)).std((2, 3)) / image.std((2, 3))
    print(f"{name:10} keeps {kept.mean():.1%} of its contrast")
plots.image_grid(
    [image.clamp(0, 1) for image in (cat, tinted, fixed, broken)],
    [
        "original",
        *(f"{n}: ΔE {colour_difference(i, cat).item():.1f}" for n, i in (("tinted", tinted), ("AdaIN", fixed))),
        "with variances",
    ],
    title="A gain and an offset per channel are undone",
    alt="The photo of a cat's eye four times. The original; a version with a strong orange tint; the repaired one, which looks like the original; and one repaired with variances for standard deviations: its mean colour is right, but the contrast of red is too low and that of blue too high, so that it looks pale and the eye brownish.",
    zoom=1,
    columns=4,
)

# %% [markdown] tags=["solution"]
# The enlarged LR image has lost its finest details and with them some of its variance, and AdaIN copies that: a few per cent on most photos, a third on the grass, which is nothing but fine texture. Without a disease this cure does harm. A fairer comparison would ask for the statistics that `sr` has after shrinking; asked pixel by pixel, that is back-projection.

# %% [markdown]
# ## Exercise 16.3: Back-projection
#
# `operator` is $A$ with $A\,\text{hr} = \text{lr}$; it has `operator(z)`, `operator.adjoint(x)` and `operator.pinv(x)`. Return the image nearest to `sr` that $A$ maps to `lr`.


# %%
def project(sr, lr, operator):
    """The nearest image to sr that explains lr."""
    ### BEGIN SOLUTION
    return sr + operator.pinv(lr - operator(sr))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.3", project)

# %% [markdown]
# Let $A$ be pooling by 4, `sr` the bicubic enlargement of the pooled cat with 0.04 too much red, and add noise to the LR image that you project on. From which standard deviation on does the projection harm? Predict it from $A(\text{sr} - \text{hr})$ before you plot: for pooling, $\|A^+n\|^2 = 16\,\|n\|^2$, and an HR image has 16 times as many pixels.

# %% tags=["solution"]
pool = AveragePool(4)
answer = resize(pool(cat), 4) + torch.tensor([0.04, 0.0, 0.0], dtype=double).view(1, 3, 1, 1)
grain = noise(pool(cat))
grain = grain / grain.square().mean().sqrt()
levels = torch.linspace(0, 0.05, 26, dtype=double)
even = pool(answer - cat).square().mean().sqrt().item()
print(f"A sees an error of {even:.4f} in sr: that much noise is the break-even point")
plots.curves(
    levels,
    {
        "projected": [decibels(project(answer, pool(cat) + level * grain, pool), cat) for level in levels],
        "left alone": [decibels(answer, cat)] * len(levels),
    },
    title="Back-projection pays while the LR image is cleaner than the answer",
    alt="PSNR against the standard deviation of the LR image's noise. The projected image falls from 27.5 dB without noise to 23.7 at 0.05; the answer left alone stays at 26.2. The two cross at the vertical line, 0.025, the error that A sees in the answer.",
    xlabel="standard deviation of the LR noise",
    ylabel="PSNR, dB",
    vertical={"A's view of the error": even},
)

# %% [markdown] tags=["solution"]
# The projection leaves what $A$ does not see and replaces what it sees: the error there, $\|A^+A(\text{sr} - \text{hr})\|$, by $\|A^+n\|$. For pooling both are 4 times the LR norms, so the break-even point is where the noise equals $A$'s view of the error. Other operators amplify noise more (bicubic, blur: small singular values), so the line comes earlier.

# %% [markdown]
# ## Exercise 16.4: The wavelet fix
#
# Keep the details of `sr` and take the coarse colours from `up`. `low(images)` returns the coarse part of images; it is linear. Do not clip anything.


# %%
def exchange_low(sr, up, low):
    """The high frequencies of sr on the low frequencies of up."""
    ### BEGIN SOLUTION
    return sr - low(sr) + low(up)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.4", exchange_low)

# %% [markdown]
# Tint a perfect answer in four ways: the same everywhere; a gain; from left to right; in blotches of 16 pixels. Which fix takes off what? Compare AdaIN, the wavelet fix (`low_frequencies`, five levels) and back-projection by the PSNR of what they return.

# %% tags=["solution"]
hr = photo("coffee")[..., 60:252, 130:386].double()
lr = resize(hr, 1 / 4)
enlarged = resize(lr, 4)
colour = torch.tensor([0.06, 0.0, -0.06], dtype=double).view(1, 3, 1, 1)
spots = noise(hr[..., ::16, ::16]).repeat_interleave(16, 2).repeat_interleave(16, 3)
tints = {
    "uniform": hr + colour,
    "gain": hr * (1 + 3 * colour),
    "left to right": hr + torch.linspace(0, 2, hr.shape[-1], dtype=double) * colour,
    "blotches": hr + 0.05 * spots,
}
fixes = {
    "no fix": lambda sr: sr,
    "AdaIN": lambda sr: adain(sr, enlarged),
    "wavelet": lambda sr: exchange_low(sr, enlarged, low_frequencies),
    "back-projection": lambda sr: project(sr, lr, Bicubic(4)),
}
scores = {name: [decibels(fix(sr), hr) for sr in tints.values()] for name, fix in fixes.items()}
plots.bars(
    list(tints),
    {name: [min(score, 80) for score in row] for name, row in scores.items()},
    title="Each fix takes off the tints that it was made for",
    alt="PSNR after no fix, AdaIN, the wavelet fix and back-projection, for four tints. Without a fix 21 to 26 dB. Uniform: 45, 74 and more than 80 dB. Gain: 45, 34, 46. Left to right: 31, 62 and more than 80. Blotches: 26, 27 and 38.",
    caption="Bars are cut at 80 dB.",
    ylabel="PSNR, dB",
    width=860,
)

# %% [markdown] tags=["solution"]
# AdaIN has one gain and one offset per channel: it undoes uniform tints and gains as far as its loss of contrast allows (45 dB here) and can do nothing about a tint that varies over the image. The wavelet fix takes off whatever is slower than its filter, which is 31 pixels wide to each side: uniform and slow tints, blotches hardly, and of a gain only the slow part. Back-projection takes off all that the operator can see, and nothing beats it here. But the LR image was perfect; exercise 16.8 changes that.

# %% [markdown]
# ## Exercise 16.5: P2 in three languages
#
# P2 weighting ([arXiv 2204.00227](https://arxiv.org/abs/2204.00227)) multiplies the squared error of $\epsilon$ by $1/(k + \text{SNR})^\gamma$. Say the same loss for networks of another kind: return the factor (N,) on the squared error of `kind`, which is `"eps"`, `"v"` or `"z_0"`. `log_snr` (N,) is $\log(\alpha^2/\sigma^2)$ with $\alpha^2 + \sigma^2 = 1$, and $v = \alpha\epsilon - \sigma z_0$.
# (For one state $z$, how large is an error of $\epsilon$ when $z_0$ is wrong by 1? And when $v$ is?)


# %%
def p2(log_snr, gamma, k, kind):
    """The factor on the squared error of this kind, (N,)."""
    ### BEGIN SOLUTION
    factor = 1 / (k + log_snr.exp()) ** gamma
    if kind == "z_0":
        return factor * log_snr.exp()
    return factor * log_snr.sigmoid() if kind == "v" else factor
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.5", p2)

# %% [markdown]
# Where is the training spent? Draw $t$ evenly on `vp_linear()`, weight with γ = 0 (the plain loss), 0.5 and 1, and plot which share of all weight falls on each noise level. How much falls on states whose log SNR is below −2, where the coarse colours are decided?

# %% tags=["solution"]
t = torch.linspace(0.001, 1, 20_000, dtype=double)
level = vp_linear().log_snr(t)
edges = torch.linspace(-10, 8, 37, dtype=double)
shares = {}
for gamma in (0.0, 0.5, 1.0):
    weight = p2(level, gamma, 1.0, "eps")
    part = torch.stack([weight[(level > a) & (level <= b)].sum() for a, b in zip(edges[:-1], edges[1:], strict=True)])
    shares[f"γ = {gamma}"] = 100 * part / weight.sum()
    print(f"gamma {gamma}: {weight[level < -2].sum() / weight.sum():.0%} of the weight below log SNR -2")
plots.curves(
    (edges[:-1] + edges[1:]) / 2,
    shares,
    title="P2 takes weight from the last details",
    alt="Share of the loss weight against log SNR for gamma 0, 0.5 and 1. The plain loss peaks near -1 with 5 per cent per half unit, and 1 per cent still falls on log SNR 4. With gamma 0.5 and 1 the peak moves to about -2, the right side falls below half a per cent from 3 on, and the left side rises by more than a quarter.",
    xlabel="log SNR (noisy on the left)",
    ylabel="% of the weight per half unit",
)

# %% [markdown] tags=["solution"]
# At a given state an error of $z_0$ by 1 is one of $\epsilon$ by $\alpha/\sigma$, and one of $v$ by $1$ is one of $\epsilon$ by $\alpha$; the factors are the squares, SNR and $\alpha^2 = \text{SNR}/(1 + \text{SNR})$. Without the conversion, a network that predicts $z_0$ is trained with another loss, off by the factor SNR, which ranges over many powers of ten. P2 is a matter of degree: three quarters of the weight instead of half on the noisy side, and hardly any on the last details.

# %% [markdown]
# ## Exercise 16.6: Ending in pure noise
#
# `alpha_bar` (N,) falls from nearly 1 to a last value that is not 0. Lin et al. ([arXiv 2305.08891](https://arxiv.org/abs/2305.08891)) shift and stretch the *amplitude* $\sqrt{\bar\alpha}$ so that the last one is 0 and the first stays what it was. Return the new $\bar\alpha$ (N,).


# %%
def zero_terminal(alpha_bar):
    """alpha_bar (N,) with the same first value and a last value of 0."""
    ### BEGIN SOLUTION
    root = alpha_bar.sqrt()
    shifted = root - root[-1]
    return (shifted * root[0] / shifted[0]) ** 2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.6", zero_terminal)

# %% [markdown]
# DDPM's betas from 0.0001 to 0.02 were made for 1,000 steps. Take 100 steps with the same betas: what is left at the end? Rescale, and compare with shifting and stretching $\bar\alpha$ itself, and with `zero_terminal_snr`.

# %% tags=["solution"]
betas = torch.linspace(1e-4, 0.02, 100, dtype=double)
before = torch.cumprod(1 - betas, 0)
after = zero_terminal(before)
direct = (before - before[-1]) * before[0] / (before[0] - before[-1])
theirs = zero_terminal_snr(from_betas(betas)).alpha(torch.arange(1, 101, dtype=double) / 100) ** 2
print(f"alpha-bar at the end: {before[-1]:.3f}, rescaled {after[-1]:.3f}")
print(f"the library's schedule differs by at most {(theirs - after).abs().max():.0e}")
plots.curves(
    torch.arange(1, 101),
    {"100 steps": before.sqrt(), "rescaled": after.sqrt(), "alpha-bar rescaled": direct.sqrt()},
    title="Too few steps of DDPM's betas end with 60 % of the signal",
    alt="Amplitude of the signal against the step. 100 steps of DDPM's betas fall from 1 to 0.6. Rescaled, the amplitude falls from 1 to 0 almost evenly over the last 60 steps. With alpha-bar itself rescaled it lies above that, is still 0.37 ten steps before the end, and falls to 0 as if over a cliff.",
    xlabel="step",
    ylabel="amplitude of the signal",
)

# %% [markdown] tags=["solution"]
# Both curves end at 0, but the one that rescales $\bar\alpha$ keeps a third of the signal until shortly before the end and drops it in the last steps, which are too large for a sampler. At the new last step $\epsilon$-prediction is useless (the state *is* $\epsilon$), so networks must predict $v$ or $z_0$ there. The library keeps $\alpha(0) = 1$ where the paper keeps the first of N steps; that is the small difference.

# %% [markdown]
# ## Exercise 16.7: Forgotten brightness (research-like)
#
# Images have P = `pixels` pixels (one channel), and the brightness of an image, the mean of its pixels, is distributed as $N(m, s^2)$ in state units (0 is medium grey). The schedule ends at $\bar\alpha_T$ = `alpha_bar`. The sampler starts from $N(0, I)$ nevertheless and then makes no mistake: it follows the probability flow exactly, with infinitely many steps. Return the mean and the standard deviation of the brightness of what it makes.
#
# Hint: look at the one coordinate $c = \sqrt{P}\cdot$ brightness, in which white noise has variance 1. In it, what law does training end with, what law does the sampler start from, and which affine map is the flow from the first to the law of the data?


# %%
def sampled_brightness(mean, std, pixels, alpha_bar):
    """(mean, standard deviation) of the brightness of the samples."""
    ### BEGIN SOLUTION
    alpha, own = math.sqrt(alpha_bar), math.sqrt(pixels) * std
    gain = own / math.sqrt(alpha**2 * own**2 + 1 - alpha**2)  # the flow carries std to std
    return mean - gain * alpha * mean, gain / math.sqrt(pixels)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.7", sampled_brightness)

# %% [markdown]
# Check it with DDIM and an exact denoiser on that one coordinate. Then plot the share of a bright set's brightness that survives against $\bar\alpha_T$, for 8², 32² and 256² pixels. Where do the tables of DDPM and of Stable Diffusion (its betas run evenly in their root from 0.00085 to 0.012; its states are latents of 64 × 64) end?

# %% tags=["solution", "nbval-check-output"]
schedule = vp_cosine()
mean, std, pixels, alpha_bar = 0.3, 0.1, 32**2, 0.36
start_time = float(schedule.time_at(torch.tensor(math.log(alpha_bar / (1 - alpha_bar)), dtype=double)))
coordinate = Gaussian(torch.tensor([32 * mean], dtype=double), torch.tensor([[pixels * std**2]], dtype=double))
times = torch.linspace(start_time, 0, 1001, dtype=double)
state = torch.zeros(1, 1, dtype=double)
centre, spread = affine_law(
    lambda draw: last(ddim(denoiser_for(coordinate, schedule), schedule, draw(state), times)), 1
)
formula = sampled_brightness(mean, std, pixels, alpha_bar)
print(f"formula: brightness {formula[0]:.4f} +- {formula[1]:.4f}")
print(f"DDIM:    brightness {centre.item() / 32:.4f} +- {spread.sqrt().item() / 32:.4f}   (data: {mean} +- {std})")
tables = {
    "DDPM, 1,000 steps": torch.linspace(1e-4, 0.02, 1000, dtype=double),
    "Stable Diffusion": torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=double) ** 2,
}
for name, betas in tables.items():
    end = (1 - betas).prod().item()
    kept = [sampled_brightness(0.3, 0.1, n**2, end)[0] / 0.3 for n in (64, 256)]
    print(f"{name:17}: alpha-bar {end:.1e} at the end, keeps {kept[0]:.0%} at 64 x 64 and {kept[1]:.0%} at 256 x 256")

# %% tags=["solution"]
ends = torch.logspace(-6, -0.2, 60, dtype=double)
plots.curves(
    ends,
    {f"{n} × {n} pixels": [sampled_brightness(0.3, 0.1, n**2, a.item())[0] / 0.3 for a in ends] for n in (8, 32, 256)},
    title="The larger the image, the more of its brightness is forgotten",
    alt="Share of the mean brightness that survives against alpha-bar at the end, on a logarithmic axis from 1e-6 to 0.6, for three sizes. 8 by 8 pixels keep nearly all until 0.01 and 58 per cent at 0.26. 32 by 32 keep 95 per cent at 3e-4 and 12 at 0.26. 256 by 256 keep 76 per cent at 1e-4, 20 at 3e-3 and nothing beyond 0.1.",
    xlabel="what the schedule leaves of the signal's power, $\\barα_T$",
    ylabel="share of the mean brightness that survives",
    logx=True,
)

# %% [markdown]
# See it: `EmpiricalData(images)` is an exact prior that holds the given images and nothing else. Let 400 faces be the data, and start DDIM at $\bar\alpha = 0.36$ from pure noise, and from where training ended.

# %% tags=["solution"]
people = 2 * faces(400, seed=3).images.double() - 1
denoiser = denoiser_for(EmpiricalData(people), schedule)
times = torch.linspace(start_time, 0, 21, dtype=double)
drawn = noise(people[:40])
wrong = last(ddim(denoiser, schedule, drawn, times))
right = last(ddim(denoiser, schedule, 0.6 * people[:40] + 0.8 * drawn, times))
for name, z in (("40 faces", people[:40]), ("right start", right), ("pure noise", wrong)):
    print(
        f"{name:12} brightness {z.mean((1, 2, 3)).mean():+.2f} +- {z.mean((1, 2, 3)).std():.2f}, mean square {z.square().mean():.2f}"
    )
plots.image_grid(
    [torch.cat(list((z[:9].clamp(-1, 1) + 1) / 2), 2) for z in (right, wrong)],
    ["started where training ended", "started from pure noise"],
    title="An exact denoiser, a wrong start, and no light or dark faces",
    alt="Two rows of nine faces. Above, started where training ended: backgrounds in grey, yellow, blue, orange and green, dark and light hair. Below, started from pure noise: only dull green, violet and one blue background, medium skin, and hardly any black or bright hair.",
    zoom=3,
    columns=1,
)

# %% [markdown] tags=["solution"]
# Nothing here was trained, and every sample is a face of the data: the start alone has chosen them. Pure noise has no brightness and no colour of its own, to within $1/\sqrt{P}$; the denoiser was told that the image is in there at 60 % of its size, so it concludes that the image is neither light nor dark, red nor blue. What is medium in every channel survives: mud green and violet. An SR network that is told the LR image knows better, as far as it believes the LR image; the less surely it was trained, the wider its $s$, and the more of this failure comes through. The cures: a schedule that ends in noise (exercise 16.6), or starting from $\sqrt{\bar\alpha_T}$ times the enlarged LR image plus noise.

# %% [markdown]
# ## Exercise 16.8: Which fix would you ship? (a measured answer)
#
# Below are three photos whose super-resolved versions are perfect but for a tint that grows from left to right, and their LR images with camera noise. Try no fix, `adain_fix`, `wavelet_fix` and `back_projection` with `Bicubic(4)`. Return the best one's name (`"none"`, `"adain"`, `"wavelet"` or `"back-projection"`) and its PSNR in dB, over all three channels, averaged over the photos: `decibels(fixed, hr)` without clipping.

# %%
hr = torch.cat([photo(p)[..., 60:188, 130:290].double() for p in ("chelsea", "coffee", "astronaut")])
noisy = resize(hr, 1 / 4)
noisy = noisy + 0.05 * standard_normal(0)(noisy)
ramp = torch.linspace(0, 1, hr.shape[-1], dtype=double)
sr = hr + ramp * torch.tensor([0.12, 0.0, -0.12], dtype=double).view(1, 3, 1, 1)


# %%
def best_fix():
    """(name, PSNR in dB)."""
    ### BEGIN SOLUTION
    found = {
        "none": sr,
        "adain": adain_fix(sr, noisy),
        "wavelet": wavelet_fix(sr, noisy),
        "back-projection": back_projection(sr, noisy, Bicubic(4)),
    }
    scores = {name: decibels(image, hr) for name, image in found.items()}
    return max(scores.items(), key=lambda item: item[1])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("16.8", best_fix)

# %% [markdown]
# Would you decide the same without noise, and when the LR image itself has a tint (a sensor with a wrong white balance: `noisy + 0.05` in red)? Which of the three situations can you recognise when there is no original?

# %% tags=["solution"]
clean = resize(hr, 1 / 4)
red = torch.tensor([0.05, 0.0, 0.0], dtype=double).view(1, 3, 1, 1)
given = {"clean LR": clean, "noisy LR": noisy, "noisy LR with a red cast": noisy + red}
scores = {"none": [decibels(sr, hr)] * 3}
scores["AdaIN"] = [decibels(adain_fix(sr, lr), hr) for lr in given.values()]
scores["wavelet"] = [decibels(wavelet_fix(sr, lr), hr) for lr in given.values()]
scores["back-projection"] = [decibels(back_projection(sr, lr, Bicubic(4)), hr) for lr in given.values()]
plots.bars(
    list(given),
    scores,
    title="A fix is as good as the LR image that it believes",
    alt="PSNR of no fix, AdaIN, the wavelet fix and back-projection in three situations. Clean LR: 25, 31, 55 and 84 dB. Noisy LR: 25, 31, 46 and 24. Noisy LR with a red cast: 25, 28, 31 and 23.",
    ylabel="PSNR, dB",
    width=820,
)

# %% [markdown] tags=["solution"]
# With a clean LR image back-projection is exact; with noise it is worse than no fix, and the wavelet fix wins, because its filter averages the noise away. A cast of the LR image goes straight into every fixed image: all that they know about colour is the LR image. The first two situations you can tell apart by the noise in flat parts of the LR image. The third you cannot recognise without knowing the camera. Real answers are not perfect either: their details are uncertain, and then the fix that changes least of them, the wavelet fix on images that are large enough, is the careful choice.
