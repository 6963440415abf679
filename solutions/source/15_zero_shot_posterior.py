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
# # Solutions 15: Zero-shot super-resolution by estimating the posterior
#
# Eight exercises about the term $\nabla_z \log p(x \mid z_t)$: the point estimate that DPS takes for it, the Gaussian of PiGDM, the data step of DiffPIR, an unknown degradation, and how to find out what a sampler really draws. Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line. They belong to [chapter 15](../notebooks/15_zero_shot_posterior.ipynb).
#
# Running time: about 10 s on two processor cores.
#
# Measurements are $x = A z_0 + \text{noise\_std}\; n$ with white $n$; `x` and `noise_std` are in state units (an image in [0, 1] becomes the state $2y - 1$, so its noise doubles). `operator(z)` is $A z$, `operator.adjoint(x)` is $A^T x$. Where an exercise gives $A$ as a matrix (M, D), states are (B, D) and measurements (B, M).

# %%
import torch

from tutorial_lib import plots
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser, from_z_0, pullback
from tutorial_lib.exercises import check
from tutorial_lib.guidance import pigdm as pigdm_denoiser
from tutorial_lib.guidance import proximal
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool
from tutorial_lib.oracles import Gaussian, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import last
from tutorial_lib.schedules import uniform_times, vp_cosine, vp_linear
from tutorial_lib.zero_shot import ddnm, ddrm, diffpir, dps, gdp, gdp_blind, ilvr, mcg, pigdm

double = torch.float64
linear, cosine = vp_linear(), vp_cosine()
network = NetworkDenoiser(load_pretrained("faces-unconditional-32"), "v", cosine)
pool = AveragePool(4)


def smooth_prior(side):
    """Gaussian images of side x side pixels in which neighbours are alike; variance 0.31 per pixel."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).to(double)
    covariance = 0.3 * torch.exp(-(torch.cdist(places, places) ** 2) / 8) + 0.01 * torch.eye(side**2, dtype=double)
    return Gaussian(torch.zeros(1, side, side, dtype=double), covariance)


def decibels(state, truth):
    """PSNR of states as images."""
    return -10 * ((state - truth) / 2).square().mean().log10().item()


# %% [markdown]
# ## Exercise 15.1: Down the norm (warm-up)
#
# One half of a DPS step: return $-\nabla_z\,\|x - A\,\hat z_0(z)\|$ for states `z` (B, C, H, W), shaped like `z`, where $\hat z_0(z)$ is `denoiser(z, t)` and the norm is that of one sample. `pullback(denoiser, z, t)` gives `z_0, back`, and `back(w)` is $J^T w$ with $J = \partial \hat z_0/\partial z$.


# %%
def descent(denoiser, z, t, x, operator):
    """-grad_z ||x - A z_0(z)|| per sample, shaped like z."""
    ### BEGIN SOLUTION
    z_0, back = pullback(denoiser, z, t)
    missing = x - operator(z_0)
    length = missing.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return back(operator.adjoint(missing / length))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.1", descent)

# %% [markdown]
# What does $J^T$ do to the residual? Take a face, noise it to three levels, measure **another** face with 4 × 4 pooling, and look at $A^T(x - A\hat z_0)$ beside $J^T A^T(x - A\hat z_0)$, each divided by its largest entry.

# %% tags=["solution"]
two = 2 * faces(2, seed=15).images - 1
white = standard_normal(0)(two[:1])
sheet, names = [], []
for t in (0.35, 0.6, 0.85):
    z = cosine.alpha(t) * two[:1] + cosine.sigma(t) * white
    z_0, back = pullback(network, z, t)
    blocks = pool.adjoint(pool(two[1:]) - pool(z_0))
    carried = descent(network, z, t, pool(two[1:]), pool)
    sheet += [z / 2 + 0.5, z_0 / 2 + 0.5, *(0.5 + m / m.abs().max() / 2 for m in (blocks, carried))]
    names += [f"state at t = {t}", "estimate", "Aᵀ residual", "Jᵀ Aᵀ residual"]
plots.image_grid(
    [image.float().clamp(0, 1) for image in sheet],
    names,
    title="The Jacobian turns blocks into changes of a face",
    alt="Three rows of four pictures at growing noise. The noisy state; the estimate, a bald face that gets blurry in the last row; the residual in 4 by 4 blocks, blue and dark where the other face has hair and eyes; and the residual carried back through the denoiser, without block borders: a head with hair, eyes and mouth in the first row, coarser in the second, and in the last a smooth blue head on yellow.",
    caption="Grey is no change; bright pixels shall grow, dark ones shrink.",
    zoom=4,
    columns=4,
)

# %% [markdown] tags=["solution"]
# The rows of $J$ say which pixels of a face change together. $A^T$ alone would paint blocks onto the state; $J^T$ spends the same request on changes that lead from faces to faces. For an exact denoiser $J = (\alpha/\sigma^2)\,\mathrm{cov}(z_0 \mid z)$: nothing is changed that $z$ has already decided. This is also why these methods cost a backward pass for each call.

# %% [markdown]
# ## Exercise 15.2: Four names for one step
#
# All of these move the state to $z' + c\,J^T A^T r$ with $r = x - A\hat z_0$. They differ in $c$. Return it, (B,), for `length` (B,), the norms $\|r\|$, and
#
# - `"norm"`, the code of DPS: $-\text{value}\cdot\nabla_z\|r\|$;
# - `"paper"`, as [arXiv 2209.14687](https://arxiv.org/abs/2209.14687) writes it: $-(\zeta'/\|r\|)\,\nabla_z\|r\|^2$ with $\zeta' = $ value;
# - `"square"`: $-\text{value}\cdot\nabla_z\|r\|^2$;
# - `"likelihood"`, Bayes with the point estimate: $+\nabla_z\log N(x;\,A\hat z_0,\ \text{value}^2 I)$.


# %%
def factor(kind, value, length):
    """c of the step z' + c J^T A^T r, (B,)."""
    ### BEGIN SOLUTION
    if kind == "norm":
        return value / length
    if kind == "paper":
        return 2 * value / length
    return torch.full_like(length, 2 * value if kind == "square" else 1 / value**2)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.2", factor)

# %% [markdown]
# Forget diffusion for a moment: start from a grey 32 × 32 image and repeat $y \leftarrow y + c\,A^T r$ 100 times towards a pooled face, with the norm and with the square. Plot $\|r\|$. Which of the two comes to rest?

# %% tags=["solution"]
target = pool(two[:1].double())
runs = {
    "norm, 1": ("norm", 1.0),
    "norm, 3": ("norm", 3.0),
    "square, 0.5": ("square", 0.5),
    "square, 7": ("square", 7.0),
}
lengths = {}
for name, (kind, value) in runs.items():
    y, lengths[name] = torch.zeros_like(two[:1]).double(), []
    for _ in range(100):
        missing = target - pool(y)
        lengths[name].append(max(missing.norm().item(), 1e-3))
        y = y + factor(kind, value, missing.norm().view(1)).item() * pool.adjoint(missing)
plots.curves(
    range(100),
    lengths,
    title="Going down a norm never comes to rest",
    alt="The length of the residual on a logarithmic axis over 100 steps, from 4.7. The norm with step 3 falls faster and faster, reaches 0.2 after 25 steps and then jumps up and down between 0.02 and 0.17. The norm with step 1 does the same after 75 steps, between 0.02 and 0.045. The square with 0.5 falls along a straight line to 0.008. The square with 7 is below 0.001 after four steps.",
    caption="Values below 0.001 are drawn there.",
    xlabel="step",
    ylabel="‖r‖",
    logy=True,
)

# %% [markdown] tags=["solution"]
# The gradient of a norm does not get shorter near the goal. Every step covers the same distance, so the walk is slow at first and rattles at the end, by as much as one step. The square slows down by itself: its steps are proportional to what is missing. Its price is that the step must fit the operator. $AA^T = I/16$ for this pooling, so $c = 14$ takes off 14/16 of the residual at once, and $c > 32$ would diverge.
#
# In a sampler the norm has one merit: a single number works for every image and every operator, because it is a length in state space. Remember the rattling for exercise 15.8. And since a sample takes as many steps as the grid has, a walk with a twentieth of the steps covers a twentieth of the distance: papers' values belong to their number of steps.

# %% [markdown]
# ## Exercise 15.3: What the state says about the measurement
#
# For $z_0 \sim N(0, S)$ the term that all these methods approximate is known: $p(x \mid z_t)$ is a Gaussian. Return its mean (B, M) and its covariance (M, M). `covariance` is $S$ (D, D), `matrix` is $A$ (M, D), `z` (B, D) is a state $\alpha z_0 + \sigma\epsilon$; do not assume $\alpha^2 + \sigma^2 = 1$.


# %%
def law_of_x(covariance, matrix, z, alpha, sigma, noise_std):
    """Mean (B, M) and covariance (M, M) of x given z."""
    ### BEGIN SOLUTION
    identity = torch.eye(len(covariance), dtype=z.dtype)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * identity)
    left = covariance - alpha * gain @ covariance
    white = torch.eye(len(matrix), dtype=z.dtype)
    return z @ (matrix @ gain).T, matrix @ left @ matrix.T + noise_std**2 * white
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.3", law_of_x)

# %% [markdown]
# For the smooth 8 × 8 prior above, 2 × 2 pooling and `noise_std` 0.1, plot the variance of one number of $x$ given $z_t$ along `vp_linear()`: the truth, the point estimate of DPS, and PiGDM's $r^2 A A^T + \text{noise\_std}^2$ with $r^2 = \sigma^2/(\alpha^2 + \sigma^2)$.

# %% tags=["solution"]
prior, halved, noise_std = smooth_prior(8), AveragePool(2), 0.1
matrix = halved.dense(prior.shape)
times = torch.linspace(0.01, 0.99, 60, dtype=double)
truth = []
for t in times:
    arguments = (linear.alpha(t), linear.sigma(t), noise_std)
    truth.append(law_of_x(prior.covariance, matrix, torch.zeros(1, 64, dtype=double), *arguments)[1].diagonal().mean())
widths = linear.sigma(times) ** 2 * (matrix @ matrix.T).diagonal().mean()
plots.curves(
    linear.log_snr(times),
    {
        "exact": torch.stack(truth),
        "PiGDM": widths + noise_std**2,
        "DPS's point estimate": torch.full_like(times, noise_std**2),
    },
    title="How sure each method is of the measurement, given the state",
    alt="Variance of a number of x given the state, on a logarithmic axis, against log SNR from -10 to 6. The exact one is flat at 0.28 in the noise and falls from log SNR -3 on to 0.01. PiGDM's starts slightly lower, at 0.26, crosses near -3, lies up to 1.5 times above in the middle and joins it at the clean end. The point estimate's stays at 0.01 everywhere.",
    xlabel="log SNR (noisy on the left)",
    ylabel="variance of x given z",
    logy=True,
)

# %% [markdown] tags=["solution"]
# A gradient of $\log N(x; \cdot, V)$ is divided by $V$. In pure noise the point estimate claims a precision 28 times too high, so Bayes' rule with it would pull 28 times too hard at a time when the denoiser knows nothing yet. This is why DPS does not use $1/\text{noise\_std}^2$ (the `"likelihood"` of exercise 15.2) but a length of its own choice, and why it cannot say what it samples from.
#
# PiGDM's width has the right shape without having seen the data. It is right where its picture of the data is: for $N(0, I)$. Here neighbouring pixels are alike, so pooling averages fewer independent numbers and more variance is left in $x$ at the noisy end; in the middle, smoothness helps the denoiser and less is left than PiGDM thinks.

# %% [markdown]
# ## Exercise 15.4: Pseudo-inverse guidance
#
# Song et al. (PiGDM, [ICLR 2023](https://openreview.net/forum?id=9_gsMA8MRKQ)) take $z_0$ given $z$ to be $N(\hat z_0, r^2 I)$ with the $r^2$ of data $N(0, I)$. Return the guided estimate $\hat z_0 + (\sigma^2/\alpha)\,\nabla_z\log p(x\mid z)$, (B, D), where only $\hat z_0$ counts as a function of $z$. `schedule.alpha(t)` and `schedule.sigma(t)` need not satisfy $\alpha^2 + \sigma^2 = 1$; `x` is (B, M).


# %%
def guided_estimate(denoiser, schedule, matrix, x, z, t, noise_std):
    """PiGDM's estimate of z_0 given z and x, (B, D)."""
    ### BEGIN SOLUTION
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    z_0, back = pullback(denoiser, z, t)
    r_squared = sigma**2 / (alpha**2 + sigma**2)
    variance = r_squared * matrix @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=z.dtype)
    pull = torch.linalg.solve(variance, (x - z_0 @ matrix.T).T).T @ matrix
    return z_0 + sigma**2 / alpha * back(pull)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.4", guided_estimate)

# %% [markdown]
# Half of the check's draws had $N(0, I)$ data, where the answer is the exact $E[z_0 \mid z, x]$. Other data have another spread: the library's `guidance.pigdm` has `prior_std` for that. Take smooth 8 × 8 images and white ones of the same standard deviation, 0.56 per pixel, pooled 2 × 2 with noise 0.1, and plot along the walk how far the guided estimate is from the exact one.

# %% tags=["solution"]
white_prior = Gaussian(torch.zeros(1, 8, 8, dtype=double), 0.31 * torch.eye(64, dtype=double))
errors = {}
for data, where in (("smooth", prior), ("white", white_prior)):
    x_now = halved(where.sample(1, standard_normal(1)))
    x_now = x_now + noise_std * standard_normal(2)(x_now)
    told, plain = where.posterior(halved, x_now, noise_std), denoiser_for(where, linear)
    clean, eps = told.sample(64, standard_normal(3)), standard_normal(4)(torch.empty(64, 1, 8, 8, dtype=double))
    for name, std in (("prior_std 1", 1.0), ("prior_std 0.56", 0.31**0.5)):
        guided = pigdm_denoiser(plain, halved, x_now, linear, noise_std, std)
        errors[f"{data} images, {name}"] = curve = []
        for t in times:
            alpha, sigma = linear.alpha(t), linear.sigma(t)
            z = alpha * clean + sigma * eps
            gap = guided(z, t) - told.denoise(z, alpha, sigma)
            curve.append(max(gap.square().mean().sqrt().item(), 1e-6))
plots.curves(
    linear.log_snr(times),
    errors,
    title="PiGDM is exact where its picture of the data is true",
    alt="Error of the guided estimate on a logarithmic axis against log SNR. White images with prior_std 0.56: the bottom line at 0.000001 everywhere. White images with 1: 0.17 in the noise, falling from log SNR 0 on. Smooth images with 1: about 0.5 in the noise; with 0.56: about 2. All of these fall to 0.00001 or below at log SNR 6.",
    caption="Values below 0.000001 are drawn there.",
    xlabel="log SNR (noisy on the left)",
    ylabel="error of the guided estimate",
    logy=True,
)

# %% [markdown] tags=["solution"]
# With the right spread and white data the error is rounding. Everything else is biased, and `prior_std` = 0.56, the standard deviation of a pixel, is the **worse** choice for smooth images: what pooling sees are the low frequencies, whose standard deviation is much larger than a pixel's, and too small an $r^2$ pulls too hard. On real images no single number is right. Towards the clean end all errors vanish, because the whole correction does: whatever is wrong happens early, when the coarse shape of the image is decided.

# %% [markdown]
# ## Exercise 15.5: The data step of DiffPIR
#
# DiffPIR ([arXiv 2305.08995](https://arxiv.org/abs/2305.08995)) corrects the denoiser's estimate `z_0` (B, D) without any gradient. Return the $y$ that minimises
#
# $$\frac{\|A y - x\|^2}{\text{noise\_std}^2} + \frac{\|y - \hat z_0\|^2}{(\sigma/\alpha)^2}.$$
#
# $A$ is the (M, D) `matrix`, `x` is (B, M), and `noise_std` is above 0.


# %%
def data_step(z_0, x, matrix, alpha, sigma, noise_std):
    """The y that weighs x against z_0, (B, D)."""
    ### BEGIN SOLUTION
    rho = (noise_std * alpha / sigma) ** 2
    left = matrix.T @ matrix + rho * torch.eye(matrix.shape[1], dtype=z_0.dtype)
    return torch.linalg.solve(left, (x @ matrix + rho * z_0).T).T
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.5", data_step)

# %% [markdown]
# Then DiffPIR goes to the next level with a fraction $\zeta$ of fresh noise: $\alpha_s y + \sigma_s(\sqrt{1-\zeta}\,\epsilon + \sqrt{\zeta}\,n)$, with $\epsilon = (z - \alpha_t y)/\sigma_t$. Write that walk with the library's `proximal` in place of your dense solve, for a face under 4 × 4 pooling with `noise_std` 0.2. Compare with the same walk that mixes $(1-\zeta)\,\epsilon + \zeta\,n$ and with one that believes `x` without reserve (`noise_std` 0).

# %% tags=["solution"]
face, levels = 2 * faces(1, seed=16).images - 1, uniform_times(40, 0.995)
x_face = pool(face) + 0.2 * standard_normal(5)(pool(face))


def walk_diffpir(told, zeta, root):
    """One sample; `root`: mix the square roots of the shares."""
    noise = standard_normal(6)
    guided = proximal(network, pool, x_face, cosine, noise_std=told)
    z = noise(face)
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        y = guided(z, t)
        old, new = ((1 - zeta) ** 0.5, zeta**0.5) if root else (1 - zeta, zeta)
        eps = from_z_0(y, "eps", z, t, cosine)
        z = cosine.alpha(s).float() * y + cosine.sigma(s).float() * (old * eps + new * noise(z))
    return z


versions = {
    "right": walk_diffpir(0.2, 0.5, True),
    "shares, not roots": walk_diffpir(0.2, 0.5, False),
    "noise_std = 0": walk_diffpir(0.0, 0.5, True),
}
for name, sample in versions.items():
    print(f"{name:18} PSNR {decibels(sample, face):.1f} dB, residual {(pool(sample) - x_face).std().item():.2f}")
plots.image_grid(
    [image.clamp(-1, 1) / 2 + 0.5 for image in (face, pool.pinv(x_face), *versions.values())],
    ["face", "measured", *versions],
    title="Two ways to spoil a DiffPIR walk",
    alt="Five faces of 32 by 32 pixels. A grey-haired face with a bun on a yellow ground; the noisy measurement, coloured blocks; the right walk, a similar face with crisp eyes and hair; the walk with shares for roots, the same face with softer hair and skin; and the walk with noise_std 0, a face under a patchwork of coloured blocks.",
    zoom=5,
    columns=5,
)

# %% [markdown] tags=["solution"]
# The hard projection reproduces every block of noise: its residual is 0, and the face has spots. With `noise_std` told, the residual is about `noise_std`, as it should be. Early in the walk $\sigma/\alpha$ is large, $\rho$ is small and $x$ decides; late, the denoiser does.
#
# Shares instead of roots: $(1-\zeta)^2 + \zeta^2$ of the variance is left, one half for $\zeta = 0.5$, at every step. The network is told a noise level that is not there, takes details for noise and smooths them. Look at the PSNR before you call this harmless: the smoother face can even score higher. A PSNR does not notice that variance is missing; the variance check of chapter 14 does.

# %% [markdown]
# ## Exercise 15.6: A step towards the exposure
#
# GDP ([arXiv 2304.01247](https://arxiv.org/abs/2304.01247)) also estimates the degradation while it samples. Let `x` (B, 3, H, W) be photographs taken too dark: in image units, values in [0, 1], each is its clean image times an unknown gain. Given the present estimates `z_0` (B, 3, H, W) and `gains` (B,), take one step of size `rate` down the mean squared difference between `x` and the darkened estimate, in image units, for each image on its own. `x` and `z_0` are states. Return the new gains (B,).


# %%
def exposure_step(z_0, gains, x, rate):
    """The gains after one step, (B,)."""
    ### BEGIN SOLUTION
    image, dark = (z_0 + 1) / 2, (x + 1) / 2
    difference = gains.view(-1, 1, 1, 1) * image - dark
    return gains - rate * (2 * difference * image).mean((1, 2, 3))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.6", exposure_step)

# %% [markdown]
# Run `gdp_blind` on four faces with the gains 0.25, 0.4, 0.55 and 0.7, all starting from the guess 1. `degrade(z_0, gains)` must return states. The library's default scale, 2000, is that of the authors' superresolution script with its 1000 steps; for these 60 steps take 20,000, and a rate of 3.

# %% tags=["solution"]
clean = 2 * faces(4, seed=123).images - 1
true_gains = torch.tensor([0.25, 0.4, 0.55, 0.7])


def darken(z_0, gains):
    return gains.view(-1, 1, 1, 1) * (z_0 + 1) - 1


x_dark, noise = darken(clean, true_gains), standard_normal(0)
walk = gdp_blind(
    network,
    cosine,
    darken,
    torch.ones(4, 1),
    x_dark,
    noise(clean),
    uniform_times(60, 0.995),
    scale=2e4,
    rate=3.0,
    noise=standard_normal(1),
)
states = list(walk)
restored, path = states[-1].z, torch.cat([state.parameters for state in states], 1)
plots.image_grid(
    [image / 2 + 0.5 for image in (*x_dark, *restored.clamp(-1, 1), *clean)],
    [f"× {gain:.2f}" for gain in true_gains]
    + [f"estimated {gain:.2f}" for gain in path[:, -1]]
    + [f"true {gain:.2f}" for gain in true_gains],
    title="Faces taken too dark, and what blind GDP makes of them",
    alt="Three rows of four faces. Dark pictures with gains 0.25, 0.4, 0.55 and 0.7; the restored faces with estimated gains near 0.36, 0.41, 0.59 and 0.72; the truth. The last three look right, with colours slightly dimmer than the truth. The first is another face: a green hat on red ground where the truth has a blue cap on orange.",
    zoom=4,
    columns=4,
)

# %% tags=["solution"]
plots.curves(
    range(path.shape[1]),
    {f"true gain {gain:.2f}": row for gain, row in zip(true_gains, path, strict=True)},
    title="Four gains on their way from 1",
    alt="Estimated gain against the step for four pictures. All jump from 1 down in the first step, the darkest to below 0, swing for up to 20 steps, the brightest most, and settle: near 0.36 for the true 0.25, 0.41 for 0.4, 0.59 for 0.55 and 0.72 for 0.7.",
    xlabel="step",
    ylabel="estimated gain",
    horizontal={f"{gain:.2f}": gain.item() for gain in true_gains},
)

# %% [markdown] tags=["solution"]
# Three gains come out within a few hundredths, a little too high: the restored faces are a little too dim in return, and the product fits. The darkest picture fails in an instructive way. Its gain rushed below zero in the first step, when the estimate was a grey blur, and swung back while the face was being decided; by the time it came to rest the walk had settled on another face that is dim enough in itself. Nothing in the residual gives this away.
#
# A gain and a brightness cannot be told apart by the measurement: $0.36 \times$ a dim face is $0.25 \times$ a bright one. Only the prior decides, and only as well as it knows how bright faces are. Smaller rates avoid the swing and arrive later; try 1 and 0.3.

# %% [markdown]
# ## Exercise 15.7: Who listens to noise_std?
#
# Every method accepts `noise_std`; not every method uses it. Section 8 of the chapter asked this of one pair of pixels; write it as a function for any methods, prior and operator. `methods` is a list of functions with the library's signature. Return a list of as many True (its sample depends on `noise_std`) and False. Call them as `method(denoiser, schedule, operator, x, noise_std, times, z, noise=...)`, with a few steps (at least three) and levels that matter; `last` takes the sample out of the generator.


# %%
def listening(methods, denoiser, schedule, operator, x, z):
    """For each method: does its sample change with noise_std?"""
    ### BEGIN SOLUTION
    times = uniform_times(3)

    def sample(method, noise_std):
        walk = method(denoiser, schedule, operator, x, noise_std, times, z, noise=standard_normal(0))
        return last(walk)

    return [not torch.equal(sample(method, 0.1), sample(method, 0.4)) for method in methods]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.7", listening)

# %% [markdown]
# Now measure what deafness costs: smooth 8 × 8 images, 2 × 2 pooling, noise 0.2. A sample of the posterior stays about as far from `x` as the truth does. Plot the root mean square of $A z - x$ divided by `noise_std` for each method at 100 calls.

# %% tags=["solution"]
loud, z_prior = 0.2, denoiser_for(prior, linear)
picture = halved(prior.sample(1, standard_normal(1)))
x_loud = picture + loud * standard_normal(2)(picture)
starts = standard_normal(3)(torch.empty(64, 1, 8, 8, dtype=double))
everyone = {
    "ilvr": ilvr,
    "mcg": mcg,
    "dps": dps,
    "gdp": gdp,
    "pigdm": pigdm,
    "diffpir": diffpir,
    "ddrm": ddrm,
    "ddnm": ddnm,
}
heard = listening(list(everyone.values()), z_prior, linear, halved, x_loud, starts[:1])
ratios = {}
for name, method in everyone.items():
    walk = method(z_prior, linear, halved, x_loud, loud, uniform_times(100), starts, noise=standard_normal(4))
    ratios[name] = (halved(last(walk)) - x_loud).square().mean().sqrt().item() / loud
exact_draws = prior.posterior(halved, x_loud, loud).sample(512, standard_normal(5))
right = (halved(exact_draws) - x_loud).square().mean().sqrt().item() / loud
names = [f"{name}{'' if ear else ' (deaf)'}" for name, ear in zip(everyone, heard, strict=True)]
print(f"draws from the exact posterior: {right:.2f}")
plots.bars(
    names,
    {"residual / noise_std": list(ratios.values()), "exact posterior": [right] * len(names)},
    title="How far the samples stay from a noisy measurement",
    alt="Bars of the residual over noise_std beside the exact posterior at 0.94. ILVR 0.93, PiGDM 0.91 and DiffPIR 0.83 are close; DPS 0.67, deaf; DDRM 0.62, DDNM 0.50, GDP 0.42, deaf; MCG 0.27.",
    ylabel="rms of A z - x over noise_std",
    width=860,
)

# %% [markdown] tags=["solution"]
# A residual well below the posterior's means that noise has been fitted: the sample explains accidents of the measurement. The two deaf methods do so, as far as their step takes them; another step or another number of calls gives another value (exercise 15.8). But hearing is not enough. MCG's projection uses `noise_std` and its gradient does not, and the gradient wins. DDRM and DDNM with noise keep $\mathrm{Var}[z_s \mid z_0]$ right at every step and still drift towards $x$, because every step shows them the same measurement again; more steps make it worse. The right residual, too, is only a necessary sign: ILVR has it, and its unseen part does not know what the seen part has become.

# %% [markdown]
# ## Exercise 15.8: The step size that samples the posterior (research)
#
# DPS has one number to choose, and here the right answer is known. Smooth 8 × 8 images, 2 × 2 pooling, noise 0.2, 50 calls: `vp_linear()` and `uniform_times(50)`. `posterior_error` compares the mean and the standard deviation of every pixel with the exact posterior. Return the scale among `scales` whose `posterior_error` is smallest. Start each run from `starts` with the noise `standard_normal(4)`.

# %%
scales = (0.2, 0.5, 1.5, 5.0, 12.0)
dps_prior, dps_pool, dps_noise = smooth_prior(8), AveragePool(2), 0.2
measured = dps_pool(dps_prior.sample(1, standard_normal(1)))
measured = measured + dps_noise * standard_normal(2)(measured)
exact = dps_prior.posterior(dps_pool, measured, dps_noise)
exact_std = exact.covariance.diagonal().sqrt().view(1, 8, 8)
starts = standard_normal(3)(torch.empty(256, 1, 8, 8, dtype=double))


def posterior_error(samples):
    """Root mean square error of the pixels' means and standard deviations, together."""
    return ((samples.mean(0) - exact.mean).square() + (samples.std(0) - exact_std).square()).mean().sqrt().item()


# %%
def dps_samples(scale):
    """256 samples of DPS with this scale."""
    ### BEGIN SOLUTION
    denoiser, noise = denoiser_for(dps_prior, linear), standard_normal(4)
    walk = dps(denoiser, linear, dps_pool, measured, dps_noise, uniform_times(50), starts, scale=scale, noise=noise)
    return last(walk)
    ### END SOLUTION


def best_scale():
    """The scale with the smallest error."""
    ### BEGIN SOLUTION
    return min(scales, key=lambda scale: posterior_error(dps_samples(scale)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("15.8", best_scale)

# %% [markdown]
# On a real photograph you do not have the posterior. Which scale would you have chosen by the residual (it should be about `noise_std`)? Which by coverage (the central 90 % of your samples should hold 90 % of the posterior)? Plot the errors of mean and spread apart.

# %% tags=["solution"]
more = (0.1, 0.2, 0.35, 0.5, 0.8, 1.5, 3.0, 5.0, 8.0, 12.0)
means, spreads = [], []
for scale in more:
    samples = dps_samples(scale)
    low, high = (samples.quantile(q, dim=0) for q in (0.05, 0.95))
    inside = torch.special.ndtr((high - exact.mean) / exact_std) - torch.special.ndtr((low - exact.mean) / exact_std)
    means.append((samples.mean(0) - exact.mean).square().mean().sqrt().item())
    spreads.append(samples.std(0).mean().item())
    residual = (dps_pool(samples) - measured).square().mean().sqrt()
    print(
        f"scale {scale:4}: error {posterior_error(samples):.3f}, residual {residual:.2f}, coverage {inside.mean():.0%}"
    )
plots.curves(
    more,
    {"error of the mean": means, "spread of the samples": spreads},
    title="One dial, two errors",
    alt="Against the scale from 0.1 to 12, logarithmic: the error of the mean falls from 0.26 to 0.04 at 0.5, then rises to 0.12 and stays there. The spread of the samples falls from 0.43 to 0.11 at scales 0.8 and 1.5 and rises to 0.39; it crosses the posterior's 0.22 twice, just above 0.4 and between 5 and 8.",
    xlabel="scale",
    ylabel="state units",
    logx=True,
    horizontal={"spread of the posterior": exact_std.mean().item()},
)

# %% [markdown] tags=["solution"]
# From the left: too small a scale has not heard enough; the mean is near the prior's and the spread too wide. At 0.5 both are nearly right. Beyond, the walk fits the noise (residual 0.04 where 0.2 is right) and is overconfident. Still farther the residual, the spread and the coverage come back to what they should be, at about 6 to 8, and the samples are wrong: fixed steps rattle around the fitted noise. Coverage alone would have chosen 0.35 or 8, and the residual 0.5 or 6.
#
# So two diagnostics that agree can be wrong together. What tells 8 from 0.5 is the mean of many samples, and for that you need the truth: this is what exact priors are for. Now change the number of calls, or the noise, and look for the best scale again. It moves, and nothing in the method tells you where.
