"""What is published and how it is found: entries as data, loading and saving."""
