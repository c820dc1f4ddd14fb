"""Label formats: a reader for each, returning a `LabelTable` or a dataset."""
