import inspect

import pytest

from spiceclust import errors

TREE = {
    "SpiceError": Exception,
    "InputError": errors.SpiceError,
    "SourceError": errors.InputError,
    "ConfigError": errors.InputError,
    "RunFolderError": errors.InputError,
    "NewerFormatError": errors.RunFolderError,
    "TrainingError": errors.SpiceError,
    "EngineError": errors.SpiceError,
}


def test_the_tree_holds_these_errors_and_no_others() -> None:
    defined = {name: cls.__mro__[1] for name, cls in inspect.getmembers(errors, inspect.isclass)}
    assert defined == TREE


def test_the_docstring_draws_every_error() -> None:
    assert [name for name in TREE if name not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize("error", [errors.SourceError, errors.ConfigError, errors.RunFolderError])
def test_input_errors_are_value_errors(error: type[Exception]) -> None:
    with pytest.raises(ValueError, match="three"):
        raise error("three")


@pytest.mark.parametrize("error", [errors.TrainingError, errors.EngineError])
def test_what_fails_on_the_way_is_a_runtime_error_and_no_input_error(error: type[Exception]) -> None:
    assert issubclass(error, RuntimeError)
    assert not issubclass(error, errors.InputError)
