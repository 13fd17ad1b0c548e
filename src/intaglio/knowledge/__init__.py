"""Stage knowledge: what generation can use is extracted from the archive, each fact with its source items."""
