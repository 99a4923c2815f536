"""Evidence: what was measured, by which command. Run ``python -m eval --help``."""
