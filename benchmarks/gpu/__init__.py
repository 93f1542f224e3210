"""What only a GPU can show, in one command: `make gpu`, or `python -m benchmarks.gpu`.

It uses the Python that runs it, with that one's torch, and installs nothing; what it needs besides is in `needs.txt`.
Models come from configurations, data are generated. Every stage is a process of its own with a limit of time, and what
it found is written at once, so that a run that is cut off still tells. With `--device cpu --tiny` all stages run at toy
size, to see that they do.
"""
