"""Libraries of others in the page: version and hash of each file; `scripts/page_assets.py` fetches them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vendored:
    """
    A file of a package of npm, shipped as it is.

    Attributes:
        package: Name of the package.
        version: Its version.
        path: Path of the file in the package.
        sha256: Hash of the file, in hexadecimal.
    """

    package: str
    version: str
    path: str
    sha256: str

    @property
    def name(self) -> str:
        """The name under which it is shipped."""
        name = self.path.rpartition("/")[2]
        return f"{self.package}-{name}" if name == "LICENSE" else name


VENDORED = (
    Vendored(
        "uplot",
        "1.6.32",
        "dist/uPlot.iife.min.js",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    Vendored(
        "uplot",
        "1.6.32",
        "dist/uPlot.min.css",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    Vendored(
        "uplot", "1.6.32", "LICENSE", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"
    ),
)
