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
# # 16 Colour shift: who tinted my picture?
#
# You train a diffusion model, and its pictures are sharp, plausible and slightly green. Or pink. Or too dark, each one differently. "Train longer" says one forum, "post-process" says another, "use v-prediction" a third. In this chapter you tint pictures on purpose, in several ways, find out where on the way from noise to image the tint is made, and then price every cure: what it removes, and what it takes away that was right.
#
# ## What you will be able to do
#
# 1. **Measure** a colour shift, in grey levels and in a unit made for eyes, with error bars.
# 2. **Explain** why colour is decided first, and what becomes of an error on the way.
# 3. **Predict** in closed form what a chain that ends with $\bar\alpha_T = 0.36$ does to the mean colour, and what clipping does.
# 4. **Weight** a loss by noise level (eps, v, P2), and recognise a weight on the wrong error.
# 5. **Repair** a finished image by AdaIN, wavelet exchange or back-projection.
# 6. **Choose** a cure by its cost.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) (the chain), [chapter 05](05_score_based_models.ipynb) (eps, $z_0$ and v), [chapter 09](09_sr3.ipynb) (SR3), [chapter 01](01_super_resolution_basics.ipynb) (pseudo-inverse), [chapter 02](02_image_quality.ipynb) (sliced Wasserstein distance for *textures*, LR-PSNR).
#
# **Reading time**: 60 minutes. Running time: about 20 s on two cores.
# **Survey section**: colour shifting (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/16_color_shift.ipynb), worked in [solutions](../solutions/16_color_shift.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $y$, $x$, $\hat y$ | `hr`, `lr`, `sr` | HR image, LR image, a model's answer, in [0, 1] |
# > | $z_t = \alpha_t z_0 + \sigma_t\epsilon$ | `z` | the noisy state, with $z_0 = 2y - 1$ |
# > | $\bar\alpha_t = \alpha_t^2$ | `schedule.alpha(t) ** 2` | DDPM's cumulative product; the survey's $\gamma_t$ |
# > | $\mathrm{SNR} = \alpha_t^2/\sigma_t^2$ | `schedule.log_snr(t)` (its log) | signal-to-noise ratio |
# > | $\lambda_k$ | `lam` | variance of the images' coordinate at spatial frequency $k$ |
# > | $r$ | `share` | the share of a coordinate that a denoiser reads off the state |
# > | $x\!\uparrow$, $A$, $A^+$ | `resize(lr, 4)`, `operator`, `.pinv` | bicubic enlargement; what makes $x$ of $y$; its pseudo-inverse |
# >
# > *Cast*: a wrong mean colour. *Shift*: the size of one image's cast. *Tint*: a cast that all images share. Grey levels are 1/255.

# %%
import json
from importlib import resources

import torch
import torch.nn.functional as F
from scipy.fft import dctn, idctn
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.color import adain_fix, back_projection, low_frequencies, p2_weight, wavelet_fix
from tutorial_lib.data import faces
from tutorial_lib.degradations import degrade
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.metrics import channel_shifts, color_shift, lr_consistency, psnr, sliced_wasserstein
from tutorial_lib.networks.unet import UNet
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Bicubic
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import from_betas, log_snr_times, uniform_times, vp_cosine, zero_terminal_snr
from tutorial_lib.sr3 import with_condition
from tutorial_lib.steps import forward_step
from tutorial_lib.super_resolution import super_resolve

double = torch.float64

# %% [markdown]
# ## 1. A tinted face
#
# Here is a small SR3, complete: faces from 4×4 to 16×16 pixels, a small U-Net that is told the enlarged LR face and learns to predict the noise, DDPM's thousand betas. We train it for 160 steps of 16 faces, which is short, and draw.


# %%
linear = from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=double))  # DDPM's


def pairs(count, seed):
    hr = to_uint8(faces(count, 16, seed=seed).images).float() / 255
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


def told(lr):
    """The enlarged LR face, folded to the network's 8x8 grid."""
    return F.pixel_unshuffle(2 * resize(lr, 4) - 1, 2)


def train(kind, steps, seed=0, batch=16):
    """A U-Net trained to predict `kind` for so many steps."""
    torch.manual_seed(seed)
    network, generator = UNet(3, 3, 12, channels=(48, 64), blocks=1, fold=2), torch.Generator().manual_seed(seed)
    denoiser, optimizer = NetworkDenoiser(network, kind, linear), torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        index = torch.randint(len(train_hr), (batch,), generator=generator)
        z_0, cond = 2 * train_hr[index] - 1, told(train_lr[index])
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)).double() / batch
        eps = torch.randn(z_0.shape, generator=generator)
        z = forward_step(z_0, linear, 0.0, t, lambda _, eps=eps: eps)
        loss = (network(*denoiser.inputs(z, t), cond) - denoiser.target(z_0, eps, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def conditioned(network, kind, lr):
    """The denoiser that is told the LR faces."""
    return with_condition(NetworkDenoiser(network, kind, linear), told(lr))


def sample(denoiser, count=32, seed=0):
    """DDPM in 20 steps, z_0 clipped to [-1, 1] at every step, as SR3's public code does; faces in [0, 1]."""
    noise = standard_normal(seed)
    start = noise(torch.empty(count, 3, 16, 16))
    states = ddim(lambda z, t: denoiser(z, t).clamp(-1, 1), linear, start, uniform_times(20), eta=1.0, noise=noise)
    with torch.no_grad():
        return ((last(states) + 1) / 2).clamp(0, 1)


# %%
train_hr, train_lr = pairs(1024, 0)
hr, lr = pairs(32, 2024)
short_eps = conditioned(train("eps", 160), "eps", lr)
tinted = sample(short_eps)
fixed = adain_fix(tinted, lr)
plots.image_grid(
    [*tinted[:6].split(1), *fixed[:6].clamp(0, 1).split(1), *hr[:6].split(1)],
    title="Trained for too short a time: a greenish tint, and a cast of each face's own; one line repairs the mean; below, the originals",
    alt="Three rows of six small faces. First row: noisy faces in wrong colours, one greenish, one reddish, one too dark. Second row, after the fix: the same faces with right average colours, but pale. Third row: the originals, clear and full of contrast.",
    zoom=8,
    columns=6,
)

# %%
for name, sr in {"as sampled": tinted, "after adain_fix": fixed}.items():
    contrast = (sr.std((2, 3)) / hr.std((2, 3))).mean()
    print(f"{name:16} colour shift {255 * color_shift(sr, hr).mean():5.1f} grey levels;", end="")
    print(f"  contrast {contrast:.2f} of the original's;  PSNR {psnr(sr, hr, channel='rgb').mean():.1f} dB")

# %% [markdown]
# The shift is gone, PSNR is up, and `adain_fix` is one line. Chapter over? Look at the second row again, and at *contrast*: the repaired faces are pale. The fix replaced a wrong mean by the right one, and the standard deviation by that of a 4×4 picture, which has much less of it than the original. The measure that says "cured" looks at the mean alone.
#
# Two questions remain, and they are this chapter: where did the tint come from, and what does each cure cost?
#
# ## 2. What to measure
#
# The cast of an image is the mean over its pixels of $\hat y - y$, one signed number a channel: `channel_shifts`. Its size is the **colour shift**, `color_shift`: by default the largest of the three, in image units. Blur and grain do not count, since they cancel over the image. That makes it a clean measure of one thing, and blind to all others.
#
# Equal numbers of grey levels do not look equal: five levels of red on a light wall hardly show, five levels of green on a dark one are plain. **CIELAB** bends RGB so that distances fit eyes better. RGB is made linear in light, turned into the responses X, Y, Z of a standard observer, and each of these is compressed by a cube root; then $L^*$ is lightness from 0 to 100, $a^*$ runs from green to red and $b^*$ from blue to yellow. The length of $(\Delta L^*, \Delta a^*, \Delta b^*)$ is the colour difference $\Delta E$ of 1976. A $\Delta E$ of about 2.3 can just be seen (Mahy and others, 1994), side by side and on flat patches (→ Exercise 16.1). So the unit of `color_shift(..., space="lab")` is nearly half of a "just noticeable".

# %% tags=["nbval-check-output"]
casts = {"+5 red": (5, 0, 0), "+5 green": (0, 5, 0), "+5 blue": (0, 0, 5), "+5 all": (5, 5, 5)}
places = [(name, levels, 0.5) for name, levels in casts.items()]
places += [("+5 red, light", (5, 0, 0), 0.85), ("+5 green, dark", (0, 5, 0), 0.1), ("luma kept", (9, -6, 7.6), 0.5)]
for name, levels, brightness in places:
    grey = torch.full((1, 3, 24, 24), brightness, dtype=double)
    cast = grey + torch.tensor(levels, dtype=double).view(1, 3, 1, 1) / 255
    assert_close(255 * channel_shifts(cast, grey)[0], torch.tensor(levels, dtype=double))
    line = ", ".join(f"{v:+.2f}" for v in channel_shifts(cast, grey, "lab")[0].tolist())
    print(
        f"{name:14} rgb {255 * color_shift(cast, grey).item():4.1f} levels   Delta E {color_shift(cast, grey, 'lab').item():5.2f}",
        end="",
    )
    print(
        f"  (L, a, b: {line})   PSNR on Y {psnr(cast, grey).item():5.1f} dB, on RGB {psnr(cast, grey, channel='rgb').item():.1f} dB"
    )

# %% [markdown]
# A light wall is 0.85 here, a dark one 0.1, the others are medium grey. Read the last row: a purple cast, well visible, that the PSNR of super-resolution papers hardly sees, because it looks at luma only. **Whoever reports Y-PSNR cannot see colour shift.** In this chapter PSNR is over RGB.
#
# Now measure what shift *is* in our tinted faces: the same for all faces, or a different one for each? And if different: does it belong to the face, or to the noise? Draw every face six times, with other noise.

# %%
again = torch.stack([255 * channel_shifts(sample(short_eps, seed=n), hr) for n in range(6)])  # (noise, face, channel)
of_face, own = again.mean(0), 255 * hr.mean((2, 3))
by_noise = again.var(0).mean(0)
by_face = of_face.var(0) - by_noise / len(again)  # without what is left of the noise in a mean of six
for c, name in enumerate(("red", "green", "blue")):
    (var, cov), _ = torch.stack([own[:, c], of_face[:, c]]).cov().tolist()
    print(f"{name:6} shared by all {of_face[:, c].mean():+5.1f} +- {of_face[:, c].std() / 32**0.5:.1f};", end="")
    print(f"  spread by face {by_face[c].sqrt():4.1f}, by noise {by_noise[c].sqrt():3.1f} grey levels;", end="")
    print(f"  face's cast against its own colour: slope {cov / var:+.2f}, correlation", end="")
    print(f" {torch.stack([own[:, c], of_face[:, c]]).corrcoef()[0, 1]:+.2f}")
print(f"Delta E of a face, on average: {color_shift(tinted, hr, 'lab').mean():.1f}")

# %% [markdown]
# Three parts: a tint that all share, a part that belongs to the face and comes back with other noise, and a part that changes with the noise. The second is the largest spread, and it is no accident: faces brighter than the mean come out too dark, darker ones too bright. Of what a face's colour differs from the mean face's, about a quarter is lost (less in blue). So subtracting "the model's cast" would leave most of the shift. How does a model that is told $x$ come to ignore a part of it, and how does noise come to decide?
#
# ## 3. Exact: colour is low frequency, and low frequencies are decided first
#
# Photos have a spectrum. Turn a piece of 32×32 pixels into its cosine coefficients (an orthonormal change of axes, so diffusion does not notice it: chapter 11); coefficient $(0, 0)$ is $32\times$ the mean colour, the others are waves of growing frequency $k$. Their variance $\lambda_k$ over many pieces falls about like $1/k^2$:

# %%
names = ("chelsea", "china", "astronaut", "coffee", "flower", "rocket")
size = 32
pieces = torch.cat(
    [(2 * photo(name) - 1)[0].unfold(1, size, 24).unfold(2, size, 24).reshape(-1, size, size) for name in names]
)
waves = torch.from_numpy(dctn(pieces.double().numpy(), axes=(1, 2), norm="ortho"))
variance = (waves - waves.mean(0)).square().mean(0)
index = torch.arange(size, dtype=double)
k = (index[:, None] ** 2 + index**2).sqrt()
ring = k.round().long()
by_ring = torch.stack([variance[ring == n].mean() for n in range(size)])
c = (by_ring[1:] * index[1:] ** 2).log().mean().exp()
print(
    f"variance of the mean colour's coefficient: {by_ring[0]:.0f}; of k = 1: {by_ring[1]:.1f}; of k = 31: {by_ring[31]:.4f}"
)
plots.curves(
    index[1:],
    {"photos": by_ring[1:], "a constant over $k^2$": c / index[1:] ** 2},
    title=f"The variance of photos falls with frequency, {by_ring[1] / by_ring[31]:.0f}-fold from $k = 1$ to 31, a little faster than $1/k^2$",
    alt=f"Variance of cosine coefficients against frequency 1 to 31 on logarithmic axes: a falling line from {by_ring[1]:.1f} to {by_ring[31]:.4f}, a little steeper than the straight line of a constant over k squared, from {c:.1f} to {c / 31**2:.4f}.",
    xlabel="frequency $k$, half periods in 32 pixels",
    ylabel="variance $\\lambda_k$",
    logx=True,
    logy=True,
    height=340,
)

# %% [markdown]
# The mean colour stands far above that line, and everything below hangs on it. Take the Gaussian with these variances as the law of images. Each coefficient is then a problem for itself: $z_0 \sim N(m, \lambda)$, $z_t = \alpha z_0 + \sigma\epsilon$, and the best denoiser is a weighted mean of what is known beforehand and what is seen (Wiener's filter):
#
# $$\mathbb E[z_0\mid z_t] = (1 - r)\,m + r\,\frac{z_t}{\alpha}, \qquad r = \frac{\alpha^2\lambda}{\alpha^2\lambda+\sigma^2} = \operatorname{sigmoid}\big(\log\mathrm{SNR} + \log\lambda\big).$$
#
# $r$ is the **share** that is read off the state. One half of it is reached where $\log\mathrm{SNR} = -\log\lambda$: the larger a coefficient's variance, the more noise it survives, and the *earlier* on the way from noise to image it is decided.

# %%
log_snr = torch.linspace(-12, 10, 111, dtype=double)
shown = {"mean colour": by_ring[0], "$k = 1$": by_ring[1], "$k = 5$": by_ring[5], "$k = 31$": by_ring[31]}
share = {name: torch.sigmoid(log_snr + value.log()) for name, value in shown.items()}
short = from_betas(torch.linspace(1e-4, 0.02, 100, dtype=double))  # the same betas, but only a hundred
stable = from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=double) ** 2)  # Stable Diffusion's
ends = {"DDPM": linear, "Stable Diffusion": stable, "100 betas": short}
for name, schedule in ends.items():
    print(
        f"{name:17} ends with alpha-bar_T = {schedule.alpha(1.0).item() ** 2:.2g}, log-SNR {schedule.log_snr(1.0).item():.2f}"
    )
plots.curves(
    log_snr,
    share,
    vertical={f"end of {name}": s.log_snr(1.0).item() for name, s in ends.items()},
    title="What is read off the state: the mean colour first, fine detail last",
    alt="Four rising S-shaped curves of the share r against log-SNR. "
    + " ".join(f"{name} reaches one half at {-value.log():.1f}." for name, value in shown.items())
    + f" Vertical lines mark where three schedules end: DDPM at -10.1, where all curves are near zero, Stable Diffusion at -5.4, where the mean colour is at {torch.sigmoid(stable.log_snr(1.0) + by_ring[0].log()):.2f}, and 100 betas at -0.6, where it is at one.",
    xlabel="log-SNR: noise on the left, image on the right",
    ylabel="share $r$",
    height=360,
)

# %% [markdown]
# The vertical lines are where chains *begin* to sample. DDPM's thousand betas begin left of everything. The same betas, but only a hundred of them (a common slip: $T$ lowered, $\beta$ not rescaled), end with $\bar\alpha_T = 0.36$, where a denoiser takes the mean colour from the state nearly whole. We come to that in a moment.
#
# Size matters as well. The coefficient of the mean is $N$ times the mean colour of an $N\times N$ image, so $\lambda_0 = N^2 s^2$ with $s$ the spread of mean colours, and every doubling of $N$ moves its curve to the left by $\log 4$:

# %% tags=["nbval-check-output"]
s = by_ring[0].sqrt() / size
for n in (16, 32, 64, 256, 1024):
    half = -2 * (n * s).log().item()
    print(
        f"{n:4} x {n:<4} mean colour half decided at log-SNR {half:6.1f}; read off at the end of the chain of", end=""
    )
    for name in ("DDPM", "Stable Diffusion"):
        print(
            f" {name}: {torch.sigmoid(ends[name].log_snr(1.0) - half).item():.2f}", end=";" if name == "DDPM" else "\n"
        )

# %% [markdown]
# This is how an *untold* model that was fine at 64 pixels can fail at 256 with the same schedule (models that are told $x$: next section): what is pure noise for a small image still shows the mean colour of a large one. DDPM's end shows 0.04 of it at 64 pixels, 0.42 at 256. (Stable Diffusion's latents are 64×64, and their statistics are not those of photos; read its column as an order of magnitude.)
#
# <details><summary><b>Question.</b> You have the same photo in 256×256 pixels and, averaged over blocks of 4, in 64×64. What would have to happen to the noise level so that both denoisers see the mean colour equally well?</summary>
#
# The mean of $N^2$ noise values has a standard deviation of $\sigma/N$. So the larger photo needs $\sigma/\alpha$ four times as large: log-SNR lower by $2\log 4 = 2.8$. Shifting schedules with image size is the proposal of Hoogeboom and others (arXiv:2301.11093).
# </details>

# %% [markdown]
# ## 4. Exact: a chain that begins in the wrong state
#
# Sampling begins with $z_T \sim N(0, 1)$, since nothing else is at hand. Right would be $N(\alpha_T m,\ \alpha_T^2\lambda + \sigma_T^2)$. For a Gaussian coefficient and many steps you can follow the mistake to the end. Let $r_T$ be the share at the start. DDIM's map from $z_T$ to $z_0$ is affine, $z_0 = m + \sqrt{\lambda/(\alpha_T^2\lambda+\sigma_T^2)}\,(z_T - \alpha_T m)$; DDPM draws $z_0$ from the posterior given $z_T$. Put in $z_T\sim N(0,1)$:
#
# $$\text{DDIM:}\quad \mathbb E z_0 = (1 - \sqrt{r_T})\,m,\quad \operatorname{Var} z_0 = \frac{r_T}{\alpha_T^2}; \qquad\quad \text{DDPM:}\quad \mathbb E z_0 = (1 - r_T)\,m,\quad \operatorname{Var} z_0 = \lambda(1-r_T) + \frac{r_T^2}{\alpha_T^2}.$$
#
# Where $r_T$ is near one, that is, for the mean colour, **the mean is lost whole** and the variance becomes $1/\alpha_T^2$, whatever it was in the data. Where $r_T$ is near zero the mean is kept; DDPM keeps the spread as well, DDIM multiplies it by $1/\sigma_T$. Check it with the samplers themselves (`affine_law` gives their exact output law for an affine denoiser):

# %% tags=["nbval-check-output"]
lams = torch.stack(list(shown.values()))  # the four coefficients of the last figure
m = torch.full((4,), 3.0, dtype=double)
law = Gaussian(m, torch.diag(lams))


def sampled_law(schedule, eta, n=400):
    """Exact mean and variance of what n steps put out, started in N(0, 1)."""
    denoiser, grid = denoiser_for(law, schedule), uniform_times(n)

    def run(noise):
        return last(ddim(denoiser, schedule, noise(torch.empty(1, 4, dtype=double)), grid, eta, noise))

    centre, covariance = affine_law(run, 4)
    return centre, covariance.diagonal()


alpha, worst = short.alpha(1.0), {"mean": 0.0, "spread": 0.0}
r = torch.sigmoid(short.log_snr(1.0) + lams.log())
formulas = {0.0: (m * (1 - r.sqrt()), r / alpha**2), 1.0: (m * (1 - r), lams * (1 - r) + (r / alpha) ** 2)}
for eta, name in ((0.0, "DDIM"), (1.0, "DDPM")):
    centre, found = sampled_law(short, eta)
    assert_close(centre, formulas[eta][0], rtol=0.01, atol=0.01)
    assert_close(found.sqrt(), formulas[eta][1].sqrt(), rtol=0.05, atol=0)
    worst["mean"] = max(worst["mean"], (centre - formulas[eta][0]).abs().max().item())
    worst["spread"] = max(worst["spread"], ((found / formulas[eta][1]).sqrt() - 1).abs().max().item())
    print(f"{name} from alpha-bar_T = 0.36: of a mean of 3 is left", [round(v, 2) for v in centre.tolist()], end="")
    print("  spread, relative to the data's", [round(v, 2) for v in (found / lams).sqrt().tolist()])
print(f"samplers (400 steps) and formulas differ in the means by at most {worst['mean']:.3f}", end="")
print(f", in the spreads by at most {100 * worst['spread']:.1f} %;  1/sigma_T = {1 / short.sigma(1.0).item():.2f}")

# %% [markdown]
# From left to right: mean colour, $k = 1$, $k = 5$, $k = 31$. The colour is gone; $k = 5$ has lost more than a third of its mean with DDIM, an eighth with DDPM; the finest detail keeps its mean nearly whole, but with DDIM its spread is a quarter too large. The spreads fall short of the formulas by a few per cent, most in the finest detail, since 400 steps are not infinitely many; the same shortfall shows in the next cell, and is no flaw of the cure there. That is the failure that Lin and others (arXiv:2305.08891) found in Stable Diffusion: pictures of medium brightness only. The cure is theirs as well: shift and stretch $\alpha$ until $\alpha_T = 0$, so that pure noise *is* the right start (→ Exercises 16.6 and 16.7). It needs a prediction other than eps, for at $\alpha = 0$ one cannot divide by $\alpha$; v works.

# %% tags=["nbval-check-output"]
terminal = zero_terminal_snr(short)
for eta, name in ((0.0, "DDIM"), (1.0, "DDPM")):
    centre, found = sampled_law(terminal, eta)
    assert_close(centre, m, rtol=0, atol=1e-6)
    print(f"{name}, zero-terminal: mean", [round(v, 4) for v in centre.tolist()], end="")
    print("  spread, relative to the data's", [round(v, 2) for v in (found / lams).sqrt().tolist()])

# %%
colour = torch.tensor([0.55, 0.1, -0.45], dtype=double)  # the mean colour of a set of orange pictures, as a state


def wiener(schedule):
    """The exact denoiser of Gaussian pictures with a spectrum c / k^2 and this mean colour, in cosine coefficients."""
    lam = torch.where(k > 0, c / k.clamp(min=1) ** 2, by_ring[0])
    centre = torch.zeros(1, 3, size, size, dtype=double)
    centre[..., 0, 0] = size * colour

    def denoiser(z, t, cond=None):
        a, s = schedule.alpha(t), schedule.sigma(t)
        return centre + a * lam / (a**2 * lam + s**2) * (z - a * centre)

    return denoiser


def pictures(schedule, n=6):
    """The same noise in all three channels, so that textures are grey."""
    start = standard_normal(3)(torch.empty(n, 1, size, size, dtype=double)).expand(-1, 3, -1, -1)
    z = last(ddim(wiener(schedule), schedule, start, uniform_times(60)))
    return torch.from_numpy(idctn(z.numpy(), axes=(2, 3), norm="ortho")).add(1).div(2)


plots.image_grid(
    [*pictures(terminal).clamp(0, 1).split(1), *pictures(short).clamp(0, 1).split(1)],
    title="Orange clouds from an exact model, and what it draws from a wrong start: grey ones, all alike",
    alt="Two rows of six cloudy pictures. Above, zero-terminal: orange and brown clouds, some bright, some dark. Below, from alpha-bar of 0.36: the same textures, all in medium grey.",
    zoom=4,
    columns=6,
)

# %% [markdown]
# A network can show it too. `faces-unconditional-32` (chapter 04) is told the noise level and not the time, so it can be sampled on any schedule; we only change where the chain ends.

# %%
network = NetworkDenoiser(load_pretrained("faces-unconditional-32"), "v", vp_cosine())
true = faces(512, 32, seed=5).images
drawn = {}
for name, schedule in {"zero-terminal": terminal, "alpha-bar_T = 0.36": short}.items():
    denoiser = NetworkDenoiser(network.network, "v", schedule)
    noise = standard_normal(0)
    with torch.inference_mode():
        states = ddim(denoiser, schedule, noise(torch.empty(24, 3, 32, 32)), uniform_times(16))
        drawn[name] = (last(states) + 1) / 2
for name, images in {"true faces": true, **drawn}.items():
    colours = 255 * images.mean((2, 3))
    print(f"{name:19} mean colour {', '.join(f'{v:5.1f}' for v in colours.mean(0).tolist())}", end="")
    print(f"   spread of brightness {colours.mean(1).std():.1f} grey levels")
print(f"predicted for the wrong start: mean 127.5, spread {127.5 / short.alpha(1.0).item() / 32 / 3**0.5:.1f}")

# %%
plots.image_grid(
    [*drawn["zero-terminal"][:8].clamp(0, 1).split(1), *drawn["alpha-bar_T = 0.36"][:8].clamp(0, 1).split(1)],
    title="A network that knows faces, from the right start and from the wrong one",
    alt="Two rows of eight faces drawn by the same network. Above, backgrounds and clothes in many light and dark colours. Below, from alpha-bar of 0.36, duller faces of medium brightness.",
    zoom=3,
    columns=8,
)

# %% [markdown]
# The mean colour went close to medium grey (green is a little above) and the spread of brightness fell to the predicted size: $1/\alpha_T$ for the coefficient, divided by 32 for the mean of 32×32 pixels, and by $\sqrt3$ for the mean of three channels that are now independent. Backgrounds have become patchy, as if each place had its own idea of the colour.
#
# Everybody who draws from an *unconditional* model has to care. But super-resolution models are told $x$, and $x$ knows the mean colour. What is left for them is the **posterior's** variance, which for low frequencies is next to nothing; then $r_T \approx 0$ by the same formula, and a wrong start does no harm:

# %% tags=["nbval-check-output"]
y, low = pieces[:, None], resize(pieces[:, None], 1 / 4)
left = torch.from_numpy(dctn((y - resize(low, 4)).double().numpy(), axes=(2, 3), norm="ortho"))[:, 0]
told_lam = left.square().mean(0)
for n, name in ((0, "mean colour"), (1, "k = 1"), (5, "k = 5")):
    before, after = variance[ring == n].mean(), told_lam[ring == n].mean()
    print(
        f"{name:12} variance {before.item():8.3f}, once x is known at most {after.item():.5f};  share r_T {torch.sigmoid(short.log_snr(1.0) + before.log()).item():.3f} -> {torch.sigmoid(short.log_snr(1.0) + after.log()).item():.4f}"
    )

# %% [markdown]
# ("At most", since this is the squared error of the bicubic enlargement; the best guess from $x$ has less.) So an exact SR model never shifts colours, from whatever start. Ours does, and it even began with DDPM's thousand betas. There must be a second cause, and it has to do with learning.
#
# ## 5. Exact: where an error of the network goes
#
# Let a denoiser be exact except for a constant offset $\delta$ in its answer $\hat z_0$ at *one* step. What of it arrives in the sample? One step $t\to s$ passes on $\alpha_s\hat z_0 + \sigma_s\,(z_t-\alpha_t\hat z_0)/\sigma_t$, so the offset enters the state with the factor $\alpha_s - \sigma_s\alpha_t/\sigma_t$; then later denoisers look at the state and believe it, or not. Below, one run per step with $\delta$ there, for four coefficients: the mean colour of an untold model, the same when $x$ is told and *believed*, and two frequencies.

# %%
n = 81
grid = log_snr_times(linear, n, t_min=1e-4)  # even steps of log-SNR
kinds = {
    "mean colour": by_ring[0],
    "$k = 5$": by_ring[5],
    "$k = 31$": by_ring[31],
    "mean colour, $x$ believed": told_lam[0, 0],
}
values = torch.stack(list(kinds.values()))


def offset_at(z, t, cond=None):
    """The exact denoiser of N(0, values), with 1 added in run i at step i; z is (n, 4)."""
    a, s = linear.alpha(t), linear.sigma(t)
    return a * values / (a**2 * values + s**2) * z + (grid[:-1, None] == t)


arrived = last(ddim(offset_at, linear, torch.zeros(n, 4, dtype=double), grid))[:-1]
levels = linear.log_snr(grid[:-2])
density = {name: arrived[:, i] / (levels[1] - levels[0]) for i, name in enumerate(kinds)}
print("of an offset in the mean colour arrives, per unit of log-SNR:", end="")
print(", ".join(f" {density['mean colour'][levels >= at - 0.01][0]:.2f} at {at}" for at in (-10, -7, -4, 0, 5)))
plots.curves(
    levels,
    density,
    title="How long an error is remembered: the mean colour keeps nearly all from log-SNR -4 on, fine detail the last only",
    alt="What arrives in the sample of an offset made at one log-SNR. "
    + " ".join(
        f"{name}: {v[0]:.2f} at log-SNR -10, {v[levels > -5][0]:.2f} at -5, {v[levels > 0][0]:.2f} at 0, {v[levels > 5][0]:.2f} at 5."
        for name, v in density.items()
    ),
    xlabel="log-SNR at which the offset is made",
    ylabel="what arrives, per unit of log-SNR",
    ylim=(-0.02, 0.75),
    height=360,
)

# %% [markdown]
# First the height of the plateau. Where the state is believed, a step of width $\Delta$ in log-SNR brings in the share $1 - e^{-\Delta/2}$ of an offset, which is about $\Delta/2$ for a narrow step. So 0.47 means: everything that came in stayed. The mean colour has a long memory: what is made below log-SNR $-7$ is mostly forgotten, but from about $-4$ on an offset stays in the picture for good, since every later denoiser *believes the state*. Fine detail remembers the last few steps only. And a model that believes $x$ instead remembers nothing: whatever was wrong before is forgotten, because each later denoiser asks $x$ again (only an offset at the very last step, not drawn, arrives whole).
#
# That is the second cause. **A network has to learn to ask $x$ for the colour.** As long as it asks too little, it reads colour off the state like an untold model, and fills up with a colour that it gives to all. So a network trained too briefly takes a common colour where it should take $x$'s (section 2's first two parts), and adds the noise's (the third).
#
# And what does its loss tell it there? Write the squared error of eps in terms of $\hat z_0$:
#
# $$\|\epsilon - \hat\epsilon\|^2 = \mathrm{SNR}\,\|z_0 - \hat z_0\|^2, \qquad \hat z_0 = \frac{z_t - \sigma_t\hat\epsilon}{\alpha_t}.$$
#
# At DDPM's first step $\sigma/\alpha$ is 157: an error of one per cent in $\hat\epsilon$, invisible in the loss, is an error of 1.6 in $\hat z_0$, more than from grey to white. The errors of v are harmless in this respect, $\|v-\hat v\|^2 = (1+\mathrm{SNR})\|z_0-\hat z_0\|^2$ where $\alpha^2+\sigma^2=1$: the weight never falls below one.
#
# **P2 weighting** (Choi and others, arXiv:2204.00227) keeps eps and multiplies its squared error by
#
# $$w(t) = \frac{1}{(k + \mathrm{SNR}(t))^{\gamma}}, \qquad k = 1,\ \gamma = \tfrac12 \text{ or } 1,$$
#
# which takes effort away from the nearly clean end (→ Exercise 16.5). For $\gamma = k = 1$ it is just $\sigma^2$. Check the library's against this definition on DDPM's own table:

# %% tags=["nbval-check-output"]
kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=double), 0)
snr_table = kept / (1 - kept)  # entry i belongs to step i + 1
steps = torch.tensor([1, 50, 250, 500, 1000])
at = steps.double() / 1000
by_table = 1 / (1 + snr_table[steps - 1])
ours = p2_weight(linear.log_snr(at))
assert_close(ours, by_table, rtol=1e-9, atol=0)
assert_close(ours, linear.sigma(at) ** 2)
assert_close(p2_weight(linear.log_snr(0.3), 0.5, 2.0), (2 + snr_table[299]) ** -0.5, rtol=1e-9, atol=0)
print("P2 at steps", steps.tolist(), "of 1000:", [round(v, 4) for v in ours.tolist()])
print(
    f"eps to z_0 at the first sampling step: an error grows {(linear.sigma(1.0) / linear.alpha(1.0)).item():.0f}-fold",
    f"(with only 100 betas: {(short.sigma(1.0) / short.alpha(1.0)).item():.1f}-fold)",
)

# %%
span = torch.linspace(-9, 9, 91, dtype=double)
weights = {  # on the squared error of z_0
    "eps": span.exp(),
    "eps with P2": span.exp() * p2_weight(span),
    "v": 1 + span.exp(),
    "P2 put on the error of $z_0$": p2_weight(span),
    "eps with P2 looked up backwards": span.exp() * p2_weight(-span),
}
assert_close(p2_weight(span, kind="z_0"), weights["eps with P2"])
plots.curves(
    span,
    weights,
    title="What each loss charges for the same error of $z_0$, by noise level",
    alt="Weight on the squared error of z_0 against log-SNR, logarithmic. Eps rises as a straight line from a ten-thousandth to ten thousand. Eps with P2 follows it on the left and levels off at one on the right. v is one on the left and follows eps on the right. P2 on the error of z_0 is one on the left and falls on the right. P2 looked up backwards lies far below eps on the left.",
    xlabel="log-SNR",
    ylabel="weight on $|z_0 - \\hat z_0|^2$",
    logy=True,
    ylim=(1e-8, 1e5),
    height=380,
)

# %% [markdown]
# Only the shape of a curve counts, since Adam ignores a common factor. On the left, at high noise, eps and eps with P2 coincide: P2 does not raise the weight of high noise, it lowers that of low noise, so the *share* of high noise grows. v is another thing: it charges for colours from the start.
#
# **Break it.** The last two curves are mistakes. P2 multiplied to the error of $z_0$ *without* converting is a loss that hardly charges for low noise at all: detail is lost. Looking the weight up by a wrong index, here at the other end of the table, takes away what little eps paid for colours. Neither raises an error, both train. Plot the weight that your code really applies, against log-SNR, and compare with this figure.
#
# <details><summary><b>Question.</b> What would happen if you multiplied the v-loss by the factor $1/(1+\mathrm{SNR})$?</summary>
#
# $(1 + \mathrm{SNR})\cdot\frac{1}{1+\mathrm{SNR}} = 1$: the plain loss of $z_0$. A good loss for colours, but it is not P2; that would be $\mathrm{SNR}/(1+\mathrm{SNR})$, charging next to nothing for high noise, as eps does.
# </details>
#
# ## 6. Where our network makes its tint
#
# Now look inside the network of section 1, and beside it one trained as briefly on v. Noise a face to a level, ask for $\hat z_0$, and compare the mean colours: the root mean square over faces of the mean of $\hat z_0 - z_0$, for eps also after the clipping to $[-1, 1]$ that the sampler does.

# %%
short_v = conditioned(train("v", 160), "v", lr)


def offsets(denoiser, times):
    """Rms over faces and channels of the mean over pixels of (z_0 hat - z_0), in grey levels, at each time."""
    noise, z_0 = standard_normal(1), 2 * hr - 1
    with torch.inference_mode():
        wrong = [denoiser(forward_step(z_0, linear, 0.0, t, noise), t) - z_0 for t in times]
    return [127.5 * w.mean((2, 3)).square().mean().sqrt().item() for w in wrong]


times = linear.time_at(torch.linspace(-10, 4, 15, dtype=double)).tolist()
inside = {
    "eps, 160 steps": offsets(short_eps, times),
    "eps, clipped": offsets(lambda z, t: short_eps(z, t).clamp(-1, 1), times),
    "v, 160 steps": offsets(short_v, times),
}
for name, row in inside.items():
    print(f"{name:15} " + ", ".join(f"{row[i]:6.1f} at {i - 10}" for i in (0, 3, 5, 8, 10, 12, 14)))
plots.curves(
    linear.log_snr(torch.tensor(times)),
    inside,
    title="The network's error in the mean colour: with eps huge at high noise, with v small everywhere",
    alt="Error of the mean colour in grey levels against log-SNR, logarithmic. "
    + " ".join(
        f"{name}: {row[0]:.0f} at log-SNR -10, {row[5]:.0f} at -5, {row[-1]:.1f} at 4." for name, row in inside.items()
    ),
    xlabel="log-SNR",
    ylabel="grey levels",
    logy=True,
    height=340,
)

# %% [markdown]
# At high noise the eps network's idea of the mean colour is off by more than the whole range of an image, and it falls roughly in proportion to $\sigma/\alpha$, as the formula says. The v network, same architecture, same faces, same number of steps, has no such slope.
#
# But which of these errors make the tint? Section 5 says that the largest are mostly forgotten. Ask the sampler: let the two networks take turns. On one range of log-SNR one of them answers, everywhere else the other.


# %%
def turns(low, high, one, other):
    """`one` answers from log-SNR low to high, `other` elsewhere."""
    return lambda z, t: (one if low <= linear.log_snr(t) < high else other)(z, t)


print("colour shift in grey levels; log-SNR    eps there, v elsewhere    v there, eps elsewhere")
for name, low, high in (
    ("nowhere", 0, 0),
    ("below -7", -99, -7),
    ("-7 to -2", -7, -2),
    ("-2 to 2", -2, 2),
    ("above 2", 2, 99),
):
    one, other = sample(turns(low, high, short_eps, short_v)), sample(turns(low, high, short_v, short_eps))
    print(f"{name:>38} {255 * color_shift(one, hr).mean():25.1f} {255 * color_shift(other, hr).mean():25.1f}")
from_v = sample(short_v)
print(f"PSNR: eps {psnr(tinted, hr, channel='rgb').mean():.1f}, v {psnr(from_v, hr, channel='rgb').mean():.1f} dB")

# %% [markdown]
# The errors below $-7$, a thousand levels of them, make nothing: clipping holds them in, and what is left is forgotten. The tint is made *later*, most of it between $-2$ and 2, by errors of sixteen levels and less, which stay. Even the last three steps, above 2, do their part: they are so wide in log-SNR that each brings in a large share of its error of two or three levels. No single range makes it all. The v network's samples have a fifth of the shift, at the same number of training steps.
#
# ## 7. Clipping: a small tint that looks like a safety measure
#
# Most samplers clip $\hat z_0$ to $[-1, 1]$ at every step. For an exact denoiser of images this does nothing, for a mean of images lies in the range. A network is not exact: let its answer be $z_0 + e\,\xi$ with $\xi\sim N(0,1)$, no bias at all. Near white only the errors upward are cut, so their mean is not zero any more. With $d = (1 - z_0)/e$, the distance to the border in units of the error, and $\varphi$, $\Phi$ the normal density and distribution function,
#
# $$\mathbb E\,\operatorname{clip}(z_0 + e\,\xi) - z_0 = -e\,\big[\varphi(d) - d\,(1-\Phi(d))\big] + (\text{the same at } -1,\ \text{with } +).$$
#
# On white, $d = 0$, that is $-0.4\,e$: **clipping turns harmless noise into a tint towards grey.**

# %% tags=["nbval-check-output"]
normal = torch.distributions.Normal(torch.zeros((), dtype=double), 1)


def overshoot(d):
    """E max(xi - d, 0) for a standard normal xi."""
    return normal.log_prob(d).exp() - d * (1 - normal.cdf(d))


def clip_bias(z_0, e):
    """Closed form of E clip(z_0 + e xi, -1, 1) - z_0, in state units."""
    return e * (overshoot((1 + z_0) / e) - overshoot((1 - z_0) / e))


xi = standard_normal(2)(torch.empty(1_000_000, dtype=double))
for level in (255, 250, 230, 128, 20):
    z_0 = torch.tensor(level / 127.5 - 1, dtype=double)
    cut = (z_0 + 0.1 * xi).clamp(-1, 1) - z_0
    error = 127.5 * cut.std() / 1000
    assert abs(127.5 * (cut.mean() - clip_bias(z_0, 0.1))) < 4 * error
    print(
        f"grey level {level:3}, errors of 0.1 (12.75 levels): bias {127.5 * clip_bias(z_0, 0.1):+.2f}, drawn {127.5 * cut.mean():+.2f} +- {error:.2f} levels"
    )

# %% [markdown]
# A snow field loses five levels, mid-grey none; and a coloured highlight, say (255, 230, 128), loses most in its brightest channel, so its hue moves too. The bias shrinks with the network's error, and that is small at the last steps, which decide. So clipping should matter little for a trained network, and for a bad one it prevents worse. The next section measures both.
#
# ## 8. Learned: causes, with error bars
#
# One network of one seed proves nothing about causes. `benchmarks/color.py` has trained section 1's network in six ways, six seeds each, up to 800 steps, and wrote down what came out. Its training is a little more careful (4096 faces, learning rate warmed up over 50 steps, clipped gradients), so its numbers are not those of section 1.
#
# *base* is eps on DDPM's betas in batches of 16. *batch of 2*, *P2* ($\gamma = k = 1$) and *v* change that one thing; *alpha-bar_T = 0.36* has only a hundred of the betas; its *zero-terminal version* changes the schedule and, as it must, the prediction to v.

# %%
record = json.loads(resources.files("tutorial_lib.data").joinpath("color.json").read_text())
cells, seeds, checkpoints = record["cells"], record["seeds"], record["checkpoints"]


def cell(name, measure="shift"):
    """(seeds,) values of one cell: "training/steps/sampling"."""
    return torch.tensor(cells[name][measure], dtype=double)


def plus_minus(values, digits=1):
    return f"{values.mean():.{digits}f} +- {values.std() / len(values) ** 0.5:.{digits}f}"


def shared(name):
    """(seeds,) the largest channel of the cast that all faces share."""
    return torch.stack([cell(name, channel) for channel in ("red", "green", "blue")]).abs().amax(0)


trainings = list(dict.fromkeys(name.split("/")[0] for name in cells))
over_time = {}
for measure in ("shift", "PSNR"):
    runs = {name: torch.stack([cell(f"{name}/{n}/as sampled", measure) for n in checkpoints]) for name in trainings}
    over_time[measure] = {name: (v.mean(1), v.std(1) / seeds**0.5) for name, v in runs.items()}

# %%
panels = []
for measure, unit, limits in (("shift", "colour shift, grey levels", (0.15, 60)), ("PSNR", "PSNR, dB", (7, 22))):
    rows = over_time[measure]
    mark = "" if measure == "shift" else "_"  # a label that begins with _ stays out of the legend: one legend for both
    panels.append(
        plots.curves(
            range(len(checkpoints)),
            {mark + name: mean for name, (mean, _) in rows.items()},
            bands={mark + name: error for name, (_, error) in rows.items()},
            title=unit,
            alt=f"{unit} against training steps, six curves.",
            xlabel="doublings of the training: 0 is 50 steps, 4 is 800",
            ylabel=unit,
            logy=measure == "shift",
            ylim=limits,
            width=460,
            height=440,
        )
    )
plots.strip(
    panels,
    title="Shift and PSNR over training, six trainings: v and zero-terminal start low, batches of 2 stay behind",
    alt="Two panels against training steps, 50 to 800, means of six seeds with standard errors. "
    + " ".join(
        f"{name}: shift {over_time['shift'][name][0][0]:.0f} falling to {over_time['shift'][name][0][-1]:.1f} grey levels, PSNR {over_time['PSNR'][name][0][0]:.1f} rising to {over_time['PSNR'][name][0][-1]:.1f} dB."
        for name in trainings
    ),
    columns=2,
)

# %%
print(f"{'':30} shift after " + ", ".join(str(n) for n in checkpoints) + " steps (mean +- standard error of six seeds)")
for name in trainings:
    print(f"{name:30} " + "   ".join(plus_minus(cell(f"{name}/{n}/as sampled")) for n in checkpoints))
print(f"\n{'':30} shift: paired difference to the base         after 800 steps")
print(f"{'':30} after 200       after 800            shared cast: levels, of the shift    PSNR")
for name in trainings:
    apart = [plus_minus(cell(f"{name}/{n}/as sampled") - cell(f"base/{n}/as sampled"), 2) for n in (200, 800)]
    end = f"{name}/800/as sampled"
    print(f"{name:30} {apart[0]:>15} {apart[1]:>15} {plus_minus(shared(end)):>18}", end="")
    print(f" {100 * shared(end).mean() / cell(end).mean():10.0f} % {plus_minus(cell(end, 'PSNR'), 2):>20} dB")

# %% [markdown]
# "Shared cast" is the largest channel of the mean cast of all faces, as shift is the largest channel of one face's. Next, sampling in other ways, without training anew: $\hat z_0$ *not clipped*; *4 steps* in place of 20; *averaged weights*, an exponential moving average over training; and an *informed start*, the noised enlargement of $x$ in place of pure noise.

# %%
print(f"{'sampling':38} shift: paired change    PSNR: paired change (dB)")
for name, ways in {
    "base": ("not clipped", "4 steps", "averaged weights"),
    "v": ("not clipped", "4 steps"),
    "batch of 2": ("averaged weights",),
    "alpha-bar_T = 0.36": ("informed start",),
}.items():
    for n in record["looked_at"]:
        for way in ways:
            change = {m: cell(f"{name}/{n}/{way}", m) - cell(f"{name}/{n}/as sampled", m) for m in ("shift", "PSNR")}
            print(
                f"{f'{name}, {n}: {way}':38} {plus_minus(change['shift'], 2):>19} {plus_minus(change['PSNR'], 2):>22}"
            )

# %% [markdown]
# Read the tables against the exact sections.
#
# - **Time.** The base's shift falls from 40 grey levels to below 3 within four doublings, while its PSNR still rises: short training is a cause, and the plainest.
# - **Prediction.** v starts at less than a third of the base's shift. After 800 steps the two are within their errors of each other: eps gets there, but late, and with 0.8 dB less PSNR.
# - **Batch.** At equal updates, batches of 2 leave more than five times the shift of the base after 800 steps. About three quarters of it is shared by all faces, a little more than for the others; a noisy last update would do that, but nothing here tests it. At equal faces seen (the base after 100) they do better.
# - **P2** has less shift after 200 steps and none the less at the end; what it keeps is PSNR, 0.9 dB more than the base.
# - **$\bar\alpha_T = 0.36$** does *no* harm here: its shift is smaller than the base's throughout. Section 4 says why it does no harm: this model is told $x$. Section 5 says why it may even help: its $\sigma/\alpha$ at the start is 1.3 and not 157. The informed start helps it early on. What zero-terminal SNR repairs is the untold case.
# - **Clipping** is no cause here. Without it the eps network after 200 steps is tinted far worse; after 800 steps, and for v, it makes no difference worth naming.
# - **Few steps** are a cause: four steps more than triple the trained base's shift. v's shift grows by two levels, while its PSNR *rises*: PSNR alone would have called that an improvement.
# - **Averaged weights** help late; early on the average lags behind and is the worse network.
#
# <details><summary><b>Question.</b> The batch of 2 after 800 steps has seen as many faces as the base after 100. Which comparison is fair?</summary>
#
# It depends on what you are short of. At equal *faces* seen (equal data and about equal time), compare with the base after 100 steps; at equal *updates*, with the base after 800. A claim about batch size that does not say which one proves little.
# </details>
#
# ## 9. Three repairs, derived
#
# A finished image $\hat y$ with a cast, and the LR image $x$, whose colours are right. All three repairs take colour from $x$ and detail from $\hat y$; they differ in where they draw the line (→ Exercises 16.2 to 16.4).
#
# **AdaIN** (`adain_fix`; StableSR, arXiv:2305.07015): give each channel $c$ the mean and *standard deviation* of the enlarged LR image,
#
# $$\hat y'_c = \frac{\hat y_c - \mu(\hat y_c)}{s(\hat y_c)}\,s(x\!\uparrow_c) + \mu(x\!\uparrow_c).$$
#
# **Wavelet exchange** (`wavelet_fix`, StableSR's other one): split both images into coarse and fine by repeated blurring with $(1, 2, 1)/4$, the taps 1, 2, 4, 8, 16 pixels apart; keep the fine part of $\hat y$, take the coarse part of $x\!\uparrow$: $\;\hat y' = \hat y - L\hat y + L\,x\!\uparrow$.
#
# **Back-projection** (`back_projection`; Irani and Peleg, 1991; chapter 01): change $\hat y$ as little as possible so that it explains $x$: $\;\hat y' = \hat y + A^+(x - A\hat y)$.


# %% tags=["nbval-check-output"]
def cut(name, top, left, size=64):
    hr = photo(name)[..., top : top + size, left : left + size]
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


def my_adain(sr, lr):
    up = resize(lr, 4)
    (m, s), (goal_m, goal_s) = ((v.mean((2, 3), True), v.std((2, 3), keepdim=True, correction=0)) for v in (sr, up))
    return (sr - m) / s * goal_s + goal_m


def my_low(image, levels=5):
    for gap in (2**n for n in range(levels)):
        for axis in (2, 3):
            n = image.shape[axis]
            place = torch.arange(n)
            before, after = (place - gap).abs(), (n - 1) - ((n - 1) - (place + gap)).abs()  # mirrored at the border
            image = image / 2 + (image.index_select(axis, before) + image.index_select(axis, after)) / 4
    return image


def my_back_projection(sr, lr, operator):
    return sr + operator.pinv(lr - operator(sr))


one, one_lr = (v.double() for v in cut("china", 100, 180, 128))
warm = 1.1 * one + torch.tensor([0.04, 0.0, -0.05], dtype=double).view(1, 3, 1, 1)
assert_close(my_adain(warm, one_lr), adain_fix(warm, one_lr))
assert_close(my_low(warm), low_frequencies(warm))
assert_close(warm - my_low(warm) + my_low(resize(one_lr, 4)), wavelet_fix(warm, one_lr))
assert_close(my_back_projection(warm, one_lr, Bicubic(4)), back_projection(warm, one_lr, Bicubic(4)))
repairs = {
    "adain_fix": adain_fix,
    "wavelet_fix": wavelet_fix,
    "back_projection": lambda sr, lr: back_projection(sr, lr, Bicubic(4)),
}
offset = torch.tensor([0.1, -0.05, 0.02], dtype=double).view(1, 3, 1, 1)
for name, repair in repairs.items():
    once, moved = repair(one, one_lr), repair(one + offset, one_lr)
    assert_close(moved, once)  # a constant offset is removed exactly, by each of them
    twice = repair(once, one_lr)
    print(
        f"{name:16} forgets an offset to {(moved - once).abs().max():.0e}; a second time changes up to {255 * (twice - once).abs().max():.4f} grey levels;",
        end="",
    )
    print(f" LR-PSNR {lr_consistency(once, one_lr, 4).item():.0f} dB")

# %% [markdown]
# All three remove a constant cast to rounding. AdaIN also removes any gain, and it and back-projection are projections: a second time changes nothing. The wavelet exchange is not, for its filter passes some frequencies by half. Only back-projection explains the LR image afterwards.
#
# ## 10. What they break on a perfect picture
#
# The honest test of a repair is a picture that needs none. Hand each of them the original:

# %%
print(f"{'the original, repaired':28} contrast    PSNR     textures (sliced W1, grey levels)")
for label, (clean, small) in {
    "face 16x16": (hr, lr),
    "cat 64x64": cut("chelsea", 100, 140),
    "roof 128x128": cut("china", 100, 180, 128),
    "portrait 256x256": cut("astronaut", 0, 100, 256),
}.items():
    for name, repair in repairs.items():
        out = repair(clean, small)
        print(
            f"{label:17} {name:16} {(out.std((2, 3)) / clean.std((2, 3))).mean():.3f} {psnr(out, clean, channel='rgb').mean():9.1f} dB {255 * sliced_wasserstein([out], [clean]).item():8.2f}"
        )

# %% [markdown]
# **AdaIN** takes contrast, because the enlarged LR image has too little: a few per cent on a portrait, a quarter on a roof that is all fine rows, a third on a 16×16 face whose LR image has 16 pixels. **Wavelet** costs little on a photo and more on small pictures: five levels reach 31 pixels to every side, and where that is too much the library stops earlier, so that more of the LR image's blur comes in. **Back-projection** leaves a perfect picture alone, up to the rounding of $x$ to 8 bits.
#
# Now a picture that needs help. Turn the controls: a cast, a gain, a repair; the red channel's histogram before and after, against the original's.

# %%
scene, scene_lr = cut("coffee", 60, 200)
CASTS = {"none": (0, 0, 0), "warm": (0.08, 0.0, -0.08), "dark": (-0.1, -0.1, -0.1), "green": (-0.04, 0.06, -0.04)}


def draw_repair(cast="warm", contrast=1.0, repair="adain_fix", channel="red"):
    """The scene with a cast and a wrong contrast, repaired; picture and histogram."""
    bad = (scene - 0.5) * contrast + 0.5 + torch.tensor(CASTS[cast]).view(1, 3, 1, 1)
    good = bad if repair == "none" else repairs[repair](bad, scene_lr)
    at = ("red", "green", "blue").index(channel)
    words = f"cast: {cast}, contrast {contrast}, {repair}: shift {255 * color_shift(bad, scene).item():.1f} to {255 * color_shift(good, scene).item():.1f} levels, PSNR {psnr(bad, scene, channel='rgb').item():.1f} to {psnr(good, scene, channel='rgb').item():.1f} dB"
    return plots.strip(
        [
            plots.image_grid(
                [bad.clamp(0, 1), good.clamp(0, 1)],
                ["before", "after"],
                title="picture",
                alt=f"A coffee cup and saucer before and after the repair; {words}.",
                columns=1,
                zoom=2,
            ),
            plots.histogram(
                {"original": scene[:, at], "before": bad[:, at], "after": good[:, at]},
                title=f"{channel} channel",
                alt=f"Three histograms of the {channel} channel; {words}.",
                xlabel="value",
                bins=40,
                width=460,
                height=300,
            ),
        ],
        title=words,
        alt=f"Left, a piece of a coffee cup and saucer before and after the repair. Right, histograms of the {channel} channel of the original, before and after. {words}.",
        columns=2,
    )


widgets.explorer(
    draw_repair,
    cast=list(CASTS),
    contrast=(0.6, 1.4, 0.1, 1.0),
    repair=["adain_fix", "wavelet_fix", "back_projection", "none"],
    channel=["red", "green", "blue"],
)

# %%
widgets.frames(
    draw_repair,
    [
        {"cast": "warm", "repair": "wavelet_fix"},
        {"cast": "none", "contrast": 1.4, "repair": "wavelet_fix"},
        {"cast": "none", "contrast": 1.4, "repair": "adain_fix"},
    ],
    title="A warm cast repaired; a wrong contrast, repaired twice",
    alt="Three panels with a piece of a coffee cup and saucer before and after and histograms. For the warm cast the wavelet exchange brings the histogram of the red channel back on the original's. For too much contrast the wavelet exchange brings back the place of the peaks but makes the histogram wider than the original's; AdaIN brings it back nearly whole.",
    columns=1,
)

# %% [markdown]
# **Break it.** *Variance for standard deviation*: the gain becomes its own square. *A repair of a clipped image*: what was cut off at white cannot be moved back. *A repair of an image rounded to 8 bits*: guess first.


# %% tags=["nbval-check-output"]
def adain_by_variance(sr, lr):
    up = resize(lr, 4)
    return (sr - sr.mean((2, 3), True)) / sr.var((2, 3), keepdim=True) * up.var((2, 3), keepdim=True) + up.mean(
        (2, 3), True
    )


bright = 0.75 * one + 0.25 + 0.12  # a pale picture with an offset that drives it over white
pale_lr = resize(0.75 * one + 0.25, 1 / 4)
truth = 0.75 * one + 0.25
outcomes = {
    "AdaIN": adain_fix(bright, pale_lr),
    "AdaIN, contrast 0.7 before": adain_fix(0.7 * bright, pale_lr),
    "AdaIN, contrast 1.3 before": adain_fix(1.3 * bright, pale_lr),
    "by variance, contrast 0.7 before": adain_by_variance(0.7 * bright, pale_lr),
    "by variance, contrast 1.3 before": adain_by_variance(1.3 * bright, pale_lr),
    "AdaIN of the image clipped to [0, 1]": adain_fix(bright.clamp(0, 1), pale_lr),
    "AdaIN of the image rounded to 8 bits": adain_fix((255 * bright).round() / 255, pale_lr),
    "wavelet": wavelet_fix(bright, pale_lr),
    "wavelet of the image clipped to [0, 1]": wavelet_fix(bright.clamp(0, 1), pale_lr),
}
print(f"share of values above white: {(bright > 1).double().mean():.2f}")
for name, out in outcomes.items():
    print(
        f"{name:40} contrast {(out.std((2, 3)) / truth.std((2, 3))).mean():.2f}   PSNR {psnr(out, truth, channel='rgb').item():.1f} dB"
    )

# %% [markdown]
# By variance the result depends on the contrast that the repair should have forgotten: test that a gain before it makes no difference after it. By luck the mistake is closest to the truth in one row: a picture that came too pale is left less pale; at 1.3 it costs 7.6 dB. One good number does not make it right. (That even the right AdaIN leaves 0.77 of this roof's contrast is its price, see above.) Rounding to 8 bits costs nothing. Clipping does, for a clipped highlight has lost its texture for good: repair *before* you clip the image. With a sampler that clips $\hat z_0$ at every step, as section 1's does, the last step's clipping has been at work already, and there is nothing left to repair before.
#
# > **Common mistakes**
# >
# > - Y-PSNR as the only score: it cannot see chroma.
# > - P2's weight on the error of $z_0$ or v, looked up by the wrong index, or the whole table in place of the entry at $t$.
# > - The number of steps $T$ lowered with $\beta$ left as it was: $\bar\alpha_T = 0.36$.
# > - A zero-terminal schedule with eps-prediction: a division by zero at the first step. A grid of times that never visits $t = T$ brings the mismatch back.
# > - AdaIN with the variance, over the batch, or with the LR image's own statistics after sharpening.
# > - The repair applied in $[-1, 1]$ with one image and in $[0, 1]$ with the other; after clipping.
# > - A repair reported by the measure that it sets to zero.
# > - A cast of the LR image taken for one of the model.
#
# ## 11. Cures of the tinted faces, priced
#
# Back to the record: what each cure makes of the base's tinted faces after 200 steps, and of the nearly clean ones after 800. Cures that train (P2, v, time) stand beside cures that repair.

# %%
prices = {f"{n}: {way}": f"base/{n}/{way}" for n in (200, 800) for way in ("as sampled", *repairs)}
prices |= {
    "200: trained with P2": "P2/200/as sampled",
    "200: trained on v": "v/200/as sampled",
    "200: averaged weights": "base/200/averaged weights",
}
prices = dict(sorted(prices.items(), key=lambda item: (item[0][:3], -cell(item[1], "lab").mean())))
print(f"{'steps: cure':26} shift left        Delta E left        PSNR            textures        contrast")
for label, name in prices.items():
    row = [plus_minus(cell(name, m), d) for m, d in (("shift", 2), ("lab", 2), ("PSNR", 2), ("W1", 2), ("contrast", 3))]
    print(f"{label:26} " + "  ".join(f"{v:>15}" for v in row))

# %%
plots.scatter(
    {
        label: ([cell(name, "lab").mean().item()], [cell(name, "W1").mean().item()])
        for label, name in prices.items()
        if label.startswith("200")
    },
    errors={
        label: ([cell(name, "lab").std().item() / seeds**0.5], [cell(name, "W1").std().item() / seeds**0.5])
        for label, name in prices.items()
        if label.startswith("200")
    },
    title="Cures after 200 steps: colour left wrong against textures left wrong",
    alt="Delta E against sliced Wasserstein distance after 200 steps. "
    + " ".join(
        f"{label}: {cell(name, 'lab').mean():.1f} and {cell(name, 'W1').mean():.1f}."
        for label, name in prices.items()
        if label.startswith("200")
    ),
    xlabel="$\\Delta E$ left",
    ylabel="textures: sliced W1, grey levels",
)

# %% [markdown]
# **AdaIN** leaves the least shift, and of the three repairs the worst textures: a third of the contrast is gone, after 200 steps and after 800, where there was little left to cure. $\Delta E$ and PSNR are fooled nearly as well as the shift: after 200 steps AdaIN has the best PSNR of all. **The wavelet exchange** leaves the most shift of the three; after 800 steps it halves the shift and makes textures worse. **Back-projection** is best by $\Delta E$ and by textures, since here $x$ is clean and $A$ is known exactly (section 12 takes that away). But its textures are *better* after 200 steps than after 800, and its contrast there is above 1: grain counts as texture, so read that column with care.
#
# **Training on v** removes three fifths of the shift, at the cause, but leaves more than any repair; back-projection on top would do the rest. **P2** removes under a third. **Averaging the weights** after 200 steps makes everything worse.
#
# ## 12. Photos
#
# Do the models that this project ships shift colours? Eight pieces of 64×64 pixels, each method as it is.

# %%
places = [
    (name, top, left) for name in ("chelsea", "flower", "china", "coffee") for top, left in ((60, 200), (180, 160))
]
many, many_lr = (torch.cat(part) for part in zip(*(cut(*place) for place in places), strict=True))
answers = {
    name: super_resolve(many_lr, name)
    for name in ("bicubic", "regression", "gan", "sr3", "srdiff", "residual-diffusion", "wavelet", "resshift")
}
print(f"{'':20} shift (grey levels)   Delta E          PSNR      textures   with LR-PSNR")
for name, sr in answers.items():
    values = 255 * color_shift(sr, many), color_shift(sr, many, "lab")
    print(
        f"{name:20} {plus_minus(values[0], 2):>15} {plus_minus(values[1], 2):>15} {psnr(sr, many, channel='rgb').mean():9.2f} dB {255 * sliced_wasserstein(sr, many).mean():8.2f} {lr_consistency(sr, many_lr, 4).mean():12.1f} dB"
    )

# %%
print(f"{'paired change of':38} {'shift':>15} {'PSNR':>17} {'textures':>16}")
for name in ("sr3", "srdiff", "residual-diffusion"):
    before = answers[name]
    for label, repair in repairs.items():
        after = repair(before, many_lr)
        shift = 255 * (color_shift(after, many) - color_shift(before, many))
        quality = psnr(after, many, channel="rgb") - psnr(before, many, channel="rgb")
        textures = 255 * (sliced_wasserstein(after, many) - sliced_wasserstein(before, many))
        print(
            f"{name:20} {label:17} {plus_minus(shift, 2):>15} {plus_minus(quality, 2):>17} {plus_minus(textures, 2):>16}"
        )

# %% [markdown]
# Less than half a grey level, and a $\Delta E$ of a fifth or so: nobody will see it. These models were trained long enough, on v or (`sr3`) with a schedule shifted to small noise, and stand on a prediction or on $x$ inside. With next to nothing to cure, a cure gains at most two tenths of a level, which nobody sees. AdaIN pays for it with textures worse by about a third; the other two change next to nothing. **Measure before you repair.** A repair that is switched on by default is right on average only if the model is wrong on average.
#
# What if $x$ is not to be trusted? Take a good answer and an LR image that has noise, JPEG blocks, or a cast of its own, as a camera may deliver it. (The answer was made from the clean LR image: think of a model that removes noise.)

# %%
answer, photo_lr, original = answers["residual-diffusion"], resize(many, 1 / 4), many
spoiled = {
    "clean, 8 bits": many_lr,
    "noise of 0.05": degrade(many, scale=4, noise_std=0.05, noise=standard_normal(0)),
    "JPEG, quality 30": degrade(many, scale=4, jpeg_quality=30),
    "warm cast": photo_lr * torch.tensor([1.08, 1.0, 0.9]).view(1, 3, 1, 1),
}
print(f"{'LR image':20}" + "".join(f"{name:>30}" for name in repairs))
losses = {name: [] for name in repairs}
for label, bad in spoiled.items():
    line = f"{label:20}"
    for name, repair in repairs.items():
        out = repair(answer, bad)
        losses[name].append((psnr(out, original, channel="rgb") - psnr(answer, original, channel="rgb")).mean().item())
        line += f"     PSNR {losses[name][-1]:+6.2f}, Delta E {color_shift(out, original, 'lab').mean():5.2f}"
    print(line)
print(
    f"the answer itself: Delta E {color_shift(answer, original, 'lab').mean():.2f};  the cast: {color_shift(spoiled['warm cast'], photo_lr, 'lab').mean():.2f}"
)

# %%
plots.compare(
    {
        "answer": answer[4:5],
        **{f"{n}": repair(answer, spoiled["JPEG, quality 30"])[4:5].clamp(0, 1) for n, repair in repairs.items()},
        "original": original[4:5],
    },
    [(2, 4, 40, 40), (24, 20, 40, 40)],
    title="Repaired by a JPEG-compressed LR image: back-projection brings the blocks in",
    alt="Two magnified pieces of a temple roof: the answer, repaired by AdaIN, by wavelet exchange, by back-projection, all with an LR image of JPEG quality 30, and the original. AdaIN and the wavelet exchange look like the answer, which lacks the original's lines between the tiles; back-projection shows ripples and patches of wrong colour.",
    zoom=3,
)

# %% [markdown]
# AdaIN, which takes six numbers from $x$, and the wavelet exchange, which takes its slow waves, lose a tenth of a decibel to noise and four tenths to JPEG. Both move the mean colours of $x$, by a $\Delta E$ of 0.7 and about 2, and the repairs import that. Back-projection takes all of $x$, and loses four to five decibels. And the **cast of $x$**: all three bring it in, faithfully, as they must: from $x$ alone nobody can tell a cast of the camera from a warm evening. If the model had been trained to remove casts, the repair would undo its work.
#
# ### Which cure?
#
# | cure | removes | costs | choose it when |
# |---|---|---|---|
# | train longer; average the weights late | the cause | time | you can |
# | v-prediction | the cause, at once | a loss that charges other noise levels | you train anyway |
# | P2 | some of the cause, for a while | the nearly clean levels get less | you are bound to eps |
# | zero-terminal SNR | a wrong start | needs v or $z_0$; a grid that visits $t = T$ | nothing tells the model its colours |
# | back-projection | all that $A$ can see | trusts $x$ and $A$: noise and JPEG blocks come in | $x$ is clean, $A$ is known |
# | wavelet exchange | slow casts | the blur of $x\!\uparrow$ on small images; casts of $x$ | photos of real size |
# | AdaIN | any gain and offset | contrast, always; casts of $x$ | strong, even tints |
#
# > **In the papers**
# >
# > - **The survey** (arXiv:2401.00736) counts colour shifting among the open problems of diffusion models for super-resolution and blames small batches and short training on limited hardware.
# > - **Field reports.** Users of a public SR3 see noisy pictures with a colour shift when they go from 64 to 256 pixels with unchanged settings (Janspiry/Image-Super-Resolution-via-Iterative-Refinement, issue 69). A thread on another library (lucidrains/imagen-pytorch, issue 72) has two of this chapter's causes: for one user the shift came in all experiments that predicted the noise and not with $x_0$, for another it was gone after longer training.
# > - **Choi and others** (arXiv:2204.00227) propose P2 weighting for better pictures, not for colours.
# > - **Lin and others** (arXiv:2305.08891) name four repairs for medium brightness: zero terminal SNR, v-prediction, sampling from the last step, and rescaled classifier-free guidance.
# > - **StableSR** (arXiv:2305.07015) repairs the finished image, by AdaIN in the paper's formula; its code offers the wavelet exchange too.
# > - **Real-SR** users (Tencent/Real-SR, issue 6) repair a GAN's cast by adding back the blurred, enlarged difference to the LR image, in linear light: a step of back-projection. Colour shift is no privilege of diffusion.
#
# > **Going further**
# >
# > - A model of residuals (chapter 11) starts from a regression's colours. What does section 5 say about its shift?
# > - Bridges (chapter 12) start from $x$ itself. Which of the two causes can they still have?
# > - Guidance above 1 saturates colours (chapter 10). Is that a shift by `color_shift`'s definition? Measure it.
#
# Eight [exercises](../exercises/16_color_shift.ipynb) wait; the last asks which fix you would ship.

# %% [markdown]
# ## Recap
#
# 1. **Measure:** the mean of $\hat y-y$ per channel, in grey levels or as $\Delta E$; over several seeds; never by Y-PSNR.
# 2. **Explain:** a coefficient is read off the state from log-SNR $-\log\lambda$ on. The mean colour has the largest $\lambda$, so it is decided first, and it remembers every later error, unless the model believes $x$. The largest errors, at the highest noise, are forgotten; those that follow make the tint.
# 3. **Predict:** a wrong start loses the share $r_T$ of the mean (DDPM; $\sqrt{r_T}$ with DDIM). Clipping turns noise $e$ into $-0.4\,e$ on white.
# 4. **Weight:** eps charges $\mathrm{SNR}$ for an error of $z_0$, v charges $1+\mathrm{SNR}$, P2 ($\gamma=k=1$) $\mathrm{SNR}/(1+\mathrm{SNR})$.
# 5. **Repair:** AdaIN exchanges mean and standard deviation, the wavelet fix the coarse part, back-projection what $A$ sees.
# 6. **Choose:** by what a cure does to a picture that needs none, and to one whose LR image lies.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Saharia et al., *Image Super-Resolution via Iterative Refinement* (SR3), arXiv:2104.07636.
# - Lin, Liu, Li, Yang, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, arXiv:2305.08891.
# - Choi et al., *Perception Prioritized Training of Diffusion Models* (P2), arXiv:2204.00227.
# - Salimans, Ho, *Progressive Distillation for Fast Sampling of Diffusion Models* (v-prediction), arXiv:2202.00512.
# - Wang et al., *Exploiting Diffusion Prior for Real-World Image Super-Resolution* (StableSR), arXiv:2305.07015.
# - Hoogeboom, Heek, Salimans, *Simple Diffusion*, arXiv:2301.11093.
# - Irani, Peleg, *Improving resolution by image registration*, 1991.
# - Mahy, Van Eycken, Oosterlinck, *Evaluation of uniform color spaces developed after the adoption of CIELAB and CIELUV*, 1994.
