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
# # Solutions 07: Efficient sampling
#
# Eight functions, from one step of DDIM to a searched schedule. Write a few lines, run the cell, run the check below it: it draws fresh inputs and
# answers in one line. They belong to [chapter 07](../notebooks/07_efficient_sampling.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# States are float64 tensors with the batch first. A `schedule` has `alpha(t)`, `sigma(t)` and `log_snr(t)`; a `denoiser(z, t)` returns $\mathbb E[z_0 \mid z_t = z]$; `noise(z)` gives
# standard normal numbers shaped like `z`.

# %%
import math

import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, convergence_order, denoiser_for
from tutorial_lib.samplers import ddim, dpm_solver_pp_2m, heun, last
from tutorial_lib.schedules import karras_times, log_snr_times, uniform_times, vp_linear
from tutorial_lib.steps import ddim_step

vp = vp_linear()

# %% [markdown]
# ## Exercise 07.1: One step of DDIM (warm-up)
#
# `z` (B, D) is a state at time $t$ and `z_0` (B, D) the denoiser's answer there. The other four arguments are numbers. Return the state at time $s$ that holds the same $\hat z_0$ and the same $\hat\epsilon$.


# %%
def my_ddim_step(z, z_0, alpha_t, sigma_t, alpha_s, sigma_s):
    """The state (B, D) at time s."""
    ### BEGIN SOLUTION
    eps = (z - alpha_t * z_0) / sigma_t
    return alpha_s * z_0 + sigma_s * eps
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.1", my_ddim_step)

# %% [markdown] tags=["solution"]
# Nothing in it says that $s < t$. With $s > t$ the same line walks towards noise; that is DDIM inversion.

# %% [markdown]
# ## Exercise 07.2: Karras's grid
#
# Return n noise levels $\rho$ that fall from `rho_max` to `rho_min`, both included, evenly spaced in $\rho^{1/p}$ with $p$ = `power`, and then a 0: a float64 tensor (n + 1,).


# %%
def karras_levels(rho_max, rho_min, n, power):
    """Falling noise levels, then 0: (n + 1,)."""
    ### BEGIN SOLUTION
    roots = torch.linspace(rho_max ** (1 / power), rho_min ** (1 / power), n, dtype=torch.float64)
    return torch.cat([roots**power, torch.zeros(1, dtype=torch.float64)])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.2", karras_levels)

# %% [markdown]
# What does the power do? For powers 1, 3, 7 and 100 count how many of 20 levels between 80 and 0.002 lie below 1.

# %% tags=["solution", "nbval-check-output"]
for power in (1, 3, 7, 100):
    below = (karras_levels(80.0, 0.002, 20, power)[:-1] < 1).sum()
    print(f"power {power:3}: {below:2} of 20 levels below 1")

# %% [markdown]
# ## Exercise 07.3: Heun in the right variable
#
# Work with $y = z/\alpha$ and the noise level $\rho$. `denoiser(y, rho)` returns $\hat z_0$ (B, D); the slope is $dy/d\rho = (y - \hat z_0)/\rho$. Make one Heun step from `rho` to `rho_next`: two calls, but only
# one, and the first slope alone, if `rho_next` is 0.


# %%
def heun_step(denoiser, y, rho, rho_next):
    """y (B, D) at the noise level rho_next."""
    ### BEGIN SOLUTION
    first = (y - denoiser(y, rho)) / rho
    guess = y + (rho_next - rho) * first
    if rho_next == 0:
        return guess
    second = (guess - denoiser(guess, rho_next)) / rho_next
    return y + (rho_next - rho) * (first + second) / 2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.3", heun_step)

# %% [markdown]
# Measure its order with `convergence_order`: on a mixture of your choice, from $\rho = 5$ to 0.1. For a `GaussianMixture` called `prior` the denoiser in these variables is `lambda y, rho: prior.denoise(y, 1.0, rho)`. The levels of exercise 07.2, without the 0, are an uneven grid; the referee is your own walk with 2,000 steps.

# %% tags=["solution", "nbval-check-output"]
prior = GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[-1.0], [0.7]]).double(), 0.05 * torch.ones(2, 1, 1))
start = torch.linspace(-6, 6, 21).double()[:, None]


def walk(n):
    """n Heun steps on the grid of exercise 07.2 with power 4."""
    y, levels = start, karras_levels(5.0, 0.1, n + 1, 4)[:-1].tolist()
    for rho, rho_next in zip(levels[:-1], levels[1:], strict=True):
        y = heun_step(lambda y, rho: prior.denoise(y, 1.0, rho), y, rho, rho_next)
    return y


referee = walk(2000)
print(f"order {convergence_order(lambda n: (walk(n) - referee).abs().mean().item(), [80, 160]):.2f}")

# %% [markdown]
# ## Exercise 07.4: DPM-Solver++(2M)
#
# Make one step from $t$ to $s$. `z`, `z_0` (the answer at $t$) and `z_0_before` (the answer at the time before) are (B, D). `lambdas` (3,) holds $\lambda$ at the time before, at $t$ and at $s$; the rest are numbers.


# %%
def two_m_step(z, z_0, z_0_before, lambdas, sigma_t, alpha_s, sigma_s):
    """The state (B, D) at time s."""
    ### BEGIN SOLUTION
    h_before, h = lambdas[1] - lambdas[0], lambdas[2] - lambdas[1]
    r = h_before / h
    D = (1 + 1 / (2 * r)) * z_0 - 1 / (2 * r) * z_0_before
    return sigma_s / sigma_t * z - alpha_s * torch.expm1(-h) * D
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.4", two_m_step)

# %% [markdown]
# When it passes: how large may the steps differ before the extrapolation becomes dangerous? Plot the factor in front of $\hat z_0^-$ against $h/h_-$.

# %% tags=["solution"]
ratios = torch.linspace(0.1, 6, 60)
plots.curves(
    ratios,
    {"weight of $\\hat z_0$": 1 + ratios / 2, "weight of $\\hat z_0^-$": -ratios / 2},
    title="A long step after a short one subtracts what it has just added",
    alt="Two straight lines against the ratio of this step's length to the one before, from 0.1 to 6. The weight of the newest answer rises from 1.05 to 4, that of the one before falls from -0.05 to -3.",
    xlabel="$h / h_-$",
    ylabel="weight in $D$",
    horizontal={"": 0.0},
    height=320,
)

# %% [markdown] tags=["solution"]
# At $h = 6 h_-$ an error of 1 % in both answers can become 7 % in $D$. Grids should therefore change their step length gradually; and after a very short first step the second order can be worse than none.

# %% [markdown]
# ## Exercise 07.5: The best variance of a step
#
# Return the variance with which a step from $t$ to $s$ should draw its noise (a number), given $\bar\gamma$ = `gamma`, the mean square of $\hat\epsilon$ at $t$ per dimension. All arguments are numbers.


# %%
def best_variance(alpha_t, sigma_t, alpha_s, sigma_s, gamma):
    """beta-tilde plus what the uncertainty of z_0 adds."""
    ### BEGIN SOLUTION
    tau = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    unknown = (sigma_t / alpha_t) ** 2 * (1 - gamma)
    return sigma_s**2 * tau + (alpha_s * tau) ** 2 * unknown
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.5", best_variance)

# %% [markdown]
# Its two ends are old friends. For data of variance 1 on a variance-preserving schedule, $\bar\gamma = \sigma_t^2$ (why?): which of DDPM's variances comes out? And which for data that are a single point?

# %% tags=["solution", "nbval-check-output"]
t, s = 0.5, 0.4
levels = [f(x).item() for x in (t, s) for f in (vp.alpha, vp.sigma)]
beta = 1 - (levels[0] / levels[2]) ** 2
beta_tilde = beta * (levels[3] / levels[1]) ** 2
print(f"data of variance 1: {best_variance(*levels, levels[1] ** 2):.6f}, beta {beta:.6f}")
print(f"a single point:     {best_variance(*levels, 1.0):.6f}, beta-tilde {beta_tilde:.6f}")

# %% [markdown] tags=["solution"]
# $N(0, 1)$ data stay $N(0, 1)$ at every time, so $\hat\epsilon = \sigma_t z$ and its mean square is $\sigma_t^2$. A single point leaves no doubt: the denoiser knows $\epsilon$ exactly, $\bar\gamma = 1$.

# %% [markdown]
# ## Exercise 07.6: The target of progressive distillation
#
# The `teacher` is a denoiser, `z` (B, D) a state at time `t`, and `t` > `m` > `s` are numbers. Walk the teacher's two DDIM steps, $t \to m \to s$, and return the $\tilde z_0$ (B, D) with which one DDIM step from $t$ would have reached the same state at $s$. You may use
# `ddim_step(z, z_0, schedule, t, s)`.


# %%
def distilled_target(teacher, schedule, z, t, m, s):
    """What the student should answer at (z, t)."""
    ### BEGIN SOLUTION
    z_m = ddim_step(z, teacher(z, t), schedule, t, m)
    z_s = ddim_step(z_m, teacher(z_m, m), schedule, m, s)
    kept = schedule.sigma(s) / schedule.sigma(t)
    return (z_s - kept * z) / (schedule.alpha(s) - kept * schedule.alpha(t))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.6", distilled_target)

# %% [markdown]
# For Gaussian data the teacher is linear in $z$, so the target is as well, and a student that halves three times in a row is a product of numbers. Start from the exact teacher of $N(0, 0.25)$ with eight steps, evenly spaced in $t$. By what factor does the student of one step multiply $z_1$?
# Compare it with the true flow, $\sqrt{0.25/v_1}$, and with the eight DDIM steps themselves.

# %% tags=["solution", "nbval-check-output"]
bell = Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double())
exact, one = denoiser_for(bell, vp), torch.ones(1, 1, dtype=torch.float64)
answers = {k / 8: exact(one, k / 8) for k in range(1, 9)}  # what the teacher makes of z = 1 at each of its times


def linear(table):
    """A denoiser that multiplies z by the number known for that time."""
    return lambda z, t: table[round(float(t), 6)] * z


for n in (4, 2, 1):
    teacher = linear(answers)
    answers = {k / n: distilled_target(teacher, vp, one, k / n, (k - 0.5) / n, (k - 1) / n) for k in range(1, n + 1)}
steps = torch.linspace(1, 0, 9).double()
truth = 0.5 / (0.25 * vp.alpha(1.0) ** 2 + vp.sigma(1.0) ** 2).sqrt()
print(f"student of one step: {answers[1.0].item():.6f}")
print(f"eight DDIM steps:    {last(ddim(exact, vp, one, steps)).item():.6f}")
print(f"the true flow:       {truth:.6f}")

# %% [markdown] tags=["solution"]
# The student repeats its teacher's eight steps to the last digit, and so also their error. Distillation removes calls, never mistakes. Distil from a better solver and the student is better.

# %% [markdown]
# ## Exercise 07.7: Jump, add noise, jump again
#
# The `student` is a consistency model: `student(z, t)` names the end of the flow from any state. `times` (n + 1,) falls to 0. At each time but the last jump to $\hat z_0$ and go to the next time with fresh noise, from one call of `noise(z)`. Return the sample (B, D). (At $s = 0$ the noise is multiplied by $\sigma = 0$.)


# %%
def jump_sample(student, schedule, z, times, noise):
    """The sample (B, D) after n calls of the student."""
    ### BEGIN SOLUTION
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = schedule.alpha(s) * student(z, t) + schedule.sigma(s) * noise(z)
    return z
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.7", jump_sample)

# %% [markdown]
# The ideal student of $N(0, v)$ is known: $f(z, t) = z\,\sqrt{v/v_t}$ with $v_t = \alpha_t^2 v + \sigma_t^2$. Sample with it and with the *denoiser* $\mathbb E[z_0 \mid z_t]$ in its place, with 1, 2, 4 and 8 calls, and compare the variances of what comes out.

# %% tags=["solution", "nbval-check-output"]


def ideal(z, t):
    return z * (0.25 / (0.25 * vp.alpha(t) ** 2 + vp.sigma(t) ** 2)).sqrt()


begin = standard_normal(0)(torch.empty(40_000, 1, dtype=torch.float64))
for n in (1, 2, 4, 8):
    knots = torch.linspace(1, 0, n + 1).double()
    spread = [jump_sample(f, vp, begin, knots, standard_normal(1)).var().item() for f in (ideal, exact)]
    print(
        f"{n} calls: variance with the ideal student {spread[0]:.3f}, with the denoiser {spread[1]:.3f} (exact 0.250)"
    )

# %% [markdown] tags=["solution"]
# The student's law is right with any number of calls. The denoiser's is far too narrow: it answers with a mean, and a mean varies less than what it is the mean of. More calls cure it only slowly, as in DDPM with too small a variance.

# %% [markdown]
# ## Exercise 07.8: The cheapest schedule (research-like)
#
# `cost` (T, T) holds the cost of a step from place i to place j > i; backwards it is infinite. Return the places (n + 1,), an integer tensor from 0 to T - 1, of the path of exactly `n` steps with the lowest sum. Trying all paths is allowed in the check, but not in life: aim at about $nT^2$ operations.


# %%
def cheapest_path(cost, n):
    """Places (n + 1,) of the cheapest path of n steps from place 0 to the last."""
    ### BEGIN SOLUTION
    best, came = torch.full((len(cost),), math.inf, dtype=cost.dtype), []
    best[0] = 0
    for _ in range(n):
        best, origin = (best[:, None] + cost).min(0)  # over the place before, for every place
        came.append(origin)
    path = [len(cost) - 1]
    for origin in reversed(came):
        path.append(origin[path[-1]].item())
    return torch.tensor(path[::-1])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("07.8", cheapest_path)

# %% [markdown]
# Now use it for a question without a known answer. On a mixture of your choice, search a schedule of seven steps for DDIM, as the chapter does. Is it also a good schedule for ++2M? And is one of four steps good for Heun (seven calls, since the last step costs one)?

# %% tags=["solution", "nbval-check-output"]
denoiser = denoiser_for(prior, vp)
origin = standard_normal(3)(torch.empty(300, 1, dtype=torch.float64))
fine = log_snr_times(vp, 40)
path, answers = [origin], []
for t, s in zip(fine[:-1], fine[1:], strict=True):  # a fine path: ten Heun steps between any two places
    answers.append(denoiser(path[-1], t))
    between = torch.linspace(float(t), float(s), 11).double() if s > 0 else torch.stack([t, s])
    path.append(last(heun(denoiser, vp, path[-1], between)))
cost = torch.full((41, 41), math.inf, dtype=torch.float64)
for i in range(40):
    for j in range(i + 1, 41):
        cost[i, j] = (ddim_step(path[i], answers[i], vp, fine[i], fine[j]) - path[j]).square().mean().sqrt()


def miss(sampler, times):
    return (last(sampler(denoiser, vp, origin, times)) - path[-1]).abs().mean().item()


grids = {"searched": lambda n: fine[cheapest_path(cost, n)], "even in t": lambda n: uniform_times(n, t_min=0.02)}
grids |= {"even in lambda": lambda n: log_snr_times(vp, n), "Karras": lambda n: karras_times(vp, n, sigma_min=0.01)}
print("mean error with 7 calls     DDIM     ++2M     Heun (4 steps)")
for name, grid in grids.items():
    print(f"{name:22} {miss(ddim, grid(7)):9.3f} {miss(dpm_solver_pp_2m, grid(7)):8.3f} {miss(heun, grid(4)):9.3f}")

# %% [markdown] tags=["solution"]
# The costs were DDIM's, and still the schedule serves ++2M, because both have their trouble where the paths bend. For Heun four steps are too few on any grid. Questions to go on with: what would the costs of a ++2M step be, which depends on the step *before*? (Let a place be a pair of times.) And does a schedule found on one prior
# help on another?
