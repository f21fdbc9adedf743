"""Which files count as pictures, and which of Pillow's formats are read. Imports nothing heavy: workers use it too.

Pillow opens more than forty formats. Read here are those that (a) are decoded by Pillow's maintained decoders from
the file's bytes alone and (b) hold pictures that people keep in folders. Left out on purpose: EPS and PS (run
Ghostscript), WMF/EMF (run the Windows GDI), FITS, HDF5, GRIB, BUFR and MPEG (stubs or data, not pictures), FPX and MIC
(OLE containers), PSD, ICNS, DDS, FTEX and BLP (containers with rarely exercised decoders), and IM, IMT, IPTC,
MCIDAS, SPIDER, PIXAR, GBR, SUN, XPM, XV thumbnails, FLI and PCD (dead, or recognised by next to nothing, so that
arbitrary bytes may be taken for a picture).
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Tried on every file by its first bytes, whatever its name says: a PNG called ``.jpg`` is read.
#: JPEG covers MPO, the multi-picture files of phones and stereo cameras.
FORMATS = tuple("PNG JPEG WEBP GIF BMP DIB TIFF PPM JPEG2000 AVIF ICO QOI SGI PCX".split())  # noqa: SIM905

#: TGA has no magic number, so it is tried only where the name claims it.
BY_NAME_ONLY = {".tga": "TGA", ".icb": "TGA", ".vda": "TGA", ".vst": "TGA"}

PICTURE_SUFFIXES = _words(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .pfm "
    ".jp2 .j2k .j2c .jpc .jpf .jpx .avif .avifs .ico .qoi .sgi .rgb .rgba .bw .pcx .tga .icb .vda .vst"
)

#: Pictures of kinds that are not read: left out, but counted by suffix and told to the user.
OTHER_PICTURE_SUFFIXES = _words(
    ".svg .svgz .heic .heif .jxl .psd .psb .xcf .eps .ps .pdf .wmf .emf .dds .icns .xpm .xbm .fits .fit .dcm "
    ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .exr .hdr .ora .kra"
)

#: Names that are certainly no pictures: never opened. Anything else without a picture suffix is judged by its magic.
OTHER_SUFFIXES = _words(
    ".txt .md .rst .json .jsonl .csv .tsv .parquet .arrow .yaml .yml .toml .ini .cfg .xml .html .htm .css .js .py "
    ".ipynb .sh .log .lock .db .sqlite .zip .tar .gz .bz2 .xz .zst .7z .rar .npy .npz .pt .pth .safetensors .pkl .h5 "
    ".mp4 .mov .avi .mkv .webm .mp3 .wav .flac .ogg .theme .cache .doc .docx .xls .xlsx .ppt .pptx .part .tmp"
)
OTHER_NAMES = _words("thumbs.db desktop.ini license copying readme authors changelog")

#: First bytes of the formats worth recognising in a file whose name says nothing.
_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
    b"qoif",
)
MAGIC_LENGTH = 16


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (at least 16 bytes) is one of the formats with a sure signature."""
    if head.startswith(_MAGIC):
        return True
    return (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypavis")


def formats_for(suffix: str) -> tuple[str, ...]:
    """The Pillow formats tried on a file of this suffix (lower case, with its dot)."""
    extra = BY_NAME_ONLY.get(suffix)
    return FORMATS if extra is None else (*FORMATS, extra)


def accepted() -> str:
    """The formats as text for messages."""
    return "PNG, JPEG, WebP, GIF, BMP, TIFF, PPM/PGM/PBM, JPEG 2000, AVIF, ICO, QOI, SGI, PCX or TGA"
