"""Runs untrusted programs and judges them.

`inside` runs them, `docker_runner` and `process_runner` are the two places it runs in, `wire` is how one speaks with
it. `plan` makes of a problem what it is asked, `grade` decides verdicts from what it saw, with `checkers` for outputs
and `asserts` for tests that are calls in disguise. `pool` keeps several places busy, with `canaries` to prove each and
a `gate` for a program that must run alone; `runners` makes them from the config. `image` makes the container image
without a registry, `languages` and `additions` say what it holds beside Python. Nothing here knows of Ray or of
rewards.
"""
