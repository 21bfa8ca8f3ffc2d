"""Moves a study's stages to their end, whatever dies on the way; knows nothing of what a stage computes.

driver.py     one study: cells in, finished stages, tables and figures out
scheduler.py  compares what run directories and backends say with what is wanted, and submits what is ready
backends/     where stages run: inline, local, slurm; slurm's room for jobs, its queries and what its clients print
packs.py      what a job of several stages means for each    order.py    which stages begin first
losses.py     what the loss of a job means for its stage
patience.py   waiting for what does not work now              watch.py    stages that hang
notify.py     --notify                                        asking.py   SLURM's word for `status`
prediction.py how fast stages were; time limits by that     bill.py     what stages will cost
plan.py       what a command would do, and what that costs      budget.py   --max-gpu-hours
preflight.py  what is checked before anything is trained        settings.py --set, profile.py --profile
commands.py   status, logs, diff, retry, cancel, gc             live.py     the table while it runs
outputs.py    table, figures and MLflow at the end              search/     Optuna as a proposer of cells
"""
