"""The project: one folder, one file that names its steps, one ledger. The only part that knows all stages."""

from intaglio.project.project import Project, open_project
from intaglio.project.verify import verify_file

__all__ = ["Project", "open_project", "verify_file"]
