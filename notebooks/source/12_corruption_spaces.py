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
# # 12 Corruption spaces: what else can be undone?
#
# Until now every chain ended in Gaussian noise. Why noise? A photo can also be blurred, pooled, greyed or faded away step by step, and the LR image, which is a spoilt photo already, lies at the end of such a road. Cold diffusion walks these roads without any noise, soft diffusion with blur and noise, InDI, I2SB, ResShift and
# IR-SDE from the LR image to the HR image. In this chapter you walk them where everything is known exactly, find that three of the last four take one and the same step, on roads that differ in their noise, while the fourth (IR-SDE) is diffusion that you know, and measure what each really buys.
#
# ## What you will be able to do
#
# 1. **Undo** a corruption with cold diffusion's two algorithms, and say why the second forgives errors.
# 2. **Predict** where a walk without noise loses its diversity.
# 3. **Train** inside a corruption, and say what a loss outside it costs.
# 4. **Walk** the perception–distortion plane by the number of steps.
# 5. **Place** InDI, I2SB, OT-ODE, ResShift and IR-SDE in one family, by their roads and clocks.
# 6. **Tell** a bridge its LR image or not, and say what changes.
# 7. **Decide** when a corruption other than noise pays.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) and [chapter 07](07_efficient_sampling.ipynb) (DDPM and DDIM steps), [chapter 11](11_state_domains.ipynb) (residuals, Haar bands). Brownian bridges are explained here.
#
# **Reading time**: 75 minutes. Running time: about 25 s on two cores.
# **Survey section**: corruption space (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/12_corruption_spaces.ipynb), worked in [solutions](../solutions/12_corruption_spaces.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $z_0$, $z_1$ | `z_0`, `z_1` | the HR image; the other end of the road, often the enlarged LR image. Both in state units |
# > | $z_t = C(z_0, t)$, or $C_t z_0$ | `corruption(z_0, t)` | the image on its way; $C(z_0, 0) = z_0$; $C_t$ when $C$ is linear in $z_0$ |
# > | $R(z_t, t)$ | `denoiser(z, t)` | the restorer: an estimate $\hat z_0$ of $z_0$; the best one under squared error is $\mathbb E[z_0 \mid z_t]$ |
# > | $z_t = \alpha_t z_0 + (1-\alpha_t) z_1 + \sigma_t\epsilon$ | `path.alpha`, `path.sigma` | the law of a bridge |
# > | $c(t)$ | `clock(t)` | the clock of a bridge; ResShift calls it $\eta_t$, here also the share $1-\alpha_t$ |
# > | $\kappa$, $\epsilon_0$, $\lambda$ | `kappa`, `epsilon`, `spread` | how much noise ResShift, InDI, IR-SDE bring in |
# >
# > Time runs from $t = 0$ (the photo) to $t = 1$; a step goes from $t$ to $s < t$. Cold diffusion's paper writes $D(x, t)$ for our $C$; InDI's paper writes $x$ for the clean image and $y$ for the spoilt one, the reverse of the survey. ResShift's $\eta_t$ has nothing to do with DDIM's $\eta$. A subscript is a time and never a channel.

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.color import back_projection
from tutorial_lib.corruption import (
    blur_corruption,
    cold_diffusion,
    draw_state,
    fade_corruption,
    i2sb,
    i2sb_path,
    indi,
    indi_path,
    ir_sde,
    ir_sde_path,
    operator_corruption,
    resshift,
    resshift_clock,
    resshift_path,
    soft_score,
    soft_score_loss,
    staged_corruption,
    symmetric_clock,
)
from tutorial_lib.domains import Wavelet
from tutorial_lib.images import crop_to_multiple, photo, resize, to_uint8
from tutorial_lib.metrics import psnr, sharpness, sliced_wasserstein
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Grayscale, Mask
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for, gaussian_w2, pair_denoiser
from tutorial_lib.samplers import ddim, ddpm, last, trajectory
from tutorial_lib.schedules import Schedule, edm, log_snr_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import bridge_step, ddim_step, forward_step
from tutorial_lib.super_resolution import STEPS, super_resolve

double = torch.float64


# %%
def even(n):
    """n steps of equal length from t = 1 to 0."""
    return torch.linspace(1, 0, n + 1, dtype=double)


def same(a, b):
    """Check that two tensors agree up to rounding, and say so."""
    assert_close(a, b, rtol=0, atol=1e-12 * b.abs().max().item())
    return "agrees to 12 digits with"


def draw(*shape, seed=0):
    """Standard normal numbers, float64."""
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


# %% [markdown]
# ## 1. Seven ways to spoil a photo
#
# Here is one photo under seven corruptions. Move $t$ from 0, where all seven show the photo, to 1.


# %%
def cut(name, top, left, size=112):
    """A square piece of a built-in photo and its LR version, rounded to 8 bits: (1, 3, size, size), (1, 3, size/4, size/4)."""
    hr = photo(name)[..., top : top + size, left : left + size]
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


places = {"cat": ("chelsea", 100, 140), "temple": ("china", 40, 190), "cup": ("coffee", 100, 240)}
haar, stages = Wavelet(2), staged_corruption([3, 9, 36])  # colour of 4x4 blocks, coarse details, fine details
hole = torch.ones(96, 96)
hole[30:80, 30:70] = 0


def bands(z_0, t):
    """Haar bands fade, the fine ones first."""
    return 2 * haar.decode(stages(haar.encode((z_0 + 1) / 2), t)) - 1


corruptions = {
    "blur": blur_corruption(6.0),
    "pool": operator_corruption(AveragePool(8)),
    "fade": fade_corruption(2 * photo("flower")[..., 128:224, 248:344] - 1),
    "mask": operator_corruption(Mask(hole)),
    "grey": operator_corruption(Grayscale()),
    "bands": bands,
    "noise": lambda z_0, t: forward_step(z_0, vp_cosine(), 0.0, t, standard_normal(0)),
}


def draw_corruptions(t=0.5, of="cat"):
    """One photo under all seven corruptions at time t."""
    z_0 = 2 * cut(*places[of], size=96)[0] - 1
    return plots.image_grid(
        torch.cat([(corruption(z_0, t) + 1) / 2 for corruption in corruptions.values()]).clamp(0, 1),
        list(corruptions),
        title=f"t = {t:.2f}",
        alt=f"A piece of the photo {of} at t = {t:.2f} under seven corruptions: {', '.join(corruptions)}.",
        columns=7,
    )


widgets.explorer(draw_corruptions, t=(0.0, 1.0, 0.05, 0.5), of=list(places))

# %%
widgets.frames(
    draw_corruptions,
    [{"t": t} for t in (0.4, 1.0)],
    title="One photo on seven roads: at t = 1 some ends still know the photo, others do not",
    alt="Two rows of seven pictures of a cat's eye. At t = 0.4: blurred; squares shimmering through; a flower shimmering through; a paler rectangle; paler colours; small squares, fine fur gone; strong grain under which the eye can still be seen. At t = 1: a strong blur; squares of 8 by 8 pixels; a flower; a grey rectangle; a grey photo; a plain grey area; pure noise.",
    columns=1,
)

# %% [markdown]
# Look at the last row. Blur, pool, mask and grey keep a part of *this* photo; fade, bands and noise keep nothing. And only noise ends in something random. Both facts will decide what a walk back can do (→ Exercise 12.1).
#
# <details><summary><b>Question.</b> A generator has to start without any photo. From which of the seven ends at t = 1 could you start, and from which could you get more than one image?</summary>
#
# Those that know nothing of the photo: the flower, the plain grey, the noise. (For the others you would have to draw the end first: blurred photos, grey photos.) But flower and grey are always the same. A walk that draws nothing on its way can make one image from each of them, and from noise as many as you like.
# </details>
#
# Now a crude restoration. Take the blur (2.5 pixels, stored with 8 bits) and the simplest restorer that anyone can write: add three times what a slight blur would remove. Then there is cold diffusion, which walks back in small steps, and comes in two versions. Both ask the same crude restorer at each step. Since 20 doses are more than one, the table also holds a single dose of ten.

# %% tags=["nbval-check-output"]
hr, lr = cut("chelsea", 100, 140)
z_0 = 2 * hr.double() - 1
blur, slight = blur_corruption(2.5), blur_corruption(1.0)
blurred = to_uint8((blur(z_0, 1.0) + 1) / 2).double() / 255 * 2 - 1


def sharpen(z, t, amount=3):
    """A restorer in one line: unsharp masking."""
    return z + amount * (z - slight(z, 1.0))


def decibels(z):
    """PSNR of a state as an image."""
    return psnr(((z + 1) / 2).clamp(0, 1).float(), hr, crop=8).item()


restored = {"blurred": blurred, "once, 3": sharpen(blurred, 1.0), "once, 10": sharpen(blurred, 1.0, 10)}
for name, z in restored.items():
    print(f"{name:8} {decibels(z):.2f} dB")
for algorithm in (1, 2):
    ends = {n: last(cold_diffusion(sharpen, blur, blurred, even(n), algorithm)) for n in (1, 5, 20, 40)}
    restored[f"{algorithm}: 20 steps"] = ends[20]
    print(f"algorithm {algorithm}:", ", ".join(f"{n} steps {decibels(z):.2f} dB" for n, z in ends.items()))

# %%
plots.image_grid(
    [*[((z + 1) / 2).clamp(0, 1).float() for z in restored.values()], hr],
    [*restored, "original"],
    title="Algorithm 1 falls apart as the steps grow, algorithm 2 hardly cares",
    alt="Six pictures of a cat's eye: blurred; a little sharper after one sharpening; clearly sharper after one of amount 10; by algorithm 1 in 20 steps soft, with exaggerated outlines; by algorithm 2 in 20 steps clearly sharper, with single strokes of fur; and the original, sharper still.",
    caption="Once by an amount of 3 and of 10; algorithms 1 and 2 with an amount of 3 in 20 steps.",
    columns=6,
)

# %% [markdown]
# Five steps of algorithm 1 help, forty ruin the photo. Algorithm 2 has most of its gain in a single step and hardly moves after that. One strong sharpening does as well, so algorithm 2 is no better restorer: what it buys is that errors do not pile up with the steps.
#
# ## 2. Two algorithms, one difference
#
# A restorer $R$ estimates the whole of $z_0$ at once, and is wrong. So trust it for a small step only. **Algorithm 1** spoils the estimate again, a little less; **algorithm 2** takes the state and changes it by as much as the estimate would change:
#
# $$\text{(1)}\quad z_s = C(\hat z_0, s) \qquad\qquad \text{(2)}\quad z_s = z_t - C(\hat z_0, t) + C(\hat z_0, s), \qquad \hat z_0 = R(z_t, t).$$
#
# Follow the error. Let $e = \hat z_0 - z_0$, and let $C_t$ be linear. The state's own error $z_t - C_t z_0$ becomes
#
# $$\text{(1)}\quad z_s - C_s z_0 = C_s\, e \qquad\qquad \text{(2)}\quad z_s - C_s z_0 = (z_t - C_t z_0) + (C_s - C_t)\, e .$$
#
# In (1) the restorer's whole error comes in and is then fed to the restorer again: what it does wrong, it does in every step. In (2) only the *change* of $C$ lets it in, and that is small when the step is.
#
# There is a case where nothing comes in. If the corruption adds a fixed thing, $C(z_0, t) = z_0 + t\,d$, then $C(\hat z_0, t) - C(\hat z_0, s) = (t - s)\,d$ does not depend on $\hat z_0$ at all, and (2) ends at the true $z_0$ *whatever the restorer says*. Write both and try (→ Exercise 12.2):

# %% tags=["nbval-check-output"]


def my_cold(restore, corruption, z, times, algorithm):
    for t, s in zip(times[:-1], times[1:], strict=True):
        guess = restore(z, t)
        z = corruption(guess, s) if algorithm == 1 else z - corruption(guess, t) + corruption(guess, s)
    return z


for algorithm in (1, 2):
    library = last(cold_diffusion(sharpen, blur, blurred, even(20), algorithm))
    assert_close(my_cold(sharpen, blur, blurred, even(20), algorithm), library)

added = draw(*z_0.shape)
haze = lambda z, t: z + t * added  # noqa: E731
nonsense = lambda z, t: torch.sin(5 * z)  # noqa: E731
for algorithm in (1, 2):
    found = my_cold(nonsense, haze, haze(z_0, 1.0), even(10), algorithm)
    print(f"algorithm {algorithm}, a restorer that talks nonsense: largest error {(found - z_0).abs().max():.6f}")

# %% [markdown]
# Why then train a restorer at all? Because nobody hands us the $d$. As soon as it must be estimated, the restorer matters again. In a **fade**, $C(z_0, t) = (1-t)\,z_0 + t\,z_1$, the known end $z_1$ drops out in the same way, and adding up all the steps leaves
#
# $$z_{\text{end}} = \sum_{\text{steps}} (t - s)\, R(z_t, t) :$$
#
# algorithm 2 returns the **mean of all answers** along the walk, algorithm 1 the last one. An average of 20 answers has smaller errors than one of them, if the errors differ. For a fade, that is all its forgiveness is. And if $C$ is noise, with $\epsilon$ estimated from the state as $(z_t - \alpha_t\hat z_0)/\sigma_t$, both algorithms turn into a step that you know:

# %% tags=["nbval-check-output"]
z_1 = 2 * resize(lr, 4).double() - 1
fade = fade_corruption(z_1)
states = trajectory(cold_diffusion(sharpen, fade, z_1, even(8)))
answers = torch.stack([state.z_0 for state in states[:-1]])
assert_close(states[-1].z, answers.mean(0))

noisy, grid = draw(*z_0.shape, seed=1), uniform_times(10)
for algorithm in (1, 2):
    cold = last(cold_diffusion(sharpen, vp_linear(), noisy, grid, algorithm))
    hot = last(ddim(sharpen, vp_linear(), noisy, grid))
    print(f"algorithm {algorithm} with estimated noise {same(cold, hot)} DDIM")

# %% [markdown]
# <details><summary><b>Question.</b> In section 1 the restorer was unsharp masking. What would happen if you replaced it by one that does nothing, R(z, t) = z?</summary>
#
# Algorithm 1 blurs the photo 19 more times. Algorithm 2 multiplies each frequency by $1 + c_s - c_t$ in every step, where $c_t$ is what the blur leaves of it; all together about $e^{1 - c_1}$. What the blur has weakened comes out stronger: it still sharpens. Replace `sharpen` in section 1 and look.
# </details>
#
# ## 3. Where cold samples lose their diversity
#
# Many HR images fit one LR image. A walk without noise has one answer for each start, so variety has to come with the start. Cold diffusion therefore adds *a little* noise there. How little is enough?
#
# Take one number with variance 1, unknown given the LR image, that fades to $\delta\,\epsilon$: $z_t = (1-t) z_0 + t\,\delta\,\epsilon$. This is a schedule ($\alpha = 1 - t$, $\sigma = \delta t$), the exact restorer is a multiplication, and so is the whole walk: put in one standard deviation of the start, and one standard deviation of the samples comes out. The truth is 1.


# %%
def fading(delta):
    """z_t = (1 - t) z_0 + t delta eps."""
    return Schedule(lambda t: 1 - t, lambda t: delta * t)


def spread_of(delta, times, keep_start=False):
    """Standard deviation of what algorithm 2 makes of the start delta eps; keep_start fades to the drawn start itself."""

    def restore(z, t):  # E[z_0 | z_t]
        return (1 - t) / ((1 - t) ** 2 + (delta * t) ** 2) * z

    start = torch.full((1, 1), delta, dtype=double)  # everything is linear: one standard deviation in, one out
    return last(cold_diffusion(restore, fade_corruption(start) if keep_start else fading(delta), start, times)).item()


deltas = torch.logspace(-3, 0, 10, dtype=double).tolist()
lost = {f"{n} even steps": [spread_of(d, even(n)) for d in deltas] for n in (4, 16, 64, 256)}
lost["16 steps, even in log-SNR"] = [spread_of(d, log_snr_times(fading(d), 16, t_max=1 - d / 50)) for d in deltas]
plots.curves(
    deltas,
    lost,
    title="Too little noise at the start and all samples are alike; more steps cure it slowly, well placed steps hardly mind",
    alt="Standard deviation of the samples, true value 1, against the noise at the start from 0.001 to 1, logarithmic. "
    + " ".join(
        f"{name}: {row[0]:.2f} at 0.001, {row[3]:.2f} at 0.01, {row[6]:.2f} at 0.1, {row[-1]:.2f} at 1."
        for name, row in lost.items()
    ),
    xlabel="noise at the start $\\delta$",
    ylabel="standard deviation of samples",
    horizontal={"truth": 1.0},
    logx=True,
    height=360,
)

# %% [markdown]
# With even steps the variety dies long before the noise does. Why? Signal and noise are of equal size where $1 - t \approx \delta$: *there* it is decided which image it will be. An even grid jumps over that place in its first step and lands where the answer is already settled, on the mean. In the last curve the same 16 steps are
# even in log-SNR, most of them close to $t = 1$, and between a seventh and a quarter of the spread is lost, which is what 16 such steps cost here, little more for a small $\delta$ than for a large one. (With much noise even steps are the better ones.) So the little noise is enough *in principle*: the scale $\delta$ is only a clock. In practice the network has to see differences of size $\delta$, and the grid has to know where they are.
#
# For a mixture the loss is uglier, because the mean of all images is not an image:

# %%
mixture = GaussianMixture(
    torch.tensor([0.5, 0.2, 0.3]),
    torch.tensor([[-1.1], [0.4], [1.2]], dtype=double),
    0.12**2 * torch.ones(3, 1, 1, dtype=double),
)
clock_times, heights = torch.linspace(0, 1, 81, dtype=double), torch.linspace(-1.8, 1.8, 121, dtype=double)
settings = {"$\\delta = 1$": 1.0, "$\\delta = 0.03$": 0.03, "$\\delta = 0.003$": 0.003}
panels, paths, spreads = {}, {}, {}
for name, delta in settings.items():
    law, denoiser = fading(delta), denoiser_for(mixture, fading(delta))
    walk = trajectory(cold_diffusion(denoiser, law, delta * draw(2000, 1), even(20)))
    spreads[name] = walk[-1].z.std().item()
    paths[name] = (even(20), torch.stack([state.z[:24, 0] for state in walk], 1))
    at = clock_times.clamp(min=0.01, max=0.985)
    panels[name] = torch.stack(
        [mixture.log_prob(heights[:, None], law.alpha(t), max(law.sigma(t).item(), 0.02)).exp() for t in at], 1
    )
    panels[name] = panels[name] / panels[name].amax(0)  # each moment with its own scale
plots.evolution(
    clock_times,
    heights,
    panels,
    paths=paths,
    title="24 walks of 20 even steps to a world of three kinds of images: with little noise they fall short of them, with less all end between",
    alt="Three panels, time from 0 to 1 against the state. Dark bands mark the law of the state, three bands at t = 0 that meet at t = 1. "
    + " ".join(
        f"{name.replace('$', '').replace(chr(92), '')}: the samples have a standard deviation of {s:.2f}."
        for name, s in spreads.items()
    )
    + " With delta 1 the walks end in the three bands; with 0.03 they lean towards the bands and most fall short of them; with 0.003 all end in one narrow bundle near zero, where no band is.",
)

# %% tags=["nbval-check-output"]
truth = mixture.covariance.sqrt().item()
print(
    f"standard deviation: truth {truth:.2f};", "; ".join(f"delta = {settings[k]}: {v:.2f}" for k, v in spreads.items())
)
for delta, n in ((1.0, 16), (1.0, 1024), (0.1, 1024)):
    print(
        f"{n} steps, delta = {delta}: eps estimated {spread_of(delta, even(n)):.2f}, faded to the start itself {spread_of(delta, even(n), True):.2f}"
    )

# %% [markdown]
# At $\delta = 0.03$ the walks still lean towards the kinds, but most stop short; at 0.003 nothing is ever decided.
#
# The last lines hold a second trap. Algorithm 2 taken literally fades to the $z_1$ it *started* from: it uses the drawn start in place of $\mathbb E[z_1 \mid z_t]$. But in mid-walk the state has forgotten part of its start, and by using the start again the walk is pulled back. At $\delta = 1$ it settles at half the spread, with any number of steps; at $\delta = 0.1$ at about 0.8. DDIM's estimate of the noise, taken anew from each state, is the right one.
#
# ## 4. Soft diffusion: inside the corruption
#
# **Soft diffusion** takes both: a linear corruption and noise, $z_t = C_t z_0 + \sigma_t\epsilon$. The score of this law follows from the best restorer exactly as in chapter 05 (Tweedie), with $C_t z_0$ in place of the signal:
#
# $$\nabla \log p_t(z) = \frac{C_t\,\mathbb E[z_0\mid z_t = z] - z}{\sigma_t^2}, \qquad L_{\text{soft}} = \mathbb E\,\big\|C_t\,(\hat z_0 - z_0)\big\|^2 .$$
#
# Only $C_t\hat z_0$ enters the score, so **soft score matching** measures the loss *inside* $C_t$. A loss outside, $\mathbb E\|\hat z_0 - z_0\|^2$, has the same minimum if the network can be perfect. It cannot. Then the loss outside spends its effort on details that the blur has destroyed anyway (→ Exercise 12.3).
#
# To see it, take rows of 16 pixels with a photo-like spectrum, and a restorer that can do little: a symmetric filter of 5 taps (3 numbers). Its best numbers under either loss solve a small linear system.

# %%
N, std, noise_max = 16, 4.0, 0.5
f = torch.fft.fftfreq(N, dtype=double).abs()
power = 1 / (f + 1 / N) ** 2
power = power / power.mean()  # variance of each frequency; a pixel has variance 1
taps = torch.stack([torch.cos(2 * math.pi * f * k) for k in range(3)], 1)
soft_noise, row_blur = (
    edm(noise_max),
    lambda t: torch.exp(-2 * (math.pi * f * std * torch.as_tensor(t, dtype=double)) ** 2),
)


def filtered(z, gains):
    return torch.fft.ifft(torch.fft.fft(z) * gains).real


def blur_rows(z_0, t):
    """C_t of a row of 16 pixels."""
    return filtered(z_0, row_blur(t))


def best_filter(t, inside, count=3):
    """The gains (16,) of the best restorer at time t: of all (None), or of filters of `count` numbers under either loss."""
    c, sigma = row_blur(t), soft_noise.sigma(t)
    seen = power * c**2 + sigma**2
    if inside is None:
        return power * c / seen
    weight, some = c**2 if inside else torch.ones(N, dtype=double), taps[:, :count]
    return some @ torch.linalg.solve(some.T @ ((weight * seen)[:, None] * some), some.T @ (weight * c * power))


moments = torch.linspace(0.05, 1, 20, dtype=double)
missed = {}
for name, inside in (("loss inside $C_t$", True), ("loss outside", False)):
    off = [(row_blur(t) * (best_filter(t, inside) - best_filter(t, None))) ** 2 for t in moments]
    seen = [power * row_blur(t) ** 2 + soft_noise.sigma(t) ** 2 for t in moments]
    missed[name] = [
        ((a * b).mean().sqrt() / soft_noise.sigma(t)).item() for a, b, t in zip(off, seen, moments, strict=True)
    ]

# %%
plots.curves(
    moments,
    missed,
    title="A limited restorer: trained outside the corruption it gets the score wrong where the blur is strong",
    alt="Root mean square error of sigma times the score, per pixel, against time from 0.05 to 1, vertical axis logarithmic. "
    + " ".join(
        f"{name.replace('$', '')}: {row[1]:.3f} at t = 0.1, {row[9]:.3f} at 0.5, {row[-1]:.4f} at 1."
        for name, row in missed.items()
    ),
    xlabel="time $t$",
    ylabel="error of $\\sigma_t\\,$score",
    logy=True,
    height=340,
)

# %% [markdown]
# Does a better score make better samples? `soft_score` is the paper's sampler: move the signal by $C_s\hat z_0 - C_t\hat z_0$ (the *momentum*; you know it as algorithm 2), and shrink what is left, which is noise, as DDIM does; here with DDPM's fresh noise ($\eta = 1$), in the last line without ($\eta = 0$). Started from the true law at $t = 1$:

# %% tags=["nbval-check-output"]
spectrum = torch.fft.fft(torch.eye(N, dtype=double))
rows = Gaussian(torch.zeros(N, dtype=double), torch.fft.ifft(spectrum * power[:, None], dim=0).real)


def distance(gains, n, eta=1.0, corrupt=blur_rows, schedule=soft_noise):
    """W_2 per pixel between soft diffusion's rows after n steps and true rows; gains(t) is the restorer."""

    def run(noise):
        z = corrupt(rows.sample(1, noise), 1.0) + schedule.sigma(1.0) * noise(torch.zeros(1, N, dtype=double))
        return last(soft_score(lambda z, t: filtered(z, gains(t)), schedule, corrupt, z, uniform_times(n), eta, noise))

    return gaussian_w2(*affine_law(run, N), rows.means[0], rows.covariances[0]) / math.sqrt(N)


z, t = draw(3, N), 0.4
law = Gaussian(torch.zeros(N, dtype=double), torch.fft.ifft(spectrum * (power * row_blur(t) ** 2)[:, None], dim=0).real)
score = (blur_rows(filtered(z, best_filter(t, None)), t) - z) / soft_noise.sigma(t) ** 2
assert_close(score, law.score(z, 1.0, soft_noise.sigma(t)))
for name, inside in (("perfect restorer", None), ("5 taps, loss inside", True), ("5 taps, loss outside", False)):
    numbers = [distance(lambda t, inside=inside: best_filter(t, inside), n) for n in (16, 64)]
    print(f"{name:22} distance after 16 steps {numbers[0]:.3f}, after 64 {numbers[1]:.3f}")
poor = [distance(lambda t, inside=inside: best_filter(t, inside, 2), 16, eta=0.0) for inside in (True, False)]
print(f"3 taps, steps without noise: loss inside {poor[0]:.3f}, outside {poor[1]:.3f}")

# %% [markdown]
# With so poor a restorer luck plays its part: at 16 steps the filter happens to beat the perfect one, and with a still poorer one and no noise in the steps the order of the two losses turns round (last line). A loss promises the score. It does not promise the samples.
#
# **When $C_t$ loses rank.** Pooling removes directions for good. At $t = 1$ the loss inside is blind there: whatever the restorer paints into the lost directions costs nothing, and the score does not care either. But the *step* does, because $C_s$, a moment later, is not blind:

# %% tags=["nbval-check-output"]
pool = torch.kron(torch.eye(N // 2, dtype=double), torch.full((2, 2), 0.5, dtype=double))  # pairs of pixels
lost_part = torch.tensor([1.0, -1.0], dtype=double).repeat(N // 2)[None]


def pool_rows(z_0, t):
    t = torch.as_tensor(t, dtype=double).reshape(-1, 1)
    return z_0 + t * (z_0 @ pool - z_0)


z_row = rows.sample(1, standard_normal(0))
for paint in (0.0, 3.0):
    answer = z_row + paint * lost_part
    inside = soft_score_loss(answer, z_row, pool_rows, 1.0).item()
    start, jumps = pool_rows(z_row, 1.0), {}
    for n in (1, 4, 16):
        walk = cold_diffusion(lambda z, t, a=answer: a if t == 1 else z_row, pool_rows, start, even(n))
        jumps[n] = (last(walk) - z_row).square().mean().sqrt().item()
    words = ", ".join(f"{n} steps {error:.2f}" for n, error in jumps.items())
    print(f"painted {paint:.0f} into the lost part at t = 1: loss inside {inside:.1f}; the sample is off by: {words}")

# %% [markdown]
# The damage is $(C_s - C_1)\,e$, one $n$-th of the paint. So with a corruption that loses rank: take small steps there, or start at $t_{\max} < 1$, or measure the loss inside $C_s$ of the *next* time. (A Gaussian blur never loses rank; it only pushes fine detail below rounding.)
#
# **Does blur help?** Compare blur and noise with noise alone, both with perfect restorers. The same noise without blur leaves more of the row in the start, so print how much the start knows of it (mutual information, in nats), and add a line in which noise alone hides as much as both:

# %% tags=["nbval-check-output"]
for width, sigma_max in ((0.0, 1.0), (2.0, 1.0), (4.0, 1.0), (0.0, 2.2), (0.0, 3.0), (4.0, 3.0)):
    gains = lambda t, w=width: torch.exp(-2 * (math.pi * f * w * torch.as_tensor(t, dtype=double)) ** 2)  # noqa: E731
    perfect = lambda t, g=gains, m=sigma_max: power * g(t) / (power * g(t) ** 2 + (m * t) ** 2)  # noqa: E731
    far = distance(perfect, 16, 0.0, lambda z, t, g=gains: filtered(z, g(t)), edm(sigma_max))
    nats = torch.log1p(power * gains(1.0) ** 2 / sigma_max**2).sum().item() / 2
    print(
        f"blur {width:.0f}, noise {sigma_max:.1f}: {nats:.2f} nats left in the start, distance after 16 steps {far:.3f}"
    )

# %% [markdown]
# With perfect restorers blur only makes the steps harder, even when noise alone is made to hide as much (third and fourth line). Whatever soft diffusion gains on photos (the paper's FID of 1.85 on CelebA-64 was a record), it gains from what a *network* finds easier to learn, or from a road chosen with care, and not from the blur as such.
#
# ## 5. InDI: the number of steps as a dial
#
# **InDI** needs no model of the corruption, only pairs. It fades the HR image $z_0$ into its LR partner $z_1$ and walks back in small steps towards the current answer:
#
# $$z_t = (1-t)\,z_0 + t\,z_1, \qquad z_s = \frac st\, z_t + \Big(1 - \frac st\Big) R(z_t, t).$$
#
# With **one** step, from $t = 1$ to $s = 0$, the result is $R(z_1, 1) = \mathbb E[z_0\mid z_1]$: regression, the MMSE estimate. With many it follows $\dot z = (z - R)/t$. And if the corruption is plain noise, $z_1 = z_0 + \epsilon$, then $z_t = z_0 + t\epsilon$ is the variance-exploding chain with $\sigma = t$, and InDI's step is DDIM's (→ Exercise 12.5):

# %% tags=["nbval-check-output"]
grid = even(8)
ours, theirs = last(indi(sharpen, noisy, grid)), last(ddim(sharpen, edm(1.0), noisy, grid))
print(f"InDI with t for sigma {same(ours, theirs)} variance-exploding DDIM")

# %% [markdown]
# What does the number of steps do? Two numbers describe our image: a mean brightness of standard deviation 1 and an edge of standard deviation 0.8. The LR image shows the mean and three tenths of the edge, and its sensor adds noise of 0.3 to both. `pair_denoiser` is the exact $\mathbb E[z_0\mid z_t]$, *untold* (it sees $z_t$ only) or *told* ($z_1$ as well).
#
# For such pairs the whole perception–distortion trade is known. Let $D^*$ be the error of the MMSE estimate and $P^*$ the $W_2$ distance between its law and that of real images. No method whatsoever can be closer to real images than $P$ with an error below
#
# $$D(P) = D^* + (P^* - P)^2, \qquad 0 \le P \le P^*$$
#
# (Freirich, Michaeli, Meir, arXiv:2107.02555; true for every law). Where does InDI walk? For comparison it also walks a road with noise, $z_t = (1-t)\,z_0 + t\,z_1 + \epsilon_0\sqrt t\,\epsilon$ with $\epsilon_0 = 0.5$, untold and told (its step comes in section 6).

# %%
sizes, sensor = torch.tensor([1.0, 0.8], dtype=double), 0.3
see = torch.diag(torch.tensor([1.0, 0.3], dtype=double))
own = torch.diag(sizes**2)


def world(see, sensor):
    """The law of (z_0, z_1), z_1 = see z_0 + sensor noise: four numbers in a row."""
    lr_own = see @ own @ see + sensor**2 * torch.eye(2)
    return Gaussian(
        torch.zeros(4, dtype=double), torch.cat([torch.cat([own, own @ see], 1), torch.cat([see @ own, lr_own], 1)])
    )


pairs, blind = world(see, sensor), world(torch.diag(torch.tensor([1.0, 0.0], dtype=double)), 0.0)
methods = {  # name: (its law, its walk)
    "InDI": (indi_path(), lambda d, z, g, n: indi(d, z, g)),
    "InDI, noise 0.5": (indi_path(0.5), lambda d, z, g, n: indi(d, z, g, 0.5, n)),
}


def outcome(method, n, told=False, pairs=pairs):
    """(D, P) of n steps: the expected squared error, and W_2 between the law of all answers and that of all images."""
    path, walk = methods[method]
    denoiser = pair_denoiser(pairs, path)

    def both(noise):
        image, z_1 = pairs.sample(1, noise).chunk(2, 1)
        start = draw_state(path, z_1, z_1, 1.0, noise)
        seen = (lambda z, t: denoiser(z, t, z_1)) if told else denoiser
        return torch.cat([image, last(walk(seen, start, even(n), noise))], 1)

    _, law = affine_law(both, 4)
    error = law[:2, :2] + law[2:, 2:] - law[:2, 2:] - law[2:, :2]
    return error.trace().item(), gaussian_w2(torch.zeros(2), law[2:, 2:], torch.zeros(2), own)


counts = (1, 2, 4, 8, 16, 64)
walks = {"InDI, untold": [outcome("InDI", n) for n in counts]}
for told in (False, True):
    walks[f"InDI, noise 0.5, {'told' if told else 'untold'}"] = [outcome("InDI, noise 0.5", n, told) for n in counts]

# %% tags=["nbval-check-output"]
least, farthest = walks["InDI, untold"][0]
for n, (D, P) in zip(counts, walks["InDI, untold"], strict=True):
    bound = least + (farthest - P) ** 2
    assert bound - 1e-9 < D < bound + 1e-3
    print(f"InDI, {n:2} steps: error {D:.4f}, distance {P:.4f}; the least possible error there {bound:.4f}")
print(f"a sample of p(z_0 | z_1): error {2 * least:.3f}, distance 0")
rest = [outcome("InDI", n, pairs=blind)[0] for n in (1, 64)]
print(f"no edge and no noise in z_1: InDI's error is {rest[0]:.4f} after 1 step, {rest[1]:.4f} after 64")

# %%
on_bound = torch.linspace(0, farthest, 60, dtype=double)
plots.curves(
    [],
    {
        "least possible error": (least + (farthest - on_bound) ** 2, on_bound),
        **{name: tuple(zip(*row, strict=True)) for name, row in walks.items()},
    },
    title="The number of steps walks the plane: InDI without noise along its very edge, told and with noise to twice the error",
    alt="Distance to the law of real images against expected squared error. A curve bounds the region that can be reached, from "
    f"error {least:.2f}, distance {farthest:.2f} down to error {least + farthest**2:.2f}, distance 0. Markers for 1, 2, 4, 8, 16 and 64 steps, from top left to bottom right. "
    + " ".join(
        f"{name}: after 8 steps {row[3][0]:.2f}, {row[3][1]:.2f}; after 64 {row[-1][0]:.2f}, {row[-1][1]:.2f}."
        for name, row in walks.items()
    ),
    xlabel="expected squared error $D$ (distortion)",
    ylabel="$W_2$ to real images $P$ (perception)",
    vertical={"twice the least error": 2 * least},
    height=440,
)

# %% [markdown]
# Every walk goes down as the steps grow, and all but one begin at the top left, in regression: the dial that InDI promises (→ Exercise 12.6). (With noise and untold, $z_1$ is seen under noise only, so even the best single answer is worse.) Three more things to see.
#
# - **InDI without noise stays on the bound**, here to about three digits, with every number of steps. It makes the least error that is possible at its distance. (In this world brightness and edge are independent, in $z_0$ as in $z_1$, so the walk is a stretch along fixed axes. That is why; do not expect it of photos.)
# - It pays with this: one $z_1$ leads to one answer. The walk *stretches* what it finds in $z_1$ until it has the size of real edges, signal and sensor noise alike. A real LR image has next to no noise. The last line shows what that means: where $z_1$ knows nothing of the edge and brings no noise, the walk never leaves the mean, because for $t < 1$ the state tells $z_0$ exactly and nothing is left to decide. So InDI needs noise somewhere on its road.
# - **Told and with noise, the walk ends at $2D^*$**: it draws from $p(z_0\mid z_1)$, whose samples miss by the posterior's variance twice (chapter 09). Untold with noise it misses by more than that.
#
# <details><summary><b>Question.</b> What would happen to InDI without noise if it were told z_1 as well?</summary>
#
# Given $z_t$ and $z_1$ you can compute $z_0$: it is $(z_t - t z_1)/(1-t)$. A told restorer would learn this division in training. On its own walk it starts at the mean, computes the mean, and stays there. A told walk needs noise in its road.
# </details>
#
# That was exact. Now **learned**: a small network (three hidden layers, 64 wide) on 4×4 blocks of four grey photos, $z_1$ being the bicubic enlargement. Its training is the whole of InDI: draw a pair and a time, fade, and regress on $z_0$. The loss is in units of what bicubic leaves. Once untold, once told $z_1$, two seeds each; tested on a fifth photo.


# %%
def block_pairs(name):
    """All 4x4 blocks of a grey photo and of its bicubic enlargement, as states: (N, 16) each."""
    hr = crop_to_multiple(photo(name).mean(1, keepdim=True), 4)
    return [2 * F.pixel_unshuffle(image, 4).flatten(2)[0].T - 1 for image in (hr, resize(resize(hr, 1 / 4), 4))]


train_0, train_1 = (
    torch.cat(p) for p in zip(*map(block_pairs, ("chelsea", "china", "astronaut", "coffee")), strict=True)
)
test_0, test_1 = (part[::11] for part in block_pairs("flower"))
unit = (train_0 - train_1).std()


class Restorer(nn.Module):
    """z_t and t in, z_0 out; told z_1 as well if `told`."""

    def __init__(self, told):
        super().__init__()
        self.told, widths = told, (33 if told else 17, 64, 64, 64)
        layers = [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(64, 16))

    def forward(self, z, t, z_1):
        time = torch.as_tensor(t, dtype=z.dtype).expand(len(z))[:, None]
        return z + unit * self.layers(torch.cat([z, time, *([(z - z_1) / unit] if self.told else [])], 1))


def learn(told, seed, steps=600):
    """InDI's training."""
    torch.manual_seed(seed)
    generator, network = torch.Generator().manual_seed(seed), Restorer(told)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index, t = torch.randint(len(train_0), (256,), generator=generator), torch.rand(256, generator=generator)
        z_0, z_1 = train_0[index], train_1[index]
        loss = ((network(draw_state(indi_path(), z_0, z_1, t), t, z_1) - z_0) / unit).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
    return network.requires_grad_(False)


# %%
directions = F.normalize(standard_normal(0)(torch.empty(16, 64)), dim=0)
dials, learned, networks = (1, 2, 4, 8, 16, 32, 64), {}, {}
for told, seed in ((False, 0), (False, 1), (True, 0), (True, 1)):
    network, row = learn(told, seed), []
    networks[told, seed] = network
    for n in dials:
        found = last(indi(lambda z, t, net=network: net(z, float(t), test_1), test_1, even(n)))
        ours, truth = (((z - test_1) @ directions).sort(0).values for z in (found, test_0))
        row.append((127.5 * (found - test_0).square().mean().sqrt().item(), 127.5 * (ours - truth).abs().mean().item()))
    learned[f"{'told' if told else 'untold'}, seed {seed}"] = tuple(zip(*row, strict=True))
plots.scatter(
    learned,
    names={"untold, seed 0": [str(n) for n in dials], "told, seed 0": ["told: 1 to 64 steps"]},
    joined=tuple(learned),
    title="Learned InDI: the dial works, and past some number of steps overshoots; told without noise it does not turn",
    alt="Sliced Wasserstein distance between true and restored blocks against root mean square error, both in grey levels, for 1 to 64 steps. "
    + " ".join(
        f"{name}: " + ", ".join(f"{n} steps {e:.1f}, {w:.2f}" for n, e, w in zip(dials, *row, strict=True)) + "."
        for name, row in learned.items()
    ),
    xlabel="root mean square error, grey levels",
    ylabel="sliced $W_1$, grey levels",
    height=380,
)

# %%
for name in ("flower", "chelsea", "china"):
    hr_blocks, lr_blocks = (part[::11] for part in block_pairs(name))
    words = []
    for n in (1, 8, 64):
        found = last(indi(lambda z, t, at=lr_blocks: networks[False, 0](z, float(t), at), lr_blocks, even(n)))
        ours, truth = (((z - lr_blocks) @ directions).sort(0).values for z in (found, hr_blocks))
        share = ((found - lr_blocks).std() / (hr_blocks - lr_blocks).std()).item()
        words.append(f"{n} steps {share:.2f} (sliced W1 {127.5 * (ours - truth).abs().mean().item():.2f})")
    print(f"{name:8} contrast added, over the contrast missing: {', '.join(words)}")

# %% [markdown]
# The untold walk goes down as it should and turns up again: after 64 it has added more contrast than this smooth photo lacked. On a busier one, china, 64 steps are not yet enough: the network has learnt the average contrast of four photos. In the end it is also asked about states that its own mistakes have made. (The paper names instability with too many steps among InDI's limits.) The told walk stays where it started, as the last answer said: there is nothing left to decide. (At $t = 1$ both are given the same, $z_1$, and should be one regression. How far apart they are in the figure shows how far 600 training steps are from exact.)
#
# ## 6. One family
#
# A **Brownian bridge** is Brownian motion pinned at both ends. Let a clock $c$ rise from 0 at the photo. If you know the state at clock $c_t$ and the end $z_0$ at clock 0, then the state at $c_s$ in between has
#
# $$z_s \sim N\!\Big(z_0 + \frac{c_s}{c_t}(z_t - z_0),\;\; \kappa^2\,\frac{c_s\,(c_t - c_s)}{c_t}\,I\Big).$$
#
# The mean is the straight line; the variance vanishes at both ends. This is `bridge_step`. With $\hat z_0$ put for $z_0$ it is the step of InDI, I2SB, OT-ODE and ResShift alike. The cold fade and IR-SDE share roads of this kind and step otherwise (section 3; Euler steps of an SDE):
#
# | | weight of $z_1$: $1-\alpha_t$ | noise $\sigma_t$ | clock $c(t)$ | starts from |
# |---|---|---|---|---|
# | cold fade, **InDI** | $t$ | 0 | $t$ | $z_1$ |
# | **InDI** with noise | $t$ | $\epsilon_0\sqrt t$ | $t$ | $z_1 + \epsilon_0\epsilon$ |
# | **I2SB** | $v_t/T$ | $\sqrt{v_t (T - v_t)/T}$ | $v_t = \int_0^t\beta$, $T = v_1$ | $z_1$ |
# | **OT-ODE** (I2SB's option) | $v_t/T$ | 0 | $v_t$ | $z_1$ |
# | **ResShift** | $\eta_t$ | $\kappa\sqrt{\eta_t}$ | $\eta_t$ | $z_1 + \kappa\epsilon$ |
# | **IR-SDE** | $1 - e^{-\bar\theta_t}$ | $\lambda\sqrt{1-e^{-2\bar\theta_t}}$ | $\bar\theta_t$ | $z_1 + \lambda\epsilon$ |
#
# Draw each as a road: how much of $z_1$ has come in, against how much noise. Time disappears from the picture, and with it every difference of clocks.

# %%
kappa, spread, bent = 0.5, 0.5, symmetric_clock(1.0, 0.1)
roads = {
    "InDI, OT-ODE, cold fade": indi_path(),
    "InDI, $\\epsilon_0 = 0.5$": indi_path(kappa),
    "ResShift, $\\kappa = 0.5$": resshift_path(resshift_clock(kappa=kappa), kappa),
    "I2SB, $\\beta$ bent": i2sb_path(bent),
    "I2SB, $\\beta$ constant": i2sb_path(symmetric_clock(bent(1.0).item(), bent(1.0).item())),
    "IR-SDE, $\\lambda = 0.5$": ir_sde_path(spread),
}
fine = torch.linspace(0, 1, 61, dtype=double)
plots.curves(
    [],
    {name: (1 - path.alpha(fine), path.sigma(fine)) for name, path in roads.items()},
    title="The family tree: many names, four roads; the clock only says when the walk is where",
    alt="Noise against the share of z_1, both from the photo at the bottom left. InDI without noise, OT-ODE and the cold fade run along the bottom. InDI with noise and ResShift share one curve, a square root that ends at share 1, noise 0.5. Two I2SB bridges with different beta and the same total lie on one half ellipse that returns to noise 0 at share 1. IR-SDE rises fastest and ends at 0.5.",
    xlabel="share of $z_1$ in the state, $1-\\alpha_t$",
    ylabel="noise $\\sigma_t$",
    height=400,
)

# %% [markdown]
# Eliminate $t$ and it is plain: with $p = 1-\alpha_t$, the noise is $0$; $\epsilon_0\sqrt p$ for InDI with noise *and* ResShift (one road: $\epsilon_0 = \kappa$); $\sqrt{T p (1-p)}$ for I2SB whatever its $\beta$; $\lambda\sqrt{p(2-p)}$ for IR-SDE. One cell proves the steps, from the formula above (→ Exercise 12.4):

# %% tags=["nbval-check-output"]


def my_bridge_step(z, z_0, now, then, kappa_squared, noise):
    """The Brownian bridge between clocks now > then."""
    variance = kappa_squared * then * (now - then) / now
    return z_0 + then / now * (z - z_0) + math.sqrt(variance) * noise(z)


clock, given = symmetric_clock(1.0, 0.5), torch.tensor([2.0, 0.5], dtype=double).view(2, 1, 1, 1)
same(
    my_bridge_step(given, 0 * given, 0.8, 0.3, 4.0, standard_normal(0)),
    bridge_step(given, 0 * given, 0.8, 0.3, 4.0, standard_normal(0)),
)
eta_clock = resshift_clock(kappa=kappa)
walkers = {  # name: (the library's walk, its clock, kappa^2)
    "InDI, noise 0.5": (lambda z, n: indi(sharpen, z, even(15), kappa, n), lambda t: t, kappa**2),
    "I2SB": (lambda z, n: i2sb(sharpen, clock, z, even(15), noise=n), clock, 1.0),
    "OT-ODE": (lambda z, n: i2sb(sharpen, clock, z, even(15), ot_ode=True), clock, 0.0),
    "ResShift": (lambda z, n: resshift(sharpen, eta_clock, z, even(15), kappa, n), eta_clock, kappa**2),
}
for name, (walk, clock_of, kappa_squared) in walkers.items():
    z, noise = z_1, standard_normal(3)
    for t, s in zip(even(15)[:-1], even(15)[1:], strict=True):
        z = my_bridge_step(z, sharpen(z, t), float(clock_of(t)), float(clock_of(s)), kappa_squared, noise)
    library = last(walk(z_1, standard_normal(3)))
    print(f"{name:16} after 15 steps of mine {same(z, library)} the library")

# %% [markdown]
# ## 7. ResShift's schedule in pictures
#
# If the road is InDI's, then ResShift's own contribution is its clock. $\sqrt{\eta_i}$ grows geometrically from 0.02 (at $\kappa = 2$) to 0.99, with an exponent $p$ that bends it:
#
# $$\sqrt{\eta_i} = \sqrt{\eta_1}\; b^{\,\left(\frac{i-1}{n-1}\right)^p}, \qquad b = \sqrt{\eta_n/\eta_1}, \qquad p = 0.3, \quad n = 15.$$
#
# Two traps. The rule is for the **square root**; whoever reads 0.02 and 0.99 as values of $\eta$ gets another schedule. And $\eta_n = 0.99^2 = 0.98$: two per cent of $z_0$ are left at the start, which the sampler ignores (→ Exercise 12.7).

# %%
number_of = torch.arange(1, 16)


def roots(kappa):
    """sqrt(eta) at the 15 knots, four ways."""
    right = resshift_clock(kappa=kappa)(number_of / 15).sqrt()
    return {
        "ResShift, $p = 0.3$": right,
        "geometric, $p = 1$": resshift_clock(kappa=kappa, power=1.0)(number_of / 15).sqrt(),
        "the numbers taken for $\\eta$": right.sqrt(),
        "InDI: $\\eta = t$": (number_of / 15).sqrt(),
    }


knots = roots(2.0)
plots.curves(
    number_of,
    knots,
    title="ResShift's 15 steps space the noise level almost evenly; read as eta, its numbers crowd where noise is strong",
    alt="The root of eta at the knots 1 to 15. "
    + " ".join(
        f"{name.replace('$', '').replace(chr(92), '')}: {row[0]:.2f} at 1, {row[1]:.2f} at 2, {row[7]:.2f} at 8, {row[-1]:.2f} at 15."
        for name, row in knots.items()
    ),
    xlabel="knot $i$ (15 is where the walk starts)",
    ylabel="$\\sqrt{\\eta_i}$",
    height=340,
)

# %%
picked, shown, labels = (15, 10, 5, 1), [], []
for strength in (0.5, 2.0):
    times = resshift_clock(kappa=strength)
    path = resshift_path(times, strength)
    for i in picked:
        shown.append((draw_state(path, z_0, z_1, i / 15, standard_normal(0)) + 1) / 2)
        labels.append(f"κ = {strength:.1f}, knot {i}")
plots.image_grid(
    torch.cat(shown).float().clamp(0, 1),
    labels,
    crop=(4, 8, 48, 48),
    zoom=2,
    title="ResShift's states: the LR image turns into the photo while the noise goes",
    alt="Two rows of four pictures of a cat's eye, from knot 15 to knot 1. Upper row, kappa 0.5: a blurred eye under grain that becomes a sharp eye; it can be recognised throughout. Lower row, kappa 2: noise in which the eye can only be guessed, clearer at knot 5, and nearly clean at knot 1.",
    columns=4,
)

# %% [markdown]
# $\kappa$ weighs the two ends against each other: at 0.5 the LR image can be recognised throughout, at 2 the walk starts in noise that hides it. Large $\kappa$ means more freedom and a longer way. (The network is shown the state divided by $\sqrt{1+\kappa^2\eta_t}$, which has about unit variance when both images have it and are nearly alike: `corruption.resshift_input`.) What does the schedule itself buy? On the exact pairs of section 5, told $z_1$:


# %%
def told_error(clock_of, kappa, times, steps="right"):
    """W_2 between ResShift's law and p(z_0 | z_1) for one z_1, both exact."""
    path = resshift_path(clock_of, kappa)
    x = torch.tensor([[0.9, -0.1]], dtype=double)
    denoiser = pair_denoiser(pairs, path)

    def run(noise):
        start = x + kappa * clock_of(1.0).sqrt() * noise(x)
        return last(resshift(lambda z, t: denoiser(z, t, x), clock_of, start, times, kappa, noise))

    target = pairs.posterior(torch.cat([torch.zeros(2, 2), torch.eye(2)], 1).double(), x, 0.0)
    return gaussian_w2(*affine_law(run, 2), target.means[0][:2], target.covariances[0][:2, :2])


def between(values):
    """A clock through `values` at its 15 knots, its root linear in between."""
    roots = torch.cat([torch.zeros(1, dtype=double), values.double()])

    def clock_of(t):
        place = torch.as_tensor(t, dtype=double) * 15
        left = place.floor().clamp(0, 14).long()
        return (roots[left] + (place - left) * (roots[left + 1] - roots[left])) ** 2

    return clock_of


# %% tags=["nbval-check-output"]
for kappa_shown in (0.5, 2.0):
    row = [told_error(between(values), kappa_shown, even(15)) for values in roots(kappa_shown).values()]
    print(
        f"kappa {kappa_shown}: distance to p(z_0 | z_1), "
        + ", ".join(
            f"{name} {v:.3f}" for name, v in zip(("ResShift", "p = 1", "misread", "InDI's clock"), row, strict=True)
        )
    )

# %% [markdown]
# With much noise, ResShift's knots beat both the misread ones and InDI's even $t$, which leave large steps near the photo. (Geometric without the bend, $p = 1$, is better still on this pair, which wants most of its steps late.) With little noise the order changes: ResShift's knots come first, and $p = 1$ last. A schedule is good *for a road and a law*, never by itself.
#
# <details><summary><b>Question.</b> What becomes of ResShift when kappa goes to 0, untold and told?</summary>
#
# The noise goes, and only the fade is left. Untold it is InDI without noise, on another clock, and on the bound of section 5. Told it stays at the mean: the end of section 5 again.
# </details>
#
# ## 8. Told or untold
#
# A restorer can be **untold**: it sees $z_t$ only, and what it knows of the LR image is what $z_t$ still holds. Or it is **told** $z_1$ beside the state. Told, it can subtract the LR image's share itself. Then
#
# $$u_t = z_t - (1-\alpha_t)\,z_1 = \alpha_t z_0 + \sigma_t\epsilon$$
#
# is *plain diffusion* on the road's schedule. Nothing of the bridge is left in what the network is asked: $\mathbb E[z_0 \mid u_t, z_1]$ depends on the signal-to-noise ratio $\alpha_t^2/\sigma_t^2$ alone. And the bridge's steps are steps that you know from chapter 04 and chapter 07 (→ Exercise 12.8). I2SB walks from $t = 0.9$ here, since at $t = 1$ it has neither signal nor noise:

# %% tags=["nbval-check-output"]
grid, start = even(15), draw_state(resshift_path(eta_clock, kappa), z_1, z_1, 1.0, standard_normal(5))


def told(path):
    """Any restorer that is told z_1, here a silly one that sharpens u_t."""
    return lambda z, t: sharpen(z - (1 - path.alpha(t)) * z_1, t)


path, late = i2sb_path(clock), uniform_times(15, 0.9)
held = (1 - path.alpha(0.9)) * z_1
ours = last(i2sb(told(path), clock, start, late, noise=standard_normal(0)))
plain = last(ddpm(sharpen, path, start - held, late, noise=standard_normal(0)))
print(f"I2SB, told, {same(ours, plain)} DDPM on its road")

path = resshift_path(eta_clock, kappa)
ours, z, noise = (
    last(resshift(told(path), eta_clock, start, grid, kappa, standard_normal(0))),
    start,
    standard_normal(0),
)
for t, s in zip(grid[:-1], grid[1:], strict=True):
    step = eta_clock(s) / eta_clock(t)
    ddims_eta = ((1 - step) / (1 - (path.alpha(t) / path.alpha(s)) ** 2 * step)).sqrt().item()
    u = z - (1 - path.alpha(t)) * z_1
    z = ddim_step(u, sharpen(u, t), path, t, s, ddims_eta, noise) + (1 - path.alpha(s)) * z_1
print(f"ResShift, told, {same(ours, z)} DDIM with eta < 1")

# %% tags=["nbval-check-output"]
x, u, reference = draw(3, 2, seed=2), draw(3, 2, seed=3), vp_linear()
for road in (i2sb_path(clock), path, ir_sde_path(0.4), indi_path(0.7)):
    same_snr = reference.time_at(road.log_snr(0.37))
    asked = [
        pair_denoiser(pairs, law)(law.alpha(t) * u + (1 - law.alpha(t)) * x, t, x)
        for law, t in ((road, torch.tensor(0.37, dtype=double)), (reference, same_snr))
    ]
    print(f"SNR {road.log_snr(0.37).exp():.2f}: the bridge's exact restorer {same(*asked)} plain diffusion's")

# %% [markdown]
# So a network that was trained for conditional diffusion serves every told bridge *without training*, and section 10 does just that. What is a bridge's own is where it starts and how it steps.
#
# Untold, a bridge is another method. Take one $z_1$, walk 64 steps (IR-SDE with its own Euler steps, `ir_sde`), and compare with the true $p(z_0 \mid z_1)$:

# %% tags=["nbval-check-output"]
x = torch.tensor([[1.2, 0.6]], dtype=double)
see_lr = torch.cat([torch.zeros(2, 2, dtype=double), torch.eye(2, dtype=double)], 1)
target = pairs.posterior(see_lr, x, 0.0)
right_mean, right_law = target.means[0][:2], target.covariances[0][:2, :2]
methods["I2SB"] = (i2sb_path(clock), lambda d, z, g, n: i2sb(d, clock, z, g, noise=n))
methods["ResShift, 0.5"] = (path, lambda d, z, g, n: resshift(d, eta_clock, z, g, kappa, n))
strong = resshift_clock(kappa=2.0)
methods["ResShift, 2"] = (resshift_path(strong, 2.0), lambda d, z, g, n: resshift(d, strong, z, g, 2.0, n))
methods["IR-SDE, 0.5"] = (ir_sde_path(spread), lambda d, z, g, n: ir_sde(d, x.expand_as(z), z, g, spread, noise=n))


def given_x(name, told, n=64):
    """Exact mean and covariance of the answers to this one z_1."""
    road, walk = methods[name]
    denoiser = pair_denoiser(pairs, road)

    def run(noise):
        begin = draw_state(road, x, x, 1.0, noise)
        return last(walk(lambda z, t: denoiser(z, t, x if told else None), begin, even(n), noise))

    return affine_law(run, 2)


laws = {(name, told): given_x(name, told) for name in methods for told in (False, True)}
print(f"{'64 steps':18}  told   mean          standard deviations   distance to p(z_0 | z_1)")
for (name, told_x), (mean, law) in laws.items():
    stds = law.diagonal().clamp(min=0).sqrt()
    apart = gaussian_w2(mean, law, right_mean, right_law)
    print(f"{name:18} {str(told_x):>5}   {mean[0]:.2f}, {mean[1]:.2f}    {stds[0]:.2f}, {stds[1]:.2f} {apart:26.2f}")
stds = right_law.diagonal().sqrt()
print(f"{'the truth':25}   {right_mean[0]:.2f}, {right_mean[1]:.2f}    {stds[0]:.2f}, {stds[1]:.2f}")

# %%
axis_x, axis_y = torch.linspace(-0.7, 2.5, 81, dtype=double), torch.linspace(-1.1, 2.5, 91, dtype=double)
plane = torch.stack(torch.meshgrid(axis_x, axis_y, indexing="xy"), -1).reshape(-1, 2)
truth_given_x = Gaussian(right_mean, right_law)


def cloud(name, told, n=60):
    mean, law = laws[name, told]
    return Gaussian(mean, law).sample(n, standard_normal(4))


plots.density_2d(
    axis_x,
    axis_y,
    {"grey: the true answers to one $z_1$": truth_given_x.log_prob(plane).exp().reshape(91, 81)},
    points={
        "I2SB, untold": cloud("I2SB", False),
        "I2SB, told": cloud("I2SB", True),
        "InDI, untold: one answer": cloud("InDI", False, 1),
    },
    title="Told, the answers to one LR image are the right ones; untold, they belong to other LR images as well",
    alt="The plane of mean brightness and edge. A grey ellipse, narrow in brightness and wide in the edge, marks the true answers to one LR image. The told bridge's samples fill it. The untold bridge's cloud is about twice as wide in brightness and shifted towards zero. InDI's single answer, a triangle, lies above the centre, at a stronger edge.",
    xlabel="mean brightness",
    ylabel="edge",
    width=620,
    height=560,
)

# %% [markdown]
# | | told | untold |
# |---|---|---|
# | the network is asked | what conditional diffusion is asked | something new, for this road only |
# | one step | regression, $\mathbb E[z_0\mid z_1]$ | the same, if the start is $z_1$ itself; from a noisy start less |
# | many steps, over all photos | the law of real images | the law of real images |
# | many steps, for one LR image | $p(z_0\mid z_1)$ | another law: with noise too wide and pulled to the average image, without noise one answer |
# | squared error in the end, in our world | $2 D^*$ | InDI without noise: the least possible; with noise above $2D^*$ |
#
# Untold, a bridge forgets its LR image under its own noise, with $\kappa = 2$ nearly all of it: its samples look right, and are answers to other questions. That is what not telling costs. What it buys is an input less, and, without noise, the bound of section 5. Plain diffusion that is not told anything would be worse off than any of them: it starts from nothing. This is the bridges' true advantage, and it vanishes when $z_1$ is told.
#
# <details><summary><b>Question.</b> I2SB's published code shows its network the state alone; telling it $z_1$ is an option, recommended where the LR end has lost much. Which symptom of not telling would you look for in the samples?</summary>
#
# Shrink them and compare with the LR image. Answers to other questions do not match: in the table above brightness, which the LR image nearly fixes, varies twice as much as it should. Chapter 02's LR consistency shows it, and a projection onto the LR image at the end repairs that part.
# </details>
#
# ## 9. Break it
#
# Bridges break silently: the samples look a little too smooth or too rough, and the training loss is perfect. Three slips, and a test that finds them all: **hand in the true $z_0$** as the restorer's answer. Then a right walk stays exactly on its law, and the spread of its states is known at each step. Here with 20 steps, as the ratio to what it should be:

# %%
T = clock(1.0)
slips = {  # clock, kappa^2, weight of z, variance added; a, b: the clocks at t and s
    "I2SB, right": (clock, 1.0, lambda a, b: b / a, lambda a, b: b * (a - b) / a),
    "variance from the wrong side": (clock, 1.0, lambda a, b: b / a, lambda a, b: (a - b) * (T - a) / (T - b)),
    "variance of the forward step": (clock, 1.0, lambda a, b: b / a, lambda a, b: a - b),
    "ResShift, right": (strong, 4.0, lambda a, b: b / a, lambda a, b: b * (a - b) / a),
    "$\\sqrt{\\eta}$ for $\\eta$": (strong, 4.0, lambda a, b: (b / a).sqrt(), lambda a, b: b.sqrt() - b / a.sqrt()),
}
ratios = {}
for name, (c, kappa_squared, weight, added) in slips.items():
    is_i2sb = c is clock
    road = i2sb_path(clock) if is_i2sb else resshift_path(strong, 2.0)
    variance, row = road.sigma(1.0) ** 2, []
    for t, s in zip(even(20)[:-2], even(20)[1:-1], strict=True):
        variance = weight(c(t), c(s)) ** 2 * variance + kappa_squared * added(c(t), c(s))
        row.append((variance.sqrt() / road.sigma(s)).item())
    ratios[name] = row
plots.curves(
    even(20)[1:-1],
    ratios,
    title="Handed the true image, a right bridge keeps the spread of its law; each slip leaves it, one at once, two towards the photo",
    alt="Standard deviation of the states over that of the law against time, from 0.95 to 0.05. "
    + " ".join(
        f"{name.replace('$', '').replace(chr(92), '')}: {row[0]:.2f} after the first step, {row[9]:.2f} at 0.5, {row[-1]:.2f} at 0.05."
        for name, row in ratios.items()
    ),
    xlabel="time $t$ (the walk goes from right to left)",
    ylabel="spread over that of the law",
    ylim=(0, 3),
    height=360,
)

# %% [markdown]
# - **Variance from the wrong side.** Between $z_t$ and the *other* end the bridge's variance is $(c_t-c_s)(T-c_t)/(T-c_s)$. It vanishes at the start, where the walk needs noise most: the first step draws nothing at all. Later it adds too much.
# - **The forward step's variance**, $c_t - c_s$, forgets that the end is known: grain that stays.
# - **$\sqrt\eta$ for $\eta$**, since the schedule is given as a root: with $\sqrt\eta$ for its clock the step keeps too much of $z_t$ and draws too much as well. At $t = 0.05$ the spread is eight times what it should be (outside the figure).
#
# Two more you have seen: algorithm 1 in place of 2 (section 1: outlines that swell with the number of steps), and the loss outside $C_t$ (section 4; to recognise it, add to the answer what $C_t$ removes: a soft loss must not change).
#
# ## 10. Photos
#
# A network for real bridges lies ready: that of `wavelet` (chapter 11) is told all that the regression knows of $z_1$, so by section 8 every told bridge can walk with it. The state is the Haar bands of what the regression leaves, so $z_1 = 0$ *is* the regression's answer. In the end the photo is made consistent with the LR image (chapter 11). All take nine calls, InDI with $\epsilon_0^2 = 0.15$, ResShift with $\kappa = 1$, I2SB with $\beta_{\max} = 1$ and its result times 1.07, since few steps leave too little variance: settings whose textures come within 1 % of those of `residual-diffusion` on ten training photos (`benchmarks/bridges.py`). `super_resolve(lr, "indi", steps=n)` turns InDI's dial:

# %%
detail, detail_lr = cut("chelsea", 100, 140)
dial = {f"{n} call{'s' * (n > 1)}": super_resolve(detail_lr, method="indi", steps=n) for n in (1, 2, 3, 5, 9, 15)}
plots.compare(
    {**dial, "original": detail},
    [(44, 6, 40, 40), (10, 2, 40, 40)],
    title="InDI's dial on a photo: from the regression's smooth surface to grain",
    alt="Two magnified pieces of a cat's face, fur below the eye and the eye itself, by InDI with 1, 2, 3, 5, 9 and 15 network calls, and the original. With one call fur and iris are smooth; with each further setting more fine texture appears, at 15 calls a visible grain that is rougher than the original's ordered strokes.",
    zoom=3,
)

# %% [markdown]
# With one call the dial shows the regression, made consistent. Every further notch adds texture, and from some number on it is more grain than fur. (InDI's authors, too, report that too many steps can be unstable.) Now twelve pieces of 64×64 pixels, all walks, on the perception–distortion plane: Y-PSNR, and the sliced Wasserstein distance between patches in grey levels (0 is best).


# %%
photos = ("chelsea", "flower", "china", "astronaut", "coffee", "rocket")
spots = [(name, top, left) for name in photos for top, left in ((60, 200), (180, 160))]
many_hr, many_lr = (torch.cat(part) for part in zip(*(cut(*spot, size=64) for spot in spots), strict=True))


def measured(method, steps=None):
    """Y-PSNR, textures (both per piece) and mean sharpness relative to the originals."""
    sr = super_resolve(many_lr, method=method.split(",")[0], steps=steps)
    if method == "regression, projected":
        sr = back_projection(sr, many_lr, Bicubic(4)).clamp(0, 1)
    sharp = (sharpness(sr) / sharpness(many_hr)).mean().item()
    return psnr(sr, many_hr, crop=4), 255 * sliced_wasserstein(sr, many_hr), sharp


bridges = ("indi", "i2sb", "resshift", "cold")
names = ("regression", "regression, projected", "residual-diffusion", "wavelet", *bridges)
results = {name: measured(name) for name in names}
base = results["residual-diffusion"]
print(f"{'':22} calls      PSNR  textures   against residual-diffusion: PSNR          textures        sharpness")
for name, (p, w, sharp) in results.items():
    apart = [(a - b).mean().item() for a, b in ((p, base[0]), (w, base[1]))]
    doubt = [(a - b).std().item() / 12**0.5 for a, b in ((p, base[0]), (w, base[1]))]
    print(f"{name:22} {STEPS.get(name, 1):4} {p.mean():10.2f} {w.mean():8.2f}", end="")
    print(f" {apart[0]:28.2f} +- {doubt[0]:.2f} {apart[1]:8.2f} +- {doubt[1]:.2f} {sharp:10.2f}")

# %%
numbers = {"indi": (1, 2, 3, 5, 15), "i2sb": (3, 15), "resshift": (3, 15), "wavelet": (2, 4, 16), "cold": (3,)}
plane_walks = {}
for name, counts_of in numbers.items():
    rows = [(n, *measured(name, n)[:2]) for n in counts_of] + [(STEPS[name], *results[name][:2])]
    rows.sort(key=lambda row: row[0])
    plane_walks[name] = (
        [p.mean().item() for _, p, _ in rows],
        [w.mean().item() for _, _, w in rows],
        [n for n, *_ in rows],
    )
marks = {
    name: ([results[name][0].mean().item()], [results[name][1].mean().item()])
    for name in ("regression", "regression, projected", "residual-diffusion")
}
plots.scatter(
    {**{name: row[:2] for name, row in plane_walks.items()}, **marks},
    names={
        "indi": ["", *map(str, plane_walks["indi"][2][1:])],
        **{name: [name] for name in marks},
    },
    joined=tuple(plane_walks),
    title="One network, three bridges and plain DDIM: one frontier, and the number of calls is the place on it",
    alt="Sliced Wasserstein distance in grey levels against Y-PSNR, twelve pieces. "
    + " ".join(
        f"{name}: " + ", ".join(f"{n} calls {p:.2f} dB, {w:.2f}" for p, w, n in zip(*row, strict=True)) + "."
        for name, row in plane_walks.items()
    )
    + " "
    + " ".join(f"{name}: {p[0]:.2f} dB, {w[0]:.2f}." for name, (p, w) in marks.items()),
    caption="Numbers beside the points of indi are network calls; its first point, at the top right, is one call. Cold has 3 and 9.",
    xlabel="Y-PSNR in dB (right is better)",
    ylabel="textures: sliced W1 (below is better)",
)

# %%
plots.compare(
    {
        **{
            name: super_resolve(detail_lr, method=name)
            for name in ("regression", "residual-diffusion", "wavelet", *bridges)
        },
        "original": detail,
    },
    [(44, 6, 40, 40), (10, 2, 40, 40)],
    title="Side by side at their default numbers of calls",
    alt="Two magnified pieces of a cat's face by regression, residual diffusion, wavelet, InDI, I2SB, ResShift and cold diffusion, and the original. The regression is smooth. Residual diffusion, wavelet, InDI, I2SB and ResShift have a fine texture with some grain and look much alike. Cold diffusion is smoother than they are, close to the regression. The original has ordered strokes of fur.",
    zoom=2,
)

# %% [markdown]
# Three bridges and DDIM with the same network make *one* frontier, nearly to the width of the lines. That is section 8 on photos: told, the road does not matter, only how far the walk goes. (The first answer of a told walk is the regression's whatever the road. Compare with the *projected* regression: consistency alone takes it most of the way to the top of the line. How far a call then takes you depends on the road's grid: two calls of `wavelet` go as far as one of `indi`.) `residual-diffusion`, consistent too, asks a larger network 20 times.
# Read in the table how close the bridges come to its textures with less than half of the calls, and how much more PSNR they keep; compare each difference with its standard error before you rank. Then read the row of `wavelet`: plain diffusion with the same network does the same. The saving is the network's and the state's. No bridge is needed for it. (Twelve pieces are few: `python benchmarks/quality.py` measures the same on Set14 and BSD100, and the project's README lists it.)
#
# `cold` has weights of its own, trained on bands that fade without noise but for a little. Its place on the plane is near the regression, its pictures are smooth, and more calls move it little: section 3, on photos. A network trained to restore bands from hardly any noise has nothing to decide with.
#
# ## 11. When does another corruption pay?
#
# | corruption | what this chapter measured | so it pays when |
# |---|---|---|
# | blur, pool, mask, fade, walked cold | errors forgiven (2), diversity lost (3) | one good answer is wanted, and the restorer is poor: its errors must not pile up |
# | blur *and* noise | with exact restorers no step saved; a limited one needs its loss inside $C_t$ (4) | the network finds the road easier |
# | bridge, untold, no noise | least error for its perception (5), but one answer per LR image, decided by its sensor noise | fidelity counts and the LR image is noisy |
# | bridge, untold, with noise | right photos, wrong questions (8) | there is no room for a second input; add a projection |
# | bridge, told | plain diffusion from another start (8); the same frontier on photos (10) | a few calls must do; but try diffusion with few calls first |
#
# Gaussian noise is hard to beat, for a reason you have now seen from four sides: it destroys every direction at a known rate, leaves a start that can be *drawn*, keeps something undecided until late, and its score can be learnt by plain least squares.
#
# > **Common mistakes**
# >
# > - Algorithm 1 where 2 was meant; or feeding algorithm 2 a corruption of another time than the state's.
# > - Expecting variety from a walk without noise; giving it a little noise and an even grid.
# > - Fading to the drawn start itself, where $\epsilon$ has to be estimated from the state.
# > - A soft-score loss outside $C_t$; painting into directions that $C_t$ has removed.
# > - A bridge's variance from the wrong side; the forward step's; $\sqrt\eta$ for $\eta$, or ResShift's numbers for $\eta$.
# > - Starting I2SB from noise: it starts from $z_1$ itself. Starting ResShift from $z_1$ itself: it starts from $z_1 + \kappa\epsilon$.
# > - Forgetting to enlarge the LR image first: both ends of a bridge have one shape.
# > - IR-SDE's reverse step with the drift *added*; its $\lambda$ given in units of 1/255.
# > - InDI's grid down to $t = 0$ with a step *from* 0: it divides by $t$.
#
# > **In the papers**
# >
# > - **Cold diffusion** (arXiv:2208.09392) undoes blur, masks, pixelation, snow and a fade to animal photos, all without noise, and generates images with several of them.
# > - **Soft diffusion** (arXiv:2209.05442): blur with a little noise, FID 1.85 on CelebA-64, the best of linear diffusion models then.
# > - **InDI** (arXiv:2303.11435): motion and defocus deblurring, ×4 super-resolution, JPEG; pairs instead of a model of the corruption.
# > - **I2SB** (arXiv:2302.05872): a Schrödinger bridge between paired ends is a Brownian bridge per pair, so training needs no simulation; inpainting, super-resolution, deblurring and JPEG on ImageNet 256×256.
# > - **ResShift** (arXiv:2307.12348): 15 steps in the latents of an autoencoder; its journal version (arXiv:2403.07319) 4 steps.
# > - **IR-SDE** (arXiv:2301.11699): chapter 11 has its algebra; **Refusion** (arXiv:2304.08291) walks it in latents.
#
# > **Going further**
# >
# > - Choose a road: `indi_path(epsilon)` for several $\epsilon$ and equal calls. Where is the untold walk's error least?
# > - I3SB (arXiv:2403.06069) adds the LR image to each step of a trained I2SB. Write its step from `bridge_step`.
# > - Zero-shot methods (chapters 13 to 15) start from noise and use the LR image at every step: the other way to spend what is known.
#
# Eight [exercises](../exercises/12_corruption_spaces.ipynb) wait.

# %% [markdown]
# ## Recap
#
# 1. **Undo:** algorithm 2 changes the state by the change of the corruption; a restorer's errors enter only as much as $C$ changes, and not at all for $C = z_0 + t\,d$. For a fade the result is the mean of all answers.
# 2. **Predict:** without noise one start has one answer; with noise $\delta$ the decision falls at $1-t\approx\delta$, and an even grid jumps over it.
# 3. **Train:** the score holds $C_t\hat z_0$ only, so the loss belongs inside $C_t$; outside, a limited restorer gets the score wrong where the blur is strong.
# 4. **Walk:** one step of InDI is regression; more steps go down the plane, without noise along its edge.
# 5. **Place:** InDI, I2SB, OT-ODE and ResShift take one step, `bridge_step`; with the share $p$ of $z_1$ the noise is $0$, $\kappa\sqrt p$, $\sqrt{Tp(1-p)}$ or $\lambda\sqrt{p(2-p)}$, and the rest is clocks.
# 6. **Tell:** told $z_1$, a bridge is plain diffusion on its road; untold it finds real images, but not those that belong to $z_1$.
# 7. **Decide:** noise is hard to beat; other corruptions pay for one good answer, for few steps, or where a network finds them easier.
#
# Next: projections that turn a model without any training for it into a super-resolver.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Bansal et al., *Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise*, arXiv:2208.09392.
# - Daras et al., *Soft Diffusion: Score Matching for General Corruptions*, arXiv:2209.05442.
# - Delbracio, Milanfar, *Inversion by Direct Iteration: An Alternative to Denoising Diffusion for Image Restoration* (InDI), arXiv:2303.11435.
# - Liu et al., *I²SB: Image-to-Image Schrödinger Bridge*, arXiv:2302.05872.
# - Yue, Wang, Loy, *ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting*, arXiv:2307.12348; *Efficient Diffusion Model for Image Restoration by Residual Shifting*, arXiv:2403.07319.
# - Luo et al., *Image Restoration with Mean-Reverting Stochastic Differential Equations* (IR-SDE), arXiv:2301.11699; *Refusion*, arXiv:2304.08291.
# - Freirich, Michaeli, Meir, *A Theory of the Distortion-Perception Tradeoff in Wasserstein Space*, arXiv:2107.02555.
# - Wang et al., *Implicit Image-to-Image Schrödinger Bridge for Image Restoration* (I3SB), arXiv:2403.06069.
