"""What the longer commands do, from checked input to written output: one job a file. `cli` calls them."""
