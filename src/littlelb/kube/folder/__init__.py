"""The same objects from a folder of manifests: read strictly, followed as they change."""

from littlelb.kube.folder.documents import ManifestError
from littlelb.kube.folder.source import FolderSource, Pace

__all__ = ["FolderSource", "ManifestError", "Pace"]
