"""HTML pages in one file each: their frame and look, charts, thumbnails."""
