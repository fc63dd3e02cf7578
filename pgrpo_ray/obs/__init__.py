"""What people see of a run: step metrics, the run's folder, the terminal display."""
