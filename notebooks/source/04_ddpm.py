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
# # 04 Denoising diffusion probabilistic models
#
# Take a picture, add a little noise, and again, a thousand times, until nothing is left of it. That is easy. This chapter
# is about walking the same path backwards: from pure noise to a picture nobody has ever seen. You will derive every
# formula on the way, and hold each against a law that is known exactly.
#
# ## What you will be able to do
#
# 1. **Jump** from a clean picture to any noise level in one line, and prove that it equals a thousand small steps.
# 2. **Derive** the posterior $q(z_s \mid z_t, z_0)$ by completing the square, and sample with it.
# 3. **Explain** how the variational bound becomes "predict the noise", and which weight was dropped.
# 4. **Train** a small diffusion model in seconds and say how far it is from the best possible one.
# 5. **Choose** among $\beta$, $\tilde\beta$ and learned variances, and know when the choice matters.
# 6. **Recognise** the classic mistakes by what they do to the samples.
#
# **Prerequisites**: Gaussian densities, a little PyTorch. Oracles (priors with known answers) appear in
# [chapter 01](01_super_resolution_basics.ipynb), the distances between sets of images in [chapter 02](02_image_quality.ipynb).
#
# **Reading time**: 75 minutes, with the exercises three hours.
# **Running time: about 40 s** on two processor cores.
#
# **In the survey** (Moser et al., arXiv 2401.00736): the section on diffusion basics, DDPMs.
# Not here: scores (chapter 05), continuous time (chapter 06), fast samplers (chapter 07), conditioning on an LR image (chapter 09).

# %% [markdown]
# > **Notation**
# >
# > | symbol | meaning | in code |
# > |---|---|---|
# > | $z_0$, $z_t$ | a clean state (a picture with values from $-1$ to $1$), and the same state noised up to time $t$ | `z_0`, `z` |
# > | $t$, $s$ | two times with $s < t$: 0 is data, 1 is noise. Step $k$ of a chain of $T$ steps ends at $t = k/T$ | `t`, `s` |
# > | $\alpha_t$, $\sigma_t$ | how much signal and how much noise: $z_t = \alpha_t z_0 + \sigma_t\,\varepsilon$, with $\varepsilon \sim N(0, I)$ | `schedule.alpha(t)`, `.sigma(t)` |
# > | $\beta$, $\bar\alpha_t$ | the noise variance of one step; $\bar\alpha_t = \alpha_t^2$, the product of all factors $1 - \beta$ up to $t$ | `betas` |
# > | $\tilde\beta$ | the variance of $z_s$ when both $z_t$ and $z_0$ are known | `variance="posterior"` |
# > | $\hat z_0$, $\hat\varepsilon$ | estimates of the clean state and of the noise in $z_t$ | `denoiser(z, t)` |
#
# **Beware of one letter.** In the survey's DDPM section $\alpha_t$ is the noise *variance* of a step (our $\beta$). Its SR3
# section follows the SR3 paper, where $\alpha_t$ is what a step *keeps* (our $1 - \beta$). Its $\gamma_t$ is always our $\bar\alpha_t$. And here
# $\alpha_t = \sqrt{\bar\alpha_t}$. Section 3 shows what happens to those who mix them.

# %%
import math

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.metrics import sliced_wasserstein
from tutorial_lib.networks.unet import noise_embedding
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import EmpiricalData, Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, ddpm, last, trajectory
from tutorial_lib.schedules import from_betas, respace, trailing_times, uniform_times, vp_cosine
from tutorial_lib.steps import ddim_step

double = torch.float64

# %% [markdown]
# ## 1. Faces out of noise, crudely
#
# Suppose you own an album of 500 faces, and somebody shows you nothing but noise, claiming that one of your faces is hidden in it. Your best
# guess is the average of the album, each face weighted by how well it explains what you see. Now a recipe that sounds too
# simple to work: guess, cover the guess with fresh noise, *a little less than before*, and guess again.


# %%
album = 2 * faces(500).images - 1  # (500, 3, 32, 32), from [0, 1] to [-1, 1]
betas = torch.linspace(1e-4, 0.02, 1000, dtype=double)
schedule = from_betas(betas)  # how much noise there is at which time: section 2
guess = denoiser_for(EmpiricalData(album), schedule)  # guess(z, t): the weighted mean of the album


def steps(n):
    """n times, evenly spaced on the grid of 1000 from 1 down to 0.001, and then 0."""
    return (uniform_times(n) * 1000).round() / 1000


def crude(denoiser, z, times, noise):
    """Guess the clean picture; noise the guess again, a little less; repeat."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0 = denoiser(z, t)
        z = schedule.alpha(s) * z_0 + schedule.sigma(s) * noise(z)
    return z


noise = standard_normal(0)  # a noise source: noise(x) is N(0, 1) noise of the shape of x
made = crude(guess, noise(album[:16]), steps(50), noise)
plots.image_grid(
    (made + 1) / 2,
    title="Sixteen faces, made out of noise in 50 steps",
    alt="Sixteen small drawn faces in two rows, all sharp and complete, with different hair, skin, hats, glasses and backgrounds.",
    zoom=2,
    columns=8,
)

# %% [markdown]
# It works, and beautifully. Before you celebrate, ask two questions. Are these faces *new*? And do they come out as
# *often* as they should? The first is quickly answered. For the second we need data whose law we know: let us give the same recipe the
# simplest data there are, numbers drawn from $N(0, \tfrac14)$. For such data the best guess is a straight line, every sampler of this chapter is an affine map of its random numbers, and
# `affine_law` computes exactly, without drawing anything, what comes out.

# %% tags=["nbval-check-output"]
distance = torch.cdist(made.flatten(1), album.flatten(1)).min(1).values / math.sqrt(album[0].numel())
print(f"RMS distance to the nearest face of the album, largest of 16: {distance.max():.4f}")

numbers = Gaussian(torch.zeros(1, dtype=double), torch.tensor([[0.25]], dtype=double))
exact = denoiser_for(numbers, schedule)


def output_law(sampler, times, denoiser=exact):
    """Exact mean and variance of what sampler(denoiser, start, times, noise) returns, started from N(0, 1)."""
    start = torch.zeros(1, 1, dtype=double)
    mean, covariance = affine_law(lambda noise: sampler(denoiser, noise(start), times, noise), 1)
    return mean.item(), covariance.item()


for n in (10, 50, 250):
    print(f"{n:4} steps: the numbers come out with variance {output_law(crude, steps(n))[1]:.3f}; the data have 0.250")

# %% [markdown]
# Two answers, two tasks for this chapter:
#
# - **Nothing is new.** Each face is a copy out of the album (the first and the last of the top row are even the same one); a guesser who knows only 500 faces can only lead to these. We will have to *learn* the guess from
#   examples, so that it generalises (sections 5 and 8).
# - **The spread is wrong**, by a factor of two, and more steps do not cure it. The recipe forgets: it throws $z_t$ away and keeps
#   only the guess, which is an average and therefore too tame. How much of $z_t$ must be kept? That has an exact answer (section 3).
#
# ## 2. The way out: noise, step by step
#
# DDPM (Ho et al. 2020) fixes a chain of $T$ small steps. Each shrinks the state a little and adds a little noise:
#
# $$z_k = \sqrt{1 - \beta_k}\; z_{k-1} + \sqrt{\beta_k}\; \varepsilon_k .$$
#
# The shrinking is there for a reason: if $z_{k-1}$ has variance 1, so has $z_k$, because $(1 - \beta_k) + \beta_k = 1$.
#
# Two steps in a row give
#
# $$z_2 = \sqrt{(1-\beta_1)(1-\beta_2)}\; z_0 + \sqrt{(1 - \beta_2)\beta_1}\;\varepsilon_1 + \sqrt{\beta_2}\;\varepsilon_2 .$$
#
# Two independent Gaussians add up to one whose variance is the sum, $(1-\beta_2)\beta_1 + \beta_2 = 1 - (1-\beta_1)(1-\beta_2)$. The pattern repeats
# with each step, so with $\bar\alpha_k = \prod_{j \le k} (1 - \beta_j)$ any number of steps is one jump:
#
# $$q(z_t \mid z_0) = N\big(\alpha_t z_0,\; \sigma_t^2 I\big), \qquad \alpha_t = \sqrt{\bar\alpha_t}, \quad \sigma_t^2 = 1 - \bar\alpha_t .$$
#
# Trust, but check: start 20,000 walkers at 0.8, walk the thousand steps, and compare mean and variance with the jump. "Off" counts in standard errors; two
# is ordinary, five would be a bug. (→ Exercise 04.1)

# %% tags=["nbval-check-output"]
count, noise = 20_000, standard_normal(1)
walkers = torch.full((count,), 0.8, dtype=double)
print("step   mean: walked   jumped   off     variance: walked   jumped   off")
for k, beta in enumerate(betas, start=1):
    walkers = (1 - beta).sqrt() * walkers + beta.sqrt() * noise(walkers)
    if k in (1, 10, 100, 300, 1000):
        alpha, sigma = schedule.alpha(k / 1000), schedule.sigma(k / 1000)
        found, var = walkers.mean(), walkers.var()
        off_mean = (found - 0.8 * alpha) / (sigma / math.sqrt(count))
        off_var = (var / sigma**2 - 1) / math.sqrt(2 / (count - 1))
        assert max(abs(off_mean), abs(off_var)) < 4
        print(f"{k:4} {found:14.4f} {0.8 * alpha:8.4f} {off_mean:5.1f} {var:21.5f} {sigma**2:8.5f} {off_var:5.1f}")

# %%
moments = [0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0]
fresh = standard_normal(3)(album[:1])
row = [schedule.alpha(t) * album[6:7] + schedule.sigma(t) * fresh for t in moments]
plots.image_grid(
    [(z / 2 + 0.5).clamp(0, 1) for z in row],
    [f"t = {t:g}" for t in moments],
    title="One face on its way out: after a third of the time, the eye is lost",
    alt="Eight pictures of one face from clean to pure noise. At time 0.05 and 0.1 it has strong grain; at 0.2 a dark head with glasses can just be made out; "
    "from 0.35 on the eye sees nothing but coloured noise.",
    zoom=3,
)

# %% [markdown]
# One number says how far a state has gone, the **signal-to-noise ratio** $\mathrm{SNR}(t) = \alpha_t^2 / \sigma_t^2$; its logarithm is what
# networks are told. A *schedule* is a choice of how it falls. Here are three: DDPM's linear betas, the *cosine* of Nichol and Dhariwal (nearly $\alpha_t = \cos(\pi t/2)$), and
# DDPM's betas squeezed into 100 steps.

# %%
t = torch.linspace(0.002, 1, 400, dtype=double)
short = from_betas(torch.linspace(1e-4, 0.02, 100, dtype=double))
chosen = {"linear, T = 1000": schedule, "cosine": vp_cosine(), "linear, T = 100": short}
plots.strip(
    [
        plots.curves(
            t,
            {name: values(chain) for name, chain in chosen.items()},
            title=title,
            alt=f"{title} for three schedules.",
            xlabel="time t",
            ylim=limits,
            width=480,
            height=320,
        )
        for title, values, limits in (
            (r"signal left, $\bar\alpha_t$", lambda chain: chain.alpha(t) ** 2, (0, 1)),
            ("log SNR", lambda chain: chain.log_snr(t), (-12, 8)),
        )
    ],
    title="Two schedules end in noise. The third stops while a third of the signal's power is left",
    alt="Two panels over time. Left, signal left: the linear schedule falls quickly and is near zero from 0.7 on; the cosine falls evenly from 1 "
    "to 0; the short chain falls slowly and stops at 0.36. Right, log SNR: linear falls to minus 10; cosine falls almost straight, then steeply at the end; "
    "the short chain stops at minus 0.6.",
)

# %% [markdown]
# Keep the third curve in mind: it is a popular accident, and section 7 shows the damage.
#
# <details><summary><b>Question.</b> What would happen to z if the steps added noise but did not shrink?</summary>
#
# Its variance would grow by $\beta$ with each step, without bound: the signal is not dimmed but shouted down. That is the other family of
# diffusion models, the *variance exploding* ones (chapters 05 and 06). Since $z_t / \alpha_t = z_0 + (\sigma_t/\alpha_t)\varepsilon$, both describe the same pictures.
# </details>
#
# ## 3. One step back
#
# Stand at $z_t$ and ask for $z_s$, a little earlier. Pretend for a moment that the clean $z_0$ is known. Then two facts are on the table:
#
# - where $z_s$ comes from: $z_s \sim N(\alpha_s z_0,\; \sigma_s^2)$, the jump from $z_0$;
# - where it goes: $z_t \sim N(a\,z_s,\; \beta)$ with $a = \alpha_t/\alpha_s$ and $\beta = \sigma_t^2 - a^2 \sigma_s^2$, the (perhaps long) step from $s$ to $t$.
#
# Bayes' rule multiplies the two densities. Written as a function of $z_s$ alone, minus twice the logarithm is
#
# $$\frac{(z_t - a z_s)^2}{\beta} + \frac{(z_s - \alpha_s z_0)^2}{\sigma_s^2} + \text{const}.$$
#
# Complete the square, in four moves.
#
# 1. *Collect* $z_s^2$: its factor is $\dfrac{a^2}{\beta} + \dfrac{1}{\sigma_s^2}$. A Gaussian with variance $\tilde\beta$ has $1/\tilde\beta$ there. Certainties add.
# 2. *Simplify*: bring it to one fraction; its numerator is $a^2\sigma_s^2 + \beta = \sigma_t^2$. So $\tilde\beta = \beta\,\sigma_s^2/\sigma_t^2$.
# 3. *Collect* $-2 z_s$: its factor is $\dfrac{a z_t}{\beta} + \dfrac{\alpha_s z_0}{\sigma_s^2}$. In a Gaussian with mean $\tilde\mu$ that is $\tilde\mu/\tilde\beta$.
# 4. *Multiply* by $\tilde\beta$, and the posterior is
#
# $$q(z_s \mid z_t, z_0) = N\big(\tilde\mu,\; \tilde\beta I\big), \qquad \tilde\mu = \frac{a\,\sigma_s^2}{\sigma_t^2}\, z_t + \frac{\alpha_s\,\beta}{\sigma_t^2}\, z_0, \qquad \tilde\beta = \beta\,\frac{\sigma_s^2}{\sigma_t^2}. $$
#
# In words: two witnesses, the present state and the clean picture, each weighted by how sure it is. We never used that the step is small, nor
# that $\alpha^2 + \sigma^2 = 1$.


# %%
def posterior(z_t, z_0, t, s, schedule=schedule):
    """Mean and variance of z_s given z_t and z_0, for s < t."""
    alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
    a = alpha_t / alpha_s
    beta = sigma_t**2 - a**2 * sigma_s**2
    mean = (a * sigma_s**2 * z_t + alpha_s * beta * z_0) / sigma_t**2
    return mean, beta * sigma_s**2 / sigma_t**2


z_0, z_t, t, s = torch.tensor([[0.8]], dtype=double), torch.tensor([[-0.3]], dtype=double), 0.4, 0.25
mean, variance = posterior(z_t, z_0, t, s)
# The library's step. Its eta scales the noise: 1 draws from this posterior, 0 is DDIM.
assert_close(mean, ddim_step(z_t, z_0, schedule, t, s, eta=1.0, noise=torch.zeros_like))
plus_one = ddim_step(z_t, z_0, schedule, t, s, eta=1.0, noise=torch.ones_like)
assert_close((plus_one - mean).item(), variance.sqrt().item())

x = torch.linspace(-6, 6, 4001, dtype=double)
a, alpha_s, sigma_s = schedule.alpha(t) / schedule.alpha(s), schedule.alpha(s), schedule.sigma(s)
forward_std = (schedule.sigma(t) ** 2 - a**2 * sigma_s**2).sqrt()
comes_from = Normal(alpha_s * z_0[0, 0], sigma_s).log_prob(x).exp()
goes_to = Normal(a * x, forward_std).log_prob(z_t[0, 0]).exp()
product = comes_from * goes_to / torch.trapezoid(comes_from * goes_to, x)
assert_close(product, Normal(mean[0, 0], variance.sqrt()).log_prob(x).exp(), rtol=1e-6, atol=1e-9)
plots.curves(
    x,
    {
        "comes from $z_0 = 0.8$": comes_from,
        "goes to $z_t = -0.3$ (scaled)": goes_to / torch.trapezoid(goes_to, x),
        "posterior": product,
    },
    title="The posterior lies between its two witnesses and is surer than either",
    alt="Three bell curves over z_s. One centred right of zero, from the clean value; a wider one left of zero, from the present state; the product of "
    "both, narrower and higher than either, lies between their centres.",
    xlabel="$z_s$",
    ylabel="density",
    xlim=(-2.5, 2.5),
    height=340,
)

# %% [markdown]
# The assertions hold: formula, library and brute force agree. (→ Exercise 04.2)
#
# Now drop the pretence. We do not know $z_0$, but we have a guess $\hat z_0$. Put it in its place, draw $z_s$, and
# repeat: that is **ancestral sampling**, DDPM's algorithm 2. Compared with the crude recipe only the step changes: the state is kept, in the right dose, instead of thrown away. At the last step, to $s = 0$, the variance $\tilde\beta$ is zero, and
# nothing is drawn.


# %% tags=["nbval-check-output"]
def ancestral(denoiser, z, times, noise):
    for t, s in zip(times[:-1], times[1:], strict=True):
        mean, variance = posterior(z, denoiser(z, t), t, s)
        z = mean + variance.sqrt() * noise(z) if s > 0 else mean
    return z


start = standard_normal(0)(torch.zeros(5, 1, dtype=double))
ours = ancestral(exact, start, steps(50), standard_normal(1))
assert_close(ours, last(ddpm(exact, schedule, start, steps(50), noise=standard_normal(1))))

print("steps   variance: crude   ancestral   (the data have 0.25)")
for n in (10, 50, 250):
    row = [output_law(sampler, steps(n))[1] for sampler in (crude, ancestral)]
    print(f"{n:5} {row[0]:17.5f} {row[1]:11.5f}")

# %% [markdown]
# With the posterior in place the spread converges to the truth. With few steps it still falls short, since $\tilde\beta$ pretends that $z_0$ is known;
# section 6 repairs that as well. From here on we use the library's `ddpm`, which does the same and yields the states one by one: `last` keeps the last of them, `trajectory` all.

# %%
run = trajectory(ddpm(guess, schedule, standard_normal(4)(album[:1]), steps(100), noise=standard_normal(5)))
places = [0, 20, 40, 60, 75, 85, 95, 100]
plots.image_grid(
    [(run[i].z / 2 + 0.5).clamp(0, 1) for i in places] + [(run[i].z_0 + 1) / 2 for i in places],
    [f"t = {run[i].t:.2f}" for i in places] + ["guess"] * len(places),
    title="While the state (top) still looks like noise, the guess from it (bottom) has settled on one face",
    alt="Eight columns from time 1 to 0. Top: pure noise, in which a face slowly appears. Bottom: the guess, at first a blurred average head, then a "
    "mixture of a few faces, from the middle on one sharp face.",
    zoom=3,
    columns=8,
)

# %% [markdown]
# Read the bottom row from left to right. The guess starts as the mean of the album, and sharpens while the alternatives drop out. By $t = 0.6$ one
# face has won, although *your* eye finds no trace of it in the state above. That is what 3072 numbers that agree can do. The rest of the way only
# removes noise.
#
# ### The letter that bites
#
# The mean of the same step is often written with the noise, $\hat\varepsilon = (z_t - \alpha_t \hat z_0)/\sigma_t$. For a single step, with $\beta$ and $\bar\alpha$ as in our notation box,
#
# $$\tilde\mu = \frac{1}{\sqrt{1 - \beta}}\Big(z_t - \frac{\beta}{\sqrt{1 - \bar\alpha_t}}\,\hat\varepsilon\Big).$$
#
# SR3 prints it with its own letter, $\frac{1}{\sqrt{\alpha_t}}\big(z_t - \frac{1 - \alpha_t}{\sqrt{1-\gamma_t}}\,\hat\varepsilon\big)$. Correct, if $\alpha_t$ is SR3's. Put in the survey's DDPM
# $\alpha_t$, a variance, and this comes out:

# %% tags=["nbval-check-output"]
t, s, z_0, eps = 0.5, 0.499, 0.8, -1.0
z_t = schedule.alpha(t) * z_0 + schedule.sigma(t) * eps
beta, kept = betas[499], 1 - betas[499]


def sr3_mean(alpha):
    return (z_t - (1 - alpha) / schedule.sigma(t) * eps) / alpha**0.5


assert_close(sr3_mean(kept), posterior(z_t, z_0, t, s)[0])
print(f"z_t                                      {z_t:8.4f}")
print(f"posterior mean, and SR3's with 1 - beta  {sr3_mean(kept):8.4f}")
print(f"SR3's formula with beta                  {sr3_mean(beta):8.4f}")

# %% [markdown]
# One step of a thousand, and the state has left the range of anything the network was trained on. The shapes fit, nothing crashes. **How to recognise it:** a right step moves the mean
# hardly at all (here by 0.007) and adds noise of size $\sqrt\beta$ (here 0.1); this one moved it by 3.7. Print the size of the first step.
#
# ## 4. What to learn
#
# Who gives us $\hat z_0$ when the data are not an album but all faces there could be? A network, and the question is what to train it on.
#
# Our sampler defines a density $p(z_0)$: start from $N(0, I)$, then a chain of Gaussians $p(z_s \mid z_t) = N(\tilde\mu(z_t, \hat z_0), \tilde\beta)$. Maximum likelihood asks for a large
# $\log p(z_0)$. It has no closed form, because it sums over all paths from noise to $z_0$. Jensen's inequality bounds it by an average over paths that we can draw, the forward ones:
#
# $$-\log p(z_0) \;\le\; \mathbb E\big[\log q(\text{path} \mid z_0) - \log p(\text{path}, z_0)\big].$$
#
# Both are products over the steps. Turn each forward factor but the first round with Bayes' rule, $q(z_t \mid z_s) = q(z_s \mid z_t, z_0)\, \frac{q(z_t \mid z_0)}{q(z_s \mid z_0)}$. The fractions
# cancel from step to step, each factor meets its partner in $p$, and three parts remain:
#
# $$-\log p(z_0) \;\le\; \underbrace{\mathrm{KL}\big(q(z_1 \mid z_0)\,\|\,N(0,I)\big)}_{\text{is the end noise?}} + \sum_{\text{steps } t \to s > 0} \underbrace{\mathbb E\,\mathrm{KL}\big(q(z_s \mid z_t, z_0)\,\|\,p(z_s \mid z_t)\big)}_{\text{is each step right?}} + \underbrace{\mathbb E\big[-\log p(z_0 \mid z_{1/T})\big]}_{\text{the last pixel values}} .$$
#
# This is the (negative) **ELBO**. Only the sum in the middle holds the network in earnest, and each term compares two Gaussians of equal variance. Then
# the KL divergence is the squared distance of the means over twice the variance. The means differ only in $z_0$ against $\hat z_0$, with the factor $\alpha_s\beta/\sigma_t^2$ from section 3. Insert $\tilde\beta$, then
# $\beta = \sigma_t^2 - a^2\sigma_s^2$:
#
# $$\mathrm{KL} = \frac{1}{2\tilde\beta}\Big(\frac{\alpha_s \beta}{\sigma_t^2}\Big)^2 \|z_0 - \hat z_0\|^2 = \tfrac12\big(\mathrm{SNR}(s) - \mathrm{SNR}(t)\big)\,\|z_0 - \hat z_0\|^2 .$$
#
# Last, let the network predict the noise. The two errors are tied by $z_0 - \hat z_0 = -\frac{\sigma_t}{\alpha_t}(\varepsilon - \hat\varepsilon)$, whose square brings $1/\mathrm{SNR}(t)$:
#
# $$\mathrm{KL} = w_t\,\|\varepsilon - \hat\varepsilon\|^2, \qquad w_t = \tfrac12\Big(\frac{\mathrm{SNR}(s)}{\mathrm{SNR}(t)} - 1\Big).$$

# %% tags=["nbval-check-output"]
draw = torch.Generator().manual_seed(0)
for t, s in ((0.002, 0.001), (0.3, 0.299), (0.9, 0.899), (0.9, 0.5)):
    z_0, z_0_hat, z_t = torch.randn(3, generator=draw, dtype=double)
    (mean, variance), (mean_hat, _) = posterior(z_t, z_0, t, s), posterior(z_t, z_0_hat, t, s)
    kl = kl_divergence(Normal(mean, variance.sqrt()), Normal(mean_hat, variance.sqrt()))
    snr_t, snr_s = schedule.log_snr(t).exp(), schedule.log_snr(s).exp()
    eps, eps_hat = ((z_t - schedule.alpha(t) * clean) / schedule.sigma(t) for clean in (z_0, z_0_hat))
    assert_close(kl, 0.5 * (snr_s - snr_t) * (z_0 - z_0_hat) ** 2)
    assert_close(kl, 0.5 * (snr_s / snr_t - 1) * (eps - eps_hat) ** 2)
    print(f"t = {t:.3f} to s = {s:.3f}: weight of the noise error {0.5 * (snr_s / snr_t - 1):8.4f}")

# %% [markdown]
# Ho et al. looked at $w_t$ and **dropped it**. What remains is the most copied loss of the field:
#
# $$L_{\text{simple}} = \mathbb E_{t,\,z_0,\,\varepsilon}\,\big\|\varepsilon - \hat\varepsilon(\alpha_t z_0 + \sigma_t \varepsilon,\; t)\big\|^2, \qquad t \text{ uniform}.$$
#
# Is that harmless? Look at what was dropped.

# %%
k = torch.arange(2, 1001, dtype=double)
dropped = {
    name: 0.5 * ((chain.log_snr((k - 1) / 1000) - chain.log_snr(k / 1000)).exp() - 1)
    for name, chain in (("linear betas", schedule), ("cosine", vp_cosine()))
}
dropped["cosine"][-1] = float("nan")  # the last cosine step has weight infinity
plots.curves(
    k / 1000,
    {**dropped, "$L_{simple}$, scaled to fit": torch.full_like(k, 0.005)},
    title="The weight that was dropped: next to the data it is a hundred times larger than in the middle",
    alt="The weight of the noise error over time, logarithmic. For linear betas it starts at 0.6 near time zero, falls steeply to 0.01 at time 0.1, is least, 0.005, at "
    "0.35, and rises slowly to 0.01. For the cosine schedule it falls from 0.6 to 0.003 in the middle and shoots up beyond 1 at the end. L simple is constant.",
    xlabel="time t",
    ylabel="weight of $\\|\\varepsilon - \\hat\\varepsilon\\|^2$",
    logy=True,
    height=360,
)

# %% [markdown]
# Relative to the bound, $L_{\text{simple}}$ takes effort away from the smallest noise levels, below $t \approx 0.1$ (with the cosine also from the very end), and gives it to the rest. The steps that lose most, below
# $t = 0.01$, carry noise of less than 6 grey levels of 255, which the eye forgives; but knowing it exactly is worth many bits, and bits are what likelihood counts. So dropping the weight **favours what the eye sees**, structure, over the last bits of grain. DDPM's samples
# were excellent and its likelihoods were not; chapter 08 gets the likelihoods back. (→ Exercises 04.3 and 04.4)
#
# <details><summary><b>Question.</b> A colleague trains the network to predict z₀ with the plain squared error ‖z₀ − ẑ₀‖². Is that the same loss?</summary>
#
# No. In terms of $z_0$, $L_{\text{simple}}$ is $\mathrm{SNR}(t)\,\|z_0 - \hat z_0\|^2$. The plain error on $z_0$ has weight 1 instead, so it cares far less about small noise levels, where SNR is huge, and
# more about guessing from pure noise. The *minimum* is the same function, $\hat z_0 = \mathbb E[z_0 \mid z_t]$, for every positive weight. The weight decides where an imperfect network makes its errors.
# </details>
#
# ## 5. Train one now
#
# For a first training we want data small enough for seconds and with a known answer. Here is a face of another kind: 33 Gaussian blobs in the plane. The mixture knows its exact
# denoiser, so **exact first**: we sample with it now, and will hold the network against the result.

# %%
turn = torch.linspace(0, 2 * math.pi, 25, dtype=double)[:-1]
arc = torch.linspace(1.2 * math.pi, 1.8 * math.pi, 7, dtype=double)
outline = 1.5 * torch.stack([turn.cos(), turn.sin()], 1)
mouth = 0.8 * torch.stack([arc.cos(), arc.sin()], 1)
eyes = torch.tensor([[-0.55, 0.5], [0.55, 0.5]], dtype=double)
smiley = GaussianMixture(
    torch.tensor([1.0] * 31 + [4.0] * 2),
    torch.cat([outline, mouth, eyes]),
    0.1**2 * torch.eye(2, dtype=double).repeat(33, 1, 1),
)
perfect = denoiser_for(smiley, schedule)
from_oracle = last(
    ddpm(perfect, schedule, standard_normal(3)(torch.zeros(2000, 2)), steps(100), noise=standard_normal(4))
)
real, real_again = smiley.sample(2000, standard_normal(10)), smiley.sample(2000, standard_normal(11))

# %% [markdown]
# Training takes four steps, again and again. (1) Take clean points $z_0$. (2) Draw a time for *each* of them. (3) Draw noise, and jump: $z_t = \alpha_t z_0 + \sigma_t\varepsilon$. (4) Show the network
# $z_t$ and the noise level, and pull its answer towards $\varepsilon$. The network is a plain stack of four layers; its inputs are the point, a few sines of it (without them, fine structure is learnt very
# slowly), and an embedding of the log-SNR (a row of its sines and cosines).


# %%
class Small(nn.Module):
    """(B, 2) points and (B,) noise levels -> (B, 2) predicted noise."""

    def __init__(self, width=128):
        super().__init__()
        layers = []
        for size in (2 + 12 + 32, width, width):
            layers += [nn.Linear(size, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, u, level, cond=None):
        waves = (u[:, :, None] * torch.tensor([1.5, 3.0, 6.0])).flatten(1)
        return self.layers(torch.cat([u, waves.sin(), waves.cos(), noise_embedding(level, 32)], 1))


torch.manual_seed(0)
network = Small()
model = NetworkDenoiser(network, "eps", schedule)  # a denoiser made of an eps-network: z_0 = (z - sigma eps) / alpha
examples = smiley.sample(20_000, standard_normal(0)).float()
print(sum(p.numel() for p in network.parameters()), "parameters,", len(examples), "examples")


# %%
def noised(z_0, generator, noise):
    """Clean points (B, 2) -> noised points, their times (B,), the noise."""
    t = (torch.randint(1000, (len(z_0),), generator=generator) + 1) / 1000
    eps = noise(z_0)
    return schedule.alpha(t).to(z_0)[:, None] * z_0 + schedule.sigma(t).to(z_0)[:, None] * eps, t, eps


rounds, losses = 2500, []
optimiser = torch.optim.Adam(network.parameters())
pace = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=rounds)
draw, noise = torch.Generator().manual_seed(2), standard_normal(1)
for _ in range(rounds):
    z_0 = examples[torch.randint(len(examples), (512,), generator=draw)]
    z, t, eps = noised(z_0, draw, noise)  # model.inputs: the state and its log-SNR, as the network wants them
    loss = (network(*model.inputs(z, t)) - eps).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    pace.step()
    losses.append(loss.item())

# %% [markdown]
# The loss falls and then stays at a number far from zero. Is that good? On real data nobody knows. Here we can ask the oracle: the best prediction is $\mathbb E[\varepsilon \mid z_t]$, and *its* loss is the floor.

# %%
z_0 = smiley.sample(40_000, standard_normal(5))
with torch.no_grad():
    z, t, eps = noised(z_0, torch.Generator().manual_seed(6), standard_normal(7))
    sigma = schedule.sigma(t)[:, None]
    best = (z - schedule.alpha(t)[:, None] * perfect(z, t)) / sigma
    learnt = network(*model.inputs(z, t)).double()
floor, reached = (best - eps).square().mean(1), (learnt - eps).square().mean(1)
print(f"loss of the oracle {floor.mean():.4f}, of the network {reached.mean():.4f}, on the same 40,000 fresh points")
print(f"mean squared distance between the two predictions {(learnt - best).square().mean():.4f}")

# %%
smooth = torch.tensor(losses).reshape(-1, 50).mean(1)
bins = (t * 20).ceil().long().clamp(1, 20) - 1
per_time = {
    name: torch.zeros(20, dtype=double).index_add(0, bins, loss) / torch.bincount(bins, minlength=20)
    for name, loss in (("network", reached), ("oracle: nobody can do better", floor))
}
plots.strip(
    [
        plots.curves(
            torch.arange(25, rounds, 50),
            {"training loss, mean of 50 rounds": smooth, "oracle": torch.full_like(smooth, floor.mean().item())},
            title="over training",
            alt="The training loss falls from above 0.5 and flattens out just above the oracle's line.",
            xlabel="rounds",
            ylabel="$L_{simple}$",
            ylim=(0, 0.6),
            width=480,
            height=330,
        ),
        plots.curves(
            torch.arange(20) / 20 + 0.025,
            per_time,
            title="over time, after training",
            alt="The loss of network and oracle in twenty bins of time: nearly 0.8 near time 0, falling below 0.1 at time 1, both lines almost equal.",
            xlabel="time t",
            width=480,
            height=330,
        ),
    ],
    title="A loss of 0.23 is nearly perfect: the rest cannot be learnt",
    alt="Two panels. Left, the training loss falls from above 0.5 within a few hundred rounds and flattens out just above a horizontal line, the oracle's loss. Right, "
    "the loss by time after training: the oracle's falls from about 0.8 near time zero to almost zero at time one, and the network's lies on top of it or slightly above.",
)

# %% [markdown]
# The right panel explains the floor. Near $t = 0$ the noise is smaller than the blobs are wide: no one can tell a point's own scatter from the noise added to it, and the loss approaches 1, the variance of $\varepsilon$. Near
# $t = 1$ the state is all noise, which is easily "predicted". **A loss of 0.23 says nothing until you know the floor**; the *excess* over the floor, 0.0035, is what training can remove. It is, up to chance, the mean squared distance
# between the two predictions (printed above: 0.0034).
#
# Now sample with the network: the same `ddpm`, only the denoiser is another. To judge, we compare projections of 2000 samples with real points (sliced $W_1$), and count strays: points less likely than 99 % of the real ones.


# %%
def sliced(a, b):
    aim = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=double)
    aim = aim / aim.norm(dim=0)
    return ((a.double() @ aim).sort(0).values - (b.double() @ aim).sort(0).values).abs().mean()


with torch.inference_mode():
    from_network = last(
        ddpm(model, schedule, standard_normal(3)(torch.zeros(2000, 2)), steps(100), noise=standard_normal(4))
    )
threshold = smiley.log_prob(smiley.sample(20_000, standard_normal(12))).quantile(0.01)
for name, points in (("real, once more", real_again), ("oracle", from_oracle), ("network", from_network)):
    stray = (smiley.log_prob(points.double()) < threshold).double().mean()
    error = (stray * (1 - stray) / 2000).sqrt()
    print(f"{name:16} sliced W1 to real {sliced(points, real):.3f}   strays {stray:6.2%} +- {error:.2%}")

# %%
x = torch.linspace(-2.1, 2.1, 106, dtype=double)
plane = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1).reshape(-1, 2)
density = smiley.log_prob(plane).exp().reshape(106, 106)
plots.strip(
    [
        plots.density_2d(
            x,
            x,
            {"": density},
            points={"_": points[:1200]},
            title=name,
            alt=f"1200 points: {name}.",
            width=330,
            height=350,
        )
        for name, points in (
            ("real points", real),
            ("exact denoiser", from_oracle),
            ("network, seconds old", from_network),
        )
    ],
    title="Exact denoiser: a clean smile. Network: the smile, and a few points astray",
    alt="Three panels with 1200 points over the grey density of a smiley. Real points and those of the exact denoiser lie on outline, eyes and mouth. "
    "The network's points lie there as well, with a few strays between the parts.",
)

# %% [markdown]
# In the sliced distance the network is as close to the data as other data are. The strays tell more: they are the price of a network that interpolates, and they sit *between* the parts of the face, where two parts compete. The
# sixth finger in a large model's picture may well be the same disease. (The exact denoiser strays *less* often than real points do: in 100 steps with $\tilde\beta$ its blobs come out a fifth too narrow. Section 6 says why.)
#
# ## 6. Which variance?
#
# DDPM's step has mean $\tilde\mu(z_t, \hat z_0)$; about its variance the paper offers a choice. Why is there one? Given only $z_t$, two things vary: $z_s$ around $\tilde\mu$, and $\tilde\mu$ itself
# with the unknown $z_0$. The two variances add (the law of total variance):
#
# $$\operatorname{Var}[z_s \mid z_t] = \tilde\beta + \Big(\frac{\alpha_s\beta}{\sigma_t^2}\Big)^2 \operatorname{Var}[z_0 \mid z_t].$$
#
# If the data are a single point, nothing is unknown and $\tilde\beta$ is right. If the data are $N(0, I)$ already, the sum is exactly $\beta$ (on schedules with $\alpha^2 + \sigma^2 = 1$). Pixels, whose variance
# is below 1, lie between; a direction shared by many pixels has a larger variance (section 7 meets 70) and needs more than $\beta$. The ratio
# $\tilde\beta/\beta = \sigma_s^2/\sigma_t^2$ tells how much is at stake:

# %% tags=["nbval-check-output"]
for k in (2, 5, 10, 100, 1000):
    ratio = schedule.sigma((k - 1) / 1000) ** 2 / schedule.sigma(k / 1000) ** 2
    print(f"step {k:4} of 1000: beta-tilde / beta = {ratio:.3f}")

# %%
lines = {}
for n in (1000, 100, 25, 10):
    grid = steps(n)[:-1]
    lines[f"{n} steps"] = (grid[:-1], (schedule.sigma(grid[1:]) / schedule.sigma(grid[:-1])) ** 2)
plots.curves(
    None,
    lines,
    title="With 1000 steps the two variances differ only at the very end, with 10 over half of the way",
    alt="The ratio of the two variances over time for four step counts. With 1000 steps it is 1 except very near time zero. With 100 steps it falls below 0.9 under time 0.2; "
    "with 25 steps it falls below 0.9 under time 0.4, with 10 steps already under 0.55, and reaches nearly zero at the left end.",
    xlabel="time t at which the step starts",
    ylabel=r"$\tilde\beta \,/\, \beta$",
    ylim=(0, 1.05),
    height=360,
)

# %% [markdown]
# So the quarrel is about *few steps*. Nichol and Dhariwal let the network answer it, by a number $v \in [0, 1]$ that mixes the logarithms,
#
# $$\exp\big(v \log\beta + (1 - v)\log\tilde\beta\big).$$
#
# For $N(0, \tfrac14)$ the right $v$ follows from the formula above, so we can play the perfectly trained network. For comparison the table also holds DDIM (chapter 00), which draws no
# noise but moves the guess and the noise in $z_t$ to the new level: $z_s = \alpha_s\hat z_0 + \sigma_s\hat\varepsilon$.


# %%
def right_fraction(z, t, s):
    """v for data N(0, 1/4): where Var[z_s | z_t] lies between beta-tilde (v = 0) and beta (v = 1)."""
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    _, tilde = posterior(z, z, t, s)
    beta = tilde * sigma_t**2 / schedule.sigma(s) ** 2
    unknown = 0.25 * sigma_t**2 / (0.25 * alpha_t**2 + sigma_t**2)  # Var[z_0 | z_t]
    true = tilde + (schedule.alpha(s) * beta / sigma_t**2) ** 2 * unknown
    return (true / tilde).log() / (beta / tilde).log()


samplers = {
    "beta-tilde": lambda d, z, times, noise: last(ddpm(d, schedule, z, times, "posterior", noise)),
    "beta": lambda d, z, times, noise: last(ddpm(d, schedule, z, times, "beta", noise)),
    "DDIM": lambda d, z, times, noise: last(ddim(d, schedule, z, times)),
    "right v": lambda d, z, times, noise: last(ddpm(d, schedule, z, times, right_fraction, noise)),
}

# %% tags=["nbval-check-output"]
counts, spread = (10, 20, 50, 250, 1000), {name: [] for name in samplers}
print("steps     " + "".join(f"{name:>12}" for name in samplers))
for n in counts:
    for name, sampler in samplers.items():
        if name != "right v" or n <= 250:  # it has nothing left to show
            spread[name].append(output_law(sampler, steps(n))[1])
    print(
        f"{n:5}     "
        + "".join(f"{values[-1]:12.5f}" for values in spread.values() if len(values) == len(spread["beta"]))
    )

# %%
plots.curves(
    None,
    {name: (counts[: len(values)], values) for name, values in spread.items()},
    title="Exact output variance of four samplers: all agree in the end, only one is right from the start",
    alt="Output variance against the number of steps from 10 to 1000. The truth is 0.25. Beta-tilde rises from 0.10, DDIM from 0.13, beta falls from 0.36; the right v "
    "lies on the line 0.25 throughout. At 1000 steps all lie within 0.004.",
    xlabel="steps",
    ylabel="variance of the output",
    horizontal={"data": 0.25},
    logx=True,
    xlim=(9, 1600),
    ylim=(0.05, 0.4),
    height=380,
)

# %% [markdown]
# $\tilde\beta$ gives too little spread, $\beta$ too much; ten steps with the right $v$ miss the truth by 0.0001, the noise that the last step leaves out. On images, too little spread looks smooth and washed out, too much looks grainy, and since
# grain is ugly, $\tilde\beta$ or DDIM is the usual choice with few steps. And for faces, where nobody knows $\operatorname{Var}[z_0 \mid z_t]$? The training loss knows it. (→ Exercise 04.7)
#
# ### Few steps mean new betas
#
# Skipping steps changes $\beta$: from $t$ straight to $s$ it is $1 - \bar\alpha_t/\bar\alpha_s$, the variance of the whole way. `respace` makes the table of the short chain. Reading the *old* table at the visited steps is a bug of much public
# code (→ Exercise 04.6):

# %% tags=["nbval-check-output"]
times = steps(10)
new_betas = respace(schedule, times)  # noisiest last, like every table of betas
assert_close(from_betas(new_betas).alpha(torch.arange(10, 0, -1, dtype=double) / 10), schedule.alpha(times[:-1]))


def old_table(d, z, times, noise):
    """Right means, but the variance of one small step where a hundred are taken at once."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        mean, _ = posterior(z, d(z, t), t, s)
        z = mean + (betas[round(t.item() * 1000) - 1].sqrt() * noise(z) if s > 0 else 0)
    return z


print("visited steps  ", [round(t.item() * 1000) for t in times[:-1].flip(0)])
print("old table      ", [f"{betas[round(t.item() * 1000) - 1].item():.4f}" for t in times[:-1].flip(0)])
print("respaced       ", [f"{b.item():.4f}" for b in new_betas])
print(f"variance of the output with the old table: {output_law(old_table, times)[1]:.3f} (the data have 0.25)")

# %% [markdown]
# <details><summary><b>Question.</b> With 10 steps, would the right v still be right if the data were two points, −1/2 and +1/2, which have the same variance 1/4?</summary>
#
# No, for two reasons. Two points are easier to tell apart than to place a number on a bell curve, so $\operatorname{Var}[z_0 \mid z_t]$ is smaller, and it depends on $z_t$: large between the points, small beyond them.
# And the true law of $z_s$ given $z_t$ is no Gaussian: in the middle of the way it has two humps, one for each point. A long Gaussian step cannot say "either here or
# there". That is why few-step sampling is hard even with a perfect denoiser and the right variance; small steps make the true law Gaussian again.
# </details>
#
# ## 7. Three ways to spoil it
#
# ### The T = 100 trap
#
# Somebody finds 1000 steps too slow, sets $T = 100$ and keeps the betas from $10^{-4}$ to $0.02$. The shorter chain never reaches noise: $\bar\alpha_T = 0.36$. But sampling still starts from $N(0, I)$, so the sampler believes that this
# noise holds a third of the signal's power of some picture; a picture which, on average, is *grey*. Give the album to that chain, and the same chain with betas ten times as large:

# %% tags=["nbval-check-output"]
every = torch.arange(100, -1, -1, dtype=double) / 100
chains = {
    "trap: 1e-4 to 0.02": short,
    "rescaled: 1e-3 to 0.2": from_betas(10 * torch.linspace(1e-4, 0.02, 100, dtype=double)),
}
brightness = album.mean((1, 2, 3))
print(f"{'the album':22}                     brightness {brightness.mean():6.3f}, spread {brightness.std():.3f}")
sheets = {}
for name, chain in chains.items():
    start, noise = standard_normal(0)(album[:32]), standard_normal(1)
    sheets[name] = last(ddpm(denoiser_for(EmpiricalData(album), chain), chain, start, every, noise=noise))
    light = sheets[name].mean((1, 2, 3))
    print(
        f"{name:22} signal left {chain.alpha(1.0) ** 2:.1e}  brightness {light.mean():6.3f}, spread {light.std():.3f}"
    )

# %%
plots.image_grid(
    torch.cat([(z[:16] + 1) / 2 for z in sheets.values()]),
    title="The trap (top two rows) paints medium brightness only; rescaled betas bring back dark and bright",
    alt="Thirty-two faces. In the top two rows all are of medium brightness, light and dark parts in balance. In the bottom two rows some pictures are "
    "dark all over and others bright all over, as in the album.",
    zoom=2,
    columns=8,
)

# %% [markdown]
# Every face is sharp, so nothing seems wrong. Yet the trap returns medium brightness again and again. Brightness is hit hardest, because all $d = 3072$ numbers of a picture share it. Along the
# unit vector "all of them equally" the album has variance $d \cdot 0.15^2 \approx 70$. At the end of the trap a state still has $0.36 \cdot 70 \approx 25$ of it, while the sampler starts there with the noise's 1. Details drown long before.
# On Gaussians both effects, a mean that is pulled to zero and a spread that collapses, come out exactly:


# %% tags=["nbval-check-output"]
def walk(chain):
    return lambda d, z, times, noise: last(ddpm(d, chain, z, times, noise=noise))


shared = 3072 * brightness.var().item()  # variance of the unit vector "all pixels equally" in the album
print("                             mean 0.5, variance 1/4      the brightness direction")
for name, chain in chains.items():
    pixel = Gaussian(torch.tensor([0.5], dtype=double), torch.tensor([[0.25]], dtype=double))
    light = Gaussian(torch.zeros(1, dtype=double), torch.tensor([[shared]], dtype=double))
    mean, _ = output_law(walk(chain), every, denoiser_for(pixel, chain))
    _, variance = output_law(walk(chain), every, denoiser_for(light, chain))
    print(
        f"{name:22} mean comes out as {mean:.4f}      spread comes out as {math.sqrt(variance / shared):.0%} of the data's"
    )

# %% [markdown]
# (The album kept more, 0.067 of 0.151: it is no Gaussian, and the trap can only choose among its 500 faces.)
#
# **How to recognise it**: print $\bar\alpha_T$. **Cure**: rescale the betas with $1000/T$, or respace a long chain, or force $\bar\alpha_T = 0$ (`zero_terminal_snr`). Stable Diffusion's $\bar\alpha_T = 0.0047$ is a mild case (arXiv 2305.08891); chapter 16 returns to it. (→ Exercise 04.8)
#
# ### Noise at the last step
#
# At the last step, to $s = 0$, $\beta$ is not zero. Code that adds $\sqrt\beta\,\varepsilon$ at *every* step leaves grain on the finished picture: invisible at $T = 1000$, where $\sqrt{\beta_1} = 0.01$, but not with few steps.

# %%
times = trailing_times(25)  # 25 steps, the last one from t = 0.04
start = standard_normal(0)(album[:6])
clean = last(ddpm(guess, schedule, start, times, noise=standard_normal(1)))
left_over = schedule.sigma(times[-2])  # to s = 0, sqrt(beta) is all the noise of sigma_t
grainy = clean + left_over * standard_normal(2)(clean)
plots.image_grid(
    torch.cat([clean, grainy]) / 2 + 0.5,
    title=f"25 steps, ended well (top) and with noise of {127.5 * left_over:.0f} grey levels in the last step (bottom)",
    alt="Six faces, clean in the top row; the same faces with fine coloured grain all over in the bottom row.",
    zoom=3,
    columns=6,
)

# %% [markdown]
# ### Clipping with the old noise
#
# A network's $\hat z_0$ may leave $[-1, 1]$, so code clips it. Then $\hat\varepsilon$ must be recomputed from the clipped $\hat z_0$. If the old one is kept, signal and noise no longer add up to $z_t$. The final
# pictures hide that, because they are clipped themselves; a step on its own does not. Data: $\pm 1$. The denoiser exaggerates by 30 %, and clipping repairs it; but with the old
# $\hat\varepsilon$ the mean of $z_s$ ends as far below the truth as it was above it without clipping:

# %% tags=["nbval-check-output"]
coin = EmpiricalData(torch.tensor([[-1.0], [1.0]], dtype=double))
t, s, count = 0.1, 0.05, 100_000
z_0 = torch.ones(count, 1, dtype=double)  # the truth; so z_s should have a mean near alpha_s = 0.985
z_t = schedule.alpha(t) * z_0 + schedule.sigma(t) * standard_normal(0)(z_0)
raw = 1.3 * coin.denoise(z_t, schedule.alpha(t), schedule.sigma(t))
stale = (z_t - schedule.alpha(t) * raw) / schedule.sigma(t)
ways = {
    "not clipped": ddim_step(z_t, raw, schedule, t, s),
    "clipped, eps recomputed": ddim_step(z_t, raw.clamp(-1, 1), schedule, t, s),
    "clipped, eps kept": ddim_step(z_t, raw.clamp(-1, 1), schedule, t, s, eps=stale),
}
honest = ddim_step(z_t, coin.denoise(z_t, schedule.alpha(t), schedule.sigma(t)), schedule, t, s)
print(f"{'the exact denoiser':24} mean of z_s {honest.mean():.3f}")
for name, z_s in ways.items():
    error = z_s.std() / math.sqrt(count)
    print(f"{name:24} mean of z_s {z_s.mean():.3f} +- {error:.3f}")

# %% [markdown]
# ## 8. Faces that are not in the album
#
# Now the learned denoiser at full size: `faces-unconditional-32`, a U-Net trained on 65,536 such faces. It learnt on the cosine schedule, it predicts
# $v = \alpha_t\varepsilon - \sigma_t z_0$ (no relation of section 6's fraction; it stays harmless where $\alpha_t = 0$, and chapter 05 converts between all kinds), and it is told the log-SNR, not a step index. So it runs on any schedule. The
# samplers are the ones from above, unchanged.

# %%
cosine = vp_cosine()
painter = NetworkDenoiser(load_pretrained("faces-unconditional-32"), schedule=cosine)
first = standard_normal(0)(torch.zeros(24, 3, 32, 32))
made = {}
with torch.inference_mode():
    for n in (10, 20, 40):
        grid = uniform_times(n)
        made["ddpm", n] = last(ddpm(painter, cosine, first, grid, noise=standard_normal(1)))
        made["ddim", n] = last(ddim(painter, cosine, first, grid))

plots.image_grid(
    torch.cat([(z[:12] / 2 + 0.5).clamp(0, 1) for z in made.values()]),
    [f"{name}, {n}" if i == 0 else "" for name, n in made for i in range(12)],
    title="From the same noise DDIM paints the same person in 10, 20 and 40 steps; DDPM does not",
    alt="Six rows of twelve generated faces: DDPM and DDIM with 10, 20 and 40 steps each. Most look like drawn faces with hair, eyes and a coloured background.",
    zoom=2,
    columns=12,
)

# %% [markdown]
# Look down the columns. DDIM adds no noise, so the same start leads to the same person in any number of steps (at ten, a pair of glasses may still come or go, and a background change its colour); DDPM draws new noise on the way and meets somebody else.
#
# How good is that? Three questions, three cells. **How far from real faces?** We compare the patches of 24 generated faces with those of 500 fresh real ones (sliced Wasserstein distance, chapter 02). A distance alone says nothing, so
# the yardstick is what 24 *real* faces get, over ten draws.

# %%
fresh = faces(740, seed=99).images
reference_faces, others = fresh[:500], fresh[500:]
reference = list(reference_faces[:, None])
yard = torch.stack([sliced_wasserstein(list(part[:, None]), reference, projections=32) for part in others.split(24)])
usual = torch.stack([part.var(0).mean() for part in others.split(24)]) / reference_faces.var(0).mean()
print(f"real faces, ten sets of 24: {yard.mean():.4f} +- {yard.std():.4f} (standard deviation);", end=" ")
print(f"pixel variance {usual.mean():.0%} +- {usual.std():.0%}")
scores = {}
for (name, n), z in made.items():
    varied = z.var(0).mean() / (2 * reference_faces - 1).var(0).mean()
    scores[name, n] = sliced_wasserstein(list((z / 2 + 0.5).clamp(0, 1)[:, None]), reference, projections=32)
    ratio = scores[name, n] / yard.mean()
    print(f"{name}, {n:2} steps: {scores[name, n]:.4f}, {ratio:.2f} yardsticks; pixel variance {varied:.0%} of real")


# %%
plots.curves(
    (10, 20, 40),
    {
        **{name: torch.stack([scores[name, n] for n in (10, 20, 40)]) for name in ("ddpm", "ddim")},
        "real against real": yard.mean().repeat(3),
    },
    bands={"real against real": yard.std()},
    title="Distance to real faces: inside the band, the yardstick and its scatter, differences mean nothing",
    alt="Sliced Wasserstein distance of generated faces for 10, 20 and 40 steps with DDPM and DDIM, and a horizontal line with a band for sets of real faces: "
    + "; ".join(f"{name} {n}: {score:.4f}" for (name, n), score in scores.items())
    + f"; real {yard.mean():.4f} +- {yard.std():.4f}.",
    xlabel="steps (= network calls)",
    ylabel="sliced $W_1$",
    ylim=(0, None),
    height=340,
)

# %% [markdown]
# Differences inside the band mean nothing. The pixel variance is section 6 at work: with ten steps $\tilde\beta$ loses much of the spread, as on $N(0, \tfrac14)$; the faces of that row are duller and more
# alike. **Are they copies?** Look up the nearest neighbour of 48 of them among 6000 training faces (3000 and their mirror images, since training
# mirrored half of what it showed), and do the same for 48 faces that are certainly new. This searches only a twentieth of the training set; still, if all 48 were copies, one or more would turn up here at a distance near zero
# nine times out of ten. (`benchmarks/faces.py` searches the whole set.)

# %%
seen = 2 * faces(3000).images - 1  # seed 0: the first of the faces that the network was trained on
known = torch.cat([seen, seen.flip(-1)]).flatten(1)
samples = torch.cat([made["ddpm", 40], made["ddim", 40]]).clamp(-1, 1)


def nearest(z):
    gaps = torch.cdist(z.flatten(1), known) / math.sqrt(known.shape[1])
    return gaps.min(1)


mine, new = nearest(samples), nearest(2 * others[:48] - 1)
print(
    f"RMS distance to the nearest training face: generated {mine.values.mean():.3f}, smallest {mine.values.min():.3f}"
)
print(f"                                           fresh real {new.values.mean():.3f}, smallest {new.values.min():.3f}")
plots.image_grid(
    torch.cat([samples[:9], known[mine.indices[:9]].view(-1, 3, 32, 32)]) / 2 + 0.5,
    ["generated"] + [""] * 8 + ["nearest"] + [""] * 8,
    title="Generated faces (top) resemble their nearest of 6000 training faces (bottom) but copy none",
    alt="Two rows of nine faces. Each face in the bottom row resembles the one above it in its colours, but differs in background, hair, glasses, mouth or pose: "
    "the generated faces are no copies.",
    zoom=3,
    columns=9,
)

# %% [markdown]
# **What is wrong with them?** Look at the sheets as a critic would. Colours, light, the place of the head: right almost always, and decided early. Search for the small things: eyes that do not match, glasses with one
# rim, a hat that dissolves into hair, an outline that frays, a background that changes colour behind the head. They need agreement between distant pixels, late in the chain. Patch distances notice
# grain and blur; they do not notice a missing eye, because a patch does not know which face it belongs to. So decide with your eyes as well: which row would you show to others, and what did it cost in network calls?
#
# <details><summary><b>Question.</b> The real-to-real distance is not zero. A model scores below it. Did it beat reality?</summary>
#
# No. Twenty-four real faces differ from 500 others by chance. A model can score below that by being *less* varied than reality, always close to the average. Hence two measures: a distance between sets, and a look at
# the spread (brightness in section 7, diversity of attributes). The yardstick's own scatter tells you which differences to ignore.
# </details>
#
# ## 9. Edit the schedule yourself
#
# Choose a family of betas, the largest beta and the number of steps. Three panels answer: how far does the SNR fall, how would the bound weigh each step, and what does DDPM make of it with the *exact* denoiser of a two-humped law?

# %%
humps = GaussianMixture(
    torch.tensor([0.1, 0.9]),
    torch.tensor([[-0.8], [0.8]], dtype=double),
    0.15**2 * torch.ones(2, 1, 1, dtype=double),
)


def table(kind, largest_beta, steps_T):
    """Betas (T,) of a family; the cosine table has no largest beta to choose."""
    if kind == "cosine":
        return respace(vp_cosine(), torch.arange(steps_T, 0, -1) / steps_T).clamp(max=0.999)
    ramp = torch.linspace(1e-4, largest_beta, steps_T, dtype=double)
    return ramp if kind == "linear" else torch.full_like(ramp, largest_beta)


def draw_schedule(kind, largest_beta, steps_T):
    chain = from_betas(table(kind, largest_beta, steps_T))
    knots = torch.arange(1, steps_T + 1, dtype=double) / steps_T
    log_snr = chain.log_snr(knots)
    weight = 0.5 * torch.expm1(log_snr[:-1] - log_snr[1:])
    start = standard_normal(0)(torch.zeros(1500, 1, dtype=double))
    way = torch.cat([knots.flip(0), torch.zeros(1, dtype=double)])
    out = last(ddpm(denoiser_for(humps, chain), chain, start, way, noise=standard_normal(1)))
    x = torch.linspace(-1.6, 1.6, 200, dtype=double)
    law = humps.log_prob(x[:, None]).exp()
    end = f"signal left {chain.alpha(1.0) ** 2:.1e}"
    label = f"{kind}, T = {steps_T}" + ("" if kind == "cosine" else f", betas up to {largest_beta:g}")
    alt = f"{label}: log SNR ends at {log_snr[-1]:.1f}, {end}; share of samples below zero {(out < 0).double().mean():.2f} (data 0.10)."
    look = {"alt": alt, "width": 320, "height": 270}
    panels = [
        plots.curves(knots, {"_": log_snr}, title=f"log SNR; {end}", xlabel="time t", ylim=(-14, 10), **look),
        plots.curves(knots[1:], {"_": weight}, title="weight in the bound", xlabel="time t", logy=True, **look),
        plots.histogram({"DDPM": out}, exact={"data": (x, law)}, title="what comes out", bins=40, **look),
    ]
    return plots.strip(panels, title=label, alt=alt)


widgets.explorer(
    draw_schedule,
    kind=["linear", "cosine", "constant"],
    largest_beta=(0.005, 0.3, 0.005, 0.02),
    steps_T=[10, 30, 100, 300, 1000],
)

# %%
widgets.frames(
    draw_schedule,
    [
        {"kind": "linear", "largest_beta": 0.02, "steps_T": 1000},
        {"kind": "linear", "largest_beta": 0.02, "steps_T": 100},
        {"kind": "linear", "largest_beta": 0.2, "steps_T": 100},
        {"kind": "cosine", "largest_beta": 0.02, "steps_T": 30},
    ],
    title="A schedule that keeps signal at the end (second row) gets the shares of the humps wrong",
    alt="Four rows of three panels. DDPM's table: log SNR falls to minus 10 and the samples follow the two humps. The trap: log SNR ends above minus 1, and the two humps get the wrong "
    "shares. Ten times larger betas: it falls to minus 11 and the shares are right again. Cosine with 30 steps: even fall, right shares, humps a little too narrow.",
    columns=1,
)

# %% [markdown]
# Things to try: *constant* betas need how many steps to reach noise? What does the weight look like when half of all steps are spent in pure noise? How few cosine steps keep both humps?
#
# > **Common mistakes**
# >
# > - SR3's formula with the survey's $\alpha_t$: the state explodes in one step (section 3).
# > - $\tilde\beta$ used as a standard deviation: it is a variance, take its root.
# > - $T = 100$ with betas made for 1000: no dark and no bright pictures (section 7).
# > - Betas of single steps with skipped steps: too little spread (section 6).
# > - Noise at the last step: grain. $\log\tilde\beta_1 = -\infty$: NaN, when a table of log-variances is not clipped.
# > - Clipping $\hat z_0$ and keeping the old $\hat\varepsilon$. Clipping where $[-1, 1]$ is not the range at all (residuals, wavelets, latents).
# > - Judging a loss without its floor, or a distance without its yardstick.
#
# > **In the papers**
# >
# > - DDPM (arXiv 2006.11239): $T = 1000$, betas linear from $10^{-4}$ to $0.02$; both fixed variances gave similar samples at that $T$, as the table in section 6 lets you expect.
# > - Improved DDPM (arXiv 2102.09672): the cosine schedule with betas cut at 0.999; learned $v$, trained with $L_{\text{simple}} + 0.001\,L_{\text{vlb}}$; good samples in 50 to 100 steps by a model trained with 4000.
# > - SR3 (arXiv 2104.07636) adds noise of variance $\beta$; a public port of it uses $\tilde\beta$, and betas from $10^{-6}$ to $0.01$ with $T = 2000$.
# > - SRDiff (arXiv 2104.14951): $T = 100$ with the cosine schedule. With linear betas that $T$ would be the trap; on that path its public code lifts the last beta to 0.999.
#
# > **Going further**
# >
# > - The right variance without learning it: Analytic-DPM (arXiv 2201.06503), chapter 07. The bound as a likelihood in bits: chapter 08.
# > - Let $T \to \infty$, and the chain becomes a stochastic differential equation: chapter 06.
#
# Eight [exercises](../exercises/04_ddpm.ipynb) wait: from the jump to the exact law of a whole chain.

# %% [markdown]
# ## Recap
#
# 1. **Jump:** $z_t = \alpha_t z_0 + \sigma_t\varepsilon$ equals a thousand steps, within standard errors.
# 2. **Derive:** the posterior is a precision-weighted compromise between $z_t$ and $z_0$; its variance is $\tilde\beta = \beta\sigma_s^2/\sigma_t^2$. Formula, library and Bayes on a grid agree.
# 3. **Explain:** each term of the bound is $\tfrac12(\mathrm{SNR}(s)/\mathrm{SNR}(t) - 1)\,\|\varepsilon - \hat\varepsilon\|^2$; $L_{\text{simple}}$ drops the weight, in favour of structure.
# 4. **Train:** seconds suffice in the plane; a loss means nothing without its floor, and strays show what the loss hides.
# 5. **Choose:** on pixels $\tilde\beta$ is too narrow and $\beta$ too wide; the right $v$ is exact on Gaussians. With 1000 steps all agree, with 10 the fixed two are far apart.
# 6. **Recognise:** mixed letters, old betas, the $T = 100$ trap, noise at the last step, stale $\hat\varepsilon$ after clipping.
#
# Next: the same models seen as *scores*, gradients of log densities, which explains what a denoiser really knows.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Sohl-Dickstein et al., *Deep Unsupervised Learning using Nonequilibrium Thermodynamics*, arXiv:1503.03585.
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, arXiv:2006.11239.
# - Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, arXiv:2102.09672.
# - Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, arXiv:2010.02502.
# - Saharia et al., *Image Super-Resolution via Iterative Refinement* (SR3), arXiv:2104.07636.
# - Li et al., *SRDiff*, arXiv:2104.14951.
# - Bao et al., *Analytic-DPM*, arXiv:2201.06503.
# - Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, arXiv:2305.08891.
