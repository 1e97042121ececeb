"""The run folder: settings, log, checkpoints, previews, and the lock that holds it."""
