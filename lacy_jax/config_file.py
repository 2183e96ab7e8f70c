"""Config files: Python files with a function that gives settings, changed by what the command line says.

`configs/slm_tiny.py` names a file, `configs/slm_tiny.py:method=lacy` also what its function is called with. A file of
`configs/` that is not in the working folder is that of the installed package.
"""

import importlib.util
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections

from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.errors import ConfigError, LacyError, did_you_mean
from lacy_jax.paths import expand_home

_CONFIGS = Path("configs")
_PACKAGE = Path(__file__).parent


def call_in_file(spec: str, *, function: str, flag: str, argument: str | None = None) -> Any:
    """What `function` of the Python file FILE.py, or FILE.py:ARGUMENT, returns.

    Args:
        flag: named in messages, e.g. "config".
        argument: what the function is called with where `spec` has none; None: with nothing.

    Raises:
        ConfigError: there is no such file or no such function in it, or its code fails (the message names the line).
    """
    name, colon, own = spec.partition(":")
    argument = own if colon else argument
    path, where = _find(Path(expand_home(name))), f"--{flag}={spec}"
    if not path.is_file():
        known = _neighbours(path)
        listed = f"; there are {', '.join(known)}" if known else ""
        raise ConfigError(f"{where}: there is no file {name}{did_you_mean(name, known) or listed}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{where}: {name} is not a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if callable(called := getattr(module, function, None)):
            return called() if argument is None else called(argument)
    except LacyError:
        raise
    except Exception as error:  # whatever the file's own code raises
        raise ConfigError(f"{where}: {_line_of(error, path)}{type(error).__name__}: {error}") from error
    raise ConfigError(f"{where}: {name} has no function {function}()")


def read_config(
    spec: str,
    changes: Mapping[str, Any] = MappingProxyType({}),
    *,
    check: Callable[[Config], Iterable[str]] = lambda _config: (),
) -> Config:
    """The checked settings of a config file, some of them changed.

    Args:
        spec: FILE.py or FILE.py:ARGUMENT.
        changes: known setting -> its value, which may be text, e.g. {"training.steps": "20"}.
        check: finds further problems, see `config.config_from_dict`.

    Raises:
        ConfigError: the file cannot be used, or all problems of the settings.
    """
    found = call_in_file(spec, function="get_config", flag="config")
    if not isinstance(found, ml_collections.ConfigDict):
        raise ConfigError(f"--config={spec}: get_config() gives {type(found).__name__}, not settings (`return config`)")
    settings = found.to_dict()
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = settings
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"config.{name}: {part} is a setting, not a section")
        # Texts of other types pydantic reads itself, but not whole numbers of which only some are allowed.
        section[last] = int(value) if type(section.get(last)) is int and str(value).isdecimal() else value
    return parse(settings, check=check)


def _find(path: Path) -> Path:
    """The path, or the package's own file of that name in place of a `configs/NAME.py` that is not there."""
    packaged = _packaged() / path.name
    return packaged if path.parent == _CONFIGS and not path.is_file() and packaged.is_file() else path


def _packaged() -> Path:
    """The folder of the config files that come with lacy_jax: in the installed package, or beside it in a clone."""
    inside = _PACKAGE / _CONFIGS
    return inside if inside.is_dir() else _PACKAGE.parent / _CONFIGS


def _neighbours(path: Path) -> list[str]:
    """The Python files beside a missing one and in configs/, and those of the package as they are typed."""
    found = {str(each) for folder in (path.parent, _CONFIGS) for each in folder.glob("*.py")}
    found |= {str(_CONFIGS / each.name) for each in _packaged().glob("*.py")}
    return sorted(name for name in found if not name.endswith("__init__.py"))


def _line_of(error: Exception, path: Path) -> str:
    """ "line 3: ", where in the file the error arose; "" where that is not known."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    found = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).absolute() == path.absolute()
    ]
    return f"line {found[-1]}: " if found else ""
