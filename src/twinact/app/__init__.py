"""The page: learn, draw, mix and look around in a browser; it calls what the command line calls."""
