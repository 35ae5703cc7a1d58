"""How long a command takes to begin: the CPU of a whole process, against interpreters that only import.

python -m bench.start [--rounds 7]
"""

import argparse
import os
import resource
import subprocess
import sys
from statistics import median

from bench import ground

NOTHING = "pass"
LIBRARIES = "import pydantic, typer"
NOWHERE = "postgresql://user@127.0.0.1:1/nowhere"
COMMANDS = {
    "--help": ["--help"],
    "a usage error": ["nonsense"],
    "keys list, no database": ["keys", "list"],
    "import of serve and work": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    environment = {"PATH": os.environ["PATH"], **ground.environment(NOWHERE, 8000)}
    commands = {name: _command(arguments) for name, arguments in COMMANDS.items()}
    commands |= {text: [sys.executable, "-c", text] for text in (NOTHING, LIBRARIES)}
    # Taken in turns, so that what else the machine does meets all alike.
    taken = [{name: _cpu(command, environment) for name, command in commands.items()} for _ in range(rounds)]
    print(f"{'':<26}{'CPU':>9}{'/ pass':>9}{'/ pydantic, typer':>20}")
    for name in commands:
        cpu, of_nothing, of_libraries = (
            median(ratio)
            for ratio in zip(*((t[name], t[name] / t[NOTHING], t[name] / t[LIBRARIES]) for t in taken), strict=True)
        )
        print(f"{name:<26}{cpu * 1000:>6.0f} ms{of_nothing:>9.1f}{of_libraries:>20.2f}")


def _command(arguments: list[str]) -> list[str]:
    if not arguments:
        return [sys.executable, "-c", "import aircall_oauth.server.processes"]
    return [sys.executable, "-m", "aircall_oauth", *arguments]


def _cpu(command: list[str], environment: dict[str, str]) -> float:
    """The seconds of CPU that a process took, in itself and in the kernel."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
