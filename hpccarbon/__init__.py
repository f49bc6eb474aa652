"""Job carbon accounting for Slurm clusters. Importing this package opens nothing and starts nothing."""

__version__ = "0.1.0"
