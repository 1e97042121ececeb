"""The benchmark: tasks, metrics and the comparison of methods."""
