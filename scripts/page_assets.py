"""
Fetch the libraries of the page anew: `python scripts/page_assets.py` needs npm, and writes what `vendored.py` pins.

A file whose hash is another one is not written. To take a new version, change it in `vendored.py`, run this with
`--show`, which prints the hashes, look at what has changed, and write them there.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from restaurant_llm_batch._page.vendored import VENDORED

STATIC = Path(__file__).parents[1] / "src" / "restaurant_llm_batch" / "_page" / "static"


def fetch(package: str, version: str, paths: list[str]) -> dict[str, bytes]:
    """Return files of a version of a package of npm."""
    with TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (packed,) = Path(folder).glob("*.tgz")
        with tarfile.open(packed) as archive:
            found = {path: archive.extractfile(f"package/{path}") for path in paths}
            return {path: file.read() for path, file in found.items() if file is not None}


def main(*, show: bool) -> int:
    """Write the files, or print their hashes; return the number of files whose hash is another one."""
    wrong = 0
    for package, version in dict.fromkeys((one.package, one.version) for one in VENDORED):
        of_package = [one for one in VENDORED if one.package == package]
        files = fetch(package, version, [one.path for one in of_package])
        for one in of_package:
            digest = hashlib.sha256(files[one.path]).hexdigest()
            if show:
                print(one.package, one.version, one.path, digest)
            elif digest != one.sha256:
                print(
                    f"{one.path} of {package} {version} has the hash {digest}, and not {one.sha256}",
                    file=sys.stderr,
                )
                wrong += 1
            else:
                (STATIC / one.name).write_bytes(files[one.path])
                print(one.name)
    return wrong


if __name__ == "__main__":
    sys.exit(main(show="--show" in sys.argv[1:]))
