"""A page on which people verify pairs, and the store of what they answer."""
