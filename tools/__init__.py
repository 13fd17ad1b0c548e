"""Programs for those who work on Intaglio: reference pages, constraints, texts to translate."""
