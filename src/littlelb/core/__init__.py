"""DECIDES: functions from values to values, without I/O, clock, randomness or log."""
