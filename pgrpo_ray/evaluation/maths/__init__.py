"""Whether an answer to a maths problem equals the reference. The door is `pool.MathsPool`.

`compare` reads answers, in a `worker` under limits; `process` is that worker as its parent sees it; `pool` has several.
"""
