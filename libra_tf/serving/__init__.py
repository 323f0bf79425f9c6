"""A trained detector as a SavedModel: what is served, and what its clients share."""
