"""What can be known to be wrong before expensive work starts: reward rule, disk, devices, problems, sandbox, models.

Runs on the driver's machine and starts neither Ray nor a container. `run` has a training run's checks in their order,
cheapest first; a file beside it has those of one thing, of which other commands take what they need. All raise the
project's own errors, each with what was wrong, where, and how to fix it.
"""
