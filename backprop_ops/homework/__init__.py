"""The lecture's exercises as homework: files with blanks, and a judge of what is filled in."""
