"""The command line: one thin file per command found by its name, imported when called."""
