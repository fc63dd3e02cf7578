"""LCB-RB: pairs of reasonings about one problem, a passing sample's against a failing one's, and scoring on them."""
