"""What a trained policy is worth: pass@k with intervals."""
