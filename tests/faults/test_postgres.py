"""A population whose store is on PostgreSQL: its server crashes, and its workers are killed."""

import threading

import postgres_server as postgres_servers


def test_a_crash_of_the_server_and_kills_of_workers_lose_and_double_nothing(
    toy_run, tmp_path, wait_until, monkeypatch
):
    """C4 and A3. The workers wait for the server, and so does the launcher."""
    monkeypatch.setenv("DURABLE", "yes")  # else the server may lose the last commits
    server = postgres_servers.Server()
    try:
        kill = {"member": 0, "times": 2, "marks": str(tmp_path)}
        run = toy_run(url=server.url, exploit="none", task_config={"update_s": 0.02, "kill": kill})
        said = []

        def crash():
            wait_until(lambda: len(run.store.reports()) >= 4, 120)
            server.stop()
            try:
                wait_until(lambda: any("cannot be reached" in line for line in said), 120)
            finally:
                server.start()

        other = threading.Thread(target=crash)
        other.start()
        exit_code = run.launch(2, busy_timeout_s=0.2, tick_s=0.1, say=said.append)
        other.join()
        assert exit_code == 0, said
        waits = [line for line in said if "cannot be reached" in line]
        assert waits
        assert waits[0].startswith(f"{run.store.path} (postgresql://me@/postgres")
        assert "; waiting: see to the server" in waits[0]
        assert sum("was killed by SIGKILL" in line for line in said) == 2
        run.assert_complete()
        # No slice was dropped for the server, and each kill repeats one slice at most.
        assert run.repeated_steps() <= 2 * run.config.report_interval
        assert {event.kind for event in run.events("crashed", "failed")} == set()
        logs = "".join(path.read_text() for path in (run.directory / "logs").glob("*.log"))
        assert "Traceback" not in logs
        run.store.close()
    finally:
        server.close()
