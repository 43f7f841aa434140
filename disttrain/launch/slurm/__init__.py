"""What the batch scripts in slurm/ ask: how much notice a job has, and whether it is worth running again."""
