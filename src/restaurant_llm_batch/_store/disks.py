"""Disks: whether a folder is on a network file system, as far as Linux tells."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK = frozenset(
    (
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "ncpfs",
            "afs",
            "9p",
            "ceph",
            "glusterfs",
            "lustre",
            "gpfs",
        ),
        *(
            "beegfs",
            "orangefs",
            "pvfs2",
            "ocfs2",
            "gfs2",
            "wekafs",
            "panfs",
            "virtiofs",
            "fuse.sshfs",
            "fuse.ceph",
        ),
        *(
            "fuse.glusterfs",
            "fuse.lustre",
            "fuse.juicefs",
            "fuse.moosefs",
            "fuse.seaweedfs",
            "fuse.alluxio-fuse",
        ),
    )
)
_OBJECT_STORES = frozenset(
    (
        *(
            "fuse.s3fs",
            "fuse.goofys",
            "fuse.gcsfuse",
            "fuse.mountpoint-s3",
            "fuse.blobfuse",
            "fuse.blobfuse2",
        ),
        *("fuse.rclone", "fuse.geesefs", "fuse.ossfs", "fuse.cosfs"),
    )
)
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def file_system_of(path: str | os.PathLike[str], mounts: str | None = None) -> str:
    """
    Return the type of the file system that a path is on, such as "ext4" or "nfs4"; "" if it is not known.

    Args:
        path: The path, of a file or folder that need not exist.
        mounts: The text of ``/proc/self/mountinfo``; None to read it.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:  # not on Linux
            return ""
    real = Path(os.path.realpath(path))
    found, depth = "", -1
    for line in mounts.splitlines():
        before, _, behind = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not behind:
            continue
        point = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[4]))
        holds = point == real or point in real.parents
        if holds and len(point.parts) >= depth:  # of two mounts at one point, the later one hides the other
            found, depth = behind.split(" ")[0], len(point.parts)
    return found


def is_network(file_system: str) -> bool:
    """Return whether a type of file system is one that several machines share."""
    return file_system in _NETWORK or is_object_store(file_system)


def is_object_store(file_system: str) -> bool:
    """Return whether a type of file system is one in which files cannot be appended to."""
    return file_system in _OBJECT_STORES
