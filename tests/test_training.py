"""The training loop: exact resume, exact averages, several processes, and a loss that goes bad."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tutorial_lib.recipes.base import Recipe, step_generator
from tutorial_lib.training import ema_weight, export, fit, learning_rate, load_state

TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


def linear_batch(step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 3, generator=step_generator(0, step))
    return {"x": x, "y": x @ TRUTH.T}


def linear_loss(network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return ((network(batch["x"]) - batch["y"]) ** 2).mean(1)


def linear_network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


LINEAR = Recipe("linear", linear_network, linear_batch, linear_loss, steps=40, batch_size=8, peak_lr=0.05, warmup=5,
                ema_halflife=4.0, precision="no")  # fmt: skip


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_finds_the_linear_map():
    recipe = dataclasses.replace(LINEAR, steps=400, network=lambda: nn.Linear(3, 1))
    network = fit(recipe, progress=False).network
    torch.testing.assert_close(network.weight.detach(), TRUTH, atol=1e-3, rtol=0)


def test_resume_after_a_kill_gives_the_same_bits(tmp_path):
    whole = fit(LINEAR, progress=False).network

    def killed(step: int, loss: float) -> None:
        if step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(LINEAR, out=tmp_path, progress=False, checkpoint_every=0.0, on_step=killed)
    result = fit(LINEAR, out=tmp_path, resume=True, progress=False)
    assert result.step == 40
    assert same(result.network, whole)


def test_a_resume_that_forgets_the_moments_is_noticed(tmp_path):
    """Mutant: weights restored, Adam's moments not. The comparison above must be able to see it."""
    whole = fit(LINEAR, progress=False).network
    fit(dataclasses.replace(LINEAR), out=tmp_path, progress=False, minutes=0.0)  # one step
    path = tmp_path / "state.safetensors"
    tensors = load_file(path)
    forgotten = {k: torch.zeros_like(v) if k.startswith("exp_avg") else v for k, v in tensors.items()}
    save_file(forgotten, path, metadata={"recipe": "linear", "step": "1", "seconds": "0"})
    assert not same(fit(LINEAR, out=tmp_path, resume=True, progress=False).network, whole)


def test_minutes_stops_early_and_keeps_the_state(tmp_path):
    early = fit(LINEAR, out=tmp_path, minutes=0.0, progress=False)
    assert early.step == 1
    assert same(fit(LINEAR, out=tmp_path, resume=True, progress=False).network, fit(LINEAR, progress=False).network)


def test_a_state_of_another_recipe_is_refused(tmp_path):
    fit(LINEAR, out=tmp_path, minutes=0.0, progress=False)
    other = dataclasses.replace(LINEAR, name="other")
    with pytest.raises(ValueError, match="recipe 'linear', but 'other'"):
        fit(other, out=tmp_path, resume=True, progress=False)


def test_nan_loss_names_the_step_and_the_batch():
    def bad(network, batch):
        return linear_loss(network, batch) * (float("nan") if bad.calls == 3 else 1.0)

    def counted(network, batch):
        value = bad(network, batch)
        bad.calls += 1
        return value

    bad.calls = 0
    with pytest.raises(FloatingPointError, match=r"loss of linear is nan at step 3 \(batch: recipe.batch\(3\)"):
        fit(dataclasses.replace(LINEAR, loss=counted), progress=False)


def test_the_average_is_the_exponential_moving_average(tmp_path):
    seen = []

    def watched(network, batch):
        seen.append([p.detach().clone() for p in network.parameters()])
        return linear_loss(network, batch)

    recipe = dataclasses.replace(LINEAR, loss=watched)
    result = fit(recipe, out=tmp_path, progress=False)
    final = load_file(tmp_path / "state.safetensors")
    seen.append([final[f"network.{name}"] for name, _ in linear_network().named_parameters()])
    average = [p.clone() for p in seen[0]]
    for step, weights in enumerate(seen[1:]):
        keep = 1 - max(1 - 2 ** (-1 / 4), 1 / (step + 2) if step < 4 else 0)
        average = [keep * a + (1 - keep) * w for a, w in zip(average, weights, strict=True)]
    for a, p in zip(average, result.network.parameters(), strict=True):
        torch.testing.assert_close(a, p.detach(), atol=1e-6, rtol=1e-6)


def test_learning_rate_warms_up_peaks_and_ends_at_zero():
    rates = [learning_rate(step, 100, 2.0, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(2.0) and rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_ema_weight_halves_old_weights_after_a_halflife():
    kept = 1.0
    for step in range(1000, 1050):
        kept *= 1 - ema_weight(step, 50.0)
    assert kept == pytest.approx(0.5)


def test_clipping_bounds_the_gradient_the_optimizer_sees(tmp_path):
    """After one step AdamW's first moment is (1 - beta_1) times the gradient it was given."""
    recipe = dataclasses.replace(
        LINEAR, clip=1e-3, steps=1, loss=lambda network, batch: 1e4 * linear_loss(network, batch)
    )
    fit(recipe, out=tmp_path, progress=False)
    state = load_file(tmp_path / "state.safetensors")
    norm = torch.cat([v.flatten() for k, v in state.items() if k.startswith("exp_avg.")]).norm()
    assert norm.item() == pytest.approx((1 - 0.9) * 1e-3, rel=1e-3)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of 'no', 'bf16', but 'fp8' came"):
        fit(LINEAR, precision="fp8", progress=False)


def test_export_writes_half_weights_and_a_card_that_matches(tmp_path):
    result = fit(LINEAR, out=tmp_path, progress=False)
    path = export(LINEAR, result.checkpoint, tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["steps"] == 40 and card["parameters"] == 3 * 4 + 4 + 4 + 1 and card["seconds"] >= 0
    for name, value in load_file(path).items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(value.float(), result.network.state_dict()[name], atol=1e-3, rtol=1e-3)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_training import LINEAR
from tutorial_lib.training import fit
losses = fit(LINEAR, progress=False).losses
import torch.distributed as dist
if dist.is_initialized() and dist.get_world_size() != 2:
    raise SystemExit("not two processes")
if not dist.is_initialized() or dist.get_rank() == 0:
    print("LOSSES", dist.is_initialized(), *losses, flush=True)
if dist.is_initialized():
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_processes_get_the_single_process_loss(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[1]))
    for _ in range(3):  # torchrun's rendezvous can fail on a busy machine; what is tested comes after it
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOSSES"))
    assert line.split()[1] == "True", "the script ran as one process"
    two = torch.tensor([float(x) for x in line.split()[2:]])
    torch.testing.assert_close(two, torch.tensor(fit(LINEAR, progress=False).losses), rtol=1e-4, atol=1e-6)


def test_a_batch_that_cannot_be_split_is_refused(monkeypatch):
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="batch_size 8 of linear must be a multiple of the 3 processes"):
        fit(LINEAR, progress=False)


def test_load_state_returns_the_step(tmp_path):
    fit(LINEAR, out=tmp_path, minutes=0.0, progress=False)
    network = linear_network()
    average = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters())
    assert load_state(tmp_path / "state.safetensors", "linear", network, optimizer, average)[0] == 1
    assert len(optimizer.state_dict()["state"]) == 4


def test_the_loss_curve_survives_a_stop_and_reaches_the_card(tmp_path, monkeypatch):
    """Means of stretches of the losses that on_step saw, the same whether or not the run was cut in the middle of one."""
    monkeypatch.setattr("tutorial_lib.training.STRETCH", 4)
    seen = []
    whole = fit(dataclasses.replace(LINEAR, steps=11), progress=False, on_step=lambda step, value: seen.append(value))
    assert whole.curve == pytest.approx([sum(seen[:4]) / 4, sum(seen[4:8]) / 4])
    first = fit(dataclasses.replace(LINEAR, steps=11), tmp_path, until=6, progress=False)
    assert first.step == 6 and len(first.curve) == 1
    second = fit(dataclasses.replace(LINEAR, steps=11), tmp_path, resume=True, progress=False)
    assert second.step == 11 and second.curve == pytest.approx(whole.curve)
    card = json.loads(
        export(dataclasses.replace(LINEAR, steps=11), second.checkpoint, tmp_path).with_suffix(".json").read_text()
    )
    assert card["mean loss of every 4 steps"] == pytest.approx(whole.curve, rel=1e-3)
