"""The report: what it says, and that a real browser shows it without a script, an error or a request."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from steelman.attacks import FGSM, PGD, DeepFool
from steelman.data import Digits
from steelman.evaluation import (
    Entry,
    Evaluation,
    FromPrediction,
    Gallery,
    accuracy,
    csv_table,
    evaluate,
    figures,
    json_table,
    measures,
    save_figure,
    terminal_table,
    verdict,
    write,
    write_report,
)
from steelman.evaluation.gallery import amplification, png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the report in")


def trained(attack: PGD | None) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    (train,) = Digits().load("train").batches([torch.arange(600)])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        x = train.x if attack is None else attack(network, train.x, train.y)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), train.y).backward()
        optimiser.step()
    return network


@pytest.fixture(scope="module")
def entries():
    test = Digits().load("test").subset(torch.arange(100))
    (some,) = test.batches([torch.arange(5)])
    attacks = [FGSM(eps=0.1), PGD(eps=0.1, steps=5), DeepFool(), FromPrediction(DeepFool(steps=5))]
    found = []
    for name, attack in (("Plain <b>", None), ("PGD training", PGD(eps=0.1, steps=3))):
        network = trained(attack)
        log = [{"epoch": e, "clean": 0.1 + 0.2 * e, "robust": 0.05 * e, "loss": 2.0 / (e + 1)} for e in range(4)]
        gallery = Gallery.of(network, some.x, some.y, DeepFool())
        found.append(Entry(name, evaluate(network, test, attacks), log, gallery, {"data": "digits", "seed": "0"}))
    return found


@pytest.fixture(scope="module")
def folder(entries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write(folder, entries, on="2020-02-02")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def open_page(path: Path, profile: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What Chromium makes of a page: its DOM on stdout, its console among stderr."""
    return subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={profile}",
            *more,
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def console(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def requests(log: Path) -> list[str]:
    """What the page asked for, from Chromium's network log; what the browser asks for itself has no origin."""
    found = json.loads(log.read_text(encoding="utf-8"))
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event["params"] for event in found["events"] if event["type"] == start and "url" in event["params"]]
    return [each["url"] for each in begun if each["initiator"] != "not an origin"]


def test_everything_is_written(folder, entries):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "table-1-Plain-b-.parquet",
        "table-2-PGD-training.parquet",
        "measures.json",
        "measures.csv",
        "report.html",
        *(f"{stem}.{kind}" for stem in figures(entries) for kind in ("png", "svg")),
    }
    assert set(figures(entries)) == {
        "curve-linf",
        "curve-l2",
        "convergence-clean",
        "convergence-robust",
        "convergence-loss",
    }
    loaded = Evaluation.load(folder / "table-2-PGD-training.parquet")
    assert measures(loaded) == entries[1].measures


def test_one_model_has_one_table(entries, tmp_path):
    written = write(tmp_path, [replace(entries[1], log=())])
    assert tmp_path / "table.parquet" in written
    assert all(path.is_file() for path in written)


def test_json_and_csv_hold_every_measure_with_its_interval(folder, entries):
    found = json.loads((folder / "measures.json").read_text())
    assert found == json_table(entries)
    lines = list(csv.DictReader(io.StringIO(csv_table(entries))))
    assert len(lines) == sum(len(entry.measures) for entry in entries)
    for line in lines:
        entry = next(entry for entry in entries if entry.name == line["model"])
        measure = entry.measures[line["measure"]]
        assert (float(line["value"]), float(line["low"]), float(line["high"])) == (
            measure.value,
            measure.low,
            measure.high,
        )
        assert found[entry.name]["measures"][line["measure"]]["value"] == measure.value


def test_the_terminal_table_shows_every_number(entries):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=200).print(terminal_table(entries))
    text = stream.getvalue()
    for entry in entries:
        assert entry.name in text
        for name, measure in entry.measures.items():
            assert name in text
            assert str(measure).split(" [")[0] in text


def test_pictures_are_pictures(folder, entries):
    with Image.open(folder / "curve-l2.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    assert (folder / "curve-l2.svg").read_text().count("<path") > 10


def test_pictures_are_the_same_every_time(entries, tmp_path):
    for name in ("one", "two"):
        save_figure(figures(entries)["curve-l2"], tmp_path / name / "curve")
    assert (tmp_path / "one" / "curve.svg").read_bytes() == (tmp_path / "two" / "curve.svg").read_bytes()


def test_the_verdict_names_the_best_under_the_strongest_attack(entries):
    found = verdict(entries)
    both = ["FGSM(eps=0.1)", "PGD(eps=0.1, steps=5)"]
    right = {}
    for entry in entries:
        rows = [entry.evaluation.only(name) for name in both]
        right[entry.name] = np.mean([(row["success"] == 0) for row in rows], axis=0) == 1
    assert found.attack == f"the worst of {' and '.join(both)}"
    assert [name for name, _ in found.standing] == sorted(right, key=lambda name: -right[name].mean())
    assert found.sentence.startswith("PGD training stands best: it keeps ")
    assert f"{100 * right['PGD training'].mean():.1f} %" in found.sentence


def test_the_verdict_owns_up_to_overlapping_intervals_and_to_having_nothing_to_say(entries):
    same = [entries[1], replace(entries[1], name="Twin")]
    assert "overlap, so their order is not settled" in verdict(same).sentence
    minimal = replace(entries[0], evaluation=entries[0].evaluation.only(["clean", "DeepFool()"]))
    assert verdict([minimal]).sentence.startswith("No bounded attack was run")
    assert "stands best" not in verdict(entries[:1]).sentence


def test_attacks_that_share_only_a_name_stand_in_different_rows(tmp_path):
    test = Digits().load("test").subset(torch.arange(20))
    network = trained(None)
    radii = {"one": 0.1, "two": 0.2}
    both = [
        Entry(name, evaluate(network, test, {"FGSM(eps_ref)": FGSM(eps=eps), "PGD": PGD(eps=0.1, steps=2)}))
        for name, eps in radii.items()
    ]
    found = json_table(both)
    for entry, (name, eps) in zip(both, radii.items(), strict=True):
        row = f"accuracy, FGSM(eps_ref): {FGSM(eps=eps)!r}"
        assert found[name]["measures"][row]["value"] == accuracy(entry.evaluation, "FGSM(eps_ref)").value
        assert "accuracy, PGD" in found[name]["measures"]
        assert [other for other in radii if row in found[other]["measures"]] == [name]
    assert write_report(tmp_path, both).read_text().count("not measured") >= 2
    assert verdict(both).attack == "PGD"


def test_names_are_refused_when_they_cannot_be_told_apart(entries, tmp_path):
    with pytest.raises(ValueError, match="two models are called PGD training"):
        write(tmp_path, [entries[1], entries[1]])
    with pytest.raises(ValueError, match="at least one model"):
        write_report(tmp_path, [])
    other = replace(entries[0].gallery, x=1 - entries[0].gallery.x)
    with pytest.raises(ValueError, match="are of different images"):
        write(tmp_path, [replace(entries[0], gallery=other), entries[1]])
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_what_was_attacked_with_what(page, entries):
    text = unescape(page.replace("<wbr>", ""))
    assert "2020-02-02" in text
    assert escape(verdict(entries).sentence).replace(" %", "\u00a0%") in page
    for entry in entries:
        assert escape(entry.name) in page
        for name, measure in entry.measures.items():
            value = f"{100 * measure.value:.1f}\u00a0%" if measure.kind == "share" else f"{measure.value:#.3g}"
            assert f'<span class="value">{value}</span>' in page, name
    for attack in (FGSM(eps=0.1), PGD(eps=0.1, steps=5), DeepFool(steps=5)):
        assert repr(attack) in text
    assert f"PyTorch {torch.__version__}" in text
    assert "seed: 0" in text


def test_the_page_has_nothing_to_fetch_and_no_script(page):
    assert "<script" not in page
    addresses = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)""", page)
    addresses += re.findall(r"url\(\s*[\"']?([^\"')]*)", page)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "@import" not in page


def test_every_picture_is_described_and_every_scrolling_box_can_be_reached(page):
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img[^>]*>", page))
    assert len(re.findall(r"<svg[^>]*>", page)) == 5
    assert all('role="img" aria-label="' in tag for tag in re.findall(r"<svg[^>]*>", page))
    assert all('tabindex="0"' in tag for tag in re.findall(r'<div class="scroll"[^>]*>', page))
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identities)


def test_the_gallery_shows_the_images_to_the_last_level(entries):
    gallery = entries[0].gallery
    with Image.open(io.BytesIO(png(gallery.x_adv[0]))) as picture:
        levels = np.asarray(picture)
    np.testing.assert_allclose(levels / 255, gallery.x_adv[0, 0], atol=0.51 / 255)
    colour = torch.rand(3, 5, 4)
    with Image.open(io.BytesIO(png(colour))) as picture:
        np.testing.assert_allclose(np.asarray(picture) / 255, colour.permute(1, 2, 0), atol=0.51 / 255)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        png(torch.rand(2, 5, 4))


def test_differences_are_amplified_by_one_factor_for_all(entries):
    small = replace(entries[0].gallery, x_adv=(entries[0].gallery.x + 0.01).clamp(0, 1.01))
    assert amplification([small]) == 49 or amplification([small]) == 50
    assert amplification([small, entries[0].gallery]) < 49


@browser
def test_a_browser_opens_it_without_an_error_or_a_request(folder, tmp_path):
    log = tmp_path / "net.json"
    run = open_page(folder / "report.html", tmp_path / "profile", f"--log-net-log={log}")
    assert "<h1>How robust are Plain &lt;b&gt; and PGD training?</h1>" in run.stdout
    assert console(run) == []
    assert requests(log) == []


@browser
def test_the_browser_test_would_notice(folder, page, tmp_path):
    """An error and a request that are put into a copy do show, so that their absence says something."""
    broken = page.replace("default-src 'none'", "default-src *; script-src 'unsafe-inline'").replace(
        "</body>", "<script>console.error('oh')</script><img src='http://127.0.0.1:9/x.png'></body>"
    )
    (tmp_path / "broken.html").write_text(broken.replace("img-src data:", "img-src *"), encoding="utf-8")
    log = tmp_path / "net.json"
    run = open_page(tmp_path / "broken.html", tmp_path / "profile", f"--log-net-log={log}")
    assert any('"oh"' in line for line in console(run))
    assert requests(log) == ["http://127.0.0.1:9/x.png"]


@browser
@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_phone(page, tmp_path, width):
    """In a frame of a phone's width, since a headless window is at least 500 wide: only boxes scroll, not the page."""
    probe = f"""<!doctype html><iframe width="{width}" height="800" style="border:0" srcdoc="{escape(page)}"></iframe>
    <script>addEventListener("load", () => {{
      const inner = document.querySelector("iframe").contentDocument;
      const boxes = [...inner.querySelectorAll(".scroll")];
      document.title = [inner.documentElement.clientWidth, inner.documentElement.scrollWidth, inner.body.scrollWidth,
        boxes.filter(box => box.scrollWidth > box.clientWidth).length,
        Math.min(...[...inner.querySelectorAll("p, td, li")].map(e => parseFloat(getComputedStyle(e).fontSize)))
      ].join(" ");
    }});</script>"""
    # The page forbids scripts, and so the frame; the probe reads it from outside.
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    run = open_page(tmp_path / "probe.html", tmp_path / "profile")
    found = re.search(r"<title>([^<]*)</title>", run.stdout)
    assert found, run.stdout[:300]
    client, document, body, scrolling, smallest = (float(number) for number in found[1].split())
    assert client == width
    assert document <= width
    assert body <= width
    assert scrolling >= 1, "the wide tables scroll in their own boxes"
    assert smallest >= 12
