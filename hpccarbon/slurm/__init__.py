"""The only wing that runs a Slurm command."""
