"""The researcher's command line: `fedmepd phantom | cohort | simulate | predict | evaluate | report`.

Command modules are composition roots: they read arguments, call the library and print. They import torch and MONAI
only inside commands, so that `--help` answers at once.
"""

from fedmepd.cli.main import main

__all__ = ["main"]
