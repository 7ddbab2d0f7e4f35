"""The hook by which PyInstaller takes the rules along, which are imported by what lies in their folder."""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folder of the hook; PyInstaller asks by an entry point of the package."""
    return [str(Path(__file__).parent)]
