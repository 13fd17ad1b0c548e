"""Sources that read an archive into items, and transforms that clean them; one file is one source or one transform."""
