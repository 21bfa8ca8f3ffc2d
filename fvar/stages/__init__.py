"""One file per stage kind: `run(run)` reads the run directories of its inputs and writes its own.

tokenizer.py    trains a tokenizer
tokens.py       codes a data set by one
var.py          trains the deployment network, alone or beside its teacher
samples.py      generates images, class-balanced
scores.py       scores them against real ones
readability.py  has an OCR read what a tokenizer kept of rendered words
speed.py        times the sampling, by network and batch

Each may be killed at any moment; called again, it continues. `fvar.run` finds a stage here by its kind.
"""
