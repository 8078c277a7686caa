"""The error tree. Every error a user can meet is one line that says what is wrong and what to do.

SpiceError                      anything this package raises on purpose
├── InputError (ValueError)     what was given cannot be used; the command exits with 2
│   ├── SourceError             the images: nothing there, nothing readable, too few
│   ├── ConfigError             a parameter: unknown, out of range, contradictory
│   └── RunFolderError          the run folder: not writable, not a run, another config, incomplete
│       └── NewerFormatError    a file in it is of a format that only a newer version reads; nothing is made again
├── TrainingError (RuntimeError) a stage could not go on, for instance a loss that is not finite; exit 1
└── EngineError (RuntimeError)  work on many shards did not come to its end; exit 1
"""


class SpiceError(Exception):
    """Base of every error raised on purpose; its message is one line for the user."""


class InputError(SpiceError, ValueError):
    """What was given cannot be used."""


class SourceError(InputError):
    """The images cannot be used: none found, none readable, or too few."""


class ConfigError(InputError):
    """A parameter is unknown, out of range or contradicts another."""


class RunFolderError(InputError):
    """The run folder is not writable, not a run, incomplete, damaged, or belongs to another config."""


class NewerFormatError(RunFolderError):
    """A file is whole, and of a format that only a newer version of the package reads."""


class TrainingError(SpiceError, RuntimeError):
    """A stage could not go on."""


class EngineError(SpiceError, RuntimeError):
    """Work on many shards did not come to its end: some cannot be done, or nobody does them."""
