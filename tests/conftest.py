"""Shared by all tests: the tools are importable, and torch uses one thread a process (xdist starts several)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
torch.set_num_threads(1)
