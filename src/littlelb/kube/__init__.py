"""HEARS AND SPEAKS to the Kubernetes API, or reads the same objects from a folder."""
