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
# # 07 Efficient sampling
#
# A diffusion model pays for every sample with network calls: DDPM with a thousand, and cost is the first complaint that the survey has
# about diffusion models. This chapter is about getting the same picture for fifty, ten, or one. You will build the solvers that
# everybody uses, measure them against an exact answer, and find out where the cleverness stops paying.
#
# ## What you will be able to do
#
# 1. **Measure** a sampler: error per network call, and the order of convergence that tells a right solver from a nearly right one.
# 2. **Derive** DDIM, Heun, DPM-Solver-2 and DPM-Solver++(2M) from one integral, each in a few lines.
# 3. **Place** the steps: say what a time grid should do, and see which solver trusts its grid too much.
# 4. **Judge** when a higher order helps, when it hurts, and when noise has to be drawn.
# 5. **Distil** a sampler of many steps into a network of one or two, in two ways.
# 6. **Save** steps without training: start late, search the schedule, choose the best variance.
# 7. **Recommend** a sampler for a given budget, with numbers.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) (DDPM, DDIM's kernel) and [chapter 06](06_sdes.ipynb) (the probability-flow ODE, Heun).
#
# **Reading time**: 80 minutes. Running time: about 30 s on two cores.
# **Survey section**: III-D, improvements: efficient sampling (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/07_efficient_sampling.ipynb), worked in [solutions](../solutions/07_efficient_sampling.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $z_t = \alpha_t z_0 + \sigma_t\epsilon$ | `z`, `schedule.alpha`, `.sigma` | the state at time $t$; $t = 0$ is data, $t = 1$ noise |
# > | $t \to s$, $s < t$ | `t`, `s` | one step; `times` holds $n + 1$ falling times, so $n$ steps |
# > | $\hat z_0(z, t)$ | `denoiser(z, t)` | the denoiser's answer: one **call**, the unit of cost |
# > | $\hat\epsilon = (z - \alpha_t \hat z_0)/\sigma_t$ | `eps` | the same answer, told as noise |
# > | $\rho = \sigma_t/\alpha_t$, $\lambda = -\log\rho$ | `rho`, `lam` | noise-to-signal ratio, and half the log-SNR |
# > | $y = z/\alpha_t$ | `y` | the state in units of the data |
# > | $h = \lambda_s - \lambda_t$ | `h` | length of a step |
# > | $s_t(z) = -\hat\epsilon/\sigma_t$ | `score` | the score of chapter 06 (the time $s$ stands alone) |
# >
# > In the survey $\gamma_t$ is our $\alpha_t^2$, and $1 - \gamma_t$ our $\sigma_t^2$. EDM's time (arXiv:2206.00364) is our $\rho$; it calls it $\sigma$.

# %%
import copy
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from tutorial_lib import distillation, plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser, from_z_0
from tutorial_lib.domains import Pixel
from tutorial_lib.images import resize
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, convergence_order, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import (
    State,
    analytic_dpm,
    ddim,
    ddpm,
    deis,
    dpm_solver_2,
    dpm_solver_pp_2m,
    heun,
    last,
    mean_square_eps,
    pndm,
    reverse_sde,
    trajectory,
    unipc,
)
from tutorial_lib.schedules import karras_times, log_snr_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step, forward_step

# %% [markdown]
# ## 1. Ten calls
#
# One network, the same six noise images in every row, and ten calls of the network for each of the first three rows (the number after each name). Only the arithmetic between the calls
# differs. The fourth row is another network, trained to imitate the first one; it is called *once*. The last row is what
# the noise images should become: the same flow followed with 40 calls.

# %%
vp, domain = vp_linear(), Pixel()
face_denoiser = NetworkDenoiser(load_pretrained("faces-unconditional-32"), schedule=vp)
student = NetworkDenoiser(load_pretrained("faces-distilled-32"))  # on its own schedule, the cosine
seeds = standard_normal(11)(torch.empty(16, 3, 32, 32))


def even_times(n):
    """n times even in t, then 0."""
    return uniform_times(n, t_min=0.02)


def draw(sampler, times, z=seeds):
    """Faces drawn by a sampler from the noise z; meant to lie in [0, 1], not cut to it."""
    with torch.inference_mode():
        return domain.decode(last(sampler(face_denoiser, vp, z, times)))


def student_draws(n, z=seeds):
    """The student's faces after n calls (section 9)."""
    times = torch.linspace(1, 0, n + 1).double()
    with torch.inference_mode():
        return domain.decode(last(distillation.consistency_sample(student, vp_cosine(), z, times, standard_normal(3))))


drawn = {
    (name, 10): draw(f, even_times(10)) for name, f in (("DDPM", ddpm), ("DDIM", ddim), ("++2M", dpm_solver_pp_2m))
}
drawn["student", 1] = student_draws(1)
with torch.inference_mode():
    flow_path = trajectory(dpm_solver_pp_2m(face_denoiser, vp, seeds, even_times(40)))
flow_end = drawn["flow", 40] = domain.decode(flow_path[-1].z)

# %%
plots.image_grid(
    torch.cat([images[:6] for images in drawn.values()]).clamp(0, 1),
    [f"{name}: {calls}" if i == 0 else "" for name, calls in drawn for i in range(6)],
    title="The same noise, five ways to spend network calls",
    alt="Five rows of six small cartoon faces. DDPM with ten calls: other people than in the rows below, with washed-out detail. DDIM with ten calls: the people of the last row, smoother; one has lost a hat. "
    "DPM-Solver++(2M) with ten calls: hard to tell from the last row. The student with one call: the people of the last row, softer, and one without a hat. Last row: the flow with 40 calls.",
    zoom=3,
    columns=6,
)

# %% [markdown]
# Compare the rows column by column. DDPM draws fresh noise at every step, so it ends at other people, and with ten steps their details are washed out. DDIM follows
# the deterministic flow of chapter 06 roughly: the people are those of the last row, but hair and hats are smoothed away. The third row follows it so closely that you have to look for the difference. At the end of this chapter you will know
# why, and you will have a table that says which row to choose.
#
# ## 2. What has to be computed
#
# To compare solvers, we need a problem whose answer is known. On a line there is one: the flow never lets two paths cross, so it maps the 30 % quantile of the noise to the 30 % quantile
# of the data. Take the two bumps of chapter 06. From quantiles we get starts *and* exact ends.

# %%
toy = GaussianMixture(
    torch.tensor([0.35, 0.65]), torch.tensor([[-1.2], [0.8]]).double(), torch.tensor([[[0.15**2]], [[0.3**2]]])
)
exact = denoiser_for(toy, vp)
line = torch.linspace(-6, 6, 20001).double()
shares = (torch.arange(100).double() + 0.5) / 100


def quantile(t, u=shares, law=toy):
    """The states at time t below which the shares u of the noised law lie: (len(u), 1)."""
    alpha, sigma = vp.alpha(t), vp.sigma(t)
    spread = (alpha**2 * law.covariances[:, 0, 0] + sigma**2).sqrt()
    share = torch.special.ndtr((line[:, None] - alpha * law.means[:, 0]) / spread) @ law.weights
    right = torch.searchsorted(share, u).clamp(1, len(line) - 1)
    part = (u - share[right - 1]) / (share[right] - share[right - 1]).clamp(min=1e-300)
    return (line[right - 1] + part * (line[right] - line[right - 1]))[:, None]


# %% [markdown]
# What drives a state along the flow? Put $z = \alpha_t y$. In the numbers $y$, the state in units of the data, the signal stands still while only the noise shrinks, and the ODE of chapter 06,
# $dz/dt = f z - \tfrac12 g^2 s_t$, loses everything but one term. Insert $f = \alpha'/\alpha$, $g^2 = (\sigma^2)' - 2 f\sigma^2$ and $s_t = -\hat\epsilon/\sigma_t$:
#
# $$\frac{dz}{dt} = f z + \frac{\sigma\sigma' - f\sigma^2}{\sigma}\,\hat\epsilon = \frac{\alpha'}{\alpha} z + \alpha\Big(\frac{\sigma}{\alpha}\Big)'\hat\epsilon
# \qquad\Longrightarrow\qquad \boxed{\;dy = \hat\epsilon\; d\rho\;}$$
#
# That is all there is. *The change of the state is the predicted noise, added up over the falling noise level*:
#
# $$y_s = y_t + \int_{\rho_t}^{\rho_s} \hat\epsilon\,d\rho .$$
#
# Every deterministic sampler of this chapter is a recipe for that integral from few values of $\hat\epsilon$. First test the algebra on random states.

# %% tags=["nbval-check-output"]
t, z = torch.linspace(0.05, 0.95, 12).double(), standard_normal(0)(torch.empty(12, 1, dtype=torch.float64))
score = toy.score(z, vp.alpha(t), vp.sigma(t))
chapter_6 = vp.drift(t)[:, None] * z - vp.diffusion(t)[:, None] ** 2 / 2 * score
eps = from_z_0(exact(z, t), "eps", z, t, vp)
(alpha_slope, sigma_slope), alpha, sigma = vp.slopes(t), vp.alpha(t), vp.sigma(t)
rho_slope = (sigma_slope * alpha - sigma * alpha_slope) / alpha**2
assert_close(chapter_6, (alpha_slope / alpha)[:, None] * z + (alpha * rho_slope)[:, None] * eps)
print("dz/dt of chapter 06 and dy = eps d rho are the same equation")

# %%
rhos = torch.logspace(2, -2, 160).double()
moments = vp.time_at(-2 * rhos.log())
chosen = torch.tensor([0.05, 0.25, 0.34, 0.36, 0.5, 0.9]).double()
path = torch.cat([quantile(t, chosen).T for t in moments])  # exact, without any solver
noise_seen = torch.stack(
    [from_z_0(exact(z[:, None], t), "eps", z[:, None], t, vp)[:, 0] for z, t in zip(path, moments, strict=True)]
)
plots.curves(
    rhos,
    {f"{100 * u:.0f} % path": noise_seen[:, i] for i, u in enumerate(chosen.tolist())},
    title="What has to be added up: the predicted noise along exact paths",
    alt="Six curves of predicted noise against the noise-to-signal ratio on a logarithmic axis from 100 down to 0.01. All are flat for ratios above 5. Between 3 and 0.2 they bend; the 34 and 36 percent "
    "paths, which separate to different bumps, swing most and stay together longest. Below that all sink to 0, at the end in proportion to the ratio.",
    xlabel="noise-to-signal ratio $\\rho$ (sampling runs from right to left)",
    ylabel="predicted noise $\\hat\\epsilon$",
    logx=True,
    ylim=(-1.8, 3.2),
    height=360,
)

# %% [markdown]
# Where these curves are flat, one step of any length is exact. They bend where $\rho$ has the size of structure in the data: at about the distance of the bumps (2), and again at about their widths (0.3, 0.15). At the left end they sink to 0 in proportion to $\rho$, over so short an interval that little is left to add up. The paths
# at 34 % and 36 % start side by side and must decide between two bumps; nothing else in the picture is as hard to follow. Images have structure at every scale from a whole face to a single lash, so their $\hat\epsilon$ bends everywhere.
#
# ## 3. DDIM: hold the noise
#
# The simplest recipe takes $\hat\epsilon$ at the start of the step for the whole step:
#
# $$y_s = y_t + (\rho_s - \rho_t)\,\hat\epsilon \qquad\Longleftrightarrow\qquad z_s = \alpha_s \hat z_0 + \sigma_s\,\hat\epsilon ,$$
#
# (multiply by $\alpha_s$ and use $\alpha_s y_t = \alpha_s\hat z_0 + \alpha_s\rho_t\hat\epsilon$). The right-hand side is DDIM with $\eta = 0$ from chapter 04. **DDIM is Euler's method in the variable $\rho$** (→ Exercise 07.1). In this variable
# the shrinking noise and the growing signal are accounted for exactly, whatever the schedule, and only the change of $\hat\epsilon$ is neglected.


# %%
def my_ddim(denoiser, schedule, z, times):
    """Hold eps during each step."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0 = denoiser(z, t)
        eps = (z - schedule.alpha(t) * z_0) / schedule.sigma(t)
        z = schedule.alpha(s) * z_0 + schedule.sigma(s) * eps
    return z


z_top = quantile(1.0)  # where the exact paths are at t = 1
grid = karras_times(vp, 12, sigma_min=0.02)
assert_close(my_ddim(exact, vp, z_top, grid), last(ddim(exact, vp, z_top, grid)))
print("my_ddim agrees with the library")

# %% [markdown]
# ## 4. Three ways to a second order
#
# $\hat\epsilon$ at the start stands for the whole step, and it is out of date as soon as the step begins. A value from the *middle* of the step would be right
# if $\hat\epsilon$ changed evenly. Three ways to get it:
#
# - **Heun** (EDM, arXiv:2206.00364): step, look again where you land, and go with the mean of both (→ Exercise 07.3).
# - **DPM-Solver-2** (arXiv:2206.00927): go halfway in $\lambda$, look there, and make the whole step with what you saw.
# - **DPM-Solver++(2M)** (arXiv:2211.01095): do not look again at all. You know the last two answers; extrapolate them half a step ahead (→ Exercise 07.4).
#
# The first two pay two calls a step, the third one. It works on $\hat z_0$ rather than on $\hat\epsilon$. Divide the state by $\sigma_t$ instead of $\alpha_t$: from $\hat\epsilon = (z - \alpha\hat z_0)/\sigma$ and $dy = \hat\epsilon\,d\rho$ follows, with $\lambda = -\log\rho$,
#
# $$d\Big(\frac{z}{\sigma}\Big) = e^{\lambda}\,\hat z_0\,d\lambda \qquad\Longrightarrow\qquad z_s = \frac{\sigma_s}{\sigma_t}\,z_t + \sigma_s\int_{\lambda_t}^{\lambda_s} e^{\lambda}\,\hat z_0\,d\lambda .$$
#
# Take $\hat z_0$ out of the integral as one number $D$ and what is left is $\int e^\lambda d\lambda = e^{\lambda_s}(1 - e^{-h})$, so
#
# $$z_s = \frac{\sigma_s}{\sigma_t}\,z_t - \alpha_s\,(e^{-h} - 1)\,D .$$
#
# $D = \hat z_0$ gives DDIM once more. For second order, $D$ is $\hat z_0$ in the middle of the step. One step before, $h_-$ earlier, the answer was $\hat z_0^-$; per unit of $\lambda$ it changed by $(\hat z_0 - \hat z_0^-)/h_-$, and the middle is $h/2$ ahead:
#
# $$D = \hat z_0 + \frac{h}{2 h_-}\,\big(\hat z_0 - \hat z_0^-\big) = \Big(1 + \frac{1}{2r}\Big)\hat z_0 - \frac{1}{2r}\,\hat z_0^-, \qquad r = \frac{h_-}{h} .$$


# %%
def my_heun(denoiser, schedule, z, times):
    """In y and rho: an Euler step, and a second one with the mean of both slopes. Two calls a step."""
    rho = schedule.sigma(times) / schedule.alpha(times)
    y = z / schedule.alpha(times[0])

    def slope(y, i):
        return (y - denoiser(schedule.alpha(times[i]) * y, times[i])) / rho[i]

    for i in range(len(times) - 1):
        early, length = slope(y, i), rho[i + 1] - rho[i]
        late = slope(y + length * early, i + 1) if rho[i + 1] > 0 else early
        y = y + length * (early + late) / 2
    return schedule.alpha(times[-1]) * y


def my_2m(denoiser, schedule, z, times):
    """DPM-Solver++(2M): one call a step."""
    before = None
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0, lam = denoiser(z, t), schedule.log_snr(t) / 2
        h = schedule.log_snr(s) / 2 - lam
        D = z_0
        if before is not None and schedule.sigma(s) > 0:  # to sigma = 0 the step is infinitely long: no extrapolation
            D = z_0 + h / (2 * (lam - before[1])) * (z_0 - before[0])
        z = schedule.sigma(s) / schedule.sigma(t) * z - schedule.alpha(s) * torch.expm1(-h) * D
        before = (z_0, lam)
    return z


for mine, library in ((my_heun, heun), (my_2m, dpm_solver_pp_2m)):
    assert_close(mine(exact, vp, z_top, grid), last(library(exact, vp, z_top, grid)))
print("both agree with the library")

# %%
lam = torch.linspace(-4.9, 3.9, 110).double()
clock = vp.time_at(2 * lam)
heights = torch.linspace(-2.4, 2.4, 120).double()
shade = torch.stack([toy.log_prob(heights[:, None], vp.alpha(t), vp.sigma(t)).exp() for t in clock], 1)
few = torch.tensor([0.06, 0.22, 0.33, 0.37, 0.5, 0.92]).double()
race, panels = (
    {},
    {"exact flow": None, "DDIM, 12 calls": ddim, "++2M, 12 calls": dpm_solver_pp_2m, "Heun, 6 steps, 12 calls": heun},
)
for name, sampler in panels.items():
    if sampler is None:
        race[name] = (lam, torch.cat([quantile(t, few).T for t in clock]).T)
        continue
    steps = karras_times(vp, 7 if sampler is heun else 13, sigma_min=0.02)[:-1]
    states = trajectory(sampler(exact, vp, quantile(1.0, few), steps))
    race[name] = (vp.log_snr(steps) / 2, torch.cat([state.z.T for state in states]).T)
plots.evolution(
    lam,
    heights,
    dict.fromkeys(panels, shade),
    title="DDIM cuts the corners, ++2M takes them; Heun's six steps are too long",
    alt="Four maps of the exact density against half the log-SNR, from one grey band on the left to two dark bands on the right. Exact paths bend smoothly into the bands. DDIM with twelve calls goes in straight pieces that cut the curves, "
    "ends a little too far inside, and leaves the 33 percent path between the bands. DPM-Solver++(2M) with twelve calls stays close to the exact paths. Heun with six long steps throws the outer paths far out; two of six end in a band, one between, three beyond.",
    xlabel="$\\lambda$ (noise on the left, data on the right)",
    paths=race,
    columns=2,
    height=270,
    width=900,
)

# %% [markdown]
# DDIM's paths end too far inside, ++2M's nearly where they should. Heun, with half as many steps, is thrown off its path at the first bend; section 6 explains it.
#
# What other recipes are there? The library has more, and you know their parts already:
#
# - **UniPC** (arXiv:2302.04867): when the call at the end of a step has been made for the next step anyway, use it to *redo* the step just made. This corrector costs nothing and raises the order by one.
# - **DEIS** (arXiv:2204.13902): a polynomial through the last two to four $\hat\epsilon$, integrated exactly over $\rho$.
# - **PNDM** (arXiv:2202.09778): the mean over $t$ of the polynomial through the last four $\hat\epsilon$, with weights $(55, -59, 37, -9)/24$ on an even grid (the library fits them to any grid). The paper starts by Runge–Kutta, four calls a step; our race starts with fewer values instead. Since the mean is over $t$ and not over $\rho$, its order is 2.
#
# ## 5. Order: the fingerprint of a solver
#
# A solver has **order** $p$ when $n$ steps leave an error like $n^{-p}$. On doubly logarithmic axes that is a line of slope $-p$. The order is the best test for a solver's code that exists: small mistakes
# that no picture shows change it. End the grid at $\rho = 0.02$, where the exact end is the quantile, so that the last step to 0 does not interfere.

# %%
SOLVERS = {
    "DDIM": (ddim, 1),
    "Heun": (heun, 2),
    "DPM-Solver-2": (dpm_solver_2, 2),
    "++2M": (dpm_solver_pp_2m, 2),
    "DEIS, 2 eps": (partial(deis, order=2), 2),
    "UniPC": (unipc, 3),
}
LOW = 0.02  # the last rho


def karras(n):
    return karras_times(vp, n + 1, sigma_min=LOW)[:-1]


def uneven(n):
    """Steps in log-SNR that differ at random by up to a factor of three; a pattern of ten, repeated."""
    pattern = 0.5 + torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = torch.cat([torch.zeros(1).double(), pattern.repeat(n // 10).cumsum(0)])
    first, final = vp.log_snr(1.0), -2 * math.log(LOW)
    times = vp.time_at(first + (final - first) * places / places[-1])
    return torch.cat([torch.ones(1).double(), times[1:]])


def end_error(sampler, times, denoiser=exact):
    """Mean distance from the exact end, in units of the data, over the hundred quantiles."""
    return (last(sampler(denoiser, vp, z_top, times)) - quantile(times[-1])).abs().mean().item()


counts = [10, 20, 40, 80, 160, 320]
errors = {name: [end_error(sampler, karras(n)) for n in counts] for name, (sampler, _) in SOLVERS.items()}
plots.curves(
    counts,
    errors,
    title="Twice the steps: half the error, a quarter, an eighth",
    alt="Error against the number of steps from 10 to 320 on doubly logarithmic axes. "
    + " ".join(f"{name}: {row[0]:.1e} falling to {row[-1]:.1e}." for name, row in errors.items())
    + " DDIM falls with slope one; four solvers with slope two; UniPC with slope three.",
    xlabel="steps $n$",
    ylabel="mean error of the end point",
    logx=True,
    logy=True,
)

# %% tags=["nbval-check-output"]
print("order, from 160 and 320 steps     Karras's grid    uneven grid")
for name, (sampler, expected) in SOLVERS.items():
    on_karras = convergence_order(dict(zip(counts, errors[name], strict=True)).get, [160, 320])
    on_uneven = convergence_order(lambda n, sampler=sampler: end_error(sampler, uneven(n)), [160, 320])
    print(f"{name:30} {on_karras:13.2f} {on_uneven:16.2f}")
    assert abs(on_karras - expected) < 0.15 and abs(on_uneven - expected) < 0.15

# %% [markdown]
# Every solver shows the order that it claims, on a regular grid and on one that nobody would use. Why test on the second? Because of what follows.
#
# ### Break it: three wrong solvers that look right
#
# - Heun's second slope divided by the *first* $\sigma$. A public library had this until 2022 (diffusers, pull request 1512).
# - ++2M with $r$ upside down.
# - "2M v2", which circulates in discussions of a well-known sampling library (k-diffusion, number 56): the longer step over the shorter for $r$, and a step of the mean length of both.


# %%
def wrong_heun(denoiser, schedule, z, times):
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0 = denoiser(z, t)
        eps = from_z_0(z_0, "eps", z, t, schedule)
        guess = ddim_step(z, z_0, schedule, t, s)
        late = (guess - schedule.alpha(s) * denoiser(guess, s)) / schedule.sigma(t)  # should be sigma(s)
        yield State(z, t, z_0)
        gain = schedule.sigma(s) - schedule.sigma(t) * schedule.alpha(s) / schedule.alpha(t)
        z = ddim_step(z, z_0, schedule, t, s) + gain * (late - eps) / 2
    yield State(z, times[-1], z_0)


def variant_2m(kind):
    """++2M with r as it should be ("right"), upside down ("inverted"), or as in "v2"."""

    def sampler(denoiser, schedule, z, times):
        before = None
        for t, s in zip(times[:-1], times[1:], strict=True):
            z_0, lam = denoiser(z, t), schedule.log_snr(t) / 2
            yield State(z, t, z_0)
            D, h = z_0, schedule.log_snr(s) / 2 - lam
            if before is not None:
                h_before = lam - before[1]
                r = {"right": h_before / h, "inverted": h / h_before, "v2": max(h, h_before) / min(h, h_before)}[kind]
                D = (1 + 1 / (2 * r)) * z_0 - 1 / (2 * r) * before[0]
                h = (h + h_before) / 2 if kind == "v2" else h
            z = schedule.sigma(s) / schedule.sigma(t) * z - schedule.alpha(s) * torch.expm1(-h) * D
            before = (z_0, lam)
        yield State(z, times[-1], z_0)

    return sampler


# %% tags=["nbval-check-output"]
def even(n):
    return log_snr_times(vp, n + 1, t_min=vp.time_at(-2 * math.log(LOW)).item())[:-1]


assert_close(last(variant_2m("right")(exact, vp, z_top, uneven(20))), my_2m(exact, vp, z_top, uneven(20)))
wrong = {"Heun, wrong sigma": wrong_heun, "2M, r inverted": variant_2m("inverted"), "2M v2": variant_2m("v2")}
right = {"Heun, wrong sigma": heun, "2M, r inverted": dpm_solver_pp_2m, "2M v2": dpm_solver_pp_2m}
print("order on:                even steps   Karras   uneven     error with 20 steps, relative to the right one's")
for name, sampler in wrong.items():
    orders = [
        convergence_order(lambda n, f=f, sampler=sampler: end_error(sampler, f(n)), [80, 160])
        for f in (even, karras, uneven)
    ]
    worse = [end_error(sampler, f(20)) / end_error(right[name], f(20)) for f in (even, karras, uneven)]
    print(f"{name:20}" + "".join(f"{order:10.2f}" for order in orders) + "    " + "".join(f"{x:8.1f}" for x in worse))

# %% [markdown]
# Heun with the wrong $\sigma$ fails everywhere. The other two are more instructive. On a grid that is even in $\lambda$ both are *exactly* ++2M, since $r = 1$, so a test on that grid passes. "v2" loses its
# order as soon as steps differ. And $r$ upside down keeps the order on every grid: its errors, proportional to $h^2 - h_-^2$, cancel between neighbours (on Karras's grid it is even nearer to the truth, by luck). **How to recognise it:** compare values with a second implementation, on an uneven grid. Order
# alone is not enough, and pictures are no test at all.

# %% [markdown]
# ## 6. The race: error and quality per network call
#
# Users pay for calls, so everything is now plotted against calls: the toy above, with its exact answer, the faces below. Samplers that draw noise have no single right end, so for all samplers together one must compare *laws*. For the toy that is
# $W_1$ to the exact quantiles (for a deterministic sampler that keeps the order of the points it is the mean error of the end points). For faces it is the sliced Wasserstein distance between the 7×7 patches of 16 samples and of 300 fresh faces that no network has drawn (chapter 02), in grey levels of 255. Samplers that follow the flow can also be
# compared picture by picture with where the flow ends.

# %%
RACERS = {
    "DDPM": ddpm,
    "analytic-DPM": analytic_dpm,
    "reverse SDE": reverse_sde,
    "DDIM": ddim,
    "Heun": heun,
    "DPM-Solver-2": dpm_solver_2,
    "PNDM": partial(pndm, start="lower_order"),
    "DEIS": deis,
    "++2M": dpm_solver_pp_2m,
    "UniPC": unipc,
}
crowd = (torch.arange(2000).double() + 0.5) / 2000
crowd_top, crowd_end = quantile(1.0, crowd), quantile(0.0, crowd)


def steps_for(name, calls):
    """How many steps end at 0 with that many calls (Heun and DPM-Solver-2: two calls a step, one for the last)."""
    return (calls + 1) // 2 if name in ("Heun", "DPM-Solver-2") else calls


def law_error(sampler, times, denoiser=exact):
    """W1 between where 2000 evenly placed starts end and the exact law."""
    return (last(sampler(denoiser, vp, crowd_top, times)).sort(0).values - crowd_end).abs().mean().item()


budgets, with_noise = [5, 10, 20, 40, 80, 160], ("DDPM", "analytic-DPM", "reverse SDE")
toy_race = {
    name: [
        law_error(sampler, karras_times(vp, steps_for(name, calls)))
        for calls in (budgets[:4] if name in with_noise else budgets)
    ]
    for name, sampler in RACERS.items()
}

# %% [markdown]
# For the faces each sampler gets 5 and 10 calls, DDPM also 20, on a grid even in $t$. Analytic-DPM measures its variances on 16 fresh faces first (section 8).

# %%
directions = F.normalize(torch.randn(147, 64, generator=torch.Generator().manual_seed(0)), dim=0)


def shadows(images):
    """All 7x7 patches (every third row and column) of the images, projected on 64 directions and sorted: (patches, 64)."""
    return (F.unfold(images.clamp(0, 1), 7, stride=3).transpose(1, 2).reshape(-1, 147) @ directions).sort(0).values


fresh = shadows(faces(300, seed=1).images)


def quality(images):
    """Sliced Wasserstein distance to fresh faces, in 255ths: `metrics.sliced_wasserstein`, with `fresh` sorted only once."""
    mine = shadows(images)
    places = (torch.arange(len(mine)) + 0.5) / len(mine) * len(fresh)
    return 255 * (mine - fresh[places.long()]).abs().mean().item()


def to_flow(images):
    """Root mean square distance, in 255ths, to where the flow takes the same noise."""
    return 255 * (images - flow_end).clamp(-1, 1).square().mean().sqrt().item()


def by_measure(denoiser, schedule, z, times):
    """Analytic-DPM as in the paper: variances from measured data, and at most two grey levels of noise at the end."""
    data = domain.encode(faces(16, seed=7).images)
    gammas = mean_square_eps(denoiser, schedule, data, times, standard_normal(4))
    return analytic_dpm(denoiser, schedule, z, times, gammas, largest=1.0, last_std=0.0197)


names = ("DDPM", "analytic-DPM", "DDIM", "Heun", "DEIS", "++2M", "UniPC")
plan = {name: [5, 10, 20] if name == "DDPM" else [5, 10] for name in names}
for name, spent in plan.items():
    for calls in spent:
        if (name, calls) not in drawn:
            sampler = by_measure if name == "analytic-DPM" else RACERS[name]
            drawn[name, calls] = draw(sampler, even_times(steps_for(name, calls)))
scores = {name: [quality(drawn[name, calls]) for calls in spent] for name, spent in plan.items()}
yardsticks = [quality(faces(16, seed=seed).images) for seed in (11, 12, 13, 14)]

# %%
followers = ("DDIM", "Heun", "DEIS", "++2M", "UniPC")
quiet = {name: (budgets, row) for name, row in toy_race.items() if name not in with_noise}
loud = {name: (budgets[:4], toy_race[name][:4]) for name in (*with_noise, "DDIM")}
paired = {name: (plan[name], [to_flow(drawn[name, calls]) for calls in plan[name]]) for name in followers}
judged = {name: (plan[name], scores[name]) for name in names}
real = sum(yardsticks) / len(yardsticks)


def told(rows):
    """First and last point of every line, in words."""
    return ", ".join(f"{name} {y[0]:.2g} at {x[0]} to {y[-1]:.2g} at {x[-1]} calls" for name, (x, y) in rows.items())


# The place decides the colour, and after seven they repeat: solvers that share one share no panel. "_" keeps a line out of the legend.
PLACES = ("DDIM", "DPM-Solver-2", "PNDM", "Heun", "DEIS", "++2M", "UniPC", "", "DDPM", "analytic-DPM", "reverse SDE")


def panel(rows, title, ylabel, line=None, logx=False):
    """Lines of error against calls, every sampler in its own colour, with a reference line."""
    return plots.curves(
        [],
        {name if name in rows else f"_{name}": rows.get(name, ([], [])) for name in PLACES},
        title=title,
        alt=told(rows),
        xlabel="calls",
        ylabel=ylabel,
        horizontal=line,
        logx=logx,
        logy=True,
        width=470,
        height=350,
    )


# %%
plots.strip(
    [
        panel(quiet, "Toy, along the flow: law", "$W_1$ to the exact law", logx=True),
        panel(loud, "Toy, with noise: law", "$W_1$ to the exact law", {"noise of 2,000 draws": 0.02}),
        panel(paired, "Faces: distance to the flow's end", "root mean square / 255"),
        panel(judged, "Faces: distance to fresh faces", "sliced $W_1$ / 255", {"16 real faces": real}),
    ],
    title="Per call: solvers that use their past lead, Heun starts badly, and a coarse measure is soon satisfied",
    alt=f"Four panels of error against calls. Toy, along the flow: {told(quiet)}. Toy, with noise: {told(loud)}. "
    f"Faces, distance to the end of the flow: {told(paired)}. Faces, distance to fresh faces: {told(judged)}; sixteen real faces have {real:.1f}.",
    caption="Four sets of 16 real faces have "
    + ", ".join(f"{value:.1f}" for value in yardsticks)
    + " in the last panel.",
    columns=2,
)

# %% [markdown]
# First panel: read the slopes. DDIM has one; Heun, DPM-Solver-2, ++2M and PNDM end near two, UniPC and DEIS (here with three $\hat\epsilon$) near three; and with five calls none of that is visible. Second panel: DDPM falls about as slowly as DDIM and stays above it; the reverse SDE is the worst of the random ones with five calls and better than DDIM from ten on.
# The best variance (section 8) helps most: with five calls analytic-DPM has 0.14, less than any deterministic solver. On faces that does not repeat itself: there both DDPMs are far behind. Third panel: DEIS leads and Heun trails again; ++2M and UniPC, no better than DDIM on the toy with ten calls, are clearly better here.
#
# Last panel: once a sampler is as near to fresh faces as sixteen *real* faces are, this measure cannot tell it from perfection. The multistep solvers are there with five calls, DDIM with ten, although section 1 shows that one of DDIM's ten-call faces has lost its hat. So the measure has run out, not the differences (four sets of real faces spread from 3.8 to 7.4). Trust the third panel, and the picture of section 1.
#
# Heun is the surprise. It pays two calls a step (and one for the last, so "10 calls" are five steps and 9 calls), so at equal cost its steps are twice as long, and a long step hurts it doubly. Say that its first guess lands $\delta$ away from the path. The second slope is then wrong by about $\delta/\rho_s$ where $\hat z_0$ hardly reacts to $z$ (far out, or within one bump), and by more between two bumps. Half of it is multiplied by the length $\rho_t - \rho_s$: an error of
# $\tfrac12(\rho_t/\rho_s - 1)\,\delta$. With few steps $\rho$ falls tenfold in one, and the correction makes things four and a half times worse.

# %%
plots.image_grid(
    torch.cat([drawn["Heun", 5][:6], drawn["Heun", 10][:6], flow_end[:6]]).clamp(0, 1),
    [name if i == 0 else "" for name in ("Heun: 5", "Heun: 9", "flow: 40") for i in range(6)],
    title="Heun with too few steps: colours that burn out",
    alt="Three rows of six faces. Heun with 5 calls: black, white and glaring blue or yellow, the shapes of the people barely left. Heun with 9 calls: the people of the last row, in colours too strong and with specks around the eyes. Last row: the flow with 40 calls, in soft colours.",
    caption="After each name: calls.",
    zoom=3,
    columns=6,
)

# %% [markdown]
# **How to recognise it:** colours that burn out at few steps and are fine at many. Heun wants 15 steps and more.
#
# <details><summary><b>Question.</b> ++2M and Heun have the same order. Why does ++2M need fewer calls for the same error in the end?</summary>
#
# The error of a second-order solver is $c\,h^2$ per unit of length. Per call ++2M has steps half as long, which makes $h^2$ four times smaller; its $c$ is larger since it extrapolates, but not four times. The order is the slope of the line, the constant and the calls per step are its height.
# </details>
#
# <details><summary><b>Question.</b> What would the last panel look like with a network of half the quality?</summary>
#
# All lines would level out higher, and with *fewer* calls: the worse the model, the earlier a better solver stops mattering.
# </details>
#
# ## 7. Where the steps should lie
#
# The flow knows no time, only $\rho$. A grid says how you spend your steps between $\rho = 150$ and nearly 0. Three common ones: even in $t$ (which means whatever the schedule makes of it), even in $\lambda$ (DPM-Solver), and
# Karras's, even in $\rho^{1/7}$ (→ Exercise 07.2). Ten calls on each:

# %%
GRIDS = {
    "even in $t$": even_times,
    "even in $\\lambda$": partial(log_snr_times, vp),
    "Karras": lambda n: karras_times(vp, n, sigma_min=0.01),
}
plots.scatter(
    {name: ((vp.log_snr(grid(10)[:-1]) / 2).tolist(), [row] * 10) for row, (name, grid) in enumerate(GRIDS.items())},
    title="Three ways to place ten steps",
    alt="Ten marks on each of three lines over half the log-SNR from -5 to 5. Even in t: long gaps at the ends, six of ten marks between -2.4 and 1, the last at 2.6. Even in lambda: equal gaps from -5 to 4.6. "
    "Karras: gaps that grow slowly from left to right.",
    xlabel="$\\lambda$ (noise on the left, data on the right)",
    ylabel="grid",
    names={name: [name] for name in GRIDS},
    joined=tuple(GRIDS),
    height=230,
)

# %%
on_toy, on_faces = {"DDIM": [], "++2M": []}, {"DDIM": [], "++2M": []}
for grid in GRIDS.values():
    for label, sampler in (("DDIM", ddim), ("++2M", dpm_solver_pp_2m)):
        on_toy[label].append(law_error(sampler, grid(10)))
        on_faces[label].append(to_flow(drawn[label, 10] if grid is even_times else draw(sampler, grid(10))))
results = (
    (on_toy, "Toy", "$W_1$ to the exact law", ".2f"),
    (on_faces, "Faces", "distance to the flow's end / 255", ".1f"),
)
plots.strip(
    [
        plots.bars(
            ["$t$", "$\\lambda$", "Karras"],
            rows,
            title=title,
            alt="; ".join(
                f"{label}: " + ", ".join(f"{value:{digits}}" for value in row) for label, row in rows.items()
            ),
            ylabel=ylabel,
            width=470,
            height=300,
        )
        for rows, title, ylabel, digits in results
    ],
    title="Error with ten calls: which grid is best depends on the data and on the solver",
    alt="Bars for grids even in t, even in lambda, and Karras's. "
    + " ".join(
        f"{title}, {label}: " + ", ".join(f"{value:{digits}}" for value in row) + "."
        for rows, title, _, digits in results
        for label, row in rows.items()
    ),
    columns=2,
)

# %% [markdown]
# On faces the grid even in $t$ is best for both solvers: most of its steps lie in the middle, $\rho$ between 10 and a half, where large shapes are decided, and it skips the last decade, where our small drawings have nothing left to decide. On the toy, whose bends lie later, the two solvers do not even agree with each other.
# Karras's power was tuned for Heun, photographs and more calls. **No grid is best for all data, and none for all solvers.** If the number of calls is fixed and small, trying three grids is the cheapest improvement that you will ever get. Section 11 lets a search do it.
#
# ## 8. When a higher order helps, and when it does not
#
# Orders are promises for small steps. At five calls no step is small. Here is DEIS with one to four values of $\hat\epsilon$ on the toy, and beside it ++2M and UniPC with a denoiser that is a little wrong, as every network is: it believes in bumps of shares 40:60 instead of 35:65, and 30 % too wide.

# %%
budget = [4, 6, 10, 20, 40, 80]
by_order = {f"{k} eps": [end_error(partial(deis, order=k), karras(n)) for n in budget] for k in (1, 2, 3, 4)}


believed = GaussianMixture(torch.tensor([0.4, 0.6]), toy.means, 1.3**2 * toy.covariances)  # 40:60, and 30 % too wide
mistaken = denoiser_for(believed, vp)
floor = (quantile(0.0, crowd, believed) - crowd_end).abs().mean().item()
saturated = {
    name: [law_error(sampler, karras_times(vp, n), mistaken) for n in budget]
    for name, sampler in (("DDIM", ddim), ("++2M", dpm_solver_pp_2m), ("UniPC", unipc))
}

# %%
plots.strip(
    [
        plots.curves(
            budget,
            by_order,
            title="DEIS with an exact denoiser",
            alt="Errors of four orders against steps.",
            xlabel="steps",
            ylabel="mean error",
            logx=True,
            logy=True,
            width=470,
            height=350,
        ),
        plots.curves(
            budget,
            saturated,
            title="A denoiser that is a little wrong",
            alt="Errors of three samplers with a wrong denoiser.",
            xlabel="steps",
            ylabel="$W_1$ to the data",
            horizontal={"the model's own error": floor},
            logx=True,
            logy=True,
            width=470,
            height=350,
        ),
    ],
    title="The fewer the steps, the less a higher order gains; and a wrong denoiser sets the floor",
    alt="Left: with 4 steps errors of orders one to four are "
    + ", ".join(f"{row[0]:.2f}" for row in by_order.values())
    + "; with 80 steps "
    + ", ".join(f"{row[-1]:.1e}" for row in by_order.values())
    + ". Right: with 4 and 80 steps "
    + ", ".join(f"{name} {row[0]:.2f} and {row[-1]:.3f}" for name, row in saturated.items())
    + ": ++2M and UniPC level out at the model's own error, DDIM just below it.",
    columns=2,
)

# %% [markdown]
# Left: with four steps two to four values do equally well, with six the fourth helps, with ten it does not: on so few steps it is luck, since a polynomial through answers that were taken far apart says little about the next step. From twenty on they keep their order. Right: beyond the point where the solver's error drops below the *model's*, more order and more steps buy nothing. With the wrong denoiser DDIM is the nearest of the three from ten steps on. (It even dips below the line: its clouds are a little too narrow, which happens to make up for bumps that are too wide. Do not count on it.) That is why two is the order that most people use, and why ten to twenty calls are where most people stop.
#
# ### With noise: choose the variance
#
# On the toy DDPM's law with ten steps is poor. Part of the reason is its noise. Ancestral sampling draws $z_s$ from a Gaussian with the right mean, but given only $z_t$ (and not $z_0$), the variance is larger than DDPM's $\tilde\beta$: what the denoiser does not know about $z_0$ comes on top.
# With $\tau = 1 - (\alpha_t\sigma_s/\alpha_s\sigma_t)^2$ the mean holds $\alpha_s\tau\,\hat z_0$, so
#
# $$v = \underbrace{\sigma_s^2\,\tau}_{\tilde\beta} + (\alpha_s\tau)^2\,\operatorname{Var}[z_0 \mid z_t], \qquad \operatorname{Var}[z_0 \mid z_t] = \frac{\sigma_t^2}{\alpha_t^2}\,\big(1 - \bar\gamma\big), \quad \bar\gamma = \mathbb E\,\hat\epsilon^2 \text{ per dimension}.$$
#
# Why $1 - \bar\gamma$? The true $\epsilon$ has variance 1; the part that the denoiser predicts has variance $\bar\gamma$; the rest it does not know. And $z_0 = (z - \sigma_t\epsilon)/\alpha_t$ turns one into the other. This is **Analytic-DPM** (arXiv:2201.06503, → Exercise 07.5). For Gaussian data of one variance, $N(\mu, vI)$, it must be exact for *any* number of steps, a test that
# no approximate formula survives:

# %% tags=["nbval-check-output"]
bell = Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double())
bell_denoiser, one = denoiser_for(bell, vp), torch.empty(1, 1, dtype=torch.float64)
step_counts = [2, 3, 4, 6, 8, 12, 16, 24, 32]


def variance_out(sampler, n):
    """The exact variance of what a sampler puts out, started from the true law at t = 1."""
    spread = (0.25 * vp.alpha(1.0) ** 2 + vp.sigma(1.0) ** 2).sqrt()
    run = lambda noise: last(sampler(bell_denoiser, vp, spread * noise(one), log_snr_times(vp, n), noise=noise))  # noqa: E731
    return affine_law(run, 1)[1].item()


ways = {
    "$\\tilde\\beta$ (DDPM)": ddpm,
    "$\\beta$ (DDPM)": partial(ddpm, variance="beta"),
    "none (DDIM)": ddim,
    "best (analytic)": analytic_dpm,
}
put_out = {name: [variance_out(sampler, n) for n in step_counts] for name, sampler in ways.items()}
assert_close(torch.tensor(put_out["best (analytic)"]), torch.full((9,), 0.25))
print("variances for 2 steps:", {name: round(row[0], 3) for name, row in put_out.items()})

# %%
plots.curves(
    step_counts,
    put_out,
    title="The best variance is exact for Gaussian data with any number of steps",
    alt="Variance of the samples against the number of steps from 2 to 32, exact value 0.25. "
    + " ".join(f"{name.replace('$', '')}: {row[0]:.3f} to {row[-1]:.3f}." for name, row in put_out.items()),
    xlabel="steps",
    ylabel="variance of the samples",
    horizontal={"data": 0.25},
    height=330,
)

# %% [markdown]
# With the best variance all points lie on the line. The toy is no Gaussian, so there it is not exact, but in the race its error with five to twenty calls is a fraction of DDPM's. For the faces it gains nothing (13 against 13 with ten calls); one variance for all pixels may be too coarse. The library also knows `adaptive_sde` (arXiv:2105.14080), which
# chooses its own step lengths. It takes hundreds of calls, and since it draws a refused step anew its law is biased in few dimensions, which is why the toy's race runs without it.
#
# <details><summary><b>Question.</b> Why draw noise at all, when the deterministic solvers need so much fewer calls?</summary>
#
# Chapter 06, section 7: fresh noise washes out early errors of the score. With a weak model and many calls, samplers with noise end up nearer to the data; EDM's Heun can add just a little (`s_churn`). With few calls it depends on the variance and on the data: see the second and the fourth panel of section 6.
# </details>
#
# ## 9. Teach a network to jump
#
# A solver follows the flow; below about five calls it has to guess. Only training helps further: a **student** that learns where the teacher's many steps end. Take a plane with five blobs, whose exact denoiser is the teacher. With one call, $\hat z_0 = \mathbb E[z_0 \mid z_1]$, the teacher can only say "in the middle".

# %%
angles = torch.arange(5).double() * 2 * math.pi / 5 + math.pi / 2
blobs = GaussianMixture(
    torch.ones(5), 1.3 * torch.stack([angles.cos(), angles.sin()], 1), 0.12**2 * torch.eye(2).double().expand(5, 2, 2)
)
teacher = denoiser_for(blobs, vp)
plane_start = standard_normal(5)(torch.empty(1000, 2, dtype=torch.float64))
plane_end = last(dpm_solver_pp_2m(teacher, vp, plane_start, log_snr_times(vp, 60)))


def plane_w1(z, other=plane_end):
    """Sliced W1 between two clouds of 1000 points, over 32 directions."""
    turn = torch.arange(32).double() * math.pi / 32
    rays = torch.stack([turn.cos(), turn.sin()])
    return ((z @ rays).sort(0).values - (other @ rays).sort(0).values).abs().mean().item()


class Small(nn.Module):
    """A network for the plane, called like an image network: (u (B, 2), level (B,), cond)."""

    def __init__(self):
        super().__init__()
        sizes = (8, 128, 128, 128)
        hidden = [layer for a, b in zip(sizes[:-1], sizes[1:], strict=True) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(128, 2))

    def forward(self, u, level, cond=None):
        waves = [f(k * level) for k in (1, 2, 5) for f in (torch.sin, torch.cos)]
        return self.layers(torch.cat([u, torch.stack(waves, 1)], 1))


# %% [markdown]
# ### Progressive distillation
#
# Salimans and Ho (arXiv:2202.00512) halve the number of steps, and halve again. The student at $t$ shall do in *one* DDIM step to $s$ what the teacher does in two, $t \to m \to s$. The teacher's steps end at some $z_s$. Which $\tilde z_0$ would a single DDIM step have needed? Solve it for $\tilde z_0$ (→ Exercise 07.6):
#
# $$z_s = \alpha_s\tilde z_0 + \frac{\sigma_s}{\sigma_t}(z_t - \alpha_t\tilde z_0) \qquad\Longrightarrow\qquad \tilde z_0 = \frac{z_s - (\sigma_s/\sigma_t)\,z_t}{\alpha_s - (\sigma_s/\sigma_t)\,\alpha_t} .$$
#
# Train the student on $\lVert \hat z_0(z_t, t) - \tilde z_0\rVert^2$. Then the student is the next teacher. No data are needed beyond the states $z_t$ at which to ask.


# %%
def my_target(teacher, schedule, z, t, m, s):
    """The z_0 with which one DDIM step from t to s lands where the teacher's two steps land; t, m, s are (B,)."""
    z_m = ddim_step(z, teacher(z, t), schedule, t, m)
    z_s = ddim_step(z_m, teacher(z_m, m), schedule, m, s)
    alpha_t, sigma_t, alpha_s, sigma_s = (f(x)[:, None] for x in (t, s) for f in (schedule.alpha, schedule.sigma))
    return (z_s - sigma_s / sigma_t * z) / (alpha_s - sigma_s / sigma_t * alpha_t)


t, s = torch.tensor([1.0, 0.8, 0.4, 0.25]).double(), torch.tensor([0.5, 0.4, 0.1, 0.0]).double()
z = forward_step(blobs.sample(4, standard_normal(1)), vp, 0.0, t, standard_normal(2))
z_0 = my_target(teacher, vp, z, t, (t + s) / 2, s)
assert_close(z_0, distillation.progressive_target(teacher, vp, z, t, s))
z_m = ddim_step(z, teacher(z, t), vp, t, (t + s) / 2)
assert_close(ddim_step(z, z_0, vp, t, s), ddim_step(z_m, teacher(z_m, (t + s) / 2), vp, (t + s) / 2, s))
print("one DDIM step with the target = two of the teacher; equal to the library")

# %% [markdown]
# Train it: eight steps become four, four become two, two become one, with 250 updates each. (`trainable` wraps a network like `NetworkDenoiser`, but lets gradients reach the weights.)


# %%
def minimise(network, loss, steps, after=lambda: None):
    """Adam with a rising and falling learning rate on loss(); after() runs behind every update."""
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        rate.step()
        after()


def batch(n, source, generator):
    """256 states at random knots of a grid of n steps, their times, and the times one step on."""
    knots, k = torch.linspace(1, 0, n + 1).double(), torch.randint(0, n, (256,), generator=generator)
    z = forward_step(blobs.sample(256, source), vp, 0.0, knots[k], source)
    return z, knots[k], knots[k + 1]


torch.manual_seed(0)
generator, source = torch.Generator().manual_seed(1), standard_normal(2)
now, halved, network = teacher, {}, Small()
for n in (4, 2, 1):

    def loss(n=n, now=now):
        z, t, s = batch(n, source, generator)
        with torch.no_grad():
            target = distillation.progressive_target(now, vp, z, t, s)
        weight = vp.log_snr(t).exp().clamp(1, 100)[:, None]  # max(SNR, 1), as in the paper, but not without bound
        return (weight * (distillation.trainable(network, vp)(z, t) - target) ** 2).mean()

    minimise(network, loss, 250)
    now = NetworkDenoiser(copy.deepcopy(network), schedule=vp)
    halved[n] = last(ddim(now, vp, plane_start, torch.linspace(1, 0, n + 1).double()))

# %% [markdown]
# ### Consistency distillation
#
# Song et al. (arXiv:2303.01469) train one network $f(z_t, t)$ for all times at once, on one property: **two points of the same path have the same end**. So $f$ at $(z_t, t)$ shall equal $f$ one teacher's step later at $(z_s, s)$,
#
# $$f(z_t, t) \approx f^-(z_s, s), \qquad f(z, 0) = z .$$
#
# $f^-$ is a slowly following average of $f$ (an exponential moving average), through which no gradient goes. The second condition, the *boundary*, is the only place where truth enters: without it, $f = 0$ would be perfectly consistent. `trainable` has it built in, since at $\sigma_t = 0$ its answer is $z$ whatever the network says.
# For one Gaussian $N(\mu, v)$ the ideal $f$ is known: chapter 06's flow rescales, so in the coordinates $y$ it is $f = \mu + \sqrt{v/(v + \rho^2)}\,(y - \mu)$.
#
# To sample with more than one call, jump to $z_0$, add *fresh* noise of a lower level, and jump again (→ Exercise 07.7).

# %%
torch.manual_seed(0)
network = Small()
average = copy.deepcopy(network)
f, f_minus = (distillation.trainable(each, vp) for each in (network, average))


def consistency():
    """The squared difference of the answers at both ends of a teacher's step; the step is made of three DDIM steps."""
    z, t, s = batch(4, source, generator)
    with torch.no_grad():
        later, at = z, t
        for i in range(3):
            to = t + (s - t) * (i + 1) / 3
            later, at = ddim_step(later, teacher(later, at), vp, at, to), to
        # f(z, 0) = z; written out because the network wants t > 0
        target = torch.where((s > 0)[:, None], f_minus(later, s.clamp(min=1e-3)), later)
    return (f(z, t) - target).square().sum(1).mean()


def follow():
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
            slow.lerp_(fast, 0.05)


minimise(network, consistency, 500, follow)
jumper = NetworkDenoiser(network, schedule=vp)
jumped = {}
for n in (1, 2, 4):
    knots = torch.linspace(1, 0, n + 1).double()
    jumped[n] = last(distillation.consistency_sample(jumper, vp, plane_start, knots, standard_normal(9)))

# %%
ticks = torch.linspace(-2.1, 2.1, 60).double()
plane = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
ground = blobs.log_prob(plane).exp().reshape(60, 60)
clouds = {}
for n in (1, 2, 4):
    clouds[f"teacher, {n}"] = last(ddim(teacher, vp, plane_start, torch.linspace(1, 0, n + 1).double()))
clouds |= {f"halved, {n}": z for n, z in sorted(halved.items())} | {f"consistency, {n}": z for n, z in jumped.items()}


def cloud(name, z, size=230, end=plane_end):
    """A cloud over the exact density, its distance to the flow's end in the title."""
    distance = plane_w1(z, end)
    return plots.density_2d(
        ticks,
        ticks,
        {"": ground},
        title=f"{name}: {distance:.2f}",
        alt=f"A cloud of points over five blobs: {name}, sliced W1 {distance:.2f}.",
        points={"_": z[:400]},
        xlabel="",
        ylabel="",
        width=size,
        height=size,
    )


def in_blobs(z):
    """The share of the points within three standard deviations of a blob's centre."""
    return ((z[:, None] - blobs.means).norm(dim=-1).min(1).values < 3 * 0.12).double().mean().item()


print("share of the points in a blob: " + ", ".join(f"{name} {in_blobs(z):.2f}" for name, z in clouds.items()))
print(f"at the end of the flow: {in_blobs(plane_end):.2f}")
plots.strip(
    [cloud(name, z, 270) for name, z in clouds.items()],
    title="With one call the teacher hits the middle; the students reach the ring, and about half of their points the blobs",
    alt="Nine squares with five blobs in a ring. Teacher by DDIM with 1, 2, 4 calls: a dot in the middle, a small pentagon, a larger one. Progressively halved student with 1, 2, 4 calls: points in the blobs, on the lines between neighbouring blobs, and some inside the ring. "
    "Consistency student with 1, 2, 4 calls: the same kinds of points. Sliced W1 to the end of the flow: "
    + ", ".join(f"{name} {plane_w1(z):.2f}" for name, z in clouds.items())
    + ".",
    caption=f"Numbers: sliced W1 to where the flow ends. The teacher with 8 calls: {plane_w1(last(ddim(teacher, vp, plane_start, torch.linspace(1, 0, 9).double()))):.2f}.",
    columns=3,
)

# %% [markdown]
# The halved students with one, two and four calls are equally good: halving loses hardly anything. What they lose, they lose at first, when a small network learns the exact teacher's eight DDIM steps, and no student is better than those: *its teacher's errors are its truth*. Points between the blobs are the price of a smooth network for a map that tears a disc into five pieces.
# The consistency student is about as good. Its second and fourth call bring some more points into the blobs and change the distance little, since the fresh noise gives every point a new chance to be right or wrong.
#
# <details><summary><b>Question.</b> What would happen without the stop of the gradient, if the loss pulled at both ends alike?</summary>
#
# The loss could be lowered by moving the *later* answer towards the earlier one, although the later one is nearer to the truth. Both would meet in the middle, and training tends towards answers that vary too little.
# </details>
#
# ### The faces
#
# The shipped student `faces-distilled-32` started as a copy of the network of section 1 and was trained in under an hour on one core. Its recipe is the plainest of all, in the spirit of Luhman and Luhman (arXiv:2101.02388): follow the teacher's flow from noise to its end with ++2M, and teach the student to name the end from any point of the path. So it is a consistency
# model, whose targets are the teacher's ends rather than its own later answers. Below, the same noise in every row: the teacher with ++2M, and the student, with one, two and four calls.

# %%
trio = {}
for n in (1, 2, 4):
    trio["teacher", n] = draw(dpm_solver_pp_2m, torch.linspace(1, 0, n + 1).double())
for n in (1, 2, 4):
    trio["student", n] = drawn["student", 1] if n == 1 else student_draws(n)
plots.image_grid(
    torch.cat([*[images[:6] for images in trio.values()], flow_end[:6]]).clamp(0, 1),
    [f"{name}: {n} ({quality(images):.1f})" if i == 0 else "" for (name, n), images in trio.items() for i in range(6)]
    + [f"flow: 40 ({quality(flow_end):.1f})", *[""] * 5],
    title="One, two, four calls: the teacher cannot jump, the student can",
    alt="Seven rows of six faces. Teacher with one call: six nearly equal blurred mean faces; with two: ghosts of faces; with four: faces, soft and with errors. Student with one call: the people of the last row, soft in detail; with two and four calls some turn into other people. Last row: the end of the flow. "
    "Distances to fresh faces: "
    + ", ".join(f"{name} with {n} calls {quality(images):.1f}" for (name, n), images in trio.items())
    + f", flow {quality(flow_end):.1f}.",
    caption="Calls, and in brackets sliced W1 of 16 samples to fresh faces, in 255ths.",
    zoom=3,
    columns=6,
)

# %% [markdown]
# Look at the same column in the student's first row and in the last row: skin, hair and background agree, if not every hat, because the student has learnt the teacher's own map. With more calls its faces drift away from that column, since fresh noise comes in, so they become other people. Whether better ones, sixteen cannot say: the numbers in brackets are all within what sixteen real faces have (section 6) and prove nothing by themselves. A larger sample settles it: with 1,024 faces (`benchmarks/samplers.py --cards`, in the weights' card) the student has 3.8, 3.1 and 2.4 in one, two and four calls, against 1.13 for fresh faces. Two costs do not show in the picture: the training, and that this network can do nothing else. It knows
# no score between its jumps, so the guidance of later chapters, which bends the path on the way, finds no path to bend.
#
# ## 10. Start late
#
# In super-resolution something is known from the start: an enlarged LR image. Noise it to a time $t_0 < 1$ and run the sampler from there; the steps from 1 to $t_0$ are saved. This is CCDF's idea, "come closer, diffuse faster" (arXiv:2112.05146); chapter 06 used it on a photo. How late may one start? Suppose the guess is off by $\delta$. For Gaussian
# data of variance $v_0$ the flow shrinks the offset $\alpha_{t_0}\delta$ by $\sqrt{v_0/v_{t_0}}$, with $v_t = \alpha_t^2 v_0 + \sigma_t^2$ (chapter 06), and the SDE by another factor $q$, where
#
# $$q = \alpha_{t_0}\sqrt{v_0/v_{t_0}} < 1: \qquad \text{flow: } \delta \to q\,\delta, \qquad \text{SDE or DDPM: } \delta \to q^2\,\delta .$$

# %% tags=["nbval-check-output"]
for t_0 in (0.2, 0.4, 0.7):
    start_alpha, start_variance = vp.alpha(t_0), 0.25 * vp.alpha(t_0) ** 2 + vp.sigma(t_0) ** 2
    q = (start_alpha * (0.25 / start_variance).sqrt()).item()
    moved = distillation.truncated_start(
        torch.ones(1, 1).double(), vp, t_0, torch.zeros_like
    )  # a guess that is off by 1
    grid = karras_times(vp, 150, t_max=t_0)
    by_flow = last(heun(bell_denoiser, vp, moved, grid)).item()
    by_noise = last(ddpm(bell_denoiser, vp, moved, grid, noise=torch.zeros_like)).item()
    assert abs(by_flow - q) < 0.01 and abs(by_noise - q**2) < 0.01
    print(
        f"t_0 = {t_0}: q = {q:.3f}, left by the flow {by_flow:.3f}, by DDPM on average {by_noise:.3f} (q^2 = {q**2:.3f})"
    )

# %% [markdown]
# A late start keeps the guess, errors included; an early one forgets it. On faces: the guess is an 8×8 image enlarged to 32×32, and the step length is that of 16 calls from $t = 1$, so a start at $t_0$ costs $16\,t_0$ calls.

# %%
known = faces(6, seed=21).images
guess = resize(F.avg_pool2d(known, 4), 4).clamp(0, 1)
started, away = {"original": known, "guess: 0": guess}, {}
for t_0 in (0.125, 0.25, 0.5):
    z = distillation.truncated_start(domain.encode(guess), vp, t_0, standard_normal(6))
    grid = uniform_times(int(16 * t_0), t_max=t_0, t_min=0.02)
    started[f"from {t_0}: {len(grid) - 1}"] = draw(dpm_solver_pp_2m, grid, z)
for name, images in started.items():
    away[name] = 255 * (images.clamp(0, 1) - known).square().mean().sqrt().item()
plots.image_grid(
    torch.cat(list(started.values())).clamp(0, 1),
    [f"{name} ({away[name]:.0f})" if i == 0 else "" for name in started for i in range(6)],
    title="The later the start, the cheaper, and the more of the guess survives, blur included",
    alt="Five rows of six faces: originals; blurred guesses; results from start times 0.125, 0.25 and 0.5. "
    + " ".join(f"{name}: {value:.0f} grey levels from the original." for name, value in away.items())
    + " From 0.125 faces are soft but theirs; from 0.25 they are sharp, with invented details such as glasses; from 0.5 some are other people in the same colours.",
    caption="Start time: calls, and in brackets the root mean square distance to the original, in 255ths.",
    zoom=3,
    columns=6,
)

# %% [markdown]
# From 0.125, two calls make the guess sharper and even a little truer (19 grey levels instead of 20). From there on, sharper means farther from the truth (24, then 38): the trade between perception and distortion of chapter 02 once more. For a sampler that also *looks* at the LR image at every step, see chapters 09 and 13.
#
# ## 11. Search the schedule
#
# Which $n$ of many times are the best? There are $\binom{39}{9}$, over 200 million, ways to choose 9 out of 39 times, but if the costs of single steps just add up, dynamic programming finds the best path by $n$ sweeps of additions and minima, $nT^2$ in all, here about 17,000 (Watson et al., arXiv:2106.03802, with the terms of the ELBO as costs; → Exercise 07.8). Let $C_k(j)$ be the cost of the
# cheapest path of $k$ steps from the start to time $j$. Then
#
# $$C_k(j) = \min_{i < j}\,\big[\,C_{k-1}(i) + \text{cost}(i \to j)\,\big] .$$
#
# And the costs? Let a path be known at many times, and the denoiser's answer with it: for the toy from its quantiles, for the faces from the trajectory of section 1. Then the error of a DDIM step from any $t_i$ to any $t_j$, compared with where the path really goes, needs **no further call at all**.


# %%
def my_search(cost, n):
    """Indices (n + 1,) of the cheapest path of n steps from the first to the last time; cost (T, T), infinite backwards."""
    best, came = torch.full((len(cost),), math.inf).to(cost), []
    best[0] = 0
    for _ in range(n):
        best, origin = (best[:, None] + cost).min(0)
        came.append(origin)
    path = [len(cost) - 1]
    for origin in reversed(came):
        path.append(origin[path[-1]].item())
    return torch.tensor(path[::-1])


def step_costs(states, answers, times):
    """Root mean square error of one DDIM step from every time to every later one; infinite backwards."""
    cost = torch.full((len(times), len(times)), math.inf, dtype=torch.float64)
    for i in range(len(times) - 1):
        for j in range(i + 1, len(times)):
            step = ddim_step(states[i], answers[i], vp, times[i], times[j])
            cost[i, j] = (step - states[j]).square().mean().sqrt()
    return cost


toy_times = log_snr_times(vp, 40)
toy_path = [quantile(t) for t in toy_times]
toy_cost = step_costs(toy_path, [exact(z, t) for z, t in zip(toy_path[:-1], toy_times[:-1], strict=True)], toy_times)
face_times = torch.stack([state.t for state in flow_path])
face_cost = step_costs([state.z for state in flow_path], [state.z_0 for state in flow_path], face_times)
found = {}
for name, cost, times in (("toy", toy_cost, toy_times), ("faces", face_cost, face_times)):
    for n in (5, 10):
        path = my_search(cost, n)
        assert torch.equal(path, distillation.best_times(cost, n)[0])
        found[name, n] = times[path]
        print(f"{name:5} {n:2} steps:", ", ".join(f"{t:.2f}" for t in times[path].tolist()))

# %%
newcomers = standard_normal(12)(torch.empty(6, 3, 32, 32))
there = draw(dpm_solver_pp_2m, even_times(20), newcomers)


def miss(times):
    """Distance of DDIM's faces to the end of the flow, for noise that the search has not seen."""
    return 255 * (draw(ddim, times, newcomers) - there).clamp(-1, 1).square().mean().sqrt().item()


tried = {"even in $t$": even_times, "even in $\\lambda$": partial(log_snr_times, vp)}
on_toy = {name: [law_error(ddim, grid(n)) for n in (5, 10)] for name, grid in tried.items()}
on_toy["searched"] = [law_error(ddim, found["toy", n]) for n in (5, 10)]
on_faces = {name: [miss(grid(n)) for n in (5, 10)] for name, grid in tried.items()}
on_faces["searched"] = [miss(found["faces", n]) for n in (5, 10)]
plots.strip(
    [
        plots.bars(
            ["5 calls", "10 calls"],
            rows,
            title=title,
            alt=f"{title}: errors of DDIM on three grids with 5 and with 10 calls.",
            ylabel=ylabel,
            width=470,
            height=320,
        )
        for rows, title, ylabel in (
            (on_toy, "Toy", "$W_1$ to the exact law"),
            (on_faces, "Faces", "distance to the flow's end / 255"),
        )
    ],
    title="DDIM on a searched schedule: far better on the toy, and on faces nearly as good as the best grid tried",
    alt="Errors of DDIM with 5 and 10 calls. Toy: "
    + "; ".join(f"{name.replace('$', '')} {row[0]:.2f} and {row[1]:.2f}" for name, row in on_toy.items())
    + ". Faces: "
    + "; ".join(f"{name.replace('$', '')} {row[0]:.1f} and {row[1]:.1f}" for name, row in on_faces.items())
    + ".",
    columns=2,
)

# %% [markdown]
# On the toy the search, without any hint, spends its steps where the paths bend, and beats the grids tried by far. On faces it finds by itself what we had to try: its grid is even in $t$ between 0.6 and 0.2, with one long first step, and no better. (The candidates were even in $t$.) It is optimal only for the cost that it was given, errors of single steps that simply add; in truth they are carried on by the flow, grow and cancel. Watson et al.
# choose costs that add exactly, the terms of the ELBO. Their schedules are the best for the likelihood, which is not the same as the best for pictures (chapter 08).
#
# ## 12. Choose
#
# First play. The explorer races four samplers on the five blobs, from the same 1,000 points of noise (400 are drawn); the number is the sliced $W_1$ to the end of the flow. Find for every sampler the least number of calls at which it is below 0.05, and the grid that helps it most.

# %%
runners = {"DDIM": ddim, "Heun": heun, "++2M": dpm_solver_pp_2m, "DDPM": ddpm}
lanes = {
    "even in t": even_times,
    "even in log-SNR": partial(log_snr_times, vp),
    "Karras": lambda n: karras_times(vp, n, sigma_min=0.01),
}


def draw_race(calls, grid="even in log-SNR", seed=5):
    """Where four samplers carry the same noise with so many calls."""
    start = standard_normal(seed)(torch.empty(1000, 2, dtype=torch.float64))
    end = last(dpm_solver_pp_2m(teacher, vp, start, log_snr_times(vp, 40)))
    ends = {
        name: last(sampler(teacher, vp, start, lanes[grid](steps_for(name, calls))))
        for name, sampler in runners.items()
    }
    return plots.strip(
        [cloud(name, z, end=end) for name, z in ends.items()],
        title=f"{calls} calls, {grid}",
        alt=f"Four clouds with {calls} calls on a grid {grid}; sliced W1: "
        + ", ".join(f"{name} {plane_w1(z, end):.2f}" for name, z in ends.items())
        + ".",
        columns=4,
    )


widgets.explorer(draw_race, calls=(3, 41, 2, 9), grid=list(lanes), seed=(1, 9, 1, 5))

# %%
widgets.frames(
    draw_race,
    [{"calls": 5}, {"calls": 11}, {"calls": 31}],
    title="The race at 5, 11 and 31 calls",
    alt="Three rows of four clouds over five blobs. With 5 calls DDIM and DDPM fall short of the blobs, ++2M scatters around them, and all but one of Heun's points are outside the picture. With 11 calls DDIM, ++2M and DDPM are in the blobs, Heun's points form larger rings outside. "
    "With 31 calls all four are in the blobs.",
    columns=1,
)

# %% [markdown]
# An honest table, from this chapter's measurements and the papers named:
#
# | you have | take | because | beware |
# |---|---|---|---|
# | 1 to 4 calls | a distilled student | no solver can jump (1,024 faces, four calls: student 2.4, teacher 12.6) | it costs a training, loses detail, cannot be guided on the way, and pays only below eight calls: the teacher's eight (++2M, even in $\lambda$) have 1.5 |
# | 5 to 10 calls | DEIS, ++2M or UniPC, and try three grids | one call a step, order two to three | on a bad grid no better than DDIM (toy, 10 calls) |
# | 10 to 25 calls | ++2M, UniPC or DEIS | for our faces beyond ten calls nothing more can be seen | higher orders than 2 or 3 add risk, hardly quality |
# | 30 to 80 calls | Heun (EDM), or the same as above | no history: easy to combine with guidance and with changes on the way | with few steps it explodes |
# | hundreds, and a weak model | DDPM with the best variance, Heun with churn, an SDE | fresh noise repairs errors of the score | on our faces with 5 to 20 calls far behind the solvers; on the toy the best variance was best with 5 |
# | to invert, or to compare solvers | DDIM or Heun on the flow | deterministic, ends nowhere else | |
# | a good first guess | start at $t_0 < 1$ | saves the share $1 - t_0$ of the calls | keeps the guess's errors |
# | any of these, a fixed small budget | three grids, or a searched schedule | one fine trajectory is all the search needs | optimal for its cost only |
#
# If you want to remember one line: **++2M, 15 steps, a grid that you have tried.** Sixteen faces are few; `benchmarks/samplers.py` repeats the race with many more, in seconds as well as in calls, and beside the schedulers of diffusers.
#
# > **Common mistakes**
# >
# > - A "previous index" $t - T/n$ on a grid that is not evenly spaced: the step ends where the next one does not start. Name both ends of a step.
# > - The second slope divided by the first $\sigma$; $r$ upside down; both pass as "second-order" pictures (section 5).
# > - A second-order step to $\sigma = 0$: the logarithm is infinite and the image NaN.
# > - Testing a solver on a grid even in $\lambda$ only.
# > - $\hat\epsilon$ kept after $\hat z_0$ was clipped: the two must belong together.
# > - Comparing samplers by steps instead of calls.
# > - $t$ and the middle time swapped in the target of a distillation (diffusers, pull request 1010, had the times exchanged).
# > - A consistency loss whose target gets a gradient, or whose boundary is forgotten.
#
# > **In the papers**
# >
# > - DDIM (arXiv:2010.02502) reports samples of high quality 10 to 50 times faster than DDPM's thousand steps.
# > - EDM (arXiv:2206.00364): Heun on the grid of section 7, FID 1.97 on unconditional CIFAR-10 with 35 calls; for ImageNet-64 it adds churn and takes 256 steps.
# > - DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095): exact linear part, and $\hat z_0$ instead of $\hat\epsilon$ so that guidance does not blow up.
# > - UniPC (arXiv:2302.04867), DEIS (arXiv:2204.13902), PNDM (arXiv:2202.09778): sections 4 and 5. Luhman and Luhman (arXiv:2101.02388) distilled all of DDIM into a single step.
# > - Watson et al. (arXiv:2106.03802): searched schedules of 32 steps lose less than 0.1 bits per dimension against 4,000 steps on ImageNet-64.
# > - Truncation: ES-DDPM (arXiv:2205.12524) and TDPM (arXiv:2202.09671) start at $t_0$ from another generator's samples.
#
# > **Going further**
# >
# > - DDSS (arXiv:2202.05830) learns the schedule by gradient descent through the sampler.
# > - What is the cost of a step when it is the ELBO's term? Chapter 08.

# %% [markdown]
# ## Recap
#
# 1. **Measure:** error against calls, on a toy with an exact answer; the order is a solver's fingerprint, on an uneven grid, together with values.
# 2. **Derive:** $dy = \hat\epsilon\,d\rho$. DDIM holds $\hat\epsilon$; Heun averages, DPM-Solver-2 takes the middle, ++2M extrapolates $\hat z_0$ by half a step.
# 3. **Place:** steps belong where $\hat\epsilon$ bends, and that depends on the data. "2M v2" loses its order where steps differ.
# 4. **Judge:** high orders pay only once steps are short, and never below the model's own error; where noise is drawn, choose its variance.
# 5. **Distil:** halving solves a DDIM step for its target; consistency wants one end per path and needs its boundary.
# 6. **Save:** start late from a guess, which contracts its error by $q$ (flow) or $q^2$ (SDE); search the schedule from one trajectory.
# 7. **Recommend:** the table above, with its column of warnings.
#
# Next: what a diffusion model thinks of an image, in bits.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, arXiv:2010.02502.
# - Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*, arXiv:2206.00364.
# - Lu et al., *DPM-Solver*, arXiv:2206.00927, and *DPM-Solver++*, arXiv:2211.01095.
# - Zhao et al., *UniPC*, arXiv:2302.04867. Zhang, Chen, *DEIS*, arXiv:2204.13902. Liu et al., *PNDM*, arXiv:2202.09778.
# - Bao et al., *Analytic-DPM*, arXiv:2201.06503. Jolicoeur-Martineau et al., *Gotta Go Fast*, arXiv:2105.14080.
# - Luhman, Luhman, *Knowledge Distillation in Iterative Generative Models*, arXiv:2101.02388. Salimans, Ho, *Progressive Distillation*, arXiv:2202.00512. Song et al., *Consistency Models*, arXiv:2303.01469.
# - Watson et al., *Learning to Efficiently Sample from Diffusion Probabilistic Models*, arXiv:2106.03802, and DDSS, arXiv:2202.05830.
# - Chung, Sim, Ye, *Come-Closer-Diffuse-Faster* (CCDF), arXiv:2112.05146. Lyu et al., ES-DDPM, arXiv:2205.12524. Zheng et al., TDPM, arXiv:2202.09671.
