"""Tables and figures, drawn from results alone: nothing here trains, and nothing here knows a network's insides.

results.py            the reader: a study's cells and their run directories
provenance.py         which code computed the numbers
stats.py              what may be said of several seeds
table.py              the table in Markdown, LaTeX and CSV, beside the published numbers
plot_*.py, gallery.py figures; each is a command, too
spectral_finding.py   what the spectral study says in words
style.py              fonts, colours and sizes of every figure
"""
