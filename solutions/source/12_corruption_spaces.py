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
# # Solutions 12: Corruption spaces
#
# Eight exercises about walks that start at the LR image and corruptions that are not Gaussian noise. Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line. They belong to [chapter 12](../notebooks/12_corruption_spaces.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# $z_0$ is the clean state and $z_1$ the LR image, enlarged to the same size; $t$ falls from 1 to 0, and a step goes from $t$ to $s < t$. A corruption is a function `corruption(z_0, t)` that returns $z_0$ itself at $t = 0$. An operator $A$ has `operator(z)`, `operator.adjoint(x)` and `operator.pinv(x)`. Everything is float64.

# %%
import math

import torch

from tutorial_lib import plots
from tutorial_lib.corruption import (
    blur_corruption,
    draw_state,
    i2sb,
    i2sb_path,
    indi,
    indi_path,
    ir_sde_path,
    operator_corruption,
    resshift,
    resshift_clock,
    resshift_path,
    symmetric_clock,
)
from tutorial_lib.data.faces import faces
from tutorial_lib.exercises import check
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import sliced_wasserstein
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool
from tutorial_lib.oracles import Gaussian, pair_denoiser
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import last
from tutorial_lib.super_resolution import face_super_resolve

double = torch.float64
noise = standard_normal(0)
cat = photo("chelsea")[..., 60:188, 130:290].double()  # 128 x 160


def decibels(a, b):
    """PSNR of two images in [0, 1], over all channels."""
    return -10 * math.log10((a - b).square().mean())


# %% [markdown]
# ## Exercise 12.1: What nobody sees may fade (warm-up)
#
# `z_0` is (B, C, H, W), `t` (B,) holds one time per image, and `operator` is $A$. Return the state in which everything that $A$ sees is still there and the rest, $(I - A^+A)z_0$, has faded to $1 - t$ of its size.


# %%
def fade_out(z_0, t, operator):
    """C(z_0, t), shaped like z_0: z_0 itself at t = 0, A^+ A z_0 at t = 1."""
    ### BEGIN SOLUTION
    seen = operator.pinv(operator(z_0))
    return z_0 + t.view(-1, 1, 1, 1) * (seen - z_0)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.1", fade_out)

# %% [markdown]
# How much is lost at $t = 0.9$? Write the inverse of `fade_out` for $t < 1$. Then suppose that the state is stored with 8 bits, undo the corruption and plot the PSNR of what comes back against $t$, for pooling by 4 and, by division in Fourier space, for a Gaussian blur of up to 2 pixels.

# %% tags=["solution"]
pool, times = AveragePool(4), torch.linspace(0.02, 0.999, 60, dtype=double)
blur = blur_corruption(2.0)
spot = torch.zeros_like(cat)
spot[..., 0, 0] = 1
undone = {"pooling": [], "blur": []}
for t in times:
    stored = (255 * fade_out(cat, t.view(1), pool)).round() / 255
    seen = pool.pinv(pool(stored))
    undone["pooling"].append(decibels(seen + (stored - seen) / (1 - t), cat))
    stored = (255 * blur(cat, t)).round() / 255
    gain = torch.fft.rfft2(blur(spot, t))
    undone["blur"].append(decibels(torch.fft.irfft2(torch.fft.rfft2(stored) / gain, s=cat.shape[-2:]), cat))
plots.curves(
    times,
    undone,
    title="Pooling can be undone until the very end, a blur until the digits run out",
    alt="PSNR of the restored photo against t from 0 to 1. Pooling stays above 40 dB until t is nearly 0.9 and drops below the pooled image's 26 dB only at the very end. Blur starts as high, passes 26 dB at t = 0.4 and 0 dB at t = 0.5.",
    xlabel="t",
    ylabel="PSNR after undoing, dB",
    ylim=(-20, 65),
    horizontal={"what the pooled image gives": decibels(pool.pinv(pool(cat)), cat)},
)

# %% [markdown] tags=["solution"]
# At $t = 0.9$ of the pooling, the right "restoration" is to multiply the details by 10: no knowledge about images is needed, and a network trained there learns to amplify. All of the guessing is left to the last bit before $t = 1$, the first step of the walk. A blur is undone in the same way as long as its weak frequencies stand above the rounding; there they are lost, all within a small part of the walk. Noise of a chosen size is a rounding that you control: at each level some details are gone and others are not. This is one reason why soft score matching, InDI with $\epsilon > 0$ and the bridges add some noise to their corruption.

# %% [markdown]
# ## Exercise 12.2: Algorithm 2
#
# Cold diffusion ([arXiv 2208.09392](https://arxiv.org/abs/2208.09392)) estimates `z_0` from the state `z` at time `t` and corrupts the estimate again. Write the step of its *second* algorithm, from `t` to `s`. The estimate is already computed; `corruption(image, time)` is $C$.


# %%
def cold_step(z, z_0, corruption, t, s):
    """The state at time s."""
    ### BEGIN SOLUTION
    return z - corruption(z_0, t) + corruption(z_0, s)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.2", cold_step)

# %% [markdown]
# Take a restorer that always answers the same wrong image: the true one plus a quarter of another photo. Walk 20 steps with both algorithms under three corruptions: an overlay $z_0 + t\,e$ with a known image $e$, pooling, and blur. Which part of the error survives in each case? (For pooling, split the final error with $A^+A$.)

# %% tags=["solution"]
other = photo("coffee")[..., 100:228, 100:260].double()
error = (other - other.mean()) / 4
corruptions = {
    "overlay": lambda image, t: image + t * (other.flip(3) - 0.5),
    "pooling": operator_corruption(pool),
    "blur": blur_corruption(4.0),
}
found = {}
for name, corruption in corruptions.items():
    z = first = corruption(cat, 1.0)
    for i in range(20, 0, -1):
        t, s = i / 20, (i - 1) / 20
        first = corruption(cat + error, s)
        z = cold_step(z, cat + error, corruption, t, s)
    found["algorithm 1, any corruption"] = first  # the same three times
    found[f"algorithm 2, {name}"] = z
left = pool(found["algorithm 2, pooling"] - cat).abs().max().item()
print(f"pooling, algorithm 2: what A sees of the error is at most {round(left, 12)}")
plots.image_grid(
    [z.clamp(0, 1) for z in found.values()],
    [f"{name}: {'exact' if (db := decibels(z, cat)) > 99 else f'{db:.1f} dB'}" for name, z in found.items()],
    title="Algorithm 2 keeps what is known, algorithm 1 believes the restorer",
    alt="Four pictures of a cat's eye. Algorithm 1 shows the ghost of a coffee cup, a bright curved rim and a red tint, at 22 dB. Algorithm 2 is exact for the overlay; for pooling it has right colours and a faint broken pattern where the rim was, 38 dB; for blur right colours and a thin line along the rim, 35 dB.",
    zoom=2,
    crop=(16, 56, 88, 104),
    columns=4,
)

# %% [markdown] tags=["solution"]
# Each step adds $C(\hat z_0, s) - C(\hat z_0, t)$, so an error enters only through the *change* of $C$. The overlay changes by $(s - t)e$ whatever the restorer says: the error cancels. Pooling changes only what $A$ does not see, so its answer explains the LR image whatever the restorer says, as if it had been back-projected. Blur hardly changes the lowest frequencies, so the tint of the error cancels and its edges stay. Algorithm 1 ends with $C(\hat z_0, 0) = \hat z_0$: the whole walk was for nothing if the last answer is bad.

# %% [markdown]
# ## Exercise 12.3: A loss inside the corruption
#
# Soft score matching ([arXiv 2209.05442](https://arxiv.org/abs/2209.05442)) has states $z_t = C_t z_0 + \sigma_t \epsilon$ with a linear $C_t$. Write its loss: the mean squared difference over each image, measured where $C_t$ can see it. `answer` and `z_0` are (B, C, H, W), `t` is (B,); `corruption(images, t)` applies $C_t$. Return (B,).


# %%
def soft_loss(answer, z_0, corruption, t):
    """The loss of each image, (B,)."""
    ### BEGIN SOLUTION
    return (corruption(answer, t) - corruption(z_0, t)).square().mean((1, 2, 3))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.3", soft_loss)

# %% [markdown]
# Let $C_1$ be pooling by 8. Find three quite different answers whose loss at $t = 1$ is zero for the cat. What does the ordinary loss $|\text{answer} - z_0|^2$ say about them, and which of them would it choose?

# %% tags=["solution"]
coarse = AveragePool(8)
pooling, end = operator_corruption(coarse), torch.ones(1, dtype=double)
answers = {
    "the truth": cat,
    "the pooled image": pooling(cat, end),
    "another photo's details": pooling(cat, end) + other - pooling(other, end),
}
for name, answer in answers.items():
    inside, outside = soft_loss(answer, cat, pooling, end).item(), (answer - cat).square().mean().item()
    print(f"{name:24} inside {round(inside, 12):.4f}   outside {outside:.4f}")
plots.image_grid(
    [answer.clamp(0, 1) for answer in answers.values()],
    list(answers),
    title="Three answers that the loss inside C at t = 1 cannot tell apart",
    alt="The sharp photo of a cat's eye; the same in blocks of 8 by 8 pixels; and the blocks with the fine structure of a photo of a coffee cup on top, in which a rim and a spoon can be guessed.",
    zoom=2,
)

# %% [markdown] tags=["solution"]
# The score at $t$ needs $C_t\hat z_0$ only, so the loss inside asks for nothing else. The loss outside also asks for the mean of all possible details: it takes the truth here, and over many images their average. The exact posterior mean is among the minima of both. Mind the first step, though: the walk adds $(C_s - C_t)\hat z_0$, and where $C_t$ has lost a direction altogether, the loss at $t$ has not taught it. A blur only weakens directions; with pooling, start a little below $t = 1$.

# %% [markdown]
# ## Exercise 12.4: A step of I2SB
#
# I2SB ([arXiv 2302.05872](https://arxiv.org/abs/2302.05872)) measures time by an accumulated variance $v$: forwards, $z_s = z_0 + \sqrt{v_s}\,n$ and $z_t = z_s + \sqrt{v_t - v_s}\,n'$. Its network was trained to answer $(z_t - z_0)/\sqrt{v_t}$.
# Given the state `z`, the network's answer `label` and the numbers `v_t` > `v_s`, return the mean (a tensor) and the variance (a number) of $z_s$ given $z_t$ and $z_0$. Bayes' rule for two Gaussian measurements of $z_s$ gets you there: precisions add.


# %%
def bridge_posterior(z, label, v_t, v_s):
    """(mean, shaped like z; variance, a number)."""
    ### BEGIN SOLUTION
    z_0 = z - math.sqrt(v_t) * label
    return (v_s * z + (v_t - v_s) * z_0) / v_t, v_s * (v_t - v_s) / v_t
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.4", bridge_posterior)

# %% [markdown]
# Walk from $z_1 = 0$ to $z_0 = 0$ in 10 steps of I2SB's symmetric clock, with the truth as denoiser. The exact bridge has the variance $v(T - v)/T$ with $T = v(1)$ at every time. Compare the variance of your walk with walks that add a forward step's variance, $v_t - v_s$; the bridge's variance seen from the other end, $(v_t - v_s)(T - v_t)/(T - v_s)$; and nothing. No samples are needed: each step multiplies the variance by $(v_s/v_t)^2$ and adds.

# %% tags=["solution"]
clock, grid = symmetric_clock(), torch.linspace(1, 0, 11, dtype=double)
v, T = clock(grid).tolist(), clock(1.0).item()
zero = torch.zeros(1, dtype=double)
rules = {
    "right": lambda v_t, v_s: bridge_posterior(zero, zero, v_t, v_s)[1],
    "forward step": lambda v_t, v_s: v_t - v_s,
    "from the wrong side": lambda v_t, v_s: (v_t - v_s) * (T - v_t) / (T - v_s),
    "nothing (OT-ODE)": lambda v_t, v_s: 0.0,
}
spreads = {}
for name, rule in rules.items():
    variances = [0.0]
    for v_t, v_s in zip(v[:-1], v[1:], strict=True):
        variances.append((v_s / v_t) ** 2 * variances[-1] + rule(v_t, v_s))
    spreads[name] = torch.tensor(variances).sqrt()
fine = torch.linspace(0, 1, 101, dtype=double)
exact = (clock(fine) * (T - clock(fine)) / T).sqrt()
plots.curves(
    grid,
    {"exact bridge": (fine, exact), **spreads},
    title="Only one variance keeps the walk on its bridge",
    alt="Standard deviation against t. The exact bridge is an arch from 0 at t = 1 to 0.19 in the middle and back to 0, and the right rule lies on it at every knot. The forward step's variance lies above the arch and ends with 0.1 of noise at t = 0. The wrong side adds nothing in its first step, stays below the arch until t = 0.3 and ends with 0.1 as well. Without noise the curve is zero everywhere.",
    xlabel="t (walked from right to left)",
    ylabel="standard deviation of the state",
)

# %% [markdown] tags=["solution"]
# Two signs tell a wrong rule: noise is left at $t = 0$, where $v_s = 0$ must switch it off, or the first step from $z_1$ adds none. A network sees states whose noise it was not trained for, and either smooths real detail away or leaves grain. The walk without noise is the OT-ODE: consistent as well, if the network was trained without noise, too.

# %% [markdown]
# ## Exercise 12.5: InDI's walk
#
# InDI ([arXiv 2303.11435](https://arxiv.org/abs/2303.11435)) reads $z_t = (1 - t)z_0 + t z_1$ and walks $z_s = \frac{s}{t} z + \left(1 - \frac{s}{t}\right)\hat z_0$. Write the whole walk: start from `z_1`, take `n` even steps from $t = 1$ to $0$, and return the end. `denoiser(z, t)` takes the time as a number.


# %%
def indi_walk(denoiser, z_1, n):
    """Where n steps from z_1 end."""
    ### BEGIN SOLUTION
    z = z_1
    for i in range(n, 0, -1):
        t, s = i / n, (i - 1) / n
        z = s / t * z + (1 - s / t) * denoiser(z, t)
    return z
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.5", indi_walk)

# %% [markdown]
# Let $z_0$ be $-1$ or $+1$ with equal chance, and $z_1 = z_0 + n$ with $n \sim N(0, 1)$. Then $z_t = z_0 + t\,n$, so you know the exact denoiser: which function of $z/t^2$ is it? Walk from 20,000 starts with 1, 2, 5 and 50 steps. Watch the histogram and the mean squared error.

# %% tags=["solution", "nbval-check-output"]
z_0 = noise(torch.empty(20_000, dtype=double)).sign()
z_1 = z_0 + noise(z_0)
ends = {n: indi_walk(lambda z, t: (z / t**2).tanh(), z_1, n) for n in (1, 2, 5, 50)}
for n, z in ends.items():
    close = ((z.abs() - 1).abs() < 0.1).double().mean()
    print(f"{n:2} steps: squared error {(z - z_0).square().mean():.3f}, within 0.1 of -1 or 1: {close:.0%}")

# %% tags=["solution"]
plots.histogram(
    {f"{n} step{'s' * (n > 1)}": ends[n] for n in (1, 2, 50)},
    title="One step answers the mean, many steps decide",
    alt="Histograms of the ends. After one step they fill everything between -1 and 1, with most near the two ends. After two steps most stand close to the ends and few lie between. After 50 steps all of them stand in two spikes at -1 and 1.",
    xlabel="where the walk ends",
    bins=60,
)

# %% [markdown] tags=["solution"]
# $E[z_0 \mid z_t] = \tanh(z_t/t^2)$. One step is the regression: least error, and values such as 0.4 that no datum has. With many steps every start is carried to $-1$ or $+1$, and the squared error has risen by 40 %, because a firm answer that is wrong costs 4. The data are sampled, but from a given $z_1$ there is still only one end: the sign of $z_1$ decides.

# %% [markdown]
# ## Exercise 12.6: What the spread costs (a measured answer)
#
# Now $z_0$ and $z_1$ are numbers from a Gaussian law: both have mean 0 and variance 1, and their correlation is 0.6. The denoiser is exact and is not told $z_1$. How many even InDI steps does it take, at least, until the results have 0.95 times the standard deviation of $z_0$? Everything is linear, so follow the standard deviation through your `indi_walk`, or use `pair_denoiser`.


# %%
def steps_needed():
    """The smallest n."""
    ### BEGIN SOLUTION
    n = 1
    while spread_after(n) < 0.95:
        n += 1
    return n
    ### END SOLUTION


# %% tags=["solution"]
pairs = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1, 0.6], [0.6, 1]], dtype=double))
untold = pair_denoiser(pairs, indi_path())


def spread_after(n):
    """The walk is linear: where 1 goes is the standard deviation."""
    return indi_walk(lambda z, t: untold(z, t), torch.ones(1, 1, dtype=double), n).item()


# %% tags=["nbval-check-output"]
assert check("12.6", steps_needed)

# %% [markdown]
# Draw the walk in the perception–distortion plane: root mean squared error against the difference of the standard deviations, for 1 to 50 steps. What does a denoiser that *is* told $z_1$ do?

# %% tags=["solution"]
counts = (1, 2, 3, 5, 9, 17, 50)
stds = torch.tensor([spread_after(n) for n in counts])
errors = (1 + stds**2 - 2 * 0.6 * stds).sqrt()
one = torch.ones(1, 1, dtype=double)
told_end = indi_walk(lambda z, t: untold(z, t, cond=one), one, 50).item()
print(f"told z_1, 50 steps from z_1 = 1 end at {told_end:.3f}, as one step does")
plots.scatter(
    {"InDI": (errors, 1 - stds), "a perfect sampler, told $z_1$": (math.sqrt(2 * (1 - 0.36)), 0.0)},
    names={"InDI": [f"{n}" for n in counts]},
    joined=("InDI",),
    title="The number of steps is the knob between error and spread",
    alt="Missing spread against root mean squared error. With one step the error is 0.80 and 0.40 of the spread is missing. More steps move right and down: 2 steps 0.82 and 0.20, 5 steps 0.87 and 0.08, 50 steps 0.89 and 0.01. A perfect posterior sampler stands at 1.13 with nothing missing, far to the right.",
    xlabel="root mean squared error",
    ylabel="missing standard deviation",
)

# %% [markdown] tags=["solution"]
# Told $z_1$ and without noise, the state holds nothing new, so the walk stays at the posterior mean for every $n$. Untold, it trades error for spread, fast at first (the second step brings half of what is missing) and slowly later. With more and more steps it comes to rest at gain 1, which on this pair is $z_1$ itself, unchanged: $z_1$ has the right law already, and the law of all images is what the walk promises. Its error, $\sqrt{0.8} = 0.89$, is smaller than a posterior sampler's, which draws an independent answer.

# %% [markdown]
# ## Exercise 12.7: ResShift's levels
#
# ResShift ([arXiv 2307.12348](https://arxiv.org/abs/2307.12348)) has $z_t = z_0 + \eta\,(z_1 - z_0) + \kappa\sqrt{\eta}\,\epsilon$ on a grid of $n$ = `steps` levels, $i = 1 \dots n$, with
# $$\sqrt{\eta_i} = \text{first}\cdot\left(\frac{\text{last}}{\text{first}}\right)^{\left(\frac{i-1}{n-1}\right)^{\text{power}}}.$$
# Return two tensors (n,): $\eta_i$ and the standard deviation of the noise.


# %%
def resshift_levels(steps, kappa, power, first, last):
    """(eta (n,), standard deviation of the noise (n,))."""
    ### BEGIN SOLUTION
    shares = torch.linspace(0, 1, steps, dtype=double) ** power
    root = first * (last / first) ** shares
    return root**2, kappa * root
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.7", resshift_levels)

# %% [markdown]
# The signal-to-noise ratio of a told bridge compares $(1 - \eta)z_0$ with the noise. Plot its log for powers 0.3 (the paper's), 1 and 3, with 15 levels and $\kappa = 2$. Where does each power spend its calls? And what of $z_0$ is still in the last state, which the sampler replaces by $z_1 + \kappa\sqrt{\eta_n}\,\epsilon$?

# %% tags=["solution"]
steps = torch.arange(1, 16)
lines = {}
for power in (0.3, 1.0, 3.0):
    eta, std = resshift_levels(15, 2.0, power, 0.02, 0.99)
    lines[f"power {power}"] = 2 * ((1 - eta) / std).log()
print(f"the last state still holds {1 - eta[-1]:.1%} of z_0")
plots.curves(
    steps,
    lines,
    title="The power decides at which noise the calls are spent",
    alt="Log SNR against the level, 1 to 15. All start near 6.4 and end near minus 9. With power 0.3 the curve falls at once to 3 at level 2 and then slowly to minus 5 at level 14. Power 1 falls evenly to minus 2.4 at level 14. Power 3 stays above 5 until level 8 and drops steeply at the end.",
    xlabel="level",
    ylabel="log SNR",
)

# %% [markdown] tags=["solution"]
# Power 0.3 spends most calls at high noise, where the content is decided, and one on the last details; power 3 does the opposite. The 2 % of $z_0$ that the start ignores leave a small bias that no number of steps cures (`last=1` would). It is harmless for images, but an exact test sees it.

# %% [markdown]
# ## Exercise 12.8: One network, every bridge (research-like)
#
# You have a diffusion network that is told the LR image. `plain(u, log_snr)` estimates $z_0$ from $u = a z_0 + b\,\epsilon$ with $a^2 + b^2 = 1$ and `log_snr` $= \log(a^2/b^2)$, (B,). Make it serve on any bridge: the state is $z = \alpha z_0 + (1 - \alpha) z_1 + \sigma\epsilon$, with `z`, `z_1` (B, C, H, W) and `alpha`, `sigma` (B,), both positive. Return the estimate of $z_0$. Nothing is trained.


# %%
def told(plain, z, z_1, alpha, sigma):
    """The estimate of z_0 on a bridge, from a network that was made for diffusion."""
    ### BEGIN SOLUTION
    u = z - (1 - alpha).view(-1, 1, 1, 1) * z_1
    size = (alpha**2 + sigma**2).sqrt()
    return plain(u / size.view(-1, 1, 1, 1), 2 * (alpha / sigma).log())
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("12.8", told)

# %% [markdown]
# First prove it: on a Gaussian pair, `plain` from `Gaussian.denoise` on the posterior must give exactly what `pair_denoiser(pairs, path)` says when told $z_1$, on every path of the chapter.

# %% tags=["solution", "nbval-check-output"]
seen = torch.full((1, 1), 0.9, dtype=double)
posterior = Gaussian(0.6 * seen[0], torch.tensor([[1 - 0.36]], dtype=double))


def exact_plain(u, log_snr):
    a, b = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    return posterior.denoise(u.flatten(1), a, b).view_as(u)


states = torch.linspace(-3, 3, 61, dtype=double).view(-1, 1, 1, 1)
eta_clock = resshift_clock()
for name, path in {
    "InDI": indi_path(0.5),
    "I2SB": i2sb_path(clock),
    "ResShift": resshift_path(eta_clock),
    "IR-SDE": ir_sde_path(0.4),
}.items():
    gap = 0.0
    for t in (0.1, 0.5, 0.9):
        amplitudes = [f(t).expand(61) for f in (path.alpha, path.sigma)]
        ours = told(exact_plain, states, seen.view(1, 1, 1, 1).expand_as(states), *amplitudes)
        theirs = pair_denoiser(pairs, path)(states.flatten(1), t, seen.expand(61, 1))
        gap = max(gap, (ours.flatten(1) - theirs).abs().max().item())
    print(f"{name:8} differs by less than {max(gap, 1e-12):.0e}")

# %% [markdown]
# Then use it: `faces-sr3-x4` was trained as SR3, on noise alone, told the enlarged LR image. Let it walk InDI's, I2SB's and ResShift's bridges in 8 calls ($\epsilon_0 = 0.2$, $\kappa = 1$; start at $t = 0.999$, since on I2SB's bridge $\alpha$ and $\sigma$ are both 0 at $t = 1$), beside SR3's own sampler, `face_super_resolve(lr, "sr3", steps=n)`, with 20 and 8. Report PSNR and the sliced Wasserstein distance. Do the bridges see more than diffusion did?

# %% tags=["solution"]
hr = faces(16, seed=5).images.float()
lr = (255 * resize(hr, 1 / 4)).round() / 255
z_1 = 2 * resize(lr, 4) - 1
network = load_pretrained("faces-sr3-x4")  # network(u, log_snr / 8, cond) -> eps


def plain(u, log_snr):
    a, b = (x.sigmoid().sqrt().float().view(-1, 1, 1, 1) for x in (log_snr, -log_snr))
    with torch.inference_mode():
        return (u - b * network(u.float(), log_snr.clamp(-20, 20).float() / 8, z_1)) / a


def on(path):
    """The denoiser of a path, from the one network."""
    return lambda z, t: told(plain, z.float(), z_1, *(f(t).expand(len(z)) for f in (path.alpha, path.sigma))).float()


grid = torch.linspace(1, 0, 9, dtype=double)
grid[0] = 0.999  # at t = 1 some bridges have neither signal nor noise
eta_clock = resshift_clock(8, 1.0)
indi_law, i2sb_law, resshift_law = indi_path(0.2), i2sb_path(clock), resshift_path(eta_clock, 1.0)
walks = {
    "SR3, 20 calls": 2 * face_super_resolve(lr, "sr3", steps=20) - 1,
    "SR3, 8 calls": 2 * face_super_resolve(lr, "sr3", steps=8) - 1,
    "InDI, 1 call": last(indi(on(indi_law), draw_state(indi_law, z_1, z_1, 0.999, noise), grid[[0, -1]], 0.2, noise)),
    "InDI, 8 calls": last(indi(on(indi_law), draw_state(indi_law, z_1, z_1, 0.999, noise), grid, 0.2, noise)),
    "I2SB, 8 calls": last(i2sb(on(i2sb_law), clock, draw_state(i2sb_law, z_1, z_1, 0.999, noise), grid, noise=noise)),
    "ResShift, 8 calls": last(
        resshift(on(resshift_law), eta_clock, draw_state(resshift_law, z_1, z_1, 0.999, noise), grid, 1.0, noise)
    ),
}
walks = {name: ((z + 1) / 2).clamp(0, 1) for name, z in walks.items()}
for name, sr in walks.items():
    distance = sliced_wasserstein(list(sr.split(1)), list(hr.split(1))).item()
    print(f"{name:18} {decibels(sr, hr):.2f} dB   sliced W1 {1000 * distance:.2f} / 1000")

# %% tags=["solution"]
plots.image_grid(
    [torch.cat(list(images[:3]), 1) for images in (resize(lr, 4).clamp(0, 1), *walks.values(), hr)],
    ["LR image", *walks, "original"],
    title="One network walks every bridge",
    alt="Eight columns of three small faces. The LR images are blurred. One InDI call gives soft faces; SR3 with 20 and with 8 calls and the three bridges with 8 calls give sharper faces that look alike apart from small differences at eyes and mouth; the originals stand on the right.",
    zoom=3,
)

# %% [markdown] tags=["solution"]
# All of them ask the same network the same question: which $z_0$, given $z_1$ and a state of this SNR? Where they start and how they step decides where they land between error and distance, and with few faces the order of neighbours is luck: nobody gets both better at once by much. So whoever compares "diffusion" with "a bridge" must keep the network and its training fixed, or the training is what is compared. Going further: repeat it with three seeds and put standard errors beside the numbers, or with `super_resolve(lr, method="indi")` and its kin on photos.
