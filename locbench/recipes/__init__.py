"""Training protocols: recipes/PAPER/NAME.toml read into frozen dataclasses, every value checked."""
