"""The files of each dataset: their addresses, terms of use, and the files after unpacking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picie.data.cocostuff import image_places, label_places
from picie.data.layout import first_folder


@dataclass(frozen=True)
class Source:
    """One archive of a dataset, and the files below the dataset's root after it is unpacked.

    Attributes:
        url: address of a .zip or .tar.gz.
        folders: maps the name of a folder anywhere in the archive to its possible locations below
            the root; the rest of the archive is not unpacked.
        suffix: suffix of the files to unpack.
        holds: maps a glob pattern, which starts with one of `folders`, to the number of matching
            files after unpacking.
        size: approximate size of the archive in bytes; None: not published.
        sha256: SHA-256 of the archive; None: not published, so only its length and CRCs can be
            checked.
    """

    url: str
    folders: Mapping[str, tuple[str, ...]]
    suffix: str
    holds: Mapping[str, int]
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The archive's file name."""
        return self.url.rpartition("/")[2]

    @property
    def n_files(self) -> int:
        """Number of expected files."""
        return sum(self.holds.values())

    def place(self, root: Path, folder: str) -> Path:
        """Location of one of `folders`, from which the dataset reads it."""
        return first_folder(root, self.folders[folder])

    def n_missing(self, root: Path) -> int:
        """Number of expected files that are missing below `root`."""
        missing = 0
        for pattern, n in self.holds.items():
            folder, _, files = pattern.partition("/")
            missing += max(0, n - sum(1 for _ in self.place(root, folder).glob(files)))
        return missing


@dataclass(frozen=True)
class Download:
    """The downloads of a dataset.

    Attributes:
        terms: lines that are shown before anything is fetched.
        sources: the archives.
    """

    terms: tuple[str, ...]
    sources: tuple[Source, ...]


# Small archives first, so that an unreachable host is noticed before 19 GB have been fetched.
_COCOSTUFF = Download(
    terms=(
        "images: COCO's, from Flickr; using them means keeping to Flickr's terms of use, https://cocodataset.org/#termsofuse",
        "object masks: COCO's annotations, CC BY 4.0, https://cocodataset.org/#termsofuse",
        "stuff masks: COCO-Stuff's annotations (Caesar, Uijlings, Ferrari), CC BY 4.0, https://github.com/nightrome/cocostuff",
        "curated lists: by the authors of IIC (Ji, Henriques, Vedaldi), whose code is under MIT; see https://github.com/xu-ji/IIC",
    ),
    sources=(
        Source(
            url="https://www.robots.ox.ac.uk/~xuji/datasets/COCOStuff164kCurated.tar.gz",
            folders={"curated": ("curated",)},
            suffix=".txt",
            holds={f"curated/{split}2017/Coco164kFull_Stuff_Coarse_7.txt": 1 for split in ("train", "val")},
        ),
        Source(
            url="http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
            folders={folder: label_places(folder) for folder in ("train2017", "val2017")},
            suffix=".png",
            holds={"train2017/*.png": 118_287, "val2017/*.png": 5_000},
            size=691_000_000,  # published as 659 MB; assumed to be MiB
        ),
        # COCO does not publish the SHA-256 and size of the two image archives. More than five
        # unrelated projects state these values, and some say that they computed them from the
        # files.
        Source(
            url="http://images.cocodataset.org/zips/val2017.zip",
            folders={"val2017": image_places("val2017")},
            suffix=".jpg",
            holds={"val2017/*.jpg": 5_000},
            size=815_585_330,
            sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
        Source(
            url="http://images.cocodataset.org/zips/train2017.zip",
            folders={"train2017": image_places("train2017")},
            suffix=".jpg",
            holds={"train2017/*.jpg": 118_287},
            size=19_336_861_798,
            sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
    ),
)

DOWNLOADS = {name: _COCOSTUFF for name in ("cocostuff27", "cocostuff15", "cocostuff12", "cocostuff171")}

_CITYSCAPES = """\
Cityscapes is available to registered users only, so picie cannot fetch it. Its licence, which you
accept there, allows only non-commercial use.

  1. Register at https://www.cityscapes-dataset.com and log in.
  2. Download these packages, in the browser or with the official tool
     (pip install cityscapesscripts, then csDownload PACKAGE):
       leftImg8bit_trainvaltest.zip   11 GB    the images of train, val and test
       gtFine_trainvaltest.zip        241 MB   their label maps
       leftImg8bit_trainextra.zip     44 GB    optional: 20,000 more images to train on
  3. Unpack each into {root}:
       unzip PACKAGE -d {root}
     This creates {root}/leftImg8bit and {root}/gtFine.
  4. picie data check {name} {root}
"""

# name -> an explanation, with {name} and {root}
BY_HAND = {"cityscapes27": _CITYSCAPES, "cityscapes19": _CITYSCAPES}

NOTHING_TO_FETCH = {"folder": "is your own folder of images", "scenes": "is generated by picie"}
