"""The README's first command, behind ``make demo``: Fashion-MNIST from the files to a contact sheet and a report.

The pictures come from, in this order: a folder that you name; Debian's package dataset-fashion-mnist, installed with
apt where that is permitted; the data set's public home; and, without any of those, scikit-learn's digits.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import urllib.request
import zlib
from pathlib import Path

# SHA-256 of the uncompressed files: the packages compress them differently.
FILES = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
STORE = Path("fashion.store")
SHEET = Path("fashion.png")
PAGE = Path("fashion.html")


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def from_debian() -> Path | None:
    if not complete(DEBIAN) and shutil.which("apt-get"):
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if not sudo or shutil.which("sudo"):
            say("installing Debian's package dataset-fashion-mnist")
            for command in (["update", "-qq"], ["install", "-y", "-qq", "dataset-fashion-mnist"]):
                subprocess.run([*sudo, "apt-get", *command], check=False, stdout=subprocess.DEVNULL)
    return DEBIAN if complete(DEBIAN) else None


def from_home(folder: Path) -> Path | None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, expected in FILES.items():
        if (folder / name).is_file():
            continue
        try:
            say(f"downloading {name} from {HOME}")
            with urllib.request.urlopen(f"{HOME}/{name}", timeout=30) as answer:
                data = answer.read()
            if hashlib.sha256(gzip.decompress(data)).hexdigest() != expected:
                say(f"{name} from {HOME} is not the file that was expected")
                return None
        # No network, a page where the file should be, or half a file.
        except (OSError, http.client.HTTPException, EOFError, zlib.error) as error:
            say(f"no download: {error}")
            return None
        (folder / name).write_bytes(data)
    return folder


def digits(folder: Path) -> Path:
    import numpy as np
    from sklearn.datasets import load_digits

    say("FASHION-MNIST CAN'T BE HAD HERE: going on with scikit-learn's 1,797 digits of 8 x 8 px instead")
    data = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "digits.npz", images=(data.images * 255 / 16).round().astype(np.uint8), labels=data.target)
    return folder / "digits.npz"


def run(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("embedstore")), *arguments]
    print(f"\n$ embedstore {' '.join(arguments)}", flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    named = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if named is not None and not complete(named):
        sys.exit(f"demo: {named} doesn't hold all of {', '.join(FILES)}")
    downloads = Path(__file__).parent.parent / ".data"
    source = named or from_debian() or from_home(downloads) or digits(downloads)
    run("index", str(STORE), str(source))
    query = "test/00000" if source.is_dir() else "digits/00000"
    run("search", str(STORE), query, "-k", "18", "-o", str(SHEET))
    run("search", str(STORE), query, "-k", "5", "--where", "label != 'Ankle boot'" if source.is_dir() else "label != 0")
    run("recall", str(STORE))
    run("report", str(STORE), "-o", str(PAGE))
    run("info", str(STORE))
    say(f"done: the store is {STORE}/, the contact sheet is {SHEET}, and {PAGE} shows what is in it")


if __name__ == "__main__":
    main()
