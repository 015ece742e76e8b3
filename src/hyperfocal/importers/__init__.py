"""Import of trained weights of other libraries, one module per library."""

from hyperfocal.importers.run import write_imported
from hyperfocal.importers.torchvision import Imported, import_torchvision
from hyperfocal.importers.yolox import import_yolox

__all__ = ["Imported", "import_torchvision", "import_yolox", "write_imported"]
