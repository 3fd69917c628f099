"""Published functions with backwards that nobody of this project wrote, and what `check` says."""
