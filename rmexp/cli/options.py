"""Plain options of commands that compose no config; mistakes are one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from rmexp.errors import UserError

_STUDY_MISSING = "the following arguments are required: study"


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, without the usage above them."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"rmexp {command}", description=description)

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        command = self.prog.removeprefix("rmexp ")
        if message == _STUDY_MISSING:
            raise UserError(f"{command}: give the name of a study; 'rmexp studies' lists them")
        raise UserError(f"{command}: {message}; see '{self.prog} --help'")
