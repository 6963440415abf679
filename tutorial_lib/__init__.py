"""Diffusion models for image super-resolution, complete, readable and proved right."""

__version__ = "0.1.0"
