"""Runs untrusted programs and judges them.

`harness` runs them (inside), `docker_runner` and `process_runner` are the two places it runs in, `grade` decides
verdicts from what it saw, `pool` keeps several places busy, `image` makes the container image without a registry.
Nothing here knows of Ray or of rewards.
"""
