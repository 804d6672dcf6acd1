"""SHOWS: health, metrics, status."""
