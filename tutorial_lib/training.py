"""One readable training loop: accelerate for devices and processes, EMA, atomic checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from .checks import check_one_of
from .compact import compact
from .files import sha256, write_atomically

if TYPE_CHECKING:
    from .recipes import DirectRecipe, Recipe


STRETCH = 100  # steps over which the loss curve is averaged


@dataclass(frozen=True)
class Trained:
    """What `fit` returns: the averaged network, the steps done, the losses of the last stretch, the mean loss of every
    full stretch of STRETCH steps since step 0, and where the state lies."""

    network: nn.Module
    step: int
    losses: list[float]
    curve: list[float]
    checkpoint: Path | None


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to `peak`, then half a cosine down to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def ema_weight(step: int, halflife: float) -> float:
    """How far the average moves towards the new weights after `step`: 1 - 2^(-1/halflife), more at the very start."""
    return max(1 - 0.5 ** (1 / halflife), 1 / (step + 2) if step < halflife else 0.0)


def fit(
    recipe: Recipe,
    out: str | Path | None = None,
    resume: bool = False,
    minutes: float | None = None,
    until: int | None = None,
    precision: str | None = None,
    progress: bool = True,
    checkpoint_every: float = 60.0,
    on_step=None,
) -> Trained:
    """Train `recipe.network()` for `recipe.steps` steps and return the exponential moving average of its weights.

    Each step draws `recipe.batch(step)`, takes the mean of `recipe.loss(network, batch)` (one value per sample), clips the
    gradient's norm, and makes one AdamW step under `learning_rate`. A batch depends only on the recipe's seed and the step,
    so nothing but weights, moments and the step has to be kept to resume exactly: a run that was killed and resumed ends
    with the same bits as one that was not (same machine, same thread count).

    `out` is a folder for `state.safetensors`, written atomically every `checkpoint_every` seconds and at the end; `resume`
    goes on from it. `minutes` and `until` (a step) stop early (resumable). `precision` is "no" or "bf16"; the recipe's own
    by default. Under `torchrun --nproc_per_node N`, each of N processes takes its slice of every batch and gradients are
    averaged, which gives the single-process loss within rounding. (`accelerate launch --cpu` silently starts one process:
    use torchrun.) A loss that is NaN or infinite raises FloatingPointError with the step and the batch.
    `on_step(step, loss)` may watch.
    """
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    precision = check_one_of(precision or recipe.precision, ("no", "bf16"), "precision")
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())  # never Apple's MPS unasked
    autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16")
    rank, processes = accelerator.process_index, accelerator.num_processes
    if recipe.batch_size % processes:
        raise ValueError(
            f"batch_size {recipe.batch_size} of {recipe.name} must be a multiple of the {processes} processes"
        )
    mine = slice(rank * recipe.batch_size // processes, (rank + 1) * recipe.batch_size // processes)

    torch.manual_seed(recipe.seed)  # initial weights only
    network = recipe.network().to(memory_format=torch.channels_last)
    average = {name: p.detach().clone().float().to(accelerator.device) for name, p in network.state_dict().items()}
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.peak_lr, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    network, optimizer = accelerator.prepare(network, optimizer)
    bare = accelerator.unwrap_model(network)

    path = Path(out) / "state.safetensors" if out is not None else None
    start, spent = 0, 0.0
    curve: list[float] = []
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            start, spent, curve = load_state(path, recipe.name, bare, optimizer, average)
    saved = began = time.monotonic()
    losses: list[float] = []
    step = start
    bar = tqdm(total=recipe.steps, initial=start, desc=recipe.name, disable=not (progress and rank == 0), mininterval=1)
    last_step = recipe.steps if until is None else min(until, recipe.steps)
    for step in range(start, last_step):
        batch = {name: part[mine].to(accelerator.device) for name, part in recipe.batch(step).items()}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe.steps, recipe.peak_lr, recipe.warmup)
        with autocast:
            loss = recipe.loss(network, batch).mean()
        value = accelerator.reduce(loss.detach(), reduction="mean").item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of {recipe.name} is {value} at step {step} (batch: recipe.batch({step}), seed {recipe.seed});"
                f" the last good state, if any, is {path}"
            )
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        weight = ema_weight(step, recipe.ema_halflife)
        for name, parameter in bare.state_dict().items():
            average[name].lerp_(parameter.detach().float(), weight)
        losses = [*losses[-199:], value]
        curve = [*curve, value]
        if (step + 1) % STRETCH == 0:
            stretch = (
                len(curve) - step // STRETCH
            )  # the values of the stretch that just ended follow its predecessors' means
            curve = [*curve[:-stretch], sum(curve[-stretch:]) / stretch]
        bar.set_postfix_str(f"loss {sum(losses) / len(losses):.4f}", refresh=False)
        bar.update()
        if on_step is not None:
            on_step(step, value)
        now = time.monotonic()
        finished = step + 1 == last_step or (minutes is not None and now - began > 60 * minutes)
        if path is not None and rank == 0 and (finished or now - saved > checkpoint_every):
            save_state(path, recipe.name, step + 1, spent + now - began, bare, optimizer, average, curve)
            saved = now
        if finished:
            step += 1
            break
    bar.close()
    accelerator.wait_for_everyone()
    result = recipe.network().to(accelerator.device)
    result.load_state_dict(average)
    return Trained(result.eval(), step, losses, curve[: step // STRETCH], path)


def save_state(
    path: Path,
    recipe: str,
    step: int,
    seconds: float,
    network: nn.Module,
    optimizer: Optimizer,
    average: dict[str, Tensor],
    curve: list[float],
) -> None:
    """Write weights, their average and AdamW's moments to one safetensors file, whole or not at all."""
    tensors = {f"average.{name}": p for name, p in average.items()}
    tensors |= {f"network.{name}": p for name, p in network.state_dict().items()}
    names = [name for name, _ in network.named_parameters()]
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{key}.{names[index]}": value for key, value in moments.items()}
    tensors = {name: p.detach().cpu().clone().contiguous() for name, p in tensors.items()}
    metadata = {"recipe": recipe, "step": str(step), "seconds": f"{seconds:.1f}", "curve": json.dumps(curve)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_state(
    path: Path, recipe: str, network: nn.Module, optimizer: Optimizer, average: dict[str, Tensor]
) -> tuple[int, float, list[float]]:
    """Read what `save_state` wrote into network, optimizer and average; return the step to go on with, seconds spent and
    the loss curve: means of full stretches, then the single losses of the last."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("recipe") != recipe:
            raise ValueError(
                f"{path} is a state of recipe {metadata.get('recipe')!r}, but {recipe!r} was asked to resume"
            )
    tensors = load_file(path)
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name in average:
        average[name].copy_(tensors[f"average.{name}"])
    state = optimizer.state_dict()
    keys = ("step", "exp_avg", "exp_avg_sq")
    names = [name for name, _ in network.named_parameters()]
    state["state"] = {
        i: {key: tensors[f"{key}.{name}"] for key in keys} for i, name in enumerate(names) if f"step.{name}" in tensors
    }
    optimizer.load_state_dict(state)
    return int(metadata["step"]), float(metadata["seconds"]), json.loads(metadata.get("curve", "[]"))


def export(recipe: Recipe, state: str | Path, folder: str | Path) -> Path:
    """Turn a training state into shipped weights: `folder/NAME.safetensors` in recipe.bits, and its card NAME.json.

    The card says data, recipe, steps, seconds, machine and SHA-256; `benchmarks/quality.py` adds the measured quality.
    """
    network = recipe.network()
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
        network.load_state_dict({name: file.get_tensor(f"average.{name}") for name in network.state_dict()})
    precision = "float32" if recipe.precision == "no" else recipe.precision
    effort = {"steps": int(metadata["step"]), "seconds": round(float(metadata["seconds"]))}
    curve = json.loads(metadata.get("curve", "[]"))[: effort["steps"] // STRETCH]
    if curve:
        effort[f"mean loss of every {STRETCH} steps"] = [float(f"{value:.4g}") for value in curve]
    return _ship(recipe, recipe.shipped(network), effort, precision, Path(folder))


def solve(recipe: DirectRecipe, folder: str | Path) -> Path:
    """Compute the weights of a recipe without gradient steps and write them as `export` does; there is no state to resume."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    network = recipe.solve()
    effort = {"steps": "none: solved in one go", "seconds": math.ceil(time.monotonic() - began)}
    return _ship(recipe, network, effort, "float32", Path(folder))


def _ship(
    recipe: Recipe | DirectRecipe, network: nn.Module, effort: dict[str, object], precision: str, folder: Path
) -> Path:
    weights = compact(network.state_dict(), recipe.bits)
    path = folder / f"{recipe.name}.safetensors"
    write_atomically(path, lambda temporary: save_file(weights, temporary))
    card = {
        "name": recipe.name,
        "data": recipe.data,
        "recipe": recipe.description,
        "command": f"python -m tutorial_lib train {recipe.name}",
        **effort,
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {precision}",
        "parameters": sum(p.numel() for p in network.state_dict().values()),
        **({"stored": "one byte a weight, a scale for each output channel"} if recipe.bits == 8 else {}),
        "licence": "CC BY 4.0",
        "sha256": sha256(path),
    }
    text = json.dumps(card, indent=2) + "\n"
    write_atomically(path.with_suffix(".json"), lambda temporary: temporary.write_text(text))
    return path
