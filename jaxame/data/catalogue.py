"""What there is to load: the schema of every set, where it may lie, how to come by it, and its checksums."""

import dataclasses
from pathlib import Path

from jaxame.data.batches import BATCHES
from jaxame.data.files import Places
from jaxame.data.idx import IDX
from jaxame.data.parquet import PARQUET
from jaxame.data.schema import Schema


@dataclasses.dataclass(frozen=True)
class Entry:
    """One set.

    Attributes:
      schema: what its files must hold.
      places: where they may lie.
      hub: its address on the Hugging Face hub, or None.
      elsewhere: how to get it from outside of this machine, for the message that it is missing.
    """

    schema: Schema
    places: Places
    hub: str | None
    elsewhere: str


def _on_hub(schema: Schema, places: Places, hub: str) -> Entry:
    return Entry(schema, places, hub, f"download=True, with pip install 'jaxame[download]': fetches {hub}")


DIGITS = tuple("0123456789")
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_OBJECTS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_NEWSGROUPS = (
    "alt.atheism,comp.graphics,comp.os.ms-windows.misc,comp.sys.ibm.pc.hardware,comp.sys.mac.hardware,comp.windows.x,"
    "misc.forsale,rec.autos,rec.motorcycles,rec.sport.baseball,rec.sport.hockey,sci.crypt,sci.electronics,sci.med,"
    "sci.space,soc.religion.christian,talk.politics.guns,talk.politics.mideast,talk.politics.misc,talk.religion.misc"
)

MNIST = _on_hub(
    Schema("mnist", DIGITS, (28, 28)),
    Places(("mnist", "MNIST/raw"), (IDX, PARQUET)),
    "ylecun/mnist",
)
FASHION_MNIST = _on_hub(
    Schema("fashion_mnist", tuple(_CLOTHES.split(",")), (28, 28)),
    Places(
        ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
        (IDX, PARQUET),
        (Path("/usr/share/datasets/fashion-mnist"), "dataset-fashion-mnist"),
    ),
    "zalando-datasets/fashion_mnist",
)
CIFAR10 = _on_hub(
    Schema("cifar10", tuple(_OBJECTS.split(",")), (32, 32, 3)),
    Places(("cifar10", "cifar-10-batches-py"), (PARQUET, BATCHES)),
    "uoft-cs/cifar10",
)
MNIST_WRITERS = Entry(
    Schema("mnist_writers", DIGITS, (28, 28), group_column="writer"),
    Places(("mnist_writers",), (PARQUET,)),
    None,
    "no download: MNIST with its writers is on no hub. Make the parquet file from MNIST, in its order, and column 2 "
    "(the writer) of the extended labels of QMNIST; columns: img struct{bytes: PNG}, label, writer",
)
NEWSGROUPS20 = Entry(
    Schema("newsgroups20", tuple(_NEWSGROUPS.split(",")), None, group_column="user"),
    Places(("newsgroups20",), (PARQUET,)),
    None,
    "no download: 20 Newsgroups with its authors is on no hub. Make the parquet file from the original posts, which "
    "have a From line; columns: text, label (0 to 19, newsgroups in alphabetical order), user",
)

ANY = "any"

# `checksum` of every part of a set, by the encoding of its examples where that changes what is decoded. CIFAR-10 in
# JPEG is the set of one JPEG file per image, lossy copies in shuffled order. In PNG it has the original's pixels, in an
# order of its own; no checksum is known for it. The original python batches are checked file by file instead.
CHECKSUMS: dict[str, dict[str, str]] = {
    "digits": {ANY: "bbfb3be461aa8e6733657efbec9b5c76c1cb906019d1c020caa6e6733a29ddbf"},
    "mnist/train": {ANY: "4eeefccd22bfa2ca6248d3a45206562941577b304869674571fe4008f87e932a"},
    "mnist/test": {ANY: "d0dcd992002c78d994c02f518f2984e7da489ca28c3e4dec8ec9c0a4edb8e566"},
    "fashion_mnist/train": {ANY: "b609e2f0ffcf23d57f1d2a451d7d9e11f34bc0a8173e36f31b260bd61d8a1990"},
    "fashion_mnist/test": {ANY: "10e8db8c1e673f3002222a6b19ba9905b7248142062fa3b82fbd69e493147944"},
    "cifar10/train": {"JPEG": "5b0143631ac392838de528d0e40dca0ae9979e1ec83006e87bafabf8a21b42db"},
    "cifar10/test": {"JPEG": "60f5f5ca55a7e9d8f912aaed8f508a60e7fa3fa00d0f4a7d9b68e94bf0ff6a4e"},
    "mnist_writers/train": {ANY: "a7e4dac8828f8d4704b6d3e923b20fd2dc14b87bcb8fe2e7ba9caf08d6e09cd1"},
    "mnist_writers/test": {ANY: "207af7e6192f03386e1fb996be8f42435e376804a35da9c6a9b8c21add5296eb"},
    "newsgroups20/train": {ANY: "2f3fbfa2889b9ff062bc30616663c70748cafc12f9ad0d35c57df3467c806340"},
    "newsgroups20/test": {ANY: "c2dbeb098822080b7af1d6042fd36e80cec72bcae1f4a2530da4d07ec6927f31"},
}
