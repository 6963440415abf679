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
# # 00 Start here: a photo four times larger
#
# ## What you will be able to do
#
# - **super-resolve** a photo with one line of code, and later your own;
# - **draw** several plausible answers to the same small photo and read where they disagree;
# - **tell** in your own words what a diffusion model does, forwards and backwards;
# - **find** your way through the chapters, the exercises and their solutions;
# - **look up** which letter stands for what in the survey, in the papers and here;
# - **check** that your installation is complete.
#
# **Prerequisites:** Python, and PyTorch or NumPy arrays. No diffusion, no statistics beyond mean and variance.
#
# **Reading time:** 15 minutes. Running time: about 20 s on two CPU cores; no download, no GPU.
#
# **Survey:** this course follows Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*
# (arXiv 2401.00736). This page goes with its introduction.
#
# > **Notation.** $x$ is the low-resolution image (`lr`), $y$ the high-resolution original (`hr`), $\hat y$ an answer (`sr`).
# > Images are float tensors (batch, channels, height, width) with values from 0 to 1.
# > $z_t$ is an image with noise in it: $t = 0$ is clean, $t = 1$ is noise.

# %% [markdown]
# ## The first minute
#
# Take a photo of a cat. Shrink it to a quarter of its height and width: of every 16 pixels, one is left.

# %%
import torch

from tutorial_lib import plots, widgets
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.super_resolution import super_resolve

hr = photo("chelsea")[..., 20:276, 60:444]  # (1, 3, 256, 384); no method will see it
lr = to_uint8(resize(hr, 1 / 4)).float() / 255  # (1, 3, 64, 96), rounded to 8 bits like any image file

pixels = lr.repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1)  # each pixel as a square of 4 × 4
plots.image_grid(
    [hr, pixels],
    ["the original, 384 × 256 pixels", "all that is left: 96 × 64 pixels"],
    title="The task: get from the right picture back to the left one",
    alt="Left: the head of a tabby cat, 384 by 256 pixels, fur and whiskers visible. Right: what is left of it, 96 by 64 "
    "pixels drawn as large squares; eyes and nose are still there, the single hairs are gone.",
)

# %% [markdown]
# Now enlarge the small picture again, in three ways.
# *Bicubic* interpolation blends neighbouring pixels; nothing is learned.
# *Regression* is a network trained to be as close as possible to the original on average.
# *Diffusion* starts from the regression and draws the missing detail, step by step, out of noise.

# %%
answers = {
    "bicubic": super_resolve(lr, method="bicubic"),
    "regression": super_resolve(lr, method="regression"),
    "diffusion": super_resolve(lr, method="residual-diffusion", seed=0),
}
plots.compare(
    {"input": pixels, **answers, "original": hr},
    crops=[(64, 80, 60, 60), (2, 144, 60, 60)],
    zoom=3,
    title="One input, three answers, and the truth",
    alt="Two details of the cat, the left eye and the forehead, magnified three times in five versions. The input shows "
    "squares; bicubic is blurred; regression has clean edges and smooth, streaky fur; diffusion has edges and a fine, "
    "grainy texture; the original shows single hairs, which none of the others does.",
)

# %% [markdown]
# Compare the rim of the eye and the fur of the forehead. Bicubic is soft everywhere. Regression draws clean outlines but
# combs the fur flat. Diffusion adds texture where it finds texture likely. These are not the hairs that were there: the
# input no longer holds those. (The network is small and was trained for an hour: some of its texture is grain, or hatching that no cat wears.)
#
# How far is each answer from the original? PSNR puts the mean squared error on a logarithmic scale, in decibels (dB).
# Higher is closer: 3 dB more is half the squared error, 10 dB more a tenth. `psnr` compares brightness only, as most papers do
# (your own version in exercise 00.4 averages red, green and blue).
# `sharpness` says how steep the steepest edges are; the goal is the original's value.

# %% tags=["nbval-check-output"]
from tutorial_lib.metrics import lr_consistency, psnr, sharpness

for name, sr in answers.items():
    print(f"{name:10}  PSNR {psnr(sr, hr, crop=4).item():.1f} dB   sharpness {sharpness(sr).item():.3f}")
print(f"original                   sharpness {sharpness(hr).item():.3f}")

# %% [markdown]
# The two columns disagree on the winner, and neither is wrong: regression is closest pixel by pixel,
# diffusion has the edges most like a photograph's. [Chapter 02](02_image_quality.ipynb) explains why no single number settles this.
#
# ## One small photo, many large ones
#
# Sixteen pixels became one. Turn this around: enormously many large pictures shrink to the same small one.
# Super-resolution has no single right answer, and a diffusion model does not pretend that it has:
# change the seed and you get another plausible photo. Here are six answers for the cat's eye.

# %%
detail = lr[..., 12:44, 14:46]  # (1, 3, 32, 32)
truth = hr[..., 48:176, 56:184]  # (1, 3, 128, 128), the same place in the original
six = detail.expand(6, -1, -1, -1)  # the same input six times
samples = super_resolve(six, method="residual-diffusion", seed=0).double()  # image i of a batch uses seed 0 + i

mean = samples.mean(0, keepdim=True)
spread = samples.std(0, correction=0).mean(0)  # (128, 128): standard deviation, averaged over the colours
white = spread.quantile(0.99)  # shown as white; only 1 % of the pixels lie above
plots.image_grid(
    [*samples[:3].unsqueeze(1), truth, mean, spread / white],
    ["seed 0", "seed 1", "seed 2", "the original", "mean of 6 seeds", f"spread (white: {white:.2f} and more)"],
    columns=3,
    zoom=2,
    title="Six answers agree on the outlines and differ in the fine texture",
    alt="Six pictures of the cat's eye. Top: answers of seeds 0, 1 and 2, which differ only in fine texture. Bottom: the "
    "original; the mean of six answers, softer than each of them; and a grainy map of their standard deviation, brightest "
    "in patches of the eyelid and of the fur on the left, darker on the smooth skin to the right of the eye.",
)

# %% [markdown]
# Read the last picture as a warning label. Where it is dark, the small photo decides what the large one looks like;
# where it is bright, the model filled in detail. Never take such detail as evidence, in a licence plate, a face or an X-ray.
#
# Are these really answers to *our* photo? Shrink each one and compare with the input. (A yardstick: rounding the small photo to
# 8 bits leaves 59 dB.) And is their mean closer to the original than they are?

# %% tags=["nbval-check-output"]
match = lr_consistency(samples, six, 4).min()  # the PSNR between input and shrunk answer
print(f"shrunk again, even the worst of the six matches the input to {match:.0f} dB")
print(f"the bicubic answer, for comparison, to {lr_consistency(answers['bicubic'], lr, 4).item():.0f} dB")

error_of_each = (samples - truth).square().mean((1, 2, 3)).mean()
error_of_mean = (mean - truth).square().mean()
variance = samples.var(0, correction=0).mean()
print(f"mean squared error of their mean:             {error_of_mean:.5f}")
print(f"+ variance of the answers around their mean:  {variance:.5f}")
print(f"= mean squared error of one answer (average): {error_of_each:.5f}")
assert torch.isclose(error_of_each, error_of_mean + variance, rtol=1e-9)

# %% [markdown]
# The sum is an identity, not luck; it holds for any six answers. So an answer that commits to one guess of the fur pays for
# it in PSNR.
#
# <details><summary><b>Question 1.</b> What would happen to the picture, and to its error, if you averaged a thousand
# answers instead of six?</summary>
#
# The picture would become smoother still, much like the regression's, and its error would fall a little more, then stop:
# what is left cannot be known from the input (or was not learned). The best guess under squared error is the mean of all plausible photos, and a mean of photos is not a photo.
# </details>

# %% [markdown]
# ## The whole idea in one strip
#
# A diffusion model learns to undo one thing: noise. Forwards, we mix an image with Gaussian noise
# $\varepsilon \sim N(0, I)$, one independent number of mean 0 and variance 1 for each number of the image:
#
# $$ z_t = \alpha(t)\, z_0 + \sigma(t)\, \varepsilon, \qquad z_0 = 2y - 1 . $$
#
# $\alpha(t)$ says how much signal is left, $\sigma(t)$ how much noise has come in. The clean state $z_0$ is the image
# moved from $[0, 1]$ to $[-1, 1]$, so that it is centred on zero as the noise is. A pair of functions $\alpha, \sigma$ is called a *schedule*.

# %% tags=["nbval-check-output"]
from tutorial_lib.noise import standard_normal
from tutorial_lib.schedules import vp_cosine

schedule = vp_cosine()
times = torch.tensor([0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0])
z_0 = 2 * truth[..., 16:112, 16:112] - 1
eps = standard_normal(0)(z_0)  # a noise source with seed 0, asked for noise of z_0's shape
noisy = [schedule.alpha(t) * z_0 + schedule.sigma(t) * eps for t in times]

for name, values in {"t": times, "alpha": schedule.alpha(times), "sigma": schedule.sigma(times)}.items():
    print(f"{name:6}", *[f"{value:5.2f}" for value in values])
plots.image_grid(
    [(z + 1) / 2 for z in noisy],
    [f"t = {t:.2f}" for t in times],
    columns=7,
    title="Forwards: a photo drowns in noise",
    alt="Seven pictures of the cat's eye from t = 0 to t = 1. The grain grows from left to right; at t = 0.5 the eye is "
    "still easy to find, at t = 0.7 only just, at t = 0.85 and t = 1 there is nothing but noise to be seen.",
)

# %% [markdown]
# Backwards, we need a **denoiser**: a function that looks at $z_t$ and says which clean image it expects. In symbols, it
# returns $E[z_0 \mid z_t]$, the mean of $z_0$ *given* $z_t$ (the bar reads "given"). Usually it is a trained network.
# For a first look we can do better and use the exact one.
#
# Imagine a world of only 486 photos: six pictures, each cut out at 9 × 9 slightly shifted places (6 × 81).

# %%
from tutorial_lib.oracles import EmpiricalData, denoiser_for

corners = {  # photo: top, left and side of a square cut-out
    "chelsea": (30, 80, 220),
    "coffee": (60, 150, 300),
    "flower": (80, 180, 300),
    "china": (100, 30, 300),
    "rocket": (20, 180, 300),
    "astronaut": (0, 130, 220),
}
world = []
for name, (top, left, side) in corners.items():
    square = resize(photo(name)[..., top : top + side, left : left + side], 48 / side).clamp(0, 1)
    world += [square[..., i : i + 40, j : j + 40] for i in range(9) for j in range(9)]
world = torch.cat(world)  # (486, 3, 40, 40): 81 chelseas, 81 coffees ...
states = 2 * world - 1
denoiser = denoiser_for(EmpiricalData(states), schedule)

plots.image_grid(
    [*world[40::81].unsqueeze(1), world.mean(0)],  # number 40 of each 81 is the middle shift
    [*corners, "mean of all"],
    columns=7,
    zoom=3,
    title="A world of 486 photos: one from each family, and their mean",
    alt="Six small colour pictures, the eye of a cat, a cup of coffee, a dahlia, a Chinese palace, a rocket and an astronaut, and the "
    "mean of all 486, a brown blur.",
)

# %% [markdown]
# In this world the expected photo is a weighted mean of all 486. Photo $i$, as a state $z^{(i)}$, has the weight
#
# $$ w_i \propto \exp\left(-\frac{\lVert z_t - \alpha(t)\, z^{(i)} \rVert^2}{2\,\sigma(t)^2}\right), \qquad \sum_i w_i = 1 : $$
#
# the less noise it needs to explain $z_t$, the more it counts. Here we put noise on a cup of coffee and add up the weights by family.

# %%
cup = states[121:122]  # the middle shift of the coffee family


def noisy_cup(t, seed):
    """The cup at time t, with noise from a seed."""
    return schedule.alpha(t) * cup + schedule.sigma(t) * standard_normal(seed)(cup)


def weights(z, t):
    """The weight of each of the 486 photos for a state z (1, 3, 40, 40)."""
    distances = (z - schedule.alpha(t) * states).square().sum((1, 2, 3))
    return (-distances / (2 * schedule.sigma(t) ** 2)).softmax(0)


z = noisy_cup(0.97, seed=9)
expected = (weights(z, 0.97).view(-1, 1, 1, 1) * states).sum(0, keepdim=True)
torch.testing.assert_close(expected, denoiser(z, 0.97), atol=1e-3, rtol=0)

plots.bars(
    list(corners),
    {f"t = {t}": weights(noisy_cup(t, seed=9), t).view(6, 81).sum(1) for t in (0.93, 0.95, 0.97)},
    ylabel="weight of the family",
    ylim=(0, 1),
    height=300,
    title="A noisy cup: recognised, in doubt, taken for the cat",
    alt="Bars for six families at three times. At t = 0.93 coffee has 0.97 of the weight. At t = 0.95 coffee has 0.51 and "
    "the cat Chelsea 0.39. At t = 0.97 Chelsea leads with 0.45, then the flower with 0.27 and coffee with 0.15.",
)

# %% [markdown]
# Now walk back. Start from pure noise. At time $t$ ask the denoiser for $\hat z_0$, work out which noise $\hat\varepsilon$ would turn it into
# $z_t$, and mix the two again for a slightly earlier time $s$:
#
# $$ \hat\varepsilon = \frac{z_t - \alpha(t)\, \hat z_0}{\sigma(t)}, \qquad z_s = \alpha(s)\, \hat z_0 + \sigma(s)\, \hat\varepsilon . $$
#
# This rule is called DDIM. No new noise comes in, so only the *start* is random.

# %%
from tutorial_lib.samplers import ddim, trajectory


def step(z, t, s):
    """From time t to the earlier time s."""
    z_0 = denoiser(z, t)
    eps = (z - schedule.alpha(t) * z_0) / schedule.sigma(t)
    return schedule.alpha(s) * z_0 + schedule.sigma(s) * eps


walk = torch.tensor([1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.85, 0.8, 0.7, 0.5, 0.3, 0.1, 0.0])
start = torch.cat([standard_normal(seed)(cup) for seed in (2, 5)])
path = trajectory(ddim(denoiser, schedule, start, walk))  # ddim repeats our step along the walk
torch.testing.assert_close(path[1].z, step(start, walk[0], walk[1]))

shown = [path[i] for i in (0, 1, 3, 4, 6, 9, 11, 12)]
rows = [state.z[:1] for state in shown] + [state.z_0[:1] for state in shown] + [state.z_0[1:] for state in shown]
names = [f"seed 2 at {float(state.t):.2f}" for state in shown] + ["seed 2, expected"] * 8 + ["seed 5, expected"] * 8
plots.image_grid(
    [(z + 1) / 2 for z in rows],
    names,
    columns=8,
    zoom=2,
    title="Backwards: two seeds, two photos, one denoiser",
    alt="Three rows of eight pictures from t = 1 to t = 0. Top: the state of seed 2 goes from coloured noise to the eye of a "
    "cat; until t = 0.85 it looks like noise. Middle: its expected photo starts as the brown mean of the world, "
    "turns into the ghost of an astronaut, shows both at t = 0.92, and from t = 0.85 on the cat's eye alone, ever "
    "sharper. Bottom: the expected photo of seed 5 starts from the same mean and becomes a dahlia.",
    caption="The number above each state is its time t; the pictures below it belong to the same time.",
)

# %% [markdown]
# Read the middle row. At first the denoiser knows nothing and expects the mean of the world. It leans towards the
# astronaut, changes its mind, and settles for the cat: first *which* photo, then *where* exactly, coarse
# structure before fine detail. Seed 5 ends elsewhere. (Pictures this small drown sooner than the larger eye above.)
# Did both walks arrive at photos of this world?

# %% tags=["nbval-check-output"]
for seed, end in zip((2, 5), path[-1].z, strict=True):
    distances = (end - states).square().mean((1, 2, 3))
    family = list(corners)[int(distances.argmin()) // 81]
    print(f"seed {seed}: nearest photo of the world: {family}, mean squared distance {distances.min():.6f}")
    assert distances.min() < 1e-6

# %% [markdown]
# That is all. What remains is to replace the exact denoiser by a network that has seen many photos, and, for super-resolution,
# to show it $x$ as well: then it expects $E[z_0 \mid z_t, x]$, the mean over what state and small photo leave possible together.
# The answers at the top of this page were made this way, with one twist. There $z_0$ is the *difference* between photo and
# regression: the walk draws a difference, and adding it to the regression's answer gives the photo.
#
# <details><summary><b>Question 2.</b> What would happen if the walk went from t = 1 to t = 0 in a single step?</summary>
#
# It would end at the first expected photo: the mean of the world, a brown blur, for every seed. That is what a regression
# returns. Only many small steps, each with a fresh look at a clearer state, let the walk commit to one answer.
# </details>
#
# <details><summary><b>Question 3.</b> The exact denoiser makes no error. Why train a network instead of using it on a million photos?</summary>
#
# It can only ever return one of its million photos. A network that is too small to learn its photos by heart must learn what
# they have in common, and that carries over to photos that it has never seen.
# </details>
#
# Try it: move $t$ and the seed. Up to which $\sigma/\alpha$, noise over signal, does the denoiser recognise the cup, although you
# see nothing but noise? Set $t = 0.97$: which of the seeds 0 to 20 make another family lead?


# %%
def look(t, seed):
    """The noisy cup, what the exact denoiser expects, and the cup."""
    z = noisy_cup(t, seed)
    share, leader = weights(z, t).view(6, 81).sum(1).max(0)
    return plots.image_grid(
        [(z + 1) / 2, (denoiser(z, t) + 1) / 2, (cup + 1) / 2],
        [f"t = {t:.2f}", f"expected: {list(corners)[leader]} {share:.0%}", "truth: coffee"],
        zoom=3,
        title=f"Seed {seed}: σ/α = {schedule.sigma(t) / schedule.alpha(t):.1f}",
        alt=f"The coffee cup with noise at t = {t:.2f}, the photo that the denoiser expects (the family "
        f"{list(corners)[leader]} has {share:.0%} of the weight), and the cup without noise.",
    )


widgets.explorer(look, t=(0.5, 0.99, 0.01, 0.95), seed=(0, 20, 1, 9))  # sliders: (low, high, step, start)

# %%
widgets.frames(
    look,
    [{"t": 0.7, "seed": 9}, {"t": 0.93, "seed": 9}, {"t": 0.97, "seed": 9}, {"t": 0.98, "seed": 3}],
    columns=2,
    title="Four positions of the sliders",
    alt="Four triples of noisy state, expected photo and truth. Seed 9 at t = 0.70: the cup, sharp, coffee 100 %. Seed 9 at "
    "t = 0.93: the cup, slightly blurred, coffee 97 %. Seed 9 at t = 0.97: a blur in which the cat leads with 45 %. Seed 3 at "
    "t = 0.98: a darker blur in which the rocket leads with 40 %. All four states look like noise, or nearly so.",
    caption="At t = 0.97 another family leads for seeds 6, 9 and 20.",
)

# %% [markdown]
# ## How the course is laid out
#
# Seventeen chapters exist now, 00 to 16; the others are planned.
#
# | chapter | you learn to | status |
# |---|---|---|
# | 00 Start here | super-resolve a photo, find your way | ready |
# | [01 Super-resolution basics](01_super_resolution_basics.ipynb) | write down how a photo loses its detail, and why this cannot be undone | ready |
# | [02 Image quality](02_image_quality.ipynb) | measure an answer, and know when each measure lies | ready |
# | [03 Before diffusion](03_before_diffusion.ipynb) | see why regression blurs, and what four older families of models do about it | ready |
# | [04 DDPM](04_ddpm.ipynb) | derive a diffusion model, train one, and choose its variances | ready |
# | [05 Score-based models](05_score_based_models.ipynb) | learn a score by denoising, and sample with Langevin dynamics | ready |
# | [06 SDEs](06_sdes.ipynb) | see both as one differential equation, reverse it, and invert a face | ready |
# | [07 Efficient sampling](07_efficient_sampling.ipynb) | get the same pictures for fewer network calls, and choose a sampler by evidence | ready |
# | [08 Likelihood](08_likelihood.ipynb) | say how probable a model makes an image, and why that is not how good it looks | ready |
# | [09 SR3](09_sr3.ipynb) | rebuild the paper that brought diffusion to super-resolution, and judge it honestly | ready |
# | [10 Conditioning and guidance](10_conditioning_and_guidance.ipynb) | tell one model the same face in six ways, and turn guidance up knowing what it samples | ready |
# | [11 State domains](11_state_domains.ipynb) | diffuse something other than pixels, and say what it buys | ready |
# | [12 Corruption spaces](12_corruption_spaces.ipynb) | undo something other than noise, walk from the LR image instead of noise, and say what that buys | ready |
# | [13 No retraining: projection](13_zero_shot_projection.ipynb) | turn a model that makes any face into one that makes the face, by exchanging what the camera sees | ready |
# | [14 No retraining: decomposition](14_zero_shot_decomposition.ipynb) | split an image into what the camera sees and what it does not, and restore noise and all | ready |
# | [15 No retraining: estimating the posterior](15_zero_shot_posterior.ipynb) | guide a model by its measurement, and measure every such method against the exact posterior | ready |
# | [16 Colour shift](16_color_shift.ipynb) | tint pictures on purpose, find out where it happens, and price every cure | ready |
# | 17–20 | architectures, applications, comparability, frontiers | planned |
#
# Every method is tried twice: first where the right answer is known exactly, as in the world of 486
# photos, then with a trained network on real ones. A flaw that shows even with the exact denoiser belongs to the method or to
# the code. A flaw that shows only with the network is something that it has not learned.
#
# ## How to work a chapter
#
# 1. Run the cells from top to bottom, and answer each question in your head before you unfold it.
# 2. Open the chapter's [exercises](../exercises/00_start_here.ipynb). Each asks for one short function, and `check` answers at once.
# 3. Stuck? Read the line that `check` prints: it knows the usual mistakes. Then print shapes, minima and maxima.
#    Then read the function's docstring (`resize?`) and its source (`resize??`). Only then open the worked answers in `solutions/`.
#
# This is what it looks like when you put noise into a number and forget to shrink the signal:

# %% tags=["nbval-check-output"]
from tutorial_lib.exercises import check

check("00.6", lambda z_0, eps, schedule, t: z_0 + schedule.sigma(t) * eps)

# %% [markdown]
# ## The notation map
#
# | meaning | here | in code | survey | most papers and code |
# |---|---|---|---|---|
# | low-resolution image | $x$ | `lr` | $x$ | condition, LQ |
# | original, answer | $y$, $\hat y$ | `hr`, `sr` | $y$, $\hat y$ | $x_0$, GT |
# | clean state, state at time t | $z_0$, $z_t$ | `z_0`, `z` | $z_0$, $z_t$ | $x_0$, $x_t$ |
# | signal left in the state | $\alpha(t)$ | `schedule.alpha(t)` | $\sqrt{\gamma_t}$ | $\sqrt{\bar\alpha_t}$ |
# | noise in the state | $\sigma(t)$ | `schedule.sigma(t)` | $\sqrt{1-\gamma_t}$ | $\sqrt{1-\bar\alpha_t}$ |
#
# Beware of one letter: the survey's section on DDPM writes $\alpha_t$ for the variance that a step *adds* (elsewhere $\beta_t$), its
# section on SR3 for the share that a step *keeps*; our $\alpha(t)$ is the factor left after all steps up to $t$.
#
# ## Common mistakes
#
# > - **Values from 0 to 255** where 0 to 1 is expected. Everything looks white, and PSNR is off by 48 dB.
# > - **Channels last.** Pillow and NumPy store (height, width, channels); here it is (batch, channels, height, width).
# > - **A size that the scale does not divide.** Shrinking rounds up, so the enlarged answer no longer fits the original: crop first.
# > - **Comparing an answer with an image that was resized by another library.** Not all filters called "bicubic" are the same.
#
# You need not remember the first two: functions say what they got and what they expected.

# %% tags=["nbval-check-output"]
for wrong in (to_uint8(lr), lr[0], lr.permute(0, 2, 3, 1)):
    try:
        super_resolve(wrong, method="bicubic")
    except (TypeError, ValueError) as error:
        print(error)

# %% [markdown]
# ## Is everything installed?
#
# `python -m tutorial_lib doctor` prints a line for everything that the course needs. Here is its short form.

# %%
from tutorial_lib import doctor

broken = [f"{name}: {detail}" for status, name, detail in doctor.examine() if status == doctor.FAIL]
print("\n".join(broken) or "Nothing is broken.")

# %% [markdown]
# ## Your own photo
#
# Run the next cell in JupyterLab and choose a picture. It is shrunk until its longer side has 96 pixels, then enlarged four times.
# There is no original, as in real life: judge with your eyes. Twice the side takes four times as long.
# The photo goes to the kernel only: if that runs on your machine, the photo stays there.

# %%
from functools import lru_cache

methods = {"bicubic": "bicubic", "regression": "regression", "diffusion": "residual-diffusion"}


@lru_cache(maxsize=1)  # the example is shown twice, but computed once
def enlarge(image):
    """Three enlargements of an image (1, 3, H, W) side by side."""
    return plots.image_grid(
        [super_resolve(image, method=method) for method in methods.values()],
        list(methods),
        title="One photo, enlarged four times in three ways",
        alt="The same photo enlarged four times by bicubic interpolation, by regression and by diffusion, from soft to detailed.",
    )


example = resize(photo("coffee"), 1 / 8).clamp(0, 1)  # (1, 3, 50, 75)
widgets.upload(enlarge, example, max_side=96)

# %%
enlarge(example)

# %% [markdown]
# For photos at full size use the command line; `--compare` also writes the methods side by side, and `--samples 4`
# writes four answers with their mean and their spread:
#
# ```
# python -m tutorial_lib upscale holiday.jpg larger.png --compare
# ```
#
# A caution: the networks have learned to undo bicubic shrinking by four. A photo that is blurred, noisy or full of
# JPEG blocks was spoiled in another way, and they will sharpen its flaws. [Chapter 01](01_super_resolution_basics.ipynb) shows
# the ways in which photos lose their detail.
#
# ## Recap
#
# - You super-resolved a photo with `super_resolve(lr, method=...)` and compared three kinds of answer.
# - You drew six answers to one input. They shrink to the same small photo, differ where it does not decide, and their mean has
#   the lower error.
# - You can tell what a diffusion model does: it adds noise, $z_t = \alpha z_0 + \sigma\varepsilon$, and walks back by asking again and
#   again for the expected clean image.
# - You know where chapters, exercises and solutions are, and what `check` tells you.
# - You can look letters up in the notation map, and distrust every $\alpha_t$ until you know which one it is.
# - The doctor told you whether anything is broken.
#
# **Next:** the [exercises](../exercises/00_start_here.ipynb) for this page (about 20 minutes), then
# [chapter 01](01_super_resolution_basics.ipynb).
#
# ## References
#
# - B. Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv 2401.00736.
# - J. Ho, A. Jain, P. Abbeel, *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239.
# - J. Song, C. Meng, S. Ermon, *Denoising Diffusion Implicit Models*, arXiv 2010.02502 (the sampler `ddim`).
# - A. Nichol, P. Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, arXiv 2102.09672 (the cosine schedule).
# - J. Whang et al., *Deblurring via Stochastic Refinement*, arXiv 2112.02475 (predict, then refine by diffusion).
# - C. Saharia et al., *Image Super-Resolution via Iterative Refinement* (SR3), arXiv 2104.07636.
#
# Photos: Chelsea (Stefan van der Walt, CC0), coffee (Rachel Michetti, CC0), rocket (SpaceX, CC0), astronaut (NASA, public domain),
# from scikit-image; flower (dany13, CC BY 2.0) and china (Rob Lee, CC BY 2.0), cropped and shrunk, from scikit-learn.
