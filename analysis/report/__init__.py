"""A study as one page of HTML that needs no network: what a reviewer opens, on a phone if need be.

    verdict.py   what is separated and what is not, a sentence each
    tables.py    the grids of the table, and those of a study that writes its own
    curves.py    convergence, as uPlot draws it in the page
    browser.py   samples of all variants side by side, and how they come into focus
    facts.py     settings, cost, provenance, failures, and the command that makes it again
    page.py      one study's page; front.py: the page over all studies
    templates/   the markup, its style and its behaviour; assets/: uPlot and its licence

Everything is read from the results, without torch and without weights, and the same results give the same bytes.
"""
