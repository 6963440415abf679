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
# - **translate** the letters of the survey, of the papers and of this course into each other;
# - **check** that your installation is complete.
#
# **Prerequisites:** Python, and PyTorch or NumPy arrays. No diffusion, no statistics beyond mean and variance.
# Training, derivations and benchmarks come later.
#
# **Reading time:** 15 minutes. Running time: about 15 s on two CPU cores; no download, no GPU.
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
# Take a photo of a cat. Shrink it to a quarter of its height and width, then throw the original away.
# Of every 16 pixels, one is left.

# %%
import torch

from tutorial_lib import plots, widgets
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.super_resolution import super_resolve

hr = photo("chelsea")[..., 20:276, 60:444]  # (1, 3, 256, 384); no method will see it
lr = to_uint8(resize(hr, 1 / 4)).float() / 255  # (1, 3, 64, 96), rounded to 8 bits like any image file

plots.image_grid(
    [hr, lr],
    ["the original, 384 × 256 pixels", "all that is left"],
    title="The task: get from the small picture back to the large one",
    alt="Left: the head of a ginger cat, 384 by 256 pixels, every whisker visible. Right: the same picture at 96 by 64 "
    "pixels, a quarter as wide and as high.",
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
pixels = lr.repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1)

plots.compare(
    {"input": pixels, **answers, "original": hr},
    crops=[(66, 82, 60, 60), (176, 186, 60, 60)],
    zoom=2,
    overview="original",
    title="One input, three answers, and the truth",
    alt="Two details of the cat, an eye and the nose, magnified twice in five versions. The input shows "
    "square pixels of four; bicubic is blurred; regression has clean, smooth edges; diffusion has edges and fine "
    "fur; the original is sharper than any of them.",
    caption="The white frames in the whole picture mark the two magnified details.",
)

# %% [markdown]
# Look at the iris and the fur above the nose. Bicubic is soft everywhere. Regression draws clean outlines but combs
# the fur flat. Diffusion puts fur where fur is likely. These are not the hairs that were there: the input no longer holds those.
#
# How far is each answer from the original? PSNR measures the squared error per pixel on a logarithmic scale, in decibels;
# higher is closer. `sharpness` says how steep the steepest edges are; the goal is the original's value.

# %% tags=["nbval-check-output"]
from tutorial_lib.metrics import lr_consistency, psnr, sharpness

for name, sr in answers.items():
    print(f"{name:10}  PSNR {psnr(sr, hr, crop=4).item():.1f} dB   sharpness {sharpness(sr).item():.3f}")
print(f"original                   sharpness {sharpness(hr).item():.3f}")

# %% [markdown]
# The two columns disagree on the winner, and neither is wrong: regression is closest pixel by pixel,
# diffusion comes closest to the look of a photograph. [Chapter 02](02_image_quality.ipynb) explains why no single number settles this.
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
spread = samples.std(0).mean(0)  # (128, 128): how much the answers differ, averaged over the colours
plots.image_grid(
    [*samples[:3].unsqueeze(1), truth, mean, spread / spread.max()],
    ["seed 0", "seed 1", "seed 2", "the original", "mean of 6 seeds", f"spread (white: {spread.max():.2f})"],
    columns=3,
    zoom=2,
    title="Six answers agree on the outlines and differ in the fur",
    alt="Six pictures of the cat's eye. Top: answers of seeds 0, 1 and 2, which differ only in fine texture. Bottom: the "
    "original; the mean of six answers, softer than each of them; and a map of their standard deviation, dark on "
    "smooth areas, bright along the rims of the eye and in the fur.",
)

# %% [markdown]
# Read the last picture as a warning label. Where it is dark, the small photo decides what the large one looks like;
# where it is bright, the model filled in detail. Never take such detail as evidence, in a licence plate, a face or an X-ray.
#
# Are these really answers to *our* photo? Shrink each one and compare with the input. And is their mean closer to the
# original than they are?

# %% tags=["nbval-check-output"]
match = lr_consistency(samples, six, 4).min()  # the PSNR between input and shrunk answer
print(f"shrunk again, even the worst answer matches the input to {match:.0f} dB")

error_of_each = (samples - truth).square().mean((1, 2, 3)).mean()
error_of_mean = (mean - truth).square().mean()
variance = samples.var(0, correction=0).mean()
print(f"mean squared error of one answer, on average: {error_of_each:.4f}")
print(f"mean squared error of their mean:             {error_of_mean:.4f}")
assert torch.isclose(error_of_each, error_of_mean + variance, rtol=1e-9)

# %% [markdown]
# The last line is an identity, not luck: the error of an answer is the error of the mean *plus* the variance of the answers.
# So an answer that commits itself to one guess of the fur pays for it in PSNR.
#
# <details><summary><b>Question 1.</b> What would happen to the picture, and to its error, if you averaged a thousand
# answers instead of six?</summary>
#
# Everything on which the answers disagree would average out. The picture would become smoother still, much like the
# regression's, and its error would fall a little more, then stop: what is left cannot be known from the input (or was not
# learned). The best guess under squared error is the mean of all plausible photos, and a mean of photos is not a photo.
# </details>

# %% [markdown]
# ## The whole idea in one strip
#
# A diffusion model learns to undo one thing: noise. Forwards, we mix an image with Gaussian noise $\varepsilon$:
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
eps = standard_normal(0)(z_0)  # seed 0
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
# Backwards, we need a **denoiser**: a function that looks at $z_t$ and says which clean image it expects *on average*,
# $E[z_0 \mid z_t]$. Usually it is a trained network. For a first look we can do better and use the exact one.
#
# Imagine a world of only 486 photos: small cut-outs from six pictures, each shifted by a few pixels. In this world
# the expected photo is a weighted mean of all 486, and the weights are known: a photo counts the more, the better it explains $z_t$.

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
world = torch.cat(world)  # (486, 3, 40, 40)
denoiser = denoiser_for(EmpiricalData(2 * world - 1), schedule)

plots.image_grid(
    [*world[40::81].unsqueeze(1), world.mean(0)],
    [*corners, "mean of all"],
    columns=7,
    zoom=3,
    title="A world of 486 photos: one from each family, and their mean",
    alt="Six small colour pictures, the eye of a cat, a cup of coffee, a dahlia, a Chinese palace, a rocket and an astronaut, and the "
    "mean of all 486, a brown blur.",
)

# %% [markdown]
# Now walk back. Start from pure noise, ask the denoiser, move a little towards its answer, ask again.
# The sampler `ddim` does this; it is handed the denoiser, the schedule, the start and the times to visit.

# %%
from tutorial_lib.samplers import ddim, trajectory

walk = torch.tensor([1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.85, 0.8, 0.7, 0.5, 0.3, 0.1, 0.0])
start = standard_normal(2)(world[:1])  # seed 2
states = trajectory(ddim(denoiser, schedule, start, walk))
shown = [states[i] for i in (0, 1, 3, 4, 6, 9, 11, 12)]

plots.image_grid(
    [(state.z + 1) / 2 for state in shown] + [(state.z_0 + 1) / 2 for state in shown],
    [f"t = {float(state.t):.2f}" for state in shown] + ["expected"] * len(shown),
    columns=8,
    zoom=2,
    title="Backwards: from noise to a photo, with the exact denoiser",
    alt="Two rows of eight pictures. Top: the state goes from coloured noise at t = 1 to the eye of a cat at t = 0; "
    "until t = 0.5 it looks like noise. Bottom: the expected photo starts as the brown mean of the world, turns into the "
    "ghost of an astronaut, shows both at t = 0.92, and from t = 0.85 on the cat's eye alone, ever sharper.",
)

# %% [markdown]
# Read the lower row. At first the denoiser knows nothing and expects the mean of the world. It leans towards the
# astronaut, changes its mind, and settles for the cat: first *which* photo, then *where* exactly, that is, coarse
# structure first and fine detail last. Did we really arrive at a photo of this world?

# %% tags=["nbval-check-output"]
distances = (states[-1].z - (2 * world - 1)).square().mean((1, 2, 3))
family = list(corners)[int(distances.argmin()) // 81]
print(f"nearest photo of the world: {family}, mean squared distance {distances.min():.6f}")
assert distances.min() < 1e-6

# %% [markdown]
# That is all. What remains is to replace the exact denoiser by a network that has seen many photos, and, for super-resolution,
# to let it look at $x$ as well, so that it expects $E[z_0 \mid z_t, x]$. The answer at the top of this page was made this way, with one twist:
# there $z_0$ is not the photo but what the regression leaves out.
#
# <details><summary><b>Question 2.</b> What would happen if the walk went from t = 1 to t = 0 in a single step?</summary>
#
# It would end at the first expected photo: the mean of the world, a brown blur. One step makes diffusion a regression.
# It is the many small steps, each with a fresh look, that let it commit to one answer.
# </details>
#
# <details><summary><b>Question 3.</b> The exact denoiser makes no error. Why train a network instead of using it on a million photos?</summary>
#
# It can only ever return one of its million photos. A network that is too small to learn its photos by heart must learn what
# they have in common, and that carries over to photos that it has never seen.
# </details>
#
# Try it: move $t$ and the seed. Up to which noise level does the denoiser recognise the cup of coffee, although you see nothing but
# noise? For which seeds does it take the cup for something else?

# %%
cup = 2 * world[121:122] - 1  # the middle one of the coffee family


def look(t, seed):
    """The cup at time t, with noise from a seed, and what the exact denoiser expects."""
    z = schedule.alpha(t) * cup + schedule.sigma(t) * standard_normal(seed)(cup)
    return plots.image_grid(
        [(z + 1) / 2, (denoiser(z, t) + 1) / 2, (cup + 1) / 2],
        [f"t = {t:.2f}", "expected", "truth"],
        zoom=2,
        title=f"Seed {seed}: noise {schedule.sigma(t) / schedule.alpha(t):.1f} × signal",
        alt=f"The coffee cup with noise at t = {t:.2f}, the photo that the denoiser expects, and the cup without noise.",
    )


widgets.explorer(look, t=(0.5, 0.99, 0.01, 0.95), seed=(0, 20, 1, 9))

# %%
widgets.frames(
    look,
    [{"t": 0.7, "seed": 9}, {"t": 0.93, "seed": 9}, {"t": 0.95, "seed": 9}, {"t": 0.97, "seed": 9}],
    columns=2,
    title="Four positions of the slider",
    alt="Four triples of noisy state, expected photo and truth. At t = 0.70 the expected photo is the cup, sharp. At "
    "t = 0.93 the cup is slightly blurred, at t = 0.95 a ghost among other photos, at t = 0.97 a brown blur in which no cup is left.",
)

# %% [markdown]
# ## How the course is laid out
#
# Three chapters exist now. The others are planned, in this order; nothing in the first three depends on them.
#
# | chapter | you learn to | status |
# |---|---|---|
# | 00 Start here | super-resolve a photo, find your way | ready |
# | [01 Super-resolution basics](01_super_resolution_basics.ipynb) | write down how a photo loses its detail, and why this cannot be undone | ready |
# | [02 Image quality](02_image_quality.ipynb) | measure an answer, and know when each measure lies | ready |
# | 03 Before diffusion | see what regression, GANs, VAEs and flows do with the same task | planned |
# | 04–08 | DDPM, score-based models, SDEs, efficient sampling, likelihood | planned |
# | 09–12 | SR3, conditioning and guidance, state domains, corruption spaces | planned |
# | 13–15 | zero-shot methods: projection, decomposition, posterior | planned |
# | 16–20 | colour shift, architectures, applications, comparability, frontiers | planned |
#
# Every method is tried twice: first where the right answer is known exactly, as in the world of 486
# photos, then with a trained network on real ones. What goes wrong in the first case is a bug; what goes
# wrong only in the second, the network has not learned.
#
# ## How to work a chapter
#
# 1. Run the cells from top to bottom, and answer each question in your head before you unfold it.
# 2. Open the chapter's [exercises](../exercises/00_start_here.ipynb). Each asks for one short function, and `check` answers at once.
# 3. Stuck? Read the line that `check` prints: it knows the usual mistakes. Then print shapes, minima and maxima.
#    Then read the function's docstring (`resize?`) and its source (`resize??`). Only then open the worked answers in `solutions/`.
#
# This is what it looks like when you convert an image to 8 bits and forget to round:

# %% tags=["nbval-check-output"]
from tutorial_lib.exercises import check

check("00.1", lambda images: (images.clamp(0, 1) * 255).to(torch.uint8))

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
# | variance that one step adds | $\beta_t$ | `betas` | $\alpha_t$, or $1-\alpha_t$ | $\beta_t$ |
#
# Beware of one letter: the survey's section on DDPM writes $\alpha_t$ for the variance that a step *adds*, its section on
# SR3 writes $\alpha_t$ for the share that a step *keeps*, and our $\alpha(t)$ is neither: it is the factor left after all steps up to $t$.
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
# `python -m tutorial_lib doctor` prints a line for Python, every package, the kernel, widgets, weights and memory. Here is its short form.

# %%
from tutorial_lib import doctor

broken = [f"{name}: {detail}" for status, name, detail in doctor.examine() if status == doctor.FAIL]
print("\n".join(broken) or "Nothing is broken.")

# %% [markdown]
# ## Your own photo
#
# Run the next cell in JupyterLab and choose a picture. It is shrunk until its longer side has 96 pixels, then enlarged four times.
# There is no original to compare with, as in real life, so judge with your eyes. Twice the side takes four times as long.
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
        title="Your photo, four times larger",
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
# how a photo loses its detail, and what happens when the model is told the wrong story.
#
# ## Recap
#
# - You super-resolved a photo with `super_resolve(lr, method=...)` and compared three kinds of answer.
# - You drew six answers to one input. They shrink to the same small photo, differ where it does not decide, and their mean has
#   the lower error.
# - A diffusion model adds noise, $z_t = \alpha z_0 + \sigma\varepsilon$, and walks back by asking again and again for the expected clean image.
# - You know where chapters, exercises and solutions are, and what `check` tells you.
# - You can translate $x, y, z_t, \gamma_t$ and the ambiguous $\alpha_t$.
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
