"""Pages, charts and plots, drawn from plain data."""
