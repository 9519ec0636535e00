"""Queues that run batch scripts: Slurm, and this machine by itself."""
