"""The tabs of the page, one a file: widgets, and which function of the other modules each of them calls."""
