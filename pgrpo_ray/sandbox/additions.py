"""What a runner image can have beside Python's standard library: compilers (`languages`), or the libraries here.

A program may import whatever its image holds; nothing else about the sandbox changes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Packages for an image, and how to see that they work there."""

    name: str
    packages: tuple[str, ...]
    """Debian packages that bring it."""
    probe: tuple[str, ...]
    """Command that succeeds only where it works; needs no file, only a writable /tmp."""
    registry: str | None = None
    """A public image with `python3` and this, for where apt does not exist; None: there is none."""
    unneeded: tuple[str, ...] = ()
    """Globs of what the packages bring and nobody opens, relative to the image's root."""
    prepare: str = ""
    """Python source, run once as root in the new image. What it is for must also work where it has not run."""


_DEBIAN = (
    *("bs4", "chardet", "cryptography", "dateutil", "django", "docx", "fake-factory", "flask", "flask-login"),
    *("flask-mail", "flask-restful", "flaskext.wtf", "folium", "gensim", "geopandas", "geopy", "holidays"),
    *("html5lib", "joblib", "levenshtein", "lxml", "matplotlib", "mechanize", "natsort", "networkx", "nltk", "numpy"),
    *("opencv", "openpyxl", "pandas", "pil", "prettytable", "psutil", "pycountry", "pycryptodome", "pyquery"),
    *("regex", "requests", "requests-mock", "rsa", "scipy", "seaborn", "shapely", "simplejson", "skimage", "sklearn"),
    *("soundfile", "statsmodels", "sympy", "texttable", "tqdm", "tz", "unidecode", "werkzeug", "wtforms", "xlrd"),
    *("xlwt", "xmltodict", "yaml"),
)
_IMPORTED = (
    *("bs4", "cryptography", "cv2", "django", "flask", "geopandas", "lxml.etree", "matplotlib.pyplot", "networkx"),
    *("nltk", "numpy", "openpyxl", "pandas", "PIL.Image", "psutil", "requests", "scipy.stats", "seaborn", "skimage.io"),
    *("sklearn.linear_model", "statsmodels.api", "sympy"),
)
# What maintainer scripts would do: choose among implementations of BLAS and LAPACK. Debian has pycryptodome under a
# name of its own, and programs import the usual one. Byte code, because the root is read-only when programs run.
_PREPARE = """
import compileall, os, pathlib
folder = next(pathlib.Path("/usr/lib").glob("*-linux-gnu"))
for name in ("blas", "lapack"):
    link = folder / f"lib{name}.so.3"
    if not link.exists():
        link.symlink_to(f"{name}/lib{name}.so.3")
packages = pathlib.Path("/usr/lib/python3/dist-packages")
if not (packages / "Crypto").exists():
    (packages / "Crypto").symlink_to("Cryptodome")
compileall.compile_dir(packages, quiet=2, workers=1)
"""

LIBRARIES = Addition(
    name="libraries",
    packages=tuple(f"python3-{name}" for name in _DEBIAN),
    probe=("python3", "-c", f"import {', '.join(_IMPORTED)}"),
    unneeded=("usr/lib/gcc", "usr/bin/*-linux-gnu-*", "usr/include", "usr/share/fonts/X11", "usr/share/gcc"),
    prepare=_PREPARE,
)
"""Most of what BigCodeBench's programs import, in Debian's versions; not TensorFlow, Keras, librosa, textblob and
wordcloud, which Debian lacks or brings with gigabytes of fonts."""
