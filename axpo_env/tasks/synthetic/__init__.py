"""Generated tasks: unlimited, every item determined by its split and index."""
