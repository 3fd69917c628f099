"""What the pages of the documentation are made of: `python -m docs` makes them anew."""
