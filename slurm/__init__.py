"""Cluster profiles (`*.toml`) and the loopback cluster on which the SLURM backend is tested."""
