"""The code that makes the tables of the pages: `python -m docs`."""
