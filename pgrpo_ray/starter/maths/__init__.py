"""The starter's maths family: word problems whose answers are compared, in place of programs that are run.

The door is `starter.artifacts.ensure_starter`. Model sizes, tokenizer and training recipes are the code family's.
"""
