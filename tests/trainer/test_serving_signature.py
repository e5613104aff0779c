"""The network as TensorFlow Serving serves it: loaded in its way, asked in the JSON that docs/vertex.md shows.

``tensors_of`` does what TensorFlow Serving does with a request's body (tensorflow_serving/util/json_tensor.cc), written
from its rules and not from ours: whatever it accepts here, the server accepts.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.test_predictor import assert_same_forecasts
from tests.trainer.trained_models import World
from trainer import predictor
from transforms import schema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "vertex.md"
ROWS = 50
# A float32 has 24 binary digits: a whole number above is refused rather than rounded.
MOST_WHOLE_NUMBER = 2**24 - 1
Infos = Mapping[str, Any]  # by input's name: TensorFlow's TensorInfo


def tensors_of(body: str, signatures: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """The signature that a body asks, and a tensor for each of its inputs.

    Raises:
      ValueError: TensorFlow Serving would answer with 400.
    """
    asked = json.loads(body)  # Python's reader takes NaN, as the server's does
    name = asked.get("signature_name", "serving_default")
    infos, instances = signatures[name].inputs, asked["instances"]
    if not isinstance(instances, list) or not instances:
        raise ValueError("instances must be a list of at least one")
    rows = [_row(instance, infos, named=_is_named(instances[0])) for instance in instances]
    return name, {key: np.array([row[key] for row in rows], _type(infos[key])) for key in infos}


def _row(instance: Any, infos: Infos, named: bool) -> dict[str, Any]:
    if named != _is_named(instance):
        raise ValueError("objects and plain values may not be mixed")
    if not named and len(infos) > 1:
        raise ValueError("more than one input has to be named")
    given = instance if named else dict.fromkeys(infos, instance)
    if set(given) != set(infos):
        raise ValueError(f"keys must be equal to {sorted(infos)}")
    return {key: _value(value, infos[key].dtype) for key, value in given.items()}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _value(value: Any, dtype: int) -> Any:
    """One value of a tensor of rank 1."""
    if dtype == tf.string.as_datatype_enum:
        if _is_base64(value):
            return base64.b64decode(value["b64"], validate=True)
        if isinstance(value, str):
            return value.encode()
        raise ValueError(f"{value!r} is no string")
    if dtype != tf.float32.as_datatype_enum or isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if isinstance(value, int) and abs(value) > MOST_WHOLE_NUMBER:
        raise ValueError(f"{value} cannot be a float without loss")
    if math.isfinite(value) and abs(value) > np.finfo(np.float32).max:
        raise ValueError(f"{value} is too large for a float")
    return value


def _type(info: Any) -> type:
    return object if info.dtype == tf.string.as_datatype_enum else np.float32


class Server:
    """A SavedModel in a session of TensorFlow 1, which is what TensorFlow Serving holds."""

    def __init__(self, session: tf.compat.v1.Session, directory: str) -> None:
        self._session = session
        # Only while it is loaded: TensorFlow 2, beside which this runs, must not build into this graph.
        with session.graph.as_default():
            self.signatures = tf.compat.v1.saved_model.load(session, ["serve"], directory).signature_def

    def predict(self, body: str) -> dict[str, np.ndarray]:
        name, tensors = tensors_of(body, self.signatures)
        signature = self.signatures[name]
        feeds = {signature.inputs[key].name: values for key, values in tensors.items()}
        return dict(self._session.run({key: tensor.name for key, tensor in signature.outputs.items()}, feeds))


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Server]:
    session = tf.compat.v1.Session(graph=tf.Graph())
    yield Server(session, str(Path(world.model, predictor.NETWORK)))
    session.close()


@pytest.fixture(scope="module")
def expected(world: World) -> np.ndarray:
    network = predictor.load_member(predictor.NETWORK, str(Path(world.model, predictor.NETWORK)))
    forecasts = network.forecasts(world.customers.slice(0, ROWS))
    return np.stack([forecasts[name] for name in predictor.FORECAST_COLUMNS])


@pytest.fixture(scope="module")
def customers(world: World) -> list[dict[str, Any]]:
    """Rows as a client has them: the model's inputs as Python's own values, None where there is none."""
    rows = world.customers.slice(0, ROWS).select(schema.names(schema.model_inputs())).to_pylist()
    return [
        {name: value if isinstance(value, str | None) else float(value) for name, value in row.items()} for row in rows
    ]


def stacked(answer: Mapping[str, np.ndarray]) -> np.ndarray:
    assert set(answer) == set(predictor.FORECAST_COLUMNS)
    return np.stack([answer[name] for name in predictor.FORECAST_COLUMNS])


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def documented_body(customers: list[dict[str, Any]]) -> str:
    """What the page's own lines make of customers."""
    [code] = blocks("python")
    names: dict[str, Any] = {"customers": customers}
    exec(code, names)
    return str(names["body"])


def test_the_documented_lines_get_the_predictors_forecasts(
    server: Server, customers: list[dict[str, Any]], expected: np.ndarray
) -> None:
    assert any(value is None for customer in customers for value in customer.values())
    assert_same_forecasts(stacked(server.predict(documented_body(customers))), expected)


def test_bytes_without_the_inputs_name_mean_the_same(
    server: Server, customers: list[dict[str, Any]], expected: np.ndarray
) -> None:
    named = json.loads(documented_body(customers))["instances"]
    body = json.dumps({"instances": [instance["examples"] for instance in named]})
    assert_same_forecasts(stacked(server.predict(body)), expected)


def test_the_raw_columns_get_the_predictors_forecasts(
    server: Server, customers: list[dict[str, Any]], expected: np.ndarray
) -> None:
    documented = json.loads(blocks("json")[0])
    text = {c.name for c in schema.model_inputs() if c.model_input is schema.Scale.VOCABULARY}
    # In the form of the page, with the world's customers.
    instances = [
        {
            name: ("" if name in text else math.nan) if customer[name] is None else customer[name]
            for name in documented["instances"][0]
        }
        for customer in customers
    ]
    body = json.dumps({**documented, "instances": instances})
    assert "NaN" in body
    assert_same_forecasts(stacked(server.predict(body)), expected)


def test_the_documented_raw_request_is_answered(server: Server) -> None:
    answer = server.predict(blocks("json")[0])
    assert all(values.shape == (1,) and np.isfinite(values).all() for values in answer.values())
    assert answer["value_p10"] <= answer["value_p50"] <= answer["value_p90"] and answer["predicted_value"] > 0


def test_the_inputs_are_those_of_the_page(server: Server) -> None:
    examples = server.signatures["serving_default"].inputs
    assert list(examples) == ["examples"] and examples["examples"].dtype == tf.string.as_datatype_enum
    assert [d.size for d in examples["examples"].tensor_shape.dim] == [-1]
    assert set(server.signatures["raw"].inputs) == set(json.loads(blocks("json")[0])["instances"][0])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"instances": []}', "at least one"),
        ('{"instances": [{"examples": 1}]}', "no string"),
        ('{"instances": [{"examples": {"b64": "!"}}]}', "base64|Only"),
        ('{"instances": [{"b64": "AA=="}, {"examples": "x"}]}', "mixed"),
        ('{"instances": [{"example": {"b64": "AA=="}}]}', "keys must be equal"),
        ('{"signature_name": "raw", "instances": [1.0]}', "named"),
        ('{"signature_name": "raw", "instances": [{"country": "France"}]}', "keys must be equal"),
    ],
)
def test_the_translation_refuses_what_the_server_refuses(server: Server, body: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tensors_of(body, server.signatures)


def test_a_large_whole_number_needs_a_point(server: Server) -> None:
    documented = blocks("json")[0]
    with pytest.raises(ValueError, match="without loss"):
        tensors_of(documented.replace('"value_total": 310.5', '"value_total": 20000000'), server.signatures)
    tensors_of(documented.replace('"value_total": 310.5', '"value_total": 20000000.0'), server.signatures)
