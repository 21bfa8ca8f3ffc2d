"""What to run: one file per study, and the engine that brings its stages to their end.

run.py, __main__.py  the two commands: `python -m studies.run STUDY` and `python -m studies COMMAND`
study.py             what a study is: a function from the results so far to cells
presets.py           the sizes at which every study runs
variants.py          the rows of the paper's Table 2, as chains of stages
engine/              scheduler, driver and backends
tracking/            MLflow
"""
