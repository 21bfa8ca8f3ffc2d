"""The loopback cluster on which the SLURM backend is tested, and its profile."""
