"""The demo: one action, learned from five pictures, and a report about it."""
