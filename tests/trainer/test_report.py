import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.evaluation_fixture import HORIZON_DAYS, replaced, simulate
from tests.transforms import simulated_customers
from trainer import report, report_charts
from trainer.baselines import baseline_forecasts, float_column
from trainer.evaluate import evaluate
from trainer.metrics import GainCurve
from trainer.report_page import money
from transforms import skew, skew_thresholds, statistics, storage

SECTIONS = (
    "metrics", "deciles", "gain", "weeks", "probability", "quantiles", "segments", "frequency", "distribution", "top",
    "skew", "mix", "card", "data", "provenance",
)  # fmt: skip
HOSTILE = "<script>alert('id')</script>"
# Other people, of whom some come from a country that is to be shown, not run.
SERVED_CUSTOMERS = replaced(
    simulated_customers.multiplied(simulated_customers.customers(900, seed=2), ["value_total"], 100),
    country=[HOSTILE] * 300 + [None] * 300 + ["Norway"] * (simulated_customers.customers(900, seed=2).num_rows - 600),
)
LEARNED = statistics.of_table(simulated_customers.customers(800), "2011-06-01")
SERVED = statistics.of_table(SERVED_CUSTOMERS, "2011-12-10")


def finished(directory, kind, arguments, content, write=lambda: None):
    storage.begin(directory, kind, arguments)
    write()
    storage.finish(directory, kind, arguments, content)
    return directory


def model_directory(directory, customers, predictions):
    evaluation = evaluate(customers, predictions, horizon_days=HORIZON_DAYS) | {"split": "out of time"}
    columns = {name: customers[name] for name in ("customer_id", "future_value", "future_orders")}
    columns |= {name: predictions[name] for name in predictions.column_names[4:]}
    columns |= {f"baseline_{n}": pa.array(v) for n, v in baseline_forecasts(customers, HORIZON_DAYS).items()}

    def write():
        storage.write_bytes(storage.join(directory, "evaluation.json"), json.dumps(evaluation).encode())
        pq.write_table(pa.table(columns), f"{directory}/evaluation.parquet")
        statistics.write(f"{directory}/statistics", LEARNED)

    content = {"model_version": "v<1>", "horizon_days": HORIZON_DAYS, "training": {"epochs": 12, "loss": [0.5] * 30}}
    return finished(directory, "model", {"seed": 0}, content, write)


def features_directory(directory, cutoff):
    lines = {
        "read": 1000, "used": 700,
        "excluded": {"no_customer": 250, "after_window": 40}, "dead_letters": {"bad_amount": 10},
    }  # fmt: skip
    return finished(directory, "features", {"cutoff": cutoff, "horizon_days": 90}, {"lines": lines, "rows": 432})


def predictions_directory(directory, predictions):
    top = int(np.argmax(float_column(predictions, "predicted_value")))
    ids = predictions["customer_id"].to_pylist()
    ids[top] = HOSTILE
    named = replaced(predictions, customer_id=ids)

    def write():
        half = named.num_rows // 2
        pq.write_table(named.slice(0, half), f"{directory}/part-00000.parquet")
        pq.write_table(named.slice(half), f"{directory}/part-00001.parquet")
        statistics.write(f"{directory}/statistics", SERVED)
        comparison = skew.compare(LEARNED, SERVED, skew_thresholds.read())
        storage.write_bytes(f"{directory}/skew.json", json.dumps(comparison.to_json()).encode())

    content = {"rows": named.num_rows, "as_of": "2011-12-10", "horizon_days": 90}
    return finished(directory, "predictions", {"as_of": "2011-12-10"}, content, write)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    customers, predictions = simulate(1500)
    return {
        "model": model_directory(str(root / "model"), customers, predictions),
        "features": [features_directory(str(root / cutoff), cutoff) for cutoff in ("2011-03-01", "2011-06-01")],
        "predictions": predictions_directory(str(root / "predictions"), predictions),
        "values": float_column(predictions, "predicted_value"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory):
    """The written report without the chart library, so that assertions see what we wrote."""
    output = tmp_path_factory.mktemp("out") / "report.html"
    arguments = ["--model", inputs["model"], "--predictions", inputs["predictions"], "--output", str(output)]
    assert report.main([*arguments, "--features", *inputs["features"]]) == 0
    text = output.read_text()
    library = re.search(r"<script>.*?</script></head>", text, re.DOTALL)
    assert library is not None
    assert len(library.group()) > 1e6, "plotly.js is inlined"
    assert text.count("plotly.js v") <= 1
    return text.replace(library.group(), "</head>")


def visible(page):
    return re.sub(r"<script.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL)


def test_every_section_is_there_once(page):
    for name in SECTIONS:
        assert page.count(f'<section id="{name}">') == 1
    charts = re.findall(r'id="(chart-[^"]+)"', page)
    assert len(charts) == len(set(charts))
    assert len([name for name in charts if not name.startswith("chart-skew-")]) == 9
    assert "<figcaption>" in page


def test_the_verdict_and_the_figures_are_there(page, inputs):
    evaluation = json.loads(storage.read_bytes(storage.join(inputs["model"], "evaluation.json")))
    text = visible(page)
    assert evaluation["verdict"] in text
    assert f"{evaluation['models']['model']['normalised_gini']:.3f}" in text
    assert "1,500" in text
    assert money(float(inputs["values"].max())) in text


def test_nothing_is_loaded_from_anywhere(page):
    assert re.findall(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//""", page) == []
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_ids_and_versions_are_escaped(page):
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(&#x27;id&#x27;)&lt;/script&gt;" in page
    assert "<title>Customer value forecast, model v&lt;1&gt;</title>" in page


def test_skew_is_shown_alarms_first(page):
    shown = page[page.index('<section id="skew">') : page.index('<section id="mix">')]
    marks = re.findall(r'<div class="multiple (\w+)"><figure><h3>(\w+)</h3>', shown)
    assert [level for level, _ in marks] == sorted((level for level, _ in marks), key=["fail", "warn", "ok"].index)
    assert {name for level, name in marks if level == "fail"} == {"value_total", "country"}
    assert "Not to be used." in shown
    assert re.search(r"<li>fail: value_total: divergence is 0\.\d+, accepted is at most 0\.3 ", shown)
    assert re.search(r"nobody or everybody has the same value: [\w, ]*category, channel", shown)
    assert "future_value" not in shown


def test_without_statistics_the_section_says_so(inputs, tmp_path):
    for arguments, expected in (
        ([], "No predictions directory was given."),
        (["--predictions", str(tmp_path / "p")], "hold no statistics of their customers"),
    ):
        if arguments:
            shutil.copytree(inputs["predictions"], tmp_path / "p")
            (tmp_path / "p" / "skew.json").unlink()
        assert report.main(["--model", inputs["model"], *arguments, "--output", str(tmp_path / "r.html")]) == 0
        text = (tmp_path / "r.html").read_text()
        shown = text[text.index('<section id="skew">') : text.index('<section id="mix">')]
        assert expected in shown
        assert "chart-" not in shown


def test_the_flow_of_lines_adds_up(page):
    flow = page[page.index('<section id="data">') : page.index('<section id="provenance">')]
    for number in ("1,000", "700", "290", "250", "40", "10", "432"):
        assert flow.count(f"<td>{number}</td>") >= 2
    assert "no customer" in flow


def test_without_features_and_predictions_the_evaluation_is_described(inputs, tmp_path):
    done = report.run(["--model", inputs["model"], "--output", str(tmp_path / "r.html")])
    assert done["customers"] == 1500
    text = (tmp_path / "r.html").read_text()
    assert "No features directory was given." in text
    assert "customers of the evaluation" in text
    assert done["bytes"] == (tmp_path / "r.html").stat().st_size


def test_the_same_inputs_give_the_same_file(inputs, tmp_path):
    for name in ("a.html", "b.html"):
        report.run(["--model", inputs["model"], "--output", str(tmp_path / name)])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("kind", ["nobody bought", "nothing predicted", "one customer"])
def test_degenerate_evaluations_still_make_a_report(kind, tmp_path):
    customers, predictions = simulate(60)
    if kind == "nobody bought":
        customers = replaced(customers, future_value=[0] * 60, future_orders=[0] * 60)
    elif kind == "nothing predicted":
        predictions = replaced(predictions, predicted_value=[0.0] * 60)
    else:
        customers, predictions = customers.slice(0, 1), predictions.slice(0, 1)
    model = model_directory(str(tmp_path / "model"), customers, predictions)
    assert report.main(["--model", model, "--output", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert all(f'<section id="{name}">' in text for name in SECTIONS)


def test_wrong_arguments_end_with_one_line(inputs, tmp_path, capsys):
    out = str(tmp_path / "r.html")
    unfinished = tmp_path / "unfinished"
    storage.begin(str(unfinished), "predictions", {})
    unjudged = finished(str(tmp_path / "unjudged"), "model", {}, {"model_version": "v", "horizon_days": 1})
    for argv, expected in (
        (["--model", inputs["predictions"], "--output", out], "accepted is a model directory"),
        (["--model", str(tmp_path / "none"), "--output", out], "not a complete model directory"),
        (["--model", unjudged, "--output", out], "has no evaluation.json"),
        (["--model", inputs["model"], "--predictions", str(unfinished), "--output", out], "not a complete predictions"),
        (["--model", inputs["model"], "--output", "r.pdf"], "--output 'r.pdf' is not usable"),
    ):
        assert report.main(argv) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from trainer import report\n"
        "try: report.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'pyarrow', 'plotly', 'scipy', 'tensorflow', 'apache_beam'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "example:" in done.stdout


# --- what the charts compute


def test_value_bins_hold_everybody():
    rng = np.random.default_rng(0)
    for values in (rng.lognormal(3, 2, 5000), np.append(np.zeros(900), rng.lognormal(3, 1, 100)), np.full(7, 50.0)):
        labels, shares = report_charts.value_bins(values)
        assert len(labels) == len(shares) == len(set(labels)) <= 40
        assert shares.sum() == pytest.approx(1)
    labels, shares = report_charts.value_bins(np.append(np.zeros(900), np.full(100, 30.0)))
    assert labels[0] == "under 0.02"  # a hundredth of the mean is 0.03
    assert shares[0] == pytest.approx(0.9)
    assert shares[labels.index("20 - 50")] == pytest.approx(0.1)
    assert report_charts.value_bins(np.zeros(5))[0] == ["0"]


def test_reliability_of_true_probabilities_lies_on_the_diagonal():
    rng = np.random.default_rng(1)
    probability = rng.beta(0.5, 2, 20_000)
    promised, share, half = report_charts.reliability_bins(probability, (rng.random(20_000) < probability) * 1.0)
    assert len(promised) == 10
    assert (np.diff(promised) > 0).all()
    assert (abs(promised - share) < 2 * half + 1e-3).all()


def test_decile_means_and_the_logarithmic_axis():
    actual = np.repeat(np.arange(10.0, 0, -1), 3)
    mean, predicted = report_charts.decile_means(GainCurve.of(actual, actual * 2))
    assert mean == pytest.approx(np.arange(10, 0, -1))
    assert predicted == pytest.approx(2 * mean)
    assert not report_charts.needs_log(np.append(mean, predicted))
    assert report_charts.needs_log(np.append(mean, 1e5))
    assert not report_charts.needs_log(np.zeros(10))


def test_money_has_thousands_separators():
    assert [money(v) for v in (0.5, 999.994, 1234.5, 1e7)] == ["0.50", "999.99", "1,234", "10,000,000"]
