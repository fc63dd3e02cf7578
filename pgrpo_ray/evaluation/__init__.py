"""What a trained policy is worth: pass@k with intervals.

`sources` brings records, `benchmarks` makes `items` of them, `prompting` asks; `results` keeps what came of it,
`summary` and `comparison` say what it means. `maths` judges answers, `corruption` sees that a judge notices.
"""
