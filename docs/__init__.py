"""The site: pages in `source/`, what writes others from docstrings and results, and the build."""
