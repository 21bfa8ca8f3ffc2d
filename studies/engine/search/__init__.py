"""Optuna as a proposer of cells: a search asks for points, runs them as cells like any other, and tells their scores.

space.py       what may be searched: axes, points, whether one lies inside
samplers.py    --sampler and --pruner by name, and what each needs
store.py       Optuna's data base, beside the results or on a server; what its failures mean
judge.py       ask, report, tell: what Optuna decides, once and for all drivers
curves.py      what running trials have come to, read on from where it was left
definition.py  a search as a study: `Search` is all that a file `studies/search_*.py` says
record.py      search.json, from which tables and figures are drawn; the figures and a note for optuna-dashboard
"""
