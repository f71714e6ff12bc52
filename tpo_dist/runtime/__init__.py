"""Ray lives here and nowhere else."""
