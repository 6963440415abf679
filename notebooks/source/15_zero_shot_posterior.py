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
# # 15 No retraining: estimating the posterior
#
# A model that has only ever made random faces is shown eight by eight pixels and asked for *this* face. Chapter 13 overwrote what the camera sees, chapter 14 did the same per singular value. Here you do neither. You ask in which direction the state must move so that its clean estimate explains the measurement, and go there: MCG, DPS, GDP, ΠGDM and DiffPIR. All approximate one integral. On small worlds you can compute it exactly, and see what each method really draws.
#
# ## What you will be able to do
#
# 1. **Split** the posterior's score by Bayes' rule, and say which half nobody can compute.
# 2. **Compare** the point estimate, the Gaussian and the proximal step with the exact answer.
# 3. **Step** down a norm as DPS does, and predict from the step size how well a sample will fit.
# 4. **Say** for which prior ΠGDM is exact, and what DiffPIR solves.
# 5. **Estimate** an unknown blur or exposure together with the image.
# 6. **Judge** every zero-shot method of chapters 13 to 15 by its distance to the exact posterior and its coverage.
# 7. **Read** a failed picture: over-guided, deaf, fitted to noise, diverged.
#
# **Prerequisites**: [chapter 01](01_super_resolution_basics.ipynb) ($A$, $A^\top$, $A^+$), [chapter 10](10_conditioning_and_guidance.ipynb) (guidance), [chapter 13](13_zero_shot_projection.ipynb) and [chapter 14](14_zero_shot_decomposition.ipynb) for the methods that we compare with in section 9.
#
# **Reading time**: 70 minutes. Running time: about 20 s on two cores.
# **Survey section**: zero-shot diffusion for super-resolution (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/15_zero_shot_posterior.ipynb), worked in [solutions](../solutions/15_zero_shot_posterior.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $x = A z_0 + \sigma_x n$ | `x`, `operator`, `noise_std` | the measurement, its operator, and white noise of standard deviation $\sigma_x$ |
# > | $z_t = \alpha_t z_0 + \sigma_t\epsilon$ | `z` | the state; a step goes from $t$ to $s < t$ |
# > | $\hat z_0(z_t) = \mathbb E[z_0\mid z_t]$ | `denoiser(z, t)` | the estimate that knows nothing of $x$ |
# > | $J = \partial\hat z_0/\partial z_t$ | `back(w)` is $J^\top w$ | the estimate's sensitivity; $J^\top$ is one backward pass through the network |
# > | $C_t = \operatorname{Cov}[z_0\mid z_t] = \frac{\sigma_t^2}{\alpha_t} J$ | | what $z_t$ leaves open (end of chapter 05; no kin of chapter 12's corruption) |
# > | $r = x - A\hat z_0$ | `missing` | what the estimate does not explain |
# > | $\zeta$ | `scale`, `zeta` | DPS's step; in section 5, as in its paper, DiffPIR's share of fresh noise |
# > | $r_t^2$, $\rho_t$ | `spread`, `rho` | ΠGDM's variance, DiffPIR's weight |
# >
# > **Noise units.** States are $2y - 1$ for images $y$ in $[0, 1]$; `x` and `noise_std` are in state units. Noise of 0.05 on an image is 0.1 here. Papers differ (chapter 14).

# %%
import json
from functools import partial
from importlib import resources

import torch
import torch.nn.functional as F
from IPython.display import display
from torch.testing import assert_close

from tutorial_lib import guidance, plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser, from_z_0, pullback
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import psnr
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Dense, Mask
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddpm, last
from tutorial_lib.schedules import uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step, forward_step, posterior_std
from tutorial_lib.zero_shot import ddnm, ddrm, diffpir, dps, gdp, gdp_blind, ilvr, mcg, pigdm

double = torch.float64
linear, cosine = vp_linear(), vp_cosine()


# %%
def draw(*shape, seed=0, dtype=torch.float32):
    """Standard normal numbers."""
    return standard_normal(seed)(torch.empty(*shape, dtype=dtype))


def decibels(state, truth):
    """PSNR of states as images, one number a picture."""
    return psnr(((state + 1) / 2).clamp(0, 1), ((truth + 1) / 2).expand_as(state))


def pixels(state):
    """States as images."""
    return ((state + 1) / 2).clamp(0, 1)


def rms(value):
    return value.square().mean().sqrt().item()


# %% [markdown]
# ## 1. Ten lines that pull a face out of noise
#
# The prior is `faces-unconditional-32`, which you know since chapter 04. The camera pools 4×4 pixels. In each step the network says which clean face it sees in the noisy state, $\hat z_0(z_t)$. If that face, pooled, does not look like $x$, the gradient of the misfit *with respect to the noisy state* says how to change the state. So: an ordinary DDPM step, then a small push. Five step sizes at once, from the same noise:

# %%
prior = NetworkDenoiser(load_pretrained("faces-unconditional-32"), "v", cosine)
people = 2 * faces(3, seed=15).images - 1
face, camera = people[1:2], AveragePool(4)
x = camera(face)

step_sizes = torch.tensor([0.1, 1.0, 8.0, 60.0, 400.0]).view(-1, 1, 1, 1)
grid, noise = uniform_times(40, 0.995), standard_normal(1)
z = draw(1, 3, 32, 32).expand(5, -1, -1, -1)
for t, s in zip(grid[:-1], grid[1:], strict=True):
    start = z.detach().requires_grad_()
    z_0 = prior(start, t)
    misfit = (x - camera(z_0)).flatten(1).norm(dim=1)  # one number per sample
    (uphill,) = torch.autograd.grad(misfit.sum(), start)
    z = ddim_step(start.detach(), z_0.detach(), cosine, t, s, 1.0, noise) - step_sizes * uphill
first_try = z

# %%
names = [f"step {v:g}" for v in step_sizes.flatten().tolist()]
plots.image_grid(
    torch.cat([F.interpolate(pixels(x), size=(32, 32)), pixels(first_try), pixels(face)]),
    ["LR", *names, "original"],
    title="Too small a step: a face, but another one. Just right: this face. Too large: torn to pieces",
    alt="Seven pictures of 32 by 32 pixels: the measurement, 8 by 8 blocks of a bearded face with dark glasses and a green beanie; what came of steps 0.1, 1, 8, 60 and 400; the original. With 0.1 it is another person before another background. With 1 hat and glasses are there, on another face. With 8 it is the right person. With 60 too, with blotches in the flat areas. With 400 it is burnt to yellow and red.",
    caption="All five from the same noise, 40 network calls each.",
    zoom=4,
    columns=7,
)

# %%
for name, sample in zip(names, first_try.split(1), strict=True):
    print(
        f"{name:9} misfit of a pixel of x {rms(x - camera(sample)):.4f}   PSNR {decibels(sample, face).item():.1f} dB"
    )

# %% [markdown]
# No retraining, no SVD, no pseudo-inverse, only a camera that can be differentiated. There is one dial, and even the misfit is smallest in the middle (section 3 has the rule). What *is* the right step? For that we need to know what the push approximates.
#
# ## 2. Exact first: one half is known, the other an integral
#
# Bayes' rule, logarithm, gradient:
#
# $$\nabla_{z_t}\log p(z_t\mid x) \;=\; \underbrace{\nabla_{z_t}\log p(z_t)}_{\text{the prior's score: known}} \;+\; \underbrace{\nabla_{z_t}\log p(x\mid z_t)}_{\text{guidance}} .$$
#
# The camera knows $p(x\mid z_0)$. But the state is noisy, and many clean images are possible behind it, so
#
# $$p(x\mid z_t) = \int p(x\mid z_0)\; p(z_0\mid z_t)\,dz_0 ,$$
#
# an integral over all images that $z_t$ leaves open. For a single pixel it is an integral over a line. Take a pixel that is either dark or bright, add noise to make $x$, integrate numerically, and compare with the exact posterior of `oracles`:

# %% tags=["nbval-check-output"]
pixel = GaussianMixture(
    torch.tensor([0.5, 0.5]), torch.tensor([[-0.7], [0.6]], dtype=double), torch.full((2, 1, 1), 0.15**2).double()
)
seen, noise_std = torch.tensor([[0.25]], dtype=double), 0.3
identity = Dense(torch.eye(1, dtype=double))
told = pixel.posterior(identity, seen, noise_std)
line = torch.linspace(-4, 4, 4001, dtype=double)


def log_likelihood(z, alpha, sigma):
    """log p(x | z_t = z) up to a constant, by adding up the line; z (B, 1)."""
    open_images = pixel.log_prob(line[:, None]) - (z - alpha * line) ** 2 / (2 * sigma**2)
    explains = -((seen - line) ** 2) / (2 * noise_std**2)
    return (open_images + explains).logsumexp(1) - open_images.logsumexp(1)


z = torch.linspace(-2, 2, 9, dtype=double)[:, None].requires_grad_()
for t in (0.1, 0.25, 0.5):
    alpha, sigma = linear.alpha(t), linear.sigma(t)
    (guide,) = torch.autograd.grad(log_likelihood(z, alpha, sigma).sum(), z)
    apart = guide - (told.score(z, alpha, sigma) - pixel.score(z, alpha, sigma))
    print(
        f"t = {t}: numerical integral and exact posterior differ by {'less than 1e-10' if apart.abs().max() < 1e-10 else 'more'}"
    )

# %% [markdown]
# By Tweedie's rule (chapter 05) guidance is the same as a **corrected estimate**, which is easier to look at. Where the prior says $\hat z_0$, the *told denoiser*, one that knows $x$, says
#
# $$\mathbb E[z_0\mid z_t, x] \;=\; \hat z_0 + \frac{\sigma_t^2}{\alpha_t}\,\nabla_{z_t}\log p(x\mid z_t).$$
#
# Now the approximations. Each replaces $p(z_0\mid z_t)$ by something simpler:
#
# - **Point estimate (DPS, MCG).** All of it sits at $\hat z_0$. Then $p(x\mid z_t)\approx \mathcal N(x; A\hat z_0, \sigma_x^2 I)$, and the correction is $C_t A^\top r/\sigma_x^2$.
# - **Gaussian of a fixed width (ΠGDM).** $\mathcal N(\hat z_0, r_t^2 I)$ with $r_t^2 = \sigma_t^2/(\alpha_t^2+\sigma_t^2)$. The correction is $C_t A^\top (r_t^2 AA^\top + \sigma_x^2 I)^{-1} r$.
# - **Proximal step (DiffPIR).** $\mathcal N(\hat z_0, \tfrac{\sigma_t^2}{\alpha_t^2} I)$, wider still, and no gradient through the denoiser: $\tfrac{\sigma_t^2}{\alpha_t^2} A^\top(\tfrac{\sigma_t^2}{\alpha_t^2}AA^\top+\sigma_x^2 I)^{-1}r$.
# - **Gaussian of the right width** (known as moment matching): $C_t A^\top(AC_tA^\top+\sigma_x^2 I)^{-1}r$. For a Gaussian prior this is exact.
#
# All four in one function, then beside the truth:


# %% tags=["nbval-check-output"]
def corrected(kind, law, A, x, noise_std, z, schedule, t):
    """E[z_0 | z_t = z, x] by one of the approximations; A (M, D), z (B, D)."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    z_0, back = pullback(denoiser_for(law, schedule), z, t)
    axes = torch.eye(z.shape[1], dtype=double)
    open_ = torch.stack([sigma**2 / alpha * back(axis.expand_as(z)) for axis in axes], 1)  # C_t, (B, D, D)
    fixed = sigma**2 / (alpha**2 + sigma**2) * axes
    wide = sigma**2 / alpha**2 * axes
    outer, inner = {
        "point": (open_, 0 * axes),
        "fixed width": (open_, fixed),
        "prox": (wide, wide),
        "right width": (open_, open_),
    }[kind]
    system = A @ inner @ A.T + noise_std**2 * torch.eye(len(A), dtype=double)
    missing = (x - z_0 @ A.T)[:, :, None]
    return z_0 + (outer @ A.T @ torch.linalg.inv(system) @ missing)[:, :, 0]


A = draw(2, 4, seed=3, dtype=double)
shared = Gaussian(torch.zeros(4, dtype=double), 0.9 + 0.1 * torch.eye(4, dtype=double))
measured = torch.tensor([[0.4, -0.3]], dtype=double)
z, t, everything = draw(5, 4, dtype=double), 0.4, (Dense(A), measured, linear, 0.3)
ours = partial(corrected, law=shared, A=A, x=measured, noise_std=0.3, z=z, schedule=linear, t=t)
assert_close(ours("fixed width"), guidance.pigdm(denoiser_for(shared, linear), *everything)(z, t))
assert_close(ours("prox"), guidance.proximal(denoiser_for(shared, linear), *everything)(z, t))
exact = shared.posterior(Dense(A), measured, 0.3).denoise(z, linear.alpha(t), linear.sigma(t))
for kind in ("point", "fixed width", "prox", "right width"):
    print(
        f"{kind:12} on a Gaussian prior: off by {rms(ours(kind) - exact):.4f} (the prior's own estimate moves by {rms(exact - shared.denoise(z, linear.alpha(t), linear.sigma(t))):.2f})"
    )

# %% tags=["nbval-check-output"]
kinds = {
    "point": "point (DPS)",
    "fixed width": "fixed width (ΠGDM)",
    "prox": "prox (DiffPIR)",
    "right width": "right width",
}
states, one_pixel = torch.linspace(-2, 2, 81, dtype=double)[:, None], torch.eye(1, dtype=double)
estimates = {}
for t in (0.1, 0.25, 0.45):
    alpha, sigma = linear.alpha(t), linear.sigma(t)
    estimates[t] = {
        "exact": told.denoise(states, alpha, sigma)[:, 0],
        "prior alone": pixel.denoise(states, alpha, sigma)[:, 0],
    } | {
        label: corrected(kind, pixel, one_pixel, seen, noise_std, states, linear, t)[:, 0]
        for kind, label in kinds.items()
    }
first = {label: line[0].item() for label, line in estimates[0.1].items()}
open_ = 0.25 - first.pop("prior alone")
print("t = 0.1, state -2: how much of the way from the prior's estimate to x = 0.25?")
print(", ".join(f"{label} {1 - (0.25 - value) / open_:.0%}" for label, value in first.items()))

# %%
panels = []
for when, (t, lines) in zip(("late", "midway", "early"), estimates.items(), strict=True):
    if panels:  # one legend is enough, and labels with a leading underscore make none
        lines = {f"_{label}": line for label, line in lines.items()}
    sigma = linear.sigma(t)
    panels.append(
        plots.curves(
            states[:, 0],
            lines,
            title=f"{when}: noise {sigma:.2f}",
            alt=f"Estimates of the pixel against the state at noise {sigma:.2f}.",
            xlabel="state $z_t$",
            ylabel="estimate of $z_0$",
            ylim=(-1, 2.2),
            width=460,
            height=440,
        )
    )
plots.strip(
    panels,
    title="What the state leaves open: while it is undecided, the point estimate runs away; the Gaussians stay between prior and measurement",
    alt="Three panels, late, midway, early: the corrected estimate of a pixel that is dark, -0.7, or bright, 0.6, against its noisy state, for a measurement of 0.25. Late, at noise 0.32: two plateaus and a jump between them; on the plateaus all curves are close together but for the proximal step, which lies nearer to 0.25; at the jump the point estimate overshoots to 1.3. Midway the exact curve rises from 0.05 to 0.57; the point estimate peaks at 2, the fixed width stays too close to the prior, the right width is better, the proximal step is flat near 0.2. Early the exact curve is flat at 0.5, the point estimate falls from 2 to 0.2, and the three Gaussians lie between -0.2 and 0.3.",
    columns=3,
)

# %% [markdown]
# Sampling walks from the right panel to the left one.
#
# - **Late**, on the plateaus, the state leaves little open. The right width takes over 17 % of what is missing, as the exact answer does, the point 21 %, the fixed width only 10 %. The proximal step takes 56 %: its width $\sigma_t/\alpha_t$ ignores that the prior knows the pixel well, so it draws good estimates towards the noisy $x$.
# - **Midway**, and late at the jump, it is undecided whether the pixel is dark or bright. The **point estimate** pushes by $C_t/\sigma_x^2$ as if $\hat z_0$ were certain, and lands at values that no pixel has. With $\sigma_x\to0$ its push is infinite. So DPS cannot use the formula it starts from, and has a step size.
# - The **fixed width** errs the other way: $r_t^2$ belongs to a prior of variance 1, this one has less, so ΠGDM listens too little.
# - **Early** even the **right width** is far off. The truth is 0.5: a measurement of 0.25 makes *bright* likely. A Gaussian does not know that there are only dark and bright, and splits the difference between $x$ and the mean.
#
# <details><summary><b>Question.</b> For one number with prior $\mathcal N(0, 1)$, which of the four is exact?</summary>
#
# Then $C_t = \sigma_t^2/(\alpha_t^2+\sigma_t^2)$. That is $r_t^2$, so the fixed width *is* the right width. The point estimate has $C_t/\sigma_x^2$ instead of $C_t/(C_t+\sigma_x^2)$, right only while $C_t\ll\sigma_x^2$. The proximal step has $\sigma_t^2/\alpha_t^2$ for $C_t$, the answer for a prior of infinite variance.
# </details>
#
# ## 3. DPS: a norm, a step, and what follows
#
# DPS (Chung et al., arXiv:2209.14687) keeps the direction of the point estimate and lets go of $1/\sigma_x^2$. Its published code steps down the norm itself, **not its square**:
#
# $$z_s = \underbrace{z_s'}_{\text{DDPM step}} - \zeta\,\nabla_{z_t}\|x - A\hat z_0(z_t)\| \;=\; z_s' + \zeta\, J^\top A^\top \frac{r}{\|r\|}.$$
#
# (The paper writes $\zeta'/\|r\|\cdot\nabla\|r\|^2$; since $\nabla\|r\|^2 = 2\|r\|\nabla\|r\|$, its $\zeta'$ is half of $\zeta$.)
#
# Compare with section 2, where a correction $\delta$ was added to $\hat z_0$. A DDPM step takes over a share of it: $z_s$ moves by $\frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2}\,\delta$, where $\sigma_{t|s}$ is the noise between $s$ and $t$, so the share is smaller the shorter the step. DPS puts one $\zeta$ for the share, $1/\sigma_x^2$ and all; it must grow when steps get longer. (`dps(..., fading=True)` keeps the share, as the library deepinv does; tuned, that is nearer to the posterior in five of the six cases of `benchmarks/peers.py`.)


# %% tags=["nbval-check-output"]
def my_dps(denoiser, schedule, operator, x, times, z, scale, noise, squared=False, whole_batch=False):
    """DPS; scale is a number, or one per sample, shaped (B, 1, ...)."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0, back = pullback(denoiser, z, t)
        missing = x - operator(z_0)
        pull = back(operator.adjoint(missing))
        if squared:
            pull = 2 * pull
        else:
            length = missing.norm() if whole_batch else missing.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1))
            pull = pull / length
        z = ddim_step(z, z_0, schedule, t, s, 1.0, noise) + scale * pull
    return z


two = GaussianMixture(  # two neighbouring pixels: both dark, both bright, or an edge
    torch.tensor([0.35, 0.35, 0.3]),
    torch.tensor([[-0.8, -0.6], [0.7, 0.9], [0.9, -0.5]], dtype=double),
    torch.tensor([[[0.06, 0.045], [0.045, 0.06]]] * 2 + [[[0.05, -0.02], [-0.02, 0.05]]], dtype=double),
)
mean_of_both = Dense(torch.tensor([[0.5, 0.5]], dtype=double))
grey = torch.tensor([[0.3]], dtype=double)
pair, start, times = denoiser_for(two, linear), draw(6, 2, dtype=double), uniform_times(20)
for squared in (False, True):
    mine = my_dps(pair, linear, mean_of_both, grey, times, start, 0.5, standard_normal(1), squared)
    theirs = dps(
        pair, linear, mean_of_both, grey, 0.0, times, start, scale=0.5, squared=squared, noise=standard_normal(1)
    )
    assert_close(mine, last(theirs))
print("ten lines and library agree")

# %% [markdown]
# Two pixels are enough to look at everything. The prior: both dark, both bright, or an edge. The camera sees their mean, 0.3. The posterior without noise lies on the line where the mean is 0.3, in two heaps. How far from it are DPS's samples, down the norm and down the square? The measure is the sliced Wasserstein distance, and "floor" is what as many true samples get.

# %%
ANGLES = torch.arange(16, dtype=double) * torch.pi / 16
DIRECTIONS = torch.stack([ANGLES.cos(), ANGLES.sin()])


def sliced(a, b):
    """Wasserstein-2 along 16 directions, root mean square."""
    return rms((a @ DIRECTIONS).sort(0).values - (b @ DIRECTIONS).sort(0).values)


COUNT = 300
scales = torch.logspace(-2, 1, 13, dtype=double)
goal = two.posterior(mean_of_both, grey, 0.0)
truth = goal.sample(COUNT, standard_normal(5))
floor = sliced(goal.sample(COUNT, standard_normal(6)), truth)
each = scales.repeat_interleave(COUNT)[:, None]
start = draw(COUNT, 2, seed=2, dtype=double).repeat(len(scales), 1)
distances, misfits = {}, {}
for squared, n in ((False, 30), (False, 100), (False, 300), (True, 30), (True, 100)):
    z = my_dps(pair, linear, mean_of_both, grey, uniform_times(n), start, each, standard_normal(1), squared)
    name = f"{'square' if squared else 'norm'}, {n} steps"
    distances[name] = [min(sliced(part, truth), 50.0) for part in z.split(COUNT)]
    misfits[name] = [rms(mean_of_both(part) - grey) for part in z.split(COUNT)]

# %%
plots.curves(
    scales,
    distances,
    title="The fewer the steps, the larger the best step size; beyond it the square explodes and the norm gets worse steadily",
    alt="Sliced Wasserstein distance to the exact posterior against the step size from 0.01 to 10, logarithmic. "
    + " ".join(
        f"{name}: best {min(row):.2f} at step size {scales[row.index(min(row))]:.2g}, {'more than 50' if row[-1] >= 50 else f'{row[-1]:.1f}'} at 10."
        for name, row in distances.items()
    ),
    caption="Values above 50 are drawn at 50.",
    xlabel="step size $\\zeta$",
    ylabel="distance to the posterior",
    horizontal={"floor": floor},
    logx=True,
    logy=True,
    ylim=(0.01, 70),
)

# %% [markdown]
# 1. With 30 steps the best $\zeta$ is several times that of 300 steps. The published numbers (0.3 for super-resolution, 0.5 for inpainting) belong to 1000 steps. With 30 their sum is too small: the measurement is ignored.
# 2. **The square** pushes in proportion to what is missing, so it settles. At its best step it is nearer than the norm with as many steps. But a little beyond, each push overshoots by more than it repairs: divergence.
# 3. **The norm** always pushes by the same amount, however little is missing. Too large a $\zeta$ harms less abruptly, but the samples cannot come to rest.
#
# The third gives a rule that you can use. Let $AA^\top = \kappa I$, and let the end be near, where $\hat z_0\approx z$. One push moves $A z$ by $\zeta\kappa$ towards $x$. Once less than that is missing, the next push crosses over: a misfit $\|r\| = a$ becomes $\zeta\kappa - a$, and then $a$ again. So a sample ends somewhere between 0 and $\zeta\kappa$ from $x$, halfway on average, and with $M$ measured numbers
#
# $$\text{misfit per number} \;\approx\; \frac{\zeta\,\kappa}{2\sqrt M}.$$
#
# Pooling to the mean of $k$ pixels has $\kappa = 1/k$: 1/16 for 4×4, 1/2 for two pixels.

# %%
print("two pixels, 300 steps:   step  misfit  rule")
for scale, misfit in list(zip(scales.tolist(), misfits["norm, 300 steps"], strict=True))[4::2]:
    print(f"{scale:29.3f} {misfit:7.3f} {scale / 4:6.3f}")
print("faces (section 1):       step  misfit  rule")
for scale, sample in zip(step_sizes.flatten().tolist(), first_try.split(1), strict=True):
    print(f"{scale:29.1f} {rms(x - camera(sample)):7.4f} {scale / 16 / 2 / x.numel() ** 0.5:7.4f}")

# %% [markdown]
# The rule holds roughly on both once the step is large enough to arrive. (The photo in section 8 lands much closer.) It does not contain $\sigma_x$: DPS's misfit is set by its step size, whatever the noise. If the noise is 0.1 and the rule says 0.01, the sample has *fitted the noise*.
#
# Turn the dial yourself, against the exact posterior of a noisy measurement ($\sigma_x = 0.15$):


# %%
noisy_goal = two.posterior(mean_of_both, grey, 0.15)
axis = torch.linspace(-2, 2, 120, dtype=double)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
shades = noisy_goal.log_prob(plane).exp().reshape(120, 120)
yardstick = noisy_goal.sample(COUNT, standard_normal(5))


def dial(log10_step=-0.5, calls=100, squared=False):
    """DPS's samples over the exact posterior."""
    start = draw(COUNT, 2, seed=2, dtype=double)
    z = my_dps(
        pair, linear, mean_of_both, grey, uniform_times(calls), start, 10**log10_step, standard_normal(1), squared
    )
    far, misfit = sliced(z, yardstick), rms(mean_of_both(z) - grey)
    return plots.density_2d(
        axis,
        axis,
        {f"distance {far:.2f}, misfit {misfit:.2f}": shades},
        points={"DPS": z[::3].clamp(-2, 2)},
        title=f"step {10**log10_step:.2g}, {calls} calls{', squared' if squared else ''}",
        alt=f"The exact posterior of two pixels as grey shades, a heap at (0.9, -0.5) and a smaller one at (0.4, 0.5), and samples of DPS with step {10**log10_step:.2g} as dots: distance {far:.2f}, misfit {misfit:.2f}, where 0.15 is the noise.",
        xlabel="left pixel",
        ylabel="right pixel",
        width=300,
        height=340,
    )


widgets.explorer(dial, log10_step=(-2.0, 1.0, 0.1, -0.5), calls=[30, 100, 300], squared=False)

# %%
widgets.frames(
    dial,
    [{"log10_step": -1.5}, {"log10_step": -0.7}, {"log10_step": 0.3}],
    title="DPS's dial against the exact posterior: too weak, nearest, too strong",
    alt="Three panels: the exact posterior of two pixels, a large heap at (0.9, -0.5) and a small one at (0.4, 0.5), with samples of DPS in 100 calls. Step 0.03: samples cover all three heaps of the prior, also the dark one that the measurement excludes. Step 0.2: they lie along the line of mean 0.3, on both heaps, in a band narrower than the posterior and to one side of its smaller heap. Step 2: two rows on either side of the posterior, and hardly a sample in it.",
    caption="Grey: exact posterior for a measured mean of 0.3 with noise 0.15. Dots: a third of the 300 samples. A right sample has a misfit of about 0.15.",
    columns=3,
)

# %% [markdown]
# In the middle the samples are drawn onto the line of mean 0.3, in too narrow a band: a misfit well under 0.15 is noise fitted. With the largest step they stand in two rows on either side of the truth: the push that crosses over. No setting of this dial is right, because none knows the noise.
#
# ## 4. ΠGDM: a Gaussian in place of the point
#
# ΠGDM (Song et al., ICLR 2023) gives $\hat z_0$ a width: pushes are bounded, $\sigma_x$ is heard, and no step size is left to tune. The price is an assumption, $\operatorname{Cov}[z_0\mid z_t] = r_t^2 I$. For $z_0\sim\mathcal N(0, I)$ it holds, and its distance to the posterior should vanish with the steps, for any $A$ and any noise. These samplers are affine in their noise under a Gaussian prior, so `affine_law` gives their law without a single sample:


# %%
def exact_distance(method, law, n, noise_std=0.3):
    """Wasserstein-2 between what a method draws in n steps and the exact posterior of the 4 numbers above."""
    goal, zeros = law.posterior(Dense(A), measured, noise_std), torch.zeros(1, 4, dtype=double)

    def run(noise):
        if method is None:
            return last(ddpm(denoiser_for(goal, linear), linear, noise(zeros), uniform_times(n), noise=noise))
        told_method = method(
            denoiser_for(law, linear),
            linear,
            Dense(A),
            measured,
            noise_std,
            uniform_times(n),
            noise(zeros),
            noise=noise,
        )
        return last(told_method)

    return gaussian_w2(*affine_law(run, 4), goal.mean, goal.covariance)


white = Gaussian(torch.zeros(4, dtype=double), torch.eye(4, dtype=double))
counts = (10, 30, 90)
plan = {
    "told denoiser": (None, shared),
    "ΠGDM, white prior": (pigdm, white),
    "ΠGDM, correlated prior": (pigdm, shared),
    "DiffPIR, correlated prior": (diffpir, shared),
}
reached = {name: [exact_distance(method, law, n) for n in counts] for name, (method, law) in plan.items()}

# %%
plots.curves(
    counts,
    reached,
    title="ΠGDM reaches the posterior of a white prior, and not that of a correlated one",
    alt="Exact Wasserstein distance to the posterior against the number of steps, 10, 30, 90, logarithmic axes. "
    + " ".join(f"{name}: {row[0]:.2f}, {row[1]:.2f}, {row[2]:.2f}." for name, row in reached.items()),
    caption="Four numbers, two of their mixtures measured with noise 0.3.",
    xlabel="steps",
    ylabel="$W_2$ to the posterior",
    logx=True,
    logy=True,
    height=360,
)

# %% [markdown]
# On the white prior ΠGDM follows the told denoiser's slope towards zero. On correlated numbers, and images are correlated numbers, it stops: $r_t^2 I$ gives every direction the same doubt. More steps do not cure a wrong width. (DiffPIR, next section, stays further out: its width suits a prior of infinite variance.)
#
# Three slips are easy to make: $r_t$ where $r_t^2$ is meant, not telling $\sigma_x$, and leaving out $J^\top$. In this world the right version has a limit of zero, so they show:

# %% tags=["nbval-check-output"]


def slipped(slip):
    """PiGDM by hand for the white prior, with one slip."""

    def method(denoiser, schedule, operator, x, noise_std, times, z, noise):
        def guided(z, t):
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            z_0, back = pullback(denoiser, z, t)
            spread = sigma**2 / (alpha**2 + sigma**2)
            width = spread**0.5 if slip == "r for r squared" else spread
            told_noise = 0.0 if slip == "deaf to the noise" else noise_std
            system = width * A @ A.T + told_noise**2 * torch.eye(2)
            pull = (x - z_0 @ A.T) @ torch.linalg.inv(system) @ A
            return z_0 + sigma**2 / alpha * (pull if slip == "no J" else back(pull))

        return ddpm(guided, schedule, z, times, noise=noise)

    return method


for slip in ("none", "r for r squared", "deaf to the noise", "no J"):
    far = [exact_distance(slipped(slip), white, n) for n in (30, 90)]
    print(f"slip: {slip:18} distance after 30 steps {far[0]:.3f}, after 90 {far[1]:.3f}")
    if slip == "none":
        assert abs(far[0] - reached["ΠGDM, white prior"][1]) < 1e-6

# %% [markdown]
# The first two stay where they are, whatever the number of steps. The last one is nearly invisible, because for this prior $J = \alpha_t I$ is close to 1 where it matters. A test needs a prior in which what it tests makes a difference.
#
# <details><summary><b>Question.</b> ΠGDM's r² can be scaled by the prior's true standard deviation p: r² = σ²p²/(α²p² + σ²). What would happen with a p that is much too small?</summary>
#
# The inverse $(r_t^2AA^\top + \sigma_x^2)^{-1}$ grows, in the limit to the point estimate's. Early, where $\hat z_0$ is vague, the push overshoots, and the network is handed states that it has never seen. Section 8 shows what that does to a photo.
# </details>
#
# ## 5. DiffPIR: correct the estimate, keep the gradient at home
#
# The backward pass costs at least another call, and keeps all of the network's inner states in memory. DiffPIR (Zhu et al., arXiv:2305.08995) does without: it corrects $\hat z_0$ by a small optimisation of its own,
#
# $$\hat z_0^x = \arg\min_y\; \|Ay - x\|^2 + \rho_t\,\|y - \hat z_0\|^2, \qquad \rho_t = \lambda\,\sigma_x^2\,\frac{\alpha_t^2}{\sigma_t^2},$$
#
# whose answer is one linear system, $(A^\top A + \rho_t I)\,\hat z_0^x = A^\top x + \rho_t\hat z_0$. Then it computes the noise that would lead from the corrected estimate to the state, and mixes it with fresh noise:
#
# $$\hat\epsilon = \frac{z_t - \alpha_t\hat z_0^x}{\sigma_t},\qquad z_s = \alpha_s\hat z_0^x + \sigma_s\big(\sqrt{1-\zeta}\,\hat\epsilon + \sqrt{\zeta}\,n\big).$$
#
# The $\zeta$ mixes *variances*, so that the step keeps $\sigma_s^2$. (DDNM's published sampler mixes alike, but takes $\hat\epsilon$ from the *uncorrected* estimate. Without noise that is the difference between the two.) With $\sigma_x = 0$ the system is singular: $\rho_t = 0$ leaves $y$ open where $A$ is blind, and the limit is the projection. The library, like the published code, counts a $\sigma_x$ below 0.001 as 0.001.


# %% tags=["nbval-check-output"]
def my_diffpir(denoiser, schedule, A, x, noise_std, times, z, noise, zeta=0.1, strength=1.0):
    """DiffPIR with dense matrices."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        rho = strength * (noise_std * schedule.alpha(t) / schedule.sigma(t)) ** 2
        rhs = x @ A + rho * denoiser(z, t)
        z_0 = torch.linalg.solve(A.T @ A + rho * torch.eye(A.shape[1], dtype=double), rhs.T).T
        eps = from_z_0(z_0, "eps", z, t, schedule)
        fresh = noise(z) if sigma > 0 else 0.0
        z = alpha * z_0 + sigma * ((1 - zeta) ** 0.5 * eps + zeta**0.5 * fresh)
    return z


model, start, times = denoiser_for(shared, linear), draw(3, 4, dtype=double), uniform_times(15)
mine = my_diffpir(model, linear, A, measured, 0.3, times, start, standard_normal(1))
theirs = last(diffpir(model, linear, Dense(A), measured, 0.3, times, start, noise=standard_normal(1)))
assert_close(mine, theirs)
z_0 = model(start, 0.5)
project = z_0 + Dense(A).pinv(measured - Dense(A)(z_0))
hard, deaf = (guidance.proximal(model, Dense(A), measured, linear, 0.3, k)(start, 0.5) for k in (1e-12, 1e12))
print(
    f"lambda to 0: the projection z_0 + A^+ (x - A z_0) {'yes' if torch.allclose(hard, project, atol=1e-6) else 'no'}"
)
print(f"lambda to infinity: the prior's own estimate {'yes' if torch.allclose(deaf, z_0, atol=1e-6) else 'no'}")

knows, many = lambda z, t: z_0[:1] + 0 * z, 40_000
clean, times = Dense(A)(z_0[:1]), torch.tensor([0.5, 0.4])
z = linear.alpha(0.5) * z_0[:1] + linear.sigma(0.5) * draw(many, 4, seed=9, dtype=double)
for zeta in (0.1, 0.5):
    kept = (
        last(diffpir(knows, linear, Dense(A), clean, 0.0, times, z, zeta=zeta, noise=standard_normal(3))).std(0).mean()
    )
    wrong = linear.sigma(0.4) * ((1 - zeta) ** 2 + zeta**2) ** 0.5
    print(
        f"zeta {zeta}: sigma_s is {linear.sigma(0.4):.3f}, a step leaves {kept:.3f}; mixed as stds it would be {wrong:.3f}"
    )

# %% [markdown]
# ## 6. MCG: push, then project, then leave the road
#
# MCG (Chung et al., arXiv:2206.00941) came before DPS: the same push, followed by the projection of chapter 13 that exchanges what the camera sees. Without noise that makes $Az = x$ exact, and the push moves what the projection cannot reach. With noise in $x$ it goes wrong in a way that one step reveals. A state at time $s$ must have the spread $\sigma_s$ around $\alpha_s z_0$, also in what the camera sees ($\sigma_s/\sqrt2$ here: it averages two pixels). Give one step a denoiser that returns the *true* $z_0$:

# %%
true_pair = two.sample(1, standard_normal(4))
knows = lambda z, t: true_pair + 0 * z  # noqa: E731
noisy_means = mean_of_both(true_pair) + 0.3 * draw(many, 1, seed=8, dtype=double)
print("time s    required spread of A z_s   published MCG   told of the noise")
for t, s in ((0.5, 0.4), (0.2, 0.15), (0.05, 0.03)):
    z = linear.alpha(t) * true_pair + linear.sigma(t) * draw(many, 2, seed=9, dtype=double)
    found = []
    for told_noise in (0.0, 0.3):
        step = mcg(
            knows,
            linear,
            mean_of_both,
            noisy_means,
            told_noise,
            torch.tensor([t, s]),
            z,
            scale=0.0,
            noise=standard_normal(3),
        )
        found.append(mean_of_both(last(step)).std().item())
    print(f"{s:7} {linear.sigma(s).item() / 2**0.5:25.3f} {found[0]:15.3f} {found[1]:19.3f}")

# %% [markdown]
# At high noise nobody notices. At the end the published projection leaves a state that claims to be nearly clean and carries the camera's noise in full. The network takes it for detail. In this package MCG, like ILVR, counts the noise when told (and then needs the SVD); the original has no such input. DPS's authors dropped the projection altogether.
#
# <details><summary><b>Question.</b> Why does an average over many samples not reveal this error?</summary>
#
# The noise has mean zero, so the mean of $Az$ is right. Only a second moment per step shows it. So test variances, step by step.
# </details>
#
# ## 7. GDP: guide the estimate, and estimate the camera
#
# GDP (Fei et al., arXiv:2304.01247) differentiates with respect to $\hat z_0$ and stops there: no $J^\top$. It moves the mean of the DDPM step by $-g\,\Sigma_t\nabla_{\hat z_0}L$, where $\Sigma_t$ is the step's variance and $L$ is the **mean** of $(x - A\hat z_0)^2$ over the measurement, in image units. The script for super-resolution has the scale $g = 2000$. Is that much? One push moves $A\hat z_0$ by $g\,\Sigma_t\,\kappa/(2M)$ times what is missing ($\kappa$ from section 3). Above 1 it overshoots, and above 2 what is missing grows:

# %% tags=["nbval-check-output"]
print("picture                   numbers M   factor of one push, at most: 10, 30, 100, 1000 steps")
for picture, numbers, kappa in (
    ("8 x 8 grey, pooled by 2", 16, 1 / 4),
    ("32 x 32, pooled by 4", 192, 1 / 16),
    ("256 x 256, pooled by 4", 12288, 1 / 16),
):
    factors = []
    for n in (10, 30, 100, 1000):
        grid = uniform_times(n)
        widest = max(posterior_std(linear, t, s).item() for t, s in zip(grid[:-1], grid[1:], strict=True))
        factors.append(2000 * widest**2 * kappa / (2 * numbers))
    print(f"{picture:24} {numbers:10} " + "".join(f"{f:10.3f}" for f in factors))

# %% [markdown]
# A mean over more numbers has a smaller gradient. The 2000 that hardly moves a picture of 256×256 overshoots on a tiny one, the more so the longer the steps. Section 9 has the first line's pictures: there GDP is lost with 10 and 30 calls. Copy no scale without its image size.
#
# What is special: the camera may be unknown. $x = \mathcal D_\phi(z_0)$ with parameters $\phi$; in each step the image goes down $L$ under the present $\phi$, and $\phi$ goes down $L$ under the present image. Two examples: a photo developed with an **unknown exponent** $\gamma$ (not linear) and pooled, and a **blur of unknown width**:


# %%
def developed(z, parameters):
    """Pool by 2, then the exponent gamma: dark tones get darker."""
    light = F.avg_pool2d((z + 1) / 2, 2).clamp(1e-3, 1)
    return 2 * light ** parameters[:, 0].view(-1, 1, 1, 1) - 1


def blurred(z, parameters):
    """A Gaussian blur whose standard deviation in pixels is the parameter."""
    places = torch.arange(-6, 7, dtype=z.dtype)
    taps = torch.exp(-(places**2) / (2 * parameters[:, :1] ** 2))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, 0)
    rows = F.pad(z, [6] * 4, mode="replicate").reshape(1, -1, 44, 44)
    rows = F.conv2d(rows, taps[:, None, None, :], groups=len(taps))
    return F.conv2d(rows, taps[:, None, :, None], groups=len(taps)).reshape(z.shape)


def my_gdp_blind(denoiser, schedule, degrade, phi, x, z, times, scale, rate, noise):
    """Image and camera, one step down the same loss each."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0, phi = denoiser(z, t).requires_grad_(), phi.detach().requires_grad_()
        loss = (x - degrade(z_0, phi)).square().flatten(1).mean(1) / 4  # per sample, in image units
        slope, camera_slope = torch.autograd.grad(loss.sum(), (z_0, phi))
        z = ddim_step(z, z_0.detach(), schedule, t, s, 1.0, noise)
        z, phi = z - scale * posterior_std(schedule, t, s) ** 2 * slope, phi - rate * camera_slope
    return z, phi


dark, first_guess, z = developed(people, torch.full((3, 1), 2.2)), torch.ones(3, 1), draw(3, 3, 32, 32, seed=1)
arguments = (prior, cosine, developed, first_guess, dark, z, uniform_times(4, 0.9))
mine = my_gdp_blind(*arguments, 2e4, 20.0, standard_normal(2))
*_, theirs = gdp_blind(*arguments, scale=2e4, rate=20.0, noise=standard_normal(2))
assert_close(mine, (theirs.z, theirs.parameters), rtol=1e-4, atol=1e-4)

# %%
blind = {}
for name, degrade, true, guess, rate in (("exponent", developed, 2.2, 1.0, 20.0), ("blur", blurred, 1.6, 0.7, 60.0)):
    spoilt = degrade(people, torch.full((3, 1), true))
    states = list(
        gdp_blind(
            prior,
            cosine,
            degrade,
            torch.tensor([[guess]]),
            spoilt,
            draw(3, 3, 32, 32, seed=1),
            uniform_times(60, 0.995),
            scale=20_000.0,
            rate=rate,
            noise=standard_normal(2),
        )
    )
    blind[name] = (spoilt, torch.stack([state.parameters[:, 0] for state in states], 1), states[-1].z, true)

# %%
plots.curves(
    range(61),
    {f"{name}, face {i + 1}": path for name, (_, paths, _, _) in blind.items() for i, path in enumerate(paths)},
    title="Nobody told GDP the camera: exponent and blur are found while the faces are drawn",
    alt="The estimated parameter against the step, for three faces each. "
    + " ".join(
        f"{name}: from {paths[0, 0]:.1f} to {', '.join(f'{p:.2f}' for p in paths[:, -1])}, true value {true}."
        for name, (_, paths, _, true) in blind.items()
    ),
    xlabel="step",
    ylabel="parameter",
    horizontal={"true exponent": 2.2, "true blur": 1.6},
    ylim=(0.4, 8.5),
    height=400,
)

# %%
plots.image_grid(
    [
        picture
        for name, (spoilt, _, found, _) in blind.items()
        for i in range(3)
        for picture in (
            F.interpolate(pixels(spoilt[i : i + 1]), size=(32, 32)),
            pixels(found[i : i + 1]),
            pixels(people[i : i + 1]),
        )
    ],
    ["measured", "GDP", "original"] * 6,
    title="Blind restoration: dark and pooled (above), blurred (below)",
    alt="Two rows of nine pictures: for each of three faces the measurement, GDP's answer and the original. Above the measurement is darkened and coarse; two answers are right in tone and person, the third is much too dark against a red background, although its exponent was found. Below the measurement is blurred; all three answers are sharp and close to the original.",
    zoom=3,
    columns=9,
)

# %% [markdown]
# Five of six are right. The exponent of the sixth leapt to 5 in the first step, when there was no face yet to compare with, and came back only when the picture was long decided: a wrong person, too dark, explained by a wrong camera. Image and camera compensate each other. Where they can do so *exactly* ($x = f z_0$ with an unknown factor $f$ is a dark room or a dark photograph), only the prior decides.
#
# ## 8. Faces and a photo
#
# First: who listens to $\sigma_x$ at all? Run each method twice from the same noise, once told 0 and once told 0.2:

# %% tags=["nbval-check-output"]
start, few = draw(2, 2, dtype=double), uniform_times(10)
for name, method in {
    "dps": dps,
    "mcg": mcg,
    "gdp": gdp,
    "pigdm": pigdm,
    "diffpir": diffpir,
    "ilvr": ilvr,
    "ddrm": ddrm,
    "ddnm": ddnm,
}.items():
    a, b = (
        last(method(pair, linear, mean_of_both, grey, sigma, few, start, noise=standard_normal(1)))
        for sigma in (0.0, 0.2)
    )
    print(f"{name:8} {'ignores noise_std' if torch.equal(a, b) else 'listens'}")

# %% [markdown]
# Two are deaf. Does it show? Faces, 25 calls: pooling by 4 without noise and with noise of 0.2 (0.1 in image units), and inpainting with that noise, its PSNR also split into what the camera sees and the hole. Steps are few and therefore large (section 3), and the same in all three tasks.

# %%
hole = torch.ones(32, 32)
hole[10:26, 8:24] = 0
ones = torch.ones(8, 8)
tasks = {"x4": (camera, 0.0, ones), "x4, noise": (camera, 0.2, ones), "inpainting, noise": (Mask(hole), 0.2, hole)}
methods = {
    "mcg": partial(mcg, scale=5.0),
    "dps": partial(dps, scale=5.0),
    "gdp": partial(gdp, scale=20_000.0),
    "pigdm": partial(pigdm, prior_std=0.5),
    "diffpir": partial(diffpir, zeta=1.0),
    "ddnm": ddnm,
}
restored, measurements = {}, {}
print(f"{'':9}" + "".join(f"{task:>20}" for task in tasks) + f"{'PSNR of':>15}")
print(" " * 9 + f"{'PSNR   misfit':>20}" * 3 + f"{'seen / hole':>15}")
for name, method in methods.items():
    words = []
    for task, (operator, sigma, used) in tasks.items():
        spoilt = operator(people)
        spoilt = spoilt + sigma * used * draw(*spoilt.shape, seed=3)
        z = draw(3, 3, 32, 32, seed=1)
        found = last(
            method(prior, cosine, operator, spoilt, sigma, uniform_times(25, 0.995), z, noise=standard_normal(2))
        )
        restored[task, name], measurements[task] = found, spoilt
        words.append(f"{decibels(found, people).mean():.1f}   {rms((operator(found) - spoilt)[..., used > 0]):.3f}")
    error = (pixels(found) - pixels(people)).square()
    seen, inside = (-10 * error[..., part].mean((1, 2)).log10().mean() for part in (hole > 0, hole == 0))
    print(f"{name:9}" + "".join(f"{word:>20}" for word in words) + f"{f'{seen:.1f} / {inside:.1f}':>15}")

# %%
shown = [("x4, noise", 1), ("inpainting, noise", 0)]
plots.image_grid(
    [
        picture
        for task, who in shown
        for picture in (
            F.interpolate(pixels(measurements[task][who : who + 1]), size=(32, 32)),
            *(pixels(restored[task, name][who : who + 1]) for name in methods),
            pixels(people[who : who + 1]),
        )
    ],
    ["measured", *methods, "original"] * 2,
    title="Noise of 0.2: on the mask MCG and DPS keep the grain, the others do not",
    alt="Two rows of eight pictures: measurement, MCG, DPS, GDP, PiGDM, DiffPIR, DDNM, original. Above 8 by 8 noisy pixels: all six show a clean face with glasses and green or blue headwear, only GDP with the beard. Below a face with a hole in the middle and noise elsewhere: MCG and DPS keep visible grain in the skin and the background, GDP, PiGDM and DDNM are smooth, DiffPIR nearly; DDNM has put glasses into the hole.",
    zoom=3,
    columns=8,
)

# %% [markdown]
# Read the misfits before the pictures. With noise of 0.2 a right sample misses the measurement by 0.2. MCG and DPS miss it by less: they fit part of the noise. (MCG is told; its projection counts the noise, its push does not.) Deaf GDP has 0.206 on the mask by an accident of its step size; on the pooled faces it fits the noise. ΠGDM and DDNM+ come nearest to 0.2. And PSNR? On the mask MCG, with its visible grain, has the highest: it is worst where the camera sees and best in the hole, and the hole decides. Section 9 has better measures.
#
# A photo next: pooling by 4, without noise, `photo-unconditional`, 40 calls each.

# %%
wild = NetworkDenoiser(load_pretrained("photo-unconditional"), "v", cosine)
hr = 2 * photo("chelsea")[..., 100:196, 140:236] - 1
lr = camera(hr)
photo_methods = {
    "dps, 10": partial(dps, scale=10.0),
    "mcg, 10": partial(mcg, scale=10.0),
    "pigdm, p = 1": pigdm,
    "pigdm, p = 0.3": partial(pigdm, prior_std=0.3),
    "diffpir": partial(diffpir, zeta=1.0),
    "ddnm": ddnm,
}
cat = {"bicubic": 2 * resize(pixels(lr), 4) - 1}
for name, method in photo_methods.items():
    z = draw(1, 3, 96, 96, seed=1)
    cat[name] = last(method(wild, cosine, camera, lr, 0.0, uniform_times(40, 0.995), z, noise=standard_normal(2)))
for name, found in cat.items():
    print(
        f"{name:15} PSNR {psnr(pixels(found), pixels(hr), crop=4).item():5.2f} dB   misfit {rms(camera(found) - lr):.4f}"
    )

# %%
plots.image_grid(
    torch.cat([*map(pixels, cat.values()), pixels(hr)]),
    [*cat, "original"],
    title="One prior, no training for this camera: five plausible answers and a wreck",
    alt="Eight pictures of a cat's eye, 96 by 96 pixels. Bicubic is blurred. DPS and MCG have a sharp iris and some invented strokes of fur. PiGDM with p = 1 is similar, a little softer. PiGDM with p = 0.3 is a glaring weave of dark and bright lines in which the eye can only be guessed. DiffPIR is the smoothest of the sharp ones. DDNM has the most texture, partly grain. The original has fine ordered fur that none of them has.",
    zoom=2,
    columns=4,
)

# %% [markdown]
# The wreck was announced in section 4: $p = 0.3$ tells ΠGDM that its vague early estimates are good to 0.3, the pushes overshoot, and the state leaves everything the network has seen. On the simple faces $p = 0.5$ did no harm.
#
# Apart from the wreck, DiffPIR has the highest PSNR (29.5 dB) and the smoothest fur, DDNM the lowest (27.1 dB) and the most texture; plain bicubic (29.0 dB) beats three of the five. That is chapter 02's trade-off again. Test sets, more samples, another camera:

# %%
photos = json.loads(resources.files("tutorial_lib.data").joinpath("zero_shot.json").read_text())
SHOWN = ("regression", "ilvr", "ddrm", "ddnm", "dps", "pigdm", "diffpir")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "bicubic, made consistent")
PLACES = [f"{r['set']}, {r['camera']}" for r in photos if r["noise_std"] == 0]


def of_photos(quantity, noise_std):
    """Methods down, sets and cameras across; "gain": dB of the mean of 4 samples above the best interpolation."""
    columns = []
    for rows in (result["rows"] for result in photos if result["noise_std"] == noise_std):
        best = max(rows[m]["one"] for m in INTERPOLATIONS if m in rows)
        gains = [(rows[m].get("mean of 4") or rows[m]["one"]) - best for m in SHOWN]
        columns.append(gains if quantity == "gain" else [rows[m][quantity] for m in SHOWN])
    return torch.tensor(columns).T


def in_words(quantity):
    """Both panels of a quantity in words."""
    panels = {sigma: of_photos(quantity, sigma).tolist() for sigma in (0.0, 0.05)}
    return f"Columns: {', '.join(PLACES)}. " + " ".join(
        f"Noise {sigma}, {m}: " + ", ".join(f"{v:.1f}" for v in row) + "."
        for sigma, rows in panels.items()
        for m, row in zip(SHOWN, rows, strict=True)
    )


# %%
for quantity, limits, title in (
    ("gain", (-3, 5), "Mean of four samples against the best interpolation, dB (above 0 is better)"),
    ("sliced W1", (0, 6), "Textures of one sample: sliced Wasserstein distance in grey levels (low is better)"),
):
    display(
        plots.heatmap(
            {"without noise": of_photos(quantity, 0.0), "noise 0.05 of 1": of_photos(quantity, 0.05)},
            title=title,
            alt="Two tables of seven methods by sets and cameras. " + in_words(quantity),
            rows=SHOWN,
            columns=PLACES,
            numbers=".1f",
            limits=limits,
            cmap="Greys",
            width=900,
            height=380,
        )
    )

# %% [markdown]
# The record of `benchmarks/zero_shot.py`: 50 calls, crops of Set5 and Set14 and 64×64 faces, one prior for photos and one for faces. *regression* is `photo-regression-x4`, trained for bicubic photos without noise.
#
# - **Without noise** the mean of four samples mostly beats the best interpolation on photos, and always on faces. The regression is ahead of them all on photos in PSNR. In textures a single sample of most methods comes about level with it.
# - **With noise** that network falls below interpolation, and the zero-shot methods nearly all stay above, even DPS, which ignores $\sigma_x$: its step happens to leave room for this noise (residuals of 0.03 to 0.04 in the record). What no retraining buys: the camera may change at the time of use.
# - **ΠGDM** starts at $t = 0.9$, from the noised $A^+x$. Its push is the network's Jacobian times $\sigma_t^2/\alpha_t$: near pure noise, where $\alpha_t$ nearly vanishes, a small error of the network is a large push. With noise in $x$ nothing repairs that later, and smooth bright skin ends as a weave (`benchmarks/zero_shot.py --choose` measures it on training photos).
# - On photos DDRM's mean of four leads the zero-shot methods (with noise DDNM is level), and section 9 finds it overconfident when there is noise. Samples that spread too little miss less: PSNR rewards what coverage punishes.

# %% [markdown]
# ## 9. The table: every method against the exact posterior
#
# `benchmarks/posterior.py` runs sixteen settings of the zero-shot methods and a control with the *exact* denoiser of two priors on images of 8×8 pixels, so that whatever is wrong is the method's doing. Five cameras, noise 0 and 0.1, 10 to 1000 calls; we read its record.
#
# Under the Gaussian prior most methods are affine, and their distance is exact. MCG and DPS (*) divide by a norm: theirs is the distance of the Gaussian with the mean and covariance of 8192 samples, at most the true one. Under the mixture it is measured along 64 directions with 2048 samples. The jackknife takes out the bias of finite samples.

# %%
table = json.loads(resources.files("tutorial_lib.data").joinpath("posterior.json").read_text())["rows"]
CAMERAS = ("pool x2", "pool x4", "bicubic x2", "inpainting", "blur")
NAMES = {
    "exact denoiser of the posterior": "told denoiser (control)",
    "ilvr": "ILVR",
    "repaint, 4 visits": "RePaint, 4 visits",
    "ccdf, from t = 0.3": "CCDF, from t = 0.3",
    "snips, 5 steps of 0.066 a level": "SNIPS, step 0.066",
    "snips, 5 steps of 0.5 a level": "SNIPS, step 0.5",
    "ddrm": "DDRM",
    "ddnm, eta 1": "DDNM(+), eta 1",
    "ddnm, eta_total 0.85": "DDNM(+), eta 0.85",
    "mcg": "MCG *",
    "dps, scale 0.3": "DPS, 0.3 *",
    "dps, scale 1": "DPS, 1 *",
    "gdp": "GDP",
    "pigdm": "ΠGDM",
    "pigdm, told the prior's std": "ΠGDM, right std",
    "diffpir, zeta 0.1": "DiffPIR, zeta 0.1",
    "diffpir, zeta 1": "DiffPIR, zeta 1",
}


def entry(method, quantity, camera_name, noise_std, calls=1000, prior_name="Gaussian"):
    """One number of the record; NaN where there is none."""
    for row in table:
        if (row["method"], row["prior"], row["measurement"]) == (method, prior_name, camera_name):
            if row["noise_std"] == noise_std and row["column"] == calls:
                return float("nan") if row["lost"] else row.get(quantity, float("nan"))
    return float("nan")


def sheet(quantity, noise_std, factor=1.0):
    """Methods down, cameras across."""
    return factor * torch.tensor([[entry(m, quantity, c, noise_std) for c in CAMERAS] for m in NAMES])


def listed(method, quantity, noise_std, factor):
    """One row of the sheet in words."""
    return ", ".join(f"{factor * entry(method, quantity, c, noise_std):.0f}" for c in CAMERAS)


# %%
doubt = [max(v for s in (0.0, 0.1) for v in sheet(q, s, 1000).flatten().tolist() if v == v) for q in ("error", "floor")]
plots.heatmap(
    {"without noise": sheet("w2", 0.0, 1000), "noise 0.1": sheet("w2", 0.1, 1000)},
    title="Distance to the exact posterior after 1000 calls, in thousandths per pixel",
    alt="A table of a control and 16 settings by 5 cameras, once without noise and once with noise 0.1, of Wasserstein distances per pixel times 1000. "
    + " ".join(
        f"{label}: without noise {listed(m, 'w2', 0.0, 1000)}; with noise {listed(m, 'w2', 0.1, 1000)}."
        for m, label in NAMES.items()
    ),
    caption=f"* from samples: at most the true distance. Standard error at most {doubt[0]:.1f}; as many exact draws get at most {doubt[1]:.1f}.",
    rows=list(NAMES.values()),
    columns=CAMERAS,
    numbers=".0f",
    limits=(0, 130),
    cmap="Greys",
    width=900,
    height=520,
)

# %% [markdown]
# Start with the left half, without noise. (The blur has full rank: without noise there is one possible image, and whoever projects finds it.)
#
# - **DDNM with eta 1 is a posterior sampler** here: its numbers are the control's. Projection at every level with the *right* spread is enough when there is no noise.
# - ILVR and ΠGDM come near, but not for inpainting: masked pixels depend on their neighbours, and a method that does not pass the correction on (ILVR), or takes all directions for equally open (ΠGDM), misses that.
# - **DPS** with the published step 0.3 is about as near on poolings and bicubic (10 to 16), and nearer on the mask; with step 1 it is further out everywhere. On the blur both fail, as GDP does: a push through $A^\top$ hardly moves what the blur has damped.
# - **MCG** is ILVR with a push. On the mask the push helps (59, ILVR 100). Pooled by 4 it harms (125, ILVR 20), and more calls are more pushes: after 100 calls MCG was at the control's 24. $Az = x$ is no sign of a posterior sample.
#
# Then the right half. **DDNM+ and DDRM** are far off, and most of their numbers get worse with more calls (chapter 14 showed why). **DPS and MCG** fit the noise: 88 to 256. RePaint, going back and forth below the noise of $x$, forgets $x$; CCDF starts the blur from $A^+x$, which is amplified noise. **SNIPS** with step 0.5 is on the control's level, since it samples each level's law by itself, and needs all of its calls for that (with the default 0.066, more than these). ILVR, ΠGDM and DiffPIR ($\zeta = 0.1$) follow, 5 to 26, but not for inpainting, where DDRM is second (40). Nobody wins everywhere: one is right without noise, one with noise and patience.
#
# Distance alone does not say *how* a method is wrong. Coverage does: how often does the truth lie in the central 90 % of the method's samples?

# %%
plots.heatmap(
    {"without noise": sheet("coverage", 0.0, 100), "noise 0.1": sheet("coverage", 0.1, 100)},
    title="Truth inside a method's 90 % interval after 1000 calls, percent (below 90: overconfident)",
    alt="The same table of coverage in percent; 90 is right. "
    + " ".join(
        f"{label}: without noise {listed(m, 'coverage', 0.0, 100)}; with noise {listed(m, 'coverage', 0.1, 100)}."
        for m, label in NAMES.items()
    ),
    caption="Blur without noise leaves nothing open, so there is no interval.",
    rows=list(NAMES.values()),
    columns=CAMERAS,
    numbers=".0f",
    limits=(0, 100),
    width=900,
    height=520,
)

# %%
print("noise 0.1, 1000 calls: misfit of a sample per measured number (right: the control's) and coverage")
for m in (
    "exact denoiser of the posterior",
    "snips, 5 steps of 0.5 a level",
    "ddnm, eta 1",
    "ddrm",
    "mcg",
    "dps, scale 0.3",
    "dps, scale 1",
    "gdp",
    "pigdm",
    "diffpir, zeta 0.1",
    "diffpir, zeta 1",
):
    words = [f"{entry(m, 'residual', c, 0.1):.3f} {100 * entry(m, 'coverage', c, 0.1):3.0f} %" for c in CAMERAS]
    print(f"{NAMES[m]:24}" + "".join(f"{word:>15}" for word in words))

# %% [markdown]
# - Read both tables: on the noisy mask ILVR, ΠGDM and DiffPIR ($\zeta = 0.1$) cover 90 to 92 % and are 66 to 89 away. Each pixel's spread fits; where it lies, or how pixels go together, does not.
# - MCG and DPS on a noisy mask: misfit 0.005 to 0.007 where about 0.1 is right, coverage of little more than a third. They return the noisy pixels as the truth, and are sure of it.
# - DDNM+ on a noisy blur covers 13 %. One sample per image would never tell you.
# - DiffPIR with $\zeta = 1$ covers about 75 % everywhere: its samples are too alike. With $\zeta = 0.1$ it is near 90.
# - GDP mostly covers too much without noise: it leaves spread what the measurement has pinned.
#
# Last: how many calls does it take? Pooling by 4, with and without noise:

# %%
some = (
    "exact denoiser of the posterior",
    "snips, 5 steps of 0.5 a level",
    "ddnm, eta 1",
    "ddrm",
    "dps, scale 1",
    "pigdm",
    "diffpir, zeta 0.1",
)
calls = [10, 30, 100, 300, 1000]
plots.strip(
    [
        plots.curves(
            calls,
            {NAMES[m]: [entry(m, "w2", "pool x4", sigma, n) for n in calls] for m in some},
            title=f"noise {sigma}",
            alt=f"Distances against calls at noise {sigma}.",
            xlabel="network calls",
            ylabel="$W_2$ per pixel",
            logx=True,
            logy=True,
            ylim=(0.0008, 0.4),
            width=480,
            height=380,
        )
        for sigma in (0.0, 0.1)
    ],
    title="More calls help only those who are going to the right place (pooling by 4)",
    alt="Two panels, logarithmic axes: distance to the posterior against 10 to 1000 network calls. "
    + " ".join(
        f"Noise {sigma}, {NAMES[m]}: " + ", ".join(f"{entry(m, 'w2', 'pool x4', sigma, n):.3f}" for n in calls) + "."
        for sigma in (0.0, 0.1)
        for m in some
    ),
    columns=2,
)

# %% [markdown]
# With 10 to 30 calls the step error rules, and most methods are alike (DPS is behind with 10, SNIPS outside the figure). Then they part: some go on to the posterior, some have arrived at another law, and with noise DDRM, DDNM+ and DPS turn round. Calibration can only be had from 100 calls on, and more are seldom affordable. All cameras there:

# %% tags=["nbval-check-output"]
print("noise 0.1, 100 calls, thousandths per pixel" + "".join(f"{c:>12}" for c in CAMERAS))
for m in ("exact denoiser of the posterior", "ilvr", *some[1:], "diffpir, zeta 1", "gdp"):
    print(f"{NAMES[m]:43}" + "".join(f"{1000 * entry(m, 'w2', c, 0.1, 100):12.0f}" for c in CAMERAS))

# %% [markdown]
# ILVR is near but for the mask. So is ΠGDM, without an SVD, and DiffPIR on the first three. On the mask DDRM and DiffPIR with $\zeta = 1$ are the nearest of those who hear the noise. (GDP's scale happens to fit there; with 30 calls it is lost on the others.) SNIPS comes too late.
#
# Those were Gaussians. The mixture of a bright and a dark blob:

# %% tags=["nbval-check-output"]
places = [(c, sigma) for c in ("pool x4", "inpainting") for sigma in (0.0, 0.1)]
print("mixture prior, 300 calls, thousandths per pixel" + "".join(f"{c} {sigma}".rjust(19) for c, sigma in places))
for m in some:
    words = []
    for c, sigma in places:
        far, error = (1000 * entry(m, q, c, sigma, 300, "mixture") for q in ("w2", "error"))
        words.append(f"{far:.0f} ± {error:.0f}")
    print(f"{NAMES[m]:47}" + "".join(f"{word:>19}" for word in words))
least = [1000 * entry("ddrm", "floor", c, sigma, 300, "mixture") for c, sigma in places]
print(f"{'as many exact draws':47}" + "".join(f"{value:19.0f}" for value in least))

# %% [markdown]
# On the mask the order is about the same. Pooled by 4 it is another. Without noise DPS, ΠGDM and DDRM are nearest; DDNM, exact for Gaussians (chapter 14), is five times as far as the control, and DiffPIR is last. Bright or dark is decided early, where section 2 saw the proximal step know least. With noise ΠGDM and SNIPS lead.
#
# ## 10. A gallery of failures
#
# Each failure has a face and a number.

# %%
noisy = camera(face) + 0.2 * draw(1, 3, 8, 8, seed=3)
many_calls = uniform_times(30, 0.995)


def one(method, measurement, operator=camera, sigma=0.0, times=many_calls):
    """One face."""
    z = draw(1, 3, 32, 32, seed=1)
    return last(method(prior, cosine, operator, measurement, sigma, times, z, noise=standard_normal(2)))


gallery = {
    "good": (one(partial(dps, scale=5.0), x), x),
    "ignored": (one(partial(dps, scale=0.1), x), x),
    "over-guided": (one(partial(dps, scale=300.0), x), x),
    "noise fitted": (one(partial(mcg, scale=5.0), noisy), noisy),
    "diverged": (one(partial(gdp, scale=5e5), x), x),
    "off the road": (cat["pigdm, p = 0.3"][..., 32:64, 32:64], lr[..., 8:16, 8:16]),
}
for name, (found, measurement) in gallery.items():
    print(
        f"{name:14} misfit {rms(camera(found) - measurement):9.2g}   beyond the range of images by up to {(found.abs().max() - 1).clamp(min=0):.2g}"
    )

# %%
plots.image_grid(
    torch.cat([*(pixels(found) for found, _ in gallery.values()), pixels(face)]),
    [*gallery, "original"],
    title="Learn to read them: each failure leaves its own traces",
    caption="Noise fitted: MCG, which was told that there is no noise. Off the road: a piece of the cat's eye from section 8.",
    alt="Seven faces. Good: the right person. Ignored: a clean face of someone else. Over-guided: the face as a dark blue shadow under bright blotches. Noise fitted: hat and glasses under a quilt of coloured squares. Diverged: a few blocks of pure colour. Off the road: a weave of dark and bright lines. The original.",
    zoom=4,
    columns=7,
)

# %% [markdown]
# | what you see | what you measure | what happened | what to do |
# |---|---|---|---|
# | a beautiful image of something else | misfit far above $\sigma_x$ | the pushes add up to too little: steps too few, or too small | larger $\zeta$; check the gradient reaches $z_t$ |
# | oversaturated blotches | misfit large as well; values beyond the range | the push is larger than what is missing and crosses over each time | smaller $\zeta$; compare with $\zeta\kappa/(2\sqrt M)$ |
# | grain, wrong colours in flat areas | misfit well **below** $\sigma_x$ | the noise was fitted | a method that is told $\sigma_x$ |
# | blocks of pure colour, NaN | values of 10 and more | the factor of one push is above 2 | scale by image size; a smaller one |
# | a weave, checkers, coloured noise | misfit may be tiny! | the state left what the network knows | wider $r_t^2$, more steps |
#
# Misfit alone does not find the last one. Look at the pictures.
#
# ## 11. Break it
#
# Three slips that published code contains, and one of its users. **The norm over the whole batch**: `torch.linalg.norm(missing)` of a batch is one number. Each push is then divided by everybody's misfit, so that a sample depends on its batch mates. How to recognise it: run a sample alone and in company.

# %% tags=["nbval-check-output"]
start, times = draw(8, 2, dtype=double), uniform_times(30)


def alone_and_in_company(whole_batch):
    run = lambda z, noise: my_dps(pair, linear, mean_of_both, grey, times, z, 0.5, noise, whole_batch=whole_batch)  # noqa: E731
    company = standard_normal(1)
    mine = standard_normal(1)
    return (run(start[:1], lambda z: mine(start)[:1]) - run(start, company)[:1]).abs().max().item()


for whole_batch in (False, True):
    print(
        f"norm over the whole batch {whole_batch!s:5}: sample 0 alone and among 8 differs by {alone_and_in_company(whole_batch):.1e}"
    )


# %% [markdown]
# **Nearest-neighbour up-sampling as the adjoint of bicubic down-sampling.** An adjoint satisfies $\langle Az, x\rangle = \langle z, A^\top x\rangle$. Repeating pixels gives every number 16 times its weight, in the wrong places. **Roles swapped** in the projection of a mask: what the camera saw is kept from the state, and the hole is filled from the measurement, which has nothing there. **The same step with fewer steps.** As pictures:


# %%
class NearestBicubic(Bicubic):
    """Bicubic down-sampling with a wrong adjoint."""

    def adjoint(self, x):
        return F.interpolate(x, scale_factor=4)


right, wrong = Bicubic(4), NearestBicubic(4)
z, w = draw(1, 3, 32, 32), draw(1, 3, 8, 8, seed=1)
for name, operator in (("right adjoint", right), ("nearest", wrong)):
    print(f"{name:14} <A z, w> = {(operator(z) * w).sum():8.3f}   <z, A^T w> = {(z * operator.adjoint(w)).sum():8.3f}")


def exchanged(measurement, swapped):
    """Inpainting by projection alone: known pixels from the measurement, the rest from the state; or the reverse."""
    z, noise, keep = draw(1, 3, 32, 32, seed=1), standard_normal(2), 1 - hole if swapped else hole
    for t, s in zip(many_calls[:-1], many_calls[1:], strict=True):
        z = ddim_step(z, prior(z, t), cosine, t, s, 1.0, noise)
        z = torch.where(keep > 0, forward_step(measurement, cosine, 0.0, s, noise), z)
    return z


small, masked = right(face), hole * people[:1]
slips = {
    "right adjoint": one(partial(dps, scale=5.0), small, right),
    "nearest": one(partial(dps, scale=5.0), small, wrong),
    "right roles": exchanged(masked, False),
    "swapped": exchanged(masked, True),
}
for n in (100, 20):
    slips[f"step 1, {n} calls"] = one(partial(dps, scale=1.0), x, times=uniform_times(n, 0.995))

# %%
plots.image_grid(
    torch.cat([pixels(found) for found in slips.values()]),
    list(slips),
    title="Three slips in pairs: wrong adjoint, swapped roles, and the same step with fewer calls",
    alt="Six faces in pairs. DPS with the right adjoint: the bearded face with glasses; with nearest-neighbour up-sampling: the same face with blocks of false colour in the flat areas. Projection with the right roles: a bald face completed in the hole; swapped: some other person around a grey square. DPS with step 1 and 100 calls: green beanie and dark glasses, without the beard; with 20 calls: another person with a green cap and no glasses.",
    zoom=4,
    columns=6,
)

# %% [markdown]
# ## 12. Which method when
#
# | | one call costs | wants | hears $\sigma_x$ | take it when |
# |---|---|---|---|---|
# | DDNM (14) | 1 pass | $A^+$ | DDNM+, SVD | no noise |
# | SNIPS (14) | 1 pass, hundreds of calls | SVD | yes | noise, and calibration counts |
# | DDRM (14) | 1 pass | SVD | yes | noise, few calls, a hole |
# | ILVR (13) | 1 pass | $A^+$ | SVD | few calls, also with noise; no holes |
# | CCDF (13) | 1 pass | $A^+$ | SVD | a good guess to start from |
# | DiffPIR | 1 pass, 1 solve | a solver | yes | noise, few calls, no memory for gradients; pooling |
# | ΠGDM | 1 pass and back | a solver | yes | noise, few calls, gradients are affordable; no holes |
# | DPS | 1 pass and back | a differentiable camera | no | nothing else applies: no pseudo-inverse, not linear; little noise |
# | RePaint (13), MCG | 4 passes; 1 pass and back | $A^+$ | SVD | seldom: without noise DDNM was as near or nearer for less |
# | GDP | 1 pass | a differentiable camera | no | the camera is unknown |
#
# None of them can be better than the prior. A photo prior of a few million weights makes painterly fur, and no likelihood term mends that.
#
# > **Common mistakes**
# >
# > - $\|r\|^2$ where a published $\zeta$ was tuned for $\|r\|$; a step size of 1000 steps used with 50.
# > - The gradient taken with respect to $\hat z_0$ when $z_t$ was meant, or under `no_grad`: then it is zero without a word. (`pullback` raises an error.)
# > - Clipping $\hat z_0$ inside the graph: where it clips the gradient vanishes.
# > - $A^\top$ for $A^+$; $\sigma_x$ in image units beside states in $[-1, 1]$.
# > - The prior's score forgotten, or taken at $(x, t)$ instead of $(z_t, t)$.
# > - Judging by one sample and PSNR.
#
# > **In the papers**
# >
# > - **MCG** (arXiv:2206.00941): gradient and projection; inpainting, colourisation and sparse-view CT.
# > - **DPS** (arXiv:2209.14687): linear and non-linear cameras (phase retrieval, blur with a neural network as camera), 1000 steps; the code's $\zeta$ for FFHQ is 0.3, for inpainting 0.5.
# > - **ΠGDM** (ICLR 2023, openreview 9_gsMA8MRKQ): super-resolution, inpainting, and JPEG, a camera that has no gradient but something like a pseudo-inverse.
# > - **GDP** (arXiv:2304.01247): one unconditional ImageNet model for super-resolution, deblurring, inpainting, colourisation and, blind, low light and HDR; $L$ may hold a term $\lambda Q(\hat z_0)$ such as exposure or total variation (`quality=`).
# > - **DiffPIR** (arXiv:2305.08995): plug-and-play restoration with a diffusion prior, at most 100 calls; it starts from the noised bicubic enlargement.
#
# > **Going further**
# >
# > - The right width of section 2 needs $A C_t A^\top$ with $C_t = \sigma_t^2/\alpha_t\,J$: each conjugate-gradient step is one backward pass. Write it for two pixels and add it to section 4. Rozet et al. (arXiv:2405.13712) do it for images.
# > - RED-diff (arXiv:2305.04391) and PSLD (arXiv:2307.00619, in latents) start from the same split.
# > - Set `guidance.pigdm` or `guidance.proximal` under another sampler of chapter 07: they are denoisers.
#
# Eight [exercises](../exercises/15_zero_shot_posterior.ipynb) wait.

# %% [markdown]
# ## Recap
#
# 1. **Split:** posterior score = prior score + $\nabla\log p(x\mid z_t)$; the second is an average over all images that $z_t$ leaves open.
# 2. **Compare:** a point (DPS) overshoots while much is open, a fixed width (ΠGDM) is right for white priors, the proximal step (DiffPIR) ignores what the prior knows; a Gaussian of the right width is exact for Gaussian priors.
# 3. **Step:** DPS steps down a norm; once the step is large enough to arrive, its samples end about $\zeta\kappa/(2\sqrt M)$ from $x$, whatever the noise; fewer steps want a larger $\zeta$.
# 4. **Say:** ΠGDM is exact for $\mathcal N(0, I)$ and stops short of correlated priors; DiffPIR solves $(A^\top A + \rho I)y = A^\top x + \rho\hat z_0$ and keeps $\sigma_s^2$.
# 5. **Estimate:** GDP lets image and camera go downhill together; what they can trade stays open.
# 6. **Judge:** without noise DDNM is a posterior sampler for Gaussians; with noise SNIPS, given hundreds of calls; with fewer, noisy ILVR or ΠGDM for pooling, bicubic and blur (DiffPIR for the first two), DDRM for a hole; DPS and MCG fit the noise; nobody wins everywhere.
# 7. **Read:** misfit above the noise: ignored; below: fitted; values out of range: diverged; a tiny misfit and a broken picture: off the road.
#
# Next: [chapter 16](16_color_shift.ipynb), where a restored photo has the wrong colour.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Chung, Sim, Ryu, Ye, *Improving Diffusion Models for Inverse Problems using Manifold Constraints* (MCG), arXiv:2206.00941.
# - Chung, Kim, Mccann, Klasky, Ye, *Diffusion Posterior Sampling for General Noisy Inverse Problems* (DPS), arXiv:2209.14687.
# - Fei et al., *Generative Diffusion Prior for Unified Image Restoration and Enhancement* (GDP), arXiv:2304.01247.
# - Song, Vahdat, Mardani, Kautz, *Pseudoinverse-Guided Diffusion Models for Inverse Problems* (ΠGDM), ICLR 2023.
# - Zhu et al., *Denoising Diffusion Models for Plug-and-Play Image Restoration* (DiffPIR), arXiv:2305.08995.
# - Rozet et al., *Learning Diffusion Priors from Observations by Expectation Maximization*, arXiv:2405.13712.
# - Kawar et al., *SNIPS*, arXiv:2105.14951; *DDRM*, arXiv:2201.11793; Wang, Yu, Zhang, *DDNM*, arXiv:2212.00490.
