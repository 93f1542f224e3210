"""Starting a run on several processes and machines: here, on Slurm, on Kubernetes."""
