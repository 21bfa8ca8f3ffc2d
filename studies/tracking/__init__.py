"""MLflow, a projection of the run directories that can be thrown away and made again at any time.

sync.py   writes experiments and runs: called by the driver and by `python -m studies sync`
serve.py  `python -m studies ui`: MLflow's web pages on 127.0.0.1
"""
