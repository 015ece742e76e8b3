"""Typed configs: frozen dataclasses that are saved as JSON and changed by command-line flags.

A component has its settings in a nested ``Config`` with a ``build(...)`` method:

    class SigmoidFocalLoss(StreamableLoss):
        @dataclass(frozen=True)
        class Config(ClassificationLossConfig):
            kind: ClassVar[str] = "focal"
            alpha: float = 0.25
            gamma: float = 2.0

            def build(self, num_classes: int, counts: CategoryCounts | None = None):
                return SigmoidFocalLoss(self.alpha, self.gamma)

A field for one of several components is annotated with their *role*, the base class of their
Configs (``loss: ClassificationLossConfig``). Its value may be any subclass of the role, from this
package or from any other module. In JSON and on the command line a component of this package is
named by its ``kind`` (``{"kind": "focal", ...}``, ``--loss focal``), any other by its module and
class (``"class": "my_losses:MyLoss.Config"``, ``--loss my_losses:MyLoss``).

A file can't cause the import of arbitrary modules: components are only built if they are from this
package or from modules that the caller trusts by name (`outside`).

- `base`: `Config` and its annotations.
- `outside`: components of other modules.
- `json_form`: conversion to and from JSON.
- `flags`: command-line flags.
- `by_category`: settings by category name.
"""

from hyperfocal.config.base import Config, did_you_mean, kinds, walk, with_field
from hyperfocal.config.flag_names import ALIASES
from hyperfocal.config.flags import named, override
from hyperfocal.config.json_form import by_name, check_reloads, dump, load, load_file
from hyperfocal.config.outside import import_file, modules_of, trusted

__all__ = [
    "ALIASES",
    "Config",
    "by_name",
    "check_reloads",
    "did_you_mean",
    "dump",
    "import_file",
    "kinds",
    "load",
    "load_file",
    "modules_of",
    "named",
    "override",
    "trusted",
    "walk",
    "with_field",
]
