"""Reading, downloading and sharing of image files."""
