"""Tests of the wing that asks Slurm."""
