"""Data sets: labelled examples in memory, in one form, checked against a schema and a checksum."""

from jaxame.data.dataset import Dataset, checksum, split
from jaxame.data.sets import cifar10, digits, fashion_mnist, mnist, mnist_writers, newsgroups20
from jaxame.data.text import tokenize, vocabulary

__all__ = [
    "Dataset",
    "checksum",
    "cifar10",
    "digits",
    "fashion_mnist",
    "mnist",
    "mnist_writers",
    "newsgroups20",
    "split",
    "tokenize",
    "vocabulary",
]
