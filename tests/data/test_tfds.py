"""Corpora by TFDS: read where they are prepared, downloaded only where that is asked for."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import corpus_fingerprint, read_documents
from lacy_jax.data.documents import Document
from tests.data.test_corpus import error_of

WRITE_TFDS = """
import sys
import tensorflow_datasets as tfds

class TinyEncyclopedia(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    def _info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"title": text, "text": text, "url": text})
        return tfds.core.DatasetInfo(builder=self, features=features)
    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(5)), "test": self._generate_examples(range(2))}
    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"title": f"Tïtle {number}", "text": f"Text\\n{number}", "url": f"u{number}"}

TinyEncyclopedia(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
"""


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    # In another process, so that here it is known by its files alone, as a dataset made elsewhere is.
    directory = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", WRITE_TFDS, str(directory)], check=True, capture_output=True)
    return str(directory)


def tiny(directory, **settings):
    return CorpusConfig(name="tfds", tfds_name="tiny_encyclopedia", tfds_dir=directory, **settings)


def test_tfds(tfds_directory):
    documents = list(read_documents(tiny(tfds_directory)))
    assert sorted((document.title, document.text) for document in documents) == [
        (f"Tïtle {number}", f"Text\n{number}") for number in range(5)
    ]
    assert [document.id for document in documents] == [f"train:{index}" for index in range(5)]
    by_url = list(read_documents(tiny(tfds_directory, id_field="url", title_field="")))
    assert sorted(document.id for document in by_url) == [f"u{number}" for number in range(5)]
    assert {document.title for document in by_url} == {""}


def test_the_tfds_fingerprint_names_dataset_and_shards(tfds_directory):
    fingerprint = corpus_fingerprint(tiny(tfds_directory))
    assert fingerprint["dataset"] == "tiny_encyclopedia/1.2.0"
    assert sum(fingerprint["shards"]) == 5
    assert fingerprint == json.loads(json.dumps(fingerprint))


def test_a_tfds_feature_that_is_not_there_is_told(tfds_directory):
    message = error_of(tiny(tfds_directory, text_field="body"))
    assert "has no feature 'body' but 'text', 'title', 'url'" in message


def test_tfds_is_never_downloaded_unasked(tmp_path):
    corpus = CorpusConfig(name="tfds", tfds_name="wikipedia/20230601.en", tfds_dir=str(tmp_path))
    message = error_of(corpus)
    assert "not prepared" in message
    assert "corpus.tfds_download=true" in message
    assert not list(tmp_path.iterdir())


def test_tfds_download_prepares_what_is_missing(tmp_path):
    import tensorflow_datasets as tfds

    class FetchedEncyclopedia(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"title": text, "text": text})
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            if (tmp_path / "offline").exists():
                raise OSError("no network")
            return {"train": [("key", {"title": "T", "text": "x"})]}

        def _generate_examples(self):  # TFDS asks for it; `_split_generators` gives the examples themselves
            yield from ()

    corpus = CorpusConfig(
        name="tfds", tfds_name="fetched_encyclopedia", tfds_dir=str(tmp_path / "data"), tfds_download=True
    )
    (tmp_path / "offline").touch()
    assert "TFDS could not prepare it: OSError: no network" in error_of(corpus)
    (tmp_path / "offline").unlink()
    assert list(read_documents(corpus)) == [Document(id="train:0", title="T", text="x")]


def test_tfds_files_of_another_format_are_told(tfds_directory, tmp_path):
    copy = Path(shutil.copytree(tfds_directory, tmp_path / "copy"))
    (info,) = copy.glob("*/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "must hold it in array_record files" in error_of(tiny(str(copy)))


def test_an_unknown_tfds_name_is_told(tmp_path):
    message = error_of(CorpusConfig(name="tfds", tfds_name="no_such_set", tfds_dir=str(tmp_path)))
    assert "corpus.tfds_name='no_such_set'" in message
