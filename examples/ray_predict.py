"""Segment photos with Ray Data, in several actors, and write the label maps to Parquet or WebDataset.

    pip install 'picie[ray]'
    python examples/ray_predict.py run photos/ maps --actors 2
    python examples/ray_predict.py run s3://bucket/photos s3://bucket/maps --to webdataset

On a cluster, start it on the head node with RAY_ADDRESS=auto; each actor then gets a GPU by --gpus 1.
An actor that is killed is started again, and its batch repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import ray

from picie import BatchPredictor

SUFFIXES = ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp"]


def main(arguments: Sequence[str] | None = None, predictor: type[BatchPredictor] = BatchPredictor) -> None:
    """Predict and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, reachable from every machine")
    parser.add_argument("photos", help="folder of photos, or its URL")
    parser.add_argument("out", help="new folder for the result, or its URL")
    parser.add_argument("--to", choices=["parquet", "webdataset"], default="parquet")
    parser.add_argument("--actors", type=int, default=2, help="processes that predict [default: 2]")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each actor [default: 0]")
    parser.add_argument("--batch-size", type=int, default=32, help="photos in a batch [default: 32]")
    options = parser.parse_args(arguments)

    photos = ray.data.read_binary_files(options.photos, include_paths=True, file_extensions=SUFFIXES)
    maps = photos.map_batches(
        predictor,
        fn_constructor_args=(options.run,),
        batch_size=options.batch_size,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_cpus=0.5,  # with 1, two actors would leave no CPU of a small machine for reading
        num_gpus=options.gpus,
    )
    maps = maps.materialize()  # count below without predicting again
    if options.to == "parquet":
        maps.write_parquet(options.out)  # columns path, labels (a PNG file) and error
    else:
        maps.filter(lambda row: not row["error"]).map(_sample).write_webdataset(options.out, encoder=None)
    failed = [row["path"] for row in maps.filter(lambda row: bool(row["error"])).take_all()]
    print(f"{maps.count() - len(failed)} maps -> {options.out}, {len(failed)} photos could not be read {failed[:3]}")


def _sample(row: dict[str, object]) -> dict[str, object]:
    """A sample of a WebDataset: its key is the path without slashes and dots."""
    key = str(row["path"]).replace("/", "_").replace(".", "_")
    return {"__key__": key, "png": row["labels"], "txt": row["path"]}


if __name__ == "__main__":
    main()
