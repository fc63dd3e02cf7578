"""`pgrpo report`: what a run left, as one page that works offline, and as plots for papers.

Read in this order: `rows` (scalar columns of all rollouts), `aggregates` (numbers with intervals from them), `runs`
(both for each run of a report), `facts` (what is said of runs in words), `charts` (curves, whoever draws them),
`figures` (by matplotlib), `browser_data` (rollouts as the page's browser reads them), `page` (all of it in one file).
"""
