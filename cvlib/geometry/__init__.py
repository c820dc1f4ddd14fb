"""Maps of coordinates and pixels between an image and the canvas a model sees."""
