"""Processes, files and numbers of the machine a stage runs on; knows nothing of the science.

atomic.py       files that are either the old or the new version
cache.py        where fvar keeps what it can compute again
distributed.py  several processes as one run: torchrun's or SLURM's
heap.py         memory that a backward pass has freed, given back
locks.py        a file that one process holds
per_image.py    random numbers that belong to images, not to the process that computes them
precision.py    half precision where the processor can, float32 where it cannot
prefetch.py     the next items read by a thread while one is in use
seeds.py        random seeds from labels
signals.py      Ctrl-C, SIGTERM and SLURM's warnings as an orderly stop
transfer.py     from main memory to a GPU without waiting for it
weights.py      state dicts loaded strictly, with one line where they do not fit
"""
