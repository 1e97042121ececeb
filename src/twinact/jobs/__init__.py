"""Jobs say what to learn, with what, and where to; they are carried out alone or among many."""
