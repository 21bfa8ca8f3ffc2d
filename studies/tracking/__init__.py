"""MLflow, a projection of the run directories that can be thrown away and made again at any time.

sync.py      brings a study up to date: in a process of the driver's own, and by `python -m studies sync`
entries.py   what a stage and a cell are in MLflow
history.py   metrics.jsonl, read on from where the last sync ended
describe.py  descriptions in Markdown, and the columns a list of runs opens with
store.py     what a store must be able to do; which one a command means
local.py     the store beside the results, written by SQL
server.py    a tracking server, in MLflow's REST API
promote.py   which cell `python -m studies promote` means
model.py     its network as a folder that MLflow loads; sampler.py is the code inside, card.py writes its card
registry.py  such a folder among MLflow's registered models
serve.py     `python -m studies ui`: MLflow's web pages on 127.0.0.1
"""
