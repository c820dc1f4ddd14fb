"""Label tables, the findings about them and the rules they must satisfy."""
