"""Exporters and channels: from pieces to finished files; labels and signatures are put on afterwards by the runner."""
