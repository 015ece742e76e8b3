"""Typed configs: frozen dataclasses that go to JSON and back and take command-line flags.

A component keeps its settings in a nested ``Config`` with a ``build(...)`` method::

    class SigmoidFocalLoss(StreamableLoss):
        @dataclass(frozen=True)
        class Config(ClassificationLossConfig):
            kind: ClassVar[str] = "focal"
            alpha: float = 0.25
            gamma: float = 2.0

            def build(self, num_classes: int, counts: CategoryCounts | None = None):
                return SigmoidFocalLoss(self.alpha, self.gamma)

A field that may hold one of several components is annotated with their *role*, the base class that
their Configs share (``loss: ClassificationLossConfig``). Every Config that subclasses the role can
stand there, from this package or from any other module. In JSON and on the command line a component
of this package goes by its ``kind`` (``{"kind": "focal", ...}``, ``--loss focal``), any other by
its module and class (``"class": "my_losses:MyLoss.Config"``, ``--loss my_losses:MyLoss``).

A file can't make the program import a module: only components of this package are built from it,
and those of modules that the caller trusts by name (`outside`).

- `base`: `Config` and what a field may hold.
- `outside`: components of other modules: found by name, trusted or refused.
- `json_form`: to JSON and back.
- `flags`: command-line flags.
"""

from hyperfocal.config.base import Config, did_you_mean, kinds, walk, with_field
from hyperfocal.config.flags import ALIASES, named, override
from hyperfocal.config.json_form import check_reloads, dump, load, load_file
from hyperfocal.config.outside import import_file, modules_of, trusted

__all__ = [
    "ALIASES",
    "Config",
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
