"""The triplets of the zoo: entries as data, loading and saving."""
