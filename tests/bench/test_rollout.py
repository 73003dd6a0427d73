"""An update over MQTT on a real image, through the emulated radio, while somebody charges."""

import time

import pytest

from chargekeep_tools import broker as brokers
from chargekeep_tools import bundle as bundles
from chargekeep_tools import provision, rollout
from chargekeep_tools.programs import firmware_root

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(7200)]
ACCOUNTS = {brokers.OPERATOR: "office"}
NOBODY_ACKNOWLEDGES = "602"  # as there is no reconciler
NEWS = b"# " + b"0123456789" * 600


def test_a_charging_board_is_updated(emulated, home, commission, tmp_path):
    board = emulated
    if board.network_host is None:
        pytest.skip(f"{board.name} has no network")
    with brokers.Broker(tmp_path / "broker", accounts=ACCOUNTS) as broker:
        address = (board.network_host, broker.port)
        charger = commission(board, network=provision.network_map(broker=address, wifi=board.wifi))
        site, station = charger.record["site"], charger.record["station"]
        broker.stations = [charger.record]
        broker.reload()
        charger.start()
        assert board.run(60, lambda: board.status["status"] == "online"), board.status
        token = charger.token(uses=2)
        assert board.present(token) == "ACCEPTED 1"

        files, abi = bundles.compile_files(board.name, firmware_root())
        files |= bundles.root_files(board.name, firmware_root())
        files["chargekeep/news.py"] = NEWS
        signed = {"version": 2, "text": "0.0.2", "abi": abi}
        bundle = bundles.sign(home, site, board.name, files, **signed)
        rollout.offer(home, broker.url(brokers.OPERATOR), bundle, [station])
        began, began_real = board.now_s, time.monotonic()
        seen, free = [], []

        def state():
            update = board.status.get("update") or {}
            if update and seen[-1:] != [update["state"]]:
                seen.append(update["state"])
                took = board.now_s - began, time.monotonic() - began_real
                print("%s after %.0f s of its time, %.0f s of ours" % (seen[-1], *took))
            free.append(board.status["heap_free"])
            return update.get("state")

        assert board.run(600, lambda: state() in ("staged", "refused")), board.status
        assert seen == ["loading", "staged"], (seen, board.status)
        assert board.permits and board.status["transaction"]["id"] == 1
        assert board.status["errors"].keys() <= {NOBODY_ACKNOWLEDGES}
        assert board.present(token).startswith("STOPPED 1")
        assert board.run(120, lambda: state() == "running"), (seen, board.console[-2000:])
        assert board.status["update"]["version"] == 2
        print(f"least heap free {min(free):,} B")
