"""Import of trained weights of other libraries, one module per library."""

from hyperfocal.importers.run import write_imported
from hyperfocal.importers.torchvision import Imported, import_torchvision

__all__ = ["Imported", "import_torchvision", "write_imported"]
