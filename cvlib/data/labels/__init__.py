"""Label tables, findings about them, and the rules they must satisfy."""
