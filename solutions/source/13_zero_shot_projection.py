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
# # Solutions 13: No retraining: projection
#
# Eight exercises about putting a measurement into a model that has never heard of it: the exchange itself, a test that catches wrong noise levels, the way back up, what all that costs, and how late one may begin. Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line. They belong to [chapter 13](../notebooks/13_zero_shot_projection.ipynb).
#
# Running time: about 10 s on two processor cores.
#
# States are $2y - 1$ for images $y$ in [0, 1], so they lie in [-1, 1], and so does $x = A z_0$. A state at time $t$ is $z_t = \alpha_t z_0 + \sigma_t\epsilon$; steps go from $t$ to a cleaner $s < t$. `operator(z)`, `operator.adjoint(x)` and `operator.pinv(x)` are $A$, $A^\top$ and $A^+$; `schedule.alpha(t)` and `schedule.sigma(t)` give the level. Everything but the networks is float64.

# %%
from functools import cache

import torch
from IPython.display import display

from tutorial_lib import plots
from tutorial_lib.data.faces import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.exercises import check
from tutorial_lib.images import photo, resize
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Mask
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, ddpm, last
from tutorial_lib.schedules import uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step
from tutorial_lib.yoda import importance as local_contrast
from tutorial_lib.zero_shot import ccdf, ilvr, repaint, resampling_path

double = torch.float64
cosine, linear = vp_cosine(), vp_linear()
painter = NetworkDenoiser(load_pretrained("faces-unconditional-32"))  # knows faces, 32 x 32, and no operator
people = 2 * faces(4, seed=5).images - 1  # four faces as states


def picture(z):
    """A state as an image."""
    return (z / 2 + 0.5).clamp(0, 1)


# %% [markdown]
# ## Exercise 13.1: The exchange (warm-up)
#
# A sampler proposes a state at a level with the numbers `alpha` and `sigma`. Exchange what the operator sees of `proposal` (B, C, H, W) for the measurement `x`, brought to that level with the noise `white` (shaped like the proposal): afterwards $A$ applied to the state must be $\alpha x + \sigma A\,\text{white}$. What $A$ does not see stays as proposed.


# %%
def exchange(proposal, x, operator, alpha, sigma, white):
    """The proposal with its visible part replaced, (B, C, H, W)."""
    ### BEGIN SOLUTION
    noised = alpha * x + sigma * operator(white)
    return proposal + operator.pinv(noised - operator(proposal))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.1", exchange)

# %% [markdown]
# Build ILVR out of it: DDPM steps of `painter`, each followed by your exchange, 25 calls from pure noise, with $x$ the faces pooled by 4. Then make three of the mistakes on purpose: $A^\top$ for $A^+$, no noise in the reference, and range and null space swapped. What does each do to the faces, and how large is $Az - x$ (root mean square) in the end?


# %% tags=["solution"]
def walk(exchange, x, operator, n=25):
    """DDPM with an exchange after every step."""
    noise, times = standard_normal(1), uniform_times(n)
    z = noise(people)
    for t, s in zip(times[:-1], times[1:], strict=True):
        proposal = ddim_step(z, painter(z, t), cosine, t, s, 1.0, noise)
        z = exchange(proposal, x, operator, cosine.alpha(s).item(), cosine.sigma(s).item(), noise(z))
    return z


def with_adjoint(proposal, x, operator, alpha, sigma, white):
    return proposal + operator.adjoint(alpha * x + sigma * operator(white) - operator(proposal))


def clean(proposal, x, operator, alpha, sigma, white):
    return exchange(proposal, x, operator, alpha, 0.0, white)


def swapped(proposal, x, operator, alpha, sigma, white):
    noised = alpha * operator.pinv(x) + sigma * white
    return noised + operator.pinv(operator(proposal) - operator(noised))


pool = AveragePool(4)
seen = pool(people)
ways = {"right": exchange, "adjoint": with_adjoint, "clean reference": clean, "swapped": swapped}
with torch.inference_mode():
    made = {name: walk(way, seen, pool) for name, way in ways.items()}
for name, z in made.items():
    residual, error = ((a - b).square().mean().sqrt() for a, b in ((pool(z), seen), (z, people)))
    print(f"{name:16} residual {residual:.4f}, error {error:.2f}")
plots.image_grid(
    [torch.cat(list(picture(z)), 2) for z in (people, pool.pinv(seen), *made.values())],
    ["the faces", "A⁺x", *made],
    title="One line of ILVR, right and in three wrong ways",
    alt="Six strips of four faces of 32 by 32 pixels. The originals; their 8 by 8 averages as blocks; ILVR, which makes clear faces that fit the blocks; with the adjoint, clear faces of other people, three of four with another background or hair; with a clean reference, nearly the same faces as ILVR; with range and null space swapped, blocks of 4 by 4 pixels in wrong colours.",
    zoom=3,
    columns=2,
)

# %% [markdown] tags=["solution"]
# With $A^\top$ the measurement pulls with a sixteenth of the strength that it should have ($AA^\top = I/16$ for pooling by 4): clear faces of other people, and a residual that is not 0. That is the sign to look for; a face that looks good says nothing. Swapped, the blocks come from the model and the details within them from $A^+x$, which has none. The clean reference is the treacherous one: residual 0, faces as good as the right ones. A network that was shown thousands of faces forgives a state with too little noise. The next exercise finds such mistakes in one step.

# %% [markdown]
# ## Exercise 13.2: A test for one step
#
# Whatever a projection method does, one thing must hold after each step when the denoiser is right: given $z_0$, the state at $s$ has the standard deviation $\sigma_s$. Measure it without drawing a single number. `step(z, z_0, t, s, noise)` returns the state at `s`; `noise(like)` draws white noise. Return the standard deviation of every pixel after the step, divided by $\sigma_s$: a flat tensor with as many numbers as `z_0` (1, 1, H, W) has. The state before it is $z_t \sim q(z_t \mid z_0)$.
#
# `affine_law(run, dim)` gives the exact (mean (dim,), covariance (dim, dim)) of what `run(noise)` returns, if everything random in it comes from `noise`.


# %%
def spread(step, z_0, schedule, t, s):
    """Standard deviation over sigma_s for each pixel, (H W,)."""

    ### BEGIN SOLUTION
    def run(noise):
        z = schedule.alpha(t) * z_0 + schedule.sigma(t) * noise(z_0)
        return step(z, z_0, t, s, noise)

    _, covariance = affine_law(run, z_0.numel())
    return covariance.diagonal().sqrt() / schedule.sigma(s)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.2", spread)

# %% [markdown]
# Test three steps along a grid of 20 on `vp_linear`, with a mask that sees the left half: the reference at level $s$, at level $t$ (as in the published ILVR code), and with the variance in place of the standard deviation (the second slip in line 5 of RePaint's algorithm). Then run the same three steps to the end on the pair $z_0 \sim N(0, \Sigma)$ with correlation 0.9, whose first number is measured. Which test tells the three apart?

# %% tags=["solution"]
half = Mask(torch.tensor([[1.0, 0.0]]).repeat_interleave(2, 1))
levels = {
    "level s": lambda t, s: linear.sigma(s),
    "level t": lambda t, s: linear.sigma(t),
    "variance": lambda t, s: linear.sigma(s) ** 2,
}


def projecting(operator, x, level):
    """A DDPM step and the exchange with this noise in the reference."""

    def step(z, z_0, t, s, noise):
        proposal = ddim_step(z, z_0, linear, t, s, 1.0, noise)
        return exchange(proposal, x, operator, linear.alpha(s), level(t, s), noise(z))

    return step


image = torch.ones(1, 1, 4, 4, dtype=double)
times = uniform_times(20)
found = {
    name: [
        spread(projecting(half, half(image), level), image, linear, t, s)[0]
        for t, s in zip(times[:-2], times[1:-1], strict=True)
    ]
    for name, level in levels.items()
}
pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1, 0.9], [0.9, 1]], dtype=double))
first, x = Mask(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 0.0]], dtype=double)
exact, pair_denoiser = pair.posterior(first, x, 0.0), denoiser_for(pair, linear)


def distance(run):
    """W2 between the law of run(noise) and the pair's posterior."""
    return gaussian_w2(*affine_law(run, 2), exact.mean, exact.covariance)


def end_to_end(level):
    def run(noise):
        z = noise(x)
        for t, s in zip(times[:-1], times[1:], strict=True):
            z = projecting(first, x, level)(z, pair_denoiser(z, t), t, s, noise)
        return z

    return run


for name, level in levels.items():
    print(
        f"{name:9} one step: {found[name][-1]:.3f} of sigma at the last level; 20 steps: W2 {distance(end_to_end(level)):.3f}"
    )
plots.curves(
    times[1:-1],
    found,
    title="The spread of the exchanged pixels after one step",
    alt="Standard deviation over sigma of a seen pixel against the time s at which the step arrives. Level s gives 1 everywhere. Level t is 1 above 0.5 and rises at the clean end to far more than 1. Variance equals sigma: near 1 at the noisy end and falling to nearly 0 at the clean end.",
    xlabel="the step arrives at time s",
    ylabel="standard deviation / $σ_s$",
    logy=True,
)

# %% [markdown] tags=["solution"]
# The test of one step: at the last noisy level the reference at $t$ has 17 times the spread that it should have, the variance a hundredth of it. At the noisy end $\sigma_s \approx \sigma_t \approx \sigma_s^2$, and nothing is to be seen. The test of the end result sees next to nothing: the three distances agree to 1 %. In the last step $\sigma_s = 0$ and the clean $x$ is pasted in, whatever went before, and the method's own error (0.34; exercise 13.4) is far larger than what the wrong level adds. So a look at samples, or even an exact distance, can pass a wrong sampler. Test steps.

# %% [markdown]
# ## Exercise 13.3: The way back
#
# RePaint goes back: from the state `z` at time `s` to a noisier time `t`, by adding noise, so that a state with the law of $q(z_s \mid z_0)$ becomes one with that of $q(z_t \mid z_0)$. Write it with `white` (B, C, H, W), for any `schedule`.


# %%
def go_back(z, schedule, s, t, white):
    """The state at the noisier time t > s, (B, C, H, W)."""
    ### BEGIN SOLUTION
    ratio = schedule.alpha(t) / schedule.alpha(s)
    added = schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2
    return ratio * z + added.sqrt() * white
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.3", go_back)

# %% [markdown]
# Put it to the test: from $q(z_s \mid z_0)$ at $s = 0.4$ go back to $t$ and measure the spread as in 13.2, for $t$ from 0.41 to 0.9. Compare with the usual mistake, noise of standard deviation $\sigma_t$, as if the state were clean. Where is the mistake largest?


# %% tags=["solution"]
def as_if_clean(z, schedule, s, t, white):
    return schedule.alpha(t) / schedule.alpha(s) * z + schedule.sigma(t) * white


later = torch.linspace(0.41, 0.9, 50, dtype=double)
spreads = {
    name: [
        spread(lambda z, z_0, s, t, noise, back=back: back(z, linear, s, t, noise(z)), image, linear, 0.4, t)[0]
        for t in later
    ]
    for name, back in (("the rest of the noise", go_back), ("all of the noise", as_if_clean))
}
plots.curves(
    later,
    spreads,
    title="Adding all of the noise to a state that has some",
    alt="Standard deviation over sigma at t against t from 0.41 to 0.9, for a state that comes back from 0.4. Adding the rest gives 1 everywhere. Adding all of the noise gives 1.4 just above 0.4 and falls to 1 near 0.9.",
    xlabel="time t to which the state goes back",
    ylabel="standard deviation / $σ_t$",
)

# %% [markdown] tags=["solution"]
# Just above $s$ nothing should be added and all of $\sigma_t$ is: the variance is twice what it should be, the spread 1.4 times. A network that is told one level and given up to twice its variance takes the surplus for detail. On long jumps the mistake vanishes, since hardly anything is left of the state's own noise; RePaint goes back often and not far, which is where it counts.

# %% [markdown]
# ## Exercise 13.4: What RePaint costs
#
# A grid has `n` steps. From the points with $k = 1,\ 1 + j,\ 1 + 2j, \dots$ steps left ($j$ = `jump`), as long as $k + j \le n$, RePaint goes back $j$ points and walks down again, so that each such stretch is walked `repeat` times in all. Return the number of calls of the network. (Going back calls nothing.)


# %%
def calls(n, jump, repeat):
    """Network calls for RePaint's path."""
    ### BEGIN SOLUTION
    points = len(range(1, n - jump + 1, jump))
    return n + points * jump * (repeat - 1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.4", calls)

# %% [markdown]
# What do the calls buy? On the pair of 13.2, plot W2 to the posterior against the calls: for `repeat=1` on finer and finer grids, and for `jump=1` on grids of 10, 20 and 40 steps with more and more repeats. How would you spend 100 calls?

# %% tags=["solution"]


@cache
def repainted(n, jump, repeat):
    def run(noise):
        grid = uniform_times(n)
        return last(repaint(pair_denoiser, linear, first, x, 0.0, grid, jump=jump, repeat=repeat, noise=noise))

    return distance(run)


print("the paper's 250 steps, jump 10, repeat 10:", calls(250, 10, 10), "calls")
for n, repeat in ((80, 1), (40, 2), (20, 5), (10, 9)):
    print(f"{n} steps, repeat {repeat}: {calls(n, 1, repeat)} calls, W2 {repainted(n, 1, repeat):.3f}")
grids = (10, 20, 40, 80)
lines = {"repeat = 1": (grids, [repainted(n, 1, 1) for n in grids])}
for n in (10, 20, 40):
    repeats = [r for r in (1, 2, 3, 5, 9) if calls(n, 1, r) <= 120]
    lines[f"{n} steps, repeated"] = ([calls(n, 1, r) for r in repeats], [repainted(n, 1, r) for r in repeats])
display(
    plots.curves(
        torch.arange(len(resampling_path(20, 5, 3))),
        {"20 steps, jump 5, repeat 3": [20 - i for i in resampling_path(20, 5, 3)]},
        title="RePaint walks back and forth",
        alt="Steps left against the position on the path. The line falls from 20 to 11, jumps back to 16 and falls to 11 again, twice; then the same from 6 back to 11 and from 1 back to 6, twice each, before it reaches 0 after 56 moves.",
        xlabel="moves",
        ylabel="steps left",
        height=300,
    )
)
plots.curves(
    [0.0],
    lines,
    title="Finer grids do not help a projection; going back does",
    alt="W2 to the posterior against network calls. With repeat 1 it falls from 0.41 at 10 calls to 0.30 at 80 and flattens. Repeats bring 10 steps to 0.14 at 82 calls, 20 steps to 0.12 at 96, and 40 steps to 0.16 at 79 and 0.11 at 118.",
    xlabel="network calls",
    ylabel="W2 to the posterior",
    ylim=(0, 0.45),
)

# %% [markdown] tags=["solution"]
# A finer grid makes each step right and leaves what is wrong with the walk. The network takes the noised measurement for all that is known, as it does with any state, so the other number follows $x$ less than it should; and the noise in the measured part is new after each step, whatever the other part has become. Going back gives the two time to agree. Each repeat costs a whole walk more, and the first one buys most. After a few there is little left to agree on: then the grid's own error remains, and a finer grid with fewer repeats pays more. With 100 calls, 20 steps with five repeats. Keep the number in mind for exercise 14.6: DDNM, which corrects $z_0$ before it makes the step, needs no repeats.

# %% [markdown]
# ## Exercise 13.5: A noisy camera
#
# In the coordinates of the SVD the measurement says $\bar x_i = c_i + \text{level}_i\, n_i$ about coordinate $i$ of the clean image, where `level` (r,) is the measurement's noise divided by the singular values. A sampler proposes the coordinates `c` (B, r) of a state at the level (`alpha`, `sigma`). Exchange a coordinate for what `seen` ($\bar x$, (B, r)) says about it, topped up with `white` (B, r) so that its standard deviation is exactly $\sigma$, as long as there is room for that; elsewhere keep the proposal. Equality counts as room.


# %%
def exchange_noisy(c, seen, level, alpha, sigma, white):
    """The coordinates after the exchange, (B, r)."""
    ### BEGIN SOLUTION
    room = sigma**2 - (alpha * level) ** 2
    return torch.where(room >= 0, alpha * seen + room.clamp(min=0).sqrt() * white, c)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.5", exchange_noisy)

# %% [markdown]
# Add noise of 0.2 (in state units: 0.1 for images in [0, 1]) to the pooled faces. For pooling by 4 every singular value is 1/4. Down to which time is $x$ exchanged? Compare `ilvr` that is told the noise with `ilvr` that is not.

# %% tags=["solution"]
noisy = seen + 0.2 * standard_normal(2)(seen)
grid = uniform_times(25)
stops = [t.item() for t in grid if cosine.alpha(t) * 0.2 * 4 <= cosine.sigma(t)][-1]
with torch.inference_mode():
    told = last(ilvr(painter, cosine, pool, noisy, 0.2, grid, noise=standard_normal(1)))
    untold = last(ilvr(painter, cosine, pool, noisy, 0.0, grid, noise=standard_normal(1)))
print(
    f"the last exchange is at t = {stops:.2f}, where alpha is {cosine.alpha(stops):.2f} and sigma {cosine.sigma(stops):.2f}"
)
for name, z in (("told", told), ("not told", untold)):
    error = (z - people).square().mean().sqrt()
    print(f"{name:9} residual {(pool(z) - noisy).square().mean().sqrt():.3f}, error {error:.3f}")
plots.image_grid(
    [torch.cat(list(picture(z)), 2) for z in (people, pool.pinv(noisy), untold, told)],
    ["the faces", "A⁺x, noisy", "ILVR, not told", "ILVR, told 0.2"],
    title="Noise that is believed, and noise that is known",
    alt="Four strips of four faces: the originals; blocks of 4 by 4 pixels in wrong colours; ILVR that believes the noise, faces under garish coloured blotches; ILVR that is told, clean faces with the right hair and backgrounds, but the second has lost her beard and the fourth has got glasses.",
    zoom=3,
    columns=2,
)

# %% [markdown] tags=["solution"]
# Told of the noise, ILVR lets go at $t = 0.46$, where the state has become as quiet as $\alpha$ times four times the noise of $x$; from there on the model finishes alone. The residual is then 0.204: what a posterior sample should leave is about the noise, 0.2. Not told, it makes $Az = x$ hold to the last digit, noise included, and the error is larger, although there are clear faces under the blotches. It is a blunt instrument all the same: below that level $x$ still knows something, and a posterior sampler would go on weighing it. DDRM (exercise 14.7) goes on listening, in its way.

# %% [markdown]
# ## Exercise 13.6: What a late start forgets
#
# CCDF begins at a level (`alpha`, `sigma`) with $\alpha\,\text{init} + \sigma\epsilon$. Let `init` be wrong by an error $e$ in a direction that the camera does not see and in which the images have the variance $v$, all Gaussian. DDPM then walks down in infinitely many small steps, with the exact denoiser. By what factor is $e$ multiplied in the mean of the samples? `variances` holds several $v$, (D,); return one factor for each.
#
# Hint: infinitely many DDPM steps draw from $p(z_0 \mid z_t)$ exactly. How does its mean depend on $z_t$?


# %%
def error_left(alpha, sigma, variances):
    """The factor on the error of init, one per variance, (D,)."""
    ### BEGIN SOLUTION
    gain = alpha * variances / (alpha**2 * variances + sigma**2)  # of the mean of z_0 given z_t
    return gain * alpha
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.6", error_left)

# %% [markdown]
# Check it with `ddpm` on a diagonal Gaussian, and see what DDIM leaves instead. Then plot the factor against the start time on `vp_linear` for $v$ = 3 (coarse structure), 0.3 and 0.01 (fine detail).

# %% tags=["solution", "nbval-check-output"]
variances = torch.tensor([3.0, 0.3, 0.01], dtype=double)
diagonal = denoiser_for(Gaussian(torch.zeros(3, dtype=double), torch.diag(variances)), linear)
start, steps = 0.4, torch.linspace(0.4, 0, 801, dtype=double)
zeros, error = torch.zeros_like, torch.ones(1, 3, dtype=double)  # noise 0: what is left is the mean
walked = last(ddpm(diagonal, linear, linear.alpha(start) * error, steps, noise=zeros))
flowed = last(ddim(diagonal, linear, linear.alpha(start) * error, steps))
for name, values in (
    ("formula", error_left(linear.alpha(start), linear.sigma(start), variances)),
    ("DDPM", walked[0]),
    ("DDIM", flowed[0]),
):
    print(f"{name:8} " + "  ".join(f"{value:.3f}" for value in values))

# %% tags=["solution"]
starts = torch.linspace(0.01, 1, 100, dtype=double)
plots.curves(
    starts,
    {f"v = {v:g}": [error_left(linear.alpha(t), linear.sigma(t), v).item() for t in starts] for v in variances},
    title="A late start forgets wrong details, but not a wrong composition",
    alt="The factor on the error of init against the start time from 0 to 1, for three prior variances. All begin at 1 and end at 0. With variance 0.01 the factor is below 0.1 from 0.1 on, with 0.3 from 0.4 on, and with 3 from 0.65 on.",
    xlabel="start time t",
    ylabel="share of the error that is left",
    horizontal={"5 %": 0.05},
)

# %% [markdown] tags=["solution"]
# $\mathbb{E}[z_0 \mid z_t]$ is linear in $z_t$ with the gain $\alpha v/(\alpha^2 v + \sigma^2)$, and the start holds $\alpha e$. DDIM leaves the root of DDPM's factor (0.649² = 0.422): it carries the error along as if it were the sample's own, DDPM draws it anew. So a stochastic walk forgives a worse `init`. And the factor is $\text{SNR}\cdot v/(1 + \text{SNR}\cdot v)$: details, whose $v$ is small, are forgotten after a short walk, the composition only after a long one. `init` must have the composition right, which a bicubic enlargement has, and may have any details.

# %% [markdown]
# ## Exercise 13.7: YODA's step
#
# YODA ([arXiv 2308.07977](https://arxiv.org/abs/2308.07977)) gives every pixel a start of its own. A pixel of importance $a \in [0, 1]$ is diffused at the times $t \le \ell + (1 - \ell)a$, with $\ell$ = `lowest`; before that its state is the enlarged LR image `guide`, noised. A step leaves from `t` and has made `proposal` (B, C, H, W) at the level (`alpha`, `sigma`). Return the state after it, using `white` for the noise of the guide. `importance` is (B, 1, H, W). Whether a pixel is diffused is decided at `t`.


# %%
def yoda_step(proposal, guide, importance, t, lowest, alpha, sigma, white):
    """The proposal where pixels are diffused, the noised guide elsewhere, (B, C, H, W)."""
    ### BEGIN SOLUTION
    diffused = t <= lowest + (1 - lowest) * importance
    return torch.where(diffused, proposal, alpha * guide + sigma * white)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.7", yoda_step)

# %% [markdown]
# Which pixels does it work on? `local_contrast(lr, 4)` is an importance map of an LR image. With your step, a proposal of ones and a guide of zeros, draw the mask of a photo at $t$ = 0.8, 0.5, 0.3 and 0.1, for `lowest` 0 and 0.2, and print the share of pixels that are diffused over 100 even steps.

# %% tags=["solution"]
hr = photo("astronaut")[..., :192, 130:322].double()
contrast = local_contrast(resize(hr, 1 / 4), 4)


def mask(t, lowest):
    ones = torch.ones_like(contrast)
    return yoda_step(ones, 0 * ones, contrast, t, lowest, 1.0, 0.0, ones)


shown, labels = [], []
for lowest, first_one in ((0.0, hr), (0.2, contrast.expand_as(hr))):
    shares = torch.stack([mask(t, lowest).mean() for t in torch.linspace(1, 0.01, 100)])
    print(f"lowest {lowest}: {shares.mean():.0%} of pixels and steps")
    shown += [first_one, *[torch.where(mask(t, lowest) > 0, hr, 0.6) for t in (0.8, 0.5, 0.3, 0.1)]]
    labels += ["photo" if lowest == 0 else "importance", *[f"t = {t}, lowest {lowest}" for t in (0.8, 0.5, 0.3, 0.1)]]
plots.image_grid(
    shown,
    labels,
    title="Edges are diffused from early on, the rest joins late",
    alt="A portrait, its importance map with bright edges, and eight versions of the portrait in which pixels that are not diffused are grey. At t = 0.8 a few points of an outline show, at 0.5 the outline of head and collar, at 0.3 most outlines and the eyes, at 0.1 all but the background. With lowest 0.2 a little more shows each time, and at 0.1 everything.",
    zoom=1,
    columns=5,
)

# %% [markdown] tags=["solution"]
# A fifth of all pixels and steps with `lowest` 0, a third with 0.2. That is work that could be saved, if a network could leave pixels out; ours computes them all, so what YODA may gain here is quality, not time. The flat background starts last, from a guide that is right there anyway: CCDF's idea of exercise 13.6, pixel by pixel. With `lowest` = 0 a pixel of importance 0 is never diffused: it keeps the guide. And an importance map is relative: on a photo without strong edges the grain becomes "important".

# %% [markdown]
# ## Exercise 13.8: How late may CCDF start? (a measured answer)
#
# Below are a prior of smooth 6 × 6 images, a measurement of it by 3 × 3 pooling, and a function that gives CCDF's exact distance to the posterior (W2 per pixel) when it starts from `init` $= A^+x$ at time `start` and takes 50 steps per unit of time. Return the smallest of the starts 0.1, 0.2, …, 1 whose distance is at most 10 % above that of the full walk (start 1), and its number of network calls.

# %%
places = torch.cartesian_prod(torch.arange(6, dtype=double), torch.arange(6, dtype=double))
covariance = 0.3 * torch.exp(-(torch.cdist(places, places) ** 2) / 8) + 0.01 * torch.eye(36, dtype=double)
smooth, blocks = Gaussian(torch.zeros(1, 6, 6, dtype=double), covariance), AveragePool(3)
measured = blocks(smooth.sample(1, standard_normal(3)))
truth = smooth.posterior(blocks, measured, 0.0)


@cache
def ccdf_distance(start):
    """W2 per pixel between CCDF's samples and the posterior."""
    grid = torch.linspace(start, 0, round(50 * start) + 1, dtype=double)
    denoiser = denoiser_for(smooth, linear)
    law = affine_law(lambda noise: last(ccdf(denoiser, linear, blocks, measured, 0.0, grid, noise=noise)), 36)
    return gaussian_w2(*law, truth.mean.flatten(), truth.covariance) / 6


# %%
def latest_start():
    """(start, calls)."""
    ### BEGIN SOLUTION
    full = ccdf_distance(1.0)
    start = next(k / 10 for k in range(1, 11) if ccdf_distance(k / 10) <= 1.1 * full)
    return start, round(50 * start)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("13.8", latest_start)

# %% [markdown]
# Could you have predicted it from exercise 13.6? Plot the distance against the start, beside the factor for the largest variance that the posterior leaves open (`torch.linalg.eigvalsh(truth.covariance)[-1]`). And why does the curve not go to 0?

# %% tags=["solution"]
largest = torch.linalg.eigvalsh(truth.covariance)[-1]
starts, full = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], ccdf_distance(1.0)
print(f"the posterior's largest variance is {largest:.2f}; the full walk ends at W2 {full:.4f} per pixel")
excess = {start: ccdf_distance(start) / full - 1 for start in starts}
left = {start: error_left(linear.alpha(start), linear.sigma(start), largest).item() for start in starts}
for start in starts[2:5]:
    print(f"start {start}: {left[start]:.0%} of an error is left, W2 is {excess[start]:.1%} above the full walk")
plots.curves(
    starts,
    {
        "W2, above that of the full walk": list(excess.values()),
        "error of init that is left, largest variance": list(left.values()),
    },
    title="When the start is forgotten, an earlier one buys nothing",
    alt="On a logarithmic axis against the start time: the excess of W2 over the full walk falls from 2 at 0.1 to 0.16 at 0.3, 0.03 at 0.4 and 0.0006 at 0.6. The share of an error that is left falls from 0.8 at 0.1 to 0.26 at 0.3, 0.12 at 0.4 and 0.01 at 0.6.",
    xlabel="start time",
    ylabel="share",
    logy=True,
)

# %% [markdown] tags=["solution"]
# The formula names the place: from 0.3 to 0.5 the error that is left goes from a quarter to a twentieth. The distance is quicker, roughly with the square of that factor: `init` $= A^+x$ is not far from the posterior's mean, and what counts most is the missing spread, a difference of variances. 40 % of the calls buy the same law. What stays, however early the start, is the error of the projection itself, the one that RePaint goes back for. A different prior or a worse `init` moves the answer; the two lines to check it with stay the same.
