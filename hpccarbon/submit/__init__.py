"""The wing between a user and `sbatch`: what a job will cost and when it would cost least. Measures nothing."""
