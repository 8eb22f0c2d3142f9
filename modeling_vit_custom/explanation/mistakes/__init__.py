"""Why images were mistaken: for pages that show answers, maps and the nearest images of the classes in question."""
