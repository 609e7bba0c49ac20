"""Tests of the data sets: small files of every format, spoilt files, and what is missing."""

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from jaxame import data
from jaxame.data import batches, catalogue

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 3])
TEXTS = ["The cat, the CAT!", "", "A dog", "cat's dog 42"]
FOREIGN = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
LOADERS = {name: getattr(data, name) for name in (*FOREIGN, "mnist_writers", "newsgroups20")}


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(autouse=True)
def nothing_is_downloaded(monkeypatch):
    """A `datasets` package that fails the test when it is used."""
    fake = types.ModuleType("datasets")
    fake.load_dataset = lambda *_, **__: pytest.fail("downloaded unasked")
    monkeypatch.setitem(sys.modules, "datasets", fake)


def idx(magic, array):
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, images=PIXELS, labels=LABELS, suffix="", pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx(2051, images)))
    (folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(2049, labels)))
    return folder


def encode(image, form="PNG"):
    buffer = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(image).save(buffer, form)
    return buffer.getvalue()


def image_table(images, labels=LABELS, name="img", form="PNG", **columns):
    arrow = pytest.importorskip("pyarrow")
    cells = [{"bytes": encode(image, form), "path": None} for image in images]
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    return arrow.table({name: arrow.array(cells, kind), "label": arrow.array(labels), **columns})


def text_table():
    return pytest.importorskip("pyarrow").table({"text": TEXTS, "label": LABELS, "user": ["b", "a", "c", "b"]})


def write_parquet(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    return path


def python2_batch(values, labels):
    """Pickle as Python 2 did: protocol 2, byte strings, the array under the module name NumPy had then."""

    def string(content):
        return b"T" + struct.pack("<i", len(content)) + content

    def integers(*numbers):
        return b"".join(b"J" + struct.pack("<i", number) for number in numbers)

    kind = b"cnumpy\ndtype\n(" + string(values.dtype.str[1:].encode()) + integers(0, 1) + b"tR"
    kind += b"(" + integers(3) + string(b"|") + b"NNN" + integers(-1, -1, 0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + integers(0) + b"\x85" + string(b"b") + b"tR"
    array += b"(" + integers(1) + b"(" + integers(*values.shape) + b"t" + kind
    array += b"\x89" + string(values.tobytes()) + b"tb"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + b"](" + integers(*labels) + b"eu."


def planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def write_batch(folder, content=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test_batch"
    path.write_bytes(python2_batch(planes(COLOURS), LABELS) if content is None else content)
    return path


def assert_holds(dataset, pixels, name):
    np.testing.assert_array_equal(dataset.x, pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal(dataset.y, LABELS)
    assert (dataset.x.dtype, dataset.y.dtype, dataset.name) == (np.float32, np.int32, name)
    assert dataset.num_classes == len(dataset.class_names) == 10


def test_digits_are_images_from_0_to_1(digits):
    assert digits.x.shape == (1797, 8, 8)
    assert (digits.x.dtype, digits.y.dtype) == (np.float32, np.int32)
    assert (digits.x.min(), digits.x.max()) == (0.0, 1.0)
    assert np.bincount(digits.y).min() > 170
    assert (digits.name, digits.num_classes, digits.class_names[7]) == ("digits", 10, "7")


def test_split_is_a_partition_addressed_by_key(digits):
    train, test = data.split(digits, jax.random.key(0), 1000)
    assert (len(train), len(test)) == (1000, 797)
    both = np.concatenate([train.x, test.x]).reshape(1797, 64)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(digits.x.reshape(1797, 64), axis=0))
    again, _ = data.split(digits, jax.random.key(0), 1000)
    np.testing.assert_array_equal(again.x, train.x)
    other, _ = data.split(digits, jax.random.key(1), 1000)
    assert (other.y != train.y).any()


@pytest.mark.parametrize("num_train", [0, 1797, 10.0])
def test_bad_sizes_are_refused(digits, num_train):
    with pytest.raises(ValueError, match="needs num_train"):
        data.split(digits, jax.random.key(0), num_train)


@pytest.mark.parametrize(
    ("y", "message"), [(np.zeros(3, int), r"y \[2\]"), (np.array([0, 5]), r"from 0 to 4; got \[0, 5\]")]
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        data.Dataset(np.zeros((2, 3), np.float32), y, "toy", 5)


def toy(**fields):
    x, y = np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32)
    return data.Dataset(**({"x": x, "y": y, "name": "toy", "num_classes": 2} | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": ["a"]}, "2 class_names"),
        ({"group_names": ["a"]}, "groups where there are group_names"),
        ({"groups": np.array([0, 1])}, r"groups int \[3\]"),
        ({"groups": np.zeros(3)}, r"groups int \[3\]"),
        ({"groups": np.array([0, 2, 2])}, "groups 0 to G-1"),
        ({"groups": np.array([-1, 0, 1])}, "groups 0 to G-1"),
        ({"groups": np.array([0, 0, 1]), "group_names": ["a"]}, "2 group_names"),
    ],
)
def test_bad_groups_and_names_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        toy(**fields)


def test_taking_examples_numbers_the_groups_anew():
    part = toy(groups=np.array([2, 0, 1], np.int32), group_names=["a", "b", "c"]).take(np.array([0, 1, 0]))
    assert (part.groups.tolist(), part.group_names, part.groups.dtype) == ([1, 0, 1], ["a", "c"], np.int32)


def test_checksum_is_of_the_bytes_described():
    dataset = toy(x=np.array([[0, 1], [0.2, 0.4], [0.6, 0.8]], np.float32), groups=np.array([1, 0, 1], np.int32))
    content = b"x[3, 2]" + bytes([0, 255, 51, 102, 153, 204]) + b"y[3]" + np.array([0, 1, 1], "<i4").tobytes()
    content += b"groups[3]" + np.array([1, 0, 1], "<i4").tobytes()
    assert data.checksum(dataset) == hashlib.sha256(content).hexdigest()
    texts = toy(x=np.array(["é", "", "ab"], object))
    content = b"x[3]" + b"".join(struct.pack("<Q", len(t)) + t for t in ("é".encode(), b"", b"ab"))
    content += b"y[3]" + np.array([0, 1, 1], "<i4").tobytes()
    assert data.checksum(texts) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("x", "message"), [(np.zeros(3, np.int32), "images .float. or texts"), (np.full(3, 1.5, np.float32), "from 0 to 1")]
)
def test_only_images_and_texts_have_a_checksum(x, message):
    with pytest.raises(ValueError, match=message):
        data.checksum(toy(x=x))


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), ("", gzip.compress)])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_idx_files_gzipped_or_not(tmp_path, folder, suffix, pack):
    write_idx(tmp_path / folder, suffix=suffix, pack=pack)
    assert_holds(data.mnist("test", data_dir=tmp_path, verify=False), PIXELS, "mnist")


def test_checksum_is_verified(tmp_path, monkeypatch):
    write_idx(tmp_path)
    found = data.checksum(data.mnist("test", data_dir=tmp_path, verify=False))
    known = catalogue.CHECKSUMS["mnist/test"][catalogue.ANY]
    with pytest.raises(ValueError, match=rf"checksum {known} .*; got {found}, of 4 examples"):
        data.mnist("test", data_dir=tmp_path)
    monkeypatch.setitem(catalogue.CHECKSUMS, "mnist/test", {catalogue.ANY: found})
    assert len(data.mnist("test", data_dir=tmp_path)) == 4
    write_idx(tmp_path, labels=LABELS[::-1])
    with pytest.raises(ValueError, match=f"checksum {found}"):
        data.mnist("test", data_dir=tmp_path)


IMAGES_FILE, LABELS_FILE = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES_FILE, idx(2051, PIXELS)[:-1], f"{IMAGES_FILE} to hold 3136 values, .*; got 3135"),
        (IMAGES_FILE, idx(2051, PIXELS) + b"0", "got 3137"),
        (IMAGES_FILE, idx(2051, PIXELS)[:7], f"{IMAGES_FILE} to have a header of 16 bytes; got 7 bytes"),
        (IMAGES_FILE, idx(2049, LABELS) + b"123456789", "magic number 2051; got 2049"),
        (IMAGES_FILE, idx(2051, PIXELS[:, :27]), rf"images \[28, 28\] in .*{IMAGES_FILE}.*; got \[27, 28\]"),
        (IMAGES_FILE, gzip.compress(idx(2051, PIXELS))[:-30], f"{IMAGES_FILE} to be a whole gzip file"),
        (IMAGES_FILE, idx(2051, PIXELS[:0]), "examples in"),
        (LABELS_FILE, idx(2049, np.array([3, 0, 10, 3])), f"from 0 to 9 in .*{LABELS_FILE}.*; got 10 in row 2"),
        (LABELS_FILE, idx(2049, LABELS[:3]), "4 labels .*; got 3"),
    ],
    ids=["short", "long", "header", "magic", "size", "gzip", "empty", "label 10", "too few labels"],
)
def test_spoilt_idx_files_are_refused(tmp_path, name, content, message):
    (write_idx(tmp_path) / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.mnist("test", data_dir=tmp_path, verify=False)


@pytest.mark.parametrize("name", ["img", "image"])
def test_parquet_images(tmp_path, name, caplog):
    write_parquet(tmp_path / "cifar10" / "test-00000-of-00001.parquet", image_table(COLOURS, name=name))
    dataset = data.cifar10("test", data_dir=tmp_path)
    assert_holds(dataset, COLOURS, "cifar10")
    assert f"no checksum is known for cifar10/test in PNG; it is {data.checksum(dataset)}" in caplog.text


def test_parquet_in_several_files(tmp_path):
    for number in range(2):
        rows = slice(2 * number, 2 * number + 2)
        table = image_table(COLOURS[rows], LABELS[rows])
        write_parquet(tmp_path / f"test-0000{number}-of-00002.parquet", table)
    assert_holds(data.cifar10("test", data_dir=tmp_path), COLOURS, "cifar10")
    (tmp_path / "test-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match=r"2 files like .*; got 1"):
        data.cifar10("test", data_dir=tmp_path)


def test_jpeg_has_a_checksum_of_its_own(tmp_path):
    write_parquet(tmp_path / "test.parquet", image_table(COLOURS, form="JPEG"))
    with pytest.raises(ValueError, match=f"checksum {catalogue.CHECKSUMS['cifar10/test']['JPEG']}"):
        data.cifar10("test", data_dir=tmp_path)


def test_writers_are_groups_in_the_order_of_their_numbers(tmp_path):
    write_parquet(tmp_path / "test.parquet", image_table(PIXELS, writer=[200, 3, 200, 41]))
    dataset = data.mnist_writers("test", data_dir=tmp_path, verify=False)
    assert_holds(dataset, PIXELS, "mnist_writers")
    assert (dataset.groups.tolist(), dataset.group_names, dataset.groups.dtype) == (
        [2, 0, 2, 1],
        ["3", "41", "200"],
        np.int32,
    )


def test_newsgroups_are_texts_with_authors(tmp_path):
    write_parquet(tmp_path / "newsgroups20" / "train.parquet", text_table())
    dataset = data.newsgroups20(data_dir=tmp_path, verify=False)
    assert (dataset.x.tolist(), dataset.y.tolist()) == (TEXTS, LABELS.tolist())
    assert (dataset.groups.tolist(), dataset.group_names) == ([1, 0, 2, 1], ["a", "b", "c"])
    assert (dataset.num_classes, dataset.class_names[19]) == (20, "talk.religion.misc")
    assert dataset.take(np.array([1, 2])).x.tolist() == TEXTS[1:3]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop_columns("img"), "a column 'img' in .*test.parquet; got"),
        (lambda table: table.drop_columns("label"), "a column 'label'"),
        (lambda table: table.drop_columns("writer"), "a column 'writer'"),
        (lambda table: replaced(table, "label", list("abcd")), "'label' of .* to be int or uint; got string"),
        (lambda table: replaced(table, "label", [3, None, 9, 3]), "no empty cell in column 'label'"),
        (lambda table: replaced(table, "label", [3, 0, 9, 10]), "from 0 to 9 in .*; got 10 in row 3"),
        (lambda table: replaced(table, "img", [b"no image"] * 4), "PNG or JPEG images in .*test.parquet.* in row 0"),
        (lambda table: replaced(table, "img", [encode(PIXELS[0])[:300]] * 4), "PNG or JPEG images"),
        (lambda table: replaced(table, "img", [encode(PIXELS[0, :9])] * 4), r"needs images .*; got \('L', \(28, 9\)\)"),
        (lambda table: replaced(table, "img", [encode(COLOURS[0])] * 4), "got .'RGB'"),
        (lambda table: replaced(table, "img", [None] * 4), "to be binary"),
    ],
)
def test_spoilt_tables_are_refused(tmp_path, spoil, message):
    write_parquet(tmp_path / "test.parquet", spoil(image_table(PIXELS, writer=[200, 3, 200, 41])))
    with pytest.raises(ValueError, match=message):
        data.mnist_writers("test", data_dir=tmp_path, verify=False)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, [values])


def test_truncated_parquet_is_refused(tmp_path):
    path = write_parquet(tmp_path / "test.parquet", text_table())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"test\.parquet to be a whole parquet file"):
        data.newsgroups20("test", data_dir=tmp_path)


def test_original_python_batches(tmp_path, monkeypatch):
    path = write_batch(tmp_path / "cifar-10-batches-py")
    by_numpy = pickle.loads(path.read_bytes(), encoding="bytes")
    np.testing.assert_array_equal(by_numpy[b"data"], planes(COLOURS))
    assert_holds(data.cifar10("test", data_dir=tmp_path, verify=False), COLOURS, "cifar10")
    with pytest.raises(ValueError, match="test_batch to have the MD5 40351d587109b95175f43aff81a1287e"):
        data.cifar10("test", data_dir=tmp_path)
    monkeypatch.setitem(batches.MD5, "test_batch", hashlib.md5(path.read_bytes()).hexdigest())
    assert_holds(data.cifar10("test", data_dir=tmp_path), COLOURS, "cifar10")


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("harm", [(os.mkdir, "harm"), (eval, "__import__('os').mkdir('harm')"), (np.save, "harm", 0)])
def test_malicious_pickles_are_refused(tmp_path, monkeypatch, protocol, harm):
    monkeypatch.chdir(tmp_path)
    write_batch(tmp_path, pickle.dumps({"data": Malicious(*harm), "labels": [0]}, protocol))
    with pytest.raises(ValueError, match=rf"test_batch to be .*: a reference to \w+\.{harm[0].__name__}$"):
        data.cifar10("test", data_dir=tmp_path, verify=False)
    assert os.listdir(tmp_path) == ["test_batch"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python2_batch(planes(COLOURS), LABELS)[:-9], "to be a CIFAR-10 python batch"),
        (b"", "EOFError"),
        (pickle.dumps({"labels": [0]}, 2), "KeyError: b'data'"),
        (pickle.dumps([1], 2), "TypeError"),
        (python2_batch(planes(COLOURS).astype(float), LABELS), "not of bytes"),
        (python2_batch(planes(COLOURS), LABELS[:3]), "3072 values for each of 3 labels"),
        (python2_batch(planes(COLOURS), [0, 1, 10, 2]), "from 0 to 9 in .*test_batch; got 10 in row 2"),
    ],
    ids=["truncated", "empty", "no data", "no dict", "floats", "too few labels", "label 10"],
)
def test_spoilt_batches_are_refused(tmp_path, content, message):
    path = write_batch(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        data.cifar10("test", data_dir=tmp_path, verify=False)
    assert str(path) in str(caught.value)


def test_all_batches_of_the_training_set_are_needed(tmp_path):
    for name in batches.MD5:
        write_batch(tmp_path).rename(tmp_path / name)
    assert data.cifar10(data_dir=tmp_path, verify=False).x.shape == (20, 32, 32, 3)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3"):
        data.cifar10(data_dir=tmp_path, verify=False)


def test_where_sets_are_looked_for(tmp_path, monkeypatch):
    here, named, asked, system = (tmp_path / name for name in ("shared/data", "named", "asked", "system"))
    for number, root in enumerate((here, named, asked)):
        write_idx(root / "fashion_mnist", labels=LABELS[: number + 1], images=PIXELS[: number + 1])
    write_idx(system)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("JAXAME_DATA", raising=False)
    places = dataclasses.replace(catalogue.FASHION_MNIST.places, system=(system, "package"))
    monkeypatch.setattr(catalogue, "FASHION_MNIST", dataclasses.replace(catalogue.FASHION_MNIST, places=places))

    def size(**where):
        return len(data.fashion_mnist("test", verify=False, **where))

    assert size() == 1
    monkeypatch.setenv("JAXAME_DATA", str(named))
    assert (size(), size(data_dir=asked)) == (2, 3)
    monkeypatch.setenv("JAXAME_DATA", str(tmp_path / "nowhere"))
    assert size() == 4
    with pytest.raises(FileNotFoundError):
        size(data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_set_is_named_with_the_ways_to_get_it(tmp_path, monkeypatch, name, split):
    monkeypatch.setenv("JAXAME_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        LOADERS[name](split)
    message = str(caught.value)
    for part in (f"{name}, split {split}", str(tmp_path / name), f"{split}.parquet", "data_dir", "JAXAME_DATA"):
        assert part in message
    assert ("apt install dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert ("pip install 'jaxame[download]'" in message) == (name in FOREIGN)
    assert ("is on no hub" in message) == (name not in FOREIGN)


def test_half_a_set_is_a_missing_set(tmp_path):
    (write_idx(tmp_path) / LABELS_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"{IMAGES_FILE} and {LABELS_FILE}"):
        data.mnist("test", data_dir=tmp_path)


class FakeHub:
    """What `datasets.load_dataset` returns, as far as it is used."""

    def __init__(self, table):
        self.table = table

    def with_format(self, form):
        assert form == "arrow"
        return self

    def __getitem__(self, rows):
        return self.table[rows]


@pytest.mark.parametrize("name", FOREIGN)
def test_download_when_asked(tmp_path, monkeypatch, name):
    images = COLOURS if name == "cifar10" else PIXELS
    table = image_table(images, name="img" if name == "cifar10" else "image")
    asked = []

    def load_dataset(hub, *, split):
        asked.append((hub, split))
        return FakeHub(table)

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    assert_holds(LOADERS[name]("test", data_dir=tmp_path, download=True, verify=False), images, name)
    assert asked == [(FOREIGN[name], "test")]
    write_parquet(tmp_path / "test.parquet", table)
    LOADERS[name]("test", data_dir=tmp_path, download=True, verify=False)
    assert len(asked) == 1


@pytest.mark.parametrize("name", sorted(LOADERS.keys() - FOREIGN.keys()))
def test_sets_that_no_hub_has_are_not_downloaded(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"no download: .* is on no hub"):
        LOADERS[name](data_dir=tmp_path, download=True)


@pytest.mark.parametrize(
    ("module", "extra"),
    [("pyarrow", "data"), ("pyarrow.parquet", "data"), ("PIL.Image", "data"), ("datasets", "download")],
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module, extra):
    if extra == "data":
        write_parquet(tmp_path / "test.parquet", image_table(COLOURS))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module.split('.')[0]}: pip install 'jaxame\[{extra}\]'"):
        data.cifar10("test", data_dir=tmp_path, download=True, verify=False)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"split to be one of .*; got 'valid'"):
        data.mnist("valid")


def test_importing_the_loaders_is_light():
    heavy = {"pandas", "pyarrow", "PIL", "sklearn", "datasets"}
    program = f"import sys, jaxame.data; print(sorted({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
