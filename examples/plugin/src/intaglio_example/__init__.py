"""One small component of every Intaglio stage; each file is complete in itself."""
