"""Errors and warnings."""


class HyperfocalError(Exception):
    """An error that the user can fix; the message names the value, the file and the fix.

    The command line prints only the message and exits with status 2.

    Examples:
        >>> import hyperfocal
        >>> try:
        ...     hyperfocal.load("nowhere")
        ... except hyperfocal.HyperfocalError as error:
        ...     print(error)
        nowhere: no such run folder
    """


class ConfigError(HyperfocalError, ValueError):
    """An invalid or unknown setting.

    Examples:
        >>> import hyperfocal
        >>> from hyperfocal.recipes import load_recipe
        >>> try:
        ...     load_recipe("demmo")
        ... except hyperfocal.ConfigError as error:
        ...     print("demo" in str(error))
        True
    """


class DataError(HyperfocalError, ValueError):
    """Annotations or images that can't be used.

    Examples:
        >>> import hyperfocal
        >>> try:
        ...     hyperfocal.read_annotations("train.jsn")
        ... except hyperfocal.DataError as error:
        ...     print(error)
        train.jsn: no such file or folder; check --data.train.annotations
    """


class HyperfocalWarning(UserWarning):
    """Input was corrected or skipped, or looks wrong; the run continues.

    Examples:
        >>> import hyperfocal, warnings
        >>> warnings.simplefilter("error", hyperfocal.HyperfocalWarning)  # stop at the first one
    """
