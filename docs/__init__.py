"""The pages about what stands in the code: `python -m docs` writes them from it."""
