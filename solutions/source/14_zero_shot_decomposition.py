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
# # Solutions 14: No retraining: decomposition
#
# Eight exercises about what a camera sees and what it does not: how to compute its pseudo-inverse and its singular values, how to find out that an operator is not the one it claims to be, and the steps that DDNM, DDRM and SNIPS make of them. Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line. They belong to [chapter 14](../notebooks/14_zero_shot_decomposition.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# States are $2y - 1$ for images $y$ in [0, 1], and the noise of a measurement is in state units as well: twice what it is for images. A state at time $t$ is $z_t = \alpha_t z_0 + \sigma_t\epsilon$; steps go from $t$ to a cleaner $s < t$. `operator(z)`, `operator.adjoint(x)` and `operator.pinv(x)` are $A$, $A^\top$ and $A^+$. Everything but the networks is float64.

# %%
from functools import cache

import torch

from tutorial_lib import plots
from tutorial_lib.blurs import Blur, Decimate
from tutorial_lib.data.faces import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.exercises import check
from tutorial_lib.images import photo
from tutorial_lib.linear_operator import SVD
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Grayscale, Mask
from tutorial_lib.oracles import Gaussian, affine_law, convergence_order, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import last
from tutorial_lib.schedules import uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import posterior_std
from tutorial_lib.zero_shot import ddnm

double = torch.float64
cosine, linear = vp_cosine(), vp_linear()
painter = NetworkDenoiser(load_pretrained("faces-unconditional-32"))  # knows faces, 32 x 32, and no operator
people = 2 * faces(8, seed=5).images - 1


def picture(z):
    """A state as an image."""
    return (z / 2 + 0.5).clamp(0, 1)


# %% [markdown]
# ## Exercise 14.1: Two parents (warm-up)
#
# Make a child of two images `a` and `b` (B, C, H, W): the part that `operator` sees from `a`, the part that it does not see from `b`.


# %%
def child(a, b, operator):
    """A^+ A a + (I - A^+ A) b, (B, C, H, W)."""
    ### BEGIN SOLUTION
    return b + operator.pinv(operator(a) - operator(b))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.1", child)

# %% [markdown]
# Take four faces for `a` and four others for `b`, and pooling by 2, 4 and 8. Whom does the child resemble? What would a method have to do that wants a *face* with the given averages?

# %% tags=["solution"]
a, b = people[:4], people[4:]
children = {scale: child(a, b, AveragePool(scale)) for scale in (2, 4, 8)}
for scale, z in children.items():
    pool = AveragePool(scale)
    print(f"pool by {scale}: the camera sees a difference of {(pool(z) - pool(a)).abs().max():.4f}")
plots.image_grid(
    [torch.cat(list(picture(z)), 2) for z in (a, b, *children.values())],
    ["a: seen by the camera", "b: what it does not see", *[f"child, pool by {scale}" for scale in children]],
    title="Each child looks the same as a to the camera",
    alt="Strips of four faces. The parents a; the parents b; the children for pooling by 2, which are a with traces of b's glasses and hats; by 4, a in blocks with b's outlines drawn into them; by 8, b's faces in patches of a's colours.",
    zoom=3,
    columns=2,
)

# %% [markdown] tags=["solution"]
# Every child explains the measurement to the last digit, and none of them is a photo of anybody. With pooling by 2 it is $a$ with traces of $b$, with pooling by 8 it is $b$ in patches of $a$'s colours: the null space has 75 %, 94 % and 98 % of all coordinates. A method that wants a face must choose a null part that *fits* the range part. That choice is all that DDNM and DDRM have a network for; the rest is linear algebra.

# %% [markdown]
# ## Exercise 14.2: A chain and its pseudo-inverse
#
# `parts` is a tuple of operators, applied in this order: masks, grey, pooling. No pixel enters two numbers of their measurement, so that $AA^\top$ is diagonal for the whole chain. Return $A^+x$ for a measurement `x` of it. Where nothing is left of a block, $A^+$ gives 0.
#
# Hint: $A^+ = A^\top (AA^\top)^+$. What does $AA^\top$ make of a measurement of ones?


# %%
def chain_pinv(parts, x):
    """A^+ x for A = parts[-1] ... parts[1] parts[0]."""

    ### BEGIN SOLUTION
    def back(x):
        for part in reversed(parts):
            x = part.adjoint(x)
        return x

    gram = back(torch.ones_like(x))
    for part in parts:
        gram = part(gram)
    return back(torch.where(gram > 0, x / gram.clamp(min=1e-12), 0.0))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.2", chain_pinv)

# %% [markdown]
# An old photograph: half of its pixels are gone, it is grey, and it was reduced by 4. Compare your $A^+x$ with the composition of the three pseudo-inverses, which public DDNM code takes: what does $A$ make of either?

# %% tags=["solution"]
hr = 2 * photo("chelsea")[..., 60:188, 130:290].double() - 1
holes = (torch.rand(128, 160, generator=torch.Generator().manual_seed(0)) < 0.5).double()
parts = (Mask(holes), Grayscale(3), AveragePool(4))
chain = parts[2] @ parts[1] @ parts[0]
x = chain(hr)
composed = parts[0].pinv(parts[1].pinv(parts[2].pinv(x)))
for name, z in (("A⁺x", chain_pinv(parts, x)), ("composed", composed), ("the library's", chain.pinv(x))):
    print(f"{name:14} residual {(chain(z) - x).square().mean().sqrt():.4f}, length {z.norm():.1f}")
plots.image_grid(
    [picture(z) for z in (hr, hr * holes, chain_pinv(parts, x), composed)],
    ["photo", "half of it", "A⁺x", "composed"],
    title="The composed pseudo-inverse is half as strong as the right one",
    alt="Four pictures of a cat's eye: the colour photo; the same with half of its pixels grey; A plus x, a grey mosaic of 4 by 4 blocks with medium grey where pixels are missing; and the composition, the same mosaic with less contrast.",
    zoom=1,
    columns=4,
)

# %% [markdown] tags=["solution"]
# Pooling's own pseudo-inverse copies a block's mean to all of its 16 pixels, and the mask then throws half of them away: what is left explains about half of $x$. The right one gives the more to a visible pixel, the fewer of them there are in its block. ($AA^\top$ has the number of visible pixels over $16^2 \cdot 3$ on its diagonal.) Both are plausible grey mosaics; the residual tells them apart, and a sampler that uses the second one never reaches $Az = x$.

# %% [markdown]
# ## Exercise 14.3: Operators that one may trust
#
# Somebody hands you `operators`, a list of `LinearOperator`s that all claim to be the same blur. Some are not, and some have a wrong $A^\top$ or a wrong $A^+$. `camera(z)` is the blur written independently, slowly and correctly; it has no adjoint. `z` and `x` are a random state and a random measurement (1, 3, 8, 8). Return a list of bools, true for every operator whose $A$, $A^\top$ and $A^+$ you would trust. (The blur has no singular value near 0.)


# %%
def trusted(operators, camera, z, x):
    """One bool per operator."""

    ### BEGIN SOLUTION
    def right(a):
        same = torch.allclose(a(z), camera(z), atol=1e-6)
        adjoint = torch.isclose((a(z) * x).sum(), (z * a.adjoint(x)).sum(), atol=1e-6).item()
        inverse = torch.allclose(a(a.pinv(a(z))), a(z), atol=1e-6)
        return same and adjoint and inverse

    return [right(a) for a in operators]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.3", trusted)

# %% [markdown]
# One of them is famous. Public DDRM and DDNM code stores a blur's coordinates pixel by pixel (all channels of the first frequency, then of the second), but repeats its singular values channel by channel. Build it from `Blur(kernel).svd(z)` and look: how wrong is it on a photo, and which of the three tests does it pass?


# %% tags=["solution"]
class Relabelled(Blur):
    """Singular values in another order than the coordinates."""

    def svd(self, z):
        right = super().svd(z)
        mixed = right.singular_values.view(-1, z.shape[1]).T.flatten()
        return SVD(mixed, right.vt, right.v, right.ut, right.u)

    def __call__(self, z):
        svd = self.svd(z)
        return svd.u(svd.singular_values * svd.vt(z))

    def adjoint(self, x):
        svd = self.svd(x)
        return svd.v(svd.singular_values * svd.ut(x))


rows = torch.arange(-7.0, 8.0, dtype=double)
bell = torch.exp(-(rows**2) / 12.5)
kernel = torch.outer(bell, bell) / bell.sum() ** 2
right, wrong = Blur(kernel), Relabelled(kernel)
cat, other = hr[..., :96, 40:136], standard_normal(0)(hr[..., :96, 40:136])
print(f"<A z, x> - <z, A^T x>: {((wrong(cat) * other).sum() - (cat * wrong.adjoint(other)).sum()).abs():.6f}")
print(f"A A^+ A z - A z:       {(wrong(wrong.pinv(wrong(cat))) - wrong(cat)).abs().max():.6f}")
print(f"A z against the blur:  {(wrong(cat) - right(cat)).norm() / right(cat).norm():.0%} off")
plots.image_grid(
    [picture(z) for z in (cat, right(cat), wrong(cat))],
    ["photo", "the blur", "relabelled"],
    title="Adjoint, pseudo-inverse, and another operator altogether",
    alt="Three pictures of a cat's eye: sharp; blurred; and the relabelled operator's, blurred further, with a weave of fine stripes over it and a cast of green and violet.",
    zoom=2,
    columns=3,
)

# %% [markdown] tags=["solution"]
# Both questions that one can ask the operator about itself are answered perfectly: it has an adjoint and a pseudo-inverse, they are its own, and it is another operator. It stayed unnoticed because the measurement is usually made with the same code: then the sampler inverts what it was given, and the results are about a camera that nobody has. Only a comparison with something written independently finds it: a convolution tap by tap, a dense matrix, another library. The same holds for mirrored kernels (a flat or symmetric test image lets them pass) and for half-pixel shifts.

# %% [markdown]
# ## Exercise 14.4: Folding a spectrum
#
# A camera convolves (circularly) with `kernel` (kh, kw) and keeps every `scale`-th pixel of an image of `size` (H, W). Return its singular values, one for each frequency of the small image: (H / scale, W / scale), in the layout of `torch.fft.fft2`. Frequencies of the large image that lie H / scale rows or W / scale columns apart become one frequency of the small one.
#
# Hint: row alias · (H / scale) + f of the large spectrum folds onto row f of the small one, and columns likewise: one `reshape` gives the aliases axes of their own.


# %%
def folded_singular_values(kernel, size, scale):
    """Singular values of Decimate(scale) @ Blur(kernel), (H / scale, W / scale)."""
    ### BEGIN SOLUTION
    power = torch.fft.fft2(kernel, s=size).abs() ** 2
    height, width = size[0] // scale, size[1] // scale
    return power.reshape(scale, height, scale, width).mean((0, 2)).sqrt()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.4", folded_singular_values)

# %% [markdown]
# $A^+$ multiplies the noise of a frequency by 1 / singular value. Plot the sorted singular values of a Gaussian blur with decimation by 2, on 16 × 16 pixels, for kernel widths 0.5, 1 and 2, with those of the dense matrix on top. Which of the three would you deconvolve by $A^+$ when $x$ has noise of 0.02?


# %% tags=["solution"]
def bell_kernel(width):
    taps = torch.exp(-(torch.arange(-7.0, 8.0, dtype=double) ** 2) / (2 * width**2))
    return torch.outer(taps, taps) / taps.sum() ** 2


lines, dense = {}, {}
for width in (0.5, 1.0, 2.0):
    values = folded_singular_values(bell_kernel(width), (16, 16), 2).flatten().sort(descending=True).values
    matrix = (Decimate(2) @ Blur(bell_kernel(width))).dense((1, 16, 16))
    exact = torch.linalg.svdvals(matrix)
    lines[f"folded, width {width}"] = (torch.arange(64), values)
    dense[f"dense, width {width}"] = (torch.arange(0, 64, 7), exact[::7])
    print(
        f"width {width}: the least is {values[-1]:.1e}; noise of 0.02 becomes {(0.02 / values).square().mean().sqrt():.2g}"
    )
plots.scatter(
    lines | dense,
    joined=list(lines),
    title="The folded spectrum is the spectrum of the matrix",
    alt="Sorted singular values on a logarithmic axis for three widths, folded as lines and dense ones as marks that lie on them. Width 0.5 stays between 0.67 and 0.62; width 1 falls from 0.5 to 0.085; width 2 falls in steps from 0.5 to 5e-5.",
    xlabel="number in order of size",
    ylabel="singular value",
    logy=True,
)

# %% [markdown] tags=["solution"]
# Noise of 0.02 becomes 0.03, 0.1 and 53: the first may be inverted, the second with a little grain, the third never. This decides whether "the answer explains $x$ exactly" is a virtue. Frequency by frequency, noise over singular value is also what DDRM compares with the noise of the state (exercise 14.7). And the sharpest kernel aliases most: without folding, its singular values would be those of a blur without decimation, near 1 instead of 0.67 for the lowest frequencies.

# %% [markdown]
# ## Exercise 14.5: DDNM's step
#
# The denoiser's raw estimate at the state `z` at time `t` is $\hat z_0$ (the argument `z_0`). DDNM corrects it, $\hat z_{0,x} = \hat z_0 + A^+(x - A\hat z_0)$, and goes on with the raw direction $\epsilon = (z - \alpha_t\hat z_0)/\sigma_t$:
#
# $$z_s = \alpha_s\hat z_{0,x} + \sqrt{\sigma_s^2 - v^2}\,\epsilon + v\,\text{white},$$
#
# with $v$ = `posterior_std(schedule, t, s)`, DDPM's standard deviation. Return $z_s$.


# %%
def ddnm_step(z, z_0, x, operator, schedule, t, s, white):
    """The state at s, (B, C, H, W)."""
    ### BEGIN SOLUTION
    corrected = z_0 + operator.pinv(x - operator(z_0))
    eps = (z - schedule.alpha(t) * z_0) / schedule.sigma(t)
    v = posterior_std(schedule, t, s)
    return schedule.alpha(s) * corrected + (schedule.sigma(s) ** 2 - v**2).sqrt() * eps + v * white
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.5", ddnm_step)

# %% [markdown]
# Walk with it: faces pooled by 4, 25 calls. Then take $\epsilon$ from the corrected $\hat z_{0,x}$ instead. Can you see the difference? Can the exact posterior? (Take the pair $z_0 \sim N(0, \Sigma)$ with correlation 0.9, whose first number is measured, and `affine_law`.)


# %% tags=["solution"]
def from_corrected(z, z_0, x, operator, schedule, t, s, white):
    """The mistake: eps from the corrected estimate."""
    corrected = z_0 + operator.pinv(x - operator(z_0))
    return ddnm_step(z, corrected, x, operator, schedule, t, s, white)


pool = AveragePool(4)
seen = pool(people)


def walk(step, n=25):
    noise, times = standard_normal(1), uniform_times(n)
    z = noise(people)
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = step(z, painter(z, t), seen, pool, cosine, t, s, noise(z)).float()
    return z


with torch.inference_mode():
    made = {"DDNM": walk(ddnm_step), "eps from the corrected": walk(from_corrected)}
for name, z in made.items():
    residual, error = ((u - v).square().mean().sqrt() for u, v in ((pool(z), seen), (z, people)))
    print(f"{name:23} residual {residual:.4f}, error {error:.3f}")
plots.image_grid(
    [torch.cat(list(picture(z)), 2) for z in (people, pool.pinv(seen), *made.values())],
    ["the faces", "A⁺x", *made],
    title="Eight faces out of 8 by 8 pixels, with a network that never saw a small face",
    alt="Four strips of eight faces: the originals; their averages in blocks of 4 by 4 pixels; DDNM's, clear faces with the right hair, skin and background; with eps from the corrected estimate, the same people, slightly softer.",
    zoom=3,
    columns=1,
)

# %% tags=["solution"]
pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1, 0.9], [0.9, 1]], dtype=double))
exact = pair.posterior(Mask(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 0.0]], dtype=double), 0.0)


def pair_distance(step, n):
    x, denoiser, times = torch.tensor([[1.0, 0.0]], dtype=double), denoiser_for(pair, linear), uniform_times(n)

    def run(noise):
        z = noise(x)
        for t, s in zip(times[:-1], times[1:], strict=True):
            z = step(z, denoiser(z, t), x, Mask(torch.tensor([1.0, 0.0])), linear, t, s, noise(z))
        return z

    return gaussian_w2(*affine_law(run, 2), exact.mean, exact.covariance)


for name, step in (("DDNM", ddnm_step), ("eps from the corrected", from_corrected)):
    print(f"{name:23} W2 " + ", ".join(f"{pair_distance(step, n):.3f} with {n} steps" for n in (20, 80)))

# %% [markdown] tags=["solution"]
# Both explain $x$, both are faces, and the difference in error is small: nobody would find this by looking. The exact posterior does: with the raw $\epsilon$ four times the steps divide the distance by 4, with the other it hardly falls. The correction changes $z_0$ because $x$ knows better; the noise in $z$ is what it was. An $\epsilon$ that is computed from the corrected $z_0$ calls the correction noise and takes a part of it back.

# %% [markdown]
# ## Exercise 14.6: How fast does DDNM converge? (a measured answer)
#
# Below is a pair of numbers with correlation 0.9 whose first is measured as 1, and the exact distance of DDNM's law to the posterior. ($\eta$ multiplies the $v$ of exercise 14.5: $\eta = 0$ draws no noise.) Measure with `uniform_times(n)`: the order $p$ of $\text{error} \sim n^{-p}$ for $\eta = 1$, by `convergence_order(error, counts)` on 20, 40 and 80 steps; and the smallest $n$ among 10, 15, 20, … at which $\eta = 1$ is closer than $\eta = 0$. Return both.

# %%
pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1, 0.9], [0.9, 1]], dtype=double))
first, one = Mask(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 0.0]], dtype=double)
truth, pair_denoiser = pair.posterior(first, one, 0.0), denoiser_for(pair, linear)


@cache
def ddnm_distance(n, **options):
    """W2 between DDNM's samples and the posterior; options: eta, or eta_total."""

    def run(noise):
        return last(ddnm(pair_denoiser, linear, first, one, 0.0, uniform_times(n), noise=noise, **options))

    return gaussian_w2(*affine_law(run, 2), truth.mean, truth.covariance)


# %%
def ddnm_order():
    """(order for eta = 1, the first n at which eta = 1 is closer than eta = 0)."""
    ### BEGIN SOLUTION
    order = convergence_order(lambda n: ddnm_distance(n, eta=1.0), (20, 40, 80))
    crossing = next(n for n in range(10, 100, 5) if ddnm_distance(n, eta=1.0) < ddnm_distance(n, eta=0.0))
    return order, crossing
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.6", ddnm_order)

# %% [markdown]
# Plot both, and the rule of DDNM's and DDRM's code, `eta_total=0.85`, against $n$ up to 160. Which would you take at 20 calls, and which at 100?

# %% tags=["solution"]
counts = (10, 20, 40, 80, 160)
rules = {"eta = 1": {"eta": 1.0}, "eta = 0": {"eta": 0.0}, "eta_total = 0.85": {"eta_total": 0.85}}
found = {name: [ddnm_distance(n, **rule) for n in counts] for name, rule in rules.items()}
for name, values in found.items():
    print(f"{name:17}" + "  ".join(f"{n}: {value:.3f}" for n, value in zip(counts, values, strict=True)))
plots.curves(
    counts,
    found,
    title="One rule converges with order 1, one slowly, one not at all",
    alt="W2 to the posterior against the number of steps, both axes logarithmic. Eta 1 falls in a straight line from 0.3 at 10 steps to 0.017 at 160. Eta 0 begins lower, at 0.2, crosses at 35 steps and ends at 0.03. Eta_total 0.85 ends at 0.057 and bends towards a level line.",
    xlabel="steps = network calls",
    ylabel="W2 to the posterior",
    logx=True,
    logy=True,
)

# %% [markdown] tags=["solution"]
# $\eta = 1$ converges with order 1, as a first-order method should. $\eta = 0$ is closer up to 30 steps and then falls behind. `eta_total=0.85` refreshes 85 % of $\sigma_s$ in every step, however short, so a longer walk does not make its steps smaller in that sense, and its error levels off. So at 20 calls $\eta = 0$, at 100 $\eta = 1$; the code's 0.85 is a choice for few steps that was tuned by eye, and here it is the worst of the three at 20 calls as well. Compare exercise 13.4: RePaint needed about 100 calls for 0.12; DDNM has half of that error with 40.

# %% [markdown]
# ## Exercise 14.7: DDRM's three cases
#
# In the coordinates of the SVD: `c_0` is the denoiser's estimate, `eps` the raw direction, `seen` = $\bar x$ the measurement divided by the singular values, all (B, r), with noise of standard deviation level = `noise_std` / `s`; `s` (r,) is 0 for coordinates that $A$ does not see (ignore `seen` there). With $f$ = `share`, the state at (`alpha`, `sigma`) is
#
# - not seen: $\alpha c_0 + \sigma(\sqrt{1 - f^2}\,\epsilon + f\,\text{white})$,
# - seen, $\sigma < \alpha\,\text{level}$: $\alpha c_0 + \sigma(\sqrt{1 - f^2}\,(\bar x - c_0)/\text{level} + f\,\text{white})$,
# - seen, $\sigma \ge \alpha\,\text{level}$: $\alpha\bar x$, topped up with `white` to the standard deviation $\sigma$.
#
# (This is eta_b = 1, and then DDNM+ as well.) Without noise the level is 0, and the last step has $\sigma = 0$: mind both.


# %%
def ddrm_coordinates(c_0, eps, seen, s, noise_std, alpha, sigma, share, white):
    """The coordinates of the next state, (B, r)."""
    ### BEGIN SOLUTION
    visible = s > 0
    level = noise_std / torch.where(visible, s, 1.0)
    clear = visible & (sigma >= alpha * level)
    direct = alpha * seen + (sigma**2 - (alpha * level) ** 2).clamp(min=0).sqrt() * white
    middle = visible & ~clear  # level > 0 there
    along = torch.where(middle, (seen - c_0) / torch.where(middle, level, 1.0), eps)
    return torch.where(clear, direct, alpha * c_0 + sigma * ((1 - share**2) ** 0.5 * along + share * white))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.7", ddrm_coordinates)

# %% [markdown]
# The budget: when `c_0` is the truth, every coordinate must have the standard deviation $\sigma$, over the noise of the measurement too. Measure it for 200 singular values from 0 to 1 at $\alpha = 0.8$, $\sigma = 0.6$, `noise_std` 0.3, with 10,000 draws, for your rule and for two wrong ones: the case decided by `noise_std` instead of the level, and $\sigma$ added whole.

# %% tags=["solution"]
s = torch.linspace(0, 1, 201, dtype=double)
noise = standard_normal(3)
eps, other, white = (noise(torch.zeros(10_000, 201, dtype=double)) for _ in range(3))
measured = 0.3 / s.clamp(min=1e-9) * other  # the truth is 0
ruled = ddrm_coordinates(torch.zeros_like(eps), eps, measured, s, 0.3, 0.8, 0.6, 0.85, white)
direct = 0.8 * measured + (0.36 - (0.8 * 0.3 / s.clamp(min=1e-9)) ** 2).clamp(min=0).sqrt() * white
wrong_case = torch.where(s > 0, direct, ruled)  # 0.6 >= 0.8 * 0.3 for all of them
whole = torch.where(0.6 * s >= 0.8 * 0.3, 0.8 * measured + 0.6 * white, ruled)
plots.curves(
    s,
    {
        "right": ruled.std(0) / 0.6,
        "case by noise_std": (s[1:], wrong_case.std(0)[1:] / 0.6),
        "sigma whole": whole.std(0) / 0.6,
    },
    title="Each coordinate has one budget, and three ways to keep it",
    alt="Standard deviation over sigma against the singular value. Right: 1 from 0 to 1. Case decided by noise_std: 1 above 0.4, rising steeply beyond 2 below it. Sigma added whole: 1 below 0.4, 1.41 at 0.4, falling to 1.08 at 1.",
    xlabel="singular value",
    ylabel="standard deviation / $σ$",
    vertical={"σ = α level": 0.4},
    ylim=(0.8, 2.2),
)

# %% [markdown] tags=["solution"]
# The right rule keeps the budget everywhere, with three different mixtures: $\epsilon$ and fresh noise in the null space, almost only the measurement's own noise at the border, more and more fresh noise the clearer a coordinate is. Decided by `noise_std`, the coordinates below 0.4 get noise that no denoiser expects, without bound; for a blur these are its fine frequencies, and the image fills with ripples. Added whole, $\sigma$ comes on top of the measurement's noise, by 41 % at the border. For pooling all singular values are the same, so a test on pooling alone sees the first mistake never or everywhere; test on a blur.

# %% [markdown]
# ## Exercise 14.8: Where SNIPS settles (research-like)
#
# At one noise level, SNIPS takes several Langevin steps in each coordinate $c$ of $y = z_t/\alpha_t$. With the step size `a`, $l$ = `level` $= \sigma/\alpha$ and `own` = noise_std / singular value (infinite in the null space):
#
# $$c \leftarrow c + \tfrac{a}{2}\big(r\bar x + (1 - r)c_0 - c\big) + \sqrt{a\,w}\;n,\qquad r = \min\!\big(1, (l/\text{own})^2\big),\qquad w = \begin{cases} l^2 - \text{own}^2 & \text{own} \le l\\ l^2(1 - r) & \text{own} > l\end{cases}$$
#
# Let the prior of the coordinate be $N(0, v)$ with $v$ = `variance`, so that the exact denoiser answers $c_0 = \frac{v}{v + l^2}c$. Return the mean and the variance that the coordinate settles to, both (r,). `seen` ($\bar x$), `own` and `variance` are (r,); where `own` is infinite, $r = 0$ and `seen` plays no part.


# %%
def settled(seen, level, own, variance, a):
    """(mean, variance) of the stationary law."""
    ### BEGIN SOLUTION
    r = (level / own).clamp(max=1) ** 2
    w = torch.where(own <= level, level**2 - own**2, level**2 * (1 - r))
    keep = 1 - a / 2 * (1 - (1 - r) * variance / (variance + level**2))  # c <- keep c + a/2 r seen + noise
    return a / 2 * r * seen / (1 - keep), a * w / (1 - keep**2)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("14.8", settled)

# %% [markdown]
# Is that the right law? If the noise of $x$ is part of the state's noise while own ≤ $l$, then $c$ given $\bar x$ is $N(\bar x, l^2 - \text{own}^2)$; beyond, with $q = \text{own}^2 - l^2$, its precision is $1/(v + l^2) + 1/q$ and its mean $\bar x/q$ times the variance. Compare your answer with that for `a` = 0.066 (SNIPS's CelebA setting), 0.5 and 1, against the level, with $v = 1$, own = 0.3, $\bar x = 1$.


# %% tags=["solution"]
def right_law(seen, level, own, variance):
    """(mean, variance) of c given x-bar."""
    q = own**2 - level**2
    if q <= 0:
        return seen, level**2 - own**2
    precision = 1 / (variance + level**2) + 1 / q
    return seen / q / precision, 1 / precision


one_, own = torch.ones(1, dtype=double), torch.full((1,), 0.3, dtype=double)
levels = torch.logspace(-2, 1, 61, dtype=double)
levels = levels[(levels - 0.3).abs() > 0.01]
spreads, means = {}, []
for a in (0.066, 0.5, 1.0):
    laws = [(settled(one_, level, own, one_, a), right_law(one_, level, own, one_)) for level in levels]
    spreads[f"a = {a}"] = [(mine[1] / exact[1]).sqrt().item() for mine, exact in laws]
    means.append(max((mine[0] - exact[0]).abs().item() for mine, exact in laws))
print(f"the means differ by at most {max(means):.6f}")
print("too wide at level 10 by " + ", ".join(f"{values[-1] - 1:.1%}" for values in spreads.values()))
for level in (1.0, 0.1, 0.02):
    r = min(1, (level / 0.3) ** 2)
    pull = 1 - (1 - r) / (1 + level**2)
    print(f"level {level}: a = 0.066 needs {2 / (0.066 * pull):,.0f} steps to forget most of where it was")
plots.curves(
    levels,
    spreads,
    title="The means are exact; a finite step makes the law too wide",
    alt="Standard deviation over the right one against the level from 0.01 to 10, for three step sizes. All are constant above the level 0.3: 1.008, 1.07 and 1.155 for a = 0.066, 0.5 and 1. Below 0.3 they fall to 1.",
    xlabel="level $l$",
    ylabel="standard deviation / the right one",
    logx=True,
    vertical={"own": 0.3},
)

# %% [markdown] tags=["solution"]
# At every level the mean is exact and the variance too large by the factor $1/(1 - a\,p/4)$ with the pull $p = 1 - (1 - r)\frac{v}{v + l^2}$: chapter 05's bias of Langevin steps: 0.8 % in standard deviation at the smallest of the three. The price is at the quiet end. There the law is as wide as the posterior while the noise of a step is small against it, and thousands of steps would be needed to settle; SNIPS takes five a level. It gets away with it because the level before has left it close by: annealing does the work. So SNIPS wants many levels, hundreds of calls. And a warning from its code: it writes the prior's score into the unseen coordinates by the slice `[-missing:]`. With `missing = 0`, an operator of full rank, that slice is everything, and the measurement is ignored. Write `[rank:]`.
