"""What people and scrapers are shown: values with a JSON form, and how they are made. No I/O."""
