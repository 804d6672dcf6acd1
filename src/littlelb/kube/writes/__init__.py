"""What all writers to the API share: a pace, the texts of patches, and writing again after a conflict."""
