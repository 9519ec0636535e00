"""Views of a tree: EROFS image, directory."""
