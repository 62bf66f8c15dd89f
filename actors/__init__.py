"""Ray actors: they hold state and time, never algorithms."""
