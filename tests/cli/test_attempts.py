"""Install attempts at the command line."""

import json

import pytest

from tests.support.service import Service, command_environment, run_command


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_an_operator_finds_an_attempt_by_owner_and_by_what_the_page_shows(service: Service) -> None:
    environment = command_environment(service.settings.database_url.get_secret_value())
    await service.link("acme")
    await service.return_with(state=await service.begin(), error="access_denied")
    declined, made = await service.sql("SELECT * FROM install_attempt ORDER BY owner NULLS FIRST")
    await service.app.state.tally.write()

    listed = await run_command("attempts", "--owner", "acme", environment=environment)
    as_json = await run_command("attempts", "--ending", "declined", "--json", environment=environment)
    shown = await run_command("attempts", "show", declined["reference"].lower(), environment=environment)
    by_id = await run_command("attempts", "show", made["id"], environment=environment)
    counted = await run_command("attempts", "counts", environment=environment)
    unknown = await run_command("attempts", "show", "22222222", environment=environment)
    misspelt = await run_command("attempts", "--since", "yesterday", environment=environment)

    assert listed.exit_code == 0, listed.stderr
    (_, line) = listed.stdout.splitlines()
    assert line.split()[0] == made["reference"]
    assert made["link_id"] in line
    assert [one["id"] for one in json.loads(as_json.stdout)] == [declined["id"]]
    assert json.loads(shown.stdout)["shown"] == "page:declined"
    assert json.loads(by_id.stdout)["step"] == "made"
    assert counted.stdout.splitlines()[-1].split()[-2:] == ["opened", "1"]
    assert (unknown.exit_code, unknown.stderr) == (1, "aircall-oauth: There is no such install attempt.\n")
    assert (misspelt.exit_code, "--since" in misspelt.stderr) == (2, True)
