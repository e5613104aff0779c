"""Executes a job as it was staged for Dataflow: its graph from the bucket, its workers in this process.

    python run_staged.py gs://bucket/.../pipeline.pb

Run as a script, so that nothing but what the caller puts on the path is importable.
"""

from __future__ import annotations

import sys

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def main() -> None:
    with FileSystems.open(sys.argv[1]) as stream:
        graph = beam_runner_api_pb2.Pipeline.FromString(stream.read())
    for environment in graph.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        del environment.dependencies[:]
    FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()


if __name__ == "__main__":
    main()
