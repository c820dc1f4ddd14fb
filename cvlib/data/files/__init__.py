"""Reading, downloading and sharing image files."""
