"""The table of ranks, hosts and devices."""

from __future__ import annotations

from disttrain.training.places import Place, render_places


def test_each_host_has_a_line_with_its_ranks_and_devices() -> None:
    places = [Place("node0", "cuda: A"), Place("node0", "cuda: A"), Place("n1", "cuda: A"), Place("n1", "cuda: B")]
    assert render_places(places).splitlines() == [
        "  node0  ranks 0-1  2 x cuda: A",
        "  n1     ranks 2-3  1 x cuda: A, 1 x cuda: B",
    ]


def test_many_hosts_are_cut_short() -> None:
    lines = render_places([Place(f"n{number}", "cpu") for number in range(40)]).splitlines()
    assert len(lines) == 17
    assert lines[-1] == "  ... and 24 more hosts"
