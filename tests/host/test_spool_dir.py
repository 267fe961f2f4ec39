import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import trio

from ambientd.core.spool import Refusal
from ambientd.host.spool_dir import DiskSpool
from ambientd.host.spool_watch import changes


async def make(tmp_path: Path) -> tuple[DiskSpool, Path]:
    spool = DiskSpool(tmp_path, max_file_size=1024)
    await spool.prepare()
    return spool, tmp_path / "inbox"


async def test_candidates_are_listed_in_order_and_odd_names_are_counted(tmp_path: Path) -> None:
    spool, inbox = await make(tmp_path)
    for name in ("b.json", "a.json", "notes.txt", ".half.json", "task.yaml"):
        (inbox / name).write_text("{}")
    scan = await spool.scan()
    assert (scan.names, scan.odd, scan.running) == (("a.json", "b.json"), 2, ())


async def test_what_is_not_a_plain_small_file_is_refused(tmp_path: Path) -> None:
    spool, inbox = await make(tmp_path)
    (inbox / "link.json").symlink_to("/etc/hostname")
    os.mkfifo(inbox / "pipe.json")
    (inbox / "dir.json").mkdir()
    (inbox / "big.json").write_bytes(b"x" * 1025)
    codes = {}
    for name in ("link.json", "pipe.json", "dir.json", "big.json"):
        answer = await spool.read(name)
        assert isinstance(answer, Refusal)
        codes[name] = answer.code
    assert codes == {
        "link.json": "not_regular",
        "pipe.json": "not_regular",
        "dir.json": "not_regular",
        "big.json": "too_large",
    }
    assert await spool.read("gone.json") is None


async def test_a_file_that_somebody_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    spool, inbox = await make(tmp_path)
    with open(inbox / "slow.json", "w") as file:
        file.write('{"task_id":')
        file.flush()
        assert await spool.read("slow.json") is None
        file.write('"x"}')
    assert await spool.read("slow.json") == b'{"task_id":"x"}'


async def test_a_writer_that_opens_the_file_while_it_is_looked_at_does_not_end_us(tmp_path: Path) -> None:
    """Breaking a lease raises a signal whose default would end the process."""
    spool, inbox = await make(tmp_path)
    (inbox / "a.json").write_text("{}")
    script = "import sys\nfor _ in range(3000):\n    open(sys.argv[1], 'r+').close()\n"
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL
    writer = subprocess.Popen([sys.executable, "-I", "-c", script, str(inbox / "a.json")])
    seen = set()
    while writer.poll() is None:
        seen.add(await spool.read("a.json"))
    assert seen <= {None, b"{}"}
    assert b"{}" in seen


async def test_a_note_is_on_disk_before_the_file_is_moved_and_nothing_is_overwritten(tmp_path: Path) -> None:
    spool, inbox = await make(tmp_path)
    for _ in range(3):
        (inbox / "a.json").write_text("{}")
        await spool.move("a.json", "rejected", note=("reason", {"code": "x"}))
    names = sorted(path.name for path in (inbox / "rejected").iterdir())
    assert names == ["a.2.json", "a.2.reason.json", "a.3.json", "a.3.reason.json", "a.json", "a.reason.json"]
    assert json.loads((inbox / "rejected" / "a.reason.json").read_text()) == {"code": "x"}


async def test_a_path_outside_the_state_directory_does_not_exist(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "outside").write_text("")
    spool, _ = await make(state)
    (state / "here").write_text("")
    (state / "link").symlink_to(tmp_path / "outside")
    assert await spool.exists("here")
    assert not await spool.exists("link")
    assert not await spool.exists("nothing")


async def test_a_hand_in_is_heard_at_once(tmp_path: Path) -> None:
    _, inbox = await make(tmp_path)
    heard: list[float] = []
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            async for _ in changes(inbox):
                heard.append(time.monotonic())
                if len(heard) == 2:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        with trio.fail_after(10):
            while not heard:
                await trio.sleep(0.01)
        (inbox / ".a.tmp").write_text("{}")
        os.rename(inbox / ".a.tmp", inbox / "a.json")
        await trio.sleep(10)
    assert len(heard) == 2


async def test_a_note_is_never_written_into_what_somebody_put_at_its_temporary_name(tmp_path: Path) -> None:
    spool, inbox = await make(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name, put in (("a.json", lambda at: at.symlink_to(victim)), ("b.json", os.mkfifo)):
        (inbox / name).write_text("{}")
        put(inbox / "done" / f".{name.removesuffix('.json')}.result.json.tmp")
        await spool.move(name, "done", note=("result", {"outcome": "committed"}))
        assert await spool.has_result(name)
    assert victim.read_text() == "precious"
