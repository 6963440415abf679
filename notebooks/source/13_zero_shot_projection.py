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
# # 13 No retraining: projection
#
# You have a network that makes faces, any faces, and has never heard of super-resolution. You have a blurry picture of one person. No training, no new network: after every sampling step you put back what the camera saw. That is the whole idea of ILVR, RePaint and CCDF, and it works within the next few cells. Then you find out, where everything is known exactly, what these methods sample from, why it is not the posterior, and what repairs it.
#
# ## What you will be able to do
#
# 1. **Turn** an unconditional model into a super-resolver or inpainter by exchanging what the camera sees.
# 2. **Test** an exchange at the level of a single step, where a wrong noise level cannot hide.
# 3. **Explain** why the exchange does not converge to the posterior, however small the steps.
# 4. **Repair** it by going back and forth, and price the repair in network calls.
# 5. **Start** late, and find the shortest walk that works.
# 6. **Handle** a noisy measurement, and a filter that is no projection.
# 7. **Diffuse** each pixel only as long as it needs (YODA), and judge what that buys.
#
# **Prerequisites**: [chapter 01](01_super_resolution_basics.ipynb) ($A$, $A^+$, null space), [chapter 04](04_ddpm.ipynb) (the DDPM step), from [chapter 02](02_image_quality.ipynb) the Wasserstein distances $W_2$ and sliced $W_1$, from [chapter 10](10_conditioning_and_guidance.ipynb) the word *posterior*.
#
# **Reading time**: 65 minutes. Running time: about 25 s on two cores.
# **Survey section**: zero-shot super-resolution, projection (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/13_zero_shot_projection.ipynb), worked in [solutions](../solutions/13_zero_shot_projection.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $z_0$, $z_t = \alpha_t z_0 + \sigma_t\epsilon$ | `z_0`, `z` | the HR image as a state in $[-1, 1]$; the state at time $t$ |
# > | $x = A z_0 + \sigma_x n$ | `x`, `operator`, `noise_std` | the measurement. **In state units**: an image in $[0, 1]$ becomes $2y - 1$, so its noise doubles, and so does $\sigma_x$ |
# > | $A^+$, $P = A^+A$ | `operator.pinv` | pseudo-inverse; $P$ keeps what $A$ sees of a state, $I - P$ what it does not |
# > | $t \to s$, $s < t$ | `times` | a step; $z'$ is where the plain DDPM step arrives |
# > | $U$, $j$ | `repeat`, `jump` | how often RePaint walks a stretch, and how long the stretch is |
# > | $t_0$ | `times[0]` | the time at which a walk starts |
# >
# > A *call* is one call of the network with a whole batch. ILVR's $\phi$ stands where our $P$ stands (section 7 shows the difference); RePaint's $m$ is our `Mask`. The survey calls the measurement $x$ and the HR image $y$; so do we.

# %%
import json
from importlib import resources

import torch
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.degradations import gaussian_kernel
from tutorial_lib.denoisers import NetworkDenoiser, count_calls
from tutorial_lib.images import photo, resize, resize_matrix
from tutorial_lib.metrics import psnr, sliced_wasserstein
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Blur, Mask
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddpm, last, trajectory
from tutorial_lib.schedules import uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step, forward_step
from tutorial_lib.super_resolution import super_resolve
from tutorial_lib.yoda import diffused, importance, share, yoda
from tutorial_lib.zero_shot import ccdf, ilvr, repaint, resampling_path

double = torch.float64


def image(z):
    """A state as an image."""
    return ((z + 1) / 2).clamp(0, 1).float()


def rows(named, title, alt, columns=2):
    """One strip per name, the faces of a batch side by side."""
    strips = [torch.cat(list(image(z)), -1)[None] for z in named.values()]
    return plots.image_grid(torch.cat(strips), list(named), title=title, alt=alt, zoom=3, columns=columns)


def zeros(like):
    """A noise source without noise: with it an affine sampler returns its mean."""
    return torch.zeros_like(like)


# %% [markdown]
# ## 1. Any face, and then the face
#
# The network of chapter 04 makes faces of 32×32 pixels out of noise. Below, five people were photographed by a camera with 8×8 pixels; each of its pixels is the mean of a block of 4×4. First the network samples freely. Then, from the same noise, it samples with two more lines in the loop: the state's blocks are shifted until their means are those of the camera's picture, noised to the level that the state has reached.

# %%
cosine = vp_cosine()
painter = NetworkDenoiser(load_pretrained("faces-unconditional-32"), schedule=cosine)
people = faces(5, 32, seed=77).images
z_faces, pool = 2 * people - 1, AveragePool(4)
x_faces = pool(z_faces)
start = standard_normal(0)(z_faces)


def crude(z, times, exchange):
    """DDPM from the state z; after each step the means of the 4x4 blocks become those of the camera's picture."""
    noise = standard_normal(1)
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = ddim_step(z, painter(z, t), cosine, t, s, 1.0, noise)
        if exchange:
            seen = pool(forward_step(pool.pinv(x_faces), cosine, 0.0, s, noise))
            z = z + pool.pinv(seen - pool(z))
    return z


any_face, the_face = (crude(start, uniform_times(40), exchange) for exchange in (False, True))
rows(
    {"camera": pool.pinv(x_faces), "left alone": any_face, "with the exchange": the_face, "original": z_faces},
    title="The same network, the same noise: left alone it makes anybody, with the exchange it makes these five",
    alt="Four strips of five faces. Camera: blocks of 4 by 4 pixels, in which hats and hair colour can be guessed. Left alone: five sharp faces of other people. With the exchange: five sharp faces with the hats, hair, skin and beard of the originals, though eyes, mouths and the brim of one hat differ. Originals.",
)

# %% [markdown]
# The third strip has the right hats, hair, skin and pose, from a network that was trained on nothing but faces. Eyes, mouths and the brim of the red hat are invented; the camera did not see them. The rest of the chapter takes this loop apart.
#
# **What the line does.** Split a state in two: $z = Pz + (I-P)z$ with $P = A^+A$. The camera sees the first part and is blind to the second. After the DDPM step has proposed $z'$, the seen part is replaced by the measurement *at the noise level of the new state*, and the unseen part stays:
#
# $$z_s = (I - P)\,z' + P\,\bigl(\alpha_s A^+x + \sigma_s\epsilon\bigr) \;=\; z' + A^+\bigl(\alpha_s x + \sigma_s A\epsilon - A z'\bigr).$$
#
# That is **ILVR** (iterative latent variable refinement). For inpainting, where $A$ is a mask, it is **RePaint** without its repetitions. The right-hand form needs $A$ and $A^+$ only. The $\epsilon$ may be the noise that the DDPM step has drawn already, because $P\epsilon$ and $(I-P)\epsilon$ are independent. Write it, and compare with the library:


# %% tags=["nbval-check-output"]
def right_level(schedule, t, s):
    """How much of x and how much noise the seen part gets after a step from t to s."""
    return schedule.alpha(s), schedule.sigma(s)


def my_ilvr(denoiser, schedule, operator, x, times, z, noise, level=right_level):
    for t, s in zip(times[:-1], times[1:], strict=True):
        white = noise(z)
        proposal = ddim_step(z, denoiser(z, t), schedule, t, s, 1.0, lambda like, white=white: white)
        signal, loudness = level(schedule, t, s)
        z = proposal + operator.pinv(signal * x + loudness * operator(white) - operator(proposal))
    return z


grid, noise = uniform_times(10), standard_normal
mine = my_ilvr(painter, cosine, pool, x_faces, grid, start, noise(3))
library = last(ilvr(painter, cosine, pool, x_faces, times=grid, z=start, noise=noise(3)))
assert_close(mine, library, rtol=0, atol=1e-4)
assert (pool(library) - x_faces).abs().max() < 1e-5
print("mine and the library's agree, and A z = x up to rounding")

# %% [markdown]
# At the last step $\sigma_s = 0$ and $\alpha_s = 1$, so $A z_0 = x$ holds exactly in the end. Remember how cheap that is: it holds for *any* network, trained or not. Agreeing with the measurement is no sign of quality.
#
# <details><summary><b>Question.</b> What would happen if you exchanged the seen part only once, after the last step?</summary>
#
# You would get the face of a stranger with the right block means: $A z = x$ exactly, and jumps at the block borders. The exchange during the walk is what lets the unseen part fit the seen one.
# </details>
#
# ## 2. Two numbers, and everything is known
#
# To see what ILVR samples from, take an image of two numbers, each with mean 0 and variance 1, and correlation 0.9. The camera sees the first one, without noise: $x = 1$. Then the second is $\mathcal N(0.9,\ 0.19)$, and the exact denoiser $\mathbb E[z_0 \mid z_t]$ is known too (chapter 04), so whatever goes wrong below is the method's fault and not the network's.

# %% tags=["nbval-check-output"]
linear = vp_linear()
prior = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=double))
first, x = Mask(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 0.0]], dtype=double)
posterior = prior.posterior(first, x, 0.0)
truth = (posterior.means[0], posterior.covariances[0])
exact, told = denoiser_for(prior, linear), denoiser_for(posterior, linear)


def pure(noise, n=1):
    """n states of two numbers, nothing but noise."""
    return noise(torch.zeros(n, 2, dtype=double))


def law_of(sampler):
    """Exact mean and covariance of sampler(noise), a sample of two numbers."""
    return affine_law(sampler, 2)


def project(n):
    """ILVR in n steps as a function of its noise."""
    return lambda noise: last(ilvr(exact, linear, first, x, times=uniform_times(n), z=pure(noise), noise=noise))


def control(n):
    """DDPM with the denoiser of the posterior: what a network that is told x would do."""
    return lambda noise: last(ddpm(told, linear, pure(noise), uniform_times(n), noise=noise))


reached = {}
print("                mean of the second number   its variance   distance W2 to the posterior")
print(f"posterior        {truth[0][1]:.3f} {truth[1][1, 1]:26.3f}")
for name, sampler in (("ILVR", project), ("told network", control)):
    for n in (20, 200):
        mean, law = reached[name, n] = law_of(sampler(n))
        print(f"{name:12} {n:3} {mean[1]:.3f} {law[1, 1]:26.3f} {gaussian_w2(mean, law, *truth):20.3f}")

# %% [markdown]
# The told network comes right as the steps grow. ILVR does not: its second number is too low on average, by a third, and too uncertain, and 200 steps are hardly better than 20. In the picture all walks end on the line "first number = 1", as they must. Beside the line stand the exact laws of the second number, drawn sideways: where the curve is far from the line, many walks end.

# %%
ends = last(ilvr(exact, linear, first, x, times=uniform_times(200), z=pure(noise(5), 40), noise=noise(6)))
axis = torch.linspace(-2.6, 2.6, 81, dtype=double)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)


def sideways(mean, law):
    """The density of the second number, drawn to the right of the line of the measurement, as a path in the plane."""
    bell = torch.exp(-((axis - mean[1]) ** 2) / (2 * law[1, 1])) / law[1, 1].sqrt()
    return torch.stack([1 + 0.5 * bell, axis], -1)


laws = torch.stack([sideways(*reached["ILVR", 200]), sideways(*truth)])
plots.density_2d(
    axis,
    axis,
    {"grey: the prior": prior.log_prob(plane).exp().reshape(81, 81)},
    points={"ILVR: 40 ends, their law": ends, "posterior: mean, law": truth[0][None]},
    paths=laws,
    title="Every walk ends on the line of the measurement; ILVR's law sits too low on it and is too wide",
    alt=f"A grey ellipse along the diagonal of the plane of two numbers: the prior. Forty ends lie on the vertical line where the first number is 1, from {ends[:, 1].min():.1f} to {ends[:, 1].max():.1f}. To the right of this line two bell curves: ILVR's, with its top at 0.6, and the posterior's, narrower and higher, with its top at 0.9.",
    xlabel="first number (seen)",
    ylabel="second number (unseen)",
    height=500,
    width=560,
)

# %% [markdown]
# ## 3. Test the step, not the samples
#
# First make sure that we have no bug. What must hold after one exchange? A right state at time $s$ is $\alpha_s z_0 + \sigma_s\epsilon$. So hand the sampler the **true $z_0$** in place of the network's answer. Then everything it does is known, and in every direction, seen or unseen,
#
# $$\mathbb E[z_s \mid z_0] = \alpha_s z_0, \qquad \operatorname{Var}[z_s \mid z_0] = \sigma_s^2 .$$
#
# Two famous slips break this. ILVR's published code noises the reference to $t$, the level that has just been left, and not to $s$. Line 5 of RePaint's Algorithm 1, as printed, has this slip too, and a second one: the *variance* $1-\bar\alpha$ where the standard deviation $\sqrt{1-\bar\alpha}$ belongs. The authors' code has neither; a public library once took the variance over from the paper, and reverted it some weeks later. **Break it:** look at each slip alone, and watch what it does to the spread of the seen part, step by step, and then to the samples in the end.

# %% tags=["nbval-check-output"]
levels = {
    "right: level s": right_level,
    "level t for s": lambda schedule, t, s: (schedule.alpha(t), schedule.sigma(t)),
    "variance for standard deviation": lambda schedule, t, s: (schedule.alpha(s), schedule.sigma(s) ** 2),
}
z_true, times, fine = x.clone(), uniform_times(20), uniform_times(100)
spreads = {name: [] for name in levels}
for name, level in levels.items():
    for t, s in zip(times[:-2], times[1:-1], strict=True):

        def one_step(noise, t=t, s=s, level=level):
            z = linear.alpha(t) * z_true + linear.sigma(t) * noise(z_true)
            return my_ilvr(lambda z, t: z_true, linear, first, x, torch.stack([t, s]), z, noise, level)

        _, law = law_of(one_step)
        assert_close(law[1, 1], linear.sigma(s) ** 2)  # the unseen part is right in all three
        spreads[name].append((law[0, 0].sqrt() / linear.sigma(s)).item())

for name, level in levels.items():
    mean, law = law_of(lambda noise, a=level: my_ilvr(exact, linear, first, x, fine, pure(noise), noise, a))
    print(f"{name:32} spread over sigma_s: {min(spreads[name]):.2f} to {max(spreads[name]):.2f};", end="")
    print(f" W2 of the samples {gaussian_w2(mean, law, *truth):.4f}")

# %%
plots.curves(
    times[1:-1],
    spreads,
    title="One step with the true answer: only one of the three leaves the seen part at the level of the state",
    alt="Standard deviation of the seen part over sigma of s, against s, logarithmic, after single steps of a grid of 20. "
    + " ".join(
        f"{name}: " + ", ".join(f"{row[i]:.2f} at {times[i + 1]:.3f}" for i in (0, 9, 14, 17, 18)) + "."
        for name, row in spreads.items()
    ),
    xlabel="time $s$ (the walk goes from right to left; the last noisy time is 0.001)",
    ylabel=r"spread over $\sigma_s$",
    logy=True,
    height=340,
)

# %% [markdown]
# The step-level test shows both slips at once. The distance of the samples hardly moves: by a few hundredths of itself for the one, and for the variance it even gets a trace *smaller*. A test of samples cannot see what a test of steps sees at first sight (→ Exercise 13.2). Nor can you rely on pictures: a trained network forgives a seen part with too little noise, and its faces look right (→ Exercise 13.1).
#
# ## 4. Why it is not the posterior
#
# Our step is right, and the samples are still wrong. So it is the method. What does the denoiser know of $x$ when it decides about the second number? Only what the state shows: the first number at level $t$, buried in noise. For our two numbers that is easy to write down. From $\alpha_t x + \sigma_t\epsilon$ alone, the best guess of the second number is on average
#
# $$0.9\,\frac{\alpha_t^2}{\alpha_t^2 + \sigma_t^2}\,x \qquad\text{instead of}\qquad 0.9\,x .$$
#
# Early in the walk the network hears $x$ as loudly as everything else: hardly. It decides without $x$, step by step. Later $x$ becomes audible, but by then the second number is nearly decided, and the denoiser believes the state. A network that is *told* $x$ hears it at full volume from the first step. Follow the average of $\hat z_0$ along both walks:

# %%
steps = 100
shown = uniform_times(steps)[:-1]
means = {}
for name, run in (
    ("ILVR", lambda: ilvr(exact, linear, first, x, times=uniform_times(steps), z=pure(zeros), noise=zeros)),
    ("told network", lambda: ddpm(told, linear, pure(zeros), uniform_times(steps), noise=zeros)),
):
    means[name] = torch.stack([state.z_0[0, 1] for state in trajectory(run())[:-1]])
plots.curves(
    shown,
    {
        "guess from the noisy first number alone": 0.9 * linear.alpha(shown) ** 2,
        "average guess along ILVR": means["ILVR"],
        "average guess of a told network": means["told network"],
    },
    horizontal={"posterior": 0.9},
    title="ILVR's network learns of the measurement too late: its guess stays below the posterior's to the end",
    alt="Average guess of the second number against time. The guess from the noisy first number alone rises from 0 at t = 1 to 0.9 at t = 0. "
    f"The average guess along ILVR starts at 0 too and ends at {means['ILVR'][-1]:.2f}. The told network's guess is 0.9 all the way.",
    xlabel="time $t$ (the walk goes from right to left)",
    ylabel="guess of the second number",
    height=360,
)

# %% tags=["nbval-check-output"]
counts = (10, 20, 50, 100, 200)
far = {
    name: [gaussian_w2(*law_of(sampler(n)), *truth) for n in counts]
    for name, sampler in (("ILVR", project), ("told", control))
}
print("steps              ", *(f"{n:7}" for n in counts))
for name, row in far.items():
    print(f"W2 of {name:12} ", *(f"{value:7.3f}" for value in row))

# %% [markdown]
# More steps cure the told network's error, which nearly halves whenever the steps double. ILVR's settles at 0.3. (With infinitely many steps the fresh noise in the seen part averages out, and what remains is exactly this deafness.) Note what follows for fidelity: the unseen part is pulled towards the *average image*, and is *too varied*. In pictures: plausible details that have less to do with the measurement than they should.
#
# ## 5. Resampling: let the parts talk
#
# The unseen part was decided while $x$ was hardly audible. **RePaint** gives it another chance: after a step from $t$ to $s$, noise the state back up to $t$ and step down again, with the measurement exchanged again. Going back is the forward process,
#
# $$z_t = \frac{\alpha_t}{\alpha_s}\,z_s + \sqrt{\sigma_t^2 - \Bigl(\frac{\alpha_t}{\alpha_s}\Bigr)^2\sigma_s^2}\;\epsilon ,$$
#
# with the variance that is *missing* between the two levels, not $1 - \alpha_t^2$. Each time round, the unseen part is drawn anew at a level at which the seen part sits beside it. Repeated often enough, the two agree. The walk goes $j$ grid points at a time (`jump`), $U$ times in all (`repeat`); $U = 1$ is ILVR. The stretches are counted from the clean end and begin one step before it: so with $j = 5$ the first way up below comes after nine steps, and the last step is made once.

# %%
shapes = {"jump 5, repeat 3": (5, 3), "jump 1, repeat 3": (1, 3), "repeat 1: ILVR": (1, 1)}
ways = {name: resampling_path(20, *shape) for name, shape in shapes.items()}
plots.curves(
    [],
    {name: (torch.arange(len(path)), 20 - torch.tensor(path)) for name, path in ways.items()},
    title="Twenty steps as three walks: RePaint goes back up and down again",
    alt="Steps that are left, from 20 to 0, against the number of moves. "
    + " ".join(
        f"{name}: {len(path) - 1} moves, {sum(b > a for a, b in zip(path, path[1:], strict=False))} of them network calls."
        for name, path in ways.items()
    )
    + " With jump 5 the line is a large sawtooth with strokes of five steps, with jump 1 a fine one, with repeat 1 a straight line.",
    xlabel="moves (down: one network call; up: noise, free)",
    ylabel="steps left to the sample",
    height=340,
)


# %% tags=["nbval-check-output"]
def my_repaint(denoiser, schedule, operator, x, times, z, path, noise):
    for i, j in zip(path[:-1], path[1:], strict=True):
        if j < i:
            z = forward_step(z, schedule, times[i], times[j], noise)
        else:
            z = my_ilvr(denoiser, schedule, operator, x, times[[i, j]], z, noise)
    return z


grid, z = uniform_times(20), pure(noise(1), 4)
mine = my_repaint(exact, linear, first, x, grid, z, resampling_path(20, 5, 3), noise(2))
assert_close(mine, last(repaint(exact, linear, first, x, times=grid, z=z, jump=5, repeat=3, noise=noise(2))))

tried = {}
for repeat in (1, 2, 5, 20):
    for n in {1: (10, 20, 50, 100, 200), 2: (10, 20, 50, 100), 5: (5, 10, 20, 50), 20: (5, 10, 20)}[repeat]:
        counted = count_calls(exact)
        sampler = lambda noise, n=n, u=repeat, d=counted: last(  # noqa: E731
            repaint(d, linear, first, x, times=uniform_times(n), z=pure(noise), jump=1, repeat=u, noise=noise)
        )
        mean, law = law_of(sampler)
        tried[repeat, n] = (counted.calls // 2, gaussian_w2(mean, law, *truth), mean[1].item(), law[1, 1].item())
for repeat, n in ((1, 200), (2, 100), (5, 50), (20, 10), (20, 20)):
    calls, distance, mean, variance = tried[repeat, n]
    print(f"U = {repeat:2}, {n:3} steps: {calls:3} calls, mean {mean:.3f}, variance {variance:.3f}, W2 {distance:.3f}")
moves = torch.tensor(resampling_path(250, 10, 10)).diff()
print(f"published: {(moves > 0).sum()} calls; {moves.abs().sum()} steps of the grid, up and down")

# %%
plots.curves(
    [],
    {
        **{
            f"U = {u}": tuple(zip(*(tried[key][:2] for key in tried if key[0] == u), strict=True))
            for u in (1, 2, 5, 20)
        },
        "told network": (counts, far["told"]),
    },
    title="The same calls spent on repetitions buy more than spent on steps, up to a point",
    alt="Distance to the posterior against network calls, both logarithmic. "
    + " ".join(
        f"U = {u}: " + ", ".join(f"{tried[key][1]:.2f} at {tried[key][0]} calls" for key in tried if key[0] == u) + "."
        for u in (1, 2, 5, 20)
    )
    + " The told network falls along a straight line to 0.02 at 200 calls.",
    xlabel="network calls",
    ylabel="$W_2$ to the posterior",
    logx=True,
    logy=True,
    height=400,
)

# %% [markdown]
# $U = 1$ is flat. With $U = 5$ the mean comes within a tenth of the truth and the distance falls to less than a third of ILVR's; but the *variance*, too large before, is already too small (0.142 for 0.190). With $U = 20$ on 20 steps the mean is 0.866 and the variance only 0.103: every repetition repeats the error of a long step as well. So repetitions need short steps to pay, and both cost calls (→ Exercises 13.3, 13.4). The published setting, 250 steps with $j = U = 10$, makes 2410 calls.
#
# <details><summary><b>Question.</b> A told network reaches in 20 calls what U = 5 reaches in about 100. What do you get for the other 80?</summary>
#
# That you need no told network. The one that you have serves every operator: pooling, masks, bicubic, tomorrow another. Zero-shot methods pay in calls for what training would have bought.
# </details>
#
# ## 6. CCDF: come closer, diffuse faster
#
# The early part of the walk is where ILVR goes wrong, and most of the calls are spent there. **CCDF** leaves it out: it noises an image that is nearly right, an enlargement or a regression's answer, to a time $t_0 < 1$ and walks down from there, with the same exchange at each step.
#
# Two things decide how early $t_0$ must be. The start brings in an **error** $e$, and each step shrinks it: denoising pulls towards likely images, and the exchange removes what the camera sees. If no step makes an error longer, the whole walk is a **contraction**,
#
# $$\lVert e_{\text{end}}\rVert \le \kappa(t_0)\,\lVert e\rVert, \qquad \kappa(t_0) \le 1 .$$
#
# And the **law** of the start is wrong: noise around one image, instead of noise around all images that could be meant. At $t_0 = 1$ neither matters, at $t_0 = 0$ both remain.
#
# Measure both on a Gaussian world of images with 6×6 pixels, in which neighbours agree, under 2×2 pooling. Our samplers are affine here, so $\kappa$ is the largest singular value of a matrix that one batched run computes: put in each of the 36 possible errors, without any noise.

# %% tags=["nbval-check-output"]
side, half = 6, AveragePool(2)
places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
world = Gaussian(torch.zeros(1, side, side, dtype=double), torch.exp(-torch.cdist(places, places) / 4))
z_small = world.sample(1, noise(11))
x_small = half(z_small)
after = world.posterior(half, x_small, 0.0)
right = (after.means[0], after.covariances[0])
small_exact = denoiser_for(world, linear)


def late(t_0, step=0.02):
    """A grid from t_0 to 0 with steps of about `step`."""
    n = max(1, round(t_0 / step))
    return torch.linspace(t_0, 0, n + 1, dtype=double)


def contraction(t_0):
    """The largest factor by which the walk from t_0 stretches an error of its start."""
    errors = torch.eye(side**2, dtype=double).reshape(-1, 1, side, side)
    ends = last(ccdf(small_exact, linear, half, 0 * x_small, times=late(t_0), init=errors, noise=zeros))
    return torch.linalg.matrix_norm(ends.flatten(1), 2).item()


t_0s = (0.02, 0.1, 0.2, 0.3, 0.5, 1.0)
kappas = [contraction(t_0) for t_0 in t_0s]
print("t_0                         ", *(f"{t:6.2f}" for t in t_0s))
print("calls                       ", *(f"{len(late(t)) - 1:6}" for t in t_0s))
print("largest factor of an error  ", *(f"{k:6.3f}" for k in kappas))

# %% tags=["nbval-check-output"]
inits = {
    "copied pixels": half.pinv(x_small),
    "bicubic": resize(x_small, 2),
    "regression": after.mean[None],
}
late_far = {
    name: [
        gaussian_w2(
            *affine_law(
                lambda noise, t=t_0, i=init: last(
                    ccdf(small_exact, linear, half, x_small, times=late(t), init=i, noise=noise)
                ),
                side**2,
            ),
            *right,
        )
        for t_0 in t_0s
    ]
    for name, init in inits.items()
}
for name, row in late_far.items():
    print(f"W2 per pixel from {name:13}", *(f"{d / side:6.3f}" for d in row))
    best = min(row)
    shortest = next(t for t, d in zip(t_0s, row, strict=True) if d < 1.1 * row[-1])
    print(f"     as good as the whole walk, within a tenth, from t_0 = {shortest:.2f} on; best {best / side:.3f}")

# %%
plots.curves(
    t_0s,
    {
        "largest factor of an error": kappas,
        **{f"distance, {name}": [d / side for d in row] for name, row in late_far.items()},
    },
    title="An error of the start is soon forgotten, and a late start from a good image beats the whole walk",
    alt="Against the start time from 0.02 to 1: the largest factor of an error falls from "
    f"{kappas[0]:.2f} to {kappas[2]:.2f} at 0.2, {kappas[4]:.3f} at 0.5 and nearly nothing at 1. Distance to the posterior per pixel: "
    + " ".join(
        f"{name}: {row[0] / side:.2f} at 0.02, {row[2] / side:.3f} at 0.2, {row[3] / side:.3f} at 0.3, {row[-1] / side:.3f} at 1."
        for name, row in late_far.items()
    ),
    xlabel="start time $t_0$ (calls grow with it)",
    ylabel="factor; $W_2$ per pixel",
    ylim=(0.03, 1.2),
    logx=True,
    logy=True,
    height=400,
)

# %% [markdown]
# The factor never exceeds 1 and falls quickly: after a walk from $t_0 = 0.5$ next to nothing of the start's error is left. The distance falls too, and then, for the good starts, *rises* a little. The walk from pure noise is no ideal: it brings back the error of section 4. So the shortest walk that works is a fifth to a half of the whole, the shorter the better the start, and a good late start can even beat it (→ Exercises 13.6, 13.8).
#
# <details><summary><b>Question.</b> What would happen if you started from the original itself, at t_0 = 0.05 and at t_0 = 0.9?</summary>
#
# At 0.05 you would get nearly the original: little was noised, and the error $e$ is 0. At 0.9 you would get *a* face that fits the measurement, like every other start: the walk has forgotten what it began with. Contraction forgets good starts as well as bad ones.
# </details>
#
# Does it hold for faces? Move the start time and choose the start:

# %%
bicubic_start = 2 * resize(image(x_faces), 4) - 1
starts = {"bicubic": bicubic_start, "copied pixels": None, "another face": z_faces.roll(1, 0)}


def draw_late(t_0=0.3, begin="bicubic"):
    """CCDF in 12 steps from t_0, three faces."""
    init = starts[begin]
    grid = uniform_times(12, t_0)
    z = last(
        ccdf(painter, cosine, pool, x_faces[:3], times=grid, init=init if init is None else init[:3], noise=noise(4))
    )
    before = forward_step(pool.pinv(x_faces[:3]) if init is None else init[:3], cosine, 0.0, t_0, noise(4))
    return plots.image_grid(
        torch.cat([image(before), image(z)]),
        columns=3,
        zoom=2,
        title=f"t_0 = {t_0:.2f}, {begin}: {psnr(image(z), people[:3], channel='rgb').mean():.1f} dB",
        alt=f"Above three noised starts, below the three faces that CCDF makes of them from t_0 = {t_0:.2f}, begun with: {begin}.",
    )


widgets.explorer(draw_late, t_0=(0.05, 0.95, 0.05, 0.3), begin=list(starts))

# %%
widgets.frames(
    draw_late,
    [{"t_0": t, "begin": b} for b in ("bicubic", "another face") for t in (0.05, 0.3, 0.9)],
    title="Too late a start keeps the blur, or another face; at 0.3 little of it is left, at 0.9 nothing",
    alt="Six pairs of rows of three faces, above the noised starts, below the results. From bicubic: at 0.05 the faces are blurred, at 0.3 nearly sharp and right, at 0.9 sharp, with a wrong brim. From another face: at 0.05 the features of two faces mix, with stripes and double outlines; at 0.3 and 0.9 it is the right people.",
    columns=3,
)

# %% [markdown]
# Yes, with two remarks. At 0.3 the faces are the right ones, but still a little soft; at 0.9 they are sharp and the start is forgotten, a good one too: the red hat has a false brim again. And PSNR cannot choose the start: from bicubic the blurred faces at 0.05 have 25.1 dB, the sharp ones at 0.9 have 24.7.
#
# ## 7. A filter that is no projection
#
# ILVR's paper does not use $A^+A$. It uses bicubic enlargement after bicubic shrinking, $\phi$. That is a fine low-pass filter, but is it a projection? A projection applied twice does nothing new. $A^+A$ is even an orthogonal one: its singular values are 0 or 1. Measure, in one dimension, from 32 pixels to 8:

# %% tags=["nbval-check-output"]
down, up = resize_matrix(32, 1 / 4), resize_matrix(8, 4.0)
filters = {"$A^+A$, bicubic": torch.linalg.pinv(down) @ down, "bicubic up after bicubic down": up @ down}
for name, phi in filters.items():
    twice = torch.linalg.matrix_norm(phi @ phi - phi) / torch.linalg.matrix_norm(phi)
    left = torch.linalg.matrix_norm(torch.eye(8, dtype=double) - down @ phi @ torch.linalg.pinv(down), 2)
    print(f"{name:30} phi phi - phi: {twice:.2f} of phi; of a residual A z - x one exchange leaves up to {left:.2f}")

# %%
bicubic4 = Bicubic(4)
x_bicubic = bicubic4(z_faces)
for name, enlarge in (("$A^+A$", None), ("bicubic up and down", lambda x: resize(x, 4))):
    run = ilvr(painter, cosine, bicubic4, x_bicubic, times=uniform_times(20), z=start, enlarge=enlarge, noise=noise(1))
    z = last(run)
    print(f"faces, {name:20}: A z - x in the end {(bicubic4(z) - x_bicubic).square().mean().sqrt():.1e}")

# %%
plots.curves(
    torch.arange(1, 33),
    {name: torch.linalg.svdvals(phi) for name, phi in filters.items()},
    title="A projection takes a direction or leaves it; the bicubic filter takes some of them by halves",
    alt="Sorted singular values of two 32 by 32 matrices. The projection has 8 values of 1 and 24 of 0. Bicubic up after bicubic down starts at 1 and falls to "
    f"{torch.linalg.svdvals(filters['bicubic up after bicubic down'])[7]:.2f} at the eighth, then 0.",
    xlabel="direction, sorted",
    ylabel="singular value",
    height=320,
)

# %% [markdown]
# A direction with a gain of one half is exchanged by half. The walk repeats the exchange, so most of the residual vanishes; but the last step brings a new residual, which is exchanged only once. You see it in the table, rarely in the picture. With average pooling and copied pixels $\phi$ *is* $A^+A$. Use the pseudo-inverse wherever you have it, and know what you lose where you have not.
#
# ## 8. Noise in the measurement
#
# With sensor noise, $x = Az_0 + \sigma_x n$, the exchange as published ends with $Az = x$: it believes the noise. What would be right? The reference $\alpha_s x$ brings noise of its own. In a direction that $A$ shows with gain $\gamma$ (a singular value), $x/\gamma$ carries noise of standard deviation $\sigma_x/\gamma$, and at time $s$ the reference has $\alpha_s\sigma_x/\gamma$ of it. A right state has $\sigma_s$. So top it up only to $\sigma_s$:
#
# $$\text{add}\quad \sqrt{\sigma_s^2 - \alpha_s^2\,\sigma_x^2/\gamma^2}\;\epsilon \qquad\text{while that is real,}$$
#
# and once the state is quieter than the measurement, stop exchanging that direction: it is the network's from there on. The library does this when it is told `noise_std`. It needs the operator's singular values; the published methods do not do it (→ Exercise 13.5).

# %% tags=["nbval-check-output"]
sigma_x = 0.3
noisy_truth = prior.posterior(first, x, sigma_x)
noisy_right = (noisy_truth.means[0], noisy_truth.covariances[0])
noisy_told = denoiser_for(noisy_truth, linear)
print("                     first number       second number")
print(f"posterior            {noisy_right[0][0]:.2f} +- {noisy_right[1][0, 0].sqrt():.2f}       ", end="")
print(f"{noisy_right[0][1]:.2f} +- {noisy_right[1][1, 1].sqrt():.2f}")
for name, std, repeat in (
    ("noise ignored", 0.0, 1),
    ("noise told", sigma_x, 1),
    ("noise told, U = 5", sigma_x, 5),
):
    sampler = lambda noise, std=std, u=repeat: last(  # noqa: E731
        repaint(exact, linear, first, x, std, uniform_times(50), pure(noise), jump=1, repeat=u, noise=noise)
    )
    mean, law = law_of(sampler)
    stds, distance = law.diagonal().clamp(min=0).sqrt(), gaussian_w2(mean, law, *noisy_right)
    print(f"{name:18} {mean[0]:6.2f} +- {stds[0]:.2f} {mean[1]:12.2f} +- {stds[1]:.2f}   W2 {distance:.2f}")

# %% [markdown]
# Ignored, the noise is taken for signal: the first number is nailed to $x$. Told, it gets about the right spread (0.30 for 0.29), and now its mean is too low, 0.81 for 0.92: once $x$ is noisier than the state the network goes on alone, and it pulls the first number towards the second, which is as deaf as before (0.58 for 0.83). The smaller $W_2$ comes from the spread. Resampling now *harms*: below the level of the noise nothing holds $x$ any more, and every step back forgets some of it. None of the three is the posterior; chapters 14 and 15 have methods that come closer. And mind the **units**: noise of 0.05 on an image in $[0, 1]$ is `noise_std=0.1` in state units.
#
# ## 9. Faces
#
# Now the same functions with the network, at about equal cost: 50 calls for ×4, 20 for CCDF.

# %%
grid50, repaint_grid = uniform_times(50), uniform_times(10)


def methods_x4(seed):
    """Name: (calls, faces) for one seed."""
    z = noise(seed)(z_faces)
    regular = ilvr(painter, cosine, pool, x_faces, times=grid50, z=z, noise=noise(seed + 100))
    back = repaint(painter, cosine, pool, x_faces, times=repaint_grid, z=z, jump=1, repeat=5, noise=noise(seed + 100))
    late_grid = uniform_times(20, 0.3)
    short = ccdf(painter, cosine, pool, x_faces, times=late_grid, init=bicubic_start, noise=noise(seed + 100))
    return {"ILVR": (50, last(regular)), "RePaint, U = 5": (46, last(back)), "CCDF from bicubic": (20, last(short))}


runs = [methods_x4(seed) for seed in range(2)]
decibels = lambda z: psnr(image(z), people, channel="rgb")  # noqa: E731
print(f"bicubic              0 calls  {decibels(bicubic_start).mean():.1f} dB")
for name in runs[0]:
    one = torch.stack([decibels(run[name][1]) for run in runs])
    residual = (pool(runs[0][name][1]) - x_faces).square().mean().sqrt()
    print(f"{name:18} {runs[0][name][0]:3} calls  {one.mean():.1f} +- {one.std() / one.numel() ** 0.5:.1f} dB,", end="")
    print(f" residual {residual:.0e}")

# %%
rows(
    {"bicubic": bicubic_start, **{f"{k}, {n} calls": z for k, (n, z) in runs[0].items()}, "original": z_faces},
    title="Three projections on five faces: all true to the camera, not equally true to the person",
    alt="Strips of five faces: bicubic, blurred; ILVR, sharp, with some wrong glances, a brim on a hat that has none; RePaint with U = 5, sharp and closer to the originals; CCDF from bicubic, slightly softer; the originals.",
)

# %% [markdown]
# Mind the error bars: they are over five faces and two seeds. Repetitions on a coarse grid gain about two decibels over ILVR at its price, and CCDF keeps more than half of that gain with 20 calls, but softer: some of its start's blur is left. All three are consistent with the camera to rounding, and still differ that much.
#
# **Inpainting** is harder. Pooling shows a bit of everything; a hole shows nothing inside. Here the two parts meet along a border, and if they disagree you see it. Cover the right half. As a measure of a **seam** take the step between the two columns at the border, relative to the steps beside it; the originals, with a nose just there, have a value of their own. Seams are small and this number wavers; a disagreement over the whole picture is easier to measure: compare the colours of the two upper corners, one seen and one filled in.

# %%
half_seen = torch.ones(32, 32)
half_seen[:, 16:] = 0
keep = Mask(half_seen)
x_hole = keep(z_faces)


def seam(z):
    """Mean step across the border, over the mean of the two steps on either side of it."""
    jumps = z.diff(dim=-1).abs().mean(1)
    return (jumps[:, :, 15].mean(1) / jumps[:, :, [13, 14, 16, 17]].mean((1, 2))).mean().item()


def corners(z):
    """How far apart the two upper corners are, which show one background."""
    return (z[..., :4, :4].mean((2, 3)) - z[..., :4, -4:].mean((2, 3))).abs().mean().item()


filled = {"half a face": x_hole}
for n, repeat in ((46, 1), (10, 5), (20, 5)):
    counted = count_calls(painter)
    z = last(
        repaint(counted, cosine, keep, x_hole, times=uniform_times(n), z=start, jump=1, repeat=repeat, noise=noise(2))
    )
    filled[f"U = {repeat}, {n} steps: {counted.calls} calls"] = z
for name, z in {**filled, "original": z_faces}.items():
    print(f"{name:27} seam {seam(z):.2f}, corners {corners(z):.2f}")

# %%
rows(
    {**filled, "original": z_faces},
    title="Filling in half a face: without repetitions two halves meet, with them one face appears",
    alt="Strips of five faces. First: the right half is grey. U = 1: the right half has another background, one face has two mouths, some heads end in wrong colours, and the border can be seen. U = 5 at the same number of calls: whole faces with one mouth, one background and matching skin, the right eyes of the first two smeared. U = 5 at twice as many calls: the eyes are clear, the first face has an open mouth. Last: the originals.",
)

# %% [markdown]
# Nobody can restore *this* eye, and a low PSNR would say nothing. The question is whether the filling could belong to the rest. Without repetitions backgrounds and mouths of two pictures meet; with five repetitions on a coarse grid, at the same price, skin, hat and background continue, though some right eyes are smeared. Twice the calls clear most of them, and neither of our two numbers gets better by it.
#
# <details><summary><b>Question.</b> RePaint's known pixels are exact in the end, whatever U is. Why then do seams disappear only with repetitions?</summary>
#
# A seam is a disagreement *between* the parts. The known side is right already; it is the unknown side that must move, and it moves only if it is drawn again with the known side in view, at a level where there is room to move. The last exchange changes the known side alone.
# </details>
#
# ## 10. A photo
#
# `photo-unconditional` was trained on small pieces of photos and on nothing else; alone it makes painterly textures, no motifs. Is such a prior worth anything? A piece of a cat, ×4, under pooling and under bicubic shrinking, with about 30 calls.

# %%
brush = NetworkDenoiser(load_pretrained("photo-unconditional"), schedule=cosine)
cat = photo("chelsea")[..., 100:212, 140:252]
shrinks = {"pooling": AveragePool(4), "bicubic": Bicubic(4)}
pictures = {}
print("                       PSNR   textures (sliced W1)   residual")
for shrink, operator in shrinks.items():
    x_cat = operator(2 * cat - 1)
    enlarged = resize(x_cat, 4)
    regression = 2 * super_resolve(image(x_cat), method="regression") - 1
    short_grid = uniform_times(15, 0.25)
    found = {
        "bicubic": enlarged,
        "A+ x": operator.pinv(x_cat),
        "regression": regression,
        "ILVR": last(ilvr(brush, cosine, operator, x_cat, times=uniform_times(30, 0.995), noise=noise(1))),
        "RePaint, U = 3": last(
            repaint(brush, cosine, operator, x_cat, times=uniform_times(10, 0.995), jump=1, repeat=3, noise=noise(1))
        ),
        "CCDF, regression": last(
            ccdf(brush, cosine, operator, x_cat, times=short_grid, init=regression, noise=noise(1))
        ),
    }
    for name, z in found.items():
        pictures[shrink, name] = image(z)
        residual = (operator(z) - x_cat).square().mean().sqrt()
        print(f"{shrink:8} {name:16} {psnr(image(z), cat, crop=4).item():.2f}", end="")
        print(f" {255 * sliced_wasserstein(image(z), cat).item():16.2f} {residual:16.0e}")

# %%
names = ("bicubic", "regression", "ILVR", "RePaint, U = 3", "CCDF, regression")
plots.compare(
    {**{name: pictures["pooling", name] for name in names}, "original": cat},
    [(4, 4, 44, 44), (56, 40, 44, 44)],
    title="Pooled by 4, restored by a network that only knows what photos look like",
    alt="Two magnified pieces of a cat's face, the eye and the fur below it, by bicubic, regression, ILVR, RePaint with three repetitions, CCDF from the regression, and the original. Bicubic is blurred. The regression is smooth and clean. ILVR has grain and flecks, also beside the pupil. RePaint is smoother, and the camera's blocks of 4 by 4 pixels show in its fur. CCDF has some texture, and fainter blocks. The original has fine, ordered strokes of fur.",
    zoom=3,
)

# %% [markdown]
# The fair control is $A^+x$: as consistent as the three methods, and with no prior. Against it all three come closer to the cat's textures (2.60 → 1.66 to 2.08 under pooling, 2.06 → 1.67 to 1.93 under bicubic shrinking), so the prior is worth something. In decibels they gain under pooling and lose under bicubic shrinking, where $A^+x$ alone has 29.68 dB. None beats the regression there, which was *trained* to be the mean; samples never do (chapter 09).
#
# And mind what a number sees. ILVR has the best textures and the lowest PSNR of the three. Its flecks are the deafness of section 4 on a photo, grain decided before the measurement could be heard, and grain in the wrong places is texture for a measure that forgets places. RePaint trades it against smoothness, and against blocks that still show in the fur. One photo and one seed rank nothing; `python benchmarks/posterior.py` has the exact distances for all methods, and chapter 15 shows them.
#
# ## 11. YODA: a late start for every pixel
#
# CCDF starts a whole image late. Why not give **each pixel its own start**? A wall needs no 50 steps; an outline does. YODA (*you only diffuse areas*) gives each pixel an importance $a \in [0, 1]$ and a mask over time,
#
# $$M(t) = 1 \ \text{ where }\ t \le \ell + (1 - \ell)\,a, \qquad z_s = M(t)\,z' + (1 - M(t))\,(\alpha_s\,g + \sigma_s\epsilon),$$
#
# with the guide $g$, the enlarged LR image, and a lowest start $\ell$ (0 in the table below, 0.1 in the figure). Until its time comes a pixel holds the noised guide, merged as in RePaint. But YODA is **trained**, not zero-shot: its network is told the LR image, and its loss counts the pixels with $M(t) = 1$ only. The paper takes $a$ from the attention of a self-supervised transformer (DINO); we take the local contrast of the LR image, which needs no network.

# %% tags=["nbval-check-output"]
lr_faces = image(x_faces)
a_faces = importance(lr_faces, 4)
ones, kept = torch.ones_like(a_faces[:1]), {}
through = last(yoda(painter, cosine, bicubic_start, ones, start, uniform_times(5), noise=noise(3)))
plain = last(ddpm(painter, cosine, start, uniform_times(5), noise=noise(3)))
assert_close(through, plain)
told_small = denoiser_for(after, linear)
for name, a in (
    ("every pixel from t = 1", torch.ones(1, 1, side, side, dtype=double)),
    ("upper half from 1, lower half from 0.2", torch.ones(1, 1, side, side, dtype=double)),
    ("every pixel from t = 0.6", torch.full((1, 1, side, side), 0.6, dtype=double)),
    ("no pixel: the guide", torch.zeros(1, 1, side, side, dtype=double)),
):
    if "half" in name:
        a[..., side // 2 :, :] = 0.2
    sampler = lambda noise, a=a: last(  # noqa: E731
        yoda(told_small, linear, resize(x_small, 2), a, noise(z_small), uniform_times(50), noise=noise)
    )
    distance, worked = gaussian_w2(*affine_law(sampler, side**2), *right), share(a, uniform_times(50)).item()
    print(f"{name:40} works on {worked:4.0%} of pixels and steps, W2 per pixel {distance / side:.3f}")

# %%
rows(
    {
        "the guide": bicubic_start,
        "importance": (2 * a_faces - 1).expand(-1, 3, -1, -1),
        **{f"mask at t = {t}": (2 * diffused(a_faces, t, 0.1) - 1).expand(-1, 3, -1, -1) for t in (0.8, 0.6, 0.4, 0.2)},
    },
    title="Where the picture is rich in contrast diffusion begins early; flat areas join at the end",
    alt="Six strips for five faces: the bicubic enlargement; the importance map, bright along the outlines of hat, hair and head; then the mask at t = 0.8, 0.6, 0.4 and 0.2: white areas that grow from a few spots on the outline until only corners are black. Inside the second and the fifth face a dark hole is open still at t = 0.6 and 0.4.",
)

# %% [markdown]
# Our map finds outlines, not eyes: in 8×8 pixels eyes have little contrast, and inside some faces the mask opens late. An attention map may know better where a face has an eye.
#
# With a perfect told network a late start can only lose, though a moderate one loses nothing that can be seen: CCDF's lesson again, pixel by pixel. (The lower half's start at 0.2 costs; 0.6 for all, with the same share of work, does not.) A gain must come from networks that are *not* perfect. So train two small ones, alike but for the loss, and sample each in three ways: every pixel all the way, YODA's mask, and, as a control, one common late start that works on as many pixels as the mask. `python benchmarks/yoda.py` did that on faces ×4 (± is a standard error over three seeds):

# %% tags=["nbval-check-output"]
record = json.loads(resources.files("tutorial_lib.data").joinpath("yoda.json").read_text())
cells, ways_of = record["cells"], ("every pixel", "YODA", "one late start")
trainings = ("plain", "masked")


def mean_error(values):
    column = torch.tensor(values, dtype=double)
    return column.mean().item(), column.std().item() / len(values) ** 0.5


print(f"bicubic: {record['bicubic']['PSNR']:.2f} dB, sliced W1 {record['bicubic']['W1']:.2f}")
print("training, sampling                    PSNR            sliced W1       colour shift    share")
for training in trainings:
    for way in ways_of:
        cell = cells[f"{training}/{way}"]
        words = ["{:6.2f} +- {:.2f}".format(*mean_error(cell[m])) for m in ("PSNR", "W1", "shift")]
        print(f"{training + ', ' + way:34} {'  '.join(words)}  {mean_error(cell['share'])[0]:6.2f}")
for training in trainings:
    small = cells[f"{training}, batch of 2/every pixel"]
    print("batches of 2, every pixel, {:6}: PSNR {:.2f} +- {:.2f}".format(training, *mean_error(small["PSNR"])), end="")
    print(", colour shift {:.2f} +- {:.2f}".format(*mean_error(small["shift"])))

# %%
plane_of = {
    way: tuple([mean_error(cells[f"{t}/{way}"][m])[0] for t in trainings] for m in ("PSNR", "W1")) for way in ways_of
}
plots.scatter(
    plane_of,
    names={way: list(trainings) for way in ways_of},
    title="YODA's mask buys PSNR for texture; one late start with the same work loses more texture",
    alt="Sliced Wasserstein distance against PSNR, two points for each way of sampling, the plain and the masked training. "
    + " ".join(
        f"{way}: " + ", ".join(f"{p:.1f} dB and {w:.2f}" for p, w in zip(*points, strict=True)) + "."
        for way, points in plane_of.items()
    ),
    xlabel="PSNR in dB (right is better)",
    ylabel="sliced $W_1$ (below is better)",
    height=360,
)

# %% [markdown]
# Read it in three steps, each against its error bars.
#
# - **The mask, in sampling.** With 56 % of the work PSNR rises by half a decibel and the colour shift falls, *also for the training that never saw a mask*. But the textures move away from real ones. That is the perception–distortion plane of chapter 02, not a better model: pixels that join late stay closer to the smooth guide, and they share its mean colour.
# - **Importance.** One late start for all, with the same work, gets the same PSNR, and loses *more* texture. So choosing pixels by contrast does buy something: the texture is kept where there is some.
# - **The masked loss.** Sampled at every pixel, the masked training gains 0.4 dB, colour and even texture (1.45 → 1.33); it pays with texture under the mask. In batches of 2, where the paper reports less colour shift especially, ours hardly changes (1.12 → 1.10) and PSNR falls by 0.2 dB. The paper's networks are larger and were trained much longer; ours are far from converged (the enlargement alone has a higher PSNR, as it should against single samples). Take the protocol with you, a control with the same share of work, rather than our numbers.
#
# And no time was saved: our networks compute every pixel in every call, whether the mask uses it or not (→ Exercise 13.7).
#
# ## 12. Learn to read failures
#
# Four pictures that you will meet when you use these methods, made on purpose:

# %%
sensor, coarse = 0.3 * noise(9)(x_faces), uniform_times(20)
blurry = AveragePool(4) @ Blur(gaussian_kernel(9, 1.8))


def restored(operator, x, noise_std=0.0, **options):
    """ILVR in 20 steps."""
    return last(ilvr(painter, cosine, operator, x, noise_std, coarse, start, noise=noise(1), **options))


cases = {  # name: the operator and the measurement of the method, its answer
    "seam": (keep, x_hole, filled["U = 1, 46 steps: 46 calls"]),
    "ringing": (blurry, x_faces, restored(blurry, x_faces)),
    "ignored measurement": (pool, x_faces, restored(pool, x_faces, enlarge=pool.adjoint)),
    "noise believed": (pool, x_faces + sensor, restored(pool, x_faces + sensor)),
    "noise told": (pool, x_faces + sensor, restored(pool, x_faces + sensor, 0.3)),
}
print("                      its own A z - x    the camera's A z - A z_0     PSNR")
for name, (operator, x_own, z) in cases.items():
    camera = keep if name == "seam" else pool
    own, off = ((a - b).square().mean().sqrt() for a, b in ((operator(z), x_own), (camera(z), camera(z_faces))))
    print(f"{name:20} {own:16.0e} {off:27.2f} {decibels(z.clamp(-1, 1)).mean():8.1f} dB")

# %%
rows(
    {**{name: case[-1] for name, case in cases.items()}, "original": z_faces},
    title="Four failures and one cure: what each looks like",
    alt="Six strips of five faces. Seam: two halves with different backgrounds, a double mouth. Ringing: overdriven colours, dark and bright spots around every outline and waves in the background. Ignored measurement: sharp, calm faces of other people, in colours a little like the right ones. Noise believed: blocks of wild colours behind which faces can be guessed. Noise told: calm faces, some with the right hats and hair. Originals.",
)

# %% [markdown]
# - **Seam**: two parts that never talked, and no residual knows. Look at the border of what is known. Cure: repetitions.
# - **Ringing**: the exchange demands what the camera never did. Here the operator holds a blur that the camera did not have, and $A^+$ sharpens it away: its own residual is nothing, the camera's is 0.17. Shrink an original with your operator and compare with the camera's picture before anything else.
# - **Ignored measurement**: beautiful, and another person. Here $A^T$ stood for $A^+$, a sixteenth of it; a wrong sign or a forgotten $\alpha_s$ looks the same. Always compute $Az - x$.
# - **Noise believed**: $Az = x$ to rounding, which is the fault: the picture is 0.30 away from the measurement without noise. Told, the residual is 0.3, as large as the noise, and the distance falls to 0.11.
#
# | you have | take | calls | know that |
# |---|---|---|---|
# | a good start (regression, enlargement), little time | CCDF, $t_0$ of 0.2 to 0.4 | 10–20 | softness of the start remains |
# | ×4, no noise | RePaint on a coarse grid, $U$ of 3 to 5 | 50 | fewer flecks than ILVR at the same price |
# | a hole | RePaint, $U \ge 5$ | 50–2000 | seams tell you when $U$ is too small |
# | noise in $x$ | ILVR with `noise_std`; better chapters 14, 15 | 50 | its mean is too low; repetitions make it worse |
# | pairs and time to train | a told network (chapters 09 to 12) | 1–20 | it serves one operator |
#
# Beside the network calls everything here is nearly free: an exchange costs one $A$ and one $A^+$.
#
# > **Common mistakes**
# >
# > - Noising the reference to $t$; or by the variance; or not at all. Test $\operatorname{Var}[z_s\mid z_0] = \sigma_s^2$.
# > - $A^T$ for $A^+$: for pooling by 4 it is 16 times too weak.
# > - Renoising from $s$ to $t$ with variance $\sigma_t^2$ in place of what is missing.
# > - Counting steps where calls are meant: $N$ steps with $j = 1$, each walked $U$ times, make $N + (N-1)(U-1)$ calls, and the steps back are free.
# > - Trusting a residual of zero: every exact exchange ends with it, good face or bad. One that is *not* what the noise allows is a warning; one that is proves nothing.
# > - `noise_std` of an image in $[0, 1]$ given to a method that wants state units: half of what it should be.
# > - Repeating a stretch below the noise level of $x$.
#
# > **In the papers**
# >
# > - **ILVR** (arXiv:2108.02938): the factor of a low-pass filter decides how much of the reference is kept; its code may stop exchanging before the end.
# > - **RePaint** (arXiv:2201.09865): 250 times, $j = 10$, $U = 10$; inpainting with masks that the model never saw, on faces and ImageNet.
# > - **CCDF** (arXiv:2112.05146): super-resolution, inpainting and MRI from a single forward diffusion of a better start; explains it by contraction of the conditional steps.
# > - **YODA** (arXiv:2308.07977): extends SR3, SRDiff and DiffBIR; reports gains in PSNR, SSIM and LPIPS, and less colour shift in small batches.
#
# > **Going further**
# >
# > - Let $U$ depend on $t$: where do repetitions pay most? Section 4 tells you where the damage is done.
# > - Replace the DDPM step of `my_ilvr` by DDIM with $\eta = 0$. What happens to the fresh noise, and to the law?
# > - Take the posterior's own importance: start each pixel at the time at which $\sigma_t$ equals its posterior standard deviation.
#
# Eight [exercises](../exercises/13_zero_shot_projection.ipynb) wait.

# %% [markdown]
# ## Recap
#
# 1. **Turn:** after each DDPM step replace the seen part, $z' + A^+(\alpha_s x + \sigma_s A\epsilon - Az')$; the same lines super-resolve and inpaint.
# 2. **Test:** with the true $z_0$ as the answer every state has spread $\sigma_s$; samples hardly show a wrong level, the step shows it at once.
# 3. **Explain:** the network hears $x$ only through the state's noise, so the unseen part is decided too early; the limit has the mean 0.62 where 0.9 is right.
# 4. **Repair:** going back and forth lets the parts agree; $U = 5$ cut the distance to less than a third, at five times the calls per step; with too long steps repetitions cost variance.
# 5. **Start:** a walk contracts, so a good start may be noised little; from $t_0 = 0.2$ (regression) or $0.3$ (bicubic) the walk did as well as the whole one, within a tenth.
# 6. **Handle:** top noise up to $\sigma_s$ and stop where $x$ is noisier than the state; bicubic up and down is no projection and leaves a residual.
# 7. **Diffuse:** YODA is a late start per pixel in a trained model; with a perfect network it gains nothing, with small ones its mask bought PSNR and colour for some texture, and kept more texture than one late start with the same work.
#
# Next: chapter 14 does the exchange in the operator's own coordinates and corrects $\hat z_0$ instead of $z_s$. That small change reaches the posterior.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Choi et al., *ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models*, arXiv:2108.02938.
# - Lugmayr et al., *RePaint: Inpainting using Denoising Diffusion Probabilistic Models*, arXiv:2201.09865.
# - Chung, Sim, Ye, *Come-Closer-Diffuse-Faster: Accelerating Conditional Diffusion Models for Inverse Problems through Stochastic Contraction*, arXiv:2112.05146.
# - Moser et al., *Dynamic Attention-Guided Diffusion for Image Super-Resolution* (YODA), arXiv:2308.07977.
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, arXiv:2006.11239.
