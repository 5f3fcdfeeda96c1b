"""Files: atomic, checked, bound to the model they belong to."""
